#pragma once

/// One vocabulary of several models: which row of each model's embedding becomes which row of the output's, and what
/// fills the rows that a model lacks. Vocabularies in, rules out; no tensor is touched.

#include <braid/io/detail/json_text.hpp>
#include <braid/recipe/recipe.hpp>

#include <algorithm>
#include <map>
#include <numeric>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// A token and its number, which is its row in embeddings and heads.
struct token_entry {
  std::string token;
  int id = 0;
  bool added = false;  // beside the tokenizer's own vocabulary: special tokens and the like

  friend bool operator==(token_entry const&, token_entry const&) = default;
};

/// What a tokenizer knows, by rising number.
struct vocabulary {
  std::vector<token_entry> entries;

  [[nodiscard]] std::map<std::string_view, int> ids() const {
    std::map<std::string_view, int> all;
    for (token_entry const& e : entries) { all.emplace(e.token, e.id); }
    return all;
  }
};

/// Reads the vocabulary of a tokenizer.json (BPE, WordPiece, WordLevel or Unigram), added tokens included.
/// @param where  the file, for messages
/// @throws format_error where there is no vocabulary in it, or two tokens have one number
[[nodiscard]] inline vocabulary read_vocabulary(nlohmann::json const& tokenizer, std::filesystem::path const& where) {
  auto const fail = [&](std::string const& what) { braid::detail::refuse(format_code::tokenizer_json, where, what); };
  std::map<std::string, token_entry> all;
  auto const put = [&](std::string const& token, nlohmann::json const& id, bool added) {
    if (!id.is_number_integer() || id < 0 || id > 100'000'000) {
      fail("token " + braid::detail::in_quotes(token) + " has no number");
    }
    auto& entry = all[token];
    if (!entry.token.empty() && entry.id != id.get<int>()) {
      fail("token " + braid::detail::in_quotes(token) + " has two numbers");
    }
    entry = {token, id.get<int>(), entry.added || added};
  };
  auto const model = tokenizer.find("model");
  if (model == tokenizer.end() || !model->is_object() || !model->contains("vocab")) { fail("has no model.vocab"); }
  auto const& vocab = (*model)["vocab"];
  if (vocab.is_object()) {
    for (auto const& [token, id] : vocab.items()) { put(token, id, false); }
  } else if (vocab.is_array()) {  // Unigram: [token, score], numbered as they stand
    for (std::size_t i = 0; i < vocab.size(); ++i) {
      if (!vocab[i].is_array() || vocab[i].empty() || !vocab[i][0].is_string()) {
        fail("has an entry without a token in model.vocab");
      }
      put(vocab[i][0].get<std::string>(), i, false);
    }
  } else {
    fail("has no model.vocab");
  }
  if (auto const added = tokenizer.find("added_tokens"); added != tokenizer.end() && added->is_array()) {
    for (auto const& t : *added) {
      if (!t.is_object() || !t.contains("content") || !t["content"].is_string() || !t.contains("id")) {
        fail("has an added token without content or id");
      }
      put(t["content"].get<std::string>(), t["id"], true);
    }
  }
  vocabulary v;
  for (auto& [token, entry] : all) { v.entries.push_back(std::move(entry)); }
  std::stable_sort(v.entries.begin(), v.entries.end(), [](auto const& a, auto const& b) { return a.id < b.id; });
  for (std::size_t i = 1; i < v.entries.size(); ++i) {
    if (v.entries[i].id == v.entries[i - 1].id) {
      fail("tokens " + braid::detail::in_quotes(v.entries[i - 1].token) + " and " +
           braid::detail::in_quotes(v.entries[i].token) + " have one number");
    }
  }
  return v;
}

/// A model whose vocabulary takes part.
struct vocabulary_owner {
  model_reference model;
  vocabulary const* tokens = nullptr;  // nullptr: it has no tokenizer, and is taken to have the base's
  int rows = 0;                        // of its embedding; tokens with higher numbers have no row
};

/// What a row of the output is made of, in one model.
struct row_rule {
  enum class kind_type : unsigned char {
    row,   // of a model
    mean,  // of `rows`, added in their order, then divided
    zero,
    filling  // the mean of all rows of this model's output that have a token: padding
  };
  struct model_row {
    int model = 0;  // position among the owners
    int row = 0;
    friend bool operator==(model_row const&, model_row const&) = default;
  };
  kind_type kind = kind_type::zero;
  std::vector<model_row> rows{};

  friend bool operator==(row_rule const&, row_rule const&) = default;
};

/// The output's vocabulary, and how each model's matrix is brought to it; the merge then works row by row.
struct vocabulary_plan {
  vocabulary tokens;
  int rows = 0;                                 // of the output's matrices, padding included
  std::vector<std::vector<row_rule>> of_model;  // [owners][rows]
  std::vector<std::string> notes{};             // tokens that nobody has
};

namespace detail {

/// The tokens of a model that have a row.
inline std::vector<token_entry> with_rows(vocabulary_owner const& owner) {
  std::vector<token_entry> all;
  for (token_entry const& e : owner.tokens->entries) {
    if (e.id < owner.rows) { all.push_back(e); }
  }
  return all;
}

/// The output's vocabulary. A union is the base's, then the others' new tokens by rising number, model after model,
/// then their added tokens likewise.
inline vocabulary output_vocabulary(tokenizer_section const& section, std::vector<vocabulary_owner> const& owners,
                                    std::size_t base) {
  using source_type = tokenizer_section::source_type;
  vocabulary out;
  int next = 0;
  std::map<std::string, bool, std::less<>> known;
  auto const put = [&](token_entry e) {
    if (!known.emplace(e.token, true).second) { return; }
    next = std::max(next, e.id + 1);
    out.entries.push_back(std::move(e));
  };
  if (section.source == source_type::model) {
    auto const is = [&](vocabulary_owner const& o) { return o.model == *section.model; };
    auto const owner = std::find_if(owners.begin(), owners.end(), is);
    if (owner == owners.end() || owner->tokens == nullptr) {
      throw argument_error("the tokenizer of " + to_text(*section.model) +
                           " is wanted, and that is none of the merged models, or has none");
    }
    for (token_entry const& e : owner->tokens->entries) { put(e); }
  } else {
    for (token_entry const& e : with_rows(owners[base])) { put(e); }
  }
  if (section.source == source_type::union_of_all) {
    for (bool const added : {false, true}) {
      for (vocabulary_owner const& owner : owners) {
        if (owner.tokens == nullptr) { continue; }
        for (token_entry e : with_rows(owner)) {
          if (e.added != added) { continue; }
          e.id = next;
          put(std::move(e));
        }
      }
    }
  }
  for (token_source const& t : section.tokens) { put({t.token, next, true}); }
  return out;
}

}  // namespace detail

/// Makes the plan of a recipe's `tokenizer` section.
/// @param owners  the models that are merged, in the order of the recipe
/// @param base    position of the base model among them; nothing: the first stands in for it
/// @throws argument_error where a named model isn't merged, or a named token isn't in its model
///
/// A token's row in a model that has it is its own, unless its source is forced. In the others: what the section says
/// of the token; else the base's row; else, with one owner, its row; else the mean of the owners' rows; zero where
/// nobody has it. The order of new tokens in a union is fixed here; mergekit's changes from run to run. Rows of the
/// output without a token, by padding or by holes in a numbering, are `filling`.
[[nodiscard]] inline vocabulary_plan plan_vocabulary(tokenizer_section const& section,
                                                     std::vector<vocabulary_owner> owners,
                                                     std::optional<std::size_t> base) {
  std::size_t const stands_in = base.value_or(0);
  if (owners.empty() || owners[stands_in].tokens == nullptr) {
    throw argument_error(owners.empty() ? "no model, no vocabulary"
                                        : "the model " + to_text(owners[stands_in].model) +
                                              " has no tokenizer.json; it is needed for 'tokenizer'");
  }
  vocabulary_plan plan;
  plan.tokens = detail::output_vocabulary(section, owners, stands_in);
  for (vocabulary_owner& o : owners) {
    if (o.tokens == nullptr) { o.tokens = owners[stands_in].tokens; }
  }
  for (token_entry const& e : plan.tokens.entries) { plan.rows = std::max(plan.rows, e.id + 1); }
  if (section.pad_to_multiple_of) {
    int const m = *section.pad_to_multiple_of;
    plan.rows = (plan.rows + m - 1) / m * m;
  }
  std::vector<std::map<std::string_view, int>> ids;
  for (vocabulary_owner const& o : owners) { ids.push_back(o.tokens->ids()); }
  auto const row_in = [&](std::size_t model, std::string_view token) -> std::optional<int> {
    auto const it = ids[model].find(token);
    return it == ids[model].end() || it->second >= owners[model].rows ? std::nullopt : std::optional<int>(it->second);
  };
  auto const position = [&](model_reference const& m) {
    auto const it = std::find_if(owners.begin(), owners.end(), [&](vocabulary_owner const& o) { return o.model == m; });
    if (it == owners.end()) {
      throw argument_error("a token's row is to come from " + to_text(m) + ", which isn't merged");
    }
    return static_cast<std::size_t>(it - owners.begin());
  };
  using kind_type = row_rule::kind_type;
  auto const one = [](std::size_t model, int row) {
    return row_rule{kind_type::row, {{static_cast<int>(model), row}}};
  };

  // What fills a row in the models that lack it.
  auto const usual = [&](std::string_view token) {
    row_rule rule{kind_type::mean, {}};
    for (std::size_t m = 0; m < owners.size(); ++m) {
      if (auto const row = row_in(m, token)) { rule.rows.push_back({static_cast<int>(m), *row}); }
    }
    if (rule.rows.empty()) {
      plan.notes.push_back("no model has the token " + braid::detail::in_quotes(token) + ": its row is zero");
      return row_rule{kind_type::zero, {}};
    }
    if (rule.rows.size() == 1) { rule.kind = kind_type::row; }
    if (base) {
      if (auto const row = row_in(*base, token); row && rule.rows.size() > 1) { return one(*base, *row); }
    }
    return rule;
  };
  auto const wanted = [&](token_source const& t) {
    using source_kind = token_source::kind_type;
    if (t.kind == source_kind::unset) { return usual(t.token); }
    if (t.kind == source_kind::zero) { return row_rule{kind_type::zero, {}}; }
    std::size_t const m = position(*t.model);
    std::string const& token = t.kind == source_kind::model ? t.token : t.other_token;
    auto const row = t.token_id ? (*t.token_id < owners[m].rows ? t.token_id : std::nullopt) : row_in(m, token);
    if (!row) {
      throw argument_error("the model " + to_text(*t.model) + " has no row for " +
                           (t.token_id ? "token number " + std::to_string(*t.token_id)
                                       : "the token " + braid::detail::in_quotes(token)));
    }
    return one(m, *row);
  };

  plan.of_model.assign(owners.size(),
                       std::vector<row_rule>(static_cast<std::size_t>(plan.rows), {kind_type::filling, {}}));
  for (token_entry const& e : plan.tokens.entries) {
    auto const special =
        std::find_if(section.tokens.begin(), section.tokens.end(), [&](auto const& t) { return t.token == e.token; });
    bool const forced = special != section.tokens.end() && special->force;
    bool all_have_it = true;
    for (std::size_t m = 0; m < owners.size(); ++m) { all_have_it = all_have_it && row_in(m, e.token).has_value(); }
    row_rule const rest = all_have_it && !forced            ? row_rule{}
                          : special != section.tokens.end() ? wanted(*special)
                                                            : usual(e.token);
    for (std::size_t m = 0; m < owners.size(); ++m) {
      auto const own = row_in(m, e.token);
      plan.of_model[m][static_cast<std::size_t>(e.id)] = own && !forced ? one(m, *own) : rest;
    }
  }
  return plan;
}

/// What a model's matrix gets that isn't its own, and which of its rows go; empty where its rows stay as they are.
/// @param m         the model's position among the owners
/// @param own_rows  of its matrix
[[nodiscard]] inline std::string filling_note(vocabulary_plan const& plan, std::size_t m, int own_rows) {
  using kind_type = row_rule::kind_type;
  std::map<kind_type, int> filled;
  std::vector<bool> used(static_cast<std::size_t>(own_rows), false);
  for (row_rule const& rule : plan.of_model[m]) {
    bool const own = rule.kind == kind_type::row && rule.rows[0].model == static_cast<int>(m);
    if (own) {
      used[static_cast<std::size_t>(rule.rows[0].row)] = true;
    } else {
      ++filled[rule.kind];
    }
  }
  std::string text;
  for (auto const& [kind, name] : {std::pair(kind_type::row, " from another model"), std::pair(kind_type::mean, " by a mean"),
                                   std::pair(kind_type::zero, " with zeros"), std::pair(kind_type::filling, " without a token")}) {
    if (filled[kind] > 0) { text += (text.empty() ? "" : ", ") + std::to_string(filled[kind]) + name; }
  }
  auto const unused = std::count(used.begin(), used.end(), false);
  if (!text.empty()) { text = "rows filled: " + text; }
  if (unused > 0) { text += (text.empty() ? "" : "; ") + std::to_string(unused) + " of its own rows not used"; }
  return text;
}

}  // namespace recipe
BRAID_NAMESPACE_END

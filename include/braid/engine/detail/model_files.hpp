#pragma once

/// The files of a merged model besides its weights: config, generation config, tokenizer, chat template, model card.

#include <braid/io/checkpoint_writer.hpp>
#include <braid/recipe/chat_templates.hpp>
#include <braid/recipe/run_plan.hpp>
#include <braid/version.hpp>

#include <algorithm>
#include <set>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

/// Files of a tokenizer. Those that hold the vocabulary in another form than tokenizer.json go stale when it changes.
inline bool is_tokenizer_file(std::string_view name) {
  for (std::string_view const known :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json", "vocab.txt",
        "merges.txt", "added_tokens.json", "chat_template.jinja", "chat_template.json", "spiece.model"}) {
    if (name == known) { return true; }
  }
  return false;
}
inline bool holds_vocabulary(std::string_view name) {
  return is_tokenizer_file(name) && name != "tokenizer_config.json" && name != "special_tokens_map.json" &&
         !name.starts_with("chat_template");
}

/// Writes all that comes from the inputs' own files.
class model_files {
 public:
  explicit model_files(run_plan const& plan) : plan_(plan) {}

  void write(checkpoint_writer& out) const {
    checkpoint const& main = plan_.models[plan_.config_model].files;
    checkpoint const& words = plan_.models[plan_.tokenizer_model.value_or(plan_.config_model)].files;
    bool const new_words = changes_vocabulary(words);
    for (std::string const& name : main.side_files()) {
      bool const ours = name == "README.md" || name == "config.json";
      if (!ours && !is_tokenizer_file(name)) { out.copy_file(main.path() / name, name); }
    }
    std::string const chat = chat_text();
    for (std::string const& name : words.side_files()) {
      if (!is_tokenizer_file(name)) { continue; }
      if (new_words && holds_vocabulary(name)) { continue; }
      if (!chat.empty() && (name == "tokenizer_config.json" || name.starts_with("chat_template"))) { continue; }
      out.copy_file(words.path() / name, name);
    }
    if (new_words) { out.add_file("tokenizer.json", tokenizer_text(words)); }
    if (!chat.empty()) { add_chat(out, words, chat); }
    if (!plan_.config.empty()) { out.add_file("config.json", plan_.config.dump(2) + "\n"); }
  }

 private:
  [[nodiscard]] static vocabulary tokens_of(checkpoint const& words) {
    auto const file = words.path() / "tokenizer.json";
    return read_vocabulary(braid::detail::read_json(file, format_code::tokenizer_json), file);
  }

  /// Whether the output has tokens that the tokenizer doesn't have.
  [[nodiscard]] bool changes_vocabulary(checkpoint const& words) const {
    if (!plan_.vocabulary) { return false; }
    auto const own = tokens_of(words);
    auto const ids = own.ids();
    auto const& all = plan_.vocabulary->tokens.entries;
    return std::any_of(all.begin(), all.end(), [&](token_entry const& e) { return ids.count(e.token) == 0; });
  }

  /// tokenizer.json with the new tokens added, as their owners describe them where they do.
  [[nodiscard]] std::string tokenizer_text(checkpoint const& words) const {
    nlohmann::json tokenizer = braid::detail::read_json(words.path() / "tokenizer.json", format_code::tokenizer_json);
    auto const own = tokens_of(words);
    auto const ids = own.ids();
    std::map<std::string, nlohmann::json> described;
    for (std::size_t const m : plan_.owners) {
      auto const file = plan_.models[m].files.path() / "tokenizer.json";
      std::error_code none;
      if (!std::filesystem::exists(file, none)) { continue; }
      nlohmann::json const other = braid::detail::read_json(file, format_code::tokenizer_json);
      for (auto const& t : other.value("added_tokens", nlohmann::json::array())) {
        described.emplace(t["content"].get<std::string>(), t);
      }
    }
    auto& added = tokenizer["added_tokens"];
    if (!added.is_array()) { added = nlohmann::json::array(); }
    for (token_entry const& e : plan_.vocabulary->tokens.entries) {
      if (ids.count(e.token) != 0) { continue; }
      auto const it = described.find(e.token);
      nlohmann::json t = it != described.end()
                             ? it->second
                             : nlohmann::json{{"content", e.token}, {"single_word", false}, {"lstrip", false},
                                              {"rstrip", false},    {"normalized", false},  {"special", false}};
      t["id"] = e.id;
      added.push_back(std::move(t));
    }
    return tokenizer.dump(2) + "\n";
  }

  /// The template that the recipe asks for; empty where it asks for none.
  [[nodiscard]] std::string chat_text() const {
    std::string const& wanted = plan_.recipe.chat_template;
    if (wanted == "auto") { return most_common_chat(); }
    auto const known = chat_template(wanted);
    return known.empty() ? wanted : std::string(known);
  }

  [[nodiscard]] static std::string chat_of(checkpoint const& model) {
    std::error_code none;
    if (auto const file = model.path() / "chat_template.jinja"; std::filesystem::exists(file, none)) {
      return braid::detail::read_text(file);
    }
    auto const file = model.path() / "tokenizer_config.json";
    if (!std::filesystem::exists(file, none)) { return {}; }
    auto const config = braid::detail::read_json(file, format_code::tokenizer_json);
    auto const it = config.find("chat_template");
    return it != config.end() && it->is_string() ? it->get<std::string>() : std::string();
  }

  /// Of the inputs' templates the one that most of them have, of equally many the one that comes first.
  [[nodiscard]] std::string most_common_chat() const {
    std::vector<std::pair<std::string, int>> counts;
    for (opened_model const& m : plan_.models) {
      std::string const text = chat_of(m.files);
      if (text.empty()) { continue; }
      auto const it = std::find_if(counts.begin(), counts.end(), [&](auto const& c) { return c.first == text; });
      if (it == counts.end()) {
        counts.emplace_back(text, 1);
      } else {
        ++it->second;
      }
    }
    auto const best = std::max_element(counts.begin(), counts.end(), [](auto const& a, auto const& b) { return a.second < b.second; });
    return best == counts.end() ? std::string() : best->first;
  }

  /// In a file of its own, where today's readers look, and in tokenizer_config.json, where older ones do.
  static void add_chat(checkpoint_writer& out, checkpoint const& words, std::string const& chat) {
    out.add_file("chat_template.jinja", chat);
    auto const file = words.path() / "tokenizer_config.json";
    std::error_code none;
    if (!std::filesystem::exists(file, none)) { return; }
    nlohmann::json config = braid::detail::read_json(file, format_code::tokenizer_json);
    config["chat_template"] = chat;
    out.add_file("tokenizer_config.json", config.dump(2) + "\n");
  }

  run_plan const& plan_;
};

/// A string as YAML takes it whatever is in it: JSON's form.
inline std::string quoted(std::string const& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Whether the Hub takes a name for that of a model: `name` or `owner/name`. Paths in model cards are refused there.
inline bool is_hub_name(std::string_view name) {
  auto const plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '/';
  };
  return !name.empty() && name.front() != '.' && name.front() != '/' && name.back() != '/' &&
         std::count(name.begin(), name.end(), '/') <= 1 && std::all_of(name.begin(), name.end(), plain);
}

/// The model card.
/// @param hashes, adapter_hashes  of what was read, of each model; empty texts: unknown
inline std::string model_card(run_plan const& plan, std::vector<std::string> const& hashes,
                              std::vector<std::string> const& adapter_hashes) {
  std::set<std::string> names;
  for (opened_model const& m : plan.models) {
    names.insert(m.reference.model.path);
    if (m.reference.lora) { names.insert(m.reference.lora->path); }
  }
  std::erase_if(names, [](std::string const& n) { return !is_hub_name(n); });
  std::string card = names.empty() ? "---\n" : "---\nbase_model:\n";
  for (std::string const& n : names) { card += "- " + quoted(n) + "\n"; }
  card += "library_name: transformers\ntags:\n- merge\n- braid\n---\n# Merged model\n\nMade by braid " BRAID_VERSION_STRING
          " with the merge method `" + plan.recipe.merge_method + "`" +
          (plan.recipe.base_model ? ", base model `" + to_text(*plan.recipe.base_model) + "`" : std::string()) +
          ".\n\n| model | what was read |\n|---|---|\n";
  for (std::size_t m = 0; m < plan.models.size(); ++m) {
    card += "| `" + to_text(plan.models[m].reference) + "` | " + (hashes[m].empty() ? "-" : "`" + hashes[m] + "`") +
            (plan.models[m].lora && !adapter_hashes[m].empty() ? ", adapter `" + adapter_hashes[m] + "`" : std::string()) + " |\n";
  }
  if (!plan.recipe.text.empty()) {
    card += "\nThe recipe:\n\n```yaml\n" + plan.recipe.text + (plan.recipe.text.ends_with('\n') ? "" : "\n") + "```\n";
  }
  return card;
}

}  // namespace recipe::detail
BRAID_NAMESPACE_END

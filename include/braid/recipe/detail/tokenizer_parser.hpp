#pragma once

#include <braid/recipe/detail/parser_base.hpp>

BRAID_NAMESPACE_BEGIN
namespace recipe::detail {

inline constexpr auto tokenizer_keys = std::to_array<std::string_view>({"source", "tokens", "pad_to_multiple_of"});
inline constexpr auto token_keys = std::to_array<std::string_view>({"source", "force"});
inline constexpr auto token_model_keys = std::to_array<std::string_view>({"kind", "model", "token", "token_id"});

/// Reads `tokenizer`, or its older form `tokenizer_source`.
template <class Parser>
class tokenizer_parser : public Parser {
 protected:
  using Parser::Parser;

  [[nodiscard]] std::optional<tokenizer_section> tokenizer(yaml_value const& recipe) const {
    yaml_value const* const old = recipe.find("tokenizer_source");
    yaml_value const* const section = recipe.find("tokenizer");
    if (old != nullptr && section != nullptr) {
      this->refuse(old->at, "only one of the keys 'tokenizer_source' and 'tokenizer' may be there");
    }
    tokenizer_section t;
    if (old != nullptr) {
      t.at = old->at;
      read_source(*old, t);
      return t;
    }
    if (section == nullptr) { return std::nullopt; }
    this->check_keys(*section, tokenizer_keys, "tokenizer");
    t.at = section->at;
    if (yaml_value const* const source = section->find("source")) { read_source(*source, t); }
    if (yaml_value const* const pad = section->find("pad_to_multiple_of")) {
      t.pad_to_multiple_of = this->small_integer(*pad, "pad_to_multiple_of", 1);
    }
    if (yaml_value const* const tokens = section->find("tokens")) {
      this->check_map(*tokens, "tokens");
      for (yaml_entry const& e : tokens->entries) { t.tokens.push_back(token(e)); }
    }
    return t;
  }

 private:
  void read_source(yaml_value const& v, tokenizer_section& t) const {
    using source_type = tokenizer_section::source_type;
    if (v.is_scalar() && v.text == "union") {
      t.source = source_type::union_of_all;
    } else if (v.is_scalar() && v.text == "base") {
      t.source = source_type::base;
    } else {
      t.source = source_type::model;
      t.model = this->model(v);
    }
  }

  [[nodiscard]] token_source token(yaml_entry const& e) const {
    token_source t;
    t.token = e.key;
    t.at = e.at;
    if (e.value.is_null()) { return t; }
    this->check_keys(e.value, token_keys, "the token " + braid::detail::in_quotes(e.key));
    if (yaml_value const* const force = e.value.find("force")) {
      auto const b = read_boolean(this->text(*force, "force"));
      if (!b) { this->refuse(force->at, "force must be true or false, not " + braid::detail::in_quotes(force->text)); }
      t.force = *b;
    }
    yaml_value const* const source = e.value.find("source");
    if (source == nullptr) {
      if (t.force) { this->refuse(e.at, "force needs a source"); }
      return t;
    }
    if (source->is_map() && source->find("kind") != nullptr) {
      read_kind(*source, t);
    } else {
      t.kind = token_source::kind_type::model;
      t.model = this->model(*source);
    }
    return t;
  }

  void read_kind(yaml_value const& v, token_source& t) const {
    this->check_keys(v, token_model_keys, "a token's source");
    constexpr auto kinds = std::to_array<std::string_view>({"zero", "model_token"});
    yaml_value const* const which = v.find("model");
    yaml_value const* const token = v.find("token");
    yaml_value const* const id = v.find("token_id");
    if (this->choice(*v.find("kind"), "kind", kinds) == "zero") {
      if (which != nullptr || token != nullptr || id != nullptr) {
        this->refuse(v.at, "kind zero takes no other keys");
      }
      t.kind = token_source::kind_type::zero;
      return;
    }
    t.kind = token_source::kind_type::model_token;
    if (which == nullptr || (token == nullptr) == (id == nullptr)) {
      this->refuse(v.at, "kind model_token needs the key 'model' and one of 'token' and 'token_id'");
    }
    t.model = this->model(*which);
    if (token != nullptr) { t.other_token = this->text(*token, "token"); }
    if (id != nullptr) { t.token_id = this->small_integer(*id, "token_id", 0); }
  }
};

}  // namespace recipe::detail
BRAID_NAMESPACE_END

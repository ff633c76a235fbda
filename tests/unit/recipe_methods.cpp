#include "support/catch.hpp"

#include <braid/backend/cpu.hpp>
#include <braid/method/make_tensor_method.hpp>
#include <braid/recipe/method_table.hpp>

#include <map>
#include <set>

namespace recipe = braid::recipe;
using braid::method_style;

namespace {

braid::parameter_kind kind_of(recipe::value_kind k) {
  switch (k) {
    case recipe::value_kind::integer: return braid::parameter_kind::integer;
    case recipe::value_kind::boolean:
    case recipe::value_kind::switch_or_text: return braid::parameter_kind::boolean;  // a word chooses its form
    default: return braid::parameter_kind::real;
  }
}

/// The default as a number.
double number_of(std::string_view text) {
  if (text == "true" || text == "false") { return text == "true" ? 1.0 : 0.0; }
  return std::stod(std::string(text));
}

braid::base_role role_of(recipe::base_use use) {
  return use == recipe::base_use::ignored    ? braid::base_role::member
         : use == recipe::base_use::optional ? braid::base_role::optional
                                             : braid::base_role::required;
}

}  // namespace

TEST_CASE("recipes know the methods that there are, and channel_merge", "[recipe][methods]") {
  std::set<std::string_view> known;
  for (recipe::known_method const& m : recipe::known_methods()) { CHECK(known.insert(m.name).second); }
  std::set<std::string_view> made{"channel_merge"};
  made.insert(std::begin(braid::tensor_method_names), std::end(braid::tensor_method_names));
  CHECK(known == made);
}

TEST_CASE("what recipes know of a method's parameters is what the method says, in both styles", "[recipe][methods]") {
  for (bool const paper : {false, true}) {
    for (std::string_view const name : braid::tensor_method_names) {
      auto const method = braid::make_tensor_method<braid::cpu>(name, {.style = paper ? method_style::paper : method_style::mergekit});
      recipe::known_method const& known = *recipe::find_method(name);
      CHECK(method->info().name == name);
      CHECK(method->info().parameters.size() == known.parameters.size());
      for (braid::parameter_info const& own : method->info().parameters) {
        INFO(name << ", parameter " << own.name << (paper ? ", paper" : ""));
        recipe::known_parameter const* const p = recipe::find_parameter(known, own.name);
        REQUIRE(p != nullptr);
        CHECK(kind_of(p->kind) == own.kind);
        CHECK((p->scope != recipe::parameter_scope::tensor) == own.per_model);
        CHECK(p->required(paper) == own.required);
        CHECK(p->has_effect == own.has_effect);
        std::string_view const fallback = p->fallback(paper);
        // Unset, passthrough's scale leaves a tensor as it is, bit for bit.
        if (fallback == "-") {
          CHECK(name == "passthrough");
        } else if (!p->required(paper)) {
          CHECK(number_of(fallback) == own.fallback);
        }
        CHECK((p->scope == recipe::parameter_scope::non_base) == (own.per_model && known.base != recipe::base_use::ignored));
      }
    }
  }
}

TEST_CASE("recipes ask for models that the methods take", "[recipe][methods]") {
  // A tensor that some models lack comes from fewer of them; so these methods take fewer than a recipe has to list. A base
  // that slerp lacks is the first of its two models, which a recipe names.
  std::map<std::string_view, int> const fewer{{"nuslerp", 1}, {"model_stock", 0}, {"slerp", 0}, {"nearswap", 0}, {"arcee_fusion", 0}};
  for (std::string_view const name : braid::tensor_method_names) {
    INFO(name);
    auto const info = braid::make_tensor_method<braid::cpu>(name)->info();
    recipe::known_method const& known = *recipe::find_method(name);
    auto const at = fewer.find(name);
    CHECK(info.least_models == (at == fewer.end() ? known.least : at->second));
    int const most = known.most == 0 ? braid::max_experts : known.most;
    if (name == "slerp") {
      CHECK((info.base == braid::base_role::optional && known.base == recipe::base_use::required));
      CHECK((info.most_models == 2 && most == 1));
    } else {
      CHECK(info.base == role_of(known.base));
      CHECK(info.most_models == most);
    }
  }
}

#pragma once

/// Which tensors are merged, which are kept as each expert has them, and which are taken from the base.

#include <braid/core/dtype.hpp>
#include <braid/core/types.hpp>
#include <braid/engine/tensor_names.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// What happens to a tensor.
enum class action : unsigned char {
  merge,     // its channels are grouped and merged
  keep,      // every expert keeps its own; equal rows are stored once
  from_base  // every expert gets the base's
};

/// As in a grouped checkpoint's description: "merge", "keep", "base".
constexpr std::string_view name_of(action a) noexcept {
  return a == action::merge ? "merge" : a == action::keep ? "keep" : "base";
}

/// A user's wish for the tensors whose names match.
struct rule {
  glob pattern;
  action what;
};

/// The axis of output channels, for tensors whose names match.
struct axis_rule {
  glob pattern;
  int axis;  // negative: counted from the end, -1 is the last
};

/// What `selection::decide` found.
struct decision {
  action what = action::keep;
  bool by_user = false;
  int rule = -1;  // row of the user's rules, or of `name_rules`, that speaks about the name; -1: none
};

/// The user's rules, then the defaults; the first that matches a tensor's name decides.
///
/// By default a tensor is merged if it has two or three dimensions, a type that braid computes with, and a name that
/// `name_rules` knows as one of attention or MLP, the experts of mixtures included. All others are kept: embeddings,
/// heads, norms, biases, router gates, and everything that no row knows.
/// @code
/// braid::selection s({{"*.layers.0.*", braid::action::keep}, {"*norm.weight", braid::action::merge}});
/// @endcode
class selection {
 public:
  /// The defaults alone.
  selection() = default;

  /// @param rules  in falling precedence
  /// @param axes   in falling precedence
  explicit selection(std::vector<rule> rules, std::vector<axis_rule> axes = {})
      : rules_(std::move(rules)), axes_(std::move(axes)) {}

  [[nodiscard]] std::vector<rule> const& rules() const noexcept { return rules_; }
  [[nodiscard]] std::vector<axis_rule> const& axes() const noexcept { return axes_; }

  /// What happens to a tensor.
  /// @param shape  any number of dimensions; a user may have vectors and scalars merged, as one row
  /// @throws argument_error  if a rule of the user's asks to merge a type that braid doesn't compute with
  [[nodiscard]] decision decide(std::string_view name, std::span<index_t const> shape, dtype type) const {
    auto const mine =
        std::find_if(rules_.begin(), rules_.end(), [&](rule const& r) { return r.pattern.matches(name); });
    if (mine != rules_.end()) {
      if (mine->what == action::merge && !is_computable(type)) {
        throw argument_error(
            "tensor " + std::string(name) + " can't be merged as pattern '" + mine->pattern.pattern() +
            "' asks: it is " + std::string(name_of(type)) +
            ", and braid merges F32, F16, BF16, F8_E4M3 and F8_E5M2; keep it or take it from the base");
      }
      return {mine->what, true, static_cast<int>(mine - rules_.begin())};
    }
    int const known = name_rule_of(name);
    if (known < 0) { return {}; }
    tensor_role const role = name_rules[static_cast<std::size_t>(known)].role;
    bool const named = role == tensor_role::attention || role == tensor_role::mlp;
    bool const fits = (shape.size() == 2 || shape.size() == 3) && is_computable(type);
    return {named && fits ? action::merge : action::keep, false, known};
  }

  /// The axis of a tensor's output channels: rank - 2 (`[out, in]`, `[experts, out, in]`), unless a rule of the user's
  /// says otherwise. Layouts that need one: GPT-2's `[in, out]` (axis 1 for `*.{c_attn,c_proj,c_fc}.weight`; other
  /// families use the same names for `[out, in]`), and `[experts, in, out]` (axis 2: gpt-oss, Llama 4).
  /// @param rank  number of dimensions. Below 2 a tensor is one row and has no such axis: the answer is rank - 2, and
  ///              rules don't apply, so that a wide pattern may take biases along
  /// @return 0 .. rank - 1 for rank >= 2
  /// @throws argument_error  if the rule's axis isn't one of the tensor's
  [[nodiscard]] int channel_axis(std::string_view name, int rank) const {
    if (rank < 2) { return rank - 2; }
    for (axis_rule const& r : axes_) {
      if (!r.pattern.matches(name)) { continue; }
      if (r.axis < -rank || r.axis >= rank) {
        throw argument_error("tensor " + std::string(name) + " has " + std::to_string(rank) +
                             " dimensions, so there is no axis " + std::to_string(r.axis) + " as pattern '" +
                             r.pattern.pattern() + "' asks; give 0 to " + std::to_string(rank - 1) +
                             ", or -1 for the last");
      }
      return r.axis < 0 ? r.axis + rank : r.axis;
    }
    return rank - 2;
  }

 private:
  std::vector<rule> rules_;
  std::vector<axis_rule> axes_;
};

BRAID_NAMESPACE_END

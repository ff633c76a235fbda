#pragma once

/// A zoo's weights in memory, and what a method makes of them.

#include "served.hpp"
#include "stored_bytes.hpp"

#include <braid/method/detail/expert_names.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace zoo {

using braid::bfloat16;
using braid::index_t;

/// A tensor that is merged: base and experts, [rows, cols] each, experts in the order of their names.
struct merged_tensor {
  std::string name;
  std::vector<std::int64_t> shape;
  index_t rows = 0;
  index_t cols = 0;
  std::vector<bfloat16> base;
  std::vector<std::vector<bfloat16>> experts;

  [[nodiscard]] braid::tensor_view<bfloat16 const> base_view() const { return {base.data(), rows, cols}; }
  [[nodiscard]] braid::tensor_view<bfloat16 const> view(std::size_t expert) const {
    return {experts[expert].data(), rows, cols};
  }
};

/// All that is merged, by braid's default selection, and the bytes of the rest.
struct zoo_tensors {
  std::vector<std::string> names;  ///< of the experts, sorted
  std::vector<merged_tensor> merged;
  std::uint64_t kept_bytes = 0;    ///< what every method stores: embeddings, heads, norms
  std::uint64_t expert_bytes = 0;  ///< all tensors of all experts: what "stored" is divided by

  /// @throws braid::argument_error for weights that aren't bfloat16; braid's errors for a zoo that can't be merged
  static zoo_tensors load(braid::checkpoint const& base, std::vector<braid::checkpoint> const& experts);

  [[nodiscard]] std::size_t experts() const noexcept { return names.size(); }
};

/// Every expert's merged tensors as some method rebuilds them, and the bytes that the method stores.
struct rebuilt_zoo {
  std::vector<std::vector<std::vector<bfloat16>>> weights;  ///< [tensor][expert], each [rows * cols]
  stored_bytes stored;
};

namespace detail {

inline std::vector<bfloat16> elements_of(braid::checkpoint const& model, braid::tensor_meta const& meta) {
  if (meta.type != braid::dtype::bf16) {
    throw braid::argument_error(model.path().string() + ": " + meta.name + " is " + std::string(name_of(meta.type)) +
                                "; merges in memory take zoos of BF16");
  }
  auto const bytes = model.bytes(meta);
  std::vector<bfloat16> values(bytes.size() / sizeof(bfloat16));
  std::memcpy(static_cast<void*>(values.data()), bytes.data(), bytes.size());
  return values;
}

}  // namespace detail

inline zoo_tensors zoo_tensors::load(braid::checkpoint const& base, std::vector<braid::checkpoint> const& experts) {
  std::vector<std::string> given;
  for (auto const& e : experts) { given.push_back(e.name()); }
  std::vector<braid::checkpoint> sorted;
  zoo_tensors zoo;
  for (std::size_t const i : braid::detail::order_by_name(given)) {
    sorted.push_back(experts[i]);
    zoo.names.push_back(given[i]);
    for (auto const& t : experts[i].tensors()) { zoo.expert_bytes += t.bytes; }
  }
  auto const plan = braid::plan_merge(base, sorted, zoo.names, braid::selection{});
  for (auto const& p : plan.tensors) {
    if (p.what == braid::action::merge) {
      merged_tensor t{p.name, p.shape, p.channels, p.cols, detail::elements_of(base, *p.base), {}};
      for (std::size_t e = 0; e < sorted.size(); ++e) {
        t.experts.push_back(detail::elements_of(sorted[e], *p.experts[e]));
      }
      zoo.merged.push_back(std::move(t));
    } else {
      std::vector<std::span<std::byte const>> bytes;
      for (std::size_t e = 0; e < sorted.size(); ++e) {
        bytes.push_back(p.experts[e] == nullptr ? std::span<std::byte const>() : sorted[e].bytes(*p.experts[e]));
      }
      zoo.kept_bytes += zoo::kept_bytes(bytes, static_cast<std::size_t>(p.cols) * size_of(p.out));
    }
  }
  return zoo;
}

/// Merges one tensor: name, base, experts.
using tensor_merge = std::function<braid::grouped_tensor<bfloat16>(std::string_view, braid::tensor_view<bfloat16 const>,
                                                                   std::vector<braid::expert_view<bfloat16>> const&)>;

/// What `merge` makes of each tensor, and the bytes that it stores.
struct grouped_zoo {
  std::vector<braid::grouped_tensor<bfloat16>> tensors;  ///< as `zoo_tensors::merged`
  stored_bytes stored;
};

inline grouped_zoo grouped_by(tensor_merge const& merge, zoo_tensors const& zoo) {
  grouped_zoo out;
  out.stored.kept = zoo.kept_bytes;
  for (merged_tensor const& t : zoo.merged) {
    std::vector<braid::expert_view<bfloat16>> views;
    for (std::size_t e = 0; e < zoo.experts(); ++e) { views.push_back({zoo.names[e], t.view(e)}); }
    out.tensors.push_back(merge(t.name, t.base_view(), views));
    out.stored += bytes_of(out.tensors.back());
  }
  return out;
}

/// Every expert rebuilt from what `merge` makes of each tensor.
inline rebuilt_zoo merged_by(tensor_merge const& merge, zoo_tensors const& zoo) {
  grouped_zoo const grouped = grouped_by(merge, zoo);
  rebuilt_zoo out;
  out.stored = grouped.stored;
  for (std::size_t i = 0; i < grouped.tensors.size(); ++i) {
    merged_tensor const& t = zoo.merged[i];
    auto& experts = out.weights.emplace_back();
    for (std::size_t e = 0; e < zoo.experts(); ++e) {
      auto& w = experts.emplace_back(t.base.size());
      grouped.tensors[i].extract(e, {w.data(), t.rows, t.cols});
    }
  }
  return out;
}

/// The number of a merged tensor, if that name is one.
inline std::optional<std::size_t> number_of(zoo_tensors const& zoo, std::string_view name) {
  auto const at = std::find_if(zoo.merged.begin(), zoo.merged.end(), [&](auto const& t) { return t.name == name; });
  if (at == zoo.merged.end()) { return std::nullopt; }
  return static_cast<std::size_t>(at - zoo.merged.begin());
}

/// All experts' weights: what was merged through its index or as it was rebuilt, all else as it was trained. Keeps
/// references to the zoo and to what was merged.
/// @param experts in the order of their names
inline expert_weights weights_of(grouped_zoo const& grouped, zoo_tensors const& zoo,
                                 std::vector<braid::checkpoint> const& experts) {
  expert_weights all = weights_of(experts);
  all.rows = [&grouped, &zoo, own = all.rows](std::string const& name) -> any_rows {
    auto const number = number_of(zoo, name);
    if (!number) { return own(name); }
    return braid::grouped_rows<bfloat16>(grouped.tensors[*number]);
  };
  return all;
}
inline expert_weights weights_of(rebuilt_zoo const& rebuilt, zoo_tensors const& zoo,
                                 std::vector<braid::checkpoint> const& experts) {
  expert_weights all = weights_of(experts);
  all.rows = [&rebuilt, &zoo, own = all.rows](std::string const& name) -> any_rows {
    auto const number = number_of(zoo, name);
    if (!number) { return own(name); }
    std::vector<std::span<std::byte const>> weights;
    for (auto const& w : rebuilt.weights[*number]) { weights.push_back(std::as_bytes(std::span(w))); }
    return whole_rows(braid::dtype::bf16, zoo.merged[*number].cols, std::move(weights));
  };
  return all;
}

}  // namespace zoo

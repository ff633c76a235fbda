#pragma once

/// What a policy must offer. A channel merge runs four of them for every output channel, in this order:
///
///   similarity   gives every partition of the experts a score, from the Gram matrix of their deltas
///   cluster      searches for a good partition
///   prune        thins each expert's delta before it is merged
///   consensus    merges the deltas of a group
///
/// A policy is a small copyable value: its type fixes the code, its members the numbers. `name`, `operand` and the like
/// are usually static; a policy that is chosen at run time (similarity::any, cluster::any) has them as members. The shipped ones are in
/// prune/, similarity/, cluster/ and consensus/; docs/policies.md writes one of each kind in about 12 lines.

#include <braid/core/tensor_view.hpp>

#include <concepts>
#include <string_view>

BRAID_NAMESPACE_BEGIN

/// Most experts, and most groups: a label is one byte, and 255 says that an expert has no such channel.
inline constexpr int max_experts = 255;

/// Identifies one expert's delta of one tensor. Same key, same random choices, on every backend.
struct tensor_key {
  std::uint64_t stream = 0;  ///< hash of the tensor's and the expert's names (core/hash.hpp)
  index_t rows = 0;          ///< output channels
  index_t cols = 0;          ///< inputs of a channel
};

/// Where to cut so that exactly the wanted number of elements of largest magnitude survives. Equal magnitudes at the
/// cut go to the lower index.
struct magnitude_cut {
  std::uint32_t bits = 0;  ///< float bits of the smallest surviving magnitude; larger ones survive
  index_t last = -1;       ///< of those that equal it, the last surviving element: an index into tensor or row

  /// @param index of the element in the tensor (row * cols + column), or in the row for a cut per row
  [[nodiscard]] BRAID_HD constexpr bool keeps(float x, index_t index) const noexcept {
    std::uint32_t const magnitude = detail::bits_as<std::uint32_t>(x) & 0x7FFFFFFFu;
    return magnitude > bits || (magnitude == bits && index <= last);
  }
};

/// Positions [first, last) of a tensor's elements in the order of rising magnitude, of equal ones the lower index first.
struct band_positions {
  index_t first = 0;
  index_t last = 0;
};

/// Where to cut so that exactly the elements at given positions of that order survive.
struct magnitude_band {
  magnitude_cut below;  ///< elements before the first position: smaller ones than `bits`, and equals up to `last`
  magnitude_cut upto;   ///< elements before the last position, in the same way

  /// @param index of the element in the tensor (row * cols + column)
  [[nodiscard]] BRAID_HD constexpr bool keeps(float x, index_t index) const noexcept {
    return before(upto, x, index) && !before(below, x, index);
  }

 private:
  BRAID_HD static constexpr bool before(magnitude_cut const& cut, float x, index_t index) noexcept {
    std::uint32_t const magnitude = detail::bits_as<std::uint32_t>(x) & 0x7FFFFFFFu;
    return magnitude < cut.bits || (magnitude == cut.bits && index <= cut.last);
  }
};

/// Ranks of a row's magnitudes, from 0 (smallest) to `cols` - 1. Equal magnitudes share the mean of the ranks that they take
/// together, so that what happens to an element depends on its magnitude, not on its column. Such a mean is a whole or a half.
struct magnitude_ranks {
  std::uint32_t const* twice = nullptr;  ///< [cols]: twice the rank: twice the number of smaller ones, and that of other equal ones
  index_t cols = 0;
};

/// What a pruning policy has to know before it can decide about single elements.
enum class statistic : unsigned char {
  none,        ///< nothing:                   `plan(key)`
  tensor_cut,  ///< a cut over the tensor:     `plan(key, magnitude_cut)`, once a tensor; and `keep_count(elements)`
  tensor_band, ///< a cut on both sides:       `plan(key, magnitude_band)`, once a tensor; and `keep_band(elements)`
  row_cut,     ///< a cut in each row:         `plan(key, magnitude_cut)`, once a row; and `keep_count(elements)`
  row_ranks    ///< all ranks in each row:     `plan(key, magnitude_ranks)`, once a row
};

/// A pure function of one element of a delta: its value after pruning, 0 where it is dropped.
template <class K>
concept prune_plan = std::is_trivially_copyable_v<K> && requires(K const k, float x, index_t row, index_t col) {
  { k(x, row, col) } noexcept -> std::same_as<float>;
};

namespace detail {
template <class P>
concept plans_alone = requires(P const p, tensor_key key) {
  { p.plan(key) } -> prune_plan;
};
template <class P>
concept plans_from_cut = requires(P const p, tensor_key key, magnitude_cut cut, index_t elements) {
  { p.plan(key, cut) } -> prune_plan;
  { p.keep_count(elements) } -> std::same_as<index_t>;
};
template <class P>
concept plans_from_band = requires(P const p, tensor_key key, magnitude_band band, index_t elements) {
  { p.plan(key, band) } -> prune_plan;
  { p.keep_band(elements) } -> std::same_as<band_positions>;
};
template <class P>
concept plans_from_ranks = requires(P const p, tensor_key key, magnitude_ranks ranks) {
  { p.plan(key, ranks) } -> prune_plan;
};
}  // namespace detail

/// Thins a delta: makes, on the host, a plan for one tensor (or one row) of one expert.
template <class P>
concept pruning_policy = std::copyable<P> && requires(P const p) {
  { p.name } -> std::convertible_to<std::string_view>;
  { P::measures } -> std::convertible_to<statistic>;
} && ((P::measures == statistic::none && detail::plans_alone<P>) ||
      (P::measures == statistic::tensor_band && detail::plans_from_band<P>) ||
      ((P::measures == statistic::tensor_cut || P::measures == statistic::row_cut) && detail::plans_from_cut<P>) ||
      (P::measures == statistic::row_ranks && detail::plans_from_ranks<P>));

/// Which vectors the Gram matrix of a channel is made of.
enum class gram_operand : unsigned char {
  deltas,  ///< the deltas
  signs    ///< their signs: -1, 0, +1
};

/// Scores a partition of a channel's experts. All it ever sees is the N x N Gram matrix in float64. The score of a
/// partition is the sum of its groups' scores; larger wins.
///
/// A group is described by `total` = sum over its pairs of Gram entries (the squared length of the sum of its
/// members), `trace` = sum of its members' squared lengths, and `size` = number of members.
template <class S>
concept similarity_policy = std::copyable<S> && requires(S const s, double* gram, int n, double const* norms, double x) {
  { s.name } -> std::convertible_to<std::string_view>;
  { s.operand } -> std::convertible_to<gram_operand>;
  { s.needs_norms } -> std::convertible_to<bool>;   // lengths of the experts' deltas over the whole tensor
  s.normalise(gram, n, norms);                      // in place, row-major n x n; `norms` null unless needed
  { s.group_score(x, x, x) } -> std::same_as<double>;     // (total, trace, size)
  { s.distance(x, x, x, x) } -> std::same_as<double>;     // of a member with squared length `self` and summed Gram
                                                          // entries `cross` to a group's (self, cross, total, size)
};

/// One channel's clustering problem. Bit-equal rows have been made one before; `weight` says how many experts share it.
struct cluster_problem {
  int count = 0;                  ///< distinct rows
  int groups = 0;                 ///< wanted, 1 <= groups <= count
  double const* gram = nullptr;   ///< normalised by the similarity, row-major [count, count]
  int const* weight = nullptr;    ///< experts per distinct row, [count]
  std::uint64_t stream = 0;       ///< hash of the tensor's name, for random algorithms
  index_t channel = 0;
};

namespace detail {
struct probe_similarity {
  static constexpr std::string_view name = "probe";
  static constexpr gram_operand operand = gram_operand::deltas;
  static constexpr bool needs_norms = false;
  void normalise(double*, int, double const*) const {}
  [[nodiscard]] double group_score(double, double, double) const { return 0.0; }
  [[nodiscard]] double distance(double, double, double, double) const { return 0.0; }
};
}  // namespace detail

static_assert(similarity_policy<detail::probe_similarity>);

/// Searches for a good partition into exactly `groups` groups. Writes `label[count]`, numbered by first appearance.
template <class C>
concept clustering_policy =
    std::copyable<C> && requires(C const c, detail::probe_similarity s, cluster_problem problem, int* label) {
      { c.name } -> std::convertible_to<std::string_view>;
      c.partition(s, problem, label);
    };

/// Merges the (pruned) deltas of a group, element by element. `member[0 .. n)`, in the order of the experts' names.
template <class M>
concept consensus_policy = std::copyable<M> && requires(M const m, float const* member, int n) {
  { m.name } -> std::convertible_to<std::string_view>;
  { m(member, n) } noexcept -> std::same_as<float>;
};

/// Policies may refuse numbers that can't be meant: `validate()` throws `argument_error`.
template <class P>
void validate_policy(P const& policy) {
  if constexpr (requires { policy.validate(); }) { policy.validate(); }
}

BRAID_NAMESPACE_END

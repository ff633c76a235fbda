#pragma once

/// The similarities that device code knows, chosen at run time, so that kernels aren't compiled once for each.

#include <braid/backend/cuda/kernel.cuh>
#include <braid/similarity/any.hpp>

#include <optional>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One of braid's similarities. Each is BRAID_HD, and an entry of its normalised Gram matrix follows from the entries of
/// the two rows alone, so that threads take a pair each. For others the host clusters.
struct device_similarity {
  enum class kind : unsigned char { cosine, euclidean, balanced, sign };
  kind which = kind::cosine;

  [[nodiscard]] __host__ __device__ bool needs_norms() const noexcept { return which == kind::balanced; }
  [[nodiscard]] __host__ __device__ bool of_signs() const noexcept { return which == kind::sign; }

  __device__ void normalise(double* gram, int n, double const* norms) const noexcept {
    if (which == kind::balanced) {
      similarity::balanced{}.normalise(gram, n, norms);
    } else if (which != kind::euclidean) {
      similarity::cosine{}.normalise(gram, n, norms);
    }
  }
  [[nodiscard]] __device__ double group_score(double total, double trace, double size) const noexcept {
    return which == kind::cosine || which == kind::sign ? similarity::cosine{}.group_score(total, trace, size)
                                                        : similarity::euclidean{}.group_score(total, trace, size);
  }
};

inline std::optional<device_similarity> on_device(similarity::cosine const&) noexcept { return device_similarity{device_similarity::kind::cosine}; }
inline std::optional<device_similarity> on_device(similarity::euclidean const&) noexcept { return device_similarity{device_similarity::kind::euclidean}; }
inline std::optional<device_similarity> on_device(similarity::balanced const&) noexcept { return device_similarity{device_similarity::kind::balanced}; }
inline std::optional<device_similarity> on_device(similarity::sign const&) noexcept { return device_similarity{device_similarity::kind::sign}; }
inline std::optional<device_similarity> on_device(similarity::any const& s) {
  return std::visit([](auto const& one) { return on_device(one); }, s.choice);
}

/// @return nothing for a user's own similarity, whose members needn't be device code
template <class Similarity>
std::optional<device_similarity> similarity_on_device(Similarity const& s) {
  if constexpr (std::same_as<Similarity, similarity::cosine> || std::same_as<Similarity, similarity::euclidean> ||
                std::same_as<Similarity, similarity::balanced> || std::same_as<Similarity, similarity::sign> ||
                std::same_as<Similarity, similarity::any>) {
    return on_device(s);
  } else {
    return std::nullopt;
  }
}

}  // namespace detail
BRAID_NAMESPACE_END

#pragma once

/// Single-model methods by name on both backends, for one comparison.

#include "support/method_models.hpp"

namespace braid_test {

/// How a device's inputs lie.
struct device_placing {
  std::size_t offset = 0;  ///< bytes behind an address that suits every load
  index_t rows_at_once = 0;  ///< 0: all, through merge_into; else by blocks of prepared rows
};

/// The merged tensor as bytes, of a request whose inputs lie in host memory. Exceptions of the library pass through.
std::vector<std::byte> method_on_device(std::string_view name, braid::method_options const& options, braid::tensor_request const& request,
                                        device_placing const& placing = {});

/// Through classes and typed views; `which` is a number of `typed_methods`.
inline constexpr int typed_methods = 6;
std::vector<std::byte> typed_on_device(int which, family const& f);
std::vector<std::byte> typed_on_cpu(int which, family const& f);

template <class Exec, class F>
auto with_typed_method(int which, F const& f) {
  namespace prune = braid::prune;
  namespace consensus = braid::consensus;
  switch (which) {
    case 0: return f(braid::linear<Exec>{{.weight = {}}}, false);
    case 1: return f(braid::task_arithmetic<Exec, prune::magnitude, consensus::weighted_ties>{{.prune = {.density = 0.4}, .normalize = true}}, true);
    case 2:
      return f(braid::task_arithmetic<Exec, prune::dare, consensus::weighted_sum, braid::rescale::inverse_keep>{{.prune = {.density = 0.6, .seed = 3}}}, true);
    case 3: return f(braid::karcher_mean<Exec>{}, false);
    case 4: return f(braid::ram<Exec>{{.reinforce = true}}, true);
    default: return f(braid::sce<Exec>{{.select_topk = 0.3}}, true);
  }
}

}  // namespace braid_test

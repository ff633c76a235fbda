#pragma once

/// Products by rows of a merged tensor, on the CPU and on the device.

#include "support/random_models.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/none.hpp>
#include <braid/residual/any.hpp>
#include <braid/serve/row_source.hpp>
#include <braid/similarity/cosine.hpp>

namespace braid_test {

/// Four experts merged, and vectors that ask for them.
struct product_case {
  family models;
  braid::residual::any code{};
  int groups = 2;
  std::vector<std::size_t> expert{};  ///< of each vector
  std::vector<float> x{};             ///< [batch, stride]
  index_t stride = 0;
};

/// [batch, channels]. The device is asked three times, and answers nothing where answers differ.
std::vector<float> products_on_cpu(product_case const& c);
std::vector<float> products_on_device(product_case const& c);

/// In product_order::any, from vectors of float32 or, rounded, of the rows' type; asked three times as well.
std::vector<float> products_on_tensor_cores(product_case const& c, bool own_type);

/// Calls `f(source)` with the rows of the merged tensor.
template <class F>
void with_merged_rows(product_case const& c, F const& f) {
  using merge = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                     braid::consensus::mean, braid::residual::any>;
  auto const as = [&]<class T>(T*) {
    auto const view = [](matrix const& m) { return braid::tensor_view<T const>(reinterpret_cast<T const*>(m.row(0)), m.rows, m.cols); };
    std::vector<braid::expert_view<T>> views;
    for (auto const& e : c.models.experts) { views.push_back({e.name, view(e.weight)}); }
    auto const merged = merge{{.residual = c.code, .groups = c.groups}}(braid::cpu(1), "w", view(c.models.base), views);
    f(braid::grouped_rows<T>(merged));
  };
  switch (c.models.base.type) {
    case dtype::f16: as(static_cast<braid::float16*>(nullptr)); break;
    case dtype::bf16: as(static_cast<braid::bfloat16*>(nullptr)); break;
    default: as(static_cast<float*>(nullptr)); break;
  }
}

}  // namespace braid_test

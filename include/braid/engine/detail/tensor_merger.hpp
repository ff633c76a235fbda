#pragma once

#include <braid/backend/cpu.hpp>
#include <braid/engine/detail/block_stream.hpp>
#include <braid/engine/device_options.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// What the engine asks of a method. The engine itself is no template of the policies, so a program with many
/// pipelines holds it once.
class tensor_merger {
 public:
  virtual ~tensor_merger() = default;
  [[nodiscard]] virtual int groups() const = 0;
  [[nodiscard]] virtual bool allow_nonfinite() const = 0;
  /// The residual codes that rows may get.
  [[nodiscard]] virtual std::vector<residual_code> residuals() const = 0;
  /// Whether residuals have scales of columns.
  [[nodiscard]] virtual bool column_scales() const = 0;
  /// Of the whole checkpoint; `stored` is 0 where there is none.
  [[nodiscard]] virtual storage_budget budget() const = 0;
  /// With a budget: the measuring pass over one tensor.
  [[nodiscard]] virtual measured_tensor measure(std::string_view tensor, std::vector<std::string> const& names,
                                                tensor_channels const& source, cluster::budget_histogram& curves) const = 0;
  /// Whether `prepare` reads the tensor, so that nothing else should be under way meanwhile.
  [[nodiscard]] virtual bool measures(std::size_t experts) const = 0;
  /// Whole-tensor measures.
  /// @param measured  of `measure`; null without a budget
  [[nodiscard]] virtual tensor_context prepare(std::string_view tensor, std::vector<std::string> const& names,
                                               tensor_channels const& source, measured_tensor const* measured) const = 0;
  /// Channels in a block; changes no result.
  [[nodiscard]] virtual index_t block_rows(tensor_channels const& source) const { return detail::block_rows(source); }
  /// Where `merge` writes rows to.
  [[nodiscard]] virtual block_memory const& memory() const { return host_memory(); }
  /// Most blocks that may be under way at once.
  [[nodiscard]] virtual std::size_t most_blocks() const { return ~std::size_t{0}; }
  /// Merges a block, or lets it be merged. Called from many threads.
  /// @return null where it is merged. The inputs may go in any case; the context and the memory of `out` stay
  [[nodiscard]] virtual std::unique_ptr<block_under_way> merge(tensor_context const& context, channel_block const& block,
                                                               merged_block& out, channel_workspace& work) const = 0;
};

template <class Method>
class method_merger final : public tensor_merger {
 public:
  using backend_type = typename Method::backend_type;
  method_merger(Method const& method, backend_type const& be) : method_(method), backend_(be) {}
  [[nodiscard]] int groups() const override { return method_.settings().groups; }
  [[nodiscard]] bool allow_nonfinite() const override { return method_.settings().allow_nonfinite; }
  [[nodiscard]] std::vector<residual_code> residuals() const override {
    auto const codes = codes_of(method_.settings().residual);
    return {codes.begin(), codes.end()};
  }
  [[nodiscard]] bool column_scales() const override { return residuals().size() > 1 && method_.settings().residual.rank_one; }
  [[nodiscard]] storage_budget budget() const override { return method_.settings().budget; }
  [[nodiscard]] measured_tensor measure(std::string_view tensor, std::vector<std::string> const& names,
                                        tensor_channels const& source, cluster::budget_histogram& curves) const override {
    if constexpr (requires { method_.measure(backend_, tensor, names, source, curves); }) {
      return method_.measure(backend_, tensor, names, source, curves);
    } else {
      throw argument_error("this method can't keep to a budget");
    }
  }
  [[nodiscard]] bool measures(std::size_t experts) const override {
    if constexpr (requires { method_.measures_tensors(experts); }) {
      return method_.measures_tensors(experts);
    } else {
      return true;
    }
  }
  [[nodiscard]] tensor_context prepare(std::string_view tensor, std::vector<std::string> const& names,
                                       tensor_channels const& source, measured_tensor const* measured) const override {
    if constexpr (requires { method_.prepare_measured(backend_, tensor, names, source, *measured); }) {
      if (measured != nullptr) { return method_.prepare_measured(backend_, tensor, names, source, *measured); }
    }
    return method_.prepare(backend_, tensor, names, source);
  }
  [[nodiscard]] std::unique_ptr<block_under_way> merge(tensor_context const& context, channel_block const& block, merged_block& out,
                                                       channel_workspace& work) const override {
    method_.block_operation()(context, block, out, work);
    return nullptr;
  }

 private:
  Method const& method_;
  backend_type const& backend_;
};

/// How the engine runs methods of a backend: `merger`, and the threads of the host that feed it. Other backends than cpu
/// specialise it beside their kernels.
template <class Backend>
struct engine_backend;

template <>
struct engine_backend<cpu> {
  template <class Method>
  struct of {
    method_merger<Method> merger;
    cpu const& host;
    of(Method const& method, cpu const& be, device_options const&) : merger(method, be), host(be) {}
  };
};

}  // namespace detail
BRAID_NAMESPACE_END

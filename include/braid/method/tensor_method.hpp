#pragma once

/// Methods that make one model of several: what they all offer, to C++ programs and to a streaming engine.
///
/// A method is a *measure* and an *apply*. `prepare` measures a whole tensor (reductions over blocks of channels) and makes
/// a plan on the host in float64; `apply` is then a pure function of the inputs at each position and of the plan. So memory
/// stays bounded however large a tensor is, and no result depends on threads, blocks or instruction sets.
///
/// Models count in the order in which they are listed: sums are added in that order, as recipes expect.

#include <braid/backend/cpu/method_blocks.hpp>
#include <braid/core/hash.hpp>
#include <braid/method/detail/parameter_reader.hpp>
#include <braid/method/grouped_tensor.hpp>

#include <memory>

BRAID_NAMESPACE_BEGIN

/// What a method makes of the base model. The base is never counted among the models, except where it is a `member`.
enum class base_role : unsigned char {
  member,    ///< there is no base: a recipe's base model is one of the models
  optional,  ///< without a base the method works on weights, with it on deltas (slerp: the base is the first of two)
  required
};

/// What a method is called, knows and needs.
struct method_info {
  std::string_view name;
  base_role base = base_role::required;
  int least_models = 0;                    ///< besides the base
  int most_models = max_experts;
  bool needs_cuts = false;                 ///< trims over the whole model: `tensor_request::cuts` must be given
  std::vector<parameter_info> parameters{};
};

/// One tensor to merge, and everything about it.
struct tensor_request {
  std::string_view tensor;                 ///< its name: keys random choices, stands in errors
  std::vector<std::string> models;         ///< names, in the order of `inputs.experts`
  tensor_channels inputs;                  ///< [channels, cols]; `experts` are the models; a 1-D tensor is one channel
  method_parameters parameters;
  std::vector<magnitude_cut> cuts;         ///< one a model, from `global_magnitude_cuts`; empty: trimming is per tensor
  bool allow_nonfinite = false;            ///< NaN and infinity in inputs are merged as they are instead of refused
};

/// What `prepare` has found out about a tensor. Read-only, so all threads share it.
struct method_plan {
  virtual ~method_plan() = default;
  index_t cols = 0;
  bool allow_nonfinite = false;
};

/// A single-model merge method. Its classes (`linear`, `task_arithmetic`, ...) are used by themselves, or by name through
/// `make_tensor_method`.
template <backend Exec>
class tensor_method {
 public:
  using backend_type = Exec;
  using workspace = typename ops::tensor_blocks<Exec>::workspace;

  virtual ~tensor_method() = default;

  [[nodiscard]] method_info const& info() const noexcept { return info_; }

  /// Measures a tensor, once, before its blocks are merged.
  /// @throws argument_error (models, base, parameters), shape_error (element types), value_error (no result exists),
  ///         detail::nonfinite_found
  /// @complexity the method's measuring passes over the inputs; none for most
  [[nodiscard]] std::unique_ptr<method_plan const> prepare(Exec const& be, tensor_request const& request) const {
    bool const empty = request.inputs.channels * request.inputs.cols == 0;
    check(request, empty);
    detail::parameter_reader const reader(info_.name, info_.parameters, own_, request.parameters, request.tensor, request.models);
    std::unique_ptr<method_plan> plan = empty ? std::make_unique<method_plan>() : make_plan(be, request, reader);
    plan->cols = request.inputs.cols;
    plan->allow_nonfinite = request.allow_nonfinite;
    return plan;
  }

  /// Merges a block of a prepared tensor. Called from many threads, each with a workspace of its own. On braid::cuda, block and
  /// `out` lie in device memory, and this enqueues; `work.finish()` waits, and throws what this would.
  /// @param plan  of `prepare`, for the tensor that the block belongs to
  /// @param out   [block.rows, cols] of `block.out`, packed
  /// @throws detail::nonfinite_found unless NaN and infinity are allowed
  void apply(method_plan const& plan, channel_block const& block, std::byte* out, workspace& work) const {
    if (block.rows * plan.cols > 0) { apply_block(plan, block, out, work); }
  }

  /// Merges one tensor in memory.
  /// @param be      where to run; returns when done
  /// @param tensor  the tensor's name: keys random choices
  /// @param base    [channels, inputs], any row stride; `{}` where there is none
  /// @param models  named weights of the same shape
  /// @return the merged tensor [channels * inputs], row by row, in the executor's memory: braid::cpu's is a std::vector<T>
  /// @throws shape_error, argument_error, value_error (NaN or infinity, naming model, channel and column; results that
  ///         don't fit into T)
  template <storage_element T>
  [[nodiscard]] typename Exec::template buffer<T> merge(Exec const& be, std::string_view tensor,
                                     std::type_identity_t<tensor_view<T const, Exec::space>> base,
                                     std::vector<expert_view<T, Exec::space>> const& models) const {
    tensor_request request;
    request.tensor = tensor;
    request.inputs.out = dtype_of<T>;
    auto const first = base.data_handle() == nullptr && !models.empty() ? models[0].weight : base;
    request.inputs.channels = first.rows();
    request.inputs.cols = first.cols();
    if (base.data_handle() != nullptr) { request.inputs.base = rows_of(base); }
    for (auto const& m : models) {
      if (m.weight.rows() != first.rows() || m.weight.cols() != first.cols()) {
        throw shape_error(std::string(tensor) + ": model '" + std::string(m.name) + "' is " + std::to_string(m.weight.rows()) +
                          " x " + std::to_string(m.weight.cols()) + ", " +
                          (base.data_handle() == nullptr ? "the first model " : "the base ") + std::to_string(first.rows()) +
                          " x " + std::to_string(first.cols()));
      }
      request.models.emplace_back(m.name);
      request.inputs.experts.push_back(rows_of(m.weight));
    }
    auto out = be.template make_buffer<T>(static_cast<std::size_t>(first.size()));
    merge_into(be, request, reinterpret_cast<std::byte*>(out.data()));
    return out;
  }

  /// The same without a base.
  template <storage_element T>
  [[nodiscard]] typename Exec::template buffer<T> merge(Exec const& be, std::string_view tensor,
                                     std::vector<expert_view<T, Exec::space>> const& models) const {
    return merge<T>(be, tensor, {}, models);
  }

  /// Merges a whole tensor of run-time type into `out`, [channels, cols] of `request.inputs.out`, packed. Errors as `merge`.
  void merge_into(Exec const& be, tensor_request const& request, std::byte* out) const {
    tensor_channels const& in = request.inputs;
    dtype const type = in.out;
    std::size_t const row_bytes = static_cast<std::size_t>(in.cols) * size_of(type);
    bool const narrow = type == dtype::f16 || type == dtype::f8_e4m3 || type == dtype::f8_e5m2;
    try {
      auto const plan = prepare(be, request);
      if (in.channels * in.cols == 0) { return; }
      ops::tensor_blocks<Exec>::for_each(be, in, detail::block_rows(in), [&](index_t, channel_block const& block, workspace& work) {
        std::byte* const to = out + static_cast<std::size_t>(block.first) * row_bytes;
        apply(*plan, block, to, work);
        if (!narrow || request.allow_nonfinite) { return; }
        if constexpr (requires { work.finish(); }) { work.finish(); }  // the inputs' errors come first
        try {
          ops::tensor_blocks<Exec>::check_rows(to, type, block.first, block.rows, in.cols, work);
        } catch (detail::nonfinite_found const& found) {
          throw value_error(std::string(request.tensor) + ": the result at channel " + std::to_string(found.where.channel) +
                            ", column " + std::to_string(found.where.col) + " doesn't fit into " + std::string(name_of(type)) +
                            ": choose another type");
        }
      });
    } catch (detail::nonfinite_found const& found) {
      auto const& at = found.where;
      throw value_error(std::string(request.tensor) + ": " +
                        (at.model < 0 ? std::string("the base")
                                      : "model '" + request.models[static_cast<std::size_t>(at.model)] + "'") +
                        " has " + detail::describe_nonfinite(at.value) + " in channel " + std::to_string(at.channel) +
                        ", column " + std::to_string(at.col) + "; repair it, or set allow_nonfinite");
    }
  }

 protected:
  tensor_method(method_info info, method_parameters own) : info_(std::move(info)), own_(std::move(own)) {}
  tensor_method(tensor_method const&) = default;
  tensor_method& operator=(tensor_method const&) = default;

  /// Called for tensors that have elements, with inputs that fit `info()`.
  [[nodiscard]] virtual std::unique_ptr<method_plan> make_plan(Exec const& be, tensor_request const& request,
                                                               detail::parameter_reader const& parameters) const = 0;
  virtual void apply_block(method_plan const& plan, channel_block const& block, std::byte* out, workspace& work) const = 0;

 private:
  template <class View>
  static channel_rows rows_of(View const& view) noexcept {
    using T = typename View::value_type;
    return {reinterpret_cast<std::byte const*>(view.data_handle()), dtype_of<T>,
            view.stride(0) * static_cast<index_t>(sizeof(T))};
  }

  void check(tensor_request const& request, bool empty) const {
    auto const where = [&] { return "merge method '" + std::string(info_.name) + "': tensor '" + std::string(request.tensor) + "'"; };
    auto const models = static_cast<int>(request.inputs.experts.size());
    if (request.models.size() != request.inputs.experts.size()) {
      throw argument_error(where() + " has " + std::to_string(models) + " models, but " + std::to_string(request.models.size()) +
                           " names");
    }
    if (models < info_.least_models || models > info_.most_models) {
      std::string const least = std::to_string(info_.least_models);
      throw argument_error(where() + " comes from " + std::to_string(models) + " models" +
                           (info_.base == base_role::member ? "" : " besides the base") + "; the method takes " +
                           (info_.least_models == info_.most_models ? "exactly " + least
                            : models < info_.least_models           ? "at least " + least
                                                                    : "at most " + std::to_string(info_.most_models)));
    }
    bool const based = request.inputs.base.data != nullptr;
    if (!empty && !based && (info_.base == base_role::required || models == 0)) {
      throw argument_error(where() + " has no base: name a base model");
    }
    if (based && info_.base == base_role::member) {
      throw argument_error(where() + " has a base, which this method doesn't know: list that model among the others");
    }
    if (info_.needs_cuts && request.cuts.size() != request.models.size()) {
      throw argument_error(where() + " is trimmed over the whole model: measure the cuts with global_magnitude_cuts first");
    }
    auto const check_type = [&](std::string const& model, dtype type) {
      if (!is_computable(type)) {
        throw shape_error(where() + " is " + std::string(name_of(type)) + " in " + model +
                          ", which can't be averaged: copy such tensors from one model");
      }
    };
    if (based) { check_type("the base", request.inputs.base.type); }
    for (std::size_t i = 0; i < request.models.size(); ++i) {
      check_type("model '" + request.models[i] + "'", request.inputs.experts[i].type);
    }
    check_type("the result", request.inputs.out);
  }

  method_info info_;
  method_parameters own_;
};

BRAID_NAMESPACE_END

#pragma once

/// The methods that combine by coefficients from Gram matrices (method/detail/gram_method.hpp) on a device: the device sums, the
/// host finds the coefficients, the device combines.

#include <braid/backend/cuda/column_gram.cuh>
#include <braid/backend/cuda/elementwise_methods.cuh>
#include <braid/backend/cuda/row_sums.cuh>
#include <braid/method/detail/gram_method.hpp>

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Models whose Gram matrix one kernel sums.
inline constexpr int most_gram_models = 56;

inline device_row_sums row_triangles(device_method_workspace& work, channel_block const& block, index_t cols, operand what, bool check,
                                     channel_block const* given) {
  return sum_rows(work, block, cols, what, check, [](auto) { return gram_sum{}; }, given);
}

/// Calls `f(i, j, block of models i and j)` for all pairs j < i.
template <class F>
void for_each_pair(channel_block const& block, F const& f) {
  for (std::size_t i = 1; i < block.experts.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      channel_block pair = block;
      pair.experts = {block.experts[j], block.experts[i]};
      f(static_cast<int>(i), static_cast<int>(j), pair);
    }
  }
}

/// The lower triangle of the whole block, and below those of its rows, [rows, pairs]. Both wait.
inline std::vector<double> tensor_triangle(device_method_workspace& work, channel_block const& block, index_t cols, operand what, bool check,
                                           channel_block const& given) {
  auto const n = static_cast<int>(block.experts.size());
  if (n <= most_gram_models) { return total_sums(work, row_triangles(work, block, cols, what, check, &given), block.rows); }
  std::vector<double> lower(static_cast<std::size_t>(triangle(n, 0)));
  for_each_pair(block, [&](int i, int j, channel_block const& pair) {
    auto const of_pair = total_sums(work, row_triangles(work, pair, cols, what, check, &given), block.rows);
    lower[static_cast<std::size_t>(triangle(j, j))] = of_pair[0];
    lower[static_cast<std::size_t>(triangle(i, j))] = of_pair[1];
    lower[static_cast<std::size_t>(triangle(i, i))] = of_pair[2];
  });
  return lower;
}

inline std::vector<float> all_row_triangles(device_method_workspace& work, channel_block const& block, index_t cols, operand what, bool check,
                                            channel_block const& given) {
  auto const n = static_cast<int>(block.experts.size());
  auto const fetch = [&](channel_block const& b) {
    auto sums = download(work.executor(), row_triangles(work, b, cols, what, check, &given).rows);
    work.finish();
    return sums;
  };
  if (n <= most_gram_models) { return fetch(block); }
  auto const pairs = static_cast<std::size_t>(triangle(n, 0));
  std::vector<float> lower(static_cast<std::size_t>(block.rows) * pairs);
  for_each_pair(block, [&](int i, int j, channel_block const& pair) {
    auto const of_pair = fetch(pair);
    for (std::size_t r = 0; r < static_cast<std::size_t>(block.rows); ++r) {
      lower[r * pairs + static_cast<std::size_t>(triangle(j, j))] = of_pair[3 * r];
      lower[r * pairs + static_cast<std::size_t>(triangle(i, j))] = of_pair[3 * r + 1];
      lower[r * pairs + static_cast<std::size_t>(triangle(i, i))] = of_pair[3 * r + 2];
    }
  });
  return lower;
}

/// Notes the channels of NaN and infinity, for passes that don't look themselves.
struct check_only : plain_function {
  BRAID_HD float operator()(float, float const*, int, index_t, index_t) const noexcept { return 0.0f; }
};

template <>
inline void gram_method<cuda>::measure(cuda const& be, tensor_request const& request, plan_type& plan) {
  plan.vectors = static_cast<int>(request.inputs.experts.size()) + (plan.base_is_first ? 1 : 0);
  std::vector<double> k(static_cast<std::size_t>(plan.vectors));
  if (plan.scope == gram_scope::row) { return; }
  device_method_workspace work(be);
  device_block const whole(be, request.inputs);
  channel_block const& given = whole.get();
  channel_block const block = plan.base_is_measured ? base_as_model(given) : given;
  auto const n = static_cast<int>(block.experts.size());
  index_t const cols = request.inputs.cols;
  if (plan.scope == gram_scope::tensor) {
    std::vector<double> const lower = tensor_triangle(work, block, cols, plan.measured, !request.allow_nonfinite, given);
    std::vector<double> gram(static_cast<std::size_t>(n * n));
    fill_gram(lower.data(), n, gram.data());
    try {
      if (!request.allow_nonfinite) { check_gram(gram.data(), n, 0); }
    } catch (nonfinite_found& found) {
      if (plan.base_is_measured) { --found.where.model; }
      throw;
    }
    plan.solve(gram.data(), n, k.data());
    plan.coefficient.assign(k.begin(), k.end());
    return;
  }
  device_buffer<double> const there = be.make_buffer<double>(static_cast<std::size_t>(cols) * 4);
  column_gram f{device_input(block.base), {device_input(block.experts[0]), device_input(block.experts[1])}, block.base.data != nullptr,
                plan.measured == operand::deltas, block.rows, there.data()};
  if (has_usual_columns(f, cols)) {
    current_device const current(be.device());
    auto const blocks = static_cast<unsigned>((cols + gram_columns - 1) / gram_columns);
    column_gram_kernel<<<blocks, gram_threads, sizeof(column_gram_room), be.stream()>>>(f, cols);
    check_cuda(cudaGetLastError(), "starting a measuring pass");
  } else {
    be.for_each(cols, f);
  }
  auto const grams = download(be, there);
  // Products of finite float32 numbers are finite in float64, and so are their sums.
  bool const finite = std::all_of(grams.begin(), grams.end(), [](double x) { return std::isfinite(x); });
  if (!request.allow_nonfinite && (!finite || (f.has_base && !f.deltas))) {
    device_buffer<std::byte> const nowhere = be.make_buffer<std::byte>(static_cast<std::size_t>(block.rows * cols) * size_of(block.out));
    map_elements(work, block, cols, nowhere.data(), plan.measured, false, [](auto) { return check_only{}; }, &given);
    work.finish();
  }
  auto const columns = static_cast<std::size_t>(cols);
  plan.coefficient.resize(k.size() * columns);
  tbb::parallel_for(tbb::blocked_range<std::size_t>(0, columns, 512), [&](tbb::blocked_range<std::size_t> const& part) {
    std::vector<double> own(k.size());
    for (std::size_t c = part.begin(); c < part.end(); ++c) {
      plan.solve(grams.data() + 4 * c, n, own.data());
      for (std::size_t i = 0; i < own.size(); ++i) { plan.coefficient[i * columns + c] = static_cast<float>(own[i]); }
    }
  });
}

template <>
inline void gram_method<cuda>::apply_block(method_plan const& any_plan, channel_block const& given, std::byte* out,
                                           device_method_workspace& work) const {
  auto const& plan = static_cast<plan_type const&>(any_plan);
  channel_block const block = plan.base_is_first ? base_as_model(given) : given;
  bool const add = plan.combined == operand::deltas;
  auto const map = [&](auto const& make) { map_elements(work, block, plan.cols, out, plan.combined, plan.allow_nonfinite, make, &given); };
  if (plan.scope == gram_scope::tensor) {
    map([&]<int Most>(std::integral_constant<int, Most>) {
      combine_function<Most, false> f{};
      copy_numbers(plan.coefficient, f.coefficient);
      f.divisor = 1.0f;
      f.add_base = add;
      return f;
    });
    return;
  }
  auto const vectors = static_cast<index_t>(plan.vectors);
  if (plan.scope == gram_scope::column) {
    device_buffer<float> const there = upload(work.executor(), plan.coefficient);
    map([&](auto) { return combine_at_function{{}, there.data(), plan.cols, 0, 1, add}; });
    return;
  }
  channel_block const& measured = plan.base_is_measured ? block : given;
  auto const n = static_cast<int>(measured.experts.size());
  auto const pairs = static_cast<std::size_t>(triangle(n, 0));
  std::vector<float> const lower = all_row_triangles(work, measured, plan.cols, plan.measured, !plan.allow_nonfinite, given);
  std::vector<float> coefficient(static_cast<std::size_t>(block.rows * vectors));
  if (!plan.allow_nonfinite) {
    std::vector<double> gram(static_cast<std::size_t>(n * n));
    for (index_t r = 0; r < block.rows; ++r) {
      fill_gram(lower.data() + static_cast<std::size_t>(r) * pairs, n, gram.data());
      try {
        check_gram(gram.data(), n, block.first + r);
      } catch (nonfinite_found& found) {
        if (plan.base_is_measured) { --found.where.model; }
        throw;
      }
    }
  }
  tbb::parallel_for(index_t{0}, block.rows, [&](index_t r) {
    std::vector<double> gram(static_cast<std::size_t>(n * n));
    std::vector<double> k(static_cast<std::size_t>(vectors));
    fill_gram(lower.data() + static_cast<std::size_t>(r) * pairs, n, gram.data());
    plan.solve(gram.data(), n, k.data());
    for (std::size_t i = 0; i < k.size(); ++i) { coefficient[static_cast<std::size_t>(r * vectors) + i] = static_cast<float>(k[i]); }
  });
  device_buffer<float> const there = upload(work.executor(), coefficient);
  map([&](auto) { return combine_at_function{{}, there.data() - block.first * vectors, 1, vectors, 0, add}; });
}

}  // namespace detail

BRAID_NAMESPACE_END

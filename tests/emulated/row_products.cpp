#include <braid/serve/cuda/row_matrix.cuh>

#include "emulated/device_products.hpp"
#include "support/catch.hpp"
#include "support/random_models.hpp"

#include <braid/cluster/exact.hpp>
#include <braid/consensus/mean.hpp>
#include <braid/method/channel_merge.hpp>
#include <braid/prune/none.hpp>
#include <braid/residual/any.hpp>
#include <braid/serve/row_linear.hpp>
#include <braid/similarity/cosine.hpp>

#include <map>
#include <set>

using namespace braid_test;
namespace detail = braid::detail;

namespace {

using merge = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                   braid::consensus::mean, braid::residual::any>;

template <class T, int Inputs>
void run_tiles(detail::product_arguments a, std::size_t first, std::size_t last) {
  using layout = detail::product_tile_layout<T, Inputs>;
  a.tiles += first;
  if (first == last) { return; }
  emulated::run(static_cast<int>(last - first), 1, layout::threads, static_cast<std::size_t>(layout::bytes), 0,
                [&a] { detail::row_tile_kernel<T, Inputs, true>(a); });
}

template <class T, bool Coded>
void run_vector(detail::product_arguments const& a, int blocks, int stages) {
  using layout = detail::vector_layout<T>;
  emulated::run(blocks, 1, layout::threads, layout::bytes(a.cols, stages), 0, [&a, stages] {
    if (stages == 2) {
      detail::row_vector_kernel<T, float, 2, Coded>(a);
    } else {
      detail::row_vector_kernel<T, float, 3, Coded>(a);
    }
  });
}

/// The emulated kernels on a merged tensor against row_linear on the CPU, bit for bit.
template <class T>
void check(random_source& random, index_t channels, index_t cols, braid::residual::any const& code, int groups, std::vector<std::size_t> const& expert,
           index_t x_gap) {
  auto const f = random_family(random, braid::dtype_of<T>, channels, cols, 4);
  std::vector<braid::expert_view<T>> views;
  for (auto const& e : f.experts) { views.push_back({e.name, {reinterpret_cast<T const*>(e.weight.row(0)), channels, cols}}); }
  auto const merged = merge{{.residual = code, .groups = groups}}(braid::cpu(1), "w", {reinterpret_cast<T const*>(f.base.row(0)), channels, cols}, views);
  braid::grouped_rows<T> const source(merged);
  auto const batch = static_cast<index_t>(expert.size());
  index_t const x_stride = cols + x_gap;
  std::vector<float> x(static_cast<std::size_t>(batch * x_stride));
  for (float& v : x) { v = random.chance(0.02) ? -0.0f : static_cast<float>(random.bell()); }
  std::vector<float> expected(static_cast<std::size_t>(batch * channels));
  braid::row_linear(source).apply(braid::cpu(1), expert, braid::tensor_view<float const>(x.data(), batch, cols, x_stride),
                                  braid::tensor_view<float>(expected.data(), batch, channels));

  auto const pool = detail::make_device_pool(source);
  auto const plan = detail::plan_rows(pool.experts, expert, static_cast<std::size_t>(random.between(0, 6)));
  device_products const placed(pool, plan, cols, channels);
  device_copy const x_there(x);
  std::vector<float> y(expected.size(), std::nanf(""));
  detail::product_arguments a = placed.arguments;
  a.x = x_there.data;
  a.x_stride = x_stride;
  a.y = y.data();
  a.aligned_x = x_stride % 4 == 0 || batch == 1;
  INFO(channels << " x " << cols << " " << braid::name_of(braid::dtype_of<T>) << ", " << code.name << ", " << groups << " groups, batch " << batch);
  run_tiles<T, 1>(a, plan.above(0), plan.above(2));
  run_tiles<T, 2>(a, plan.above(2), plan.above(4));
  run_tiles<T, 4>(a, plan.above(4), plan.above(8));
  run_tiles<T, 8>(a, plan.above(8), plan.tiles.size());
  CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
  if (batch != 1) { return; }
  for (int const blocks : {1, 2}) {
    std::fill(y.begin(), y.end(), std::nanf(""));
    run_vector<T, true>(a, blocks, 1 + blocks);
    CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
    if (!pool.planes.empty()) { continue; }
    std::fill(y.begin(), y.end(), std::nanf(""));
    run_vector<T, false>(a, blocks, 2);
    CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
  }
}

template <class T, int Tasks, int Inputs, int Terms, bool Coded>
void run_matrices(detail::matrix_arguments m, std::size_t first, std::size_t last, int split) {
  if (first == last) { return; }
  using layout = detail::matrix_layout<Tasks, Inputs, Terms>;
  m.row.tiles += first;
  m.split = split;
  emulated::run(static_cast<int>(last - first) * split, split, layout::threads, static_cast<std::size_t>(layout::bytes), 0,
                [&m] { detail::row_matrix_kernel<T, Tasks, Inputs, Terms, Coded>(m); });
}

template <class T, int Tasks, int Terms>
void run_all_matrices(detail::row_plan const& plan, detail::matrix_arguments const& m, int split) {
  run_matrices<T, Tasks, 16, Terms, true>(m, plan.above(0), plan.above(16), split);
  run_matrices<T, Tasks, 32, Terms, true>(m, plan.above(16), plan.above(32), split);
  run_matrices<T, Tasks, 64, Terms, true>(m, plan.above(32), plan.tiles.size(), split);
}
template <class T, int Terms>
void run_all_matrices(detail::row_plan const& plan, detail::matrix_arguments const& m, int split, bool few_tasks) {
  if (few_tasks) {
    run_all_matrices<T, detail::matrix_few_tasks, Terms>(plan, m, split);
  } else {
    run_all_matrices<T, detail::matrix_tasks, Terms>(plan, m, split);
  }
}

/// The kernels for tensor cores against sums in float64: vectors of float32 taken apart, and vectors of the rows' type.
template <class T>
void check_matrices(random_source& random, index_t channels, index_t cols, braid::residual::any const& code, std::vector<std::size_t> const& expert, int split,
                    bool few_tasks) {
  auto const f = random_family(random, braid::dtype_of<T>, channels, cols, 4);
  std::vector<braid::expert_view<T>> views;
  for (auto const& e : f.experts) { views.push_back({e.name, {reinterpret_cast<T const*>(e.weight.row(0)), channels, cols}}); }
  auto const merged =
      merge{{.residual = code, .groups = 2}}(braid::cpu(1), "w", {reinterpret_cast<T const*>(f.base.row(0)), channels, cols}, views);
  braid::grouped_rows<T> const source(merged);
  braid::row_linear const rows(source);
  auto const batch = static_cast<index_t>(expert.size());
  auto const pool = detail::make_device_pool(source);
  std::size_t const tasks_of_tile = few_tasks ? detail::matrix_few_tasks : detail::matrix_tasks;
  auto const plan = detail::plan_rows(pool.experts, expert, 0, {tasks_of_tile, detail::matrix_inputs});
  device_products const placed(pool, plan, cols, channels);
  detail::matrix_arguments m;
  m.row = placed.arguments;

  index_t const pitch = (cols + 7) / 8 * 8;
  constexpr int terms = detail::matrix_terms<T>;
  std::vector<float> x(static_cast<std::size_t>(batch * pitch));
  auto const multiplied = [&](bool apart) {
    std::vector<float> y(static_cast<std::size_t>(batch * channels), std::nanf(""));
    device_copy const parts(std::vector<std::uint16_t>(static_cast<std::size_t>(terms * batch * pitch), 0x7FFFu));  // NaN between rows
    std::vector<float> scale(static_cast<std::size_t>(batch), 1.0f);
    m.row.y = y.data();
    m.parts = reinterpret_cast<std::byte const*>(parts.data);
    m.pitch = pitch;
    m.term = batch * pitch;
    m.scale = nullptr;
    if (apart) {
      detail::split_arguments s;
      s.x = x.data();
      s.x_stride = pitch;
      s.cols = cols;
      s.pitch = pitch;
      s.term = m.term;
      s.parts = parts.data;
      if constexpr (std::is_same_v<T, braid::float16>) {
        s.scale = scale.data();
        m.scale = s.scale;
      } else {
        s.pieces = static_cast<int>((cols + detail::split_columns - 1) / detail::split_columns);
      }
      emulated::run(static_cast<int>(batch) * s.pieces, 1, detail::split_threads, 64, 0, [&s] { detail::split_inputs_kernel<T>(s); });
      run_all_matrices<T, terms>(plan, m, split, few_tasks);
    } else {
      for (index_t b = 0; b < batch; ++b) {
        for (index_t c = 0; c < cols; ++c) { parts.data[b * pitch + c] = T(x[static_cast<std::size_t>(b * pitch + c)]).bits; }
      }
      run_all_matrices<T, 1>(plan, m, split, few_tasks);
    }
    return y;
  };
  INFO(channels << " x " << cols << " " << braid::name_of(braid::dtype_of<T>) << ", " << code.name << ", batch " << batch << ", " << split << " blocks a tile");
  for (bool const apart : {true, false}) {
    float const size = apart && random.chance(0.5) ? std::ldexp(1.0f, random.between(-60, 60)) : 1.0f;
    for (float& v : x) {
      v = static_cast<float>(random.bell()) * size;
      if (!apart) { v = static_cast<float>(T(v)); }
    }
    auto const y = multiplied(apart);
    for (index_t b = 0; b < batch; ++b) {
      std::vector<float> row(static_cast<std::size_t>(cols));
      for (index_t c = 0; c < channels; ++c) {
        rows.row(expert[static_cast<std::size_t>(b)], c, row);
        double sum = 0.0;
        double all = 0.0;
        float largest = 0.0f;
        for (index_t k = 0; k < cols; ++k) {
          float const v = x[static_cast<std::size_t>(b * pitch + k)];
          sum += static_cast<double>(row[static_cast<std::size_t>(k)]) * static_cast<double>(v);
          all += std::abs(static_cast<double>(row[static_cast<std::size_t>(k)]));
          largest = std::max(largest, std::abs(v));
        }
        CHECK(std::abs(sum - static_cast<double>(y[static_cast<std::size_t>(b * channels + c)])) <= 2e-6 * all * static_cast<double>(largest) + static_cast<double>(cols) * 0x1p-147);
      }
    }
  }
}

}  // namespace

TEST_CASE("emulated products on tensor cores are those of float64, within float32's digits", "[emulated][serve]") {
  random_source random(504);
  std::vector<braid::residual::any> const codes{{}, braid::residual::sign_bits<2>{}};
  int round = 0;
  for (auto const& [channels, cols, batch, split, few_tasks] :
       {std::tuple<index_t, index_t, int, int, bool>{35, 200, 50, 1, true}, {3, 1, 1, 1, false}, {70, 200, 5, 2, false},
        {17, 1030, 2, 4, false}, {9, 77, 20, 1, false}, {66, 65, 40, 1, false}, {5, 512, 70, 8, false}, {40, 300, 9, 1, true}, {33, 1050, 25, 2, true}}) {
    std::vector<std::size_t> expert;
    for (int b = 0; b < batch; ++b) { expert.push_back(static_cast<std::size_t>(round % 2 == 0 ? random.below(4) : 3)); }
    auto const& code = codes[static_cast<std::size_t>(round) % 2];
    if (round++ % 3 == 0) {
      check_matrices<braid::float16>(random, channels, cols, code, expert, split, few_tasks);
    } else {
      check_matrices<braid::bfloat16>(random, channels, cols, code, expert, split, few_tasks);
    }
  }
}

TEST_CASE("emulated products by rows have the CPU's bits", "[emulated][serve]") {
  random_source random(501);
  braid::residual::any signs2 = braid::residual::sign_bits<2>{};
  signs2.rank_one = true;
  std::vector<braid::residual::any> const codes{{}, braid::residual::sign_bits<1>{}, {}, signs2, braid::residual::sign_bits<3>{}};
  index_t const widths[] = {1, 15, 16, 100, 512, 513, 1000, 2048, 4100, 8200};
  int round = 0;
  for (index_t const cols : widths) {
    for (int batch : {1, random.between(2, 9)}) {
      std::vector<std::size_t> expert;
      for (int b = 0; b < batch; ++b) { expert.push_back(static_cast<std::size_t>(random.below(4))); }
      auto const& code = codes[static_cast<std::size_t>(round) % codes.size()];
      int const groups = code.code == braid::residual_code::none ? random.between(1, 4) : 1;
      index_t const channels = random.between(1, cols > 2000 ? 9 : 41);
      switch (round++ % 3) {
        case 0: check<braid::bfloat16>(random, channels, cols, code, groups, expert, random.between(0, 4)); break;
        case 1: check<float>(random, channels, cols, code, groups, expert, 0); break;
        default: check<braid::float16>(random, channels, cols, code, groups, expert, random.between(0, 4)); break;
      }
    }
  }
}

TEST_CASE("emulated products of long batches of one expert and of all", "[emulated][serve]") {
  random_source random(502);
  std::vector<std::size_t> expert(37, 2);
  check<braid::bfloat16>(random, 34, 600, {}, 2, expert, 0);
  for (std::size_t b = 0; b < expert.size(); ++b) { expert[b] = b % 4; }
  check<braid::bfloat16>(random, 34, 600, {}, 2, expert, 0);
  check<float>(random, 5, 600, braid::residual::sign_bits<1>{}, 1, expert, 0);
}

TEST_CASE("a plan names every output once, and reads a shared row once", "[serve]") {
  random_source random(503);
  for (int round = 0; round < 50; ++round) {
    int const experts = random.between(1, 5);
    index_t const channels = random.between(1, 80);
    std::vector<std::vector<detail::row_task>> all(static_cast<std::size_t>(experts));
    for (auto& e : all) {
      for (index_t c = 0; c < channels - (random.chance(0.2) ? 1 : 0); ++c) {
        detail::row_task t;
        t.channel = static_cast<std::int32_t>(c);
        t.row = static_cast<std::int32_t>(2 * c + random.below(2));
        e.push_back(t);
      }
    }
    std::vector<std::size_t> expert;
    for (int b = random.between(0, 40); b > 0; --b) { expert.push_back(static_cast<std::size_t>(random.below(experts))); }
    auto const plan = detail::plan_rows(all, expert, static_cast<std::size_t>(random.between(0, 6)));
    std::map<std::pair<int, int>, int> outputs;  // (vector, channel)
    std::set<std::pair<int, int>> rows;           // (row, channel) of tasks
    for (auto const& t : plan.tasks) { CHECK(rows.insert({t.row, t.channel}).second); }
    for (auto const& tile : plan.tiles) {
      CHECK(tile.tasks <= detail::tile_tasks);
      CHECK(tile.inputs <= detail::tile_inputs);
      for (int t = tile.first; t < tile.first + tile.tasks; ++t) {
        for (int i = tile.first_input; i < tile.first_input + tile.inputs; ++i) {
          auto const& task = plan.tasks[static_cast<std::size_t>(t)];
          int const b = plan.inputs[static_cast<std::size_t>(i)];
          ++outputs[{b, task.channel}];
          CHECK(all[expert[static_cast<std::size_t>(b)]][static_cast<std::size_t>(task.channel)].row == task.row);
        }
      }
    }
    std::size_t expected = 0;
    for (std::size_t const e : expert) { expected += all[e].size(); }
    CHECK(outputs.size() == expected);
    CHECK(std::all_of(outputs.begin(), outputs.end(), [](auto const& o) { return o.second == 1; }));
  }
}

/// The same merge for tensors that a program already has, wherever they lie. Prints what became of each channel.

#include <cstdio>
#include <random>

// example-begin merge-in-memory
#include <braid/braid.hpp>

using merge = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::balanced, braid::cluster::exact,
                                   braid::consensus::ties>;

braid::grouped_tensor<float> merge_three(float const* base, float const* maths, float const* code, float const* law,
                                         braid::index_t rows, braid::index_t cols) {
  merge m{{.groups = 2}};
  braid::cpu be{2};  // threads
  return m(be, "mlp.up_proj.weight", braid::tensor_view<float const>{base, rows, cols},
           std::vector<braid::expert_view<float>>{
               {"maths", {maths, rows, cols}}, {"code", {code, rows, cols}}, {"law", {law, rows, cols}}});
}
// example-end

int main() {
  constexpr braid::index_t rows = 6;
  constexpr braid::index_t cols = 32;
  std::mt19937 random(7);
  std::vector<float> weight[4];  // base, maths, code, law
  for (auto& w : weight) {
    for (braid::index_t i = 0; i < rows * cols; ++i) { w.push_back(static_cast<float>(random() % 1000u) * 1e-3f); }
  }
  weight[2] = weight[1];  // code is maths: they always share a row
  auto const merged = merge_three(weight[0].data(), weight[1].data(), weight[2].data(), weight[3].data(), rows, cols);
  for (std::size_t e = 0; e < merged.experts().size(); ++e) {
    std::printf("%-6s", merged.experts()[e].c_str());
    for (auto const row : merged.rows(e)) { std::printf(" %3d", static_cast<int>(row)); }
    std::printf("\n");
  }
  bool const shared = merged.rows(merged.expert_number("code")) == merged.rows(merged.expert_number("maths"));
  std::printf("%d rows in the pool, instead of %d\n", static_cast<int>(merged.pool_rows()), 3 * static_cast<int>(rows));
  return shared ? 0 : 1;
}

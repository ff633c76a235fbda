// The C++ blocks of docs/methods.md, letter by letter (tests/programs/docs_methods.sh).

// example-begin
#include <braid/braid.hpp>

using ties = braid::task_arithmetic<braid::cpu, braid::prune::magnitude, braid::consensus::weighted_ties>;

std::vector<float> merge_two(float const* base, float const* maths, float const* code, braid::index_t rows, braid::index_t cols) {
  ties const method{{.prune = {.density = 0.5}, .weight = {1.0, 0.5}, .normalize = true}};
  return method.merge<float>(braid::cpu{}, "mlp.up_proj.weight", {base, rows, cols},
                             {{"maths", {maths, rows, cols}}, {"code", {code, rows, cols}}});
}
// example-end

#include "support/catch.hpp"
#include "support/method_models.hpp"

using namespace braid_test;

namespace {

std::vector<std::byte> by_name(braid::cpu const& be, braid::tensor_request const& request, int& required) {
  std::vector<std::byte> gathered;
  std::vector<std::byte> merged_rows(static_cast<std::size_t>(request.inputs.channels * request.inputs.cols) * 4);
  std::byte* const out = merged_rows.data();
  any_method::workspace workspace;
  braid::channel_block const block = request.inputs.block(0, request.inputs.channels, gathered);
  // example-begin
  auto const method = braid::make_tensor_method<braid::cpu>("ties", {.style = braid::method_style::mergekit});
  for (braid::parameter_info const& p : method->info().parameters) { required += p.required ? 1 : 0; }
  auto const plan = method->prepare(be, request);   // measures the tensor, once
  method->apply(*plan, block, out, workspace);      // any block of channels, on any thread
  // example-end
  return merged_rows;
}

}  // namespace

TEST_CASE("the examples of the methods' documentation give one merge", "[method]") {
  random_source random(598);
  family const f = random_family(random, dtype::f32, 9, 40, 2);
  auto const at = [](matrix const& m) { return reinterpret_cast<float const*>(m.memory.data()); };
  auto const typed = merge_two(at(f.base), at(f.experts[0].weight), at(f.experts[1].weight), 9, 40);
  auto request = request_of(f, true, dtype::f32);
  request.parameters.of_tensor["density"] = 0.5;
  request.parameters.of_model["weight"] = values({1.0, 0.5});
  int required = 0;
  auto const bytes = by_name(braid::cpu{1}, request, required);
  CHECK(required == 1);
  CHECK(std::memcmp(bytes.data(), typed.data(), bytes.size()) == 0);
}

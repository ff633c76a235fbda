#include "support/golden.hpp"
#include "support/models_on_disk.hpp"
#include "unit/io_support.hpp"

#include <braid/recipe/adapter.hpp>
#include <braid/recipe/parse.hpp>

using namespace braid_test;
using braid::recipe::adapter;

namespace {

/// A float32 tensor of an adapter.
disk_tensor factor(std::string name, index_t rows, index_t cols, std::vector<float> const& x) {
  disk_tensor t{std::move(name), dtype::f32, {rows, cols}, std::vector<std::byte>(x.size() * 4)};
  std::memcpy(t.data.data(), x.data(), t.data.size());
  return t;
}

std::vector<float> numbers(random_source& random, index_t n) {
  std::vector<float> x;
  for (index_t i = 0; i < n; ++i) { x.push_back(static_cast<float>(random.between(-1000, 1000)) / 512.0f); }
  return x;
}

void write_adapter(std::filesystem::path const& dir, disk_model const& tensors, std::string const& config) {
  write_file(dir / "adapter_model.safetensors", tensors);
  put_file(dir / "adapter_config.json", config);
}

std::vector<float> floats(braid::checkpoint const& c, std::string const& tensor) {
  auto const& t = c.at(tensor);
  REQUIRE(t.type == dtype::f32);
  std::vector<float> x(static_cast<std::size_t>(t.elements()));
  std::memcpy(x.data(), c.bytes(t).data(), x.size() * 4);
  return x;
}

}  // namespace

TEST_CASE("a delta is scale times B A, however its rows are cut", "[recipe][adapter]") {
  random_source random(99);
  for (bool const turned : {false, true}) {
    for (bool const root : {false, true}) {
      temp_dir dir;
      index_t const rank = random.between(1, 9);
      index_t const inputs = random.between(1, 600);
      index_t const outputs = random.between(1, 20);
      auto const a = numbers(random, rank * inputs);
      auto const b = numbers(random, outputs * rank);
      write_adapter(dir.path(),
                    {factor("base_model.model.h.0.fc.lora_A.weight", rank, inputs, a),
                     factor("base_model.model.h.0.fc.lora_B.weight", outputs, rank, b)},
                    std::string("{\"peft_type\": \"LORA\", \"lora_alpha\": 3, \"fan_in_fan_out\": ") +
                        (turned ? "true" : "false") + ", \"use_rslora\": " + (root ? "true" : "false") + "}");
      adapter const lora(dir.path());
      REQUIRE(lora.deltas().size() == 1);
      auto const* const d = lora.find("h.0.fc.weight");
      REQUIRE(d != nullptr);
      CHECK(lora.find("h.0.fc.bias") == nullptr);
      CHECK(d->rows == (turned ? inputs : outputs));
      CHECK(d->cols == (turned ? outputs : inputs));
      double const scale = 3.0 / (root ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
      std::vector<float> whole(static_cast<std::size_t>(d->rows * d->cols));
      lora.rows(*d, 0, d->rows, whole.data());
      double largest = 0.0;
      for (index_t r = 0; r < d->rows; ++r) {
        for (index_t c = 0; c < d->cols; ++c) {
          index_t const o = turned ? c : r;
          index_t const i = turned ? r : c;
          double sum = 0.0;
          for (index_t k = 0; k < rank; ++k) {
            sum += double{b[static_cast<std::size_t>(o * rank + k)]} * a[static_cast<std::size_t>(k * inputs + i)];
          }
          largest = std::max(largest, std::abs(sum * scale - whole[static_cast<std::size_t>(r * d->cols + c)]));
        }
      }
      CHECK(largest < 2e-5);
      for (index_t first = 0; first < d->rows; first += 3) {
        index_t const n = std::min<index_t>(3, d->rows - first);
        std::vector<float> part(static_cast<std::size_t>(n * d->cols));
        lora.rows(*d, first, n, part.data());
        CHECK(std::memcmp(part.data(), whole.data() + first * d->cols, part.size() * 4) == 0);
      }
    }
  }
}

TEST_CASE("merged adapters are what PEFT and mergekit make of them", "[recipe][adapter][golden]") {
  // base + 0.7 * first delta + 0.4 * second delta, in float64.
  auto const models = golden_dir() / "models";
  braid::checkpoint const base(models / "base");
  braid::checkpoint const expected_file = [&] {
    static temp_dir dir;
    std::filesystem::copy_file(golden_dir() / golden_entry("lora-task").at("output").get<std::string>(),
                               dir.path() / "model.safetensors");
    return braid::checkpoint(dir.path());
  }();
  adapter const first(models / "lora");
  adapter const second(models / "lora-rs");
  CHECK(first.deltas().size() == 4);
  CHECK(second.deltas().size() == 4);
  CHECK(second.find("model.layers.1.self_attn.k_proj.weight")->rank() == 2);
  CHECK(second.find("model.layers.1.self_attn.k_proj.weight")->scale == Catch::Approx(3.0 / std::sqrt(2.0)));
  CHECK(second.find("model.layers.1.self_attn.q_proj.weight")->scale == 4.0f);
  int changed = 0;
  for (auto const& t : base.tensors()) {
    auto const from = floats(base, t.name);
    std::vector<double> sum(from.begin(), from.end());
    for (auto const& [lora, weight] : {std::pair{&first, 0.7}, std::pair{&second, 0.4}}) {
      auto const* const d = lora->find(t.name);
      if (d == nullptr) { continue; }
      ++changed;
      std::vector<float> delta(from.size());
      REQUIRE(d->rows * d->cols == t.elements());
      lora->rows(*d, 0, d->rows, delta.data());
      for (std::size_t i = 0; i < sum.size(); ++i) { sum[i] += weight * delta[i]; }
    }
    auto const expected = floats(expected_file, t.name);
    double largest = 0.0;
    for (std::size_t i = 0; i < sum.size(); ++i) { largest = std::max(largest, std::abs(sum[i] - expected[i])); }
    INFO(t.name);
    CHECK(largest < 3e-7);
  }
  CHECK(changed == 8);
}

TEST_CASE("embeddings have factors of their own, turned", "[recipe][adapter]") {
  temp_dir dir;
  write_adapter(dir.path(),
                {factor("base_model.model.embed.lora_embedding_A", 1, 3, {1, 2, 3}),
                 factor("base_model.model.embed.lora_embedding_B", 2, 1, {10, 20})},
                R"({"lora_alpha": 2, "r": 1})");
  adapter const lora(dir.path());
  auto const& d = lora.deltas().at(0);
  CHECK(d.tensor == "embed.weight");
  CHECK((d.rows == 3 && d.cols == 2));
  std::vector<float> x(6);
  lora.rows(d, 0, 3, x.data());
  CHECK(x == std::vector<float>{20, 40, 40, 80, 60, 120});
}

TEST_CASE("adapters that are no deltas are refused", "[recipe][adapter]") {
  disk_model const good{factor("m.lora_A.weight", 1, 2, {1, 2}), factor("m.lora_B.weight", 2, 1, {1, 2})};
  auto const code = [&](disk_model const& tensors, std::string const& config) {
    temp_dir dir;
    write_adapter(dir.path(), tensors, config);
    return code_of([&] { adapter const lora(dir.path()); });
  };
  int const config = number(braid::format_code::adapter_config);
  int const tensors = number(braid::format_code::adapter_tensors);
  CHECK(code(good, R"({"lora_alpha": 1})") == 0);
  CHECK(code(good, R"({"lora_alpha": 1, "use_dora": true})") == config);
  CHECK(code(good, R"({"lora_alpha": 1, "peft_type": "IA3"})") == config);
  CHECK(code(good, "{}") == config);
  CHECK(code(good, "[]") == config);
  CHECK(code(good, R"({"lora_alpha": 1, "rank_pattern": {"(": 1}})") == config);
  CHECK(code(good, R"({"lora_alpha": 1, "r": 2})") == tensors);
  CHECK(code(good, R"({"lora_alpha": 1, "r": 2, "rank_pattern": {"m": 1}})") == 0);
  CHECK(code({good[0]}, R"({"lora_alpha": 1})") == tensors);
  CHECK(code({good[0], factor("m.lora_B.weight", 2, 2, {1, 2, 3, 4})}, R"({"lora_alpha": 1})") == tensors);
  CHECK(code({good[0], good[1], factor("m.modules_to_save.weight", 1, 1, {1})}, R"({"lora_alpha": 1})") == tensors);
}

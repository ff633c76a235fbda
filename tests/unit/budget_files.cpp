/// Storage budgets and column weights through files.

#include "support/models_on_disk.hpp"
#include "support/threads.hpp"
#include "unit/io_support.hpp"

#include <braid/braid.hpp>

using namespace braid_test;

namespace {

using merge_type = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::any, braid::cluster::any,
                                        braid::consensus::mean, braid::residual::palette>;

merge_type under(double stored, braid::residual_code_list codes = {braid::residual_code::sign1, braid::residual_code::ternary}) {
  merge_type::options o;
  o.similarity = braid::similarity::balanced{};
  o.groups = 8;
  o.residual.allowed = codes;
  o.budget.stored = stored;
  return merge_type{o};
}

braid::report run_dir(merge_type const& m, disk_family const& d, std::filesystem::path const& dir,
                      std::filesystem::path const& out, braid::run_options const& options = {}, int threads = 1) {
  allow_many_threads();
  std::vector<braid::checkpoint> experts;
  for (auto const& n : d.names) { experts.emplace_back(dir / n, n); }
  return braid::run(m, braid::checkpoint(dir / "base"), experts, out, options, braid::cpu(threads));
}

std::uint64_t expert_bytes(disk_family const& d) {
  std::uint64_t sum = 0;
  for (auto const& e : d.experts) {
    for (auto const& t : e) { sum += t.data.size(); }
  }
  return sum;
}

}  // namespace

TEST_CASE("a checkpoint is never larger than its budget, whatever it keeps", "[budget]") {
  random_source random(21);
  for (int round = 0; round < 12; ++round) {
    temp_dir const dir;
    auto const d = random_disk_family(random, random.between(2, 5), {braid::dtype::bf16, braid::dtype::f16});
    d.write(dir.path());
    double const all = static_cast<double>(expert_bytes(d));
    // What is stored whatever the budget is: one that is too small says it.
    double least = 0.0;
    try {
      (void)run_dir(under(1e-9), d, dir.path(), dir.path() / "none");
      FAIL("a budget of nothing was accepted");
    } catch (braid::argument_error const& e) {
      std::string const text = e.what();
      least = std::stod(text.substr(text.rfind("give ") + 5));
      CHECK_FALSE(std::filesystem::exists(dir.path() / "none"));
    }
    double const stored = least + (1.05 - least) * random.unit();
    auto const report = run_dir(under(stored), d, dir.path(), dir.path() / "out");
    CHECK(report.stored_fraction <= stored);
    CHECK(static_cast<double>(report.stored_bytes) <= stored * all);
    CHECK(tensor_bytes(dir.path() / "out") == report.stored_bytes);
    braid::grouped_checkpoint const g(dir.path() / "out");
    CHECK(g.stored_bytes() == report.stored_bytes);
    // The smallest budget that is accepted is the size that it gives.
    auto const smallest = run_dir(under(least), d, dir.path(), dir.path() / "smallest");
    CHECK(smallest.stored_fraction <= least);
  }
}

TEST_CASE("a budget above what the experts take keeps every one of them bit for bit", "[budget]") {
  random_source random(22);
  temp_dir const dir;
  auto const d = random_disk_family(random, 4);
  d.write(dir.path());
  (void)run_dir(under(1.5), d, dir.path(), dir.path() / "out");
  braid::grouped_checkpoint const g(dir.path() / "out");
  for (std::size_t e = 0; e < d.names.size(); ++e) {
    g.extract(d.names[e], dir.path() / ("again-" + d.names[e]));
    braid::checkpoint const again(dir.path() / ("again-" + d.names[e]));
    for (auto const& t : d.experts[e]) {
      auto const bytes = again.bytes(again.at(t.name));
      CHECK(std::equal(bytes.begin(), bytes.end(), t.data.begin(), t.data.end()));
    }
  }
}

TEST_CASE("a tensor in a file under a budget is the tensor in memory under it", "[budget]") {
  random_source random(23);
  temp_dir const dir;
  auto d = empty_family(4);
  d.add("model.layers.0.self_attn.q_proj.weight", braid::dtype::bf16, {90, 70}, random, true);
  d.write(dir.path());
  auto const& f = d.merged.begin()->second;
  auto const view = [](matrix const& w) {
    return braid::tensor_view<braid::bfloat16 const>(reinterpret_cast<braid::bfloat16 const*>(w.memory.data()), w.rows, w.cols, w.stride);
  };
  std::vector<braid::expert_view<braid::bfloat16>> experts;
  for (auto const& e : f.experts) { experts.push_back({e.name, view(e.weight)}); }
  for (double const stored : {0.34, 0.45, 0.7}) {
    auto const t = under(stored)(braid::cpu{1}, f.tensor, view(f.base), experts);
    auto const out = dir.path() / std::to_string(stored);
    (void)run_dir(under(stored), d, dir.path(), out);
    braid::grouped_checkpoint const g(out);
    for (std::size_t e = 0; e < experts.size(); ++e) {
      std::vector<braid::bfloat16> a(90 * 70);
      std::vector<braid::bfloat16> b(90 * 70);
      t.extract(e, {a.data(), 90, 70});
      g.read(f.tensor, e, std::as_writable_bytes(std::span(b)));
      CHECK(std::memcmp(a.data(), b.data(), a.size() * 2) == 0);
    }
  }
}

TEST_CASE("a budget's choices depend on neither threads nor blocks", "[budget]") {
  random_source random(24);
  temp_dir const dir;
  auto const d = random_disk_family(random, 4);
  d.write(dir.path());
  braid::run_options options;
  options.tensors = braid::selection({}, {{braid::glob("*q_proj*"), -1}});  // rows that lie across memory, too
  std::uint64_t last = 0;
  std::uint64_t all = 1;
  options.on_progress = [&](braid::progress const& p) {
    last = p.bytes_done;
    all = p.bytes;
  };
  auto const report = run_dir(under(0.75), d, dir.path(), dir.path() / "a", options, 1);
  CHECK(report.stored_fraction <= 0.75);
  CHECK(last == all);
  options.block_rows = 3;
  (void)run_dir(under(0.75), d, dir.path(), dir.path() / "b", options, 4);
  CHECK(contents(dir.path() / "a") == contents(dir.path() / "b"));
}

TEST_CASE("column weights come from a file, and equal ones change nothing", "[weights]") {
  random_source random(25);
  temp_dir const dir;
  auto const d = random_disk_family(random, 3);
  d.write(dir.path());
  auto const weights = [&](std::string const& name, auto const& value) {
    disk_model m;
    for (auto const& [tensor, f] : d.merged) {
      disk_tensor t{tensor, braid::dtype::f32, {f.base.cols}, std::vector<std::byte>(static_cast<std::size_t>(f.base.cols) * 4)};
      for (index_t c = 0; c < f.base.cols; ++c) { store(t.type, value(c), t.data.data(), c); }
      m.push_back(std::move(t));
    }
    write_file(dir.path() / (name + ".safetensors"), m);
    braid::run_options o;
    o.weights.emplace(dir.path() / (name + ".safetensors"));
    (void)run_dir(under(0.6), d, dir.path(), dir.path() / name, o);
    auto all = contents(dir.path() / name);
    return all.begin()->second;
  };
  auto const ones = weights("ones", [](index_t) { return 1.0f; });
  auto const rising = weights("rising", [](index_t c) { return 1.0f + static_cast<float>(c * c); });
  (void)run_dir(under(0.6), d, dir.path(), dir.path() / "plain");
  auto const tensors = [](std::string const& file) {
    std::uint64_t header = 0;
    std::memcpy(&header, file.data(), 8);
    return file.substr(8 + header);
  };
  auto const plain = contents(dir.path() / "plain").begin()->second;
  CHECK(tensors(ones) == tensors(plain));
  CHECK(tensors(rising) != tensors(plain));
}

TEST_CASE("column weights that fit nothing are one clear error", "[weights]") {
  random_source random(26);
  temp_dir const dir;
  auto const d = random_disk_family(random, 2);
  d.write(dir.path());
  auto const attempt = [&](disk_model const& m) {
    write_file(dir.path() / "w.safetensors", m);
    braid::run_options o;
    o.weights.emplace(dir.path() / "w.safetensors");
    return run_dir(under(0.9), d, dir.path(), dir.path() / "out", o);
  };
  auto const vector = [](std::string const& name, std::vector<float> const& x) {
    disk_tensor t{name, braid::dtype::f32, {static_cast<index_t>(x.size())}, std::vector<std::byte>(x.size() * 4)};
    std::memcpy(t.data.data(), x.data(), t.data.size());
    return t;
  };
  std::string const name = d.merged.begin()->first;
  CHECK_THROWS_WITH(attempt({vector("other", {1.0f})}), Catch::Contains("has no weights for any of the 3"));
  CHECK_THROWS_WITH(attempt({vector(name, std::vector<float>(1000, 1.0f))}), Catch::Contains("has 1000 weights"));
  CHECK_THROWS_WITH(attempt({vector(name, {1.0f, -1.0f})}), Catch::Contains("at [1]"));
  CHECK_THROWS_AS(attempt({{name, braid::dtype::bf16, {2}, std::vector<std::byte>(4)}}), braid::shape_error);
  auto const cols = static_cast<std::size_t>(d.merged.begin()->second.base.cols);
  CHECK_THROWS_WITH(attempt({vector(name, std::vector<float>(cols, 0.0f))}), Catch::Contains("all column weights are 0"));
  CHECK_FALSE(std::filesystem::exists(dir.path() / "out"));
  CHECK(attempt({vector(name, std::vector<float>(cols, 1.0f))}).notes.back().find("2 of 3 merged tensors") != std::string::npos);
}

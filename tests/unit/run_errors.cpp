#include "support/models_on_disk.hpp"
#include "support/pipelines.hpp"
#include "unit/io_support.hpp"

#include <csignal>

#include <sys/resource.h>

using namespace braid_test;

namespace {

std::string const q_proj = "model.layers.0.self_attn.q_proj.weight";

/// A family on disk, and what a merge of it says. Whatever goes wrong, nothing may be left.
struct bench {
  random_source random{181};
  temp_dir dir;
  disk_family d = random_disk_family(random, 3);
  recipe r{};
  disk_options options{};

  std::string message() {
    d.write(dir.path());
    return merge_as_it_is();
  }
  std::string merge_as_it_is() {
    std::vector<expert_path> experts;
    for (auto const& n : d.names) { experts.push_back({n, dir.path() / n}); }
    auto const before = names_in(dir.path());
    std::string const said =
        message_of([&] { run_on_disk(r, dir.path() / "base", experts, dir.path() / "out", options); });
    if (!said.empty()) { CHECK(names_in(dir.path()) == before); }
    return said;
  }
  void expect(std::initializer_list<std::string> parts) {
    std::string const said = message();
    CHECK_FALSE(said.empty());
    for (auto const& p : parts) { CHECK(contains(said, p)); }
  }
};

}  // namespace

TEST_CASE("a merge that works says nothing", "[run][errors]") {
  bench b;
  CHECK(b.message().empty());
  CHECK(std::filesystem::exists(b.dir.path() / "out" / "model.safetensors"));
}

TEST_CASE("an expert of another shape is named with its tensor and a way out", "[run][errors]") {
  bench b;
  auto* const t = find(b.d.experts[1], q_proj);
  t->shape = {t->shape[0] + 1, t->shape[1]};
  t->data.resize(static_cast<std::size_t>(elements_of(t->shape)) * 2);
  b.expect({"expert 'expert-001'", q_proj, "experts of one base have equal shapes", "--from-base"});
}

TEST_CASE("a base of another shape is named", "[run][errors]") {
  bench b;
  auto* const t = find(b.d.base, q_proj);
  std::swap(t->shape[0], t->shape[1]);
  if (t->shape[0] == t->shape[1]) {
    t->shape[0] += 1;
    t->data.resize(static_cast<std::size_t>(elements_of(t->shape)) * 2);
  }
  b.expect({"in the base", (b.dir.path() / "base").string(), q_proj, "--keep"});
}

TEST_CASE("a kept tensor of another width is named", "[run][errors]") {
  bench b;
  auto* const t = find(b.d.experts[2], "model.norm.weight");
  t->shape = {17};
  t->data.resize(17 * 4);
  b.expect({"expert 'expert-002'", "model.norm.weight", "[17]", "[16]"});
}

TEST_CASE("a base that lacks a tensor is named with a way out", "[run][errors]") {
  bench b;
  drop(b.d.base, q_proj);
  b.expect({"the base", (b.dir.path() / "base").string(), "has no tensor", q_proj, "--keep '" + q_proj + "'"});
  b.options.rules = {{"keep", q_proj}};
  CHECK(b.message().empty());
}

TEST_CASE("an expert that lacks a tensor is named with a way out", "[run][errors]") {
  bench b;
  drop(b.d.experts[0], q_proj);
  b.expect(
      {"expert 'expert-000'", (b.dir.path() / "expert-000").string(), q_proj, "is missing", "--keep", "--from-base"});
  b.options.rules = {{"base", q_proj}};
  CHECK(b.message().empty());
}

TEST_CASE("a tensor can't be taken from a base that doesn't have it", "[run][errors]") {
  bench b;
  drop(b.d.base, "model.norm.weight");
  b.options.rules = {{"base", "*norm*"}};
  b.expect({"model.norm.weight", "is to be taken from the base", "doesn't have it"});
}

TEST_CASE("experts of different types need to be told what the result shall be", "[run][errors]") {
  bench b;
  auto* const t = find(b.d.experts[1], q_proj);
  t->type = dtype::f16;
  b.expect({"expert 'expert-001'", q_proj, "F16", "BF16", "--dtype"});
  auto* const norm = find(b.d.experts[1], "model.norm.weight");
  t->type = dtype::bf16;
  norm->type = dtype::i32;
  b.options.out = dtype::bf16;
  b.expect({"expert 'expert-001'", "model.norm.weight", "I32", "can't be converted"});
}

TEST_CASE("a type that braid can't compute with can't be merged", "[run][errors]") {
  bench b;
  for (auto* const model : {&b.d.base, &b.d.experts[0], &b.d.experts[1], &b.d.experts[2]}) {
    disk_tensor* const t = find(*model, q_proj);
    t->type = dtype::i16;
  }
  CHECK(b.message().empty());  // kept by default
  std::filesystem::remove_all(b.dir.path() / "out");
  b.options.rules = {{"merge", q_proj}};
  b.expect({q_proj, "I16"});
}

TEST_CASE("NaN and infinity name file, tensor and position", "[run][errors]") {
  for (int const where : {-1, 0, 2}) {
    for (bool const kept : {false, true}) {
      if (where < 0 && kept) { continue; }  // the base's own are not read then
      bench b;
      disk_model& model = where < 0 ? b.d.base : b.d.experts[static_cast<std::size_t>(where)];
      disk_tensor* const t = find(model, kept ? "model.norm.weight" : "model.layers.1.mlp.experts.gate_up_proj");
      index_t const at = kept ? 5 : 17 * (t->shape[1] + 1) - 2;  // second matrix, first row, column 15
      store(t->type, std::nanf(""), t->data.data(), at);
      std::string const folder = where < 0 ? "base" : b.d.names[static_cast<std::size_t>(where)];
      b.expect({(b.dir.path() / folder / "model.safetensors").string(), t->name,
                "has NaN at " + std::string(kept ? "[5]" : "[1, 0, 15]"), "--allow nonfinite",
                where < 0 ? "the base" : "expert '" + folder + "'"});
      b.r.allow_nonfinite = true;
      CHECK(b.message().empty());
    }
  }
}

TEST_CASE("a position in a transposed tensor is the tensor's own", "[run][errors]") {
  bench b;
  disk_tensor* const t = find(b.d.experts[1], q_proj);
  index_t const row = t->shape[0] - 1;
  store(t->type, -INFINITY, t->data.data(), row * t->shape[1]);
  b.options.axes = {{"*q_proj*", 1}};
  b.expect({"has -infinity at [" + std::to_string(row) + ", 0]"});
}

TEST_CASE("finite numbers whose squares overflow are named too", "[run][errors]") {
  bench b;
  disk_tensor* const t = find(b.d.experts[1], q_proj);
  store(t->type, 1e30f, t->data.data(), 0);
  b.expect({"expert 'expert-001'", q_proj, "overflows float32"});
}

TEST_CASE("two experts of one name, bad names and impossible numbers are refused before anything is written",
          "[run][errors]") {
  bench b;
  b.d.names[1] = "a b";
  b.expect({"'a b'"});
  b.d.names[1] = "expert-001";
  b.d.write(b.dir.path());
  auto const before = names_in(b.dir.path());
  std::string said = message_of([&] {
    run_on_disk({}, b.dir.path() / "base", {{"x", b.dir.path() / "expert-000"}, {"x", b.dir.path() / "expert-001"}},
                b.dir.path() / "out");
  });
  CHECK(contains(said, "two experts are named 'x'"));
  said = message_of([&] { run_on_disk({}, b.dir.path() / "base", {}, b.dir.path() / "out"); });
  CHECK(contains(said, "at least one expert"));
  CHECK(names_in(b.dir.path()) == before);
  b.r.groups = 0;
  b.expect({"groups is 0"});
  b.r = {};
  b.options.threads = -2;
  b.expect({"-2 threads"});
}

TEST_CASE("an output inside or over an input is refused", "[run][errors]") {
  bench b;
  b.d.write(b.dir.path());
  auto const before = contents(b.dir.path());
  std::vector<expert_path> experts;
  for (auto const& n : b.d.names) { experts.push_back({n, b.dir.path() / n}); }
  disk_options o;
  o.overwrite = true;
  for (auto const& out : {b.dir.path() / "base" / "out", b.dir.path() / "expert-001", b.dir.path()}) {
    CHECK_FALSE(message_of([&] { run_on_disk({}, b.dir.path() / "base", experts, out, o); }).empty());
    CHECK(contents(b.dir.path()) == before);
  }
}

TEST_CASE("an existing output is replaced only on request, and stays as it was where the merge fails",
          "[run][errors]") {
  bench b;
  CHECK(b.message().empty());
  auto const first = contents(b.dir.path() / "out");
  CHECK(contains(b.merge_as_it_is(), "out"));
  CHECK(contents(b.dir.path() / "out") == first);
  b.options.overwrite = true;
  b.r.groups = 1;
  CHECK(b.merge_as_it_is().empty());
  auto const second = contents(b.dir.path() / "out");
  CHECK(second != first);
  disk_tensor* const t = find(b.d.experts[2], "model.norm.weight");  // among the last to be written
  store(t->type, INFINITY, t->data.data(), 0);
  CHECK(contains(b.message(), "infinity"));
  CHECK(contents(b.dir.path() / "out") == second);
}

TEST_CASE("a grouped checkpoint is no expert", "[run][errors]") {
  bench b;
  CHECK(b.message().empty());
  std::string const said = message_of([&] {
    run_on_disk({}, b.dir.path() / "base", {{"a", b.dir.path() / "out"}, {"b", b.dir.path() / "expert-001"}},
                b.dir.path() / "again");
  });
  CHECK(contains(said, "Extract them first"));
  CHECK_FALSE(std::filesystem::exists(b.dir.path() / "again"));
}

TEST_CASE("a disk that fills up leaves nothing behind", "[run][errors]") {
  bench b;
  b.d.write(b.dir.path());
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  auto const old = std::signal(SIGXFSZ, SIG_IGN);
  for (rlim_t const bytes : {rlim_t{0}, rlim_t{5000}, rlim_t{9000}}) {
    rlimit small = before;
    small.rlim_cur = bytes;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    std::string const said = b.merge_as_it_is();
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(contains(said, "out"));
  }
  std::signal(SIGXFSZ, old);
}

TEST_CASE("a callback that throws ends the merge and leaves nothing", "[run][errors]") {
  bench b;
  int calls = 0;
  b.options.on_progress = [&](braid::progress const&) {
    if (++calls == 3) { throw braid::error("enough"); }
  };
  b.options.threads = 3;
  b.options.block_rows = 1;
  CHECK(b.message() == "enough");
}

#include "support/catch.hpp"
#include "support/grouped_fixture.hpp"
#include "support/temp_dir.hpp"

#include <braid/io/grouped_checkpoint.hpp>

#include <cmath>
#include <thread>

using namespace braid;
using namespace braid_test;

namespace {

bytes read_all(grouped_checkpoint const& g, std::string const& tensor, std::size_t expert) {
  auto const dims = g.shape(expert, tensor);
  std::size_t count = 1;
  for (auto const d : dims) { count *= static_cast<std::size_t>(d); }
  for (auto const& t : g.tensors()) {
    if (t.name == tensor) { count *= size_of(t.type); }
  }
  bytes out(count, std::byte{0xA5});
  g.read(tensor, expert, out);
  return out;
}

/// Whether the grouped checkpoint gives every expert back: by `read`, by `rows`, and by `extract`.
void check_experts(grouped_checkpoint const& g, std::vector<std::string> const& names,
                   std::vector<expert_tensor> const& model, std::filesystem::path const& scratch) {
  std::uint64_t original = 0;
  for (std::size_t n = 0; n < names.size(); ++n) {
    CAPTURE(names[n]);
    auto const out = scratch / ("out-" + names[n]);
    g.extract(names[n], out, {.max_shard_bytes = n % 2 == 0 ? 2000u : 5'000'000'000u, .overwrite = false});
    checkpoint const plain(out);
    CHECK(!grouped_checkpoint::is_grouped(plain));
    CHECK(plain.side_files() == std::vector<std::string>{"config.json"});
    CHECK(plain.config()["expert"] == names[n]);
    std::size_t have = 0;
    for (auto const& t : model) {
      CAPTURE(t.name);
      REQUIRE(g.has(n, t.name) == t.present[n]);
      if (!t.present[n]) {
        CHECK_THROWS_AS(g.shape(n, t.name), argument_error);
        CHECK_THROWS_AS(g.rows(t.name, n), argument_error);
        CHECK_THROWS_AS(g.read(t.name, n, {}), argument_error);
        CHECK(plain.find(t.name) == nullptr);
        continue;
      }
      ++have;
      original += t.data[n].size();
      CHECK(g.shape(n, t.name) == t.shapes[n]);
      CHECK(read_all(g, t.name, n) == t.data[n]);

      auto const* const meta = plain.find(t.name);
      REQUIRE(meta != nullptr);
      CHECK(meta->type == t.type);
      CHECK(meta->shape == t.shapes[n]);
      auto const stored = plain.bytes(*meta);
      CHECK(bytes(stored.begin(), stored.end()) == t.data[n]);

      // The pool by hand: the row that `rows` names holds what the expert has.
      auto const expected = rows_of(t.shapes[n], t.axis, t.type, t.data[n]);
      auto const first = t.present[0] ? rows_of(t.shapes[0], t.axis, t.type, t.data[0]) : std::vector<bytes>{};
      auto const extra = g.extra_rows(t.name);
      auto const rows = g.rows(t.name, n);
      REQUIRE(rows.size() == expected.size());
      for (std::size_t c = 0; c < rows.size(); ++c) {
        auto const r = static_cast<std::size_t>(rows[c]);
        std::size_t const size = expected[c].size();
        if (r < first.size()) {
          CHECK(first[r] == expected[c]);
        } else {
          auto const row = extra.subspan((r - first.size()) * size, size);
          CHECK(bytes(row.begin(), row.end()) == expected[c]);
        }
      }
    }
    CHECK(plain.tensors().size() == have);
  }
  CHECK(g.expert_bytes() == original);
}

}  // namespace

TEST_CASE("every expert comes back bit for bit, whatever the shapes, dtypes, axes and groups") {
  constexpr dtype types[] = {dtype::f32, dtype::bf16, dtype::f16,    dtype::f8_e4m3,
                             dtype::i64, dtype::u8,   dtype::boolean};
  dice d(11);
  for (int round = 0; round < 25; ++round) {
    temp_dir dir;
    std::vector<std::string> const names = [&] {
      std::vector<std::string> all{"Alpha", "add", "b-2", "c_3", "zeta"};
      all.resize(1 + d.below(all.size()));
      return all;
    }();
    std::vector<expert_tensor> model;
    for (std::size_t k = 0, count = 1 + d.below(6); k < count; ++k) {
      shape dims;
      for (std::size_t r = d.below(5); r > 0; --r) {
        dims.push_back(static_cast<index_t>(1 + d.below(r == 1 ? 40 : 6)));
      }
      std::optional<int> axis;
      if (!dims.empty() && d.coin()) { axis = static_cast<int>(d.below(dims.size())); }
      if (axis && *axis == default_channel_axis(dims.size())) { axis.reset(); }
      std::vector<shape> shapes(names.size(), dims);
      std::vector<bool> present(names.size(), true);
      int const grows = growing_dimension(dims.size(), axis.value_or(default_channel_axis(dims.size())));
      std::size_t const kind = d.below(4);
      for (std::size_t n = 0; n < names.size(); ++n) {
        if (kind == 0 && grows >= 0) {
          shapes[n][static_cast<std::size_t>(grows)] = static_cast<index_t>(1 + d.below(9));
        }
        if (kind == 1) { present[n] = d.coin(); }
      }
      present[d.below(names.size())] = true;
      model.push_back(random_tensor(d, "t" + std::to_string(k) + ".weight", types[d.below(std::size(types))], axis,
                                    shapes, present, 1 + d.below(4)));
    }
    group_experts(names, model).write(dir.path() / "g", round % 3 == 0 ? 2 : 1);
    grouped_checkpoint const g(dir.path() / "g");
    CHECK(grouped_checkpoint::is_grouped(g.files()));
    CHECK(g.experts() == names);
    CHECK(g.tensors().size() == model.size());
    check_experts(g, names, model, dir.path());
  }
}

TEST_CASE("tensors larger than any buffer and block come back bit for bit") {
  dice d(12);
  temp_dir dir;
  std::vector<std::string> const names{"a", "b", "c"};
  auto const all = [&](shape const& s) { return std::vector<shape>(names.size(), s); };
  std::vector<bool> const present(names.size(), true);
  std::vector<expert_tensor> model;
  model.push_back(random_tensor(d, "few-long-rows", dtype::f32, {}, all({2, 300'000}), present, 2));
  model.push_back(random_tensor(d, "long-vector", dtype::f32, {}, all({1'100'000}), present, 2));
  model.push_back(random_tensor(d, "many-short-rows", dtype::u8, {}, all({5000, 3}), present, 3));
  model.push_back(random_tensor(d, "transposed", dtype::bf16, 1, all({1500, 1500}), present, 2));
  model.push_back(random_tensor(d, "vocabulary", dtype::bf16, {}, {{2600, 8}, {3000, 8}, {1000, 8}}, present, 2));
  group_experts(names, model).write(dir.path() / "g");
  grouped_checkpoint const g(dir.path() / "g");
  for (auto const& t : model) {
    for (std::size_t n = 0; n < names.size(); ++n) { CHECK(read_all(g, t.name, n) == t.data[n]); }
  }
  for (std::size_t n = 0; n < names.size(); ++n) {
    g.extract(names[n], dir.path() / names[n]);
    checkpoint const plain(dir.path() / names[n]);
    for (auto const& t : model) {
      auto const stored = plain.bytes(plain.at(t.name));
      CHECK(std::equal(stored.begin(), stored.end(), t.data[n].begin(), t.data[n].end()));
    }
  }
}

TEST_CASE("an extracted file is ordered by falling element size, then by name, and says only that it is for PyTorch") {
  dice d(13);
  temp_dir dir;
  std::vector<expert_tensor> model;
  for (auto const& [name, type] : {std::pair{"z", dtype::u8},
                                   {"c", dtype::bf16},
                                   {"b", dtype::f32},
                                   {"d", dtype::i64},
                                   {"a", dtype::bf16},
                                   {"e", dtype::f32}}) {
    model.push_back(random_tensor(d, name, type, {}, {{3, 2}, {3, 2}}, {true, true}, 2));
  }
  group_experts({"x", "y"}, model).write(dir.path() / "g");
  grouped_checkpoint(dir.path() / "g").extract("y", dir.path() / "y");
  safetensors_file const file(dir.path() / "y" / "model.safetensors");
  auto tensors = file.tensors();
  std::sort(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) { return a.offset < b.offset; });
  std::string order;
  for (auto const& t : tensors) { order += t.name; }
  CHECK(order == "dbeacz");
  CHECK(tensors[0].offset % 4096 == 0);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
}

TEST_CASE("a tied tensor is read through its target, and extracted where the expert's own directory stored it") {
  dice d(14);
  temp_dir dir;
  std::vector<expert_tensor> const model{random_tensor(d, "embed", dtype::bf16, {}, {{6, 4}, {8, 4}}, {true, true}, 2)};
  auto files = group_experts({"one", "two"}, model);
  files.description["tied"]["head"] = "embed";
  files.description["experts"][0]["absent"] = {"head"};
  files.description["tensors"]["head"] = {{"action", "keep"}};
  files.write(dir.path() / "g");
  grouped_checkpoint const g(dir.path() / "g");
  CHECK(g.tensors().size() == 1);
  CHECK(g.has(0, "head"));
  CHECK(g.shape(1, "head") == shape{8, 4});
  CHECK(g.rows("head", 1) == g.rows("embed", 1));
  bytes out(model[0].data[1].size());
  g.read("head", 1, out);
  CHECK(out == model[0].data[1]);

  g.extract("one", dir.path() / "one");
  g.extract("two", dir.path() / "two");
  CHECK(checkpoint(dir.path() / "one").find("head") == nullptr);
  checkpoint const two(dir.path() / "two");
  auto const head = two.bytes(two.at("head"));
  CHECK(bytes(head.begin(), head.end()) == model[0].data[1]);
  CHECK(g.expert_bytes() == model[0].data[0].size() + 2 * model[0].data[1].size());
}

TEST_CASE("a tensor that an expert resolves but doesn't store is readable and not extracted") {
  dice d(15);
  temp_dir dir;
  auto files =
      group_experts({"one", "two"}, {random_tensor(d, "embed", dtype::f32, {}, {{3, 2}, {3, 2}}, {true, true}, 2),
                                     random_tensor(d, "head", dtype::f32, {}, {{3, 2}, {3, 2}}, {true, true}, 2)});
  files.description["experts"][1]["absent"] = {"head"};
  files.write(dir.path() / "g");
  grouped_checkpoint const g(dir.path() / "g");
  CHECK(g.has(1, "head"));
  g.extract("two", dir.path() / "two");
  CHECK(checkpoint(dir.path() / "two").find("head") == nullptr);
  CHECK(g.expert_bytes() == 3 * 24);
}

TEST_CASE("experts that are equal need neither extra rows nor an index") {
  dice d(16);
  temp_dir dir;
  auto const files = group_experts(
      {"a", "b", "c"}, {random_tensor(d, "w", dtype::f32, {}, {{9, 5}, {9, 5}, {9, 5}}, {true, true, true}, 1)});
  REQUIRE(files.tensors.size() == 1);
  files.write(dir.path() / "g");
  grouped_checkpoint const g(dir.path() / "g");
  CHECK(g.tensors()[0].extra_rows == 0);
  CHECK(g.extra_rows("w").empty());
  CHECK(g.stored_bytes() == 9 * 5 * 4);
  CHECK(g.expert_bytes() == 3 * 9 * 5 * 4);
  CHECK(g.stored_fraction() == 1.0 / 3.0);
  CHECK(g.rows("w", 2) == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_CASE("the example of docs/format.md reads as it says") {
  temp_dir dir;
  grouped_files f;
  auto const b = [](std::initializer_list<int> values) {
    bytes out;
    for (int const v : values) { out.push_back(static_cast<std::byte>(v)); }
    return out;
  };
  f.tensors = {{"w", dtype::u8, {2, 2}, b({1, 2, 3, 4})},
               {"braid.extra.w", dtype::u8, {3, 2}, b({5, 6, 7, 8, 9, 10})},
               {"braid.group.w", dtype::u8, {3, 3}, b({0, 0, 255, 1, 0, 0, 0, 1, 0})}};
  f.description =
      nlohmann::json::parse(R"({"format":1,"version":"0.1.0","method":"channel_merge","base":{"name":"base"},
      "experts":[{"name":"add"},{"name":"code"},{"name":"sort"}],"shapes":{"w":[3,2]}})");
  f.write(dir.path() / "g");
  grouped_checkpoint const g(dir.path() / "g");
  CHECK(g.rows("w", 0) == std::vector<std::int32_t>{0, 1});
  CHECK(g.rows("w", 1) == std::vector<std::int32_t>{2, 1, 4});
  CHECK(g.rows("w", 2) == std::vector<std::int32_t>{0, 3, 4});
  CHECK(read_all(g, "w", 0) == b({1, 2, 3, 4}));
  CHECK(read_all(g, "w", 1) == b({5, 6, 3, 4, 9, 10}));
  CHECK(read_all(g, "w", 2) == b({1, 2, 7, 8, 9, 10}));
}

TEST_CASE("what a grouped checkpoint says about its tensors") {
  dice d(17);
  temp_dir dir;
  auto files = group_experts({"a", "b"}, {random_tensor(d, "k", dtype::f32, {}, {{4}, {4}}, {true, true}, 1),
                                          random_tensor(d, "w", dtype::bf16, 1, {{4, 6}, {4, 7}}, {true, true}, 9)});
  files.description["tensors"]["w"] = {{"action", "merge"}, {"groups", 2}, {"similarity", 0.25}};
  files.description["tensors"]["k"] = {{"action", "keep"}, {"groups", 1}, {"similarity", nullptr}};
  files.description["later"] = "fields of newer writers are kept";
  files.write(dir.path() / "g");
  grouped_checkpoint const g(dir.path() / "g");
  auto const& w = g.tensors()[1];
  CHECK(w.name == "w");
  CHECK(w.type == dtype::bf16);
  CHECK(w.shape == shape{4, 7});
  CHECK(w.channels == 7);
  CHECK(w.row_elements == 4);
  CHECK(w.axis == 1);
  CHECK(w.first_channels == 6);
  CHECK(static_cast<std::uint64_t>(w.extra_rows) * 8 == g.extra_rows("w").size());
  CHECK(w.stored_bytes == g.first_rows("w").size() + g.extra_rows("w").size() + 2 * 7);
  CHECK(w.action == "merge");
  CHECK(w.groups == 2);
  CHECK(w.similarity == 0.25);
  CHECK(g.tensors()[0].axis == -1);
  CHECK(std::isnan(g.tensors()[0].similarity));
  CHECK(g.description()["later"] == "fields of newer writers are kept");
  CHECK(g.stored_bytes() == g.tensors()[0].stored_bytes + w.stored_bytes);
}

TEST_CASE("a mistaken name or buffer is an argument error that helps") {
  dice d(18);
  temp_dir dir;
  auto const message = [](auto const& f) -> std::string {
    try {
      f();
    } catch (error const& e) { return e.what(); }
    return "no error";
  };
  group_experts({"add", "sort"}, {random_tensor(d, "w", dtype::f32, {}, {{2, 2}, {2, 2}}, {true, true}, 2)})
      .write(dir.path() / "g");
  grouped_checkpoint const g(dir.path() / "g");
  CHECK(g.expert_number("sort") == 1);
  CHECK_THROWS_AS(g.expert_number("sor"), argument_error);
  CHECK(message([&] { (void)g.expert_number("sor"); }).find("\"sor\"; it has add, sort") != std::string::npos);
  CHECK_THROWS_AS(g.extract("none", dir.path() / "x"), argument_error);
  CHECK(!std::filesystem::exists(dir.path() / "x"));
  CHECK_THROWS_AS(g.rows("v", 0), argument_error);
  CHECK_THROWS_AS(g.has(2, "w"), argument_error);
  bytes small(15);
  CHECK_THROWS_AS(g.read("w", 0, small), shape_error);
  CHECK(message([&] { g.read("w", 0, small); }).find("16 bytes, and room for 15") != std::string::npos);
}

TEST_CASE("an extraction that can't be whole leaves nothing, and never writes into what it reads") {
  dice d(19);
  temp_dir dir;
  auto const grouped = dir.path() / "g";
  auto files = group_experts({"a", "b"}, {random_tensor(d, "w", dtype::f32, {}, {{2, 2}, {2, 2}}, {true, true}, 2)});
  files.description["experts"][1]["files"]["tokenizer.json"] = "experts/b/tokenizer.json";  // which isn't there
  files.write(grouped);
  grouped_checkpoint const g(grouped);
  CHECK_THROWS_AS(g.extract("b", dir.path() / "b"), io_error);
  CHECK(!std::filesystem::exists(dir.path() / "b"));
  CHECK_THROWS_AS(g.extract("a", grouped, {.overwrite = true}), argument_error);
  CHECK_THROWS_AS(g.extract("a", grouped / "inside"), argument_error);
  CHECK_THROWS_AS(g.extract("a", grouped / "config.json" / "below-a-file"), error);
  g.extract("a", dir.path() / "a");
  CHECK_THROWS_AS(g.extract("a", dir.path() / "a"), argument_error);
  g.extract("a", dir.path() / "a", {.overwrite = true});
  std::size_t entries = 0;
  for ([[maybe_unused]] auto const& e : std::filesystem::directory_iterator(dir.path())) { ++entries; }
  CHECK(entries == 2);
}

TEST_CASE("many threads read one grouped checkpoint at once") {
  dice d(20);
  temp_dir dir;
  std::vector<shape> const shapes(3, {200, 7});
  auto const t = random_tensor(d, "w", dtype::f32, {}, shapes, {true, true, true}, 2);
  group_experts({"a", "b", "c"}, {t}).write(dir.path() / "g");
  grouped_checkpoint const g(dir.path() / "g");
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t k = 0; k < wrong.size(); ++k) {
    threads.emplace_back([&, k] {
      for (std::size_t i = 0; i < 60; ++i) {
        std::size_t const n = (i + k) % 3;
        bytes out(t.data[n].size());
        g.read("w", n, out);
        wrong[k] += out != t.data[n];
      }
    });
  }
  for (auto& x : threads) { x.join(); }
  CHECK(wrong == std::vector<int>(4, 0));
}

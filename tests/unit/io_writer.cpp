#include "unit/io_plain_reader.hpp"

#include <braid/io/checkpoint.hpp>
#include <braid/io/checkpoint_writer.hpp>

#include <random>
#include <thread>

using namespace braid_test;
using braid::index_t;
using braid::tensor_plan;

namespace {

/// A random plan and the bytes that go into it.
struct random_model {
  std::vector<tensor_plan> plans;
  std::vector<std::string> contents;  // of growing tensors: the rows that they get
  std::vector<std::vector<index_t>> shapes;

  explicit random_model(std::mt19937_64& random) {
    using enum braid::dtype;
    int unit = 0;
    for (auto const type : {f64, i64, f32, bf16, f16, u8, boolean}) {
      for (auto n = random() % 5; n != 0; --n) {
        tensor_plan p{.name = "t" + std::to_string(plans.size()), .type = type};
        for (auto r = random() % 4; r != 0; --r) { p.shape.push_back(static_cast<index_t>(random() % 9)); }
        p.growing = !p.shape.empty() && random() % 3 == 0;
        unit += random() % 2 == 0 ? 1 : 0;
        p.unit = random() % 4 == 0 ? -1 : unit;
        auto shape = p.shape;
        if (p.growing) { shape[0] = static_cast<index_t>(random() % static_cast<std::uint64_t>(shape[0] + 1)); }
        std::size_t size = braid::size_of(type);
        for (auto const d : shape) { size *= static_cast<std::size_t>(d); }
        std::string content(size, '\0');
        for (char& c : content) { c = static_cast<char>(static_cast<unsigned char>(random())); }
        plans.push_back(p);
        contents.push_back(content);
        shapes.push_back(shape);
      }
    }
  }

  [[nodiscard]] bool in_file(std::size_t i) const { return !plans[i].growing || !contents[i].empty(); }

  /// Writes everything in pieces of at most `piece` bytes, fixed tensors from their end.
  void write(braid::checkpoint_writer& w, std::size_t piece) const {
    for (std::size_t i = 0; i < plans.size(); ++i) {
      std::size_t const slot = w.begin(plans[i].name);
      std::string const& c = contents[i];
      for (std::size_t done = 0; done < c.size();) {
        std::size_t const n = std::min(piece, c.size() - done);
        if (plans[i].growing) {
          w.append(slot, bytes_of(c).subspan(done, n));
        } else {
          w.write(slot, c.size() - done - n, bytes_of(c).subspan(c.size() - done - n, n));
        }
        done += n;
      }
    }
  }
};

}  // namespace

TEST_CASE("what is written is read back, by braid and by a plain reader, aligned, for random models and shards") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 60; ++round) {
    temp_dir t;
    random_model const m(random);
    std::uint64_t const limit = round % 3 == 0 ? 5'000'000'000 : random() % 3000;
    auto const out = t.path() / "out";
    std::uint64_t total = 0;
    for (auto const& c : m.contents) { total += c.size(); }
    {
      braid::checkpoint_writer w(out, m.plans, 40,
                                 {.max_shard_bytes = limit, .stem = round % 2 == 0 ? "model" : "braid"});
      m.write(w, random() % 50 + 1);
      CHECK(w.bytes_written() == total);
      CHECK(!std::filesystem::exists(out));
      w.commit({{"braid", "{\"a\":\"\\u00e9\"}"}});
    }
    CHECK(names_in(t.path()) == std::vector<std::string>{"out"});

    braid::checkpoint const c{out};
    CHECK(c.metadata("format").value() == "pt");
    CHECK(c.metadata("braid").value() == "{\"a\":\"\\u00e9\"}");
    std::size_t expected = 0;
    std::map<std::string, std::uint64_t> shard_bytes;
    std::map<std::string, std::map<std::string, plain_tensor>> plain;
    for (std::size_t i = 0; i < m.plans.size(); ++i) {
      auto const* meta = c.find(m.plans[i].name);
      REQUIRE((meta != nullptr) == m.in_file(i));
      if (meta == nullptr) { continue; }
      ++expected;
      CHECK(meta->type == m.plans[i].type);
      CHECK(meta->shape == m.shapes[i]);
      CHECK(text_of(c.bytes(*meta)) == m.contents[i]);
      CHECK(meta->offset % braid::size_of(meta->type) == 0);
      auto const file = c.file_of(*meta).string();
      shard_bytes[file] += meta->bytes;
      if (!plain.contains(file)) { plain[file] = plain_read(file); }
      auto const& p = plain[file].at(meta->name);
      CHECK(p.type == name_of(meta->type));
      CHECK(p.shape == m.shapes[i]);
      CHECK(p.data == m.contents[i]);
      // Neighbours of one unit share a file.
      if (i > 0 && m.plans[i].unit >= 0 && m.plans[i].unit == m.plans[i - 1].unit && m.in_file(i - 1)) {
        CHECK(c.at(m.plans[i - 1].name).file == meta->file);
      }
    }
    CHECK(c.tensors().size() == expected);
    // A file that is larger than the limit holds a single unit.
    for (auto const& [file, bytes] : shard_bytes) {
      if (bytes <= limit) { continue; }
      std::set<int> units;
      for (std::size_t i = 0; i < m.plans.size(); ++i) {
        auto const* meta = c.find(m.plans[i].name);
        if (meta == nullptr || meta->bytes == 0 || c.file_of(*meta).string() != file) { continue; }
        units.insert(m.plans[i].unit >= 0 ? m.plans[i].unit : -1 - static_cast<int>(i));
      }
      CHECK(units.size() == 1);
    }
  }
}

TEST_CASE("the same tensors give the same files, in whatever pieces and by however many threads they are written") {
  std::mt19937_64 random(11);
  temp_dir t;
  random_model const m(random);
  for (std::size_t piece : {1u, 7u, 1000000u}) {
    braid::checkpoint_writer w(t.path() / std::to_string(piece), m.plans, 0, {.max_shard_bytes = 100});
    m.write(w, piece);
    w.commit({});
  }
  auto const files = names_in(t.path() / "1");
  CHECK(files.size() > 2);
  for (auto const* other : {"7", "1000000"}) {
    CHECK(names_in(t.path() / other) == files);
    for (auto const& f : files) { CHECK(get_file(t.path() / other / f) == get_file(t.path() / "1" / f)); }
  }

  std::string content(400000, '\0');
  for (char& c : content) { c = static_cast<char>(static_cast<unsigned char>(random())); }
  braid::checkpoint_writer w(t.path() / "threads", one_tensor(400000), 0);
  std::size_t const slot = w.begin("w");
  std::vector<std::thread> threads;
  for (std::size_t k = 0; k < 4; ++k) {
    threads.emplace_back([&, k] {
      for (std::size_t at = k * 1000; at < content.size(); at += 4000) {
        w.write(slot, at, bytes_of(content).subspan(at, 1000));
      }
    });
  }
  for (auto& thread : threads) { thread.join(); }
  w.commit({});
  CHECK(plain_read(t.path() / "threads" / "model.safetensors").at("w").data == content);
}

TEST_CASE("shards are numbered, listed in an index, and only the first has the metadata") {
  temp_dir t;
  std::vector<tensor_plan> plans;
  for (auto const* n : {"a", "b", "c"}) { plans.push_back({.name = n, .type = braid::dtype::u8, .shape = {3}}); }
  plans.push_back({.name = "grows", .type = braid::dtype::u8, .shape = {100}, .growing = true});
  braid::checkpoint_writer w(t.path() / "out", plans, 20, {.max_shard_bytes = 6, .stem = "braid"});
  for (auto const* n : {"a", "b", "c"}) { w.write(w.begin(n), 0, bytes_of("xyz")); }
  w.begin("grows");  // gets a file for its 100 bytes, and none of them
  w.commit({{"k", "v"}});
  std::string const one = "braid-00001-of-00002.safetensors";
  std::string const two = "braid-00002-of-00002.safetensors";
  CHECK(names_in(t.path() / "out") == std::vector<std::string>{one, two, "braid.safetensors.index.json"});
  auto const index = nlohmann::json::parse(get_file(t.path() / "out" / "braid.safetensors.index.json"));
  CHECK((index["weight_map"] == nlohmann::json{{"a", one}, {"b", one}, {"c", two}}));
  CHECK((index["metadata"]["total_size"] == 9));
  using strings = std::map<std::string, std::string>;
  CHECK(braid::safetensors_file(t.path() / "out" / one).metadata() == strings{{"format", "pt"}, {"k", "v"}});
  CHECK(braid::safetensors_file(t.path() / "out" / two).metadata() == strings{{"format", "pt"}});
}

TEST_CASE("a tensor may begin a file, where the order of element sizes starts anew, and files may be renamed before the commit") {
  temp_dir t;
  using enum braid::dtype;
  std::vector<tensor_plan> const plans{{.name = "a", .type = u8, .shape = {3}},
                                       {.name = "b", .type = bf16, .shape = {4}, .growing = true, .new_file = true},
                                       {.name = "c", .type = u8, .shape = {1}}};
  for (std::size_t const rows : {std::size_t{0}, std::size_t{2}}) {
    auto const out = t.path() / ("out" + std::to_string(rows));
    braid::checkpoint_writer w(out, plans, 0);
    w.write(w.begin("a"), 0, bytes_of("xyz"));
    w.append(w.begin("b"), bytes_of("abcd").first(2 * rows));
    w.write(w.begin("c"), 0, bytes_of("c"));
    CHECK_THROWS_AS(w.rename_stem(".hidden"), braid::argument_error);
    w.rename_stem("other");
    w.commit({});
    braid::checkpoint const c(out);
    CHECK(c.file_of(c.at("a")).filename() == "other-00001-of-00002.safetensors");
    CHECK(c.file_of(c.at("c")).filename() == "other-00002-of-00002.safetensors");
    CHECK((c.find("b") != nullptr) == (rows > 0));
    if (rows > 0) { CHECK(c.at("b").offset % 4096 == 0); }
  }
  // Nothing precedes it: there is no empty file.
  braid::checkpoint_writer w(t.path() / "one", {{.name = "b", .type = bf16, .shape = {2}, .new_file = true}}, 0);
  w.write(w.begin("b"), 0, bytes_of("abcd"));
  w.commit({});
  CHECK(names_in(t.path() / "one") == std::vector<std::string>{"model.safetensors"});
}

TEST_CASE("names that need escapes and a model of no tensors are written and read back") {
  temp_dir t;
  std::string const name = "quote\" back\\slash \n \xC3\xA9 /";
  braid::checkpoint_writer w(t.path() / "out", {{.name = name, .type = braid::dtype::u8, .shape = {1}}}, 30);
  w.write(w.begin(name), 0, bytes_of("x"));
  w.commit({{"k\n", "\xC3\xA9\""}});
  CHECK(braid::checkpoint{t.path() / "out"}.at(name).bytes == 1);
  CHECK(braid::checkpoint{t.path() / "out"}.metadata("k\n").value() == "\xC3\xA9\"");
  braid::checkpoint_writer none(t.path() / "none", {}, 0);
  none.commit({});
  CHECK(braid::checkpoint{t.path() / "none"}.tensors().empty());
}

TEST_CASE("side files are added and copied, in directories too, and stay inside the checkpoint") {
  temp_dir t;
  std::string const large(700000, 'L');
  put_file(t.path() / "tokenizer.json", large);
  std::filesystem::create_symlink("tokenizer.json", t.path() / "link.json");
  braid::checkpoint_writer w(t.path() / "out", {}, 0);
  w.add_file("config.json", "{}");
  w.add_file("experts/a/config.json", "{\"a\":1}");
  w.copy_file(t.path() / "link.json", "experts/a/tokenizer.json");
  w.copy_file(t.path() / "tokenizer.json", "tokenizer.json");
  for (std::string const bad : {"", "../x", "/etc/x", "a/../x", "a/", ".", "./x", "model.safetensors",
                                "x.safetensors.index.json", "config.json", "experts"}) {
    INFO(bad);
    CHECK_THROWS_AS(w.add_file(bad, ""), braid::argument_error);
  }
  CHECK_THROWS_AS(w.add_file("config.json/x", ""), braid::io_error);
  CHECK_THROWS_AS(w.copy_file(t.path() / "gone", "gone"), braid::io_error);
  CHECK_THROWS_AS(w.copy_file(t.path(), "dir"), braid::io_error);
  w.commit({});
  CHECK(get_file(t.path() / "out/experts/a/config.json") == "{\"a\":1}");
  CHECK(get_file(t.path() / "out/experts/a/tokenizer.json") == large);
  CHECK(std::filesystem::is_regular_file(std::filesystem::symlink_status(t.path() / "out/experts/a/tokenizer.json")));
  CHECK(names_in(t.path() / "out") ==
        std::vector<std::string>{"config.json", "experts", "model.safetensors", "tokenizer.json"});
}

TEST_CASE("what a tensor grows by may be written later, by many threads, in a tmpfs too") {
  std::mt19937_64 random(13);
  std::string content(600'000, '\0');
  for (char& c : content) { c = static_cast<char>(static_cast<unsigned char>(random())); }
  temp_dir t;
  std::filesystem::path const in_memory = "/dev/shm";  // where Linux has one
  bool const has_memory = std::filesystem::is_directory(in_memory) && ::access(in_memory.c_str(), W_OK) == 0;
  auto const memory = in_memory / ("braid-test-" + std::to_string(::getpid()));
  for (auto const& out : {t.path() / "out", has_memory ? memory : t.path() / "other"}) {
    {
      braid::checkpoint_writer w(out,
                                 {{.name = "a", .type = braid::dtype::u8, .shape = {5}},
                                  {.name = "g", .type = braid::dtype::u8, .shape = {9'000'000, 10}, .growing = true},
                                  {.name = "z", .type = braid::dtype::u8, .shape = {3}}},
                                 0);
      w.write(w.begin("a"), 0, bytes_of("12345"));
      auto const g = w.begin("g");
      std::vector<std::uint64_t> at;
      for (std::size_t i = 0; i < 60; ++i) { at.push_back(w.extend(g, 10'000)); }
      CHECK(at.back() == 590'000);
      CHECK_THROWS_AS(w.write(g, 599'999, bytes_of("12")), braid::argument_error);
      CHECK_THROWS_AS(w.extend(g, 90'000'000), braid::argument_error);
      auto const z = w.begin("z");
      CHECK_THROWS_AS(w.extend(g, 10), braid::argument_error);
      w.write(z, 0, bytes_of("xyz"));
      std::vector<std::thread> threads;
      for (std::size_t k = 0; k < 4; ++k) {
        threads.emplace_back([&, k] {
          for (std::size_t i = k; i + 1 < at.size(); i += 4) { w.write(g, at[i], bytes_of(content).subspan(at[i], 10'000)); }
        });
      }
      for (auto& thread : threads) { thread.join(); }
      CHECK(contains(message_of([&] { w.commit({}); }), "tensor \"g\" has 600000 bytes, and 590000 were written"));
      w.write(g, at.back(), bytes_of(content).subspan(at.back()));
      w.commit({});
    }
    auto const all = plain_read(out / "model.safetensors");
    CHECK(all.at("a").data == "12345");
    CHECK(all.at("g").shape == std::vector<index_t>{60'000, 10});
    CHECK(all.at("g").data == content);
    CHECK(all.at("z").data == "xyz");
    CHECK(std::filesystem::file_size(out / "model.safetensors") == 4096 + 600'008);
  }
  std::filesystem::remove_all(memory);
}

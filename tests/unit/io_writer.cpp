#include "unit/io_support.hpp"

#include <braid/io/checkpoint.hpp>
#include <braid/io/checkpoint_writer.hpp>

#include <csignal>
#include <cstring>
#include <random>
#include <thread>

#include <sys/resource.h>

using namespace braid_test;
using braid::index_t;
using braid::tensor_plan;

namespace {

std::string text_of(std::span<std::byte const> b) { return {reinterpret_cast<char const*>(b.data()), b.size()}; }
std::span<std::byte const> bytes_of(std::string const& s) { return std::as_bytes(std::span(s)); }

/// A tensor as the plain reader below finds it.
struct plain_tensor {
  std::string type;
  std::vector<index_t> shape;
  std::size_t begin = 0;  // from the start of the file
  std::string data;
};

/// Reads a safetensors file knowing nothing but its layout; names must need no escapes.
std::map<std::string, plain_tensor> plain_read(std::filesystem::path const& path) {
  std::string const file = get_file(path);
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  REQUIRE(length <= file.size() - 8);
  REQUIRE((length + 8) % 4096 == 0);
  std::string const h = file.substr(8, length);
  REQUIRE(h.substr(0, 16) == "{\"__metadata__\":");
  auto const numbers = [&](std::size_t at) {
    std::vector<index_t> v;
    for (++at; h[at] != ']'; at += h[at] == ',') {
      std::size_t used = 0;
      v.push_back(std::stoll(h.substr(at, 24), &used));
      at += used;
    }
    return v;
  };
  std::map<std::string, plain_tensor> all;
  for (std::size_t at = 0; (at = h.find("\":{\"dtype\":\"", at)) != std::string::npos; ++at) {
    std::size_t const quote = h.rfind('"', at - 1);
    std::size_t const type = at + 12;
    plain_tensor t;
    t.type = h.substr(type, h.find('"', type) - type);
    t.shape = numbers(h.find("\"shape\":", at) + 8);
    auto const offsets = numbers(h.find("\"data_offsets\":", at) + 15);
    t.begin = 8 + length + static_cast<std::size_t>(offsets.at(0));
    t.data = file.substr(t.begin, static_cast<std::size_t>(offsets.at(1) - offsets.at(0)));
    REQUIRE(t.begin + t.data.size() <= file.size());
    REQUIRE(all.emplace(h.substr(quote + 1, at - quote - 1), t).second);
  }
  return all;
}

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

/// No file of this process may become larger while it lives.
class file_size_limit {
 public:
  explicit file_size_limit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit const now{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &now);
  }
  ~file_size_limit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  file_size_limit(file_size_limit const&) = delete;
  file_size_limit& operator=(file_size_limit const&) = delete;

 private:
  void (*handler_)(int);
  rlimit before_{};
};

std::vector<tensor_plan> one_tensor(index_t size) { return {{.name = "w", .type = braid::dtype::u8, .shape = {size}}}; }

void write_model(std::filesystem::path const& out, std::string const& content, bool overwrite = false) {
  braid::checkpoint_writer w(out, one_tensor(static_cast<index_t>(content.size())), 0, {.overwrite = overwrite});
  w.write(w.begin("w"), 0, bytes_of(content));
  w.commit({});
}

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

TEST_CASE("a plan that can't be meant is refused and leaves nothing") {
  temp_dir t;
  using enum braid::dtype;
  std::vector<std::vector<tensor_plan>> const plans{
      {{.name = "a", .type = u8, .shape = {1}}, {.name = "b", .type = bf16, .shape = {1}}},
      {{.name = "a", .type = u8, .shape = {1}}, {.name = "a", .type = u8, .shape = {1}}},
      {{.name = "__metadata__", .type = u8, .shape = {1}}},
      {{.name = "\xff", .type = u8, .shape = {1}}},
      {{.name = "a", .type = u8, .shape = {-1}}},
      {{.name = "a", .type = u8, .shape = {}, .growing = true}},
      {{.name = "a", .type = f32, .shape = {index_t{1} << 61}}},
      {{.name = "a", .type = u8, .shape = {index_t{1} << 62}}, {.name = "b", .type = u8, .shape = {index_t{1} << 62}}},
      {{.name = "a", .type = u8, .shape = std::vector<index_t>(65, 1)}},
  };
  for (auto const& p : plans) {
    CHECK_THROWS_AS(braid::checkpoint_writer(t.path() / "x" / "out", p, 0), braid::argument_error);
  }
  CHECK_THROWS_AS(braid::checkpoint_writer(t.path() / "out", {}, 0, {.stem = "a/b"}), braid::argument_error);
  CHECK_THROWS_AS(braid::checkpoint_writer(t.path() / "out", {}, 0, {.stem = ""}), braid::argument_error);
  CHECK(names_in(t.path()).empty());
}

TEST_CASE("calls out of order or out of bounds are refused") {
  temp_dir t;
  using enum braid::dtype;
  auto const out = t.path() / "out";
  {
    braid::checkpoint_writer w(out,
                               {{.name = "a", .type = bf16, .shape = {2, 2}},
                                {.name = "g", .type = bf16, .shape = {3, 2}, .growing = true},
                                {.name = "z", .type = u8, .shape = {}}},
                               10);
    CHECK_THROWS_AS(w.begin("g"), braid::argument_error);
    CHECK_THROWS_AS(w.write(0, 0, {}), braid::argument_error);
    auto const a = w.begin("a");
    CHECK_THROWS_AS(w.begin("a"), braid::argument_error);
    CHECK_THROWS_AS(w.write(a, 0, bytes_of("123456789")), braid::argument_error);
    CHECK_THROWS_AS(w.write(a, 8, bytes_of("1")), braid::argument_error);
    CHECK_THROWS_AS(w.write(a, ~std::uint64_t{0}, bytes_of("12")), braid::argument_error);
    CHECK_THROWS_AS(w.append(a, bytes_of("12")), braid::argument_error);
    CHECK_THROWS_AS(w.write(17, 0, {}), braid::argument_error);
    w.write(a, 0, bytes_of("1234"));
    auto const g = w.begin("g");
    CHECK_THROWS_AS(w.write(g, 0, bytes_of("12")), braid::argument_error);
    CHECK_THROWS_AS(w.append(g, bytes_of("1234567890123")), braid::argument_error);
    w.append(g, bytes_of("12"));
    CHECK(contains(message_of([&] { w.begin("z"); }), "ends inside a row"));
    w.append(g, bytes_of("34"));
    auto const z = w.begin("z");
    CHECK_THROWS_AS(w.append(g, bytes_of("1234")), braid::argument_error);
    CHECK(contains(message_of([&] { w.commit({}); }), "tensor \"a\" has 8 bytes, and 4 were written"));
    w.write(a, 4, bytes_of("5678"));
    w.write(z, 0, bytes_of("z"));
    CHECK_THROWS_AS(w.begin("more"), braid::argument_error);
    CHECK(contains(message_of([&] {
                     w.commit({{"key", "value"}});
                   }),
                   "the metadata needs 15 bytes, and 10 were reserved"));
    w.commit({});
    CHECK_THROWS_AS(w.commit({}), braid::argument_error);
  }
  auto const all = plain_read(out / "model.safetensors");
  CHECK(all.at("a").data == "12345678");
  CHECK(all.at("g").data == "1234");
  CHECK(all.at("g").shape == std::vector<index_t>{1, 2});
  CHECK(all.at("z").data == "z");

  braid::checkpoint_writer w(t.path() / "missing", one_tensor(1), 0);
  CHECK(contains(message_of([&] { w.commit({}); }), "was planned and never begun"));
}

TEST_CASE("without a commit nothing is left, neither files nor descriptors nor parents") {
  temp_dir t;
  auto const descriptors = open_descriptors();
  {
    braid::checkpoint_writer w(t.path() / "deep" / "er" / "out", one_tensor(3), 0);
    w.write(w.begin("w"), 0, bytes_of("abc"));
    w.add_file("experts/a/config.json", "{}");
    CHECK(names_in(t.path() / "deep" / "er").size() == 1);
    CHECK(names_in(t.path() / "deep" / "er")[0].starts_with(".out.partial-"));
  }
  CHECK(names_in(t.path()).empty());
  {
    braid::checkpoint_writer w(t.path() / "deep" / "out", one_tensor(3), 0);
    put_file(t.path() / "deep" / "somebody's", "");
  }
  CHECK(names_in(t.path() / "deep") == std::vector<std::string>{"somebody's"});
  write_model(t.path() / "done", "abc");
  CHECK(open_descriptors() == descriptors);
}

TEST_CASE("a full disk is an io_error with path, reason and advice, and leaves nothing") {
  temp_dir t;
  auto const descriptors = open_descriptors();
  std::string const content(200000, 'x');
  auto const check = [&](std::string const& m) {
    CHECK(contains(m, (t.path() / "out").string()));
    CHECK(contains(m, "write failed: File too large; raise the limit on file sizes (ulimit -f)"));
    CHECK(names_in(t.path()).empty());
    CHECK(open_descriptors() == descriptors);
  };
  auto const limited = [&](rlim_t bytes, auto&& f) {
    file_size_limit const limit(bytes);
    return message_of(f);
  };
  check(limited(100001, [&] { write_model(t.path() / "out", content); }));  // in the middle of a piece
  check(limited(4000, [&] { write_model(t.path() / "out", ""); }));         // in the header
  check(limited(1000, [&] {
    braid::checkpoint_writer w(t.path() / "out", {}, 0);
    w.add_file("tokenizer.json", content);
  }));
  put_file(t.path() / "source" / "tokenizer.json", content);
  auto const m = limited(1000, [&] {
    braid::checkpoint_writer w(t.path() / "out", {}, 0);
    w.copy_file(t.path() / "source" / "tokenizer.json", "tokenizer.json");
  });
  CHECK(contains(m, "out/tokenizer.json: write failed"));
  CHECK(names_in(t.path()) == std::vector<std::string>{"source"});

  braid::detail::unique_fd const full = braid::detail::open_file("/dev/full", O_WRONLY);
  auto const enospc = message_of([&] { braid::detail::write_all(full.get(), bytes_of("x"), 0, "/dev/full"); });
  CHECK(contains(enospc, "No space left on device; free space on that disk, or write elsewhere"));
}

TEST_CASE("overwriting replaces the whole directory, and a failure keeps the old one") {
  temp_dir t;
  auto const out = t.path() / "out";
  write_model(out, "old");
  put_file(out / "README.md", "of the old one");
  auto const is_old = [&] {
    return names_in(t.path()) == std::vector<std::string>{"out"} &&
           names_in(out) == std::vector<std::string>{"README.md", "model.safetensors"} &&
           plain_read(out / "model.safetensors").at("w").data == "old";
  };
  CHECK_THROWS_AS(write_model(out, "new"), braid::argument_error);
  CHECK(is_old());
  { braid::checkpoint_writer const w(out, one_tensor(3), 0, {.overwrite = true}); }
  CHECK(is_old());
  {
    file_size_limit const limit(4097);
    CHECK_THROWS_AS(write_model(out, "new", true), braid::io_error);
  }
  CHECK(is_old());

  braid::checkpoint const reader{out};
  write_model(out, "new", true);
  CHECK(names_in(t.path()) == std::vector<std::string>{"out"});
  CHECK(names_in(out) == std::vector<std::string>{"model.safetensors"});
  CHECK(plain_read(out / "model.safetensors").at("w").data == "new");
  CHECK(text_of(reader.bytes(reader.at("w"))) == "old");  // whoever has it open keeps it
}

TEST_CASE("an output that appears while a checkpoint is written isn't touched") {
  temp_dir t;
  auto const out = t.path() / "out";
  for (bool const overwrite : {false, true}) {
    {
      braid::checkpoint_writer w(out, {}, 0, {.overwrite = overwrite});
      put_file(out / "thesis.tex", "precious");
      CHECK_THROWS_AS(w.commit({}), braid::argument_error);
    }
    CHECK(names_in(t.path()) == std::vector<std::string>{"out"});
    CHECK(names_in(out) == std::vector<std::string>{"thesis.tex"});
    std::filesystem::remove_all(out);
  }
}

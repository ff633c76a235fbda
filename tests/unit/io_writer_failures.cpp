#include "support/file_size_limit.hpp"
#include "unit/io_plain_reader.hpp"

#include <braid/io/checkpoint.hpp>
#include <braid/io/detail/spool_file.hpp>

using namespace braid_test;
using braid::index_t;
using braid::tensor_plan;

namespace {

void write_model(std::filesystem::path const& out, std::string const& content, bool overwrite = false) {
  braid::checkpoint_writer w(out, one_tensor(static_cast<index_t>(content.size())), 0, {.overwrite = overwrite});
  w.write(w.begin("w"), 0, bytes_of(content));
  w.commit({});
}

}  // namespace

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
    CHECK_THROWS_AS(w.write(a, 0, bytes_of("1")), braid::argument_error);
    CHECK_THROWS_AS(w.append(g, bytes_of("12")), braid::argument_error);
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

TEST_CASE("bytes that wait in a temporary file come back in any pieces, and the file has no name") {
  temp_dir t;
  std::size_t const before = open_descriptors();
  {
    braid::detail::spool_file spool(t.path(), "shown");
    CHECK(names_in(t.path()).empty());
    std::string all;
    for (int i = 0; i < 300; ++i) {
      std::string const piece(static_cast<std::size_t>(i * 37 % 20'000), static_cast<char>('a' + i % 26));
      spool.append(bytes_of(piece));
      all += piece;
    }
    CHECK(spool.size() == all.size());
    REQUIRE(all.size() > (std::size_t{1} << 20));  // more than one piece
    for (auto const& [first, count] :
         {std::pair<std::size_t, std::size_t>{0, all.size()}, {1, 0}, {12'345, 1'500'000}, {all.size() - 1, 1}}) {
      std::string got;
      spool.read(first, count, [&](std::span<std::byte const> piece) {
        got.append(reinterpret_cast<char const*>(piece.data()), piece.size());
      });
      CHECK(got == all.substr(first, count));
    }
    file_size_limit const limit(static_cast<rlim_t>(all.size() + 10));
    CHECK(contains(message_of([&] { spool.append(bytes_of(std::string(100, 'x'))); }), "shown: write failed"));
  }
  CHECK(open_descriptors() == before);
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

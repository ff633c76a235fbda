#include "unit/io_support.hpp"

#include <braid/io/detail/partial_directory.hpp>

using namespace braid_test;
namespace fs = std::filesystem;

namespace {

std::string refusal(fs::path const& out, std::vector<fs::path> const& inputs, bool overwrite) {
  return message_of([&] { braid::check_output(out, inputs, overwrite); });
}

}  // namespace

TEST_CASE("a new path is a good output, also below directories that don't exist yet") {
  temp_dir t;
  put_file(t.path() / "in" / "model.safetensors", "");
  CHECK(refusal(t.path() / "out", {t.path() / "in"}, false).empty());
  CHECK(refusal(t.path() / "a" / "b" / "out" / "", {t.path() / "in"}, false).empty());
  CHECK(refusal(t.path() / "in2", {t.path() / "in"}, false).empty());  // a common prefix isn't a common directory
  CHECK(refusal(t.path() / "gone" / ".." / "out", {}, true).empty());
  CHECK(names_in(t.path()) == std::vector<std::string>{"in"});
}

TEST_CASE("an existing path is refused, unless it may be overwritten and looks like a checkpoint") {
  temp_dir t;
  fs::create_directories(t.path() / "empty");
  put_file(t.path() / "weights" / "model-00001-of-00002.safetensors", "");
  put_file(t.path() / "index" / "model.safetensors.index.json", "");
  put_file(t.path() / "home" / "config.json", "");  // many programs have one
  put_file(t.path() / "file", "");
  fs::create_symlink("nowhere", t.path() / "dangling");
  for (auto const* name : {"empty", "weights", "index", "home", "file", "dangling"}) {
    CHECK(contains(refusal(t.path() / name, {}, false), "exists already"));
  }
  for (auto const* name : {"empty", "weights", "index"}) { CHECK(refusal(t.path() / name, {}, true).empty()); }
  CHECK(contains(refusal(t.path() / "home", {}, true), "doesn't look like a checkpoint"));
  CHECK(contains(refusal(t.path() / "file", {}, true), "isn't a directory"));
  CHECK(contains(refusal(t.path() / "dangling", {}, true), "isn't a directory"));
  CHECK(contains(refusal("", {}, true), "the output path is empty"));
  CHECK(!refusal("/", {}, true).empty());
  CHECK(contains(refusal("/proc", {}, true), "/proc"));
}

TEST_CASE("an output under a regular file is an io_error that names the file") {
  temp_dir t;
  put_file(t.path() / "file", "");
  for (auto const& out : {t.path() / "file" / "out", t.path() / "file" / "a" / "b"}) {
    CHECK_THROWS_AS(braid::check_output(out, {}, false), braid::io_error);
    CHECK(contains(refusal(out, {}, false), (t.path() / "file").string() + " isn't a directory"));
  }
}

TEST_CASE("an output that is an input, inside one or around one is refused, by whatever path") {
  temp_dir t;
  auto const in = t.path() / "models" / "in";
  put_file(in / "model.safetensors", "");
  put_file(in / "sub" / "config.json", "");
  put_file(t.path() / "models" / "config.json", "");
  put_file(t.path() / "other" / "config.json", "");
  fs::create_directory_symlink(in, t.path() / "link");
  std::vector<fs::path> const inputs{t.path() / "other", in};
  for (bool const overwrite : {false, true}) {
    CHECK(contains(refusal(in, inputs, overwrite), "the output is the input"));
    CHECK(contains(refusal(in / "", inputs, overwrite), "the output is the input"));
    CHECK(contains(refusal(t.path() / "link", inputs, overwrite), "the output is the input"));
    CHECK(contains(refusal(in / "sub" / "..", inputs, overwrite), "the output is the input"));
    CHECK(contains(refusal(in / "out", inputs, overwrite), "lies inside the input"));
    CHECK(contains(refusal(in / "new" / "out", inputs, overwrite), "lies inside the input"));
    CHECK(contains(refusal(in / "sub", inputs, overwrite), "lies inside the input"));
    CHECK(contains(refusal(t.path() / "link" / "out", inputs, overwrite), "lies inside the input"));
    CHECK(contains(refusal(t.path() / "models", inputs, overwrite), "contains the input"));
    CHECK(contains(refusal(in, {t.path() / "link"}, overwrite), "the output is the input"));
    CHECK(contains(refusal(in / "out", {t.path() / "link" / ""}, overwrite), "lies inside the input"));
  }
}

TEST_CASE("an output that holds the files to which an input's links point is refused") {
  temp_dir t;
  put_file(t.path() / "real" / "model.safetensors", "");
  fs::create_directories(t.path() / "in");
  fs::create_symlink("../real/model.safetensors", t.path() / "in" / "model.safetensors");
  CHECK(contains(refusal(t.path() / "real", {t.path() / "in"}, true), "contains files of the input"));
  CHECK(refusal(t.path() / "out", {t.path() / "in"}, true).empty());
}

TEST_CASE("a partial directory replaces an old one with and without an exchange of names") {
  for (bool const can_exchange : {true, false}) {
    temp_dir t;
    auto const out = t.path() / "out";
    put_file(out / "old", "");
    {
      braid::detail::partial_directory p(out);
      put_file(p.path() / "new", "");
      p.publish(true, can_exchange);
    }
    CHECK(names_in(t.path()) == std::vector<std::string>{"out"});
    CHECK(names_in(out) == std::vector<std::string>{"new"});
  }
}

TEST_CASE("a partial directory that can't be renamed brings the old one back") {
  for (bool const can_exchange : {true, false}) {
    temp_dir t;
    auto const out = t.path() / "out";
    put_file(out / "old", "");
    {
      braid::detail::partial_directory p(out);
      fs::remove(p.path());
      CHECK_THROWS_AS(p.publish(true, can_exchange), braid::io_error);
    }
    CHECK(names_in(t.path()) == std::vector<std::string>{"out"});
    CHECK(names_in(out) == std::vector<std::string>{"old"});
  }
}

TEST_CASE("a partial directory doesn't replace what it wasn't asked to") {
  temp_dir t;
  auto const out = t.path() / "out";
  {
    braid::detail::partial_directory p(out);
    put_file(out / "theirs", "");
    CHECK_THROWS_AS(p.publish(false), braid::io_error);
  }
  CHECK(names_in(t.path()) == std::vector<std::string>{"out"});
  CHECK(names_in(out) == std::vector<std::string>{"theirs"});
}

TEST_CASE("two partial directories of one target don't meet, and long names fit") {
  temp_dir t;
  auto const out = t.path() / std::string(250, 'n');
  braid::detail::partial_directory a(out);
  braid::detail::partial_directory b(out);
  CHECK(a.path() != b.path());
  a.publish(false);
  CHECK_THROWS_AS(b.publish(false), braid::io_error);
  b.publish(true);
}

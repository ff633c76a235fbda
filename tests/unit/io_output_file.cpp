#include "support/file_size_limit.hpp"
#include "unit/io_support.hpp"

#include <braid/io/detail/output_file.hpp>

#include <random>
#include <thread>

using namespace braid_test;
using braid::detail::output_file;

namespace {

std::span<std::byte const> bytes_of(std::string const& s) { return std::as_bytes(std::span(s)); }

braid::detail::unique_fd new_file(std::filesystem::path const& p) { return braid::detail::open_file(p, O_RDWR | O_CREAT | O_EXCL); }

std::string random_text(std::mt19937_64& random, std::size_t size) {
  std::string s(size, '\0');
  for (char& c : s) { c = static_cast<char>(static_cast<unsigned char>(random())); }
  return s;
}

std::uint64_t page() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

/// Mappings of a file in this process.
int mappings_of(std::filesystem::path const& p) {
  std::ifstream maps("/proc/self/maps");
  int n = 0;
  for (std::string line; std::getline(maps, line);) { n += line.find(p.string()) != std::string::npos ? 1 : 0; }
  return n;
}

}  // namespace

TEST_CASE("whatever the pieces, sizes and ways, a file holds what threads wrote to it, and is as long as it should be") {
  std::mt19937_64 random(31);
  for (int round = 0; round < 40; ++round) {
    temp_dir t;
    auto const path = t.path() / "file";
    std::uint64_t const most = random() % (40 * page()) + 1;
    std::uint64_t const size = round % 4 == 0 ? most : random() % most + 1;  // bounds are not always reached
    std::string const content = random_text(random, static_cast<std::size_t>(size));
    bool const mapped = round % 3 != 2;
    output_file file(new_file(path), round % 5 == 4 ? most / 2 : most, path,
                     {.mapped = mapped, .piece = (random() % 7 + 1) * page(), .ahead = random() % 4 + 1});
    std::vector<std::pair<std::size_t, std::size_t>> parts;
    for (std::size_t at = 0; at < content.size();) {
      std::size_t const n = std::min<std::size_t>(random() % (round % 2 == 0 ? 200'000 : 3000) + 1, content.size() - at);
      parts.emplace_back(at, n);
      at += n;
    }
    std::shuffle(parts.begin(), parts.end(), random);
    std::vector<std::thread> threads;
    for (std::size_t k = 0; k < 4; ++k) {
      threads.emplace_back([&, k] {
        for (std::size_t i = k; i < parts.size(); i += 4) { file.write(parts[i].first, bytes_of(content).subspan(parts[i].first, parts[i].second)); }
      });
    }
    for (auto& thread : threads) { thread.join(); }
    file.finish(size);
    CHECK(get_file(path) == content);
    CHECK(mappings_of(path) == 0);
  }
}

TEST_CASE("room is reserved pieces ahead, and what isn't needed is cut off") {
  std::size_t const ahead = GENERATE(1u, 3u);
  temp_dir t;
  auto const path = t.path() / "file";
  std::uint64_t const piece = 16 * page();
  std::string const content(static_cast<std::size_t>(piece), 'x');
  {
    output_file file(new_file(path), 10 * piece, path, {.mapped = true, .piece = piece, .ahead = ahead});
    file.write(0, bytes_of(content).first(10));
    if (std::filesystem::file_size(path) == 10) { return; }  // a file system where no room can be reserved
    CHECK(mappings_of(path) == 1);
    CHECK(std::filesystem::file_size(path) == (1 + ahead) * piece);
    file.write(10, bytes_of(content).subspan(10));
    CHECK(std::filesystem::file_size(path) == (1 + ahead) * piece);
    file.write(piece, bytes_of(content));
    CHECK(std::filesystem::file_size(path) == (2 + ahead) * piece);
    file.finish(2 * piece);
    CHECK(mappings_of(path) == 0);
  }
  CHECK(get_file(path) == content + content);
  {
    output_file const file(new_file(t.path() / "other"), piece, path, {.mapped = true, .piece = piece});
  }
  CHECK(std::filesystem::file_size(t.path() / "other") == 0);
}

TEST_CASE("where no room can be reserved the system's own error is reported") {
  // Nothing can be reserved in a device, and this one is always full.
  output_file full(braid::detail::open_file("/dev/full", O_RDWR), 100, "shown", {.mapped = true, .piece = page()});
  CHECK(message_of([&] { full.write(0, bytes_of("x")); }) ==
        "shown: write failed: No space left on device; free space on that disk, or write elsewhere");

  temp_dir t;
  std::uint64_t const piece = 4 * page();
  std::string const content(static_cast<std::size_t>(3 * piece), 'x');
  auto const path = t.path() / "file";
  {
    file_size_limit const limit(static_cast<rlim_t>(piece + 100));  // the second piece may not be reserved
    output_file file(new_file(path), 3 * piece, path, {.mapped = true, .piece = piece});
    file.write(0, bytes_of(content).first(static_cast<std::size_t>(piece + 50)));
    CHECK(contains(message_of([&] { file.write(piece + 50, bytes_of(content).first(1000)); }),
                   "write failed: File too large; raise the limit on file sizes (ulimit -f)"));
    file.finish(piece + 50);
  }
  CHECK(get_file(path) == content.substr(0, static_cast<std::size_t>(piece + 50)));
}

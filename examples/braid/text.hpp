#pragma once

/// Numbers, names and tables as a terminal shows them, and sizes as a user writes them.

#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace program {

/// "3.92 MB", in powers of 1000.
[[nodiscard]] std::string size_text(std::uint64_t bytes);

/// "0.25 s", "42 s", "3 min 05 s", "2 h 04 min".
[[nodiscard]] std::string time_text(double seconds);

/// With so many digits after the point; "-" for NaN.
[[nodiscard]] std::string fixed(double value, int digits);

/// Six significant digits.
[[nodiscard]] std::string shortest(double value);

/// "1 tensor", "39 tensors".
[[nodiscard]] std::string count_text(std::size_t n, std::string const& what);

/// "[64, 176]", as safetensors headers have it.
[[nodiscard]] std::string shape_text(std::vector<std::int64_t> const& shape);

/// A name from a file without what would move the cursor; the middle is left out where it is longer than `width`.
[[nodiscard]] std::string printable(std::string_view name, std::size_t width = std::string::npos);

/// "a, b or c".
[[nodiscard]] std::string join_choices(std::vector<std::string> const& names);

/// Bytes of "5GB", "512 MiB" or "1000000".
/// @param option  for the message
/// @throws braid::argument_error  where it isn't a size, doesn't fit 64 bits or is below 1 MB
[[nodiscard]] std::uint64_t parse_shard_size(std::string_view option, std::string_view text);
/// The same, of memory.
[[nodiscard]] std::uint64_t parse_memory_size(std::string_view option, std::string_view text);

/// Rows of cells, printed with their columns aligned: the first to the left, the others to the right.
class table {
 public:
  explicit table(std::vector<std::string> headings) { add(std::move(headings)); }
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  void print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace program

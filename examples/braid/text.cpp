#include "text.hpp"

#include <braid/core/error.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <ostream>

namespace program {
namespace {

/// Columns that UTF-8 text takes, where every character takes one.
std::size_t columns(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
  }));
}

struct unit {
  std::string_view name;  // in lower case
  std::uint64_t bytes;
};
constexpr std::array<unit, 10> units{{{"", 1},
                                      {"b", 1},
                                      {"kb", 1'000},
                                      {"mb", 1'000'000},
                                      {"gb", 1'000'000'000},
                                      {"tb", 1'000'000'000'000},
                                      {"kib", std::uint64_t{1} << 10},
                                      {"mib", std::uint64_t{1} << 20},
                                      {"gib", std::uint64_t{1} << 30},
                                      {"tib", std::uint64_t{1} << 40}}};

/// Bytes of a positive number of units. @return false where they don't fit
bool scale(std::string_view digits, std::uint64_t each, std::uint64_t& bytes) {
  auto const* const end = digits.data() + digits.size();
  if (digits.find('.') == std::string_view::npos) {
    std::uint64_t count = 0;
    auto const [stop, error] = std::from_chars(digits.data(), end, count);
    if (error != std::errc{} || count > std::numeric_limits<std::uint64_t>::max() / each) { return false; }
    bytes = count * each;
    return true;
  }
  double const count = std::stod(std::string(digits));
  double const product = count * static_cast<double>(each);
  if (!(product < 0x1p64)) { return false; }
  bytes = static_cast<std::uint64_t>(product);
  return true;
}

}  // namespace

std::string size_text(std::uint64_t bytes) {
  constexpr std::array<char const*, 6> names{"kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) { return std::to_string(bytes) + " B"; }
  double value = static_cast<double>(bytes) / 1000.0;
  std::size_t i = 0;
  // 999.95 would be shown as 1000.
  for (; value >= 999.5 && i + 1 < names.size(); ++i) { value /= 1000.0; }
  return fixed(value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0) + " " + names[i];
}

std::string time_text(double seconds) {
  if (seconds < 9.995) { return fixed(seconds, 2) + " s"; }
  if (seconds < 59.5) { return fixed(seconds, 0) + " s"; }
  auto const two_digits = [](long long n) { return std::string(n < 10 ? "0" : "").append(std::to_string(n)); };
  long long const whole = std::llround(seconds);
  if (whole < 3600) { return std::to_string(whole / 60) + " min " + two_digits(whole % 60) + " s"; }
  return std::to_string(whole / 3600) + " h " + two_digits(whole % 3600 / 60) + " min";
}

std::string fixed(double value, int digits) {
  if (std::isnan(value)) { return "-"; }
  std::array<char, 64> text{};
  int const n = std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return {text.data(), std::min(static_cast<std::size_t>(std::max(n, 0)), text.size() - 1)};
}

std::string shortest(double value) {
  std::array<char, 64> text{};
  int const n = std::snprintf(text.data(), text.size(), "%.6g", value);
  return {text.data(), static_cast<std::size_t>(std::max(n, 0))};
}

std::string count_text(std::size_t n, std::string const& what) { return std::to_string(n) + " " + what + (n == 1 ? "" : "s"); }

std::string shape_text(std::vector<std::int64_t> const& shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) { s += (i == 0 ? "" : ", ") + std::to_string(shape[i]); }
  return s + "]";
}

std::string printable(std::string_view name, std::size_t width) {
  std::string s(name);
  for (char& c : s) {
    auto const u = static_cast<unsigned char>(c);
    if (u < 0x20u || u == 0x7Fu) { c = '?'; }
  }
  if (columns(s) <= width || width < 8) { return s; }
  // Bytes, not characters: a cut may fall inside one, whose pieces go too.
  std::size_t tail = s.size() - (width - 2) / 2;
  std::size_t head = width - 2 - (width - 2) / 2;
  auto const continues = [&](std::size_t i) {
    return i < s.size() && (static_cast<unsigned char>(s[i]) & 0xC0u) == 0x80u;
  };
  while (continues(tail)) { ++tail; }
  while (head > 0 && continues(head)) { --head; }
  return s.substr(0, head) + ".." + s.substr(tail);
}

std::string join_choices(std::vector<std::string> const& names) {
  std::string s;
  for (std::size_t i = 0; i < names.size(); ++i) {
    s += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  }
  return s;
}

namespace {

/// @param too_small  what is wrong with less than 1 MB
std::uint64_t parse_size(std::string_view option, std::string_view text, std::string_view too_small) {
  auto const refuse = [&](std::string_view what) {
    throw braid::argument_error(std::string(option) + " '" + printable(text, 60) + "' " + std::string(what));
  };
  std::string_view const digits = text.substr(0, text.find_first_not_of("0123456789."));
  bool const number = !digits.empty() && digits.front() != '.' && digits.back() != '.' &&
                      std::count(digits.begin(), digits.end(), '.') <= 1;
  std::string name(text.substr(digits.size()));
  name.erase(0, name.find_first_not_of(' '));
  for (char& c : name) { c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
  auto const* const found = std::find_if(units.begin(), units.end(), [&](unit const& u) { return u.name == name; });
  if (!number || found == units.end()) {
    refuse("is no size: write a number of bytes, or one with KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as 5GB");
  }
  std::uint64_t bytes = 0;
  if (!scale(digits, found->bytes, bytes)) { refuse("is more than 64 bits can count; choose a smaller size"); }
  constexpr std::uint64_t least = 1'000'000;
  if (bytes < least) { refuse("is less than 1MB, which " + std::string(too_small) + "; choose a larger size"); }
  return bytes;
}

}  // namespace

std::uint64_t parse_shard_size(std::string_view option, std::string_view text) {
  return parse_size(option, text, "makes needlessly many files");
}

std::uint64_t parse_memory_size(std::string_view option, std::string_view text) {
  return parse_size(option, text, "holds no block of rows");
}

void table::print(std::ostream& out) const {
  std::vector<std::size_t> width;
  for (auto const& row : rows_) {
    width.resize(std::max(width.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) { width[i] = std::max(width[i], columns(row[i])); }
  }
  for (auto const& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      std::string const gap(width[i] - columns(row[i]), ' ');
      if (i == 0) {
        out << row[i] << (row.size() > 1 ? gap : "");
      } else {
        out << "  " << gap << row[i];
      }
    }
    out << '\n';
  }
}

}  // namespace program

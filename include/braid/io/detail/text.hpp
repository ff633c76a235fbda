#pragma once

#include <braid/config.hpp>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A name from a file, fit for a message of one line: in quotes, control characters spelled out, cut when long.
inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 160;
  bool const cut = text.size() > longest;
  if (cut) {
    std::size_t n = longest;
    while (n > 0 && (static_cast<unsigned char>(text[n]) & 0xC0u) == 0x80u) { --n; }  // not inside a character
    text = text.substr(0, n);
  }
  std::string s = "\"";
  for (char const c : text) {
    auto const u = static_cast<unsigned char>(c);
    if (u < 0x20u || u == 0x7Fu) {
      constexpr char digits[] = "0123456789abcdef";
      s += "\\x";
      s += digits[u >> 4];
      s += digits[u & 15u];
    } else {
      s += c;
    }
  }
  s += cut ? "...\"" : "\"";
  return s;
}

/// Position of the first byte that can't be UTF-8 (overlong forms and surrogates can't); text.size() if there is none.
inline std::size_t invalid_utf8(std::string_view text) noexcept {
  std::size_t i = 0;
  std::size_t const n = text.size();
  auto const byte = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
  while (i < n) {
    unsigned const lead = byte(i);
    if (lead < 0x80u) {
      ++i;
      continue;
    }
    std::size_t const more = lead >= 0xC2u && lead <= 0xDFu   ? 1u
                             : (lead & 0xF0u) == 0xE0u        ? 2u
                             : lead >= 0xF0u && lead <= 0xF4u ? 3u
                                                              : 0u;
    if (more == 0 || n - i <= more) { return i; }
    unsigned const lowest = lead == 0xE0u ? 0xA0u : lead == 0xF0u ? 0x90u : 0x80u;
    unsigned const highest = lead == 0xEDu ? 0x9Fu : lead == 0xF4u ? 0x8Fu : 0xBFu;
    if (byte(i + 1) < lowest || byte(i + 1) > highest) { return i; }
    for (std::size_t k = 2; k <= more; ++k) {
      if ((byte(i + k) & 0xC0u) != 0x80u) { return i; }
    }
    i += more + 1;
  }
  return n;
}

/// Least number of inserted, removed and replaced bytes that turn `a` into `b`.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      std::size_t const replaced = diagonal + (a[i - 1] == b[j - 1] ? 0u : 1u);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace detail
BRAID_NAMESPACE_END

#pragma once

/// Text as the pieces that n-grams are made of.

#include <braid/config.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

constexpr bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

constexpr bool is_blank(char c) noexcept { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// Part of a word: letters, digits, '_', and every byte of a character beyond ASCII.
constexpr bool is_word_byte(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' ||
         (static_cast<unsigned char>(c) & 0x80u) != 0;
}

/// The text between two spaces, runs of blanks as one space; ASCII in lower case and digits as '0' where asked for. A text
/// of blanks only is empty.
inline std::string plain_text(std::string_view text, bool lower_case, bool fold_digits) {
  std::string plain = " ";
  for (char c : text) {
    if (is_blank(c)) {
      if (plain.back() != ' ') { plain += ' '; }
      continue;
    }
    if (lower_case && c >= 'A' && c <= 'Z') { c = static_cast<char>(c - 'A' + 'a'); }
    if (fold_digits && is_digit(c)) { c = '0'; }
    plain += c;
  }
  if (plain.size() == 1) { return {}; }
  if (plain.back() != ' ') { plain += ' '; }
  return plain;
}

/// Where each character of UTF-8 text begins, and its end; bytes that belong nowhere stay with the one before.
inline std::vector<std::size_t> character_starts(std::string_view text) {
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i == 0 || (static_cast<unsigned char>(text[i]) & 0xC0u) != 0x80u) { starts.push_back(i); }
  }
  starts.push_back(text.size());
  return starts;
}

/// Words (an apostrophe between two letters belongs to one), and every other sign as a word of its own.
inline std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  for (std::size_t i = 0; i < text.size();) {
    if (is_blank(text[i])) {
      ++i;
      continue;
    }
    std::size_t end = i + 1;
    if (is_word_byte(text[i])) {
      auto const word = [&](std::size_t at) { return at < text.size() && is_word_byte(text[at]); };
      while (word(end) || (end < text.size() && text[end] == '\'' && word(end + 1))) { ++end; }
    }
    words.push_back(text.substr(i, end - i));
    i = end;
  }
  return words;
}

}  // namespace detail
BRAID_NAMESPACE_END

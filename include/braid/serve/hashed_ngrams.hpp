#pragma once

#include <braid/core/hash.hpp>
#include <braid/io/detail/text.hpp>
#include <braid/serve/detail/text_pieces.hpp>
#include <braid/serve/embedding.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

BRAID_STRICT_FP_BEGIN
BRAID_NAMESPACE_BEGIN

struct hashed_ngrams_options {
  index_t dimension = 65536;  ///< features, 1 to 2^26; n-grams that fall on one of them share its weight
  int least_chars = 3;        ///< n-grams of so many characters, UTF-8 sequences, ...
  int most_chars = 5;         ///< ... to so many; 0: none
  int least_words = 1;        ///< n-grams of so many words ...
  int most_words = 1;         ///< ... to so many; 0: none
  bool lower_case = true;     ///< A to Z read as a to z; letters beyond ASCII are as they are
  bool fold_digits = true;    ///< every digit reads as 0: numbers differ, and what is done with them is alike
  friend bool operator==(hashed_ngrams_options const&, hashed_ngrams_options const&) = default;
};

/// Text as hashed n-grams of characters and of words: no vocabulary, no training, any language.
///
/// Blanks are one space, and one stands before and after the text, so that n-grams know where words begin and end. A word
/// is a run of letters, digits, '_' and characters beyond ASCII; every other sign is a word too. An n-gram has the
/// XXH3 hash h (64 bits) of its bytes, seed 0 for characters and 1 for words, whose parts are joined by a space. It
/// adds, with the sign of h's lowest bit, sqrt(count) to feature (h >> 1) mod dimension: signs make collisions cancel
/// in the mean. Character features are divided by their length, word features by theirs, and so is their sum, so that long texts
/// and short ones weigh the same. Empty text has no features.
///
/// The same features on every machine: sums are float64, in the order of the hashes.
/// @note Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009, section 2.
class hashed_ngrams {
 public:
  using query_type = std::string;

  /// @throws argument_error for options that can't be meant
  explicit hashed_ngrams(hashed_ngrams_options options = {}) : options_(options) {
    auto const range = [](char const* what, int least, int most) {
      if (most != 0 && (least < 1 || most < least || most > 16)) {
        throw argument_error(std::string("hashed n-grams: ") + std::to_string(least) + " to " + std::to_string(most) + " " +
                             what + ": give 1 <= least <= most <= 16, or most = 0 for none");
      }
    };
    range("characters", options.least_chars, options.most_chars);
    range("words", options.least_words, options.most_words);
    if (options.most_chars == 0 && options.most_words == 0) {
      throw argument_error("hashed n-grams: neither characters nor words; give one of them");
    }
    if (options.dimension < 1 || options.dimension > (index_t{1} << 26)) {
      throw argument_error("hashed n-grams: dimension " + std::to_string(options.dimension) +
                           " isn't between 1 and 67108864");
    }
  }

  [[nodiscard]] hashed_ngrams_options const& options() const noexcept { return options_; }
  [[nodiscard]] index_t dimension() const noexcept { return options_.dimension; }

  /// Costs a sort of the text's n-grams.
  [[nodiscard]] feature_row operator()(std::string_view text) const {
    std::string const plain = detail::plain_text(text, options_.lower_case, options_.fold_digits);
    std::vector<weighted> all;
    if (options_.most_chars != 0) { add_unit(hashes_of_characters(plain), all); }
    if (options_.most_words != 0) { add_unit(hashes_of_words(plain), all); }
    scale_to_unit(all);
    feature_row row;
    row.reserve(all.size());
    for (weighted const& w : all) {
      if (w.value != 0.0) { row.push_back({w.index, static_cast<float>(w.value)}); }
    }
    return row;
  }

  [[nodiscard]] nlohmann::json to_json() const {
    return {{"name", "hashed_ngrams"},
            {"dimension", options_.dimension},
            {"characters", {options_.least_chars, options_.most_chars}},
            {"words", {options_.least_words, options_.most_words}},
            {"lower_case", options_.lower_case},
            {"fold_digits", options_.fold_digits}};
  }

  /// The embedding that `to_json` describes.
  /// @throws argument_error if it describes another kind, or options that can't be meant
  [[nodiscard]] static hashed_ngrams from_json(nlohmann::json const& j) {
    try {
      if (j.at("name") != "hashed_ngrams") {
        throw argument_error("the embedding is " + detail::in_quotes(j.at("name").get<std::string>()) +
                             ", not \"hashed_ngrams\"");
      }
      return hashed_ngrams({.dimension = j.at("dimension").get<index_t>(),
                            .least_chars = j.at("characters").at(0).get<int>(),
                            .most_chars = j.at("characters").at(1).get<int>(),
                            .least_words = j.at("words").at(0).get<int>(),
                            .most_words = j.at("words").at(1).get<int>(),
                            .lower_case = j.at("lower_case").get<bool>(),
                            .fold_digits = j.at("fold_digits").get<bool>()});
    } catch (nlohmann::json::exception const&) {
      throw argument_error("the description of hashed n-grams lacks a field, or has one of another type");
    }
  }

 private:
  struct weighted {
    std::uint32_t index;
    double value;
  };

  static std::uint64_t hash_of(std::string_view bytes, std::uint64_t family) {
    return static_cast<std::uint64_t>(XXH3_64bits_withSeed(bytes.data(), bytes.size(), family));
  }

  [[nodiscard]] std::vector<std::uint64_t> hashes_of_characters(std::string_view plain) const {
    auto const starts = detail::character_starts(plain);
    std::vector<std::uint64_t> hashes;
    for (int n = options_.least_chars; n <= options_.most_chars; ++n) {
      for (std::size_t i = 0; i + static_cast<std::size_t>(n) < starts.size(); ++i) {
        hashes.push_back(hash_of(plain.substr(starts[i], starts[i + static_cast<std::size_t>(n)] - starts[i]), 0));
      }
    }
    return hashes;
  }

  [[nodiscard]] std::vector<std::uint64_t> hashes_of_words(std::string_view plain) const {
    auto const words = detail::words_of(plain);
    std::vector<std::uint64_t> hashes;
    std::string joined;
    for (std::size_t i = 0; i < words.size(); ++i) {
      joined.clear();
      for (std::size_t n = 1; n <= static_cast<std::size_t>(options_.most_words) && i + n <= words.size(); ++n) {
        if (n > 1) { joined += ' '; }
        joined += words[i + n - 1];
        if (n >= static_cast<std::size_t>(options_.least_words)) { hashes.push_back(hash_of(joined, 1)); }
      }
    }
    return hashes;
  }

  /// Adds the features of one family, of length 1.
  void add_unit(std::vector<std::uint64_t> hashes, std::vector<weighted>& to) const {
    std::sort(hashes.begin(), hashes.end());
    std::vector<weighted> own;
    for (std::size_t i = 0; i < hashes.size();) {
      std::size_t end = i + 1;
      while (end < hashes.size() && hashes[end] == hashes[i]) { ++end; }
      double const tf = std::sqrt(static_cast<double>(end - i));
      auto const index = (hashes[i] >> 1) % static_cast<std::uint64_t>(options_.dimension);
      own.push_back({static_cast<std::uint32_t>(index), (hashes[i] & 1u) != 0 ? -tf : tf});
      i = end;
    }
    scale_to_unit(own);
    to.insert(to.end(), own.begin(), own.end());
  }

  /// Joins equal indices, in rising order, and divides by the length.
  static void scale_to_unit(std::vector<weighted>& row) {
    std::stable_sort(row.begin(), row.end(), [](weighted const& a, weighted const& b) { return a.index < b.index; });
    std::size_t kept = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (kept != 0 && row[kept - 1].index == row[i].index) {
        row[kept - 1].value += row[i].value;
      } else {
        row[kept++] = row[i];
      }
    }
    row.resize(kept);
    double squares = 0.0;
    for (weighted const& w : row) { squares += w.value * w.value; }
    if (squares == 0.0) { return; }
    double const length = std::sqrt(squares);
    for (weighted& w : row) { w.value /= length; }
  }

  hashed_ngrams_options options_;
};
static_assert(query_embedding<hashed_ngrams>);

BRAID_NAMESPACE_END
BRAID_STRICT_FP_END

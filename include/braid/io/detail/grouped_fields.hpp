#pragma once

#include <braid/io/detail/text.hpp>
#include <braid/io/grouped_layout.hpp>

#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A value of the description and where it stands, so that a refusal can say which one ("experts[2].files").
class json_fields {
 public:
  json_fields(nlohmann::json const& value, std::filesystem::path const& where, std::string place)
      : value_(&value), where_(&where), place_(std::move(place)) {}

  [[nodiscard]] nlohmann::json const& value() const noexcept { return *value_; }

  [[noreturn]] void refuse(std::string const& what) const {
    detail::refuse(
        grouped_code::description_field, *where_,
        "the description of the grouped checkpoint is wrong: " + (place_.empty() ? "it" : place_) + " " + what);
  }

  /// A member that may be missing.
  [[nodiscard]] std::optional<json_fields> find(char const* key) const {
    if (!value_->is_object()) { refuse("must be an object"); }
    auto const it = value_->find(key);
    if (it == value_->end()) { return std::nullopt; }
    return json_fields(*it, *where_, place_.empty() ? key : place_ + "." + key);
  }

  [[nodiscard]] json_fields at(char const* key) const {
    auto f = find(key);
    if (!f) { refuse(std::string("has no ") + key); }
    return *std::move(f);
  }

  [[nodiscard]] std::string const& string() const {
    if (!value_->is_string()) { refuse("must be a string"); }
    return value_->get_ref<std::string const&>();
  }

  [[nodiscard]] std::string string_or(char const* key, char const* otherwise) const {
    auto const f = find(key);
    return f ? f->string() : otherwise;
  }

  [[nodiscard]] std::int64_t integer(std::int64_t least, std::int64_t most) const {
    // JSON numbers from 2^63 on don't fit the signed type.
    bool fits =
        value_->is_number_integer() && !(value_->is_number_unsigned() && value_->get<std::uint64_t>() >> 63 != 0);
    fits = fits && value_->get<std::int64_t>() >= least && value_->get<std::int64_t>() <= most;
    if (!fits) { refuse("must be an integer from " + std::to_string(least) + " to " + std::to_string(most)); }
    return value_->get<std::int64_t>();
  }

  [[nodiscard]] std::uint64_t unsigned_integer() const {
    if (!value_->is_number_unsigned()) { refuse("must be an integer from 0 to 2^64 - 1"); }
    return value_->get<std::uint64_t>();
  }

  [[nodiscard]] double number() const {
    if (!value_->is_number()) { refuse("must be a number"); }
    return value_->get<double>();
  }

  /// Dimensions whose product fits, with 8 bytes an element, in 2^63 - 1; also that of some of them, beside a 0.
  [[nodiscard]] std::vector<index_t> shape() const {
    constexpr index_t limit = std::numeric_limits<index_t>::max();
    std::vector<index_t> dims;
    index_t product = 8;
    each_element([&](json_fields const& f) {
      index_t const d = f.integer(0, limit);
      if (d != 0) {
        if (product > limit / d) { refuse("is too large"); }
        product *= d;
      }
      dims.push_back(d);
    });
    return dims;
  }

  template <class F>
  void each_element(F const& f) const {
    if (!value_->is_array()) { refuse("must be an array"); }
    std::size_t i = 0;
    for (auto const& v : *value_) { f(json_fields(v, *where_, place_ + "[" + std::to_string(i++) + "]")); }
  }

  template <class F>
  void each_member(F const& f) const {
    if (!value_->is_object()) { refuse("must be an object"); }
    for (auto it = value_->begin(); it != value_->end(); ++it) {
      f(it.key(), json_fields(it.value(), *where_, place_ + "." + in_quotes(it.key())));
    }
  }

 private:
  nlohmann::json const* value_;
  std::filesystem::path const* where_;
  std::string place_;
};

/// A side file's name comes from the metadata of a file that anyone may have made: it must stay inside the directory,
/// and must not stand for weights.
inline void check_side_file(std::string_view name, std::filesystem::path const& where) {
  bool safe = !name.empty() && name.find('\0') == std::string_view::npos && !name.ends_with(".safetensors") &&
              !name.ends_with(".index.json");
  for (std::size_t begin = 0; safe && begin <= name.size();) {
    std::size_t const end = std::min(name.find('/', begin), name.size());
    std::string_view const part = name.substr(begin, end - begin);
    safe = !part.empty() && part != "." && part != "..";
    begin = end + 1;
  }
  if (!safe) {
    refuse(grouped_code::unsafe_path, where,
           "the description names a side file " + in_quotes(name) +
               ", which is not a file inside the directory or would replace weights; don't trust this checkpoint");
  }
}

}  // namespace detail
BRAID_NAMESPACE_END

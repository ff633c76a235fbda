#pragma once

#include <braid/io/detail/text.hpp>
#include <braid/io/format_code.hpp>
#include <braid/io/tensor_meta.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr std::uint64_t header_limit = 100'000'000;  // the reference reader's
inline constexpr std::uint64_t number_limit = static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());
inline constexpr std::size_t dimension_limit = 64;

/// What the head of a safetensors file says, checked.
struct safetensors_header {
  std::vector<tensor_meta> tensors;  // sorted by name, offsets from the start of the file
  std::map<std::string, std::string> metadata;
};

/// Receives the events of the JSON parser. A header is three levels of JSON (all tensors, an entry, a list of
/// numbers), so where an event belongs is one enum, and neither depth nor repetition costs memory.
class header_events {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  header_events(safetensors_header& out, std::filesystem::path const& where) : out_(out), where_(where) {}

  bool null() { return misplaced("null"); }
  bool boolean(bool) { return misplaced("a boolean"); }
  bool number_integer(number_integer_t) { return bad_number(); }  // only negative numbers arrive here
  bool number_float(number_float_t, string_t const&) { return bad_number(); }
  bool binary(binary_t&) { return misplaced("binary data"); }

  bool number_unsigned(number_unsigned_t n) {
    if (place_ != place::list) { return misplaced("a number"); }
    if (n > number_limit) { return bad_number(); }
    if (field_ == shape) {
      if (entry_.shape.size() == dimension_limit) {
        refuse(format_code::too_many_dimensions, where_, subject() + " has more than 64 dimensions");
      }
      entry_.shape.push_back(static_cast<index_t>(n));
    } else {
      if (offset_count_ == 2) { return misplaced("a third number"); }
      offsets_[offset_count_++] = n;
    }
    return true;
  }

  bool string(string_t& s) {
    if (place_ == place::metadata) {
      if (!out_.metadata.emplace(key_, std::move(s)).second) {
        refuse(format_code::duplicate_field, where_, "__metadata__ has " + in_quotes(key_) + " twice");
      }
      return true;
    }
    if (place_ != place::entry || field_ != type) { return misplaced("a string"); }
    if (!parse_dtype(s, entry_.type)) { refuse_dtype(s); }
    return true;
  }

  bool start_object(std::size_t) {
    ++depth_;
    switch (place_) {
      case place::outside: place_ = place::root; return true;
      case place::root:
        if (key_ == "__metadata__") {
          place_ = place::metadata;
        } else {
          place_ = place::entry;
          entry_ = tensor_meta{};
          seen_ = 0;
          offset_count_ = 0;
        }
        return true;
      default: return nested("an object");
    }
  }

  bool start_array(std::size_t) {
    ++depth_;
    if (place_ != place::entry || field_ == type) { return nested("an array"); }
    place_ = place::list;
    return true;
  }

  bool key(string_t& k) {
    if (place_ == place::root) {
      if (k == "__metadata__") {
        if (has_metadata_) { refuse(format_code::duplicate_field, where_, "__metadata__ is there twice"); }
        has_metadata_ = true;
      }
      key_ = std::move(k);
    } else if (place_ == place::metadata) {
      key_ = std::move(k);
    } else {
      field_ = k == "dtype" ? type : k == "shape" ? shape : k == "data_offsets" ? offsets : none;
      if (field_ == none) {
        refuse(format_code::unknown_field, where_, subject() + " has an unknown field " + in_quotes(k));
      }
      if ((seen_ & field_) != 0) { refuse(format_code::duplicate_field, where_, subject() + " has " + k + " twice"); }
      seen_ |= field_;
    }
    return true;
  }

  bool end_array() {
    --depth_;
    place_ = place::entry;
    if (field_ == offsets && offset_count_ != 2) {
      refuse(format_code::wrong_type, where_, subject() + ": data_offsets must be two numbers, begin and end");
    }
    return true;
  }

  bool end_object() {
    --depth_;
    if (place_ == place::entry) {
      for (auto const& [bit, name] : {std::pair{type, "dtype"}, {shape, "shape"}, {offsets, "data_offsets"}}) {
        if ((seen_ & bit) == 0) { refuse(format_code::missing_field, where_, subject() + " has no " + name); }
      }
      if (offsets_[0] > offsets_[1]) {
        refuse(format_code::reversed_offsets, where_,
               subject() + ": data_offsets begin at " + std::to_string(offsets_[0]) + ", after their end at " +
                   std::to_string(offsets_[1]));
      }
      entry_.name = key_;
      entry_.offset = offsets_[0];
      entry_.bytes = offsets_[1] - offsets_[0];
      out_.tensors.push_back(std::move(entry_));
    }
    place_ = place_ == place::root ? place::outside : place::root;
    return true;
  }

  bool parse_error(std::size_t position, string_t const&, nlohmann::json::exception const&) {
    refuse(format_code::header_json, where_,
           "the header isn't valid JSON (at its byte " + std::to_string(position) + ")");
  }

 private:
  enum class place { outside, root, metadata, entry, list };
  enum field : unsigned { none = 0, type = 1, shape = 2, offsets = 4 };

  [[nodiscard]] std::string subject() const { return "tensor " + in_quotes(key_); }

  [[noreturn]] bool misplaced(char const* what) const {
    if (place_ == place::metadata || (place_ == place::root && key_ == "__metadata__")) {
      refuse(format_code::metadata_not_strings, where_,
             std::string("__metadata__ must be an object of strings, and has ") + what);
    }
    std::string const in = place_ == place::root ? ""
                           : field_ == type      ? ".dtype"
                           : field_ == shape     ? ".shape"
                                                 : ".data_offsets";
    refuse(format_code::wrong_type, where_, subject() + in + " can't be or hold " + what);
  }

  [[noreturn]] bool nested(char const* what) const {
    if (depth_ > 3) { refuse(format_code::header_depth, where_, "the header nests deeper than three levels"); }
    misplaced(what);
  }

  [[noreturn]] bool bad_number() const {
    if (place_ != place::list) { misplaced("a number"); }
    refuse(format_code::bad_number, where_,
           subject() + (field_ == shape ? ".shape" : ".data_offsets") +
               " has a number that isn't an integer from 0 to 2^63 - 1");
  }

  [[noreturn]] void refuse_dtype(std::string const& s) const {
    for (std::string_view const known : {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}) {
      if (s == known) {
        refuse(format_code::unsupported_dtype, where_,
               subject() + " has dtype " + s + ", which braid doesn't support: convert it to BF16 or F32 first");
      }
    }
    refuse(format_code::unknown_dtype, where_, subject() + " has an unknown dtype " + in_quotes(s));
  }

  safetensors_header& out_;
  std::filesystem::path const& where_;
  place place_ = place::outside;
  field field_ = none;
  int depth_ = 0;
  bool has_metadata_ = false;
  unsigned seen_ = 0;
  std::string key_;
  tensor_meta entry_;
  std::array<std::uint64_t, 2> offsets_{};
  std::size_t offset_count_ = 0;
};

/// Bytes of a tensor of that shape; false where the product of some of its dimensions and the size of an element
/// exceeds 2^63 - 1, also if another dimension is zero: so that no later product overflows.
/// @param shape no negative numbers
inline bool shape_bytes(dtype type, std::span<index_t const> shape, std::uint64_t& out) noexcept {
  std::uint64_t product = size_of(type);
  bool empty = false;
  for (index_t const d : shape) {
    if (d == 0) {
      empty = true;
    } else if (product > number_limit / static_cast<std::uint64_t>(d)) {
      return false;
    } else {
      product *= static_cast<std::uint64_t>(d);
    }
  }
  out = empty ? 0 : product;
  return true;
}

/// Checks that the tensors fill the data section from its first byte to its last: no hole, no overlap, no rest.
inline void check_coverage(std::vector<tensor_meta> const& tensors, std::uint64_t available,
                           std::filesystem::path const& where) {
  std::vector<tensor_meta const*> order;
  order.reserve(tensors.size());
  for (auto const& t : tensors) { order.push_back(&t); }
  std::sort(order.begin(), order.end(), [](auto const* a, auto const* b) {
    return a->offset != b->offset ? a->offset < b->offset
           : a->bytes != b->bytes ? a->bytes < b->bytes
                                  : a->name < b->name;
  });
  std::uint64_t end = 0;
  tensor_meta const* previous = nullptr;
  for (auto const* t : order) {
    if (t->offset > end) {
      refuse(format_code::hole, where,
             "bytes " + std::to_string(end) + " to " + std::to_string(t->offset) +
                 " of the data section belong to no tensor (the next is " + in_quotes(t->name) + ")");
    }
    if (t->offset < end) {
      refuse(format_code::overlap, where,
             "tensors " + in_quotes(previous->name) + " and " + in_quotes(t->name) + " overlap");
    }
    end += t->bytes;
    previous = t;
  }
  if (end > available) {
    refuse(format_code::truncated, where,
           "the file is cut short: " + std::to_string(end - available) + " of " + std::to_string(end) +
               " bytes of tensor data are missing; fetch or copy it again");
  }
  if (end < available) {
    refuse(format_code::trailing_bytes, where,
           std::to_string(available - end) + " bytes follow the last tensor; the file is damaged or not safetensors");
  }
}

/// Parses and checks everything that precedes the data of a safetensors file, without touching the data.
/// @param file all bytes of the file  @param where its path, for messages
/// @throws format_error with one of the codes 101 to 124
inline safetensors_header read_safetensors_header(std::span<std::byte const> file, std::filesystem::path const& where) {
  if (file.size() < 8) {
    refuse(format_code::file_too_small, where,
           "has " + std::to_string(file.size()) + " bytes, too few for a safetensors file; fetch or copy it again");
  }
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) {
    length = (length << 8) | std::to_integer<std::uint64_t>(file[static_cast<std::size_t>(i)]);
  }
  if (length > header_limit) {
    refuse(format_code::header_too_large, where,
           "the header's length is " + std::to_string(length) +
               " bytes, above the format's limit of 100000000; probably not a safetensors file");
  }
  if (length > file.size() - 8) {
    refuse(format_code::header_beyond_file, where,
           "the header has " + std::to_string(length) + " bytes and the file ends " +
               std::to_string(length - (file.size() - 8)) + " bytes before its end; fetch or copy it again");
  }
  std::string_view const text(reinterpret_cast<char const*>(file.data()) + 8, static_cast<std::size_t>(length));
  if (text.empty() || text.front() != '{') {
    refuse(format_code::header_start, where, "the header doesn't begin with '{'; not a safetensors file");
  }
  if (std::size_t const bad = invalid_utf8(text); bad != text.size()) {
    refuse(format_code::header_utf8, where, "the header isn't valid UTF-8 (at its byte " + std::to_string(bad) + ")");
  }
  // The parser takes a zero byte for the end of its input.
  if (std::size_t const zero = text.find('\0'); zero != std::string_view::npos) {
    refuse(format_code::header_json, where,
           "the header isn't valid JSON (at its byte " + std::to_string(zero + 1) + ")");
  }

  safetensors_header header;
  header_events events(header, where);
  nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &events);

  auto& tensors = header.tensors;
  std::sort(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) { return a.name < b.name; });
  auto const twice =
      std::adjacent_find(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) { return a.name == b.name; });
  if (twice != tensors.end()) {
    refuse(format_code::duplicate_tensor, where, "tensor " + in_quotes(twice->name) + " is there twice");
  }
  for (auto const& t : tensors) {
    std::uint64_t expected = 0;
    if (!shape_bytes(t.type, t.shape, expected)) {
      refuse(format_code::size_overflow, where,
             "tensor " + in_quotes(t.name) + ": shape times dtype exceeds 2^63 - 1 bytes");
    }
    if (t.bytes != expected) {
      refuse(format_code::size_mismatch, where,
             "tensor " + in_quotes(t.name) + ": data_offsets span " + std::to_string(t.bytes) +
                 " bytes, its shape and dtype need " + std::to_string(expected));
    }
  }
  check_coverage(tensors, file.size() - 8 - length, where);
  for (auto& t : tensors) { t.offset += 8 + length; }
  return header;
}

}  // namespace detail
BRAID_NAMESPACE_END

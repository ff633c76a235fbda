#pragma once

#include <braid/io/detail/safetensors_header.hpp>

#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr std::uint64_t data_alignment = 4096;

/// Text as a JSON string. @throws argument_error if it isn't UTF-8
inline std::string json_string(std::string const& text) {
  if (invalid_utf8(text) != text.size()) { throw argument_error(in_quotes(text) + " isn't valid UTF-8"); }
  return nlohmann::json(text).dump();
}

/// The JSON text of the metadata of a file, without spaces.
inline std::string metadata_text(std::map<std::string, std::string> const& metadata) {
  std::string s = "{";
  for (auto const& [key, value] : metadata) {
    if (s.size() > 1) { s += ','; }
    s += json_string(key) + ':' + json_string(value);
  }
  return s + '}';
}

/// The entry of a tensor, with the comma that precedes it.
inline std::string entry_text(tensor_meta const& t, std::uint64_t begin, std::uint64_t end) {
  std::string s = "," + json_string(t.name) + ":{\"dtype\":\"";
  s += name_of(t.type);
  s += "\",\"shape\":[";
  for (std::size_t i = 0; i < t.shape.size(); ++i) {
    if (i != 0) { s += ','; }
    s += std::to_string(t.shape[i]);
  }
  return s + "],\"data_offsets\":[" + std::to_string(begin) + ',' + std::to_string(end) + "]}";
}

/// Most bytes that `entry_text` can need.
inline std::uint64_t entry_room(tensor_meta const& t) {
  constexpr auto largest = std::numeric_limits<std::uint64_t>::max();
  return entry_text(t, largest, largest).size();
}

/// Bytes from the start of a file to its data, for entries and metadata that need that many bytes of text.
inline std::uint64_t data_start_for(std::uint64_t entries, std::uint64_t metadata) {
  std::uint64_t const needed = 8 + entries + metadata + std::string_view("{\"__metadata__\":}").size();
  return (needed + data_alignment - 1) / data_alignment * data_alignment;
}

/// Everything before the data of a file: length, JSON, spaces.
/// @param tensors in the order of their data; `offset` from the start of the data section
inline std::string header_text(std::span<tensor_meta const> tensors, std::string const& metadata,
                               std::uint64_t data_start) {
  std::string s(8, '\0');
  s += "{\"__metadata__\":" + metadata;
  for (auto const& t : tensors) { s += entry_text(t, t.offset, t.offset + t.bytes); }
  s += '}';
  s.resize(static_cast<std::size_t>(data_start), ' ');
  std::uint64_t length = data_start - 8;
  for (std::size_t i = 0; i < 8; ++i, length >>= 8) { s[i] = static_cast<char>(length & 0xFFu); }
  return s;
}

}  // namespace detail
BRAID_NAMESPACE_END

#pragma once

/// What the tests of io/ share: files written byte by byte, and what was thrown.

#include "support/catch.hpp"
#include "support/temp_dir.hpp"

#include <braid/core/error.hpp>
#include <braid/io/format_code.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace braid_test {

inline void put_file(std::filesystem::path const& path, std::string_view content) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  REQUIRE(out.flush().good());
}

inline std::string get_file(std::filesystem::path const& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A safetensors file of that header text and that data.
inline std::string safetensors(std::string_view header, std::string_view data = {}) {
  std::string out;
  std::size_t const size = header.size();
  for (unsigned shift = 0; shift < 64; shift += 8) {
    out += static_cast<char>(static_cast<unsigned char>(size >> shift));
  }
  return out.append(header).append(data);
}

/// A file of U8 tensors of two bytes each, all of whose bytes are `fill`.
inline std::string small_safetensors(std::vector<std::string> const& names, char fill = 'x') {
  std::string header = "{";
  for (std::size_t i = 0; i < names.size(); ++i) {
    header += (i == 0 ? "\"" : ",\"") + names[i] + "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[" +
              std::to_string(2 * i) + "," + std::to_string(2 * i + 2) + "]}";
  }
  return safetensors(header + "}", std::string(2 * names.size(), fill));
}

/// What `f` throws; an empty string if nothing. Every message is one line.
inline std::string message_of(std::function<void()> const& f) {
  try {
    f();
  } catch (braid::error const& e) {
    std::string const message = e.what();
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  return {};
}

/// The code of the format_error that `f` throws; 0 if it throws nothing.
inline int code_of(std::function<void()> const& f) {
  try {
    f();
  } catch (braid::format_error const& e) {
    CHECK(std::string(e.what()).find('\n') == std::string::npos);
    return e.code();
  }
  return 0;
}

inline int number(braid::format_code code) { return static_cast<int>(code); }

inline bool contains(std::string const& text, std::string_view part) {
  bool const found = text.find(part) != std::string::npos;
  if (!found) { UNSCOPED_INFO("\"" << text << "\" doesn't contain \"" << part << "\""); }
  return found;
}

/// Names in a directory, hidden ones included, sorted.
inline std::vector<std::string> names_in(std::filesystem::path const& dir) {
  std::vector<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator(dir)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Number of open file descriptors of this process.
inline std::size_t open_descriptors() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

}  // namespace braid_test

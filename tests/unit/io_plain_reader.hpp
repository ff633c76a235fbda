#pragma once

/// A reader of safetensors files that shares nothing with the one it tests.

#include "unit/io_support.hpp"

#include <braid/io/checkpoint_writer.hpp>

#include <cstdint>
#include <cstring>
#include <map>
#include <span>

namespace braid_test {

inline std::string text_of(std::span<std::byte const> b) { return {reinterpret_cast<char const*>(b.data()), b.size()}; }
inline std::span<std::byte const> bytes_of(std::string const& s) { return std::as_bytes(std::span(s)); }

/// A tensor as the plain reader below finds it.
struct plain_tensor {
  std::string type;
  std::vector<braid::index_t> shape;
  std::size_t begin = 0;  // from the start of the file
  std::string data;
};

/// Reads a safetensors file knowing nothing but its layout; names must need no escapes.
inline std::map<std::string, plain_tensor> plain_read(std::filesystem::path const& path) {
  std::string const file = get_file(path);
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  REQUIRE(length <= file.size() - 8);
  REQUIRE((length + 8) % 4096 == 0);
  std::string const h = file.substr(8, length);
  REQUIRE(h.substr(0, 16) == "{\"__metadata__\":");
  auto const numbers = [&](std::size_t at) {
    std::vector<braid::index_t> v;
    for (++at; h[at] != ']'; at += h[at] == ',') {
      std::size_t used = 0;
      v.push_back(std::stoll(h.substr(at, 24), &used));
      at += used;
    }
    return v;
  };
  std::map<std::string, plain_tensor> all;
  for (std::size_t at = 0; (at = h.find("\":{\"dtype\":\"", at)) != std::string::npos; ++at) {
    std::size_t const quote = h.rfind('"', at - 1);
    std::size_t const type = at + 12;
    plain_tensor t;
    t.type = h.substr(type, h.find('"', type) - type);
    t.shape = numbers(h.find("\"shape\":", at) + 8);
    auto const offsets = numbers(h.find("\"data_offsets\":", at) + 15);
    t.begin = 8 + length + static_cast<std::size_t>(offsets.at(0));
    t.data = file.substr(t.begin, static_cast<std::size_t>(offsets.at(1) - offsets.at(0)));
    REQUIRE(t.begin + t.data.size() <= file.size());
    REQUIRE(all.emplace(h.substr(quote + 1, at - quote - 1), t).second);
  }
  return all;
}

/// A plan of one tensor "w" of that many bytes.
inline std::vector<braid::tensor_plan> one_tensor(braid::index_t size) {
  return {{.name = "w", .type = braid::dtype::u8, .shape = {size}}};
}

}  // namespace braid_test

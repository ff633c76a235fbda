#pragma once

/// Names to 64-bit streams of random numbers. Host only: the device is handed the number.

#include <braid/config.hpp>

#include <cstdint>
#include <string>
#include <string_view>

// xxHash's functions come in as private copies (its XXH_INLINE_ALL mode): nothing to link, and no clash with a
// program that links another version. The switch itself is taken back, so that a later `#include <xxhash.h>` of the
// user's own, in any mode, is as quiet as without braid. What remains are macros that start with XXH.
#if defined(XXH_INLINE_ALL)
#include <xxhash.h>
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#undef XXH_INLINE_ALL
#endif

BRAID_NAMESPACE_BEGIN

namespace detail {
inline void append_sized(std::string& out, std::string_view text) {
  auto const size = static_cast<std::uint64_t>(text.size());
  for (unsigned shift = 0; shift < 64; shift += 8) {
    out += static_cast<char>(static_cast<unsigned char>(size >> shift));
  }
  out += text;
}
}  // namespace detail

/// The stream of random numbers that belongs to one tensor of one expert: XXH3 (64 bits, seed 0) of
/// `[u64 length of tensor][tensor][u64 length of expert][expert]`, lengths in bytes and little-endian, so that no two
/// pairs of names have the same bytes. The same number on every machine; in Python
/// `xxhash.xxh3_64_intdigest(struct.pack("<Q", len(t)) + t + struct.pack("<Q", len(e)) + e)`.
///
/// Different pairs share a stream only by collision: for a million pairs the chance of any is 3e-8.
/// @param tensor  a tensor's name, any bytes
/// @param expert  an expert's name, any bytes
inline std::uint64_t stream_hash(std::string_view tensor, std::string_view expert) {
  std::string bytes;
  bytes.reserve(tensor.size() + expert.size() + 16);
  detail::append_sized(bytes, tensor);
  detail::append_sized(bytes, expert);
  return static_cast<std::uint64_t>(XXH3_64bits(bytes.data(), bytes.size()));
}

BRAID_NAMESPACE_END

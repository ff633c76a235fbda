#include "support/catch.hpp"

#include <braid/core/hash.hpp>

#include <set>
#include <string>

// A user's own use of xxHash after braid's, in the mode that braid used for itself, must stay quiet.
#define XXH_INLINE_ALL 1
#include <xxhash.h>

TEST_CASE("stream hashes have their stored values", "[hash]") {
  // From xxHash's streaming functions and from Python's xxhash, over [u64 length][tensor][u64 length][expert].
  CHECK(braid::stream_hash("", "") == 0xD0A66A65C7528968u);
  CHECK(braid::stream_hash("a", "b") == 0xF60759A5E1FF0D49u);
  CHECK(braid::stream_hash("ab", "") == 0x99FDB59A17A45D60u);
  CHECK(braid::stream_hash("", "ab") == 0x549766ED7A8E6A07u);
  CHECK(braid::stream_hash("model.layers.0.self_attn.q_proj.weight", "add") == 0xC3C89C6D47D0A979u);
  CHECK(braid::stream_hash("lm_head.weight", "sort") == 0xD2D274051F540A3Au);
  CHECK(braid::stream_hash(std::string(500, 'x'), "cipher") == 0x09152C94F2F36488u);
}

TEST_CASE("where a tensor's name ends is part of the hash", "[hash]") {
  std::set<std::uint64_t> seen;
  std::string const text = "layers.0.weightexpert";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    seen.insert(braid::stream_hash(text.substr(0, cut), text.substr(cut)));
  }
  CHECK(seen.size() == text.size() + 1);
  CHECK(braid::stream_hash("a", "b") != braid::stream_hash("b", "a"));
  CHECK(braid::stream_hash(std::string("a\0", 2), "b") != braid::stream_hash("a", std::string("\0b", 2)));
}

TEST_CASE("every character of both names counts", "[hash]") {
  std::string const tensor = "model.layers.11.mlp.experts.7.down_proj.weight";
  std::string const expert = "code-llama_2";
  std::uint64_t const original = braid::stream_hash(tensor, expert);
  for (std::size_t i = 0; i < tensor.size(); ++i) {
    std::string other = tensor;
    other[i] ^= 1;
    CHECK(braid::stream_hash(other, expert) != original);
  }
  for (std::size_t i = 0; i < expert.size(); ++i) {
    std::string other = expert;
    other[i] ^= 1;
    CHECK(braid::stream_hash(tensor, other) != original);
  }
}

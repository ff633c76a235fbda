#pragma once

#include <braid/core/hash.hpp>
#include <braid/io/tensor_meta.hpp>

#include <memory>
#include <string>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Hash of one row's bytes: computed where the row is in cache, on any thread.
inline std::uint64_t row_hash(std::byte const* row, std::size_t bytes) noexcept {
  return static_cast<std::uint64_t>(XXH3_64bits(row, bytes));
}

/// The identity of the tensors that a merge read from one model: XXH3 (64 bits) over, for each tensor in the order of
/// the merge, its name, dtype and shape, and the XXH3 of each channel. docs/format.md defines it.
class input_hash {
 public:
  input_hash() : state_(XXH3_createState()) {
    if (state_ == nullptr) { throw std::bad_alloc(); }
    XXH3_64bits_reset(state_.get());
  }

  void begin(tensor_meta const& t) {
    std::string head;
    append_sized(head, t.name);
    append_sized(head, name_of(t.type));
    for (index_t const d : t.shape) { append_sized(head, std::to_string(d)); }
    XXH3_64bits_update(state_.get(), head.data(), head.size());
  }

  void rows(std::uint64_t const* hashes, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      unsigned char bytes[8];  // little-endian on any machine
      for (unsigned b = 0; b < 8; ++b) { bytes[b] = static_cast<unsigned char>(hashes[i] >> (8 * b)); }
      XXH3_64bits_update(state_.get(), bytes, sizeof bytes);
    }
  }

  [[nodiscard]] std::string text() const {
    constexpr char digits[] = "0123456789abcdef";
    auto const value = static_cast<std::uint64_t>(XXH3_64bits_digest(state_.get()));
    std::string s = "xxh3:";
    for (int shift = 60; shift >= 0; shift -= 4) { s += digits[(value >> shift) & 15u]; }
    return s;
  }

 private:
  struct release {
    void operator()(XXH3_state_t* s) const noexcept { XXH3_freeState(s); }
  };
  std::unique_ptr<XXH3_state_t, release> state_;
};

}  // namespace detail
BRAID_NAMESPACE_END

#pragma once

#include <braid/io/detail/safetensors_header.hpp>
#include <braid/io/mapped_file.hpp>

#include <bit>

BRAID_NAMESPACE_BEGIN

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian, and so must be the machine");

/// One safetensors file, mapped read-only and fully checked when opened: whoever has the object needs no more checks
/// before touching a tensor's bytes. Opening reads the header only. Const members may be called from many threads.
class safetensors_file {
 public:
  /// @throws io_error if the file can't be read
  /// @throws format_error if anything in it is wrong (`format_code` 101 to 124)
  explicit safetensors_file(std::filesystem::path const& path)
      : map_(path), header_(detail::read_safetensors_header(map_.bytes(), map_.path())) {}

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return map_.path(); }

  /// Sorted by name; `file` is 0.
  [[nodiscard]] std::vector<tensor_meta> const& tensors() const noexcept { return header_.tensors; }

  /// The strings of `__metadata__`.
  [[nodiscard]] std::map<std::string, std::string> const& metadata() const noexcept { return header_.metadata; }

  /// The bytes of one of `tensors()`, in the mapping.
  /// @throws argument_error if such a tensor can't be in this file
  [[nodiscard]] std::span<std::byte const> bytes(tensor_meta const& t) const {
    auto const all = map_.bytes();
    if (t.offset > all.size() || t.bytes > all.size() - t.offset) {
      throw argument_error(path().string() + ": tensor " + detail::in_quotes(t.name) + " comes from another file");
    }
    return all.subspan(static_cast<std::size_t>(t.offset), static_cast<std::size_t>(t.bytes));
  }

  /// Forgets pages of a tensor that are no longer needed; see `mapped_file::release`.
  /// @param first_byte from the start of the tensor
  void release(tensor_meta const& t, std::uint64_t first_byte, std::uint64_t count) const noexcept {
    if (first_byte >= t.bytes) { return; }
    map_.release(t.offset + first_byte, std::min(count, t.bytes - first_byte));
  }

 private:
  mapped_file map_;
  detail::safetensors_header header_;
};

BRAID_NAMESPACE_END

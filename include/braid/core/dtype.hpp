#pragma once

#include <braid/core/error.hpp>
#include <braid/core/float_types.hpp>

#include <array>
#include <string>
#include <string_view>

BRAID_NAMESPACE_BEGIN

/// Element types of the safetensors format. braid computes on the floating types up to 32 bits;
/// the others are carried, compared and copied.
enum class dtype : unsigned char { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

namespace detail {
struct dtype_info {
  dtype type;
  std::string_view name;  // as written in a safetensors header
  unsigned char size;     // bytes
  bool computable;
};
inline constexpr std::array<dtype_info, 15> dtype_table{{
    {dtype::f64, "F64", 8, false},
    {dtype::f32, "F32", 4, true},
    {dtype::f16, "F16", 2, true},
    {dtype::bf16, "BF16", 2, true},
    {dtype::f8_e4m3, "F8_E4M3", 1, true},
    {dtype::f8_e5m2, "F8_E5M2", 1, true},
    {dtype::i64, "I64", 8, false},
    {dtype::i32, "I32", 4, false},
    {dtype::i16, "I16", 2, false},
    {dtype::i8, "I8", 1, false},
    {dtype::u64, "U64", 8, false},
    {dtype::u32, "U32", 4, false},
    {dtype::u16, "U16", 2, false},
    {dtype::u8, "U8", 1, false},
    {dtype::boolean, "BOOL", 1, false},
}};
}  // namespace detail

/// Name in safetensors headers: "F32", "BF16", "F8_E4M3", ...
constexpr std::string_view name_of(dtype t) noexcept { return detail::dtype_table[static_cast<std::size_t>(t)].name; }

/// Bytes of one element.
constexpr std::size_t size_of(dtype t) noexcept { return detail::dtype_table[static_cast<std::size_t>(t)].size; }

/// Whether braid can merge tensors of this type (f32, f16, bf16, the two f8).
constexpr bool is_computable(dtype t) noexcept {
  return detail::dtype_table[static_cast<std::size_t>(t)].computable;
}

/// The type with that safetensors name.
/// @return false, and `out` untouched, where no type has it
constexpr bool parse_dtype(std::string_view name, dtype& out) noexcept {
  for (auto const& row : detail::dtype_table) {
    if (row.name == name) {
      out = row.type;
      return true;
    }
  }
  return false;
}

namespace detail {
template <class T>
struct dtype_of_type;
template <>
struct dtype_of_type<float> {
  static constexpr dtype value = dtype::f32;
};
template <>
struct dtype_of_type<float16> {
  static constexpr dtype value = dtype::f16;
};
template <>
struct dtype_of_type<bfloat16> {
  static constexpr dtype value = dtype::bf16;
};
template <>
struct dtype_of_type<float8_e4m3> {
  static constexpr dtype value = dtype::f8_e4m3;
};
template <>
struct dtype_of_type<float8_e5m2> {
  static constexpr dtype value = dtype::f8_e5m2;
};
}  // namespace detail

/// The runtime name of a storage type; `storage_element<T>` says whether there is one.
template <class T>
inline constexpr dtype dtype_of = detail::dtype_of_type<std::remove_cv_t<T>>::value;

template <class T>
concept storage_element = requires { detail::dtype_of_type<std::remove_cv_t<T>>::value; };

static_assert(storage_element<float> && storage_element<bfloat16> && !storage_element<int>);

BRAID_NAMESPACE_END

#include "compare.hpp"

#include <tbb/blocked_range.h>
#include <tbb/parallel_reduce.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace program {
namespace {

using braid::dtype;
using braid::index_t;

constexpr index_t chunk = 2048;

/// Elements as float64: exact for all but 64-bit integers beyond 2^53. Data in a file may be unaligned.
template <class T>
void widen_as(std::byte const* from, double* to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    T x;
    std::memcpy(&x, from + i * sizeof(T), sizeof(T));
    if constexpr (std::is_arithmetic_v<T>) {
      to[i] = static_cast<double>(x);
    } else {
      to[i] = static_cast<double>(static_cast<float>(x));
    }
  }
}

void widen(dtype type, std::byte const* from, double* to, std::size_t count) {
  switch (type) {
    case dtype::f64: widen_as<double>(from, to, count); break;
    case dtype::f32: widen_as<float>(from, to, count); break;
    case dtype::f16: widen_as<braid::float16>(from, to, count); break;
    case dtype::bf16: widen_as<braid::bfloat16>(from, to, count); break;
    case dtype::f8_e4m3: widen_as<braid::float8_e4m3>(from, to, count); break;
    case dtype::f8_e5m2: widen_as<braid::float8_e5m2>(from, to, count); break;
    case dtype::i64: widen_as<std::int64_t>(from, to, count); break;
    case dtype::i32: widen_as<std::int32_t>(from, to, count); break;
    case dtype::i16: widen_as<std::int16_t>(from, to, count); break;
    case dtype::i8: widen_as<std::int8_t>(from, to, count); break;
    case dtype::u64: widen_as<std::uint64_t>(from, to, count); break;
    case dtype::u32: widen_as<std::uint32_t>(from, to, count); break;
    case dtype::u16: widen_as<std::uint16_t>(from, to, count); break;
    case dtype::u8:
    case dtype::boolean: widen_as<std::uint8_t>(from, to, count); break;
  }
}

/// Equal values are at no distance, infinities included; what isn't a number is at an infinite one.
double distance(double x, double y) {
  if (x == y || (std::isnan(x) && std::isnan(y))) { return 0.0; }
  double const d = std::abs(x - y);
  return std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
}

struct side {
  braid::checkpoint const& model;
  braid::tensor_meta const& meta;
  std::byte const* data;
  std::size_t size;  // of an element

  side(braid::checkpoint const& c, braid::tensor_meta const& t)
      : model(c), meta(t), data(c.bytes(t).data()), size(braid::size_of(t.type)) {}

  [[nodiscard]] std::byte const* element(index_t i) const { return data + static_cast<std::size_t>(i) * size; }
  void release(index_t first, index_t count) const {
    model.release(meta, static_cast<std::uint64_t>(first) * size, static_cast<std::uint64_t>(count) * size);
  }
};

void compare_chunk(side const& a, side const& b, index_t first, std::size_t count, tensor_difference& found) {
  bool const same_type = a.meta.type == b.meta.type;
  std::byte const* const p = a.element(first);
  std::byte const* const q = b.element(first);
  if (same_type && std::memcmp(p, q, count * a.size) == 0) { return; }
  std::array<double, chunk> x;
  std::array<double, chunk> y;
  widen(a.meta.type, p, x.data(), count);
  widen(b.meta.type, q, y.data(), count);
  for (std::size_t i = 0; i < count; ++i) {
    double const d = distance(x[i], y[i]);
    // At no distance bits may differ still: zeros of both signs, payloads of NaN.
    if (d == 0.0 && (!same_type || std::memcmp(p + i * a.size, q + i * b.size, a.size) == 0)) { continue; }
    if (found.differing++ == 0 || d > found.largest) {
      found.at = first + static_cast<index_t>(i);
      found.a = x[i];
      found.b = y[i];
      found.largest = d;
    }
  }
}

}  // namespace

void tensor_difference::add(tensor_difference const& other) {
  if (other.differing == 0) { return; }
  bool const larger = differing == 0 || other.largest > largest || (other.largest == largest && other.at < at);
  differing += other.differing;
  if (!larger) { return; }
  at = other.at;
  a = other.a;
  b = other.b;
  largest = other.largest;
}

tensor_difference compare(braid::checkpoint const& a, braid::tensor_meta const& in_a, braid::checkpoint const& b,
                          braid::tensor_meta const& in_b) {
  side const left(a, in_a);
  side const right(b, in_b);
  constexpr std::size_t grain = std::size_t{1} << 19;
  return tbb::parallel_reduce(
      tbb::blocked_range<index_t>(0, in_a.elements(), grain), tensor_difference{},
      [&](tbb::blocked_range<index_t> const& part, tensor_difference found) {
        for (index_t first = part.begin(); first < part.end(); first += chunk) {
          compare_chunk(left, right, first, static_cast<std::size_t>(std::min(chunk, part.end() - first)), found);
        }
        left.release(part.begin(), part.end() - part.begin());
        right.release(part.begin(), part.end() - part.begin());
        return found;
      },
      [](tensor_difference x, tensor_difference const& y) {
        x.add(y);
        return x;
      },
      tbb::simple_partitioner{});
}

}  // namespace program

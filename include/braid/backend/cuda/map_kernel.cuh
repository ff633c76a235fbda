#pragma once

/// A function of the inputs at each position: the apply pass of every single-model method.

#include <braid/backend/cuda/element_inputs.cuh>
#include <braid/backend/cuda/random_words.cuh>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// A plan whose random numbers are Philox words, which may be handed to it: (value, word, row, column).
template <class Plan>
concept plan_takes_words = requires(Plan const plan, float x, std::uint32_t word, index_t row, index_t col) {
  { plan.with_word(x, word, row, col) } noexcept -> std::same_as<float>;
  plan.seed;
  plan.stream;
};

/// Where a tile lies, as plans count.
struct tile_place {
  index_t row;
  index_t col;            // of its first element
  index_t end;            // of the row
  std::uint64_t element;  // number of its first element in the tensor
  bool whole;             // no element lies beyond the end
  bool grouped;           // rows are whole groups of Philox blocks
};

template <int Most>
__device__ tile_place place_of(element_inputs<Most> const& in, index_t row, index_t col, bool whole) noexcept {
  index_t const plan_row = row + in.first_row;
  index_t const plan_col = col + in.first_col;
  return {plan_row, plan_col, in.cols + in.first_col, static_cast<std::uint64_t>(plan_row * in.channel_cols + plan_col), whole, in.grouped};
}

/// The elements that a cut keeps are those of `least` bits or more, where it treats all of a tile's elements alike.
struct cut_in_tile {
  std::uint32_t least;
  bool alike;

  __device__ cut_in_tile(magnitude_cut const& cut, index_t first, index_t last, bool above) noexcept
      : least(cut.bits), alike(last <= cut.last || first > cut.last) {
    // Of those that equal the cut the earlier ones are on its inner side.
    if ((first > cut.last) == above && least != 0xFFFFFFFFu) { ++least; }
  }
};

/// One element after the other: for tiles at ends, and plans that no faster way suits.
template <tile_layout L, class Plan>
__device__ __noinline__ void prune_singly(Plan const& plan, tile_place const& at, float* x) {
  for (int j = 0; j < tile_elements; ++j) {
    if (at.col + tile_column<L>(j) < at.end) { x[j] = plan(x[j], at.row, at.col + tile_column<L>(j)); }
  }
}

/// A tile's 16-bit numbers; `from` is the first one's.
template <tile_layout L>
__device__ void load_codes(std::uint16_t const* from, std::uint32_t (&code)[tile_elements / 2]) noexcept {
  if constexpr (L == tile_layout::together) {
    ptx::load_once(from, code);
  } else {
#pragma unroll
    for (int k = 0; k < tile_elements / 2; ++k) {
      std::uint32_t pair[1];
      ptx::load_once(from + tile_column<L>(2 * k), pair);
      code[k] = pair[0];
    }
  }
}

/// Prunes a tile in place.
/// @param keys  of the plan's seed
/// @param room  of the warp, where the layout needs it
template <tile_layout L, class Plan>
__device__ void prune_tile(Plan const& plan, random_keys const& keys, random_room* room, tile_place const& at, float (&x)[tile_elements]) {
  if constexpr (plan_takes_words<Plan>) {
    if (at.whole && at.grouped) {
      std::uint32_t word[tile_elements];
      if constexpr (L == tile_layout::together) {
        random_words_together(keys, plan.stream, at.element, *room, word);
      } else {
        random_words_spread(keys, plan.stream, at.element, word);
      }
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { x[j] = plan.with_word(x[j], word[j], at.row, at.col + tile_column<L>(j)); }
      return;
    }
  } else if constexpr (requires { { plan.cut } -> std::convertible_to<magnitude_cut>; plan.cols; }) {
    index_t const first = at.row * plan.cols + at.col;
    cut_in_tile const cut(plan.cut, first, first + tile_column<L>(tile_elements - 1), true);
    if (cut.alike) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) { x[j] = (__float_as_uint(x[j]) & 0x7FFFFFFFu) >= cut.least ? x[j] : 0.0f; }
      return;
    }
  } else if constexpr (requires { { plan.band } -> std::convertible_to<magnitude_band>; plan.cols; }) {
    index_t const first = at.row * plan.cols + at.col;
    index_t const last = first + tile_column<L>(tile_elements - 1);
    cut_in_tile const below(plan.band.below, first, last, false);
    cut_in_tile const upto(plan.band.upto, first, last, false);
    if (below.alike && upto.alike) {
#pragma unroll
      for (int j = 0; j < tile_elements; ++j) {
        std::uint32_t const magnitude = __float_as_uint(x[j]) & 0x7FFFFFFFu;
        x[j] = magnitude >= below.least && magnitude < upto.least ? x[j] : 0.0f;
      }
      return;
    }
  }
  if constexpr (requires { plan.codes; }) {
    if (at.whole) {
      std::uint32_t code[tile_elements / 2];
      load_codes<L>(plan.codes + (at.row * plan.cols + at.col - plan.begin), code);
      if (plan.decode(code, x)) { return; }
    }
  }
  if constexpr (plan_takes_words<Plan> || requires { plan.cut; } || requires { plan.band; } || requires { plan.codes; }) {
    float one[tile_elements];
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { one[j] = x[j]; }
    prune_singly<L>(plan, at, one);
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) { x[j] = one[j]; }
  } else {
#pragma unroll
    for (int j = 0; j < tile_elements; ++j) {
      if (at.whole || at.col + tile_column<L>(j) < at.end) { x[j] = plan(x[j], at.row, at.col + tile_column<L>(j)); }
    }
  }
}

/// What a map is told, by value. `F` offers
///   layout    of its tiles
///   by_row    whether it asks for rows and columns of channels
///   prunes    whether there are prune(model, room, place, x) for a tile and prune_one(model, x, row, column)
///   random    then: whether that needs the room
///   f(base, x, n, row, column) -> the result, before it is rounded; x[0 .. n) are the models' values
template <class F, int Most>
struct map_arguments {
  element_inputs<Most> in;
  index_t tiles;         // of all rows
  std::uint32_t of_row;  // tiles of a row
  dtype type;
  std::byte* out;        // [rows, cols], packed
  F f;
};

/// Usual: all inputs and the result are bfloat16, and all tiles are whole, in groups of Philox blocks where those are asked for.
template <int N, bool Usual, class F, int Most>
BRAID_KERNEL void __launch_bounds__(256) map_kernel(__grid_constant__ map_arguments<F, Most> const a) {
  constexpr tile_layout layout = F::layout;
  index_t t = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (t >= a.tiles) { return; }
  index_t row = 0;
  if (a.in.rows > 1) {
    row = static_cast<std::uint32_t>(t) / a.of_row;
    t -= row * a.of_row;
  }
  index_t const col = tile_begin<layout>(t);
  if (col >= a.in.cols) { return; }
  bool const whole = Usual || (a.in.whole && col + tile_column<layout>(tile_elements - 1) < a.in.cols);
  element_tile<N> tile;
  if constexpr (Usual) {
    load_deltas<N, layout>(a.in, row, col, tile);
  } else {
    load_elements<N, layout>(a.in, row, col, whole, tile);
  }
  if (a.in.check) { check_elements(a.in, row, col, tile); }
  tile_place at = place_of(a.in, row, col, whole);
  at.grouped = at.grouped || Usual;
  if constexpr (F::prunes) {
    random_room* room = nullptr;
    if constexpr (F::random) {
      BRAID_BLOCK_OBJECT(random_rooms, rooms);
      room = &rooms.of_warp[threadIdx.x / 32];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) { a.f.template prune<layout>(i, room, at, tile.x[i]); }
  }
  float result[tile_elements];
#pragma unroll
  for (int j = 0; j < tile_elements; ++j) {
    float one[N];
#pragma unroll
    for (int i = 0; i < N; ++i) { one[i] = tile.x[i][j]; }
    result[j] = a.f(tile.base[j], static_cast<float const*>(one), N, at.row, at.col + tile_column<layout>(j));
  }
  raw_tile out;
  dtype const type = Usual ? dtype::bf16 : a.type;
  narrow_tile(result, type, out);
  std::byte* const to = a.out + (row * a.in.cols + col) * bytes_of(type);
  if (whole) {
    store_raw<layout>(out, type, to);
  } else {
    store_raw_singly<layout>(out, type, to, col, a.in.cols);
  }
}

/// The same for any number of models: an element a thread, in shared memory a float a thread and model.
template <class F, int Most>
BRAID_KERNEL void map_many_kernel(__grid_constant__ map_arguments<F, Most> const a) {
  BRAID_BLOCK_MEMORY(memory);
  auto const n = static_cast<unsigned>(a.in.count);
  float* const x = reinterpret_cast<float*>(memory) + n * threadIdx.x;
  index_t const row = a.in.rows > 1 ? static_cast<index_t>(blockIdx.x / a.of_row) : 0;
  index_t const col = (static_cast<index_t>(blockIdx.x) - row * a.of_row) * blockDim.x + threadIdx.x;
  if (col >= a.in.cols) { return; }
  auto const at = [row, col](device_input const& input) { return input.data + row * input.stride + col * bytes_of(input.type); };
  index_t const plan_row = row + a.in.first_row;
  index_t const plan_col = col + a.in.first_col;
  float const base = a.in.has_base ? widen_element(at(a.in.base), a.in.base.type) : 0.0f;
  float zero = base * 0.0f;
  for (int i = 0; i < a.in.count; ++i) {
    float value = widen_element(at(a.in.models[i]), a.in.models[i].type);
    if (a.in.deltas) { value = value - base; }
    zero = ptx::fused(value, 0.0f, zero);
    if constexpr (F::prunes) { value = a.f.prune_one(i, value, plan_row, plan_col); }
    x[i] = value;
  }
  if (a.in.check && zero != zero) {
    atomicMin(a.in.first_bad, static_cast<unsigned long long>(a.in.first + row + (a.in.channel_cols < a.in.cols ? col / a.in.channel_cols : 0)));
  }
  narrow_element(a.f(base, static_cast<float const*>(x), a.in.count, plan_row, plan_col), a.out + (row * a.in.cols + col) * bytes_of(a.type), a.type);
}

}  // namespace detail
BRAID_NAMESPACE_END

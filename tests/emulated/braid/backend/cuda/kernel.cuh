#pragma once

/// In place of the header of that name: kernels run on the host, a thread of the operating system for each of a block's, so
/// that machines without a GPU can test what kernels compute, and that all threads meet at every barrier. Nothing here says
/// how fast they are, or whether threads race.

#include <braid/core/float_types.hpp>

#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#define __device__
#define __host__
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)
#define BRAID_KERNEL static
#define BRAID_BLOCK_MEMORY(name) std::byte* const name = emulated::block().memory.data()
#define BRAID_BLOCK_OBJECT(type, name) type& name = *reinterpret_cast<type*>(emulated::block().object.data())

namespace emulated {

/// What a block's threads share.
struct block_state {
  std::vector<std::byte> memory;
  std::vector<std::byte> object;
  std::unique_ptr<std::barrier<>> barrier;
  std::vector<std::unique_ptr<std::barrier<>>> warps;
  std::vector<std::uint64_t> exchange;  // a word of each thread
  std::atomic<int> any{0};
  std::uint32_t rank = 0;
};

struct cluster_state {
  std::vector<std::unique_ptr<block_state>> blocks;
  std::unique_ptr<std::barrier<>> barrier;
};

inline thread_local block_state* own_block = nullptr;
inline thread_local cluster_state* own_cluster = nullptr;
inline block_state& block() { return *own_block; }

}  // namespace emulated

struct emulated_index {
  unsigned x;
};
inline thread_local emulated_index threadIdx{};
inline thread_local emulated_index blockIdx{};
inline thread_local emulated_index blockDim{};
inline thread_local emulated_index gridDim{};

namespace emulated {

/// Runs `kernel()` on `blocks` blocks, a cluster of them at a time. Shared memory begins as garbage.
inline void run(int blocks, int cluster, int threads, std::size_t memory, std::size_t object, std::function<void()> const& kernel) {
  for (int first = 0; first < blocks; first += cluster) {
    cluster_state c;
    c.barrier = std::make_unique<std::barrier<>>(cluster * threads);
    std::vector<std::thread> running;
    for (int b = 0; b < cluster; ++b) {
      auto state = std::make_unique<block_state>();
      state->memory.assign(memory, std::byte{0xCD});
      state->object.assign(object, std::byte{0xCD});
      state->barrier = std::make_unique<std::barrier<>>(threads);
      for (int w = 0; w < threads; w += 32) { state->warps.push_back(std::make_unique<std::barrier<>>(32)); }
      state->exchange.resize(static_cast<std::size_t>(threads));
      state->rank = static_cast<std::uint32_t>(b);
      c.blocks.push_back(std::move(state));
    }
    for (int b = 0; b < cluster; ++b) {
      for (int t = 0; t < threads; ++t) {
        running.emplace_back([&, b, t] {
          own_cluster = &c;
          own_block = c.blocks[static_cast<std::size_t>(b)].get();
          threadIdx.x = static_cast<unsigned>(t);
          blockIdx.x = static_cast<unsigned>(first + b);
          blockDim.x = static_cast<unsigned>(threads);
          gridDim.x = static_cast<unsigned>(blocks);
          kernel();
        });
      }
    }
    for (auto& r : running) { r.join(); }
  }
}

inline void meet_warp() { block().warps[threadIdx.x / 32]->arrive_and_wait(); }

/// Every thread of the warp gives a value and reads them all.
template <class T, class F>
auto in_warp(T value, F const& f) {
  std::uint64_t* const slots = block().exchange.data() + threadIdx.x / 32 * 32;
  std::memcpy(slots + threadIdx.x % 32, &value, sizeof value);
  meet_warp();
  auto const at = [slots](unsigned lane) {
    T x;
    std::memcpy(&x, slots + lane % 32, sizeof x);
    return x;
  };
  auto const result = f(at);
  meet_warp();
  return result;
}

}  // namespace emulated

inline void __syncthreads() { emulated::block().barrier->arrive_and_wait(); }
inline void __syncwarp() { emulated::meet_warp(); }
inline int __syncthreads_or(bool mine) {
  __syncthreads();
  if (mine) { emulated::block().any = 1; }
  __syncthreads();
  int const any = emulated::block().any;
  __syncthreads();
  if (threadIdx.x == 0) { emulated::block().any = 0; }
  __syncthreads();
  return any;
}
template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  return emulated::in_warp(x, [lane](auto const& at) { return at(static_cast<unsigned>(lane)); });
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulated::in_warp(x, [mask](auto const& at) { return at((threadIdx.x % 32) ^ static_cast<unsigned>(mask)); });
}
inline unsigned __ballot_sync(unsigned, bool mine) {
  return emulated::in_warp(mine ? 1u : 0u, [](auto const& at) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane) { votes |= at(lane) << lane; }
    return votes;
  });
}
inline int __all_sync(unsigned mask, bool mine) { return __ballot_sync(mask, mine) == ~0u ? 1 : 0; }
inline int __any_sync(unsigned mask, bool mine) { return __ballot_sync(mask, mine) != 0 ? 1 : 0; }
inline unsigned __match_any_sync(unsigned, unsigned mine) {
  return emulated::in_warp(mine, [mine](auto const& at) {
    unsigned same = 0;
    for (unsigned lane = 0; lane < 32; ++lane) { same |= (at(lane) == mine ? 1u : 0u) << lane; }
    return same;
  });
}
inline unsigned __reduce_max_sync(unsigned, unsigned mine) {
  return emulated::in_warp(mine, [](auto const& at) {
    unsigned most = 0;
    for (unsigned lane = 0; lane < 32; ++lane) { most = at(lane) > most ? at(lane) : most; }
    return most;
  });
}
inline unsigned __reduce_add_sync(unsigned, unsigned mine) {
  return emulated::in_warp(mine, [](auto const& at) {
    unsigned sum = 0;
    for (unsigned lane = 0; lane < 32; ++lane) { sum += at(lane); }
    return sum;
  });
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned chosen) {
  std::uint64_t const both = low | static_cast<std::uint64_t>(high) << 32;
  unsigned r = 0;
  for (unsigned i = 0; i < 4; ++i) { r |= static_cast<unsigned>(both >> (chosen >> 4 * i & 7u) * 8 & 255u) << 8 * i; }
  return r;
}
inline void __threadfence() {}
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (unsigned i = 0; i < 32; ++i) { r |= (x >> i & 1u) << (31 - i); }
  return r;
}
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long x) { return std::atomic_ref(*p).fetch_add(x); }
inline unsigned atomicAdd(unsigned* p, unsigned x) { return std::atomic_ref(*p).fetch_add(x); }
inline int atomicAdd(int* p, int x) { return std::atomic_ref(*p).fetch_add(x); }
inline unsigned atomicInc(unsigned* p, unsigned last) {
  std::atomic_ref const there(*p);
  unsigned old = there.load();
  while (!there.compare_exchange_weak(old, old >= last ? 0 : old + 1)) {}
  return old;
}
inline unsigned atomicExch(unsigned* p, unsigned x) { return std::atomic_ref(*p).exchange(x); }
inline unsigned atomicMax(unsigned* p, unsigned x) {
  std::atomic_ref const there(*p);
  unsigned old = there.load();
  while (x > old && !there.compare_exchange_weak(old, x)) {}
  return old;
}
inline unsigned long long atomicMin(unsigned long long* p, unsigned long long x) {
  std::atomic_ref const there(*p);
  unsigned long long old = there.load();
  while (x < old && !there.compare_exchange_weak(old, x)) {}
  return old;
}

BRAID_NAMESPACE_BEGIN
namespace detail::ptx {

inline std::uint32_t to_bf16_pair(float first, float second) noexcept {
  return bfloat16(first).bits | static_cast<std::uint32_t>(bfloat16(second).bits) << 16;
}
inline std::uint32_t to_f16_pair(float first, float second) noexcept {
  return float16(first).bits | static_cast<std::uint32_t>(float16(second).bits) << 16;
}
inline void halves_up_to(std::uint32_t word, std::uint32_t most, bool& lower, bool& upper) noexcept {
  lower = (word & 0xFFFFu) <= (most & 0xFFFFu);
  upper = word >> 16 <= most >> 16;
}
inline void halves_up_to_in_words(std::uint32_t word, std::uint32_t most, bool& lower, bool& upper) noexcept {
  halves_up_to(word, most, lower, upper);
}
inline float fused_multiply_add(float a, float b, float c) noexcept { return std::fma(a, b, c); }
inline float from_f16(std::uint16_t bits) noexcept { return static_cast<float>(float16::from_bits(bits)); }

inline void check_copy(void const* a, void const* b, std::uint32_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(a) % 16 != 0 || reinterpret_cast<std::uintptr_t>(b) % 16 != 0 || bytes % 16 != 0) {
    std::abort();  // a device would stop here
  }
}
// A barrier as one word: its phase, arrivals of a phase and those still missing, and bytes still to come.
struct barrier_parts {
  std::int32_t bytes;
  std::uint16_t missing;
  std::uint16_t arrivals : 15;
  std::uint16_t phase : 1;
};
static_assert(sizeof(barrier_parts) == sizeof(std::uint64_t));

template <class F>
void change_barrier(std::uint64_t* barrier, F const& f) noexcept {
  std::atomic_ref const there(*barrier);
  std::uint64_t old = there.load();
  for (;;) {
    auto parts = std::bit_cast<barrier_parts>(old);
    f(parts);
    if (parts.missing == 0 && parts.bytes == 0) {
      parts.missing = parts.arrivals;
      parts.phase = static_cast<std::uint16_t>(parts.phase ^ 1u);
    }
    if (there.compare_exchange_weak(old, std::bit_cast<std::uint64_t>(parts))) { return; }
  }
}
inline void make_barrier(std::uint64_t* barrier, std::uint32_t arrivals) noexcept {
  *barrier = std::bit_cast<std::uint64_t>(barrier_parts{0, static_cast<std::uint16_t>(arrivals), static_cast<std::uint16_t>(arrivals & 0x7FFFu), 0});
}
inline void publish_barriers() noexcept {}
inline void arrive(std::uint64_t* barrier) noexcept {
  change_barrier(barrier, [](barrier_parts& p) { --p.missing; });
}
inline void expect_copies(std::uint64_t* barrier, std::uint32_t bytes) noexcept {
  change_barrier(barrier, [bytes](barrier_parts& p) {
    p.bytes += static_cast<std::int32_t>(bytes);
    --p.missing;
  });
}
inline bool is_over(std::uint64_t* barrier, std::uint32_t phase) noexcept {
  if (std::bit_cast<barrier_parts>(std::atomic_ref(*barrier).load()).phase != (phase & 1u)) { return true; }
  std::this_thread::yield();
  return false;
}
inline void wait_for(std::uint64_t* barrier, std::uint32_t phase) noexcept {
  while (!is_over(barrier, phase)) {}
}
inline int as_new(int x) noexcept { return x; }
inline std::int32_t peek(std::int32_t* p) noexcept { return std::atomic_ref(*p).load(); }
inline std::int32_t peek(std::int32_t const* p) noexcept { return peek(const_cast<std::int32_t*>(p)); }
inline void poke(std::int32_t* p, std::int32_t x) noexcept { std::atomic_ref(*p).store(x); }
inline void copy_in(void* shared, void const* global, std::uint32_t bytes, std::uint64_t* barrier) {
  check_copy(shared, global, bytes);
  std::memcpy(shared, global, bytes);
  change_barrier(barrier, [bytes](barrier_parts& p) { p.bytes -= static_cast<std::int32_t>(bytes); });
}
inline bool elect() noexcept { return threadIdx.x % 32 == 0; }
inline void let_next_start() noexcept {}
inline void wait_for_last() noexcept {}
inline void publish_to_copies() noexcept {}

inline std::uint32_t cluster_rank() noexcept { return emulated::block().rank; }
inline void cluster_arrive() noexcept {}
inline void cluster_wait() { emulated::own_cluster->barrier->arrive_and_wait(); }

/// The place in block `rank` that `p` is in this block.
template <class T>
T* in_cluster(T* p, std::uint32_t rank) {
  emulated::block_state& here = emulated::block();
  emulated::block_state& there = *emulated::own_cluster->blocks[rank];
  auto const* const address = reinterpret_cast<std::byte const*>(p);
  bool const in_memory = address >= here.memory.data() && address < here.memory.data() + here.memory.size();
  std::byte* const to = in_memory ? there.memory.data() + (address - here.memory.data()) : there.object.data() + (address - here.object.data());
  return reinterpret_cast<T*>(to);
}
template <class T, class X>
void store_in_cluster(T* p, std::uint32_t rank, X x) {
  *in_cluster(p, rank) = static_cast<T>(x);
}
inline std::uint32_t load_from_cluster(std::uint32_t const* p, std::uint32_t rank) { return *in_cluster(p, rank); }

}  // namespace detail::ptx
BRAID_NAMESPACE_END

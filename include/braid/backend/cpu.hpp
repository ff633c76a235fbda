#pragma once

#include <braid/backend/backend.hpp>
#include <braid/core/error.hpp>

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <memory>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// The CPU: oneTBB threads, SIMD chosen at run time. Copies share their threads. Operations finish before they return.
/// The number of threads never changes a result.
class cpu {
 public:
  static constexpr memory_space space = memory_space::host;

  template <class T>
  using buffer = std::vector<T>;

  /// @param threads 0: as many as the machine has
  /// @throws argument_error if negative
  explicit cpu(int threads = 0) {
    if (threads < 0) {
      throw argument_error("braid::cpu: " + std::to_string(threads) + " threads asked for: give 1 or more, or 0 for all");
    }
    arena_ = std::make_shared<tbb::task_arena>(threads == 0 ? int{tbb::task_arena::automatic} : threads);
    arena_->initialize();
  }

  template <class T>
  [[nodiscard]] buffer<T> make_buffer(std::size_t n) const {
    return buffer<T>(n);
  }

  /// Calls f(0) ... f(count - 1) on all threads and returns when they are done. An exception of one call is rethrown.
  template <class F>
  void for_each(index_t count, F const& f) const {
    arena_->execute([&] {
      tbb::parallel_for(index_t{0}, count, [&](index_t i) { f(i); });
    });
  }

  /// Runs `f` where oneTBB algorithms inside it use this executor's threads.
  template <class F>
  void execute(F const& f) const {
    arena_->execute(f);
  }

  void synchronize() const noexcept {}
  [[nodiscard]] int threads() const noexcept { return arena_->max_concurrency(); }
  [[nodiscard]] std::string_view name() const noexcept { return "cpu"; }

 private:
  std::shared_ptr<tbb::task_arena> arena_;
};
static_assert(backend<cpu>);

BRAID_NAMESPACE_END

#include <braid/backend/cpu/merge_channels.hpp>
#include <braid/backend/cpu/tensor_measures.hpp>

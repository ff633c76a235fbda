#pragma once

#include <braid/backend/cpu.hpp>

#include <tbb/parallel_pipeline.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Where results of blocks lie in the host's memory. A device brings memory that it can copy to.
class block_memory {
 public:
  virtual ~block_memory() = default;
  [[nodiscard]] virtual std::byte* take(std::size_t bytes) const { return new std::byte[bytes]; }
  virtual void give_back(std::byte* at, std::size_t /*bytes*/) const noexcept { delete[] at; }
};

/// The usual memory.
inline block_memory const& host_memory() noexcept {
  static block_memory const usual;
  return usual;
}

/// Bytes of such memory, used again and again.
class block_bytes {
 public:
  explicit block_bytes(block_memory const& memory) : memory_(&memory) {}
  block_bytes(block_bytes&& other) noexcept
      : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  block_bytes& operator=(block_bytes&&) = delete;
  block_bytes(block_bytes const&) = delete;
  block_bytes& operator=(block_bytes const&) = delete;
  ~block_bytes() { release(); }

  /// Makes room without ever giving it back; what was there is lost if there was less. Rows without columns have an address too.
  void fit(std::size_t bytes) {
    if (data_ != nullptr && bytes <= size_) { return; }
    release();
    data_ = memory_->take(std::max<std::size_t>(bytes, 1));
    size_ = std::max<std::size_t>(bytes, 1);
  }

  [[nodiscard]] std::byte* data() noexcept { return data_; }
  [[nodiscard]] std::byte const* data() const noexcept { return data_; }
  [[nodiscard]] std::span<std::byte const> first(std::size_t bytes) const noexcept { return {data_, bytes}; }

 private:
  void release() noexcept {
    if (data_ != nullptr) { memory_->give_back(data_, size_); }
    data_ = nullptr;
    size_ = 0;
  }

  block_memory const* memory_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A block that something else merges while the host's threads go on.
class block_under_way {
 public:
  virtual ~block_under_way() = default;
  /// Waits until its results are in the host's memory. For one block after the other, in the order in which they began.
  virtual void wait() = 0;
  /// Brings them where the host would have put them. Behind `wait`, on many threads.
  virtual void collect(merged_block& out) = 0;
};

class tensor_pass;

/// One block on its way through the engine.
struct block_slot {
  index_t first = 0;
  index_t rows = 0;
  block_bytes group_zero;              // [rows, cols]
  block_bytes extra;                   // further rows
  std::vector<std::uint8_t> label;     // [rows, experts]
  std::vector<std::uint64_t> hash;     // [models, rows], base first
  residual_block residual;
  merged_block merged;
  std::size_t zero_rows = 0;           // of group 0 that the file gets
  bool zero_written = false;
  std::uint64_t extra_at = 0;          // where the further rows belong in their tensor, in bytes
  index_t done_first = 0;              // channels whose inputs nobody needs any more
  index_t done_rows = 0;
  std::shared_ptr<tensor_pass> pass;   // where blocks of several tensors are on their way
  std::exception_ptr misfit;           // to be thrown unless something else is
  std::exception_ptr failure;          // to be thrown when its turn comes
  std::unique_ptr<block_under_way> under_way;  // its copies end before the memory above goes

  explicit block_slot(block_memory const& memory) : group_zero(memory), extra(memory) {}
};

/// Which inputs of a tensor can be given back: some megabytes at a time, since every time interrupts all threads.
class used_inputs {
 public:
  used_inputs(index_t channels, std::size_t row_bytes) : channels_(channels), row_bytes_(row_bytes) {}

  /// Of a block whose predecessors are merged, in order.
  void add(block_slot& s) {
    constexpr std::size_t worthwhile = std::size_t{4} << 20;
    index_t const end = s.first + s.rows;
    bool const now = end == channels_ || static_cast<std::size_t>(end - given_back_) * row_bytes_ >= worthwhile;
    s.done_first = given_back_;
    s.done_rows = now ? end - given_back_ : 0;
    if (now) { given_back_ = end; }
  }

 private:
  index_t channels_;
  std::size_t row_bytes_;
  index_t given_back_ = 0;
};

/// Blocks of channels through a pipeline. At most `tokens` blocks are on their way, which bounds memory; slots are used again,
/// by later tensors too, the one first that was used last.
class block_stream {
 public:
  explicit block_stream(cpu const& be, block_memory const& memory = host_memory()) : be_(be), memory_(memory) {}

  /// The stages of a block, in this order: `next(slot)`, for one after the other, says what block comes, or that none does;
  /// `work(slot)` on many threads at once; `await(slot)` for one after the other; `collect(slot)` on many; `place(slot)` for one
  /// after the other; `finish(slot)` on many threads again. One after the other is in the order in which they came.
  template <class Stages>
  void run(std::size_t tokens, Stages& stages) {
    free_.clear();  // whoever threw kept his
    for (block_slot& s : slots_) {
      s.under_way.reset();
      free_.push_back(&s);
    }
    using tbb::filter_mode;
    auto const in_order = [](auto const& stage) {
      return tbb::make_filter<block_slot*, block_slot*>(filter_mode::serial_in_order, stage);
    };
    auto const at_once = [](auto const& stage) { return tbb::make_filter<block_slot*, block_slot*>(filter_mode::parallel, stage); };
    auto const then = [](auto const& f) {
      return [&f](block_slot* slot) {
        f(*slot);
        return slot;
      };
    };
    auto const work = [&](block_slot& s) { stages.work(s); };
    auto const await = [&](block_slot& s) { stages.await(s); };
    auto const collect = [&](block_slot& s) { stages.collect(s); };
    auto const place = [&](block_slot& s) { stages.place(s); };
    be_.execute([&] {
      tbb::parallel_pipeline(tokens, tbb::make_filter<void, block_slot*>(filter_mode::serial_in_order,
                                                                         [&](tbb::flow_control& control) -> block_slot* {
                                                                           block_slot& slot = take();
                                                                           if (stages.next(slot)) { return &slot; }
                                                                           give_back(slot);
                                                                           control.stop();
                                                                           return nullptr;
                                                                         }) &
                                         at_once(then(work)) & in_order(then(await)) & at_once(then(collect)) & in_order(then(place)) &
                                         tbb::make_filter<block_slot*, void>(filter_mode::parallel, [&](block_slot* slot) {
                                           stages.finish(*slot);
                                           give_back(*slot);
                                         }));
    });
  }

  /// The blocks of one tensor, which nobody waits for.
  template <class Work, class Place, class Finish>
  void run(index_t channels, index_t rows_per_block, std::size_t tokens, Work const& work, Place const& place, Finish const& finish) {
    struct {
      index_t channels, rows, begun;
      Work const& work;
      Place const& place;
      Finish const& finish;
      bool next(block_slot& s) {
        if (begun >= channels) { return false; }
        s.first = begun;
        s.rows = std::min(rows, channels - begun);
        begun += s.rows;
        return true;
      }
      void await(block_slot&) const {}
      void collect(block_slot&) const {}
    } stages{channels, rows_per_block, 0, work, place, finish};
    run(tokens, stages);
  }

 private:
  [[nodiscard]] block_slot& take() {
    std::lock_guard const lock(mutex_);
    if (free_.empty()) { return slots_.emplace_back(memory_); }
    block_slot& last = *free_.back();
    free_.pop_back();
    return last;
  }
  void give_back(block_slot& slot) {
    std::lock_guard const lock(mutex_);
    free_.push_back(&slot);
  }

  cpu const& be_;
  block_memory const& memory_;
  std::mutex mutex_;
  std::deque<block_slot> slots_;
  std::vector<block_slot*> free_;
};

/// How many blocks may be on their way at once: two a thread, fewer where rows are so long that blocks are.
inline std::size_t blocks_on_their_way(cpu const& be, std::size_t block_bytes) {
  constexpr std::size_t limit = std::size_t{256} << 20;
  auto const wanted = 2 * static_cast<std::size_t>(be.threads());
  std::size_t const fitting = block_bytes == 0 ? wanted : limit / block_bytes;
  return fitting < 1 ? 1 : std::min(wanted, fitting);
}

/// Makes room without ever giving it back.
inline void fit(block_bytes& b, std::size_t n) { b.fit(n); }
template <class T>
void fit(std::vector<T>& v, std::size_t n) {
  if (v.size() < n || v.empty()) { v.resize(std::max<std::size_t>(n, 1)); }
}

}  // namespace detail
BRAID_NAMESPACE_END

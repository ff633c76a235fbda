#pragma once

#include <braid/engine/detail/budget_pass.hpp>
#include <braid/engine/detail/tensor_pass.hpp>

#include <tbb/task_arena.h>

BRAID_NAMESPACE_BEGIN
namespace detail {

using adapted_rows = std::vector<std::unique_ptr<recipe::detail::read_rows>>;

/// The inputs of a merged tensor, experts as they are in their files.
[[nodiscard]] inline tensor_channels stored_source(merge_state const& shared, planned_tensor const& p) {
  tensor_channels s;
  s.channels = p.channels;
  s.cols = p.cols;
  s.transposed = p.transposed;
  s.out = p.out;
  if (shared.options.weights != nullptr) {
    auto const weight = shared.options.weights->find(p.name, p.cols);
    s.column_weight = weight.empty() ? nullptr : weight.data();
  }
  auto const rows = [&](checkpoint const& model, tensor_meta const& t) {
    return channel_rows{model.bytes(t).data(), t.type, p.cols * static_cast<index_t>(size_of(t.type))};
  };
  s.base = rows(shared.base, *p.base);
  for (std::size_t e = 0; e < shared.experts.size(); ++e) { s.experts.push_back(rows(shared.experts[e], *p.experts[e])); }
  return s;
}

/// The same with the experts' adapters.
/// @param adapted  what the result refers to
[[nodiscard]] inline tensor_channels source_of(merge_state const& shared, planned_tensor const& p, adapted_rows& adapted) {
  tensor_channels s = stored_source(shared, p);
  for (std::size_t e = 0; e < shared.options.adapters.size(); ++e) {
    recipe::adapter const* const lora = shared.options.adapters[e];
    recipe::lora_delta const* const delta = lora == nullptr ? nullptr : lora->find(p.experts[e]->name);
    if (delta == nullptr) { continue; }
    adapted.push_back(std::make_unique<recipe::detail::read_rows>(shared.experts[e], *p.experts[e], lora, delta, std::nullopt, p.cols));
    s.experts[e].computed = adapted.back().get();
  }
  return s;
}

/// A tensor that the method merges.
class merge_pass final : public tensor_pass {
 public:
  /// @param measured  under a budget
  merge_pass(merge_state& shared, planned_tensor const& p, measured_tensor const* measured)
      : tensor_pass(shared, p, block_rows(shared, p), static_cast<std::size_t>(p.cols) * size_of(p.out)),
        source_(source_of(shared, p, adapted_)), context_(shared.merger.prepare(p.name, shared.names, source_, measured)),
        room_(static_cast<std::size_t>(shared.layout.most_extra(p))) {}

  [[nodiscard]] static index_t block_rows(merge_state const& shared, planned_tensor const& p) {
    return shared.options.block_rows > 0 ? shared.options.block_rows : shared.merger.block_rows(stored_source(shared, p));
  }

  /// Bytes of the results of a block.
  [[nodiscard]] static std::size_t block_bytes(merge_state const& shared, planned_tensor const& p) {
    std::size_t const row = static_cast<std::size_t>(p.cols) * size_of(p.out);
    std::size_t const channel = (1 + static_cast<std::size_t>(shared.layout.most_extra(p))) * row + shared.residuals.plane_bound(p.cols);
    return static_cast<std::size_t>(block_rows(shared, p)) * channel;
  }

  void work(block_slot& s) override {
    pass_scratch& mine = shared_.scratch.local();
    channel_block const block = source_.block(s.first, s.rows, mine.gathered);
    auto const n = static_cast<std::size_t>(s.rows);
    fit(s.group_zero, n * row_bytes());
    fit(s.extra, n * room_ * row_bytes());
    fit(s.label, n * shared_.experts.size());
    s.merged = {};
    s.merged.group_zero = s.group_zero.data();
    s.merged.extra = s.extra.data();
    s.merged.label = s.label.data();
    s.residual.clear();
    s.merged.residual = &s.residual;
    s.zero_rows = n;
    // Who waits for threads in there must not begin another block with this thread's memory.
    tbb::this_task_arena::isolate([&] { s.under_way = shared_.merger.merge(context_, block, s.merged, mine.work); });
    if (checks_results() && shared_.residuals.active()) {
      try {
        check_inputs_fit(planned_, block, mine.work);
      } catch (value_error const&) {  // unless what was merged has NaN
        s.misfit = std::current_exception();
      }
    }
    if (shared_.options.hash_inputs) { hash(block, s); }
  }

  void collect(block_slot& s) override {
    if (s.misfit) { std::rethrow_exception(s.misfit); }
    if (checks_results()) {
      check_results(planned_, s, static_cast<std::size_t>(s.rows), static_cast<std::size_t>(s.merged.extra_rows), row_bytes(),
                    shared_.scratch.local().work);
    }
    tensor_pass::collect(s);
  }

  void place(block_slot& s) override {
    place_rows(s);
    shared_.residuals.append(s.residual);
    similarity_ += s.merged.similarity;
    compared_ += s.merged.compared;
    if (!shared_.options.hash_inputs) { return; }
    auto const n = static_cast<std::size_t>(s.rows);
    for (std::size_t m = 0; m <= shared_.experts.size(); ++m) { shared_.hashes[m].rows(s.hash.data() + m * n, n); }
  }

  void finish(block_slot& s) override {
    tensor_pass::finish(s);
    release(shared_.base, planned_.base, s);
    for (std::size_t e = 0; e < shared_.experts.size(); ++e) { release(shared_.experts[e], planned_.experts[e], s); }
  }

 protected:
  void begin_inputs() override {
    shared_.residuals.begin(planned_, context_.column, *shared_.writer, shared_.out);
    hash_model(0, planned_.base);
    for (std::size_t e = 0; e < shared_.experts.size(); ++e) { hash_model(e + 1, planned_.experts[e]); }
  }
  [[nodiscard]] std::uint64_t end_residuals() override { return shared_.residuals.end(index_); }

 private:
  void hash(channel_block const& block, block_slot& s) const {
    auto const n = static_cast<std::size_t>(s.rows);
    std::size_t const experts = block.experts.size();
    fit(s.hash, n * (experts + 1));
    for (std::size_t m = 0; m <= experts; ++m) {
      channel_rows const& x = m == 0 ? block.base : block.experts[m - 1];
      std::size_t const bytes = static_cast<std::size_t>(planned_.cols) * size_of(x.type);
      for (std::size_t r = 0; r < n; ++r) { s.hash[m * n + r] = row_hash(x.row(static_cast<index_t>(r)), bytes); }
    }
  }

  adapted_rows adapted_;
  tensor_channels source_;
  tensor_context context_;
  std::size_t room_;  // most further rows a channel
};

}  // namespace detail
BRAID_NAMESPACE_END

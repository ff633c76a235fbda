#pragma once

#include <braid/engine/detail/nonfinite.hpp>
#include <braid/engine/detail/tensor_merger.hpp>
#include <braid/engine/merge_plan.hpp>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The rows that a kept tensor stores: in each channel, equal ones once. Their bytes, and those of its index.
class kept_size {
 public:
  kept_size(cpu const& be, planned_tensor const& tensor, std::vector<checkpoint> const& experts)
      : p_(tensor), row_bytes_(static_cast<std::size_t>(tensor.cols) * size_of(tensor.out)) {
    for (std::size_t e = 0; e < experts.size(); ++e) {
      tensor_meta const* const t = p_.experts[e];
      if (t == nullptr) {
        source_.push_back({});
        continue;
      }
      source_.push_back({experts[e].bytes(*t).data(), t->type, p_.expert_channels[e]});
    }
    constexpr index_t rows = 256;
    index_t const blocks = (p_.channels + rows - 1) / rows;
    be.for_each(blocks, [&](index_t b) { count(b * rows, std::min((b + 1) * rows, p_.channels)); });
  }

  [[nodiscard]] std::uint64_t bytes() const noexcept {
    std::uint64_t const index = indexed_.load() ? static_cast<std::uint64_t>(p_.channels) * source_.size() : 0;
    return rows_.load() * row_bytes_ + index;
  }

 private:
  struct row_source {
    std::byte const* data = nullptr;
    dtype type = dtype::f32;
    index_t channels = 0;
  };

  void count(index_t first, index_t last) {
    std::vector<std::byte> aligned;
    std::vector<std::vector<std::byte>> distinct(source_.size());
    std::uint64_t found = 0;
    bool indexed = false;
    for (index_t channel = first; channel < last; ++channel) {
      std::size_t groups = 0;
      for (row_source const& x : source_) {
        if (channel >= x.channels) {
          indexed = true;
          continue;
        }
        std::size_t const bytes = static_cast<std::size_t>(p_.cols) * size_of(x.type);
        std::vector<std::byte>& row = distinct[groups];
        row.resize(row_bytes_);
        if (row_bytes_ != 0 && x.type == p_.out) {
          std::memcpy(row.data(), x.data + static_cast<std::size_t>(channel) * bytes, bytes);
        } else if (row_bytes_ != 0) {
          aligned.resize(bytes);
          std::memcpy(aligned.data(), x.data + static_cast<std::size_t>(channel) * bytes, bytes);
          convert(x.type, aligned.data(), p_.out, row.data(), p_.cols);
        }
        std::size_t g = 0;
        while (g < groups && distinct[g] != row) { ++g; }
        indexed = indexed || g > 0;
        groups += g == groups ? 1 : 0;
      }
      found += groups;
    }
    rows_ += found;
    if (indexed) { indexed_ = true; }
  }

  planned_tensor const& p_;
  std::size_t row_bytes_;
  std::vector<row_source> source_;
  std::atomic<std::uint64_t> rows_{0};
  std::atomic<bool> indexed_{false};
};

/// The measuring pass of a storage budget over a planned merge: reads every input once, and finds the price at which the
/// checkpoint keeps to the budget. Counts what is stored in any case exactly: kept tensors, tensors of the base, one row
/// a channel.
class budget_pass {
 public:
  budget_pass(cpu const& be, tensor_merger const& merger, checkpoint const& base, std::vector<checkpoint> const& experts,
              merge_plan const& plan)
      : be_(be), merger_(merger), base_(base), experts_(experts), plan_(plan) {}

  /// @param measure  reads a tensor's inputs into a curve: `f(planned_tensor, histogram) -> measured_tensor`
  /// @param done     called with every tensor whose inputs were read
  /// @param expert_bytes  of all tensors of all experts
  /// @param where  the output, for messages
  template <class Measure, class Done>
  void run(Measure const& measure, Done const& done, std::uint64_t expert_bytes, std::filesystem::path const& where) {
    cluster::budget_histogram curves;
    std::uint64_t fixed = 0;
    for (auto const& p : plan_.tensors) {
      std::uint64_t const rows = static_cast<std::uint64_t>(p.channels) * static_cast<std::uint64_t>(p.cols) * size_of(p.out);
      if (p.what == action::from_base) {
        fixed += rows;
      } else if (p.what == action::keep) {
        fixed += kept_size(be_, p, experts_).bytes();
        release(p);
        done(p);
      } else {
        fixed += fixed_bytes(p.channels, p.cols, size_of(p.out), merger_.column_scales());
        measured_.emplace(p.name, measure(p, curves));
        release(p);
        done(p);
      }
    }
    float const price = budget_price(merger_.budget(), curves, expert_bytes, fixed, where.string());
    for (auto& [name, measured] : measured_) { measured.budget->price = price; }
  }

  [[nodiscard]] measured_tensor const& of(std::string const& tensor) const { return measured_.at(tensor); }

 private:
  /// Mapped pages that are done with go.
  void release(planned_tensor const& p) const {
    if (p.what == action::merge && p.base != nullptr) { base_.release(*p.base, 0, p.base->bytes); }
    for (std::size_t e = 0; e < experts_.size(); ++e) {
      if (p.experts[e] != nullptr) { experts_[e].release(*p.experts[e], 0, p.experts[e]->bytes); }
    }
  }

  cpu const& be_;
  tensor_merger const& merger_;
  checkpoint const& base_;
  std::vector<checkpoint> const& experts_;
  merge_plan const& plan_;
  std::map<std::string, measured_tensor> measured_;
};

}  // namespace detail
BRAID_NAMESPACE_END

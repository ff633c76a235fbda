#pragma once

#include <braid/engine/detail/residual_store.hpp>
#include <braid/io/detail/header_text.hpp>

#include <algorithm>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// Which tensors a merge writes, in which order, and how large they can get.
class merge_layout {
 public:
  /// @param groups  most that a merged channel has
  merge_layout(merge_plan const& plan, std::size_t experts, int groups, residual_store const& residuals)
      : plan_(plan), experts_(static_cast<index_t>(experts)), groups_(groups), residuals_(residuals) {}

  /// Most further rows a channel may need.
  [[nodiscard]] index_t most_extra(planned_tensor const& p) const {
    if (p.what == action::from_base) { return 0; }
    index_t const most = p.what == action::merge ? std::min<index_t>(groups_, experts_) : experts_;
    return most - 1;
  }

  [[nodiscard]] index_t extra_bound(planned_tensor const& p) const {
    index_t const first = p.in_first ? p.expert_channels[0] : 0;
    return first * most_extra(p) + (p.channels - first) * experts_;
  }

  /// All tensors of the files, in falling element size.
  [[nodiscard]] std::vector<tensor_plan> tensors() const {
    std::vector<tensor_plan> plans;
    int unit = 0;
    bool before_bytes = true;
    for (auto const& p : plan_.tensors) {
      if (before_bytes && size_of(p.out) == 1) {
        residuals_.plan_scales(plan_, false, plans);
        before_bytes = false;
      }
      if (p.in_first || p.what == action::from_base) { plans.push_back({p.name, p.out, p.first_shape, false, unit}); }
      if (extra_bound(p) > 0) { plans.push_back({extra_name(p.name), p.out, {extra_bound(p), p.cols}, true, unit}); }
      ++unit;
    }
    if (before_bytes) { residuals_.plan_scales(plan_, false, plans); }
    residuals_.plan_scales(plan_, true, plans);
    for (auto const& p : plan_.tensors) {
      plans.push_back({group_name(p.name), dtype::u8, {experts_, p.channels}, true, unit});
    }
    residuals_.plan_codes(plan_, unit, plans);
    return plans;
  }

  /// What the plan says about the merged checkpoint.
  void describe(grouped_description& d) const {
    d.tied = plan_.tied;
    for (auto const& p : plan_.tensors) {
      if (p.axis != default_channel_axis(p.shape.size())) { d.channel_axis.emplace(p.name, p.axis); }
      if (!p.in_first || p.shape != p.first_shape) { d.shapes.emplace(p.name, p.shape); }
    }
  }

  /// Room for the description once hashes, files and statistics are known.
  /// @param files  names of each expert's side files
  [[nodiscard]] std::size_t metadata_room(grouped_description d, std::vector<std::vector<std::string>> const& files) const {
    std::string const hash = "xxh3:0123456789abcdef";
    d.base.hash = hash;
    for (std::size_t e = 0; e < d.experts.size(); ++e) {
      d.experts[e].hash = hash;
      for (auto const& f : files[e]) { d.experts[e].files[f] = "experts/" + d.experts[e].name + "/" + f; }
    }
    for (auto const& p : plan_.tensors) { d.tensors[p.name] = {"merge", max_groups, -1.2345678901234567e-300}; }
    if (residuals_.active()) {
      auto const& codes = residuals_.codes();
      auto const longest = *std::max_element(
          codes.begin(), codes.end(), [](residual_code a, residual_code b) { return name_of(a).size() < name_of(b).size(); });
      for (auto const& p : plan_.tensors) { d.residuals[p.name] = longest; }
    }
    return metadata_text({{std::string(grouped_metadata_key), d.to_text()}}).size();
  }

 private:
  merge_plan const& plan_;
  index_t experts_;
  int groups_;
  residual_store const& residuals_;
};

}  // namespace detail
BRAID_NAMESPACE_END

#include "measure.hpp"
#include "scratch.hpp"

#include <algorithm>
#include <numeric>

namespace zoo {

double outcome::mean() const {
  return std::accumulate(accuracy.begin(), accuracy.end(), 0.0) / static_cast<double>(accuracy.size());
}

outcome bench::unmerged() const {
  stored_bytes bytes;
  bytes.rows = tensors_.expert_bytes;
  return {zoo_.unmerged(), bytes, 1.0};
}

outcome bench::base() const {
  stored_bytes bytes;
  for (auto const& t : zoo_.models().base.tensors()) { bytes.rows += t.bytes; }
  return {zoo_.base(), bytes, zoo_.base_fraction()};
}

outcome bench::rebuilt(rebuilt_zoo const& experts) const {
  return of(zoo_.scored(weights_of(experts, tensors_, zoo_.experts_by_name())), experts.stored);
}

outcome bench::of(std::vector<double> accuracy, stored_bytes const& stored) const {
  double const fraction = static_cast<double>(stored.total()) / static_cast<double>(tensors_.expert_bytes);
  return {std::move(accuracy), stored, fraction};
}

outcome bench::merged_in_memory(recipe const& r) const {
  grouped_zoo const grouped = grouped_by(merge_of(r), tensors_);
  return of(zoo_.scored(weights_of(grouped, tensors_, zoo_.experts_by_name())), grouped.stored);
}

outcome bench::merged(recipe const& r) {
  std::string const key = r.key(zoo_.experts());
  auto const found = known_.find(key);
  if (found != known_.end()) { return found->second; }
  bool const on_disk = through_files_ || r.budget > 0.0;
  outcome o = on_disk ? merged_on_disk(r) : merged_in_memory(r);
  return known_.emplace(key, std::move(o)).first->second;
}

/// The parts are those of the tensors' names in docs/format.md.
outcome bench::merged_on_disk(recipe const& r) const {
  scratch const place;
  run_to(r, zoo_.models().base, zoo_.models().experts, place.path() / "merged");
  braid::grouped_checkpoint const grouped(place.path() / "merged");
  stored_bytes bytes;
  for (auto const& t : grouped.files().tensors()) {
    auto const part_of = [&](std::string_view prefix) { return std::string_view(t.name).starts_with(prefix); };
    auto const merges = [&](std::string_view name) {
      return std::any_of(tensors_.merged.begin(), tensors_.merged.end(), [&](auto const& m) { return m.name == name; });
    };
    std::size_t const dot = t.name.starts_with("braid.") ? t.name.find('.', 6) : std::string::npos;
    std::string_view const tensor =
        dot == std::string::npos ? std::string_view(t.name) : std::string_view(t.name).substr(dot + 1);
    std::uint64_t& part = !merges(tensor)              ? bytes.kept
                          : part_of("braid.group.")    ? bytes.index
                          : part_of("braid.residual.") ? bytes.planes
                          : part_of("braid.scale.")    ? bytes.scales
                          : part_of("braid.column.")   ? bytes.scales
                          : part_of("braid.code.")     ? bytes.codes
                                                       : bytes.rows;
    part += t.bytes;
  }
  return {zoo_.served_from(grouped), bytes, grouped.stored_fraction()};
}

}  // namespace zoo

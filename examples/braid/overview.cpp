#include "overview.hpp"

namespace program {
namespace {

bool is_number(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// Calls f(begin, part) for each dotted part of a name, until it returns false.
template <class F>
void for_each_part(std::string_view name, F const& f) {
  for (std::size_t begin = 0; begin <= name.size();) {
    std::size_t const end = std::min(name.find('.', begin), name.size());
    if (!f(begin, name.substr(begin, end - begin))) { return; }
    begin = end + 1;
  }
}

}  // namespace

layer_key layer_of(std::string_view tensor) {
  layer_key key;
  for_each_part(tensor, [&](std::size_t begin, std::string_view part) {
    if (!is_number(part)) { return true; }
    key = {std::string(tensor.substr(0, begin)), std::string(part)};
    return false;
  });
  return key;
}

std::string pattern_of(std::string_view tensor) {
  std::string s;
  for_each_part(tensor, [&](std::size_t begin, std::string_view part) {
    s += begin == 0 ? "" : ".";
    s += is_number(part) ? "*" : part;
    return true;
  });
  return s;
}

std::vector<grouped_share> shares_of(braid::grouped_checkpoint const& g) {
  std::vector<grouped_share> shares;
  for (auto const& t : g.tensors()) {
    grouped_share s{&t, 0};
    for (std::size_t e = 0; e < g.experts().size(); ++e) {
      if (!g.has(e, t.name)) { continue; }
      auto elements = std::uint64_t{braid::size_of(t.type)};
      for (braid::index_t const d : g.shape(e, t.name)) { elements *= static_cast<std::uint64_t>(d); }
      s.expert_bytes += elements;
    }
    shares.push_back(s);
  }
  return shares;
}

void grouped_total::add(grouped_share const& s) {
  ++tensors;
  stored_bytes += s.tensor->stored_bytes;
  residual_bytes += s.tensor->residual_bytes;
  expert_bytes += s.expert_bytes;
  if (!s.merged()) { return; }
  ++merged;
  groups = std::max(groups, s.tensor->groups);
  channels_ += s.tensor->channels;
  rows_ += s.stored_rows();
  if (std::isfinite(s.tensor->similarity)) {
    similarity_ += s.tensor->similarity * static_cast<double>(s.tensor->channels);
    compared_ += s.tensor->channels;
  }
}

double grouped_total::rows_per_channel() const {
  return channels_ == 0 ? std::numeric_limits<double>::quiet_NaN()
                        : static_cast<double>(rows_) / static_cast<double>(channels_);
}

double grouped_total::similarity() const {
  return compared_ == 0 ? std::numeric_limits<double>::quiet_NaN() : similarity_ / static_cast<double>(compared_);
}

double grouped_total::stored_fraction() const {
  return expert_bytes == 0 ? std::numeric_limits<double>::quiet_NaN()
                           : static_cast<double>(stored_bytes) / static_cast<double>(expert_bytes);
}

std::string residual_text(std::vector<braid::residual_code> const& codes) {
  std::string s;
  for (auto const code : codes) { s.append(s.empty() ? "" : ", ").append(braid::name_of(code)); }
  return s.empty() ? "-" : s;
}

layer_totals totals_by_layer(std::vector<grouped_share> const& shares) {
  layer_totals layers;
  for (auto const& s : shares) { layers[layer_of(s.tensor->name)].add(s); }
  return layers;
}

std::vector<std::pair<std::string, std::uint64_t>> weight_files(braid::checkpoint const& c) {
  std::map<int, std::pair<std::string, std::uint64_t>> files;
  for (auto const& t : c.tensors()) {
    auto& [name, bytes] = files[t.file];
    if (name.empty()) { name = c.file_of(t).filename().string(); }
    bytes += t.bytes;
  }
  std::vector<std::pair<std::string, std::uint64_t>> list;
  for (auto const& [number, file] : files) { list.push_back(file); }
  return list;
}

}  // namespace program

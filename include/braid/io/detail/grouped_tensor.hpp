#pragma once

#include <braid/io/detail/grouped_residual.hpp>

#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// One logical tensor of a grouped checkpoint: its stored parts, checked against each other.
struct grouped_tensor {
  std::string name;
  dtype type = dtype::f32;
  int axis = -1;
  std::vector<index_t> shape;          // with the most channels
  channel_layout layout;               // of that shape
  channel_layout first_layout;         // of the first expert's shape; unused without its rows
  index_t first_channels = 0;          // rows in the tensor itself
  index_t extra_count = 0;             // further rows
  tensor_meta const* first = nullptr;  // in the checkpoint, which outlives this; nullptr where not stored
  tensor_meta const* extra = nullptr;
  tensor_meta const* index = nullptr;
  std::span<std::byte const> first_bytes;
  std::span<std::byte const> extra_bytes;
  std::span<std::uint8_t const> groups;  // [experts, channels], or empty
  std::vector<index_t> counts;           // channels of each expert; empty without an index: all have all
  residual_parts residual;

  [[nodiscard]] std::uint64_t stored_bytes() const noexcept {
    return (first ? first->bytes : 0) + (extra ? extra->bytes : 0) + (index ? index->bytes : 0) + residual.stored_bytes();
  }
  [[nodiscard]] bool has_residuals() const noexcept { return !residual.codes.empty(); }
  [[nodiscard]] std::size_t row_bytes() const noexcept {
    return static_cast<std::size_t>(layout.row_elements) * size_of(type);
  }
  [[nodiscard]] pool_cursor cursor() const noexcept { return {groups, layout.channels, first_channels}; }
  [[nodiscard]] residual_cursor residuals() const noexcept { return {residual.codes, layout.channels, layout.row_elements}; }

  [[nodiscard]] index_t channels_of(std::size_t expert) const noexcept {
    return counts.empty() ? layout.channels : counts[expert];
  }
  [[nodiscard]] std::size_t bytes_of(std::size_t expert) const noexcept {
    return static_cast<std::size_t>(channels_of(expert)) * row_bytes();
  }
  /// A tensor without channels belongs to every expert.
  [[nodiscard]] bool has(std::size_t expert) const noexcept { return layout.channels == 0 || channels_of(expert) > 0; }
  [[nodiscard]] std::vector<index_t> shape_of(std::size_t expert) const {
    auto s = shape;
    (void)resize_channels(s, axis, channels_of(expert));  // validated: there is such a shape
    return s;
  }
};

/// Puts the parts of one tensor together. Each step refuses what the next ones rely on.
class grouped_tensor_reader {
 public:
  grouped_tensor_reader(checkpoint const& files, grouped_description const& description, std::string const& name)
      : files_(files), description_(description), where_(files.path()) {
    t_.name = name;
    t_.first = files.find(name);
    t_.extra = files.find(extra_name(name));
    t_.index = files.find(group_name(name));
  }

  /// @throws format_error with one of the codes 308 to 328
  grouped_tensor read() {
    read_shape();
    read_extra();
    read_index();
    count_channels();
    check_labels();
    residual_owner const owner{t_.name, t_.type, t_.layout.channels, t_.layout.row_elements, t_.groups};
    t_.residual = residual_reader(files_, description_, owner).read();
    return std::move(t_);
  }

 private:
  [[noreturn]] void fail(grouped_code code, std::string const& what) const {
    refuse(code, where_, "tensor " + in_quotes(t_.name) + ": " + what);
  }
  [[nodiscard]] std::string expert(std::size_t n) const { return "expert " + in_quotes(description_.experts[n].name); }

  void read_shape() {
    auto const said = description_.shapes.find(t_.name);
    if (t_.first == nullptr && (said == description_.shapes.end() || t_.extra == nullptr)) {
      fail(grouped_code::orphan, t_.extra == nullptr
                                     ? "isn't there, nor are extra rows of it, but its index, its shape or its residuals are"
                                     : "has extra rows, but is neither there nor does the description give its shape");
    }
    t_.type = t_.first != nullptr ? t_.first->type : t_.extra->type;
    t_.shape = said == description_.shapes.end() ? t_.first->shape : said->second;
    auto const axis = description_.channel_axis.find(t_.name);
    t_.axis = axis == description_.channel_axis.end() ? default_channel_axis(t_.shape.size()) : axis->second;
    if (!is_channel_axis(t_.axis, t_.shape.size())) {
      fail(grouped_code::shape_mismatch,
           "has no dimension " + std::to_string(t_.axis) + ", which the description calls its channel axis");
    }
    t_.layout = channel_layout(t_.shape, t_.axis);
    if (t_.first == nullptr) { return; }
    bool fits = t_.first->shape.size() == t_.shape.size();
    if (fits) {
      t_.first_layout = channel_layout(t_.first->shape, t_.axis);
      t_.first_channels = t_.first_layout.channels;
      auto own = t_.shape;
      fits = t_.first_channels <= t_.layout.channels && resize_channels(own, t_.axis, t_.first_channels) &&
             own == t_.first->shape;
    }
    if (!fits) {
      fail(grouped_code::shape_mismatch,
           "the shape in the description isn't the stored tensor's with more channels along the channel axis");
    }
    t_.first_bytes = files_.bytes(*t_.first);
  }

  void read_extra() {
    if (t_.extra == nullptr) { return; }
    auto const& e = *t_.extra;
    if (e.type != t_.type || e.shape.size() != 2 || e.shape[1] != t_.layout.row_elements) {
      fail(grouped_code::extra_mismatch, in_quotes(e.name) + " must be " + std::string(name_of(t_.type)) + " [rows, " +
                                             std::to_string(t_.layout.row_elements) + "]");
    }
    t_.extra_count = e.shape[0];
    t_.extra_bytes = files_.bytes(e);
    constexpr index_t most = std::numeric_limits<std::int32_t>::max();
    if (t_.first_channels > most || t_.extra_count > most - t_.first_channels) {
      fail(grouped_code::too_many_rows, "has more than 2^31 - 1 rows");
    }
  }

  void read_index() {
    index_t const experts = static_cast<index_t>(description_.experts.size());
    if (t_.layout.channels > std::numeric_limits<std::int32_t>::max()) {
      fail(grouped_code::too_many_rows, "has more than 2^31 - 1 channels");
    }
    if (t_.index == nullptr) {
      if (t_.extra_count != 0 || t_.first_channels != t_.layout.channels) {
        fail(grouped_code::missing_index,
             "has rows that not all experts share, but no index " + in_quotes(group_name(t_.name)));
      }
      return;
    }
    if (t_.index->type != dtype::u8 || t_.index->shape != std::vector<index_t>{experts, t_.layout.channels}) {
      fail(grouped_code::index_mismatch, in_quotes(t_.index->name) + " must be U8 [" + std::to_string(experts) + ", " +
                                             std::to_string(t_.layout.channels) + "]: experts times channels");
    }
    auto const bytes = files_.bytes(*t_.index);
    t_.groups = {reinterpret_cast<std::uint8_t const*>(bytes.data()), bytes.size()};
  }

  void count_channels() {
    std::size_t const experts = description_.experts.size();
    auto const channels = static_cast<std::size_t>(t_.layout.channels);
    if (t_.groups.empty()) { return; }
    t_.counts.resize(experts);
    bool whole = false;
    for (std::size_t n = 0; n < experts; ++n) {
      auto const row = t_.groups.subspan(n * channels, channels);
      auto const end = std::find(row.begin(), row.end(), no_group);
      if (auto const more = std::find_if(end, row.end(), [](auto g) { return g != no_group; }); more != row.end()) {
        fail(grouped_code::channel_gap, expert(n) + " has channel " + std::to_string(more - row.begin()) +
                                            " but not channel " + std::to_string(end - row.begin()));
      }
      index_t const count = end - row.begin();
      auto own = t_.shape;
      if (count != 0 && !resize_channels(own, t_.axis, count)) {
        fail(grouped_code::channel_gap,
             expert(n) + " has " + std::to_string(count) + " channels, which no tensor of this shape has");
      }
      t_.counts[n] = count;
      whole = whole || count == t_.layout.channels;
    }
    if (!whole) { fail(grouped_code::unused_channel, "no expert has its last channel"); }
    if (t_.counts[0] != t_.first_channels) {
      fail(grouped_code::first_expert, "the first expert, " + expert(0) + ", has " + std::to_string(t_.counts[0]) +
                                           " channels in the index and " + std::to_string(t_.first_channels) +
                                           " in the tensor itself");
    }
  }

  /// Labels in order of appearance mean that every group has a member, so that counting the rows that the index needs
  /// is all that is left.
  void check_labels() {
    index_t needed = 0;
    auto const channels = static_cast<std::size_t>(t_.layout.channels);
    if (!t_.groups.empty()) {
      std::vector<std::uint8_t> next(channels);  // groups seen so far
      for (std::size_t n = 0; n < t_.counts.size(); ++n) {
        auto const row = t_.groups.subspan(n * channels, static_cast<std::size_t>(t_.counts[n]));
        for (std::size_t c = 0; c < row.size(); ++c) {
          if (row[c] > next[c]) {
            fail(n == 0 ? grouped_code::first_expert : grouped_code::label_order,
                 "the index puts " + expert(n) + " into group " + std::to_string(row[c]) + " of channel " +
                     std::to_string(c) + ", where only group 0 to " + std::to_string(next[c]) +
                     " can be: groups are numbered by first appearance");
          }
          next[c] = static_cast<std::uint8_t>(next[c] + (row[c] == next[c]));
        }
      }
      for (std::uint8_t const groups : next) { needed += groups; }
      needed -= t_.first_channels;
    }
    if (needed > t_.extra_count) {
      if (t_.extra == nullptr) {
        fail(grouped_code::missing_extra, "the index needs " + std::to_string(needed) +
                                              " further rows, but there is no " + in_quotes(extra_name(t_.name)));
      }
      fail(grouped_code::extra_too_short, "the index points past the extra rows: it needs " + std::to_string(needed) +
                                              ", " + in_quotes(t_.extra->name) + " has " +
                                              std::to_string(t_.extra_count));
    }
    if (needed < t_.extra_count) {
      fail(grouped_code::extra_too_long, in_quotes(t_.extra->name) + " has " + std::to_string(t_.extra_count) +
                                             " rows, and the index needs " + std::to_string(needed));
    }
  }

  checkpoint const& files_;
  grouped_description const& description_;
  std::filesystem::path const& where_;
  grouped_tensor t_;
};

/// The tensor that a stored one is a part of; nothing where its name is of a kind that the format doesn't have.
inline std::optional<std::string_view> owner_of(std::string_view name, int format) {
  if (!is_reserved_name(name)) { return name; }
  for (std::string_view const prefix : {extra_prefix, group_prefix}) {
    if (name.starts_with(prefix)) { return name.substr(prefix.size()); }
  }
  if (format < residual_format_version) { return std::nullopt; }
  for (std::string_view const prefix : {residual_prefix, scale_prefix, code_prefix, column_prefix}) {
    if (name.starts_with(prefix)) { return name.substr(prefix.size()); }
  }
  return std::nullopt;
}

/// All logical tensors, sorted by name, after checking that no name in the file or in the description lies.
inline std::vector<grouped_tensor> read_grouped_tensors(checkpoint const& files,
                                                        grouped_description const& description) {
  std::vector<std::string> names;
  for (auto const& t : files.tensors()) {
    auto const owner = owner_of(t.name, description.format);
    if (!owner) {
      refuse(grouped_code::unknown_kind, files.path(),
             "tensor " + in_quotes(t.name) + " is of a kind that format " + std::to_string(description.format) +
                 " doesn't have, as this braid (" BRAID_VERSION_STRING ") knows it; use a newer one");
    }
    names.emplace_back(*owner);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());

  auto const stored = [&](std::string const& name) { return std::binary_search(names.begin(), names.end(), name); };
  auto const check = [&](std::string const& name, bool known, char const* field) {
    if (!known) {
      refuse(grouped_code::unknown_tensor, files.path(),
             std::string("the description's \"") + field + "\" speaks of a tensor " + in_quotes(name) +
                 ", which isn't there");
    }
  };
  for (auto const& [alias, target] : description.tied) {
    check(target, stored(target), "tied");
    if (stored(alias) || is_reserved_name(alias)) {
      refuse(
          grouped_code::unknown_tensor, files.path(),
          "tensor " + in_quotes(alias) + " is there, though the description says it is tied to " + in_quotes(target));
    }
  }
  for (auto const& [name, axis] : description.channel_axis) { check(name, stored(name), "channel_axis"); }
  for (auto const& [name, shape] : description.shapes) { check(name, stored(name), "shapes"); }
  for (auto const& [name, code] : description.residuals) { check(name, stored(name), "residuals"); }
  for (auto const& [name, t] : description.tensors) {
    check(name, stored(name) || description.tied.count(name) != 0, "tensors");
  }
  for (auto const& e : description.experts) {
    for (auto const& name : e.absent) { check(name, stored(name) || description.tied.count(name) != 0, "absent"); }
  }

  std::vector<grouped_tensor> tensors;
  tensors.reserve(names.size());
  for (auto const& name : names) {
    if (is_reserved_name(name)) {
      refuse(grouped_code::unknown_kind, files.path(),
             "there are extra rows, an index or residuals of " + in_quotes(name) +
                 ", but names that begin with \"braid.\" are reserved");
    }
    tensors.push_back(grouped_tensor_reader(files, description, name).read());
  }
  return tensors;
}

}  // namespace detail
BRAID_NAMESPACE_END

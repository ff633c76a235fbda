#pragma once

#include <braid/io/detail/grouped_extract.hpp>

#include <cmath>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN

struct extract_options {
  std::uint64_t max_shard_bytes = 5'000'000'000;  ///< tensor bytes in a file; only a larger tensor exceeds it
  bool overwrite = false;                         ///< replace a checkpoint that stands at the output path
};

/// A grouped checkpoint, opened for reading: several experts that share rows (docs/format.md). For each tensor there is
/// a pool of rows; an expert is a row number per channel, and in some checkpoints a residual that its row lacks against
/// that of the pool. Everything is checked when it is opened, the whole index and all scales included, so that no number
/// can lead outside the pool or the residuals. Tensors' bytes are mapped, and valid while a copy of
/// `files()` lives; copies share the mapping. Const members may be called from many threads.
///
/// Experts are counted in the order of their names. Wherever a tensor is asked for by name, a tied tensor is followed
/// to the one under which it is stored; an unknown name is an argument_error.
class grouped_checkpoint {
 public:
  /// What there is to know about a tensor that is stored, for all experts together.
  struct tensor {
    std::string name;
    dtype type = dtype::f32;
    std::vector<index_t> shape;      ///< with the most channels that an expert has
    index_t channels = 0;            ///< of that shape
    index_t row_elements = 0;        ///< elements of a channel
    int axis = -1;                   ///< the channel axis; see `channel_layout`
    index_t first_channels = 0;      ///< of the first expert: so many rows the tensor of that name has
    index_t extra_rows = 0;          ///< so many more its pool has
    std::uint64_t stored_bytes = 0;  ///< tensor, extra rows, index and residuals
    std::string action;              ///< "merge", "keep" or "base"; empty if the description doesn't say
    int groups = 0;                  ///< most groups that a channel has, as the description says; 0 if it doesn't
    double similarity = std::numeric_limits<double>::quiet_NaN();  ///< of the merged rows; NaN if it doesn't
    std::uint64_t residual_bytes = 0;        ///< of stored_bytes: planes, scales, codes and column scales
    std::vector<residual_code> residuals{};  ///< the codes that rows have, in ascending order; empty: all rows are the pool's
  };

  /// @throws io_error if the directory or a file can't be read
  /// @throws format_error with a code of `format_code` or `grouped_code` if anything is wrong
  explicit grouped_checkpoint(std::filesystem::path dir) : files_(std::move(dir)) { open(); }

  /// Whether the checkpoint is a grouped one, by its metadata; it may still be damaged.
  [[nodiscard]] static bool is_grouped(checkpoint const& c) {
    return c.metadata(std::string(grouped_metadata_key)).has_value();
  }

  /// Names, sorted.
  [[nodiscard]] std::vector<std::string> const& experts() const noexcept { return names_; }

  /// @throws argument_error listing the names if there is no such expert
  [[nodiscard]] std::size_t expert_number(std::string_view name) const {
    auto const it = std::lower_bound(names_.begin(), names_.end(), name);
    if (it != names_.end() && *it == name) { return static_cast<std::size_t>(it - names_.begin()); }
    std::string message = files_.path().string() + ": has no expert " + detail::in_quotes(name) + "; it has ";
    for (auto const& n : names_) { message += (&n == names_.data() ? "" : ", ") + n; }
    throw argument_error(message);
  }

  /// Sorted by name. Tied tensors are not among them, nor are the parts that the format adds ("braid.").
  [[nodiscard]] std::vector<tensor> const& tensors() const noexcept { return public_; }

  /// Whether the expert has the tensor, be it stored in its own directory, tied or resolved to be equal.
  [[nodiscard]] bool has(std::size_t expert, std::string_view name) const { return find(name).has(checked(expert)); }

  /// The expert's own shape, which may have fewer channels than `tensor::shape`.
  /// @throws argument_error if the expert lacks the tensor
  [[nodiscard]] std::vector<index_t> shape(std::size_t expert, std::string_view name) const {
    return owned(name, expert).shape_of(expert);
  }

  /// The expert's row in the pool for each of its channels: row r < `first_channels` is channel r of `first_rows`, and
  /// `first_channels` + k is row k of `extra_rows`. Costs one pass over the tensor's index.
  /// @throws argument_error if the expert lacks the tensor
  [[nodiscard]] std::vector<std::int32_t> rows(std::string_view name, std::size_t expert) const {
    return detail::pool_rows(owned(name, expert), expert);
  }

  /// The first expert's tensor, in its own shape and layout; empty if it lacks it.
  [[nodiscard]] std::span<std::byte const> first_rows(std::string_view name) const { return find(name).first_bytes; }

  /// The other rows of the pool [extra_rows, row_elements], contiguous whatever the channel axis.
  [[nodiscard]] std::span<std::byte const> extra_rows(std::string_view name) const { return find(name).extra_bytes; }

  /// The residual code of each expert's row in each channel [experts, channels] (`residual_code`); empty if the tensor has
  /// no residuals. A row with a residual is `apply_residual` of its row of the pool.
  [[nodiscard]] std::span<std::uint8_t const> residual_codes(std::string_view name) const { return find(name).residual.codes; }

  /// Walks an expert's residuals, channel after channel: where each begins in `residual_planes` and `residual_scales`.
  [[nodiscard]] residual_cursor residuals(std::string_view name) const { return find(name).residuals(); }

  /// The packed planes of all residuals of a tensor.
  [[nodiscard]] std::span<std::byte const> residual_planes(std::string_view name) const {
    return find(name).residual.plane_bytes;
  }

  /// Their scales, as bfloat16: two bytes each. In files that braid has written they are aligned.
  [[nodiscard]] std::span<std::byte const> residual_scales(std::string_view name) const {
    return find(name).residual.scale_bytes;
  }

  /// What each column of the residuals is multiplied by [row_elements]; empty: nothing.
  [[nodiscard]] std::span<bfloat16 const> residual_columns(std::string_view name) const {
    return find(name).residual.columns;
  }

  /// Rebuilds an expert's tensor, bit for bit, in its own shape and layout. Copies rows, neighbours at once, and adds
  /// residuals where there are any.
  /// @param out  exactly the tensor's bytes
  /// @throws argument_error if the expert lacks the tensor
  /// @throws shape_error if `out` has another size
  void read(std::string_view name, std::size_t expert, std::span<std::byte> out) const;

  /// Writes an expert as an ordinary Hugging Face checkpoint: the tensors that its own directory had, ordered by
  /// falling element size, then name; and its side files. Streams: beside the mapping, memory is some MiB whatever the
  /// size of a tensor. The directory appears when it is complete, or not at all.
  /// @throws argument_error if there is no such expert, or `out` may not be written (see `check_output`)
  /// @throws io_error if the system refuses, or a side file is missing
  void extract(std::string_view expert, std::filesystem::path const& out, extract_options const& options = {}) const;

  /// Bytes of everything stored: rows, extra rows, index, residuals.
  [[nodiscard]] std::uint64_t stored_bytes() const noexcept { return stored_; }

  /// Bytes of the tensors of all experts' own directories together.
  [[nodiscard]] std::uint64_t expert_bytes() const noexcept { return original_; }

  /// The one over the other: what remains of the experts' size.
  [[nodiscard]] double stored_fraction() const noexcept {
    return original_ == 0 ? 1.0 : static_cast<double>(stored_) / static_cast<double>(original_);
  }

  /// The metadata as written, fields of newer writers included.
  [[nodiscard]] nlohmann::json const& description() const noexcept { return json_; }

  /// The directory as an ordinary checkpoint: the first expert; with residuals, what its rows are rebuilt from.
  [[nodiscard]] checkpoint const& files() const noexcept { return files_; }

 private:
  void open() {
    auto const text = files_.metadata(std::string(grouped_metadata_key));
    if (!text) {
      detail::refuse(grouped_code::not_grouped, files_.path(),
                     "is an ordinary checkpoint, not a grouped one: its metadata has no \"braid\"");
    }
    json_ = detail::parse_json(*text, files_.path() / "metadata of the grouped checkpoint",
                               static_cast<format_code>(grouped_code::description_json));
    description_ = grouped_description::from_json(json_, files_.path());
    for (auto const& e : description_.experts) { names_.push_back(e.name); }
    tensors_ = detail::read_grouped_tensors(files_, description_);
    for (auto const& t : files_.tensors()) { stored_ += t.bytes; }
    for (std::size_t n = 0; n < names_.size(); ++n) {
      for (auto const& [name, t] : own_tensors(n)) { original_ += t->bytes_of(n); }
    }
    for (auto const& t : tensors_) {
      auto const said = description_.tensors.find(t.name);
      auto const s = said == description_.tensors.end() ? grouped_description::tensor{} : said->second;
      public_.push_back({t.name, t.type, t.shape, t.layout.channels, t.layout.row_elements, t.axis, t.first_channels,
                         t.extra_count, t.stored_bytes(), s.action, s.groups, s.similarity, t.residual.stored_bytes(),
                         t.residual.kinds()});
    }
  }

  [[nodiscard]] std::size_t checked(std::size_t expert) const {
    if (expert >= names_.size()) {
      throw argument_error(files_.path().string() + ": has no expert number " + std::to_string(expert) + "; it has " +
                           std::to_string(names_.size()) + ", counted from 0");
    }
    return expert;
  }

  [[nodiscard]] detail::grouped_tensor const& find(std::string_view name) const {
    auto const alias = description_.tied.find(std::string(name));
    std::string_view const stored = alias == description_.tied.end() ? name : std::string_view(alias->second);
    auto const it = std::lower_bound(tensors_.begin(), tensors_.end(), stored,
                                     [](auto const& t, std::string_view n) { return t.name < n; });
    if (it == tensors_.end() || it->name != stored) {
      throw argument_error(files_.path().string() + ": has no tensor " + detail::in_quotes(name) +
                           "; braid inspect lists them");
    }
    return *it;
  }

  [[nodiscard]] detail::grouped_tensor const& owned(std::string_view name, std::size_t expert) const {
    auto const& t = find(name);
    if (!t.has(checked(expert))) {
      throw argument_error(files_.path().string() + ": expert " + detail::in_quotes(names_[expert]) +
                           " has no tensor " + detail::in_quotes(name));
    }
    return t;
  }

  /// What the expert's own directory stores: name there, and where it is stored here. In order of names.
  [[nodiscard]] std::map<std::string_view, detail::grouped_tensor const*> own_tensors(std::size_t expert) const {
    std::map<std::string_view, detail::grouped_tensor const*> own;
    for (auto const& t : tensors_) { own.emplace(t.name, &t); }
    for (auto const& [alias, target] : description_.tied) { own.emplace(alias, &find(target)); }
    for (auto const& name : description_.experts[expert].absent) { own.erase(name); }
    std::erase_if(own, [&](auto const& entry) { return !entry.second->has(expert); });
    return own;
  }

  checkpoint files_;
  nlohmann::json json_;
  grouped_description description_;
  std::vector<std::string> names_;
  std::vector<detail::grouped_tensor> tensors_;  // sorted by name
  std::vector<tensor> public_;                   // the same, for show
  std::uint64_t stored_ = 0;
  std::uint64_t original_ = 0;
};

inline void grouped_checkpoint::read(std::string_view name, std::size_t expert, std::span<std::byte> out) const {
  auto const& t = owned(name, expert);
  std::size_t const bytes = t.bytes_of(expert);
  if (out.size() != bytes) {
    throw shape_error(files_.path().string() + ": tensor " + detail::in_quotes(name) + " of expert " +
                      detail::in_quotes(names_[expert]) + " has " + std::to_string(bytes) + " bytes, and room for " +
                      std::to_string(out.size()) + " was given");
  }
  std::byte* to = out.data();
  if (bytes == 0) { return; }
  if (t.layout.transposed()) {
    auto const lines = static_cast<std::size_t>(t.layout.row_elements);
    detail::for_each_leading(t, expert, [&](detail::leading_slice const& s) {
      detail::gather_lines(t, s, 0, lines, to);
      to += lines * s.rows.size() * size_of(t.type);
    });
  } else {
    detail::for_each_piece(
        t, expert,
        [&](std::span<std::byte const> piece) {
          std::memcpy(to, piece.data(), piece.size());
          to += piece.size();
        },
        [](detail::pool_progress const&) {});
  }
}

inline void grouped_checkpoint::extract(std::string_view expert, std::filesystem::path const& out,
                                        extract_options const& options) const {
  std::size_t const n = expert_number(expert);
  check_output(out, std::span(&files_.path(), 1), options.overwrite);
  auto const own = own_tensors(n);
  std::vector<tensor_plan> plans;
  for (auto const& [name, t] : own) { plans.push_back({std::string(name), t->type, t->shape_of(n), false, -1}); }
  std::stable_sort(plans.begin(), plans.end(),
                   [](auto const& a, auto const& b) { return size_of(a.type) > size_of(b.type); });

  checkpoint_writer writer(out, plans, 64,
                           {.max_shard_bytes = options.max_shard_bytes, .overwrite = options.overwrite});
  for (auto const& [name, path] : description_.experts[n].files) { writer.copy_file(files_.path() / path, name); }
  detail::grouped_streamer stream(files_, writer);
  for (auto const& p : plans) { stream.write(*own.at(p.name), n, writer.begin(p.name)); }
  writer.commit({});
}

BRAID_NAMESPACE_END

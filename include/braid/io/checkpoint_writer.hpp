#pragma once

#include <braid/io/check_output.hpp>
#include <braid/io/detail/header_text.hpp>
#include <braid/io/detail/output_file.hpp>
#include <braid/io/detail/partial_directory.hpp>

#include <atomic>
#include <memory>
#include <set>
#include <unordered_set>

BRAID_NAMESPACE_BEGIN

/// A tensor that will be written.
struct tensor_plan {
  std::string name = {};
  dtype type = dtype::f32;
  std::vector<index_t> shape = {};  ///< empty: a scalar
  bool growing = false;   ///< shape[0] is an upper bound: rows are appended; without any, the tensor is left out
  int unit = -1;          ///< neighbours of the same unit go to the same file; negative: a unit of its own
  bool new_file = false;  ///< begins a file, unless nothing precedes it; the order of element sizes starts anew
};

struct checkpoint_writer_options {
  std::uint64_t max_shard_bytes = 5'000'000'000;  ///< tensor bytes in a file; only a larger unit alone exceeds it
  bool overwrite = false;                         ///< replace a checkpoint that stands at the output path
  std::string stem = "model";                     ///< files are STEM.safetensors or STEM-00001-of-0000N.safetensors
};

/// Writes a checkpoint directory, streaming: bytes go straight to their place in the file, nothing is buffered. All
/// happens in a hidden directory beside the output (`.NAME.partial-PID-N`); `commit()` writes the headers, makes
/// everything durable and renames the directory, which is the moment at which the checkpoint exists. Destroyed without
/// a commit, or after one that failed, the writer leaves nothing, and an older checkpoint at that path as it was.
///
/// Tensors lie in the files in the order of the plan, which in each file is one of falling element size; data starts at a
/// multiple of 4096 bytes. So every tensor is aligned to its elements. Where a file ends depends on the plan and on how far
/// growing tensors grew, never on timing: the same calls give the same bytes.
///
/// `write` may be called from many threads; the other members from one thread at a time, also while others write. In a
/// tmpfs threads write one file at once; on other file systems one after the other, as the system does.
class checkpoint_writer {
 public:
  using options = checkpoint_writer_options;

  /// Creates the hidden directory, and missing directories above it.
  /// @param plans every tensor, in falling element size
  /// @param metadata_room most bytes that the metadata given to `commit` will need as the text of a JSON object
  /// @throws argument_error if the plan is contradictory, or `out` may not be written (see `check_output`)
  /// @throws io_error if the system refuses
  checkpoint_writer(std::filesystem::path out, std::vector<tensor_plan> plans, std::size_t metadata_room,
                    options opt = {})
      : shown_(std::move(out)),
        options_(std::move(opt)),
        metadata_room_(metadata_room),
        slots_(plans.size()),
        directory_(checked_target(shown_, options_)) {
    take_plans(std::move(plans));
  }

  checkpoint_writer(checkpoint_writer const&) = delete;
  checkpoint_writer& operator=(checkpoint_writer const&) = delete;

  /// Gives the next tensor of the plan its place, in the current file or in a new one, and ends the growing tensor
  /// before it: what follows that in the file must stand still.
  /// @return its slot, for `write` and `append`
  /// @throws argument_error if it isn't the next one of the plan
  std::size_t begin(std::string_view name) {
    if (next_ == slots_.size() || slots_[next_].meta.name != name) {
      throw argument_error(
          shown_.string() + ": tensor " + detail::in_quotes(name) + " is out of order; the plan has " +
          (next_ == slots_.size() ? std::string("no more") : detail::in_quotes(slots_[next_].meta.name)) + " here");
    }
    end_growth();
    slot_state& s = slots_[next_];
    bool const new_unit = next_ == 0 || s.unit < 0 || s.unit != slots_[next_ - 1].unit;
    if (shards_.empty() ||
        (new_unit && shards_.back()->bytes != 0 &&
         (s.new_file || exceeds_limit(shards_.back()->bytes, unit_bytes(next_))))) {
      open_shard();
    }
    s.home = shards_.back().get();
    s.meta.offset = s.home->bytes;
    s.meta.file = static_cast<int>(shards_.size() - 1);
    if (!s.growing) { s.home->bytes += s.meta.bytes; }
    return next_++;
  }

  /// Writes part of a tensor. Any order, any thread; every byte once.
  /// @param byte_offset from the start of the tensor
  /// @throws argument_error outside the tensor; of one that grows, outside of what `extend` gave; after `commit`
  /// @throws io_error if the system refuses (a full disk)
  void write(std::size_t slot, std::uint64_t byte_offset, std::span<std::byte const> data) {
    auto& s = begun(slot);
    std::uint64_t const end = s.growing ? s.grown.load(std::memory_order_relaxed) : s.meta.bytes;
    if (byte_offset > end || data.size() > end - byte_offset) {
      throw misuse(s, "is written beyond its end");
    }
    put(s, byte_offset, data);
  }

  /// Lets the growing tensor that was begun last grow, by bytes that `write` brings, now or later.
  /// @return where they are in it
  /// @throws argument_error beyond its upper bound, or if it doesn't grow or another tensor was begun since
  std::uint64_t extend(std::size_t slot, std::uint64_t bytes) {
    auto& s = begun(slot);
    if (!s.growing) { throw misuse(s, "doesn't grow: write to it"); }
    if (s.ended) { throw misuse(s, "can't grow any more: another tensor was begun after it"); }
    std::uint64_t const end = s.grown.load(std::memory_order_relaxed);
    if (bytes > s.meta.bytes - end) { throw misuse(s, "grows beyond its upper bound"); }
    s.grown.store(end + bytes, std::memory_order_relaxed);
    return end;
  }

  /// `extend` and `write`.
  /// @throws io_error if the system refuses (a full disk)
  void append(std::size_t slot, std::span<std::byte const> data) {
    std::uint64_t const at = extend(slot, data.size());
    put(begun(slot), at, data);
  }

  /// Adds a small file, such as "config.json" or "experts/NAME/config.json".
  /// @param relative path inside the checkpoint; directories in it are created
  /// @throws argument_error if it leaves the checkpoint, is there already, or would be taken for one of its own weights
  void add_file(std::string const& relative, std::string_view content) {
    auto const path = place_file(relative);
    auto fd = detail::open_file(path, O_WRONLY | O_CREAT | O_EXCL);
    detail::write_all(fd.get(), std::as_bytes(std::span(content)), 0, shown_ / relative);
    finish_file(fd, shown_ / relative);
  }

  /// Adds a copy of a file; links are followed. Errors as `add_file`.
  void copy_file(std::filesystem::path const& from, std::string const& relative) {
    detail::unique_fd const in = detail::open_file(from, O_RDONLY | O_NONBLOCK);
    detail::regular_file_size(in.get(), from);
    auto const path = place_file(relative);
    auto fd = detail::open_file(path, O_WRONLY | O_CREAT | O_EXCL);
    std::vector<std::byte> buffer(std::size_t{1} << 18);
    std::uint64_t offset = 0;
    while (std::size_t const n = detail::read_some(in.get(), buffer, offset, from)) {
      detail::write_all(fd.get(), std::span(buffer).first(n), offset, shown_ / relative);
      offset += n;
    }
    finish_file(fd, shown_ / relative);
  }

  /// Writes headers and index, makes everything durable, and lets the checkpoint appear under its name. With
  /// `overwrite`, an old one is exchanged for it in one step where the file system can do that (otherwise moved aside,
  /// and back if the rename fails) and then removed.
  /// @param metadata strings for `__metadata__` of the first file; every file has "format": "pt" besides
  /// @throws argument_error if a tensor of the plan is missing or incomplete, or the metadata needs more than its room
  /// @throws io_error if the system refuses; the writer can only be destroyed then
  void commit(std::map<std::string, std::string> const& metadata) {
    if (committed_) { throw argument_error(shown_.string() + ": commit() was called before"); }
    end_growth();
    check_complete();
    std::size_t const needed = metadata.empty() ? 0 : detail::metadata_text(metadata).size();
    if (needed > metadata_room_) {
      throw argument_error(shown_.string() + ": the metadata needs " + std::to_string(needed) + " bytes, and " +
                           std::to_string(metadata_room_) + " were reserved");
    }
    committed_ = true;
    if (shards_.empty()) { open_shard(); }
    for (auto& s : slots_) {
      if (!s.growing || s.meta.bytes != 0) { s.home->tensors.push_back(s.meta); }
    }
    if (shards_.size() > 1 && shards_.back()->tensors.empty()) {  // of growing tensors only, none of which grew
      if (::unlink(shards_.back()->path.c_str()) != 0) { detail::io_failure(shown_, "removing an empty file", errno); }
      shards_.pop_back();
    }
    for (std::size_t i = 0; i < shards_.size(); ++i) { finish_shard(i, metadata); }
    if (shards_.size() > 1) { add_index(); }
    for (auto const& sub : subdirectories_) { detail::sync_directory(sub); }
    detail::sync_directory(directory_.path());
    detail::check_existing_output(shown_, directory_.target(), options_.overwrite);
    directory_.publish(options_.overwrite);
  }

  /// Lets the files begin with another name than the options'. Before `commit`.
  /// @throws argument_error if no file's name can begin so
  void rename_stem(std::string stem) {
    check_stem(stem);
    options_.stem = std::move(stem);
  }

  /// The hidden directory: whoever needs room beside the checkpoint may use it, and has to leave it as it was.
  [[nodiscard]] std::filesystem::path const& hidden_directory() const noexcept { return directory_.path(); }

  /// Bytes of tensors written so far, without headers and side files.
  [[nodiscard]] std::uint64_t bytes_written() const noexcept { return total_.load(std::memory_order_relaxed); }

 private:
  struct shard {
    std::unique_ptr<detail::output_file> file;
    std::filesystem::path path;
    std::uint64_t data_start = 0;
    std::uint64_t bytes = 0;           // of tensors
    std::vector<tensor_meta> tensors;  // known when the shard is finished
  };
  struct slot_state {
    tensor_meta meta;  // offset: in the data section; bytes: the upper bound while it grows
    bool growing = false;
    bool ended = false;  // it won't grow any more
    bool new_file = false;
    int unit = -1;
    std::uint64_t header_room = 0;
    shard* home = nullptr;
    std::atomic<std::uint64_t> written{0};
    std::atomic<std::uint64_t> grown{0};  // where it ends so far
  };

  static void check_stem(std::string const& stem) {
    if (stem.empty() || stem.find('/') != std::string::npos || stem.front() == '.') {
      throw argument_error(detail::in_quotes(stem) + " can't begin the names of files");
    }
  }

  static std::filesystem::path checked_target(std::filesystem::path const& out, options const& opt) {
    check_stem(opt.stem);
    check_output(out, {}, opt.overwrite);
    return detail::resolved(out);
  }

  [[nodiscard]] argument_error misuse(slot_state const& s, char const* what) const {
    return argument_error(shown_.string() + ": tensor " + detail::in_quotes(s.meta.name) + " " + what);
  }

  void take_plans(std::vector<tensor_plan> plans) {
    std::unordered_set<std::string> names;
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < plans.size(); ++i) {
      slot_state& s = slots_[i];
      s.meta.name = std::move(plans[i].name);
      s.meta.type = plans[i].type;
      s.meta.shape = std::move(plans[i].shape);
      s.growing = plans[i].growing;
      s.unit = plans[i].unit;
      s.new_file = plans[i].new_file;
      if (s.meta.name == "__metadata__" || !names.insert(s.meta.name).second) {
        throw misuse(s, "can't be written, because its name is taken");
      }
      if (s.growing && s.meta.shape.empty()) { throw misuse(s, "can't grow, because it is a scalar"); }
      if (i != 0 && !s.new_file && size_of(s.meta.type) > size_of(slots_[i - 1].meta.type)) {
        throw misuse(s, "has larger elements than the one before it; plan tensors in falling element size");
      }
      s.meta.bytes = planned_bytes(s);
      if (s.meta.bytes > detail::number_limit - total) {
        throw misuse(s, "takes the checkpoint beyond 2^63 - 1 bytes");
      }
      total += s.meta.bytes;
      s.header_room = detail::entry_room(s.meta);
    }
  }

  [[nodiscard]] std::uint64_t planned_bytes(slot_state const& s) const {
    if (s.meta.shape.size() > detail::dimension_limit) { throw misuse(s, "has more than 64 dimensions"); }
    for (index_t const d : s.meta.shape) {
      if (d < 0) { throw misuse(s, "has a negative dimension"); }
    }
    std::uint64_t bytes = 0;
    if (!detail::shape_bytes(s.meta.type, s.meta.shape, bytes)) { throw misuse(s, "exceeds 2^63 - 1 bytes"); }
    return bytes;
  }

  [[nodiscard]] slot_state& begun(std::size_t i) {
    if (committed_) { throw argument_error(shown_.string() + ": nothing can be written after commit()"); }
    if (i >= slots_.size() || slots_[i].home == nullptr) {
      throw argument_error(shown_.string() + ": slot " + std::to_string(i) + " wasn't begun");
    }
    return slots_[i];
  }

  void put(slot_state& s, std::uint64_t offset, std::span<std::byte const> data) {
    s.home->file->write(s.home->data_start + s.meta.offset + offset, data);
    s.written.fetch_add(data.size(), std::memory_order_release);  // whoever sees all of it unmaps the file
    total_.fetch_add(data.size(), std::memory_order_relaxed);
  }

  /// One past the last slot of the unit that begins at slot `i`.
  [[nodiscard]] std::size_t unit_end(std::size_t i) const {
    std::size_t end = i + 1;
    while (slots_[i].unit >= 0 && end < slots_.size() && slots_[end].unit == slots_[i].unit) { ++end; }
    return end;
  }

  /// Most bytes of the unit that begins at slot `i`.
  [[nodiscard]] std::uint64_t unit_bytes(std::size_t i) const {
    std::uint64_t sum = 0;
    for (std::size_t const end = unit_end(i); i < end; ++i) { sum += slots_[i].meta.bytes; }
    return sum;
  }

  [[nodiscard]] bool exceeds_limit(std::uint64_t used, std::uint64_t more) const noexcept {
    return used > options_.max_shard_bytes || more > options_.max_shard_bytes - used;
  }

  /// Begins a file with room in its header for every tensor that can get into it.
  void open_shard() {
    std::uint64_t entries = 0;
    std::uint64_t least = 0;  // of what is in the file for certain: growing tensors may stay empty
    std::uint64_t most = 0;
    for (std::size_t i = next_; i < slots_.size();) {
      if (least != 0 && (slots_[i].new_file || exceeds_limit(least, unit_bytes(i)))) { break; }
      for (std::size_t const end = unit_end(i); i < end; ++i) {
        entries += slots_[i].header_room;
        least += slots_[i].growing ? 0 : slots_[i].meta.bytes;
        most += slots_[i].meta.bytes;
      }
    }
    auto s = std::make_unique<shard>();
    // Both have "format": "pt".
    s->data_start = detail::data_start_for(entries, 16 + (shards_.empty() ? metadata_room_ : 0));
    if (s->data_start - 8 > detail::header_limit) {
      throw argument_error(shown_.string() + ": a header of more than 100000000 bytes; write smaller shards");
    }
    s->path = directory_.path() / (".shard-" + std::to_string(shards_.size() + 1));
    s->file = std::make_unique<detail::output_file>(detail::open_file(s->path, O_RDWR | O_CREAT | O_EXCL), s->data_start + most, shown_);
    shards_.push_back(std::move(s));
  }

  void end_growth() {
    if (next_ == 0 || !slots_[next_ - 1].growing || slots_[next_ - 1].ended) { return; }
    slot_state& s = slots_[next_ - 1];
    std::uint64_t const bytes = s.grown.load(std::memory_order_relaxed);
    std::uint64_t const rows = static_cast<std::uint64_t>(s.meta.shape[0]);
    std::uint64_t const row = rows == 0 ? 0 : s.meta.bytes / rows;
    if (row != 0 && bytes % row != 0) { throw misuse(s, "ends inside a row"); }
    s.meta.shape[0] = row == 0 ? 0 : static_cast<index_t>(bytes / row);
    s.meta.bytes = bytes;
    s.home->bytes += bytes;
    s.ended = true;
  }

  void check_complete() {
    if (next_ != slots_.size()) { throw misuse(slots_[next_], "was planned and never begun"); }
    for (auto const& s : slots_) {
      std::uint64_t const n = s.written.load(std::memory_order_acquire);
      if (n != s.meta.bytes) {
        throw argument_error(shown_.string() + ": tensor " + detail::in_quotes(s.meta.name) + " has " +
                             std::to_string(s.meta.bytes) + " bytes, and " + std::to_string(n) + " were written");
      }
    }
  }

  [[nodiscard]] std::string shard_name(std::size_t i) const {
    if (shards_.size() == 1) { return options_.stem + ".safetensors"; }
    auto const five = [](std::size_t n) {
      std::string const digits = std::to_string(n);
      return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
    };
    return options_.stem + "-" + five(i + 1) + "-of-" + five(shards_.size()) + ".safetensors";
  }

  void finish_shard(std::size_t i, std::map<std::string, std::string> const& metadata) {
    shard& s = *shards_[i];
    std::map<std::string, std::string> all = i == 0 ? metadata : std::map<std::string, std::string>{};
    all["format"] = "pt";
    std::string const head = detail::header_text(s.tensors, detail::metadata_text(all), s.data_start);
    s.file->write(0, std::as_bytes(std::span(head)));
    s.file->finish(s.data_start + s.bytes);
    s.file.reset();
    auto const final_path = directory_.path() / shard_name(i);
    if (::rename(s.path.c_str(), final_path.c_str()) != 0) { detail::io_failure(shown_, "naming its files", errno); }
  }

  void add_index() {
    auto index = nlohmann::json::object();
    std::uint64_t total = 0;
    auto& map = index["weight_map"] = nlohmann::json::object();
    for (std::size_t i = 0; i < shards_.size(); ++i) {
      for (auto const& t : shards_[i]->tensors) { map[t.name] = shard_name(i); }
      total += shards_[i]->bytes;
    }
    index["metadata"]["total_size"] = total;
    std::string const text = index.dump(2) + "\n";
    auto fd =
        detail::open_file(directory_.path() / (options_.stem + ".safetensors.index.json"), O_WRONLY | O_CREAT | O_EXCL);
    detail::write_all(fd.get(), std::as_bytes(std::span(text)), 0, shown_);
    finish_file(fd, shown_);
  }

  /// Where a side file goes, its directories made.
  std::filesystem::path place_file(std::string const& relative) {
    std::filesystem::path const p(relative);
    bool good = p.is_relative() && p.has_filename() && relative.find('\0') == std::string::npos;
    for (auto const& part : p) { good = good && part != ".." && part != "."; }
    if (!good) {
      throw argument_error(shown_.string() + ": " + detail::in_quotes(relative) +
                           " isn't a file inside the checkpoint");
    }
    bool const top = !p.has_parent_path();
    if (top && (relative.ends_with(".safetensors") || relative.ends_with(".safetensors.index.json"))) {
      throw argument_error(shown_.string() + ": " + detail::in_quotes(relative) + " would be taken for its weights");
    }
    auto sub = directory_.path();
    std::error_code ec;
    for (auto const& part : p.parent_path()) {
      sub /= part;
      if (::mkdir(sub.c_str(), 0777) != 0 && (errno != EEXIST || !std::filesystem::is_directory(sub, ec))) {
        detail::io_failure(shown_ / p.parent_path(), "creating the directory", errno);
      }
      subdirectories_.insert(sub);
    }
    auto path = directory_.path() / p;
    if (std::filesystem::exists(path, ec)) {
      throw argument_error(shown_.string() + ": " + detail::in_quotes(relative) + " is there twice");
    }
    return path;
  }

  static void finish_file(detail::unique_fd& fd, std::filesystem::path const& path) {
    detail::sync_file(fd.get(), path);
    fd.close(path);
  }

  std::filesystem::path shown_;  // as the caller named it, for messages
  options options_;
  std::size_t metadata_room_;
  std::vector<slot_state> slots_;  // as planned; never resized, so that other threads may write
  detail::partial_directory directory_;
  std::vector<std::unique_ptr<shard>> shards_;  // destroyed, and so closed, before the directory is removed
  std::set<std::filesystem::path> subdirectories_;
  std::size_t next_ = 0;    // first slot that wasn't begun
  bool committed_ = false;  // or failed to
  std::atomic<std::uint64_t> total_{0};
};

BRAID_NAMESPACE_END

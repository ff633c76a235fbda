#pragma once

#include <braid/io/detail/checkpoint_layout.hpp>

#include <memory>
#include <mutex>
#include <optional>

BRAID_NAMESPACE_BEGIN

/// A Hugging Face checkpoint directory, opened for reading: its tensors in one file or in shards, mapped into memory,
/// its config and the files that travel with it. Cheap to copy: copies share the mapping, and tensors' bytes are valid
/// while any copy lives. Everything is checked when it is opened. Const members may be called from many threads.
///
/// The files, in this order: those of `model.safetensors.index.json`, or of the only `*.safetensors.index.json`;
/// `model.safetensors`; a single `*.safetensors` of any name, a full set of `STEM-00001-of-0000N.safetensors`, or
/// several unnumbered ones together. Other `*.safetensors` beside an index or model.safetensors are ignored.
class checkpoint {
 public:
  /// @param name what messages, reports and an expert call it; the directory's last component by default
  /// @throws io_error if the directory or a file can't be read
  /// @throws argument_error if `dir` is a file
  /// @throws format_error if there are no weights in safetensors, or anything in them is wrong (see `format_code`)
  checkpoint(std::filesystem::path dir, std::string name = {})
      : state_(std::make_shared<state>(std::move(dir), std::move(name))) {}
  checkpoint(char const* dir) : checkpoint(std::filesystem::path(dir)) {}

  [[nodiscard]] std::string const& name() const noexcept { return state_->name; }
  /// The directory, as it was given.
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return state_->dir; }

  /// Sorted by name.
  [[nodiscard]] std::vector<tensor_meta> const& tensors() const noexcept { return state_->tensors; }

  /// nullptr if there is no tensor of that name. The pointer is valid while any copy of the checkpoint lives.
  [[nodiscard]] tensor_meta const* find(std::string_view name) const noexcept {
    auto const& all = state_->tensors;
    auto const it = std::lower_bound(all.begin(), all.end(), name, [](auto const& t, auto n) { return t.name < n; });
    return it != all.end() && it->name == name ? &*it : nullptr;
  }

  /// @throws argument_error naming the checkpoint and the nearest tensor name if there is no tensor of that name
  [[nodiscard]] tensor_meta const& at(std::string_view name) const {
    if (tensor_meta const* const t = find(name)) { return *t; }
    std::string message = "checkpoint " + detail::in_quotes(state_->name) + " (" + state_->dir.string() +
                          ") has no tensor " + detail::in_quotes(name);
    if (std::string const near = nearest(name); !near.empty()) {
      message += "; the nearest name is " + detail::in_quotes(near);
    }
    throw argument_error(message);
  }

  /// The bytes of one of `tensors()`, in the mapping: elements in row-major order, little-endian.
  /// @throws argument_error if such a tensor can't be in this checkpoint
  [[nodiscard]] std::span<std::byte const> bytes(tensor_meta const& t) const { return file(t).bytes(t); }

  /// The file that holds a tensor.
  [[nodiscard]] std::filesystem::path const& file_of(tensor_meta const& t) const { return file(t).path(); }

  /// Takes pages that are no longer needed out of resident memory (whole pages only; they stay valid, and are read
  /// again when touched). Keeps the memory of a pass over a large tensor bounded.
  /// @param first_byte, count  bytes, from the start of the tensor
  void release(tensor_meta const& t, std::uint64_t first_byte, std::uint64_t count) const {
    file(t).release(t, first_byte, count);
  }

  /// A string of `__metadata__`, from the first file that has it.
  [[nodiscard]] std::optional<std::string> metadata(std::string const& key) const {
    for (auto const& f : state_->files) {
      if (auto const it = f.metadata().find(key); it != f.metadata().end()) { return it->second; }
    }
    return std::nullopt;
  }

  /// config.json; an empty object if there is none. Read at the first call.
  /// @throws format_error if it isn't a JSON object
  [[nodiscard]] nlohmann::json const& config() const {
    std::call_once(state_->config_read, [s = state_.get()] {
      auto const path = s->dir / "config.json";
      std::error_code ec;
      s->config = std::filesystem::exists(path, ec) ? detail::read_json(path, format_code::config_json)
                                                    : nlohmann::json::object();
    });
    return state_->config;
  }

  /// Names of the files that travel with the model, sorted: config, tokenizer, chat template, code, licence; everything
  /// directly in the directory but weights of any format, indices and hidden files.
  [[nodiscard]] std::vector<std::string> side_files() const {
    auto names = detail::visible_files(state_->dir);
    std::erase_if(names, [](std::string const& n) {
      return n.ends_with(detail::weights_suffix) || detail::is_foreign_weights(n) || n.ends_with(".index.json");
    });
    return names;
  }

 private:
  struct state {
    state(std::filesystem::path d, std::string n) : dir(std::move(d)), name(std::move(n)) {
      if (name.empty()) { name = last_component(dir); }
      auto const layout = detail::find_layout(dir);
      files.reserve(layout.files.size());
      for (auto const& f : layout.files) { files.emplace_back(dir / f); }
      tensors = detail::collect_tensors(dir, layout, files);
    }

    static std::string last_component(std::filesystem::path const& dir) {
      std::error_code ec;
      auto const whole = std::filesystem::absolute(dir, ec).lexically_normal();
      auto const last = whole.has_filename() ? whole.filename() : whole.parent_path().filename();
      return last.empty() ? "checkpoint" : last.string();
    }

    std::filesystem::path dir;
    std::string name;
    std::vector<safetensors_file> files;
    std::vector<tensor_meta> tensors;
    std::once_flag config_read;
    nlohmann::json config;
  };

  [[nodiscard]] safetensors_file const& file(tensor_meta const& t) const {
    if (t.file < 0 || static_cast<std::size_t>(t.file) >= state_->files.size()) {
      throw argument_error("checkpoint " + detail::in_quotes(state_->name) + ": tensor " + detail::in_quotes(t.name) +
                           " comes from another checkpoint");
    }
    return state_->files[static_cast<std::size_t>(t.file)];
  }

  /// The tensor name with the least edit distance; empty if none is near enough to be meant.
  [[nodiscard]] std::string nearest(std::string_view name) const {
    constexpr std::size_t longest = 512;  // the distance is quadratic, and a file may name tensors as it likes
    std::string best;
    std::size_t least = name.size() / 2 + 1;
    if (name.size() > longest) { return best; }
    for (auto const& t : state_->tensors) {
      if (t.name.size() > longest) { continue; }
      if (std::size_t const d = detail::edit_distance(name, t.name); d < least) {
        least = d;
        best = t.name;
      }
    }
    return best;
  }

  std::shared_ptr<state> state_;
};

BRAID_NAMESPACE_END

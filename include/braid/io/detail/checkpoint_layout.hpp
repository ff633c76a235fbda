#pragma once

#include <braid/io/detail/json_text.hpp>
#include <braid/io/safetensors_file.hpp>

#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline constexpr std::string_view weights_suffix = ".safetensors";
inline constexpr std::string_view index_suffix = ".safetensors.index.json";

inline bool is_foreign_weights(std::string_view file) noexcept {
  for (std::string_view const suffix :
       {".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data"}) {
    if (file.ends_with(suffix)) { return true; }
  }
  return false;
}

/// Names of the regular files (or links to such) directly in a directory, sorted; hidden ones left out.
inline std::vector<std::string> visible_files(std::filesystem::path const& dir) {
  std::vector<std::string> names;
  std::error_code ec;
  std::filesystem::directory_iterator it(dir, ec);
  for (; !ec && it != std::filesystem::directory_iterator(); it.increment(ec)) {
    std::string name = it->path().filename().string();
    std::error_code unreadable;  // a link to nowhere isn't a file
    if (!name.starts_with('.') && it->is_regular_file(unreadable)) { names.push_back(std::move(name)); }
  }
  if (ec) { io_failure(dir, "reading the directory", ec.value()); }
  std::sort(names.begin(), names.end());
  return names;
}

/// The parts of "STEM-00002-of-00005.safetensors".
struct shard_number {
  std::string stem;
  int number = 0;
  int count = 0;
};

inline std::optional<shard_number> parse_shard_name(std::string_view file) {
  if (!file.ends_with(weights_suffix)) { return std::nullopt; }
  file.remove_suffix(weights_suffix.size());
  auto const take_number = [&](std::string_view before, int& out) {
    std::size_t const at = file.rfind(before);
    if (at == std::string_view::npos) { return false; }
    std::string_view const digits = file.substr(at + before.size());
    auto const [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
    bool const good = failure == std::errc() && end == digits.data() + digits.size() && out >= 0;
    file = file.substr(0, at);
    return good;
  };
  shard_number s;
  if (!take_number("-of-", s.count) || !take_number("-", s.number)) { return std::nullopt; }
  s.stem = file;
  return s;
}

/// Which files hold a checkpoint's tensors.
struct checkpoint_layout {
  std::vector<std::string> files;                       // relative to the directory, sorted
  std::optional<std::string> index;                     // name of the index, where there is one
  std::unordered_map<std::string, std::string> listed;  // its weight_map
};

[[noreturn]] inline void refuse_without_weights(std::filesystem::path const& dir,
                                                std::vector<std::string> const& names) {
  for (auto const& name : names) {
    if (!is_foreign_weights(name)) { continue; }
    std::string const how = name.ends_with(".gguf") ? "start from the model that it was made of; GGUF is quantised"
                                                    : "load it with transformers and call save_pretrained(directory, "
                                                      "safe_serialization=True)";
    refuse(format_code::foreign_weights, dir,
           "has no *.safetensors, only " + in_quotes(name) + ": convert it first (" + how + ")");
  }
  refuse(format_code::no_weights, dir,
         names.empty() ? "is empty: a checkpoint needs model.safetensors, or shards with an index"
                       : "has no *.safetensors: give the directory that holds the weights");
}

/// Without an index and without model.safetensors: one file of any name, a full set of numbered shards, or unnumbered
/// files that are taken together.
inline std::vector<std::string> files_without_index(std::filesystem::path const& dir,
                                                    std::vector<std::string> weights) {
  if (weights.size() == 1 && !parse_shard_name(weights[0])) { return weights; }
  std::map<std::pair<std::string, int>, std::set<int>> sets;
  std::string unnumbered;
  for (auto const& name : weights) {
    if (auto s = parse_shard_name(name)) {
      sets[{s->stem, s->count}].insert(s->number);
    } else {
      unnumbered = name;
    }
  }
  if (sets.empty()) { return weights; }
  if (sets.size() > 1 || !unnumbered.empty()) {
    refuse(format_code::ambiguous_weights, dir,
           "holds several sets of weights (" + in_quotes(weights.front()) + ", " + in_quotes(weights.back()) +
               ") and no index: keep one of them");
  }
  auto const& [key, numbers] = *sets.begin();
  for (int i = 1; i <= key.second; ++i) {
    if (!numbers.contains(i)) {
      refuse(format_code::missing_shard, dir,
             "shard " + std::to_string(i) + " of " + std::to_string(key.second) + " (" + in_quotes(key.first + "-...") +
                 ") is missing; fetch or copy it again");
    }
  }
  return weights;
}

/// The file names in an index must stay in the directory: an index may come from anyone.
inline void check_shard_name(std::filesystem::path const& index, std::string const& name) {
  std::filesystem::path const p(name);
  bool good = name.ends_with(weights_suffix) && p.is_relative() && name.find('\0') == std::string::npos;
  for (auto const& part : p) { good = good && part != ".."; }
  if (!good) {
    refuse(format_code::shard_name, index,
           "names " + in_quotes(name) + ", which isn't a *.safetensors file in the directory");
  }
}

inline void read_index(std::filesystem::path const& dir, checkpoint_layout& layout) {
  std::filesystem::path const path = dir / *layout.index;
  nlohmann::json const json = read_json(path, format_code::index_json);
  auto const map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) {
    refuse(format_code::index_structure, path, "has no weight_map from tensor names to file names");
  }
  std::set<std::string> files;
  for (auto const& [tensor, file] : map->items()) {
    if (!file.is_string()) {
      refuse(format_code::index_structure, path, "the file of tensor " + in_quotes(tensor) + " must be a string");
    }
    auto const& name = file.get_ref<std::string const&>();
    if (files.insert(name).second) {
      check_shard_name(path, name);
      std::error_code ec;
      if (!std::filesystem::is_regular_file(dir / name, ec)) {
        refuse(format_code::missing_shard, path, "shard " + in_quotes(name) + " is missing; fetch or copy it again");
      }
    }
    layout.listed.emplace(tensor, name);
  }
  layout.files.assign(files.begin(), files.end());
}

/// Finds out which files are the model. model.safetensors or an index wins over other *.safetensors beside them
/// (consolidated.safetensors, leftovers of another format).
inline checkpoint_layout find_layout(std::filesystem::path const& dir) {
  std::error_code ec;
  auto const status = std::filesystem::status(dir, ec);
  if (status.type() == std::filesystem::file_type::none) { io_failure(dir, "stat", ec.value()); }
  if (!std::filesystem::exists(status)) {
    throw io_error(dir.string() +
                   ": no such directory; check the path (a name on a model hub must be downloaded first)");
  }
  if (!std::filesystem::is_directory(status)) {
    throw argument_error(dir.string() + ": is a file; give the directory that holds it");
  }
  auto const names = visible_files(dir);
  std::vector<std::string> weights;
  std::vector<std::string> indices;
  for (auto const& name : names) {
    if (name.ends_with(weights_suffix)) { weights.push_back(name); }
    if (name.ends_with(index_suffix)) { indices.push_back(name); }
  }
  auto const has = [](std::vector<std::string> const& v, char const* name) {
    return std::find(v.begin(), v.end(), name) != v.end();
  };

  checkpoint_layout layout;
  bool const single = has(weights, "model.safetensors");
  if (has(indices, "model.safetensors.index.json")) {
    layout.index = "model.safetensors.index.json";
  } else if (indices.size() == 1 && !single) {
    layout.index = indices[0];
  } else if (indices.size() > 1 && !single) {
    refuse(format_code::ambiguous_weights, dir,
           "holds several indices (" + in_quotes(indices[0]) + ", " + in_quotes(indices[1]) + "): keep one of them");
  }
  if (layout.index) {
    read_index(dir, layout);
    if (single && !has(layout.files, "model.safetensors")) {
      refuse(format_code::ambiguous_weights, dir,
             "holds model.safetensors and an index of other files: remove what isn't the model");
    }
  } else if (single) {
    layout.files = {"model.safetensors"};
  } else if (weights.empty()) {
    refuse_without_weights(dir, names);
  } else {
    layout.files = files_without_index(dir, std::move(weights));
  }
  return layout;
}

/// All tensors of the opened files, by name. Each must be in one file only, and where the index says.
inline std::vector<tensor_meta> collect_tensors(std::filesystem::path const& dir, checkpoint_layout const& layout,
                                                std::vector<safetensors_file> const& files) {
  std::vector<tensor_meta> all;
  for (std::size_t f = 0; f < files.size(); ++f) {
    for (tensor_meta t : files[f].tensors()) {
      t.file = static_cast<int>(f);
      all.push_back(std::move(t));
    }
  }
  std::sort(all.begin(), all.end(),
            [](auto const& a, auto const& b) { return a.name != b.name ? a.name < b.name : a.file < b.file; });
  auto const file_name = [&](tensor_meta const& t) {
    return in_quotes(layout.files[static_cast<std::size_t>(t.file)]);
  };
  for (std::size_t i = 1; i < all.size(); ++i) {
    if (all[i].name == all[i - 1].name) {
      refuse(format_code::tensor_in_two_shards, dir,
             "tensor " + in_quotes(all[i].name) + " is in both " + file_name(all[i - 1]) + " and " + file_name(all[i]));
    }
  }
  if (!layout.index) { return all; }

  std::filesystem::path const index = dir / *layout.index;
  std::size_t found = 0;
  for (auto const& t : all) {
    auto const entry = layout.listed.find(t.name);
    if (entry == layout.listed.end()) {
      refuse(format_code::unlisted_tensor, index, "doesn't list tensor " + in_quotes(t.name) + " of " + file_name(t));
    }
    if (entry->second != layout.files[static_cast<std::size_t>(t.file)]) {
      refuse(
          format_code::tensor_not_in_shard, index,
          "expects tensor " + in_quotes(t.name) + " in " + in_quotes(entry->second) + ", and it is in " + file_name(t));
    }
    ++found;
  }
  if (found != layout.listed.size()) {
    std::set<std::string> lost;
    for (auto const& [name, file] : layout.listed) { lost.insert(name); }
    for (auto const& t : all) { lost.erase(t.name); }
    refuse(format_code::tensor_not_in_shard, index,
           "expects tensor " + in_quotes(*lost.begin()) + " in " + in_quotes(layout.listed.at(*lost.begin())) +
               ", which lacks it");
  }
  return all;
}

}  // namespace detail
BRAID_NAMESPACE_END

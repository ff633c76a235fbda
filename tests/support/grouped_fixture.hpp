#pragma once

// Grouped checkpoints built by hand, by the words of docs/format.md and without the library's arithmetic: what the
// reader is tested against.

#include <braid/core/dtype.hpp>
#include <braid/io/grouped_description.hpp>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace braid_test {

using bytes = std::vector<std::byte>;
using shape = std::vector<braid::index_t>;

/// A tensor as it is stored in a file.
struct raw_tensor {
  std::string name;
  braid::dtype type = braid::dtype::u8;
  shape dims;
  bytes data;
};

/// One safetensors file, tensors in the order given.
inline void write_safetensors(std::filesystem::path const& path, std::vector<raw_tensor> const& tensors,
                              std::map<std::string, std::string> const& metadata) {
  nlohmann::json header = nlohmann::json::object();
  header["__metadata__"] = metadata;
  std::size_t end = 0;
  for (auto const& t : tensors) {
    header[t.name] = {{"dtype", std::string(braid::name_of(t.type))},
                      {"shape", t.dims},
                      {"data_offsets", {end, end + t.data.size()}}};
    end += t.data.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 8 + 63) / 64 * 64 - 8, ' ');
  std::uint64_t const length = text.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<char const*>(&length), 8);
  out << text;
  for (auto const& t : tensors) {
    out.write(reinterpret_cast<char const*>(t.data.data()), static_cast<std::streamsize>(t.data.size()));
  }
}

inline void write_text(std::filesystem::path const& path, std::string const& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(std::filesystem::path const& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Numbers that are the same with every standard library.
class dice {
 public:
  explicit dice(std::uint64_t seed) : engine_(seed) {}
  /// from 0 to n - 1
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(engine_() % n); }
  bool coin() { return below(2) == 0; }
  std::byte byte() { return static_cast<std::byte>(engine_() >> 56); }

 private:
  std::mt19937_64 engine_;
};

/// What all experts together have of one tensor.
struct expert_tensor {
  std::string name;
  braid::dtype type = braid::dtype::bf16;
  std::optional<int> axis;    // nothing: the default
  std::vector<shape> shapes;  // of each expert
  std::vector<bool> present;  // whether it has the tensor
  std::vector<bytes> data;    // of each expert
};

/// The channel of every element of a tensor, and its position in the channel's row, in row-major order of the tensor:
/// straight from the definition, index by index.
struct element_place {
  std::size_t channel = 0;
  std::size_t column = 0;
};
inline std::vector<element_place> places(shape const& dims, std::optional<int> axis) {
  std::size_t const rank = dims.size();
  std::vector<bool> in_row(rank);
  for (std::size_t d = 0; d < rank; ++d) {
    if (!axis) {
      in_row[d] = d + 1 == rank;  // the last dimension; a vector is one row
    } else if (rank >= 2 && *axis == static_cast<int>(rank) - 1) {
      in_row[d] = d + 2 == rank;
    } else {
      in_row[d] = static_cast<int>(d) > *axis;
    }
  }
  std::size_t count = 1;
  for (auto const d : dims) { count *= static_cast<std::size_t>(d); }
  std::vector<element_place> all(count);
  for (std::size_t e = 0; e < count; ++e) {
    std::size_t rest = e;
    std::size_t channel_step = 1;
    std::size_t column_step = 1;
    for (std::size_t d = rank; d-- > 0;) {
      auto const extent = static_cast<std::size_t>(dims[d]);
      auto& step = in_row[d] ? column_step : channel_step;
      (in_row[d] ? all[e].column : all[e].channel) += rest % extent * step;
      step *= extent;
      rest /= extent;
    }
  }
  return all;
}

/// The rows of a tensor: [channel] -> bytes.
inline std::vector<bytes> rows_of(shape const& dims, std::optional<int> axis, braid::dtype type, bytes const& data) {
  std::size_t const size = braid::size_of(type);
  auto const all = places(dims, axis);
  std::vector<bytes> rows;
  for (auto const& p : all) {
    if (p.channel >= rows.size()) { rows.resize(p.channel + 1); }
    if ((p.column + 1) * size > rows[p.channel].size()) { rows[p.channel].resize((p.column + 1) * size); }
  }
  for (std::size_t e = 0; e < all.size(); ++e) {
    std::memcpy(rows[all[e].channel].data() + all[e].column * size, data.data() + e * size, size);
  }
  return rows;
}

/// Experts of which some share rows: every channel gets a random partition and a random row for each group.
inline expert_tensor random_tensor(dice& d, std::string name, braid::dtype type, std::optional<int> axis,
                                   std::vector<shape> shapes, std::vector<bool> present, std::size_t groups) {
  std::size_t const experts = shapes.size();
  std::size_t const size = braid::size_of(type);
  expert_tensor t{std::move(name), type, axis, std::move(shapes), std::move(present), std::vector<bytes>(experts)};
  std::map<std::pair<std::size_t, std::size_t>, bytes> pool;  // channel and group
  for (std::size_t n = 0; n < experts; ++n) {
    if (!t.present[n]) { continue; }
    auto const all = places(t.shapes[n], axis);
    t.data[n].resize(all.size() * size);
    std::map<std::size_t, std::size_t> group;
    for (std::size_t e = 0; e < all.size(); ++e) {
      auto const& p = all[e];
      if (group.count(p.channel) == 0) { group[p.channel] = d.below(groups); }
      auto& row = pool[{p.channel, group[p.channel]}];
      while (row.size() < (p.column + 1) * size) { row.push_back(d.byte()); }
      std::memcpy(t.data[n].data() + e * size, row.data() + p.column * size, size);
    }
  }
  return t;
}

/// Everything of a grouped checkpoint; tests change it before they write it.
struct grouped_files {
  std::vector<raw_tensor> tensors;
  nlohmann::json description;
  std::map<std::string, std::string> side_files;  // path in the directory, content

  raw_tensor* find(std::string const& name) {
    for (auto& t : tensors) {
      if (t.name == name) { return &t; }
    }
    return nullptr;
  }

  void write(std::filesystem::path const& dir, int shards = 1) const {
    std::filesystem::create_directories(dir);
    for (auto const& [path, text] : side_files) { write_text(dir / path, text); }
    std::map<std::string, std::string> const metadata{{"format", "pt"}, {"braid", description.dump()}};
    if (shards == 1) { return write_safetensors(dir / "model.safetensors", tensors, metadata); }
    nlohmann::json map = nlohmann::json::object();
    for (int s = 0; s < shards; ++s) {
      std::string const name =
          "model-0000" + std::to_string(s + 1) + "-of-0000" + std::to_string(shards) + ".safetensors";
      std::vector<raw_tensor> part;
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (static_cast<int>(i % static_cast<std::size_t>(shards)) == s) {
          part.push_back(tensors[i]);
          map[tensors[i].name] = name;
        }
      }
      write_safetensors(dir / name, part, s == 0 ? metadata : std::map<std::string, std::string>{{"format", "pt"}});
    }
    write_text(dir / "model.safetensors.index.json",
               nlohmann::json{{"metadata", {{"total_size", 0}}}, {"weight_map", map}}.dump());
  }
};

/// Groups equal rows of experts, and lays them out as docs/format.md says.
inline grouped_files group_experts(std::vector<std::string> const& names, std::vector<expert_tensor> const& model) {
  grouped_files out;
  auto& d = out.description;
  d = {{"format", 1},
       {"version", "0.1.0"},
       {"method", "test"},
       {"recipe", nlohmann::json::object()},
       {"seed", 7},
       {"base", {{"name", "base"}, {"hash", "b"}}},
       {"experts", nlohmann::json::array()}};
  for (std::size_t n = 0; n < names.size(); ++n) {
    std::string const path = n == 0 ? "config.json" : "experts/" + names[n] + "/config.json";
    out.side_files[path] = "{\"expert\":\"" + names[n] + "\"}";
    d["experts"].push_back({{"name", names[n]}, {"hash", "h"}, {"files", {{"config.json", path}}}, {"absent", {}}});
    d["experts"].back()["absent"] = nlohmann::json::array();
  }
  for (auto const& t : model) {
    std::vector<std::vector<bytes>> rows(names.size());
    std::size_t channels = 0;
    std::size_t largest = 0;
    std::size_t row_bytes = 0;
    for (std::size_t n = 0; n < names.size(); ++n) {
      if (!t.present[n]) {
        d["experts"][n]["absent"].push_back(t.name);
        continue;
      }
      rows[n] = rows_of(t.shapes[n], t.axis, t.type, t.data[n]);
      if (rows[n].size() > channels) {
        channels = rows[n].size();
        largest = n;
        row_bytes = rows[n][0].size();
      }
    }
    std::vector<std::byte> extra;
    bytes index(names.size() * channels);
    braid::index_t extra_rows = 0;
    bool all_zero = true;
    for (std::size_t c = 0; c < channels; ++c) {
      std::vector<bytes> seen;
      for (std::size_t n = 0; n < names.size(); ++n) {
        std::size_t label = braid::no_group;
        if (c < rows[n].size()) {
          for (label = 0; label < seen.size() && seen[label] != rows[n][c];) { ++label; }
          if (label == seen.size()) {
            seen.push_back(rows[n][c]);
            if (label > 0 || c >= rows[0].size()) {
              extra.insert(extra.end(), rows[n][c].begin(), rows[n][c].end());
              ++extra_rows;
            }
          }
        }
        index[n * channels + c] = static_cast<std::byte>(label);
        all_zero = all_zero && label == 0;
      }
    }
    if (t.present[0]) { out.tensors.push_back({t.name, t.type, t.shapes[0], t.data[0]}); }
    auto const size = static_cast<braid::index_t>(row_bytes / braid::size_of(t.type));
    if (extra_rows > 0) { out.tensors.push_back({"braid.extra." + t.name, t.type, {extra_rows, size}, extra}); }
    if (!all_zero) {
      shape const dims{static_cast<braid::index_t>(names.size()), static_cast<braid::index_t>(channels)};
      out.tensors.push_back({"braid.group." + t.name, braid::dtype::u8, dims, index});
    }
    if (t.axis) { d["channel_axis"][t.name] = *t.axis; }
    if (!t.present[0] || rows[0].size() < channels) { d["shapes"][t.name] = t.shapes[largest]; }
  }
  return out;
}

}  // namespace braid_test

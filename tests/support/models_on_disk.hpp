#pragma once

/// Checkpoint directories of random models, written byte by byte and without the library, and directories read back as
/// bytes.

#include "support/random_models.hpp"
#include "support/reference.hpp"

#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>

namespace braid_test {

using shape_t = std::vector<index_t>;

struct disk_tensor {
  std::string name;
  dtype type = dtype::bf16;
  shape_t shape;
  std::vector<std::byte> data;
};
using disk_model = std::vector<disk_tensor>;

inline disk_tensor* find(disk_model& m, std::string_view name) {
  auto const it = std::find_if(m.begin(), m.end(), [&](disk_tensor const& t) { return t.name == name; });
  return it == m.end() ? nullptr : &*it;
}

inline void drop(disk_model& m, std::string_view name) {
  std::erase_if(m, [&](disk_tensor const& t) { return t.name == name; });
}

inline index_t elements_of(shape_t const& shape) {
  return std::accumulate(shape.begin(), shape.end(), index_t{1}, [](index_t a, index_t b) { return a * b; });
}

/// @param skew  bytes by which the data section misses a multiple of 8
inline void write_file(std::filesystem::path const& path, disk_model const& model, int skew = 0) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::size_t end = 0;
  for (auto const& t : model) {
    header += ",\"" + t.name + "\":{\"dtype\":\"" + std::string(braid::name_of(t.type)) + "\",\"shape\":[";
    for (std::size_t d = 0; d < t.shape.size(); ++d) { header += (d == 0 ? "" : ",") + std::to_string(t.shape[d]); }
    header += "],\"data_offsets\":[" + std::to_string(end) + "," + std::to_string(end + t.data.size()) + "]}";
    end += t.data.size();
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8 + static_cast<std::size_t>(skew), ' ');
  std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary);
  std::uint64_t const length = header.size();
  out.write(reinterpret_cast<char const*>(&length), 8);
  out << header;
  for (auto const& t : model) {
    out.write(reinterpret_cast<char const*>(t.data.data()), static_cast<std::streamsize>(t.data.size()));
  }
}

inline void write_model(std::filesystem::path const& dir, disk_model const& model, int skew = 0) {
  write_file(dir / "model.safetensors", model, skew);
}

inline void write_note(std::filesystem::path const& path, std::string const& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// Every file below a directory: relative path to content.
inline std::map<std::string, std::string> contents(std::filesystem::path const& dir) {
  std::map<std::string, std::string> all;
  for (auto const& entry : std::filesystem::recursive_directory_iterator(dir)) {
    if (!entry.is_regular_file()) { continue; }
    std::ifstream in(entry.path(), std::ios::binary);
    all[entry.path().lexically_relative(dir).string()] = {std::istreambuf_iterator<char>(in), {}};
  }
  return all;
}

/// Bytes of tensors in the safetensors files of a directory: all that comes after the headers.
inline std::uint64_t tensor_bytes(std::filesystem::path const& dir) {
  std::uint64_t sum = 0;
  for (auto const& [name, content] : contents(dir)) {
    if (!name.ends_with(".safetensors")) { continue; }
    std::uint64_t header = 0;
    std::memcpy(&header, content.data(), 8);
    sum += content.size() - 8 - header;
  }
  return sum;
}

/// [leading, rows, cols] as [leading, cols, rows].
inline std::vector<std::byte> transposed(std::vector<std::byte> const& data, dtype type, index_t leading, index_t rows,
                                  index_t cols) {
  std::size_t const size = braid::size_of(type);
  std::vector<std::byte> out(data.size());
  for (index_t l = 0; l < leading; ++l) {
    for (index_t r = 0; r < rows; ++r) {
      for (index_t c = 0; c < cols; ++c) {
        std::memcpy(out.data() + static_cast<std::size_t>((l * cols + c) * rows + r) * size,
                    data.data() + static_cast<std::size_t>((l * rows + r) * cols + c) * size, size);
      }
    }
  }
  return out;
}

/// A base and experts as they would lie on disk.
struct disk_family {
  disk_model base;
  std::vector<std::string> names;
  std::vector<disk_model> experts;
  std::map<std::string, family> merged{};  // the tensors that are merged by default, as matrices

  void add(std::string const& name, dtype type, shape_t const& shape, random_source& random, bool is_merged) {
    index_t const cols = shape.empty() ? 1 : shape.back();
    index_t const rows = cols == 0 ? 0 : elements_of(shape) / cols;
    family f = random_family(random, type, rows, cols, static_cast<int>(names.size()));
    f.tensor = name;
    base.push_back({name, type, shape, f.base.memory});
    for (std::size_t e = 0; e < names.size(); ++e) {
      f.experts[e].name = names[e];
      experts[e].push_back({name, type, shape, f.experts[e].weight.memory});
    }
    if (is_merged) { merged[name] = std::move(f); }
  }

  void write(std::filesystem::path const& dir, int skew = 0) const {
    write_model(dir / "base", base, skew);
    for (std::size_t e = 0; e < names.size(); ++e) { write_model(dir / names[e], experts[e], skew); }
  }
};

inline disk_family empty_family(int experts) {
  disk_family d;
  for (int e = 0; e < experts; ++e) {
    d.names.push_back(expert_name(e));
    d.experts.emplace_back();
  }
  return d;
}

/// A tiny transformer with a mixture of experts: something of each kind.
inline disk_family random_disk_family(random_source& random, int experts,
                                      std::vector<dtype> const& types = {dtype::bf16}) {
  disk_family d = empty_family(experts);
  auto const type = [&] { return random.one_of(types); };
  d.add("model.layers.0.self_attn.q_proj.weight", type(), {random.between(1, 20), random.between(1, 40)}, random, true);
  d.add("model.layers.0.mlp.down_proj.weight", type(), {random.between(1, 7), random.between(500, 600)}, random, true);
  d.add("model.layers.1.mlp.experts.gate_up_proj", type(), {3, random.between(1, 8), 17}, random, true);
  d.add("model.layers.1.mlp.gate.weight", type(), {3, 20}, random, false);
  d.add("model.embed_tokens.weight", type(), {random.between(5, 50), 16}, random, false);
  d.add("model.norm.weight", dtype::f32, {16}, random, false);
  return d;
}

}  // namespace braid_test

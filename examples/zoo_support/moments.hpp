#pragma once

/// Second moments of what goes into a model's linear layers: how much an error in a column of a weight counts.

#include "generate.hpp"
#include "prompts.hpp"

#include <braid/io/safetensors_file.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace zoo {

/// The input moments of each linear weight: [cols], the mean of x_c^2.
struct moments {
  std::map<std::string, std::vector<float>> of;  ///< by the weight's name
  int prompts = 0;  ///< of each task, that they were measured on: the last so many, which mustn't be asked again
};

/// Adds up squared inputs.
struct moment_sum {
  std::vector<double> squares;
  std::uint64_t tokens = 0;
};

/// A layer that looks at its inputs on the way. One thread at a time, since the order of the sum is a promise.
class watched_linear {
 public:
  watched_linear(tensor weight, moment_sum& sum) : layer_(std::move(weight)), sum_(&sum) {
    sum.squares.assign(static_cast<std::size_t>(layer_.cols()), 0.0);
  }

  [[nodiscard]] index rows() const noexcept { return layer_.rows(); }
  [[nodiscard]] index cols() const noexcept { return layer_.cols(); }

  void apply(const_columns const& x, columns y) const {
    for (index t = 0; t < x.cols(); ++t) {
      for (index c = 0; c < x.rows(); ++c) {
        double const v = static_cast<double>(x(c, t));
        sum_->squares[static_cast<std::size_t>(c)] += v * v;
      }
    }
    sum_->tokens += static_cast<std::uint64_t>(x.cols());
    layer_.apply(x, y);
  }

 private:
  dense layer_;
  moment_sum* sum_;
};
static_assert(linear_layer<watched_linear>);

/// The moments of one model while it answers: over the tokens of prompts and answers that each layer computes. In the
/// last layer those are the last of each prompt and the answers.
/// @return by weight name, float64
inline std::map<std::string, std::vector<double>> input_moments(llama_config const& config, weight_source const& load,
                                                                tokenizer const& symbols,
                                                                std::vector<prompt> const& prompts,
                                                                std::vector<int> const& limits) {
  std::map<std::string, moment_sum> sums;
  llama<watched_linear> const model(config, load, [&](std::string const& name) {
    return watched_linear(load(name), sums[name]);  // a map's elements stay where they are
  });
  std::vector<std::vector<int>> asked;
  for (auto const& p : prompts) { asked.push_back(symbols.encode(p.text)); }
  (void)generate(model, asked, limits, symbols.encode(".").front());
  std::map<std::string, std::vector<double>> means;
  for (auto& [name, sum] : sums) {
    for (double& s : sum.squares) { s /= static_cast<double>(sum.tokens); }
    means.emplace(name, std::move(sum.squares));
  }
  return means;
}

/// Writes `m` as safetensors: for each weight a tensor of its name, F32 [cols]; metadata "moment_prompts".
/// @throws braid::io_error; then the file is as it was
inline void write_moments(std::filesystem::path const& file, moments const& m) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"moment_prompts", std::to_string(m.prompts)}};
  std::uint64_t end = 0;
  for (auto const& [name, values] : m.of) {
    std::uint64_t const begin = end;
    end += values.size() * sizeof(float);
    header[name] = {{"dtype", "F32"}, {"shape", {values.size()}}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  auto const size = static_cast<std::uint64_t>(text.size());
  auto const partial = std::filesystem::path(file.string() + ".partial");
  std::ofstream out(partial, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<char const*>(&size), sizeof size);
  out << text;
  for (auto const& [name, values] : m.of) {
    out.write(reinterpret_cast<char const*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
  }
  out.close();
  std::error_code problem;
  if (out) { std::filesystem::rename(partial, file, problem); }
  if (!out || problem) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw braid::io_error(file.string() +
                          ": can't be written; give --moments a file in a directory that exists and is yours");
  }
}

/// What `write_moments` wrote.
/// @throws braid::io_error, braid::format_error; braid::argument_error for a file that isn't of that kind
inline moments read_moments(std::filesystem::path const& path) {
  braid::safetensors_file const file(path);
  moments m;
  auto const said = file.metadata().find("moment_prompts");
  if (said == file.metadata().end()) {
    throw braid::argument_error(path.string() + ": holds no moments; expert_zoo ZOO --moments FILE writes them");
  }
  m.prompts = std::stoi(said->second);
  for (auto const& t : file.tensors()) {
    if (t.type != braid::dtype::f32 || t.shape.size() != 1) {
      throw braid::argument_error(path.string() + ": " + t.name + " must be F32 with one dimension");
    }
    auto const bytes = file.bytes(t);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    m.of.emplace(t.name, std::move(values));
  }
  return m;
}

}  // namespace zoo

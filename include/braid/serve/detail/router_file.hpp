#pragma once

/// What a router is beside its embedding, and the file that keeps it.

#include <braid/core/expert_name.hpp>
#include <braid/io/checkpoint_writer.hpp>
#include <braid/io/detail/json_text.hpp>
#include <braid/io/safetensors_file.hpp>
#include <braid/serve/detail/softmax_regression.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// What `format_error::code()` can be for a router's file, besides those of safetensors files (`format_code`).
enum class router_code : int {
  not_a_router = 501,  ///< no "braid.router" in the metadata
  newer_format = 502,  ///< a version that this version of braid can't read
  description = 503,   ///< the description isn't JSON, or a field is missing, of the wrong type or out of range
  tensors = 504,       ///< weight, scale or bias is missing, or isn't F32 of the right shape
  not_finite = 505,    ///< an element of them that is NaN or infinite
};

/// How a router was trained, as its file says.
struct router_training {
  std::size_t queries = 0;
  double l2 = 0.0;
  int parts = 0;
  std::uint64_t seed = 0;
  int iterations = 0;
  bool converged = false;
  double held_out_accuracy = 0.0;  ///< share of queries routed well when they were held out; 0 without parts
};

namespace detail {

struct router_state {
  std::vector<std::string> experts;
  linear_classifier classifier;
  double temperature = 1.0;
  double threshold = 0.0;
  std::size_t default_expert = 0;
  router_training training;
};

inline void check_threshold(double threshold) {
  if (!(threshold >= 0.0 && threshold <= 1.0)) {
    throw argument_error("router: threshold " + std::to_string(threshold) + "; give a probability, 0 to 1");
  }
}

inline std::size_t number_of(std::vector<std::string> const& names, std::string_view name) {
  std::string known;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) { return i; }
    known += (i == 0 ? "" : ", ") + names[i];
  }
  throw argument_error("router: no expert " + in_quotes(name) + "; there are " + known);
}

inline constexpr char router_stem[] = "router";
inline constexpr char router_key[] = "braid.router";
inline constexpr char router_weight[] = "router.weight";
inline constexpr char router_scale[] = "router.scale";
inline constexpr char router_bias[] = "router.bias";

inline void write_router(std::filesystem::path const& out, router_state const& s, nlohmann::json const& embedding,
                         bool overwrite) {
  nlohmann::json const description{{"format", "braid-router"},
                                   {"version", 1},
                                   {"experts", s.experts},
                                   {"default", s.experts[s.default_expert]},
                                   {"threshold", s.threshold},
                                   {"temperature", s.temperature},
                                   {"embedding", embedding},
                                   {"training",
                                    {{"queries", s.training.queries},
                                     {"l2", s.training.l2},
                                     {"parts", s.training.parts},
                                     {"seed", s.training.seed},
                                     {"iterations", s.training.iterations},
                                     {"converged", s.training.converged},
                                     {"held_out_accuracy", s.training.held_out_accuracy}}}};
  std::map<std::string, std::string> const metadata{{router_key, description.dump()}};
  auto const experts = static_cast<index_t>(s.experts.size());
  checkpoint_writer writer(out,
                           {{router_weight, dtype::f32, {experts, s.classifier.dimension}, false, 0},
                            {router_scale, dtype::f32, {s.classifier.dimension}, false, 0},
                            {router_bias, dtype::f32, {experts}, false, 0}},
                           metadata_text(metadata).size() + 64,
                           {.max_shard_bytes = number_limit, .overwrite = overwrite, .stem = router_stem});
  writer.write(writer.begin(router_weight), 0, std::as_bytes(std::span(s.classifier.weight)));
  writer.write(writer.begin(router_scale), 0, std::as_bytes(std::span(s.classifier.scale)));
  writer.write(writer.begin(router_bias), 0, std::as_bytes(std::span(s.classifier.bias)));
  writer.commit(metadata);
}

/// A router's file, read and checked.
class router_file {
 public:
  /// @param path  the file, or a directory that has it
  explicit router_file(std::filesystem::path const& path) : path_(file_at(path)) {
    safetensors_file const file(path_);
    auto const found = file.metadata().find(router_key);
    if (found == file.metadata().end()) {
      fail(router_code::not_a_router, "isn't a router: its metadata has no \"braid.router\"");
    }
    nlohmann::json const j = parse_json(found->second, path_, static_cast<format_code>(router_code::description));
    try {
      take(j);
    } catch (nlohmann::json::exception const&) {
      fail(router_code::description, "a field of \"braid.router\" is missing or of another type");
    }
    state.classifier.weight = numbers(file, router_weight, {static_cast<index_t>(state.experts.size()), -1});
    state.classifier.scale = numbers(file, router_scale, {state.classifier.dimension});
    state.classifier.bias = numbers(file, router_bias, {static_cast<index_t>(state.experts.size())});
    if (file.tensors().size() != 3) { fail(router_code::tensors, "has other tensors than weight, scale and bias"); }
  }

  router_state state;

  /// The embedding that the file describes.
  template <class Embedding>
  [[nodiscard]] Embedding embedding() const {
    try {
      Embedding e = Embedding::from_json(embedding_);
      if (e.dimension() != state.classifier.dimension) {
        fail(router_code::tensors, "has weights for " + std::to_string(state.classifier.dimension) +
                                       " features, and an embedding with " + std::to_string(e.dimension()));
      }
      return e;
    } catch (argument_error const& e) { fail(router_code::description, e.what()); }
  }

  void check_embedding(nlohmann::json const& given, index_t dimension) const {
    if (given != embedding_ || dimension != state.classifier.dimension) {
      throw argument_error(path_.string() + ": was trained with the embedding " + embedding_.dump() + " of " +
                           std::to_string(state.classifier.dimension) + " features, not with " + given.dump() +
                           "; give the same one, or train again");
    }
  }

 private:
  [[noreturn]] void fail(router_code code, std::string_view what) const {
    throw format_error(static_cast<int>(code), path_.string(), what);
  }

  static std::filesystem::path file_at(std::filesystem::path const& path) {
    std::error_code ec;
    return std::filesystem::is_directory(path, ec) ? path / (std::string(router_stem) + ".safetensors") : path;
  }

  void take(nlohmann::json const& j) {
    if (j.at("format") != "braid-router") { fail(router_code::description, "its format isn't \"braid-router\""); }
    if (int const version = j.at("version").get<int>(); version != 1) {
      fail(router_code::newer_format,
           "has version " + std::to_string(version) + " of the format, and this braid reads 1; update braid");
    }
    state.experts = j.at("experts").get<std::vector<std::string>>();
    bool good = state.experts.size() >= 2;
    for (std::size_t i = 0; i < state.experts.size(); ++i) {
      good = good && is_expert_name(state.experts[i]) && (i == 0 || state.experts[i - 1] < state.experts[i]);
    }
    if (!good) { fail(router_code::description, "its experts aren't two or more names, sorted"); }
    auto const chosen = std::find(state.experts.begin(), state.experts.end(), j.at("default").get<std::string>());
    if (chosen == state.experts.end()) { fail(router_code::description, "its default isn't one of the experts"); }
    state.default_expert = static_cast<std::size_t>(chosen - state.experts.begin());
    state.threshold = j.at("threshold").get<double>();
    state.temperature = j.at("temperature").get<double>();
    if (!(state.threshold >= 0.0 && state.threshold <= 1.0)) {
      fail(router_code::description, "its threshold isn't between 0 and 1");
    }
    if (!(state.temperature > 0.0 && std::isfinite(state.temperature))) {
      fail(router_code::description, "its temperature isn't a number above 0");
    }
    embedding_ = j.at("embedding");
    auto const& t = j.at("training");
    state.training = {.queries = t.at("queries").get<std::size_t>(),
                      .l2 = t.at("l2").get<double>(),
                      .parts = t.at("parts").get<int>(),
                      .seed = t.at("seed").get<std::uint64_t>(),
                      .iterations = t.at("iterations").get<int>(),
                      .converged = t.at("converged").get<bool>(),
                      .held_out_accuracy = t.at("held_out_accuracy").get<double>()};
  }

  /// A tensor's elements; a dimension of -1 may be any, and is the number of features.
  std::vector<float> numbers(safetensors_file const& file, std::string_view name, std::vector<index_t> shape) {
    tensor_meta const* found = nullptr;
    for (auto const& t : file.tensors()) { found = t.name == name ? &t : found; }
    if (found == nullptr) { fail(router_code::tensors, "has no tensor " + in_quotes(name)); }
    if (shape.back() < 0 && found->shape.size() == shape.size()) {
      shape.back() = state.classifier.dimension = found->shape.back();
    }
    if (found->type != dtype::f32 || found->shape != shape || shape.back() < 1) {
      fail(router_code::tensors, "tensor " + in_quotes(name) + " isn't F32 of the experts' shape");
    }
    std::vector<float> values(static_cast<std::size_t>(found->elements()));
    std::memcpy(values.data(), file.bytes(*found).data(), found->bytes);
    for (float const x : values) {
      if (!std::isfinite(x)) { fail(router_code::not_finite, "tensor " + in_quotes(name) + " has an element that isn't finite"); }
    }
    return values;
  }

  std::filesystem::path path_;
  nlohmann::json embedding_;
};

}  // namespace detail
BRAID_NAMESPACE_END

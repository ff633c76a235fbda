#pragma once

/// LoRA adapters as PEFT writes them, as deltas whose rows are computed on demand.

#include <braid/backend/cpu/convert.hpp>
#include <braid/io/checkpoint.hpp>

#include <cmath>
#include <map>
#include <regex>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// What an adapter adds to one tensor: scale * B A, [rows, cols]; its transpose where `transposed`.
struct lora_delta {
  std::string tensor;  // of the base model that it changes: "model.layers.0.self_attn.q_proj.weight"
  tensor_meta a{};     // [rank, cols of B A]
  tensor_meta b{};     // [rows of B A, rank]
  float scale = 1.0f;  // alpha / rank, or alpha / sqrt(rank)
  bool transposed = false;
  index_t rows = 0;
  index_t cols = 0;

  [[nodiscard]] index_t rank() const noexcept { return a.shape[0]; }
};

/// An adapter directory (adapter_config.json, adapter_model.safetensors), opened. Const members may be called from many
/// threads.
///
/// Hu et al., "LoRA" (ICLR 2022, arXiv 2106.09685), section 4.1; Kalajdzievski, arXiv 2312.03732, for alpha /
/// sqrt(rank).
class adapter {
 public:
  /// @throws io_error, format_error (`format_code` 212, 213 and those of checkpoints): no LoRA adapter, or one with
  /// parts
  ///   that are no delta of a weight (DoRA, trained biases, whole modules)
  explicit adapter(std::filesystem::path const& dir) : files_(dir) {
    auto const path = dir / "adapter_config.json";
    nlohmann::json const config = braid::detail::read_json(path, format_code::adapter_config);
    read(config, path);
  }

  /// By tensor name.
  [[nodiscard]] std::vector<lora_delta> const& deltas() const noexcept { return deltas_; }

  /// nullptr where the adapter leaves the tensor as it is.
  [[nodiscard]] lora_delta const* find(std::string_view tensor) const noexcept {
    auto const it =
        std::lower_bound(deltas_.begin(), deltas_.end(), tensor, [](auto const& d, auto n) { return d.tensor < n; });
    return it != deltas_.end() && it->tensor == tensor ? &*it : nullptr;
  }

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return files_.path(); }

  /// Every delta needs its weight: one that fits nothing would otherwise be lost without a word.
  /// @throws argument_error, shape_error naming the tensor that `model` lacks, or has in another shape or type
  void check_fits(checkpoint const& model) const;

  /// Rows [first, first + count) of a delta, in float32, packed: element = scale * (the sum of B[r, k] * A[k, c] over
  /// k, from k = 0, starting at +0), each product, sum and the scaling rounded. Doesn't depend on how rows are cut.
  /// @param out  [count, cols]
  /// @complexity count * cols * rank products; converts the factors, or their rows, once for each call
  void rows(lora_delta const& d, index_t first, index_t count, float* out) const;

 private:
  void read(nlohmann::json const& config, std::filesystem::path const& path);
  void put(nlohmann::json const& config, std::filesystem::path const& path, std::string const& module,
           tensor_meta const& a, tensor_meta const& b, bool embedding);

  /// Rows [first, first + count) of a factor in float32.
  [[nodiscard]] std::vector<float> widened(tensor_meta const& t, index_t first, index_t count) const {
    constexpr std::size_t step = 512;  // what is converted in one call
    auto const inner = static_cast<std::size_t>(t.shape[1]);
    std::vector<float> x(static_cast<std::size_t>(count) * inner);
    std::byte const* const from = files_.bytes(t).data() + static_cast<std::size_t>(first) * inner * size_of(t.type);
    for (std::size_t i = 0; i < x.size(); i += step) {
      braid::detail::widen(t.type, from + i * size_of(t.type), x.data() + i,
                           static_cast<int>(std::min(step, x.size() - i)));
    }
    return x;
  }

  checkpoint files_;
  std::vector<lora_delta> deltas_;
};

namespace detail {

/// The value of a pattern whose key, a regular expression, fits the end of a module's name; else the general one.
inline double by_pattern(nlohmann::json const& config, char const* patterns, std::string const& module, double general,
                         std::filesystem::path const& path) {
  auto const it = config.find(patterns);
  if (it == config.end() || !it->is_object()) { return general; }
  for (auto const& [key, v] : it->items()) {
    bool fits = false;
    try {
      fits = std::regex_match(module, std::regex("(.*\\.)?(" + key + ")"));
    } catch (std::regex_error const&) {
      braid::detail::refuse(
          format_code::adapter_config, path,
          std::string(patterns) + " has the key " + braid::detail::in_quotes(key) + ", no regular expression");
    }
    if (!fits) { continue; }
    if (!v.is_number()) {
      braid::detail::refuse(format_code::adapter_config, path, std::string(patterns) + " must hold numbers");
    }
    return v.get<double>();
  }
  return general;
}

}  // namespace detail

inline void adapter::read(nlohmann::json const& config, std::filesystem::path const& path) {
  auto const fail = [&](std::string const& what) { braid::detail::refuse(format_code::adapter_config, path, what); };
  if (config.value("peft_type", std::string("LORA")) != "LORA") {
    fail("is no LoRA adapter but " + config["peft_type"].dump());
  }
  for (char const* const key : {"use_dora", "use_qalora"}) {
    if (auto const it = config.find(key); it != config.end() && *it == true) {
      fail(std::string(key) + " is on: such an adapter is no fixed delta; merge it into its model with PEFT first");
    }
  }
  if (auto const it = config.find("lora_alpha"); it == config.end() || !it->is_number()) {
    fail("has no number lora_alpha");
  }

  struct pair {
    tensor_meta const* a = nullptr;
    tensor_meta const* b = nullptr;
    bool embedding = false;
  };
  std::map<std::string, pair> pairs;
  constexpr std::string_view prefix = "base_model.model.";
  for (tensor_meta const& t : files_.tensors()) {
    std::string_view name = t.name;
    if (name.starts_with(prefix)) { name.remove_prefix(prefix.size()); }
    bool found = false;
    for (char const side : {'A', 'B'}) {
      for (bool const embedding : {false, true}) {
        std::string const mark = std::string(embedding ? ".lora_embedding_" : ".lora_") + side;
        auto const at = name.find(mark);
        if (at == std::string_view::npos) { continue; }
        std::string_view const rest = name.substr(at + mark.size());
        if (!rest.empty() && rest != ".weight" && rest != ".default" && rest != ".default.weight") { continue; }
        pair& p = pairs[std::string(name.substr(0, at))];
        (side == 'A' ? p.a : p.b) = &t;
        p.embedding = embedding;
        found = true;
      }
    }
    if (!found) {
      braid::detail::refuse(format_code::adapter_tensors, files_.path(),
                            "tensor " + braid::detail::in_quotes(t.name) +
                                " is no factor of a LoRA delta (a bias, a whole module?); "
                                "merge the adapter into its model with PEFT first");
    }
  }
  for (auto const& [module, p] : pairs) {
    if (p.a == nullptr || p.b == nullptr) {
      braid::detail::refuse(format_code::adapter_tensors, files_.path(),
                            "module " + braid::detail::in_quotes(module) + " has only one of its two factors");
    }
    put(config, path, module, *p.a, *p.b, p.embedding);
  }
}

inline void adapter::put(nlohmann::json const& config, std::filesystem::path const& path, std::string const& module,
                         tensor_meta const& a, tensor_meta const& b, bool embedding) {
  auto const fail = [&](std::string const& what) {
    braid::detail::refuse(format_code::adapter_tensors, files_.path(),
                          "module " + braid::detail::in_quotes(module) + ": " + what);
  };
  if (a.shape.size() != 2 || b.shape.size() != 2 || a.shape[0] != b.shape[1] || a.shape[0] == 0) {
    fail("its factors must be [rank, inputs] and [outputs, rank]");
  }
  if (!is_computable(a.type) || !is_computable(b.type)) {
    fail("its factors must be floating numbers of up to 32 bits");
  }
  double const alpha = detail::by_pattern(config, "alpha_pattern", module, config["lora_alpha"].get<double>(), path);
  auto const rank = static_cast<double>(a.shape[0]);
  bool const by_root = config.value("use_rslora", nlohmann::json(false)) == true;
  double const r = detail::by_pattern(config, "rank_pattern", module, config.value("r", rank), path);
  if (r != rank) {
    fail("its factors have rank " + std::to_string(a.shape[0]) + ", and adapter_config.json says " + std::to_string(r));
  }
  lora_delta d;
  d.tensor = module + ".weight";
  d.a = a;
  d.b = b;
  d.scale = static_cast<float>(alpha / (by_root ? std::sqrt(rank) : rank));
  d.transposed = embedding || config.value("fan_in_fan_out", nlohmann::json(false)) == true;
  d.rows = d.transposed ? a.shape[1] : b.shape[0];
  d.cols = d.transposed ? b.shape[0] : a.shape[1];
  auto const at = std::lower_bound(deltas_.begin(), deltas_.end(), d.tensor,
                                   [](auto const& x, auto const& n) { return x.tensor < n; });
  deltas_.insert(at, std::move(d));
}

inline void adapter::check_fits(checkpoint const& model) const {
  for (lora_delta const& d : deltas_) {
    tensor_meta const* const t = model.find(d.tensor);
    if (t == nullptr) {
      throw argument_error(path().string() + ": the adapter changes tensor " + braid::detail::in_quotes(d.tensor) +
                           ", which " + model.path().string() + " doesn't have; is it an adapter of another model?");
    }
    if (t->shape != std::vector<index_t>{d.rows, d.cols}) {
      throw shape_error(path().string() + ": the adapter's delta of tensor " + braid::detail::in_quotes(d.tensor) + " is [" +
                        std::to_string(d.rows) + ", " + std::to_string(d.cols) +
                        "], which isn't the shape of that tensor in " + model.path().string());
    }
    if (!is_computable(t->type)) {
      throw shape_error(model.path().string() + ": tensor " + braid::detail::in_quotes(d.tensor) + " is " +
                        std::string(name_of(t->type)) + ", to which an adapter's delta can't be added");
    }
  }
}

BRAID_STRICT_FP_BEGIN
inline void adapter::rows(lora_delta const& d, index_t first, index_t count, float* out) const {
  auto const cols = static_cast<std::size_t>(d.cols);
  auto const rank = static_cast<std::size_t>(d.rank());
  std::vector<float> const a = widened(d.a, 0, d.rank());
  std::vector<float> const b = d.transposed ? widened(d.b, 0, d.cols) : widened(d.b, first, count);
  auto const inner = static_cast<std::size_t>(d.a.shape[1]);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    std::size_t const r = static_cast<std::size_t>(first) + i;
    float* const row = out + i * cols;
    std::fill(row, row + cols, 0.0f);
    for (std::size_t k = 0; k < rank; ++k) {
      for (std::size_t c = 0; c < cols; ++c) {
        float const product = d.transposed ? b[c * rank + k] * a[k * inner + r] : b[i * rank + k] * a[k * inner + c];
        row[c] = row[c] + product;
      }
    }
    for (std::size_t c = 0; c < cols; ++c) { row[c] = row[c] * d.scale; }
  }
}
BRAID_STRICT_FP_END

}  // namespace recipe
BRAID_NAMESPACE_END

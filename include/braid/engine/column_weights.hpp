#pragma once

#include <braid/core/error.hpp>
#include <braid/io/safetensors_file.hpp>

#include <cmath>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// What an error in each column of each weight counts: usually the mean square of the input that meets the column, from a
/// few prompts (as in Wanda, arXiv 2306.11695), or a diagonal Fisher information. Read from a safetensors file with a tensor
/// [inputs] F32 under the name of each weight; a weight that isn't there counts all columns the same.
class column_weights {
 public:
  column_weights() = default;

  /// @throws io_error, format_error; shape_error for a tensor that isn't F32 [inputs]; value_error for a negative number,
  ///         NaN or infinity
  explicit column_weights(std::filesystem::path const& path) : path_(path) {
    safetensors_file const file(path);
    for (tensor_meta const& t : file.tensors()) {
      if (t.type != dtype::f32 || t.shape.size() != 1) {
        throw shape_error(path.string() + ": tensor '" + t.name + "' must be F32 with one dimension, the inputs of the weight of that name");
      }
      auto const bytes = file.bytes(t);
      std::vector<float> values(bytes.size() / sizeof(float));
      if (!values.empty()) { std::memcpy(values.data(), bytes.data(), bytes.size()); }
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i]) || values[i] < 0.0f) {
          throw value_error(path.string() + ": tensor '" + t.name + "' has " + std::to_string(values[i]) + " at [" +
                            std::to_string(i) + "]; weights of columns are finite and not below 0");
        }
      }
      weights_.emplace(t.name, std::move(values));
    }
  }

  [[nodiscard]] bool empty() const noexcept { return weights_.empty(); }
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }

  /// The weights of a tensor's columns, or nothing. Valid while this object lives.
  /// @throws shape_error if there are more or fewer than `cols`
  [[nodiscard]] std::span<float const> find(std::string_view tensor, index_t cols) const {
    auto const it = weights_.find(tensor);
    if (it == weights_.end()) { return {}; }
    if (static_cast<index_t>(it->second.size()) != cols) {
      throw shape_error(path_.string() + ": tensor '" + it->first + "' has " + std::to_string(it->second.size()) +
                        " weights, and the tensor of that name " + std::to_string(cols) + " inputs");
    }
    return it->second;
  }

 private:
  std::filesystem::path path_;
  std::map<std::string, std::vector<float>, std::less<>> weights_;
};

BRAID_NAMESPACE_END

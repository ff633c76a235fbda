#pragma once

/// Weights for the forward pass, from a checkpoint as it was trained or from an expert of a merged one.

#include "llama.hpp"

#include <braid/core/dtype.hpp>
#include <braid/io/checkpoint.hpp>
#include <braid/io/grouped_checkpoint.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace zoo {

namespace detail {

template <braid::storage_element T>
std::vector<float> widened(std::span<std::byte const> bytes) {
  std::vector<float> values(bytes.size() / sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) {
    T element;
    std::memcpy(&element, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = static_cast<float>(element);
  }
  return values;
}

inline std::vector<float> widened(std::string const& name, braid::dtype type, std::span<std::byte const> bytes) {
  switch (type) {
    case braid::dtype::f32: return widened<float>(bytes);
    case braid::dtype::f16: return widened<braid::float16>(bytes);
    case braid::dtype::bf16: return widened<braid::bfloat16>(bytes);
    case braid::dtype::f8_e4m3: return widened<braid::float8_e4m3>(bytes);
    case braid::dtype::f8_e5m2: return widened<braid::float8_e5m2>(bytes);
    default: throw braid::argument_error(name + ": can't compute with elements of type " + std::string(name_of(type)));
  }
}

/// The element type of a tensor that the merged checkpoint has, perhaps under the name that it is tied to.
inline braid::dtype type_of(braid::grouped_checkpoint const& merged, std::string const& name) {
  auto const& all = merged.tensors();
  auto const found = std::find_if(all.begin(), all.end(), [&](auto const& t) { return t.name == name; });
  if (found != all.end()) { return found->type; }
  return type_of(merged, merged.description().at("tied").at(name).get<std::string>());
}

}  // namespace detail

/// The tensors of a checkpoint, as they are.
inline weight_source weights_of(braid::checkpoint const& model) {
  return [model](std::string const& name) {
    braid::tensor_meta const& meta = model.at(name);
    return tensor{meta.shape, detail::widened(name, meta.type, model.bytes(meta))};
  };
}

/// The tensors of one expert of a merged checkpoint, rebuilt from its rows. Keeps a reference to `merged`.
/// @param expert its number, see `grouped_checkpoint::expert_number`
inline weight_source weights_of(braid::grouped_checkpoint const& merged, std::size_t expert) {
  return [&merged, expert](std::string const& name) {
    tensor t{merged.shape(expert, name), {}};
    braid::dtype const type = detail::type_of(merged, name);
    std::size_t elements = 1;
    for (auto const extent : t.shape) { elements *= static_cast<std::size_t>(extent); }
    std::vector<std::byte> bytes(elements * size_of(type));
    merged.read(name, expert, bytes);
    t.values = detail::widened(name, type, bytes);
    return t;
  };
}

}  // namespace zoo

#pragma once

#include <braid/core/error.hpp>

#include <filesystem>
#include <string_view>

BRAID_NAMESPACE_BEGIN

/// What `format_error::code()` can be. The numbers are stable across versions and are shown in the message.
/// 101 to 199: one safetensors file. 201 to 299: a checkpoint directory. 301 to 399 are those of grouped checkpoints.
enum class format_code : int {
  file_too_small = 101,        ///< shorter than the 8 bytes of the header's length
  header_too_large = 102,      ///< the header's length is above 100,000,000 bytes
  header_beyond_file = 103,    ///< the header ends after the file does
  header_start = 104,          ///< the header doesn't begin with '{'
  header_utf8 = 105,           ///< the header isn't UTF-8
  header_json = 106,           ///< the header isn't JSON
  header_depth = 107,          ///< objects or arrays nest deeper than a header's three levels
  duplicate_tensor = 108,      ///< two entries of one name
  duplicate_field = 109,       ///< an entry or the metadata has a key twice, or there are two metadata objects
  missing_field = 110,         ///< an entry lacks dtype, shape or data_offsets
  unknown_field = 111,         ///< an entry has a fourth field
  wrong_type = 112,            ///< a string where an array belongs, three data_offsets, and so on
  bad_number = 113,            ///< a number that is negative, fractional, or above 2^63 - 1
  unknown_dtype = 114,         ///< a dtype name that the format doesn't have
  unsupported_dtype = 115,     ///< a dtype of the format that braid can't carry (F4, F6, complex, f8 variants)
  too_many_dimensions = 116,   ///< more than 64 dimensions
  size_overflow = 117,         ///< the product of the dimensions, or its bytes, exceeds 2^63 - 1
  reversed_offsets = 118,      ///< data_offsets whose begin is after their end
  size_mismatch = 119,         ///< data_offsets that span other than shape times dtype
  hole = 120,                  ///< bytes of the data section that belong to no tensor
  overlap = 121,               ///< bytes of the data section that belong to two tensors
  truncated = 122,             ///< the file ends before its last tensor does
  trailing_bytes = 123,        ///< the file goes on after its last tensor
  metadata_not_strings = 124,  ///< __metadata__ isn't an object from strings to strings

  no_weights = 201,            ///< the directory has no weights in any format
  foreign_weights = 202,       ///< the directory has weights, but none in safetensors
  ambiguous_weights = 203,     ///< several sets of safetensors files, and nothing says which is the model
  index_json = 204,            ///< the index isn't JSON, nests too deep or has a key twice
  index_structure = 205,       ///< the index has no weight_map from tensor names to file names
  shard_name = 206,            ///< a file name in the index that leaves the directory
  missing_shard = 207,         ///< a shard that should be there isn't
  tensor_not_in_shard = 208,   ///< the index expects a tensor in a shard that lacks it
  unlisted_tensor = 209,       ///< a shard has a tensor that the index doesn't list
  tensor_in_two_shards = 210,  ///< two shards have a tensor of one name
  config_json = 211,           ///< config.json isn't a JSON object
  adapter_config = 212,        ///< adapter_config.json lacks what a LoRA adapter needs, or has what braid can't apply
  adapter_tensors = 213,       ///< the tensors of an adapter don't form pairs that fit together
  tokenizer_json = 214,        ///< tokenizer.json has no vocabulary
};

namespace detail {
[[noreturn]] inline void refuse(format_code code, std::filesystem::path const& where, std::string_view what) {
  throw format_error(static_cast<int>(code), where.string(), what);
}
}  // namespace detail

BRAID_NAMESPACE_END

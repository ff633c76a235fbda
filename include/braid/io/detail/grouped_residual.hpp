#pragma once

#include <braid/io/checkpoint.hpp>
#include <braid/io/grouped_description.hpp>
#include <braid/io/residual_layout.hpp>

#include <cstring>
#include <memory>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The residuals of one logical tensor's rows, checked against its index. Without any, all members are empty.
struct residual_parts {
  std::shared_ptr<std::vector<std::uint8_t> const> implied;  // the codes, where the description gives the one
  std::span<std::uint8_t const> codes;                       // [experts, channels]
  tensor_meta const* code = nullptr;                         // in the checkpoint, which outlives this
  tensor_meta const* plane = nullptr;
  tensor_meta const* scale = nullptr;
  tensor_meta const* column = nullptr;
  std::span<std::byte const> plane_bytes;
  std::span<std::byte const> scale_bytes;
  std::vector<bfloat16> columns;  // [row elements], or empty: ones

  [[nodiscard]] std::uint64_t stored_bytes() const noexcept {
    std::uint64_t sum = 0;
    for (tensor_meta const* const t : {code, plane, scale, column}) { sum += t != nullptr ? t->bytes : 0; }
    return sum;
  }
  /// The codes that there are, in ascending order, `none` left out.
  [[nodiscard]] std::vector<residual_code> kinds() const {
    std::array<bool, residual_codes> seen{};
    for (std::uint8_t const c : codes) { seen[c] = true; }
    std::vector<residual_code> list;
    for (std::size_t c = 1; c < seen.size(); ++c) {
      if (seen[c]) { list.push_back(static_cast<residual_code>(c)); }
    }
    return list;
  }
  [[nodiscard]] bfloat16 const* column_scales() const noexcept { return columns.empty() ? nullptr : columns.data(); }

  /// The scales of a row. A foreign file may put them at an odd address.
  [[nodiscard]] std::array<bfloat16, 4> scales_at(residual_place const& at) const noexcept {
    std::array<bfloat16, 4> scales{};
    auto const n = static_cast<std::size_t>(residual_scales(at.code)) * sizeof(bfloat16);
    if (n != 0) { std::memcpy(scales.data(), scale_bytes.data() + at.scale * sizeof(bfloat16), n); }
    return scales;
  }
  [[nodiscard]] std::byte const* plane_at(residual_place const& at) const noexcept { return plane_bytes.data() + at.plane; }
};

/// What the residuals of a tensor are checked against.
struct residual_owner {
  std::string const& name;
  dtype type;
  index_t channels;
  index_t cols;
  std::span<std::uint8_t const> groups;  // [experts, channels], or empty: all experts are in group 0
};

/// Reads and checks the residuals of one tensor. Each step refuses what the next ones rely on.
class residual_reader {
 public:
  residual_reader(checkpoint const& files, grouped_description const& description, residual_owner const& owner)
      : files_(files), description_(description), owner_(owner), experts_(description.experts.size()),
        channels_(static_cast<std::size_t>(owner.channels)) {
    if (description.format < residual_format_version) { return; }  // such tensors have been refused by name
    r_.code = files.find(code_name(owner.name));
    r_.plane = files.find(residual_name(owner.name));
    r_.scale = files.find(scale_name(owner.name));
    r_.column = files.find(column_name(owner.name));
  }

  /// @throws format_error with one of the codes 321 to 328
  residual_parts read() {
    if (!read_codes()) { return {}; }
    check_places();
    check_sizes();
    check_scales();
    return std::move(r_);
  }

 private:
  [[noreturn]] void fail(grouped_code code, std::string const& what) const {
    refuse(code, files_.path(), "tensor " + in_quotes(owner_.name) + ": " + what);
  }

  [[nodiscard]] std::uint8_t group(std::size_t expert, std::size_t channel) const {
    return owner_.groups.empty() ? std::uint8_t{0} : owner_.groups[expert * channels_ + channel];
  }

  /// @return false where there are no residuals
  bool read_codes() {
    auto const said = description_.residuals.find(owner_.name);
    bool const implied = said != description_.residuals.end();
    if (r_.code == nullptr && !implied) {
      for (tensor_meta const* const t : {r_.plane, r_.scale, r_.column}) {
        if (t == nullptr) { continue; }
        fail(grouped_code::missing_code, "has " + in_quotes(t->name) + ", but neither " + in_quotes(code_name(owner_.name)) +
                                             " nor the description says how it is coded");
      }
      return false;
    }
    if (r_.code == nullptr) {
      r_.implied = std::make_shared<std::vector<std::uint8_t> const>(implied_codes(said->second));
      r_.codes = *r_.implied;
      return true;
    }
    if (implied) { fail(grouped_code::code_mismatch, "has " + in_quotes(r_.code->name) + ", and the description gives a code too"); }
    if (r_.code->type != dtype::u8 || r_.code->shape != std::vector<index_t>{static_cast<index_t>(experts_), owner_.channels}) {
      fail(grouped_code::code_mismatch, in_quotes(r_.code->name) + " must be U8 [" + std::to_string(experts_) + ", " +
                                            std::to_string(owner_.channels) + "]: experts times channels");
    }
    auto const bytes = files_.bytes(*r_.code);
    r_.codes = {reinterpret_cast<std::uint8_t const*>(bytes.data()), bytes.size()};
    for (std::uint8_t const code : r_.codes) {
      if (code >= residual_codes) {
        fail(grouped_code::unknown_code, in_quotes(r_.code->name) + " has the residual code " + std::to_string(code) +
                                             ", which this braid (" BRAID_VERSION_STRING ") doesn't know; use a newer one");
      }
    }
    return true;
  }

  /// How many experts share the rows of each group of a channel.
  void count_members(std::size_t channel, std::array<std::uint32_t, 256>& members) const {
    for (std::size_t n = 0; n < experts_; ++n) { members[group(n, channel)] = 0; }
    for (std::size_t n = 0; n < experts_; ++n) { ++members[group(n, channel)]; }
    members[no_group] = 0;
  }

  [[nodiscard]] std::vector<std::uint8_t> implied_codes(residual_code code) const {
    std::vector<std::uint8_t> codes(experts_ * channels_);
    std::array<std::uint32_t, 256> members{};
    for (std::size_t c = 0; c < channels_; ++c) {
      count_members(c, members);
      for (std::size_t n = 0; n < experts_; ++n) {
        codes[n * channels_ + c] = members[group(n, c)] > 1 ? static_cast<std::uint8_t>(code) : std::uint8_t{0};
      }
    }
    return codes;
  }

  void check_places() const {
    bool const any = std::any_of(r_.codes.begin(), r_.codes.end(), [](std::uint8_t code) { return code != 0; });
    if (any && !is_computable(owner_.type)) {
      fail(grouped_code::misplaced_code, "has residuals, which nothing can be added to in " + std::string(name_of(owner_.type)));
    }
    if (r_.code == nullptr) { return; }  // implied ones are where they can be
    std::array<std::uint32_t, 256> members{};
    for (std::size_t c = 0; c < channels_; ++c) {
      count_members(c, members);
      for (std::size_t n = 0; n < experts_; ++n) {
        if (r_.codes[n * channels_ + c] == 0 || members[group(n, c)] > 1) { continue; }
        fail(grouped_code::misplaced_code, "expert " + in_quotes(description_.experts[n].name) + " has a residual in channel " +
                                               std::to_string(c) + (group(n, c) == no_group ? ", which it lacks"
                                                                                             : ", where its row is its own"));
      }
    }
  }

  void check_sizes() {
    std::uint64_t const plane_room = r_.plane != nullptr ? r_.plane->bytes : 0;
    std::uint64_t const scale_room = r_.scale != nullptr ? r_.scale->bytes / sizeof(bfloat16) : 0;
    std::uint64_t planes = 0;  // neither can overflow: each stops where there is no room
    std::uint64_t scales = 0;
    for (std::uint8_t const c : r_.codes) {
      auto const code = static_cast<residual_code>(c);
      if (planes <= plane_room) { planes += static_cast<std::uint64_t>(residual_bytes(code, owner_.cols)); }
      if (scales <= scale_room) { scales += static_cast<std::uint64_t>(residual_scales(code)); }
    }
    check_part(grouped_code::residual_mismatch, r_.plane, residual_name(owner_.name), dtype::u8, planes, "bytes");
    check_part(grouped_code::scale_mismatch, r_.scale, scale_name(owner_.name), dtype::bf16, scales, "scales");
    if (r_.column != nullptr && (r_.column->type != dtype::bf16 || r_.column->shape != std::vector<index_t>{owner_.cols})) {
      fail(grouped_code::column_mismatch,
           in_quotes(r_.column->name) + " must be BF16 [" + std::to_string(owner_.cols) + "]: one scale an element of a row");
    }
  }

  void check_part(grouped_code code, tensor_meta const* part, std::string const& name, dtype type, std::uint64_t needed,
                  char const* what) const {
    if (part == nullptr) {
      if (needed != 0) { fail(code, "has residuals, but there is no " + in_quotes(name)); }
      return;
    }
    if (part->type != type || part->shape.size() != 1 || static_cast<std::uint64_t>(part->shape[0]) != needed) {
      fail(code, in_quotes(name) + " isn't the " + std::string(name_of(type)) + " [" + what + "] that the codes need");
    }
  }

  void check_scales() {
    if (r_.plane != nullptr) { r_.plane_bytes = files_.bytes(*r_.plane); }
    if (r_.scale != nullptr) {
      r_.scale_bytes = files_.bytes(*r_.scale);
      check_finite(*r_.scale, r_.scale_bytes);
    }
    if (r_.column != nullptr) {
      auto const bytes = files_.bytes(*r_.column);
      check_finite(*r_.column, bytes);
      r_.columns.resize(bytes.size() / sizeof(bfloat16));
      if (!bytes.empty()) { std::memcpy(r_.columns.data(), bytes.data(), bytes.size()); }
    }
  }

  void check_finite(tensor_meta const& t, std::span<std::byte const> bytes) const {
    for (std::size_t i = 0; i < bytes.size(); i += 2) {
      auto const high = std::to_integer<unsigned>(bytes[i + 1]);
      auto const low = std::to_integer<unsigned>(bytes[i]);
      if (((high << 8 | low) & 0x7F80u) == 0x7F80u) {
        fail(grouped_code::scale_value, in_quotes(t.name) + " isn't finite at [" + std::to_string(i / 2) + "]");
      }
    }
  }

  checkpoint const& files_;
  grouped_description const& description_;
  residual_owner const& owner_;
  std::size_t experts_;
  std::size_t channels_;
  residual_parts r_;
};

}  // namespace detail
BRAID_NAMESPACE_END

#pragma once

#include <braid/config.hpp>

#include <algorithm>
#include <string_view>

BRAID_NAMESPACE_BEGIN

/// Whether an expert may be called that: one or more letters, digits, '-' and '_'.
[[nodiscard]] constexpr bool is_expert_name(std::string_view name) noexcept {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  });
}

BRAID_NAMESPACE_END

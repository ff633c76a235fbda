#pragma once

#include <braid/config.hpp>

#include <cstddef>
#include <cstdint>

BRAID_NAMESPACE_BEGIN

/// Counts elements, rows and columns; signed, so that differences are safe.
using index_t = std::int64_t;

/// Where memory lives. Part of a view's type, so that host code can't be handed a device pointer by accident.
enum class memory_space : unsigned char { host, device };

/// Always false, but only once a template is instantiated: for `static_assert` sentences in primary templates.
template <class...>
inline constexpr bool always_false = false;

BRAID_NAMESPACE_END

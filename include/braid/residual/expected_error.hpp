#pragma once

#include <braid/residual/code.hpp>

BRAID_NAMESPACE_BEGIN

namespace detail {

/// Error left over squared error inside the group, for Gaussian deltas without structure: rows are residual_code, columns
/// groups of 2 to 10 members, each once, and the limit of many, which is the code alone. Measured with each policy's own
/// number of sweeps over 32 rows of 4096 columns, to about a per cent.
inline constexpr double gaussian_residual_error[residual_codes][10] = {
    {1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0},
    {0.1191, 0.2227, 0.2490, 0.2691, 0.2807, 0.2926, 0.2994, 0.3066, 0.3112, 0.3634},            // sign1
    {0.0153, 0.0532, 0.0616, 0.0678, 0.0727, 0.0765, 0.0799, 0.0829, 0.0853, 0.1175},            // sign2
    {0.00192, 0.01461, 0.01686, 0.01863, 0.02012, 0.02135, 0.02249, 0.02342, 0.02424, 0.03700},  // sign3
    {0.0307, 0.0966, 0.1097, 0.1194, 0.1275, 0.1336, 0.1387, 0.1430, 0.1467, 0.1902},            // ternary
    {0.0817, 0.1613, 0.1900, 0.2076, 0.2198, 0.2283, 0.2346, 0.2397, 0.2438, 0.2848},            // trellis1
    {0.0063, 0.0325, 0.0409, 0.0466, 0.0507, 0.0536, 0.0561, 0.0580, 0.0596, 0.0781}};           // trellis2

}  // namespace detail

/// The share of a group's squared error (of its members round their mean) that is left when they are coded jointly: what
/// a code is worth before it is tried. Of Gaussian deltas and the policies' own sweeps; columns of different sizes and
/// members that count more than once lose somewhat more or less. Beyond 10 members what the group saves against the code
/// alone falls as one over their number.
/// @param members distinct rows of the group; below 2 nothing is lost: 0
[[nodiscard]] constexpr double expected_residual_error(residual_code code, int members) noexcept {
  if (members < 2) { return 0.0; }
  auto const& measured = detail::gaussian_residual_error[static_cast<int>(code)];
  if (members <= 10) { return measured[members - 2]; }
  double const alone = measured[9];
  return alone - (alone - measured[8]) * 10.0 / members;
}

BRAID_NAMESPACE_END

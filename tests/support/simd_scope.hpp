#pragma once

#include <braid/backend/cpu/dispatch.hpp>

namespace braid_test {

inline constexpr braid::simd_level all_simd_levels[] = {braid::simd_level::portable, braid::simd_level::avx2,
                                                        braid::simd_level::avx512};

/// No wider instruction set than this until the end of the scope; where the machine lacks it, the widest that it has.
class simd_scope {
 public:
  explicit simd_scope(braid::simd_level level) { braid::limit_simd_level(level); }
  simd_scope(simd_scope const&) = delete;
  simd_scope& operator=(simd_scope const&) = delete;
  ~simd_scope() { braid::limit_simd_level(braid::simd_level::avx512); }
};

}  // namespace braid_test

#pragma once

#include <tbb/global_control.h>

namespace braid_test {

/// As many threads as a test asks for, however few cores there are; oneTBB would keep to the cores, and say so.
inline void allow_many_threads() {
  static tbb::global_control const allowed(tbb::global_control::max_allowed_parallelism, 8);
}

}  // namespace braid_test

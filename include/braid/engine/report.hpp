#pragma once

#include <braid/core/types.hpp>

#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// What a running merge tells from time to time, on the thread that places results.
struct progress {
  std::string_view tensor;        ///< the one at work
  std::size_t tensors_done = 0;
  std::size_t tensors = 0;
  std::uint64_t bytes_done = 0;   ///< of inputs
  std::uint64_t bytes = 0;
  double seconds = 0.0;           ///< since the start
};

using progress_callback = std::function<void(progress const&)>;

/// What a merge did.
struct report {
  struct tensor {
    std::string name;
    std::string action;            ///< "merge", "keep" or "base"
    index_t channels = 0;
    index_t stored_rows = 0;       ///< rows in the pool
    int groups = 0;                ///< most groups in a channel
    double similarity = std::numeric_limits<double>::quiet_NaN();  ///< mean cosine of members with their group's sum
    std::uint64_t residual_bytes = 0;  ///< planes, scales, codes and column scales
  };
  std::vector<tensor> tensors;
  std::uint64_t bytes_read = 0;    ///< of base and experts
  std::uint64_t stored_bytes = 0;  ///< all tensors of the merged checkpoint, index and residuals included
  std::uint64_t residual_bytes = 0;  ///< of these, what rows lack against the rows of their groups
  std::uint64_t expert_bytes = 0;  ///< all tensors of all experts
  double stored_fraction = 0.0;    ///< stored_bytes / expert_bytes
  double seconds = 0.0;
  std::vector<std::string> notes;  ///< what a careful reader wants to know: tied tensors, tensors of the base left out
};

BRAID_NAMESPACE_END

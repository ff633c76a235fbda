#pragma once

#include <braid/core/error.hpp>

#include <tbb/global_control.h>

#include <optional>
#include <string>

namespace program {

/// Lets oneTBB have so many threads, where a user asks for more than the machine has cores. 0: as many as cores.
/// @throws braid::argument_error  for a number that can't be meant
inline std::optional<tbb::global_control> allow_threads(int threads) {
  constexpr int most = 1024;
  if (threads < 0 || threads > most) {
    throw braid::argument_error("--threads " + std::to_string(threads) + ": choose 1 to " + std::to_string(most) +
                                ", or 0 for all cores");
  }
  if (threads == 0) { return std::nullopt; }
  return std::optional<tbb::global_control>(std::in_place, tbb::global_control::max_allowed_parallelism,
                                            static_cast<std::size_t>(threads));
}

}  // namespace program

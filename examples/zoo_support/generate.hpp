#pragma once

/// Greedy decoding of many prompts at once.

#include "llama.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace zoo {

/// Continues every prompt by the likeliest token (the lowest of several), until it has said `stop`.
/// @param prompts token numbers, at least one each
/// @param limits the most tokens to say, per prompt
/// @param experts who answers each prompt; empty: the first does
/// @return what was said, `stop` included where it was said in time
template <class Linear, class Embedding>
std::vector<std::vector<int>> generate(llama<Linear, Embedding> const& model,
                                       std::vector<std::vector<int>> const& prompts, std::vector<int> const& limits,
                                       int stop, std::span<std::size_t const> experts = {}) {
  std::vector<std::vector<int>> said(prompts.size());
  std::vector<sequence> sequences(prompts.size());
  std::vector<std::size_t> active;  // who is still talking: the others leave the batch
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    sequences[i].next = prompts[i];
    if (!experts.empty()) { sequences[i].expert = experts[i]; }
    if (limits[i] > 0) { active.push_back(i); }
  }
  std::vector<sequence*> batch;
  while (!active.empty()) {
    batch.clear();
    for (std::size_t const i : active) { batch.push_back(&sequences[i]); }
    matrix const logits = model.forward(batch);
    std::vector<std::size_t> talking;
    for (std::size_t column = 0; column < active.size(); ++column) {
      std::size_t const i = active[column];
      index token = 0;
      logits.col(static_cast<index>(column)).maxCoeff(&token);
      said[i].push_back(static_cast<int>(token));
      if (token == stop || said[i].size() >= static_cast<std::size_t>(limits[i])) {
        sequences[i] = {};
      } else {
        sequences[i].next.push_back(static_cast<int>(token));
        talking.push_back(i);
      }
    }
    active.swap(talking);
  }
  return said;
}

}  // namespace zoo

#pragma once

/// Exact-match accuracy of a model on a task, batch by batch on all cores.

#include "generate.hpp"
#include "prompts.hpp"

#include <tbb/blocked_range.h>
#include <tbb/parallel_reduce.h>

#include <algorithm>
#include <functional>
#include <map>
#include <vector>

namespace zoo {

/// How many tokens each prompt's answer may take: as many as the longest answer to prompts of its length, and the full
/// stop. It depends on the task alone, so that a model can't win by rambling on.
inline std::vector<int> answer_limits(tokenizer const& symbols, std::vector<prompt> const& prompts) {
  std::map<std::size_t, int> longest;
  std::vector<std::size_t> lengths;
  for (auto const& p : prompts) {
    lengths.push_back(symbols.encode(p.text).size());
    int& most = longest[lengths.back()];
    most = std::max(most, static_cast<int>(symbols.encode(p.answer).size()) + 1);
  }
  std::vector<int> limits;
  for (std::size_t const length : lengths) { limits.push_back(longest[length]); }
  return limits;
}

/// The share of prompts that the model answers, word for word, before its first full stop.
/// Deterministic: the batches are the same whatever the number of threads.
/// @param expert who answers, where the model has several
/// @param batch prompts per forward pass
/// @throws braid::argument_error for a character that is no symbol, or a symbol outside the model's vocabulary
template <class Linear, class Embedding>
double accuracy(llama<Linear, Embedding> const& model, tokenizer const& symbols, std::vector<prompt> const& prompts,
                std::size_t expert = 0, std::size_t batch = 64) {
  std::vector<int> const limits = answer_limits(symbols, prompts);
  int const stop = symbols.encode(".").front();
  auto const correct_between = [&](std::size_t begin, std::size_t end) {
    std::vector<std::vector<int>> asked;
    for (std::size_t i = begin; i < end; ++i) { asked.push_back(symbols.encode(prompts[i].text)); }
    std::vector<int> const most(limits.data() + begin, limits.data() + end);
    std::vector<std::size_t> const experts(asked.size(), expert);
    auto const said = generate(model, asked, most, stop, experts);
    std::size_t correct = 0;
    for (std::size_t i = begin; i < end; ++i) {
      if (symbols.decode(said[i - begin]) == prompts[i].answer + ".") { ++correct; }
    }
    return correct;
  };
  std::size_t const batches = (prompts.size() + batch - 1) / batch;
  using range = tbb::blocked_range<std::size_t>;
  std::size_t const correct = tbb::parallel_reduce(
      range(0, batches, 1), std::size_t{0},
      [&](range const& r, std::size_t sum) {
        for (std::size_t b = r.begin(); b != r.end(); ++b) {
          sum += correct_between(b * batch, std::min((b + 1) * batch, prompts.size()));
        }
        return sum;
      },
      std::plus<>());
  return static_cast<double>(correct) / static_cast<double>(prompts.size());
}

}  // namespace zoo

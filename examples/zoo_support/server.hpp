#pragma once

/// A merged checkpoint that answers: a router says which expert, the pool answers for it.

#include "generate.hpp"
#include "prompts.hpp"
#include "served.hpp"

#include <braid/serve/router.hpp>

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace zoo {

/// Who answers, and why.
struct choice {
  std::size_t expert = 0;             ///< in the order of the checkpoint's names
  std::string best{};                 ///< the router's most probable expert; empty where nobody asked it
  std::optional<double> confidence{}; ///< its probability
  bool unsure = false;                ///< below the threshold: the default expert answers
};

/// Answers of one batch.
struct replies {
  std::vector<std::string> text;    ///< the full stop included where it was said
  std::vector<std::size_t> tokens;  ///< said
  double seconds = 0.0;             ///< of the whole batch, prompts included
};

/// Const members may be called from one thread at a time; products use the threads that the constructor was given.
class server {
 public:
  /// @param router     null: `choose` wants a name
  /// @param max_tokens the most that an answer may have
  /// @throws braid's errors for checkpoints that can't be served, braid::argument_error where the router knows an expert
  ///         that the checkpoint lacks, or there is no symbol for `stop`
  server(braid::grouped_checkpoint merged, std::optional<braid::router<>> router, tokenizer symbols, int max_tokens,
         std::string const& stop, braid::cpu const& be)
      : merged_(std::move(merged)),
        router_(std::move(router)),
        symbols_(std::move(symbols)),
        max_tokens_(max_tokens),
        stop_(symbols_.encode(stop).front()),
        model_(served_model(merged_, be)) {
    if (!router_) { return; }
    for (auto const& name : router_->experts()) { routed_.push_back(merged_.expert_number(name)); }
  }
  server(server const&) = delete;
  server& operator=(server const&) = delete;

  [[nodiscard]] braid::grouped_checkpoint const& checkpoint() const noexcept { return merged_; }
  [[nodiscard]] std::vector<std::string> const& experts() const noexcept { return merged_.experts(); }

  /// @throws braid::argument_error where a prompt is empty or has a character that is no symbol
  void check(std::string const& text) const {
    if (text.empty()) { throw braid::argument_error("an empty prompt"); }
    (void)symbols_.encode(text);
  }

  /// @param name an expert; empty: the router says
  /// @throws braid::argument_error where there is no such expert, or neither name nor router
  [[nodiscard]] choice choose(std::string const& text, std::string const& name) const {
    if (!name.empty()) { return {merged_.expert_number(name)}; }
    if (!router_) { throw braid::argument_error("nobody says which expert: give --router or --expert"); }
    auto const to = router_->route(text);
    return {routed_[to.expert], router_->experts()[to.best], to.confidence, to.unsure};
  }

  /// Answers a batch, each prompt by its own expert.
  /// @throws braid::argument_error for a character that is no symbol, or a symbol outside the model's vocabulary
  [[nodiscard]] replies answer(std::span<std::string const> prompts, std::span<std::size_t const> experts) const {
    auto const start = std::chrono::steady_clock::now();
    std::vector<std::vector<int>> asked;
    for (auto const& p : prompts) { asked.push_back(symbols_.encode(p)); }
    auto const said = generate(model_, asked, std::vector<int>(asked.size(), max_tokens_), stop_, experts);
    replies r;
    for (auto const& tokens : said) {
      r.text.push_back(symbols_.decode(tokens));
      r.tokens.push_back(tokens.size());
    }
    r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return r;
  }

 private:
  braid::grouped_checkpoint merged_;
  std::optional<braid::router<>> router_;
  std::vector<std::size_t> routed_;  // the router's experts in the checkpoint
  tokenizer symbols_;
  int max_tokens_;
  int stop_;
  served_llama model_;
};

}  // namespace zoo

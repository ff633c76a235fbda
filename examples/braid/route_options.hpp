#pragma once

#include "arguments.hpp"

#include <string>

namespace CLI {
class App;
}

namespace program {

/// `braid route train|eval|predict`: their options, and which of them was asked for.
class route_options {
 public:
  explicit route_options(CLI::App& program);
  route_options(route_options const&) = delete;
  route_options& operator=(route_options const&) = delete;

  [[nodiscard]] bool chosen() const;
  [[nodiscard]] int run() const;

  /// The name of a command for "see braid NAME --help": with its second word, if that was given.
  [[nodiscard]] std::string name(std::string const& command) const;

 private:
  CLI::App* route_;
  route_train_arguments train_;
  route_arguments eval_;
  route_arguments predict_;
};

}  // namespace program

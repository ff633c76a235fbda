#pragma once

#include <braid/config.hpp>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

BRAID_NAMESPACE_BEGIN

/// Base of all exceptions that braid throws. `what()` is one line: what is wrong, where, and what to do.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An option, name or combination of arguments that can't be meant ("--groups 0").
class argument_error : public error {
 public:
  using error::error;
};

/// Tensors whose shapes or dtypes don't fit together.
class shape_error : public error {
 public:
  using error::error;
};

/// NaN or infinity where finite numbers are needed.
class value_error : public error {
 public:
  using error::error;
};

/// The operating system refused: a missing file, no permission, a full disk.
class io_error : public error {
 public:
  using error::error;
};

/// The accelerator or thread runtime failed.
class backend_error : public error {
 public:
  using error::error;
};

/// A file that isn't what it claims to be. `code()` is stable across versions and is shown in the message.
class format_error : public error {
 public:
  format_error(int code, std::string_view where, std::string_view what)
      : error(compose(code, where, what)), code_(code) {}
  [[nodiscard]] int code() const noexcept { return code_; }

 private:
  static std::string compose(int code, std::string_view where, std::string_view what) {
    std::string s(where);
    s += ": ";
    s += what;
    s += " [format error ";
    s += std::to_string(code);
    s += "]";
    return s;
  }
  int code_;
};

BRAID_NAMESPACE_END

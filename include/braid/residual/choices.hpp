#pragma once

/// The codes among which a residual policy leaves a choice for each channel.

#include <braid/residual/code.hpp>

#include <array>
#include <cstddef>

BRAID_NAMESPACE_BEGIN

/// A few residual codes, in rising order.
class residual_code_list {
 public:
  constexpr residual_code_list() = default;
  constexpr residual_code_list(std::initializer_list<residual_code> codes) {
    for (residual_code const c : codes) { add(c); }
  }
  constexpr void add(residual_code code) {
    if (contains(code)) { return; }
    std::size_t at = count_++;
    for (; at > 0 && codes_[at - 1] > code; --at) { codes_[at] = codes_[at - 1]; }
    codes_[at] = code;
  }
  [[nodiscard]] constexpr bool contains(residual_code code) const noexcept {
    for (residual_code const c : *this) {
      if (c == code) { return true; }
    }
    return false;
  }
  [[nodiscard]] constexpr residual_code const* begin() const noexcept { return codes_.data(); }
  [[nodiscard]] constexpr residual_code const* end() const noexcept { return codes_.data() + count_; }
  [[nodiscard]] constexpr std::size_t size() const noexcept { return count_; }

 private:
  std::array<residual_code, residual_codes> codes_{};
  std::size_t count_ = 0;
};

/// `none`, and what the policy may code with.
template <class Residual>
[[nodiscard]] residual_code_list codes_of(Residual const& residual) {
  residual_code_list codes{residual_code::none};
  if constexpr (requires { residual.codes(); }) {
    for (residual_code const c : residual.codes()) { codes.add(c); }
  } else {
    codes.add(residual.code);
  }
  return codes;
}

/// Whether the policy may leave residuals at all.
template <class Residual>
[[nodiscard]] bool codes_anything(Residual const& residual) {
  return codes_of(residual).size() > 1;
}

/// Calls `f(policy)` with the policy that encodes `code`, which is one of `codes_of(residual)` and not `none`.
template <class Residual, class F>
void with_code(Residual const& residual, residual_code code, F const& f) {
  if constexpr (requires { residual.with(code, f); }) {
    residual.with(code, f);
  } else {
    f(residual);
  }
}

BRAID_NAMESPACE_END

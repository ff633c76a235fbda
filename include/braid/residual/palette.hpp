#pragma once

#include <braid/residual/choices.hpp>
#include <braid/residual/sign_bits.hpp>
#include <braid/residual/ternary.hpp>
#include <braid/residual/trellis.hpp>

BRAID_NAMESPACE_BEGIN
namespace residual {

/// Several codes, of which a storage budget chooses one for each channel. Without a budget there is nobody to choose.
struct palette {
  static constexpr std::string_view name = "palette";
  static constexpr residual_code code = residual_code::none;
  static constexpr int sweeps = 0;
  bool rank_one = false;

  /// The codes that may be chosen beside none. The trellis codes are the best for their bits, and slow to find.
  residual_code_list allowed{residual_code::sign1, residual_code::ternary, residual_code::sign2, residual_code::sign3};
  sign_bits<1> sign1{};
  sign_bits<2> sign2{};
  sign_bits<3> sign3{};
  struct ternary ternary{};
  trellis<1> trellis1{};
  trellis<2> trellis2{};

  [[nodiscard]] residual_code_list const& codes() const noexcept { return allowed; }

  /// Into the description of a merge.
  template <class Json>
  void describe(Json& j) const {
    j["codes"] = Json::array();
    for (residual_code const c : allowed) { j["codes"].push_back(std::string(name_of(c))); }
  }

  /// Calls `f` with the policy of a code.
  template <class F>
  void with(residual_code chosen, F const& f) const {
    switch (chosen) {
      case residual_code::none: return;
      case residual_code::sign1: f(sign1); return;
      case residual_code::sign2: f(sign2); return;
      case residual_code::sign3: f(sign3); return;
      case residual_code::ternary: f(ternary); return;
      case residual_code::trellis1: f(trellis1); return;
      case residual_code::trellis2: f(trellis2); return;
    }
  }

  void encode(float const*, float const*, index_t, std::byte*, bfloat16*, residual_workspace&) const noexcept {}
};
static_assert(residual_policy<palette>);

}  // namespace residual
BRAID_NAMESPACE_END

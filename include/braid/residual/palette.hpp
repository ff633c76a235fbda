#pragma once

#include <braid/residual/choices.hpp>
#include <braid/residual/sign_bits.hpp>
#include <braid/residual/ternary.hpp>
#include <braid/residual/trellis.hpp>

#include <string>
#include <utility>

BRAID_NAMESPACE_BEGIN
namespace residual {

/// All of braid's codes, and which of them are used: one for all channels, or several, of which a storage budget chooses
/// one for each channel.
struct palette {
  static constexpr std::string_view name = "palette";
  static constexpr int sweeps = 0;

  residual_code code = residual_code::none;  ///< of all channels; none: a budget chooses
  /// What a budget may choose, if `code` is none. The trellis codes lose the least for their bits, and are slow to find.
  residual_code_list allowed{residual_code::sign1, residual_code::ternary, residual_code::sign2, residual_code::sign3};
  bool rank_one = false;
  sign_bits<1> sign1{};
  sign_bits<2> sign2{};
  sign_bits<3> sign3{};
  struct ternary ternary{};
  trellis<1> trellis1{};
  trellis<2> trellis2{};

  [[nodiscard]] residual_code_list codes() const noexcept {
    return code == residual_code::none ? allowed : residual_code_list{code};
  }

  void validate() const {
    for (residual_code const c : codes()) {
      with(c, [](auto const& policy) { validate_policy(policy); });
    }
  }

  /// The same number of sweeps for every code.
  void set_sweeps(int n) noexcept {
    sign1.sweeps = sign2.sweeps = sign3.sweeps = ternary.sweeps = trellis1.sweeps = trellis2.sweeps = n;
  }

  /// Into the description of a merge.
  template <class Json>
  void describe(Json& j) const {
    if (code != residual_code::none) { j["name"] = std::string(name_of(code)); }
    auto codes_used = Json::array();
    int most = 0;
    for (residual_code const c : codes()) {
      codes_used.push_back(std::string(name_of(c)));
      with(c, [&](auto const& policy) { most = policy.sweeps > most ? policy.sweeps : most; });
    }
    if (code == residual_code::none) { j["codes"] = std::move(codes_used); }
    j["sweeps"] = most;
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

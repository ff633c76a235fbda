#pragma once

#include <braid/residual/none.hpp>
#include <braid/residual/sign_bits.hpp>
#include <braid/residual/ternary.hpp>
#include <braid/residual/trellis.hpp>

#include <variant>

BRAID_NAMESPACE_BEGIN
namespace residual {

/// One of braid's residuals, chosen at run time. Costs a branch a row.
struct any {
  std::variant<none, sign_bits<1>, sign_bits<2>, sign_bits<3>, ternary, trellis<1>, trellis<2>> choice{};
  std::string_view name = none::name;
  residual_code code = none::code;
  int sweeps = none::sweeps;
  bool rank_one = none::rank_one;

  any() = default;
  template <class R>
    requires(std::constructible_from<decltype(choice), R> && !std::same_as<R, any>)
  any(R r) noexcept : choice(r), name(r.name), code(r.code), sweeps(r.sweeps), rank_one(r.rank_one) {}

  void validate() const {
    std::visit([](auto const& r) { validate_policy(r); }, choice);
  }

  void encode(float const* x, float const* weight, index_t cols, std::byte* plane, bfloat16* scale,
              residual_workspace& work) const {
    std::visit([&](auto const& r) { r.encode(x, weight, cols, plane, scale, work); }, choice);
  }
};
static_assert(residual_policy<any>);

}  // namespace residual
BRAID_NAMESPACE_END

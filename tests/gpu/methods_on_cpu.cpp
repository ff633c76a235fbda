// No tests: the typed methods of gpu/methods.hpp on the CPU.

#include "gpu/methods.hpp"

namespace braid_test {

std::vector<std::byte> typed_on_cpu(int which, family const& f) {
  return with_typed_method<braid::cpu>(which, [&](auto const& m, bool based) {
    auto const run = [&]<class T>(T) {
      auto const view = [](matrix const& w) { return braid::tensor_view<T const>(reinterpret_cast<T const*>(w.memory.data()), w.rows, w.cols, w.stride); };
      std::vector<braid::expert_view<T>> models;
      for (auto const& e : f.experts) { models.push_back({e.name, view(e.weight)}); }
      std::vector<T> const merged =
          based ? m.template merge<T>(braid::cpu{2}, f.tensor, view(f.base), models) : m.template merge<T>(braid::cpu{2}, f.tensor, models);
      auto const* const bytes = reinterpret_cast<std::byte const*>(merged.data());
      return std::vector<std::byte>(bytes, bytes + merged.size() * sizeof(T));
    };
    switch (f.base.type) {
      case dtype::bf16: return run(braid::bfloat16{});
      case dtype::f16: return run(braid::float16{});
      default: return run(0.0f);
    }
  });
}

}  // namespace braid_test

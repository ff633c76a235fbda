// A backend of the user's own that has no single-model methods.
// expect: braid: this backend has no single-model methods; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, <braid/cuda.cuh> for braid::cuda

#include <braid/braid.hpp>

struct serial {
  static constexpr braid::memory_space space = braid::memory_space::host;
  template <class T>
  using buffer = std::vector<T>;
  template <class T>
  buffer<T> make_buffer(std::size_t n) const {
    return buffer<T>(n);
  }
  template <class F>
  void for_each(braid::index_t count, F const& f) const {
    for (braid::index_t i = 0; i < count; ++i) { f(i); }
  }
  void synchronize() const {}
  std::string_view name() const { return "serial"; }
};
static_assert(braid::backend<serial>);

int main() { return static_cast<int>(braid::linear<serial>{}.info().parameters.size()); }

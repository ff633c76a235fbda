// A backend of the user's own that can't merge yet.
// expect: braid: this backend has no channel_merge; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, <braid/cuda.cuh> for braid::cuda

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

using merge = braid::channel_merge<serial, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                   braid::consensus::mean>;

int main() {
  float const weight[2] = {1.0f, 2.0f};
  braid::tensor_view<float const> const view(weight, 1, 2);
  std::vector<braid::expert_view<float>> const experts{{"a", view}, {"b", view}};
  return static_cast<int>(merge{}(serial{}, "layer.weight", view, experts).pool_rows());
}

// What a project that uses braid might write first: looks at a checkpoint.

#include <braid/braid.hpp>

#include <cstdio>
#include <exception>

char const* version_in_second_file();
float rounded_in_second_file(float x);

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fprintf(stderr, "usage: consumer CHECKPOINT\n");
    return 2;
  }
  braid::checkpoint const base{argv[1]};
  braid::index_t elements = 0;
  for (braid::tensor_meta const& tensor : base.tensors()) elements += tensor.elements();

  float const here = static_cast<float>(braid::bfloat16(0.3f));
  if (elements <= 0 || here != rounded_in_second_file(0.3f)) {
    std::fprintf(stderr, "consumer: wrong results\n");
    return 1;
  }
  std::printf("braid %s read %zu tensors, %lld elements, from %s\n", version_in_second_file(), base.tensors().size(),
              static_cast<long long>(elements), base.name().c_str());
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "consumer: %s\n", e.what());
  return 1;
}

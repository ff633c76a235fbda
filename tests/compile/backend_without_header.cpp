// The type is changed, the header is not.
// expect: braid: this backend is only named; include <braid/braid.hpp> for braid::cpu, or, in a .cu file, <braid/cuda.cuh> for braid::cuda

#include <braid/braid.hpp>

using merge = braid::channel_merge<braid::cuda, braid::prune::dare, braid::similarity::cosine, braid::cluster::exact,
                                   braid::consensus::mean>;

int main() { merge m{{.groups = 2}}; }

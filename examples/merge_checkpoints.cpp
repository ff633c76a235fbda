/// Merges four experts of one base into two rows a channel, and takes one of them out again.
///
///   cd examples && ../build/default/bin/merge_checkpoints        (reads zoo/, writes merged/ and sort-again/)

// example-begin merge-checkpoints
#include <braid/braid.hpp>

using exec = braid::cpu;
using merge = braid::channel_merge<exec, braid::prune::dare, braid::similarity::cosine, braid::cluster::exact,
                                   braid::consensus::mean>;

int main() {
  braid::checkpoint base{"zoo/base"};
  std::vector<braid::checkpoint> experts{{"zoo/add"}, {"zoo/sort"}, {"zoo/cipher"}, {"zoo/facts"}};
  merge m{{.prune = {.density = 0.7, .seed = 42}, .groups = 2}};
  braid::report r = braid::run(m, base, experts, "merged");  // a Hugging Face directory: config, tokenizer, weights
  braid::grouped_checkpoint g{"merged"};
  g.extract("sort", "sort-again");                           // a plain one again
  return r.stored_fraction < 0.52 ? 0 : 1;
}
// example-end

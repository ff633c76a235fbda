/// Writes Llama-shaped checkpoints with random bf16 weights, a base and experts near it, for measuring speed and memory:
///
///   make_synthetic DIR EXPERTS LAYERS [HIDDEN [FFN]]     4 experts of 2 GB: make_synthetic /tmp/llama 4 9
///
/// DIR/base, DIR/expert0, ... Every number comes from a counter, so the same arguments give the same files.

#include <braid/core/philox.hpp>
#include <braid/io/checkpoint_writer.hpp>

#include <tbb/parallel_for.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

namespace {

using braid::bfloat16;
using braid::index_t;

struct shape {
  index_t layers;
  index_t hidden;
  index_t ffn;
};

std::vector<braid::tensor_plan> llama(shape const& s) {
  constexpr index_t vocabulary = 32000;
  std::vector<braid::tensor_plan> t;
  auto const add = [&](std::string name, std::vector<index_t> dims) { t.push_back({std::move(name), braid::dtype::bf16, std::move(dims)}); };
  add("lm_head.weight", {vocabulary, s.hidden});
  add("model.embed_tokens.weight", {vocabulary, s.hidden});
  for (index_t l = 0; l < s.layers; ++l) {
    std::string const p = "model.layers." + std::to_string(l) + ".";
    add(p + "input_layernorm.weight", {s.hidden});
    add(p + "mlp.down_proj.weight", {s.hidden, s.ffn});
    add(p + "mlp.gate_proj.weight", {s.ffn, s.hidden});
    add(p + "mlp.up_proj.weight", {s.ffn, s.hidden});
    add(p + "post_attention_layernorm.weight", {s.hidden});
    add(p + "self_attn.k_proj.weight", {s.hidden / 4, s.hidden});
    add(p + "self_attn.o_proj.weight", {s.hidden, s.hidden});
    add(p + "self_attn.q_proj.weight", {s.hidden, s.hidden});
    add(p + "self_attn.v_proj.weight", {s.hidden / 4, s.hidden});
  }
  add("model.norm.weight", {s.hidden});
  return t;
}

/// Weights of a few hundredths; an expert's differ from the base's by about a hundredth of that.
void fill(std::vector<bfloat16>& out, std::uint64_t tensor, index_t first, int expert) {
  auto const unit = [](std::uint32_t w) { return static_cast<float>(w) * 0x1p-32f - 0.5f; };
  tbb::parallel_for(std::size_t{0}, out.size() / 4 + 1, [&](std::size_t b) {
    auto const block = static_cast<std::uint64_t>(first) / 4 + b;
    auto const base = braid::philox4x32(0, block, tensor);
    auto const delta = braid::philox4x32(static_cast<std::uint64_t>(expert + 1), block, tensor);
    for (std::size_t w = 0; w < 4 && 4 * b + w < out.size(); ++w) {
      float const d = expert < 0 ? 0.0f : 0.0006f * unit(delta.word[w]);
      out[4 * b + w] = bfloat16(static_cast<float>(bfloat16(0.06f * unit(base.word[w]))) + d);
    }
  });
}

void write(std::filesystem::path const& dir, shape const& s, int expert) {
  auto const plans = llama(s);
  braid::checkpoint_writer out(dir, plans, 64, {.overwrite = true});
  std::vector<bfloat16> chunk;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    std::size_t const slot = out.begin(plans[i].name);
    index_t elements = 1;
    for (index_t const d : plans[i].shape) { elements *= d; }
    constexpr index_t step = index_t{1} << 24;
    for (index_t first = 0; first < elements; first += step) {
      chunk.resize(static_cast<std::size_t>(std::min(step, elements - first)));
      fill(chunk, i, first, expert);
      out.write(slot, static_cast<std::uint64_t>(first) * sizeof(bfloat16), std::as_bytes(std::span(chunk)));
    }
  }
  out.add_file("config.json", "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":" +
                                  std::to_string(s.hidden) + ",\"intermediate_size\":" + std::to_string(s.ffn) +
                                  ",\"num_hidden_layers\":" + std::to_string(s.layers) +
                                  ",\"num_attention_heads\":32,\"num_key_value_heads\":8,\"vocab_size\":32000,"
                                  "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\"}\n");
  out.commit({});
  std::printf("%s: %.2f GB\n", dir.c_str(), static_cast<double>(out.bytes_written()) * 1e-9);
}

}  // namespace

int main(int argc, char** argv) {
  auto const number = [&](int i, long otherwise) { return argc > i ? std::strtol(argv[i], nullptr, 10) : otherwise; };
  long const experts = number(2, 0);
  shape const s{number(3, 0), number(4, 2048), number(5, 7168)};
  if (argc < 4 || experts < 1 || s.layers < 1 || s.hidden < 4 || s.ffn < 1) {
    std::fprintf(stderr, "usage: make_synthetic DIR EXPERTS LAYERS [HIDDEN [FFN]]\n");
    return 2;
  }
  try {
    std::filesystem::path const dir = argv[1];
    write(dir / "base", s, -1);
    for (int e = 0; e < experts; ++e) { write(dir / ("expert" + std::to_string(e)), s, e); }
  } catch (std::exception const& error) {
    std::fprintf(stderr, "make_synthetic: %s\n", error.what());
    return 1;
  }
  return 0;
}

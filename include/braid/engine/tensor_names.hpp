#pragma once

/// What a tensor's name says about it: a table of patterns for the model families found on the Hugging Face Hub.
/// A family with other names needs a row here, or a rule of the user's; until then its tensors are kept, which is
/// larger but never wrong.

#include <braid/core/glob.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

BRAID_NAMESPACE_BEGIN

/// What a tensor is for. `attention` and `mlp` are merged by default, everything else is kept.
enum class tensor_role : unsigned char {
  bias,
  norm,
  token_embedding,
  other_embedding,  // of positions, segments, layers
  output_head,      // hidden states to a vocabulary; often tied to a token embedding
  other_head,       // classifiers, scores, and the layers before an output head
  router,           // which experts of a mixture see a token
  recurrence,       // state-space and short-convolution parameters, rotary frequencies
  attention,
  mlp,
  other
};

/// One row of the table.
struct name_rule {
  tensor_role role;
  std::string_view pattern;   // a glob
  std::string_view examples;  // families or modules that it is there for
};

/// The table, in order: the first pattern that matches decides. What is kept comes before what is merged.
inline constexpr auto name_rules = std::to_array<name_rule>({
    // Kept. Biases, and small parameters called so: e_score_correction_bias, dt_bias, gate_up_proj_bias.
    {tensor_role::bias, "*bias", "nearly all; GPT-2's attn.bias and attn.masked_bias buffers"},
    {tensor_role::bias, "*bias.weight", "T5 relative_attention_bias"},

    {tensor_role::norm, "*[nN]orm{,[0-9],_[0-9a-z],_pre,_post,_before,_after}.weight",
     "input_layernorm, LayerNorm, norm_f, q_norm and k_norm (also [heads, d]), layernorm_pre"},
    {tensor_role::norm, "*[nN]orm", "stored without a .weight"},
    {tensor_role::norm, "*norms.*.weight", "StableLM q_layernorm.norms.N"},
    {tensor_role::norm, "{,*.}ln{,[0-9],_*}.weight", "GPT-2 ln_1, ln_f; RWKV ln1; CLIP ln_pre; Falcon ln_attn"},

    {tensor_role::token_embedding, "*embed_tokens.weight", "Llama, Mistral, Qwen, Gemma, Phi-3, OPT, BART, T5"},
    {tensor_role::token_embedding, "{,*.}wte.weight", "GPT-2, Qwen 1, MPT, old Phi, OLMo"},
    {tensor_role::token_embedding, "*tok_embeddings.weight", "InternLM2, ModernBERT"},
    {tensor_role::token_embedding, "*embed_in.weight", "GPT-NeoX"},
    {tensor_role::token_embedding, "*word_embedding{,s}.weight", "BERT, BLOOM, Falcon, ChatGLM, XLNet"},
    {tensor_role::token_embedding, "{,*.}shared.weight", "T5, BART"},
    {tensor_role::token_embedding, "*token_embedding{,s}.weight", "CLIP, OpenELM"},
    {tensor_role::token_embedding, "{,*.}{embedding,embeddings,emb}.weight", "Mamba, RWKV"},

    {tensor_role::other_embedding, "{,*.}wpe.weight", "GPT-2 positions"},
    {tensor_role::other_embedding, "*embed_positions.weight", "OPT, BART, Whisper positions"},
    {tensor_role::other_embedding, "*position_embedding{,s}{,.weight}", "BERT, CLIP, ViT positions"},
    {tensor_role::other_embedding, "*pos_embed{,.weight}", "vision towers"},
    {tensor_role::other_embedding, "*token_type_embeddings.weight", "BERT segments"},
    {tensor_role::other_embedding, "*rel_embeddings.weight", "DeBERTa relative positions"},
    {tensor_role::other_embedding, "*embed_tokens_per_layer.weight", "Gemma 3n"},

    // Routers before heads: a router may hold a `classifier`.
    {tensor_role::router, "*.gate.weight", "mlp.gate, block_sparse_moe.gate: Mixtral, Qwen, DeepSeek, GLM"},
    {tensor_role::router, "*.gate.wg.weight", "Hunyuan"},
    {tensor_role::router, "*router{,.*}", "Llama 4, gpt-oss, Granite, DBRX, Switch, JetMoE"},
    {tensor_role::router, "*expert_gate.weight", "Qwen shared_expert_gate"},

    {tensor_role::output_head, "*lm_head{,.decoder,.linear}.weight", "nearly all decoders; RoBERTa, Phi"},
    {tensor_role::output_head, "{,*.}embed_out.weight", "GPT-NeoX"},
    {tensor_role::output_head, "{,model.,language_model.}output.weight", "InternLM2, InternVL"},
    {tensor_role::output_head, "{,*.}transformer.{output_layer,ff_out}.weight", "ChatGLM, OLMo"},
    {tensor_role::output_head, "{,*.}head.weight", "RWKV; DeepSeek shared_head.head"},
    {tensor_role::output_head, "*predictions.decoder.weight", "BERT, ALBERT"},
    {tensor_role::output_head, "{vocab_projector,lm_loss,proj_out,pred_layer.proj}.weight",
     "DistilBERT, XLNet, Whisper, XLM"},

    {tensor_role::other_head, "{,*.}lm_head.*", "RoBERTa lm_head.dense"},
    {tensor_role::other_head, "{,*.}cls.*", "BERT"},
    {tensor_role::other_head, "*predictions.*", "ALBERT, ELECTRA"},
    {tensor_role::other_head, "vocab_transform.weight", "DistilBERT"},
    {tensor_role::other_head, "{,*.}{score,qa_outputs,summary}.weight", "task heads"},
    {tensor_role::other_head, "*classifier.{,*.}weight", "classifier, pre_classifier"},
    {tensor_role::other_head, "{,*.}{classification,value,v,reward}_head.*", "BART, reward models"},

    {tensor_role::recurrence, "*A_log", "Mamba, gated delta nets"},
    {tensor_role::recurrence, "*.D", "Mamba"},
    {tensor_role::recurrence, "*conv1d.weight", "Mamba, gated delta nets"},
    {tensor_role::recurrence, "*.{dt,x}_proj.weight", "Mamba"},
    {tensor_role::recurrence, "*inv_freq", "rotary embeddings"},

    // Merged: attention.
    {tensor_role::attention, "*.{q,k,v,o,kv,qkv}_proj.weight", "Llama, Mistral, Qwen, Gemma, OPT, GPT-J, Phi-3"},
    {tensor_role::attention, "*{attn,attention}.out_proj.weight", "OPT, BART, GPT-J, GPT-Neo, MPT, linear_attn"},
    {tensor_role::attention, "*.{q_a,q_b,kv_a,kv_b}_proj{,_with_mqa}.weight", "DeepSeek latent attention"},
    {tensor_role::attention, "*attn.{c_attn,q_attn,c_proj}.weight", "GPT-2, GPT-BigCode, Qwen 1"},
    {tensor_role::attention, "*.query_key_value.weight", "GPT-NeoX, Falcon, BLOOM, ChatGLM"},
    {tensor_role::attention, "*{attn,attention}.dense.weight", "GPT-NeoX, Falcon, BLOOM, Phi, ALBERT"},
    {tensor_role::attention, "*.{Wqkv,W_pack}.weight", "MPT, DBRX, ModernBERT, Baichuan"},
    {tensor_role::attention, "*attention.w{qkv,q,k,v,o}.weight", "InternLM2, original Llama"},
    {tensor_role::attention, "*attn.{qkv,proj,Wo}.weight", "vision towers, ModernBERT"},
    {tensor_role::attention, "*.{att_proj,attn_out}.weight", "OLMo"},
    {tensor_role::attention, "*attention.{,self.,attention.}{query,key,value}{,_proj}.weight",
     "BERT, ALBERT, ViT, DeBERTa; crossattention"},
    {tensor_role::attention, "*attention.output.dense.weight", "BERT, ViT"},
    {tensor_role::attention, "*attention{,s.*}.{q,k,v,out}_lin.weight", "DistilBERT, XLM"},
    {tensor_role::attention, "*{Self,EncDec}Attention.{q,k,v,o}.weight", "T5"},
    {tensor_role::attention, "*linear_attn.in_proj*.weight", "Qwen3-Next"},
    {tensor_role::attention, "*.{att,attention}.{receptance,key,value,output}.weight", "RWKV"},

    // Merged: MLP, and the experts of mixtures, one matrix each or stacked to [experts, out, in].
    {tensor_role::mlp, "*.{gate,up,down,gate_up}_proj.weight", "Llama, Qwen, DeepSeek; experts.N, shared_expert(s)"},
    {tensor_role::mlp, "*.experts.{gate,up,down,gate_up}_proj", "gpt-oss, Llama 4, stacked Mixtral and Qwen"},
    {tensor_role::mlp, "*.w{1,2,3}.weight", "block_sparse_moe.experts.N (Mixtral), feed_forward (InternLM2), Qwen 1"},
    {tensor_role::mlp, "*.experts.{,mlp.}{w1,w2,w3,v1}", "DBRX, stacked experts"},
    {tensor_role::mlp, "*.{input,output}_linear.weight", "Granite MoE, JetMoE"},
    {tensor_role::mlp, "*.experts.*.linear{,_1,_v}.weight", "Grok 1"},
    {tensor_role::mlp, "*.{c_fc,c_fc2,c_fc_0,c_fc_1}.weight", "GPT-2, GPT-Neo, StarCoder 2, EXAONE, Jais"},
    {tensor_role::mlp, "*.{mlp,ffn}.c_proj.weight", "GPT-2, StarCoder 2, EXAONE, Qwen 1"},
    {tensor_role::mlp, "*.dense_{h_to_4h,4h_to_h}.weight", "GPT-NeoX, Falcon, BLOOM, ChatGLM"},
    {tensor_role::mlp, "*.fc{1,2,11,12,_in,_out}.weight", "OPT, Phi, BART, CLIP, GPT-J, CodeGen, Nomic"},
    {tensor_role::mlp, "*.{intermediate,output}.dense.weight", "BERT, ViT"},
    {tensor_role::mlp, "*.ffn{,s.*}.lin{1,2}.weight", "DistilBERT, XLM"},
    {tensor_role::mlp, "*.{ffn,ffn_output}.weight", "ALBERT"},
    {tensor_role::mlp, "*.DenseReluDense.{wi,wi_0,wi_1,wo}.weight", "T5"},
    {tensor_role::mlp, "*.expert_*.{wi,wi_0,wi_1,wo}.weight", "Switch"},
    {tensor_role::mlp, "*.mlp.W{i,o}.weight", "ModernBERT"},
    {tensor_role::mlp, "*.{ff_proj,ff_out}.weight", "OLMo"},
    {tensor_role::mlp, "*.ffn.proj_{1,2}.weight", "OpenELM"},
    {tensor_role::mlp, "*.{ffn,feed_forward}.{receptance,key,value}.weight", "RWKV"},
});

namespace detail {
inline std::vector<glob> const& compiled_name_rules() {
  static std::vector<glob> const compiled = [] {
    std::vector<glob> globs;
    globs.reserve(name_rules.size());
    for (name_rule const& r : name_rules) { globs.emplace_back(r.pattern); }
    return globs;
  }();
  return compiled;
}

/// Dotted components that two names have in common at their beginning.
inline std::size_t common_modules(std::string_view a, std::string_view b) noexcept {
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size() && a[i] == b[i]; ++i) {
    if (a[i] == '.') { ++count; }
  }
  return count;
}
}  // namespace detail

/// The row of `name_rules` that speaks about a name, -1 where none does.
inline int name_rule_of(std::string_view name) {
  auto const& globs = detail::compiled_name_rules();
  auto const found = std::find_if(globs.begin(), globs.end(), [&](glob const& g) { return g.matches(name); });
  return found == globs.end() ? -1 : static_cast<int>(found - globs.begin());
}

/// What a tensor of that name is for.
inline tensor_role role_of(std::string_view name) {
  int const rule = name_rule_of(name);
  return rule < 0 ? tensor_role::other : name_rules[static_cast<std::size_t>(rule)].role;
}

/// Whether the name is that of an embedding's or a head's matrix: fine-tuned models may give these different numbers
/// of rows (tokens, positions, labels). Their biases aren't included: those have one row, of another length.
inline bool is_vocabulary(std::string_view name) {
  tensor_role const role = role_of(name);
  return role == tensor_role::token_embedding || role == tensor_role::other_embedding ||
         role == tensor_role::output_head || role == tensor_role::other_head;
}

/// The tensors that a missing one may be tied to, best guess first: writers store one of several names for the same
/// memory (`lm_head.weight` and `model.embed_tokens.weight`). An output head may be a token embedding; a token
/// embedding another one, or an output head; `x.decoder.bias` may be `x.bias`, and the other way round. Guesses with
/// more leading modules in common come first, then embeddings before heads, then in order of `names`.
/// The caller compares shapes.
/// @param name   of the tensor that isn't stored
/// @param names  of all tensors that are
/// @return views of elements of `names`, empty where tensors of that name are never tied
inline std::vector<std::string_view> tie_candidates(std::string_view name, std::span<std::string_view const> names) {
  std::vector<std::string_view> found;
  constexpr std::string_view inner = ".decoder.bias";
  constexpr std::string_view outer = ".bias";
  if (name.ends_with(outer)) {
    std::string other(name);
    if (name.ends_with(inner)) {
      other.replace(name.size() - inner.size(), inner.size(), outer);
    } else {
      other.replace(name.size() - outer.size(), outer.size(), inner);
    }
    auto const at = std::find(names.begin(), names.end(), other);
    if (at != names.end()) { found.push_back(*at); }
    return found;
  }
  tensor_role const role = role_of(name);
  if (role != tensor_role::output_head && role != tensor_role::token_embedding) { return found; }
  auto const collect = [&](tensor_role wanted) {
    for (std::string_view const n : names) {
      if (n != name && role_of(n) == wanted) { found.push_back(n); }
    }
  };
  collect(tensor_role::token_embedding);
  if (role == tensor_role::token_embedding) { collect(tensor_role::output_head); }
  std::stable_sort(found.begin(), found.end(), [&](std::string_view a, std::string_view b) {
    return detail::common_modules(name, a) > detail::common_modules(name, b);
  });
  return found;
}

BRAID_NAMESPACE_END

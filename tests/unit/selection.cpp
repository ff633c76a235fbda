#include "support/catch.hpp"

#include <braid/engine/selection.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace {
using braid::action;
using braid::decision;
using braid::dtype;
using braid::index_t;
using braid::selection;

std::vector<index_t> const matrix{64, 32};
std::vector<index_t> const stack{8, 64, 32};
std::vector<index_t> const vector{64};
std::vector<index_t> const scalar{};

action default_action(std::string_view name, std::vector<index_t> const& shape = matrix) {
  return selection().decide(name, shape, dtype::bf16).what;
}

template <class F>
std::string complaint(F const& f) {
  try {
    f();
    return {};
  } catch (braid::argument_error const& e) { return e.what(); }
}
}  // namespace

TEST_CASE("weights of attention and MLP are merged in every family", "[selection]") {
  std::string_view const names[] = {
      // Llama, Mistral, Qwen 2 and 3, Gemma, Yi, Cohere
      "model.layers.0.self_attn.q_proj.weight", "model.layers.31.self_attn.k_proj.weight",
      "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight",
      "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight",
      "language_model.model.layers.3.self_attn.q_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight",
      // mixtures
      "model.layers.0.block_sparse_moe.experts.7.w1.weight", "model.layers.0.block_sparse_moe.experts.0.w2.weight",
      "model.layers.0.mlp.experts.127.down_proj.weight", "model.layers.0.mlp.shared_expert.gate_proj.weight",
      "model.layers.0.mlp.shared_experts.up_proj.weight", "model.layers.0.feed_forward.shared_expert.down_proj.weight",
      "model.layers.0.block_sparse_moe.input_linear.weight", "model.layers.0.shared_mlp.output_linear.weight",
      "transformer.blocks.0.ffn.experts.mlp.v1", "transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight",
      "transformer.blocks.0.norm_attn_norm.attn.out_proj.weight",
      "decoder.block.1.layer.2.mlp.experts.expert_3.wi.weight",
      // latent and linear attention
      "model.layers.0.self_attn.q_a_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
      "model.layers.0.self_attn.kv_b_proj.weight", "model.layers.0.linear_attn.in_proj_qkvz.weight",
      "model.layers.0.linear_attn.out_proj.weight",
      // GPT-2, GPT-J, GPT-Neo, GPT-NeoX, Falcon, BLOOM, Phi, OPT, MPT, StarCoder 2
      "h.0.attn.c_attn.weight", "transformer.h.0.attn.c_proj.weight", "transformer.h.0.mlp.c_fc.weight",
      "transformer.h.0.mlp.c_proj.weight", "transformer.h.0.attn.q_proj.weight", "transformer.h.0.mlp.fc_in.weight",
      "transformer.h.0.attn.attention.out_proj.weight", "gpt_neox.layers.0.attention.query_key_value.weight",
      "gpt_neox.layers.0.attention.dense.weight", "gpt_neox.layers.0.mlp.dense_h_to_4h.weight",
      "transformer.h.0.self_attention.dense.weight", "transformer.h.0.mlp.dense_4h_to_h.weight",
      "model.layers.0.self_attn.dense.weight", "model.layers.0.mlp.fc1.weight",
      "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight",
      "model.decoder.layers.0.self_attn.out_proj.weight", "model.decoder.layers.0.fc2.weight",
      "transformer.blocks.0.attn.Wqkv.weight", "transformer.blocks.0.ffn.up_proj.weight",
      // InternLM2, ChatGLM, Baichuan, OLMo, Qwen 1, OpenELM
      "model.layers.0.attention.wqkv.weight", "model.layers.0.attention.wo.weight",
      "model.layers.0.feed_forward.w3.weight", "transformer.encoder.layers.0.self_attention.query_key_value.weight",
      "model.layers.0.self_attn.W_pack.weight", "model.transformer.blocks.0.att_proj.weight",
      "model.transformer.blocks.0.ff_out.weight", "transformer.h.0.mlp.w1.weight",
      "transformer.layers.0.ffn.proj_1.weight",
      // BERT, ALBERT, DistilBERT, DeBERTa, ModernBERT, ViT, CLIP
      "bert.encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention.output.dense.weight",
      "bert.encoder.layer.0.intermediate.dense.weight", "bert.encoder.layer.0.output.dense.weight",
      "bert.encoder.layer.0.crossattention.self.key.weight",
      "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query.weight",
      "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight",
      "distilbert.transformer.layer.0.attention.out_lin.weight", "distilbert.transformer.layer.0.ffn.lin1.weight",
      "deberta.encoder.layer.0.attention.self.query_proj.weight", "model.layers.0.attn.Wo.weight",
      "model.layers.0.mlp.Wi.weight", "vit.encoder.layer.0.attention.attention.value.weight",
      "vision_model.encoder.layers.0.self_attn.q_proj.weight", "visual.blocks.0.attn.qkv.weight",
      // T5, BART, Whisper
      "encoder.block.0.layer.0.SelfAttention.q.weight", "decoder.block.0.layer.1.EncDecAttention.o.weight",
      "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "decoder.block.0.layer.2.DenseReluDense.wo.weight",
      "model.decoder.layers.0.encoder_attn.out_proj.weight", "model.encoder.layers.0.fc1.weight",
      "model.layers.3.cross_attn.k_proj.weight", "rwkv.blocks.0.attention.receptance.weight",
      "rwkv.blocks.0.feed_forward.key.weight"};
  for (std::string_view const name : names) {
    INFO(name);
    CHECK(default_action(name) == action::merge);
    CHECK_FALSE(braid::is_vocabulary(name));
    CHECK(default_action(name, vector) == action::keep);
    CHECK(default_action(name, scalar) == action::keep);
    CHECK(selection().decide(name, matrix, dtype::i8).what == action::keep);
    CHECK(selection().decide(name, matrix, dtype::f64).what == action::keep);
  }
  for (std::string_view const name : {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj",
                                      "language_model.model.layers.0.feed_forward.experts.gate_up_proj",
                                      "model.layers.0.block_sparse_moe.input_linear.weight"}) {
    INFO(name);
    CHECK(default_action(name, stack) == action::merge);
    CHECK(default_action(name, {2, 8, 64, 32}) == action::keep);
  }
}

TEST_CASE("embeddings, heads, norms, biases, routers and unknown tensors are kept, whatever their shape",
          "[selection]") {
  std::string_view const names[] = {
      // embeddings
      "model.embed_tokens.weight", "transformer.wte.weight", "wpe.weight", "transformer.embd.wte.weight",
      "model.tok_embeddings.weight", "gpt_neox.embed_in.weight", "bert.embeddings.word_embeddings.weight",
      "shared.weight", "encoder.embed_tokens.weight", "backbone.embeddings.weight", "rwkv.embeddings.weight",
      "model.embed_positions.weight", "bert.embeddings.position_embeddings.weight",
      "bert.embeddings.token_type_embeddings.weight", "vision_model.embeddings.position_embedding",
      "model.embed_tokens_per_layer.weight", "vision_model.embeddings.patch_embedding.weight",
      "visual.patch_embed.proj.weight",
      // heads
      "lm_head.weight", "language_model.lm_head.weight", "embed_out.weight", "output.weight",
      "transformer.output_layer.weight", "model.transformer.ff_out.weight", "lm_head.dense.weight",
      "lm_head.decoder.weight", "cls.predictions.decoder.weight", "cls.predictions.transform.dense.weight",
      "vocab_projector.weight", "vocab_transform.weight", "proj_out.weight", "score.weight", "classifier.weight",
      "classifier.dense.weight", "classifier.out_proj.weight", "pre_classifier.weight", "qa_outputs.weight",
      "v_head.summary.weight", "classification_head.dense.weight", "bert.pooler.dense.weight",
      "model.layers.61.shared_head.head.weight",
      // norms
      "model.norm.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_norm.weight",
      "model.layers.0.self_attn.k_norm.weight", "model.layers.0.self_attn.q_layernorm.norms.3.weight",
      "transformer.h.0.ln_1.weight", "transformer.ln_f.weight", "h.0.ln_attn.weight", "backbone.norm_f.weight",
      "encoder.layer.0.attention.output.LayerNorm.weight", "vision_model.encoder.layers.0.layer_norm1.weight",
      "model.layers.0.self_attn.kv_a_layernorm.weight", "blocks.0.ln2.weight", "model.layers.0.linear_attn.norm.weight",
      // biases
      "model.layers.0.self_attn.q_proj.bias", "transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias",
      "model.layers.0.mlp.experts.gate_up_proj_bias", "model.layers.0.mlp.gate.e_score_correction_bias",
      "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
      // routers
      "model.layers.0.mlp.gate.weight", "model.layers.0.block_sparse_moe.gate.weight",
      "model.layers.0.feed_forward.router.weight", "model.layers.0.block_sparse_moe.router.layer.weight",
      "transformer.blocks.0.ffn.router.layer.weight", "encoder.block.1.layer.1.mlp.router.classifier.weight",
      "model.layers.0.mlp.router.weight", "model.layers.0.mlp.shared_expert_gate.weight",
      "model.layers.0.mlp.gate.wg.weight",
      // state-space models and the rest
      "backbone.layers.0.mixer.A_log", "backbone.layers.0.mixer.D", "backbone.layers.0.mixer.conv1d.weight",
      "backbone.layers.0.mixer.dt_proj.weight", "backbone.layers.0.mixer.x_proj.weight",
      "backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.out_proj.weight",
      "model.layers.0.linear_attn.conv1d.weight", "model.layers.0.linear_attn.A_log",
      "model.layers.0.linear_attn.dt_bias", "model.layers.0.self_attn.rotary_emb.inv_freq",
      "multi_modal_projector.linear_1.weight", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
      "model.layers.0.self_attn.q_proj.weight_scale_inv", "", "weight", "something"};
  for (std::string_view const name : names) {
    for (auto const& shape : {scalar, vector, matrix, stack}) {
      INFO(name << " with " << shape.size() << " dimensions");
      decision const d = selection().decide(name, shape, dtype::f32);
      CHECK(d.what == action::keep);
      CHECK_FALSE(d.by_user);
    }
  }
}

TEST_CASE("no pattern of the table is malformed or there twice", "[selection]") {
  for (std::size_t i = 0; i < braid::name_rules.size(); ++i) {
    INFO(braid::name_rules[i].pattern);
    CHECK_NOTHROW(braid::glob(braid::name_rules[i].pattern));
    for (std::size_t j = 0; j < i; ++j) { CHECK(braid::name_rules[i].pattern != braid::name_rules[j].pattern); }
  }
}

TEST_CASE("the user's rules come first, and the first of them that matches decides", "[selection]") {
  selection const s({{"*.layers.0.*", action::keep},
                     {"*.q_proj.weight", action::from_base},
                     {"*norm.weight", action::merge},
                     {"*inv_freq", action::from_base},
                     {"*.0.*", action::from_base}});
  decision d = s.decide("model.layers.0.self_attn.q_proj.weight", matrix, dtype::bf16);
  CHECK(d.what == action::keep);
  CHECK(d.by_user);
  CHECK(d.rule == 0);
  d = s.decide("model.layers.1.self_attn.q_proj.weight", matrix, dtype::bf16);
  CHECK(d.what == action::from_base);
  CHECK(d.rule == 1);
  d = s.decide("model.layers.1.self_attn.k_proj.weight", matrix, dtype::bf16);
  CHECK(d.what == action::merge);
  CHECK_FALSE(d.by_user);
  CHECK(braid::name_rules[static_cast<std::size_t>(d.rule)].role == braid::tensor_role::attention);
  d = s.decide("model.norm.weight", vector, dtype::bf16);  // one row
  CHECK(d.what == action::merge);
  CHECK(d.by_user);
  CHECK(s.decide("model.norm.weight", scalar, dtype::f8_e4m3).what == action::merge);
  CHECK(s.decide("rotary.inv_freq", vector, dtype::i64).what == action::from_base);
  CHECK(s.decide("unknown", matrix, dtype::bf16).rule == -1);
  CHECK(s.rules().size() == 5);
}

TEST_CASE("a wish to merge a type that braid doesn't compute with is refused", "[selection]") {
  selection const s({{"*", action::merge}});
  for (dtype const type : {dtype::i64, dtype::u8, dtype::boolean, dtype::f64}) {
    std::string const text = complaint([&] { (void)s.decide("position_ids", matrix, type); });
    CHECK(text.find("tensor position_ids") != std::string::npos);
    CHECK(text.find("pattern '*'") != std::string::npos);
    CHECK(text.find(std::string(name_of(type))) != std::string::npos);
  }
  for (dtype const type : {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2}) {
    CHECK(s.decide("position_ids", matrix, type).what == action::merge);
  }
}

TEST_CASE("channels are the axis before the last, unless the user says otherwise", "[selection]") {
  selection const plain;
  CHECK(plain.channel_axis("x", 2) == 0);
  CHECK(plain.channel_axis("x", 3) == 1);
  CHECK(plain.channel_axis("x", 5) == 3);
  CHECK(plain.channel_axis("x", 1) == -1);
  CHECK(plain.channel_axis("x", 0) == -2);

  selection const s({}, {{"*.c_attn.*", 1},
                         {"*.experts.*", -1},
                         {"*.q_proj.*", -2},
                         {"*.bad.*", 2},
                         {"*.worse.*", -3},
                         {"*.c_attn.*", 0}});
  CHECK(s.channel_axis("h.0.attn.c_attn.weight", 2) == 1);
  CHECK(s.channel_axis("h.0.attn.c_attn.bias", 1) == -1);  // a row has no axis to choose
  CHECK(s.channel_axis("l.0.experts.down_proj", 3) == 2);
  CHECK(s.channel_axis("l.0.experts.down_proj", 2) == 1);
  CHECK(s.channel_axis("l.0.q_proj.weight", 2) == 0);
  CHECK(s.channel_axis("l.0.q_proj.weight", 3) == 1);
  CHECK(s.channel_axis("l.0.k_proj.weight", 3) == 1);
  CHECK(s.channel_axis("l.bad.weight", 3) == 2);
  CHECK(s.channel_axis("l.worse.weight", 3) == 0);
  CHECK(complaint([&] { (void)s.channel_axis("l.bad.weight", 2); }) ==
        "tensor l.bad.weight has 2 dimensions, so there is no axis 2 as pattern '*.bad.*' asks; give 0 to 1, or -1 for "
        "the last");
  CHECK(complaint([&] { (void)s.channel_axis("l.worse.weight", 2); }).find("axis -3") != std::string::npos);
  CHECK(s.axes().size() == 6);
}

TEST_CASE("embeddings and heads may differ in rows, their biases and routers not", "[selection]") {
  for (std::string_view const name :
       {"model.embed_tokens.weight", "lm_head.weight", "transformer.wpe.weight", "score.weight", "shared.weight",
        "cls.predictions.decoder.weight", "embed_out.weight", "output.weight"}) {
    INFO(name);
    CHECK(braid::is_vocabulary(name));
  }
  for (std::string_view const name :
       {"lm_head.bias", "model.norm.weight", "model.layers.0.mlp.gate.weight", "bert.embeddings.LayerNorm.weight",
        "model.layers.0.attention.output.weight", "x"}) {
    INFO(name);
    CHECK_FALSE(braid::is_vocabulary(name));
  }
}

TEST_CASE("a missing head may be a token embedding, the nearest first", "[selection]") {
  using names = std::vector<std::string_view>;
  auto const candidates = [](std::string_view name, names const& all) { return braid::tie_candidates(name, all); };

  names const llama{"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"};
  CHECK(candidates("lm_head.weight", llama) == names{"model.embed_tokens.weight"});
  CHECK(candidates("model.norm.weight", llama).empty());
  CHECK(candidates("model.layers.0.mlp.up_proj.weight", llama).empty());
  CHECK(candidates("score.weight", llama).empty());  // classifiers are never tied
  CHECK(candidates("lm_head.weight", {}).empty());

  CHECK(candidates("lm_head.weight", {"transformer.wpe.weight", "transformer.wte.weight"}) ==
        names{"transformer.wte.weight"});
  CHECK(candidates("model.embed_tokens.weight", {"lm_head.weight"}) == names{"lm_head.weight"});
  CHECK(candidates("encoder.embed_tokens.weight", {"decoder.block.0.layer.0.SelfAttention.q.weight", "lm_head.weight",
                                                   "shared.weight"}) == names{"shared.weight", "lm_head.weight"});
  CHECK(candidates("language_model.lm_head.weight",
                   {"audio.embed_tokens.weight", "language_model.model.embed_tokens.weight"}) ==
        names{"language_model.model.embed_tokens.weight", "audio.embed_tokens.weight"});
  CHECK(candidates("cls.predictions.decoder.weight",
                   {"bert.embeddings.position_embeddings.weight", "bert.embeddings.word_embeddings.weight"}) ==
        names{"bert.embeddings.word_embeddings.weight"});

  CHECK(candidates("lm_head.decoder.bias", {"lm_head.bias", "lm_head.dense.bias"}) == names{"lm_head.bias"});
  CHECK(candidates("cls.predictions.bias", {"cls.predictions.decoder.bias"}) == names{"cls.predictions.decoder.bias"});
  CHECK(candidates("lm_head.decoder.bias", {"lm_head.dense.bias"}).empty());
}

TEST_CASE("actions have the names of the file format", "[selection]") {
  static_assert(braid::name_of(action::merge) == "merge");
  static_assert(braid::name_of(action::keep) == "keep");
  static_assert(braid::name_of(action::from_base) == "base");
}

#include "support/catch.hpp"

#include <braid/recipe/layer_names.hpp>

using namespace braid::recipe;

namespace {

std::string layer_text(std::string_view tensor) {
  auto const found = layer_of(tensor);
  return found ? std::string(found->stack) + "|" + std::to_string(found->layer) + "|" + std::string(found->rest)
               : "none";
}

}  // namespace

TEST_CASE("layers are found in the names of many architectures", "[recipe][layers]") {
  CHECK(layer_text("model.layers.12.mlp.up_proj.weight") == "model.layers.|12|.mlp.up_proj.weight");
  CHECK(layer_text("transformer.h.3.attn.c_attn.weight") == "transformer.h.|3|.attn.c_attn.weight");
  CHECK(layer_text("h.0.ln_1.weight") == "h.|0|.ln_1.weight");
  CHECK(layer_text("gpt_neox.layers.1.attention.dense.weight") == "gpt_neox.layers.|1|.attention.dense.weight");
  CHECK(layer_text("encoder.block.2.layer.0.SelfAttention.q.weight") ==
        "encoder.block.|2|.layer.0.SelfAttention.q.weight");
  CHECK(layer_text("decoder.block.11.layer.2.DenseReluDense.wi_0.weight") ==
        "decoder.block.|11|.layer.2.DenseReluDense.wi_0.weight");
  CHECK(layer_text("bert.encoder.layer.5.output.dense.bias") == "bert.encoder.layer.|5|.output.dense.bias");
  CHECK(layer_text("distilbert.transformer.layer.4.ffn.lin1.weight") ==
        "distilbert.transformer.layer.|4|.ffn.lin1.weight");
  CHECK(layer_text("model.decoder.layers.7.fc1.weight") == "model.decoder.layers.|7|.fc1.weight");
  CHECK(layer_text("backbone.layers.9.mixer.A_log") == "backbone.layers.|9|.mixer.A_log");
  CHECK(layer_text("transformer.blocks.6.ffn.experts.mlp.w1") == "transformer.blocks.|6|.ffn.experts.mlp.w1");
  CHECK(layer_text("model.visual.blocks.3.attn.qkv.weight") == "model.visual.blocks.|3|.attn.qkv.weight");
  CHECK(layer_text("rwkv.blocks.2.att.key.weight") == "rwkv.blocks.|2|.att.key.weight");
}

TEST_CASE("numbers of experts, heads and small sequences are no layers", "[recipe][layers]") {
  CHECK(layer_of("model.layers.4.block_sparse_moe.experts.7.w1.weight")->layer == 4);
  CHECK(layer_of("model.layers.4.mlp.experts.61.down_proj.weight")->layer == 4);
  for (char const* const name :
       {"lm_head.weight", "model.embed_tokens.weight", "classifier.0.weight", "visual.merger.mlp.0.weight",
        "experts.3.w1.weight", "model.layers.norm.weight", "layers", "layers.", "model.layers.x.weight", "", ".",
        "blocks.-1.weight", "blocks.12x.weight", "model.layers.99999999999999999999.weight"}) {
    INFO(name);
    CHECK(layer_text(name) == "none");
  }
}

TEST_CASE("renumbering changes the layer and nothing else", "[recipe][layers]") {
  CHECK(with_layer("model.layers.12.mlp.experts.12.w1.weight", 3) == "model.layers.3.mlp.experts.12.w1.weight");
  CHECK(with_layer("h.9.attn.bias", 10) == "h.10.attn.bias");
  CHECK(with_layer("model.norm.weight", 3) == "model.norm.weight");
  for (int l = 0; l < 120; ++l) { CHECK(layer_of(with_layer("encoder.block.2.layer.0.q.weight", l))->layer == l); }
}

TEST_CASE("embeddings stand before the layers, norms and heads after them", "[recipe][layers]") {
  for (char const* const name :
       {"model.embed_tokens.weight", "transformer.wte.weight", "transformer.wpe.weight", "shared.weight"}) {
    CHECK(stands_before_layers(name));
  }
  for (char const* const name : {"model.norm.weight", "lm_head.weight", "transformer.ln_f.bias", "score.weight"}) {
    CHECK_FALSE(stands_before_layers(name));
  }
}

TEST_CASE("the number of layers is found under each family's key", "[recipe][layers]") {
  auto const key = [](char const* text, std::string_view stack = {}) {
    auto const found = layer_count_key(nlohmann::json::parse(text), stack);
    return found ? found->to_string() : "none";
  };
  CHECK(key(R"({"num_hidden_layers": 32})") == "/num_hidden_layers");
  CHECK(key(R"({"n_layer": 12})") == "/n_layer");
  CHECK(key(R"({"n_layers": 6})") == "/n_layers");
  CHECK(key(R"({"num_layers": 28})") == "/num_layers");
  CHECK(key(R"({"text_config": {"num_hidden_layers": 40}, "vision_config": {"num_hidden_layers": 7}})") ==
        "/text_config/num_hidden_layers");
  CHECK(key(R"({"num_layers": 6, "num_decoder_layers": 8})", "encoder.block.") == "/num_layers");
  CHECK(key(R"({"num_layers": 6, "num_decoder_layers": 8})", "decoder.block.") == "/num_decoder_layers");
  CHECK(key(R"({"encoder_layers": 4, "decoder_layers": 2, "num_hidden_layers": 4})", "model.decoder.layers.") ==
        "/decoder_layers");
  CHECK(key(R"({"num_hidden_layers": 12})", "bert.encoder.layer.") == "/num_hidden_layers");
  CHECK(key(R"({"num_hidden_layers": "many"})") == "none");
  CHECK(key("{}") == "none");
  CHECK(layer_count(nlohmann::json::parse(R"({"n_layer": 12})")) == 12);
  CHECK_FALSE(layer_count(nlohmann::json::parse(R"({"n_layer": -12})")).has_value());
}

TEST_CASE("lists with an entry a layer are found in a config", "[recipe][layers]") {
  auto const config = nlohmann::json::parse(
      R"({"num_hidden_layers": 2, "layer_types": ["full", "sliding"], "no_rope_layers": [1, 1], "layer_rows": [1, 2, 3],
          "architectures": ["A", "B"], "layer_norm": 3})");
  std::vector<std::string> names;
  for (auto const& p : per_layer_lists(config)) { names.push_back(p.to_string()); }
  CHECK(names == std::vector<std::string>{"/layer_types", "/no_rope_layers"});
}

#include "support/golden.hpp"
#include "support/random_models.hpp"
#include "unit/io_support.hpp"

#include <braid/recipe/parse.hpp>

#include <set>

using namespace braid_test;
using namespace braid::recipe;

namespace {

/// The message with which a recipe is refused; empty where it isn't.
std::string complaint(std::string const& text) {
  return message_of([&] { (void)parse(text, "r.yml"); });
}

bool refused(std::string const& text, std::string const& beginning) {
  std::string const message = complaint(text);
  INFO(message);
  bool const so = message.starts_with(beginning);
  CHECK(message.substr(0, beginning.size()) == beginning);
  return so;
}

std::string warnings_of(merge_recipe const& r) {
  std::string all;
  for (warning const& w : r.warnings) { all += to_text(r.file, w.at) + ": " + w.text + "\n"; }
  return all;
}

std::string const two_models =
    "models:\n  - {model: a, parameters: {weight: 1}}\n  - {model: b, parameters: {weight: 2}}\n";

}  // namespace

TEST_CASE("a recipe of whole models becomes one module without a name", "[recipe]") {
  auto const r = parse(
      "merge_method: ties\n"
      "base_model: org/base@v1\n"
      "models:\n"
      "  - model: a\n"
      "    parameters:\n"
      "      weight: 0.5\n"
      "      density: [0.1, 0.9]\n"
      "  - model: b+lora@main\n"
      "    parameters: {weight: [{filter: mlp, value: 1}, {value: 2}]}\n"
      "parameters: {normalize: false, lambda: 1e-1}\n"
      "dtype: torch.float16\n"
      "out_dtype: bfloat16\n");
  CHECK(r.merge_method == "ties");
  CHECK(*r.base_model == model_reference{{"org/base", "v1"}});
  CHECK(r.input_type == braid::dtype::f16);
  CHECK(r.output_type == braid::dtype::bf16);
  CHECK(r.warnings.empty());
  CHECK_FALSE(r.tokenizer.has_value());
  REQUIRE(r.modules.size() == 1);
  CHECK(r.modules[0].name.empty());
  auto const& models = r.modules[0].models;
  REQUIRE(models.size() == 2);
  CHECK(models[0].model == model_reference{{"a"}});
  CHECK(models[0].at == place{4, 5});
  CHECK(models[1].model == model_reference{{"b"}, model_path{"lora", "main"}});
  auto const& density = models[0].settings[1];
  CHECK(density.name == "density");
  CHECK(density.at == place{7, 7});
  REQUIRE(density.what.conditions.size() == 1);
  CHECK(density.what.conditions[0].gradient);
  CHECK(density.what.conditions[0].values[1].text == "0.9");
  CHECK(density.what.conditions[0].values[1].at == place{7, 22});
  auto const* const weight = find(models[1].settings, "weight");
  REQUIRE(weight != nullptr);
  CHECK(weight->conditions[0].filter.text() == "mlp");
  CHECK(weight->conditions[1].filter.matches_all());
  CHECK(find(r.settings, "lambda")->conditions[0].values[0].text == "1e-1");
  CHECK(find(r.settings, "weight") == nullptr);
}

TEST_CASE("slices and modules are read with their levels", "[recipe]") {
  auto const r = parse(
      "merge_method: linear\n"
      "modules:\n"
      "  text:\n"
      "    parameters: {weight: 3}\n"
      "    slices:\n"
      "      - sources:\n"
      "          - {model: a, layer_range: [0, 4], parameters: {weight: 1}}\n"
      "          - {model: b, layer_range: [4, 8]}\n"
      "        parameters: {weight: 2}\n"
      "        base_model: c\n"
      "        residual_weight: 0.1\n"
      "  vision:\n"
      "    models: [{model: a}]\n"
      "parameters: {weight: 4}\n");
  REQUIRE(r.modules.size() == 2);
  CHECK(r.modules[0].name == "text");
  auto const& slice = r.modules[0].slices.at(0);
  CHECK(slice.layers() == 4);
  CHECK(slice.sources[1].first == 4);
  CHECK(*slice.base_model == model_reference{{"c"}});
  CHECK(r.modules[1].models.size() == 1);
  CHECK(warnings_of(r) == "recipe:11:26: 'residual_weight' is known and has no effect\n");
  CHECK(models_of(r) == std::vector<model_reference>{{{"c"}}, {{"a"}}, {{"b"}}});
}

TEST_CASE("models are written as text or as mappings", "[recipe]") {
  auto const model = [](std::string const& text) {
    return parse("merge_method: passthrough\nmodels: [{model: " + text + "}]\n").modules[0].models[0].model;
  };
  CHECK(model("a") == model_reference{{"a"}});
  CHECK(model("org/a@v2+org/lora@v3") == model_reference{{"org/a", "v2"}, model_path{"org/lora", "v3"}});
  CHECK(model("{model: {path: odd+name@here}}") == model_reference{{"odd+name@here"}});
  CHECK(model("{model: a@v, lora: {path: l, revision: r}, override_architecture: LlamaForCausalLM}") ==
        model_reference{{"a", "v"}, model_path{"l", "r"}, "LlamaForCausalLM"});
  for (char const* const text : {"a", "a@b", "a+c", "a@b+c@d"}) { CHECK(to_text(parse_model_reference(text)) == text); }
  for (char const* const text : {"", "@b", "a@", "a@b@c", "a+b+c", "a+", "+a"}) {
    CHECK_THROWS_AS(parse_model_reference(text), braid::argument_error);
  }
  CHECK(refused("merge_method: passthrough\nmodels: [{model: a@b@c}]\n",
                "r.yml:2:18: the model \"a@b@c\" must have one revision"));
}

TEST_CASE("vocabularies are described in the short and in the long form", "[recipe]") {
  using source_type = tokenizer_section::source_type;
  using kind = token_source::kind_type;
  auto const head = "merge_method: linear\n" + two_models;
  CHECK(parse(head + "tokenizer_source: union\n").tokenizer->source == source_type::union_of_all);
  CHECK(parse(head + "tokenizer_source: base\n").tokenizer->source == source_type::base);
  CHECK(*parse(head + "tokenizer_source: org/x@v\n").tokenizer->model == model_reference{{"org/x", "v"}});
  CHECK(parse(head + "tokenizer: {}\n").tokenizer->source == source_type::union_of_all);
  auto const t = *parse(head +
                        "tokenizer:\n"
                        "  source: a\n"
                        "  pad_to_multiple_of: 64\n"
                        "  tokens:\n"
                        "    <x>: {source: b, force: true}\n"
                        "    <y>: {source: {kind: zero}}\n"
                        "    <z>: {source: {kind: model_token, model: a, token_id: 7}}\n"
                        "    <w>: {source: {kind: model_token, model: a, token: word}}\n"
                        "    <v>:\n")
                      .tokenizer;
  CHECK(t.source == source_type::model);
  CHECK(t.pad_to_multiple_of == 64);
  REQUIRE(t.tokens.size() == 5);
  CHECK((t.tokens[0].kind == kind::model && t.tokens[0].force && t.tokens[0].token == "<x>"));
  CHECK(t.tokens[1].kind == kind::zero);
  CHECK((t.tokens[2].kind == kind::model_token && t.tokens[2].token_id == 7));
  CHECK(t.tokens[3].other_token == "word");
  CHECK(t.tokens[4].kind == kind::unset);
  CHECK(refused(head + "tokenizer: {}\ntokenizer_source: base\n", "r.yml:6:19: only one of the keys"));
  CHECK(refused(head + "tokenizer: {tokens: {x: {source: {kind: zero, model: a}}}}\n", "r.yml:5"));
  CHECK(refused(head + "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}\n", "r.yml:5"));
  CHECK(refused(head + "tokenizer: {tokens: {x: {force: true}}}\n", "r.yml:5:22: force needs a source"));
  CHECK(refused(head + "tokenizer: {pad_to_multiple_of: 0}\n", "r.yml:5:33: pad_to_multiple_of must be"));
}

TEST_CASE("braid's additions are read", "[recipe]") {
  auto const r = parse(
      "merge_method: channel_merge\n"
      "base_model: base\n"
      "seed: 12345678901\n"
      "style: paper\n"
      "scope: global\n"
      "models:\n"
      "  - {model: a, name: first}\n"
      "  - {model: b}\n"
      "parameters:\n"
      "  groups: [{filter: 're:layers\\.[0-3]\\.', value: 3}, {value: 2}]\n"
      "  similarity: balanced\n"
      "  prune: dare\n"
      "  density: 0.7\n"
      "  consensus: ties\n"
      "  residual: ternary\n"
      "  budget: 0.4\n");
  CHECK(r.seed == 12345678901u);
  CHECK(r.style == "paper");
  CHECK(r.trim_scope == "model");
  CHECK(r.modules[0].models[0].name == "first");
  auto const& filter = find(r.settings, "groups")->conditions[0].filter;
  CHECK(filter.matches("model.layers.3.mlp"));
  CHECK_FALSE(filter.matches("model.layers.13.mlp"));
  CHECK(parse("merge_method: dare_ties\nbase_model: b\n" + two_models + "parameters: {rescale: inverse_keep}\n")
            .warnings.empty());
}

TEST_CASE("a key that nobody knows is refused with the nearest one", "[recipe]") {
  auto const linear = "merge_method: linear\n" + two_models;
  CHECK(complaint(linear + "base_modle: x\n") ==
        "r.yml:5:1: unknown key \"base_modle\" in a recipe; did you mean 'base_model'?");
  CHECK(complaint(linear + "parameters:\n  wieght: 3\n") ==
        "r.yml:6:3: unknown parameter \"wieght\"; did you mean 'weight'?");
  CHECK(complaint("merge_method: linaer\n" + two_models)
            .starts_with("r.yml:1:15: merge_method can't be \"linaer\"; did you mean 'linear'? (one of linear, slerp"));
  CHECK(refused("merge_method: linear\nmodels: [{modle: a}]\n",
                "r.yml:2:11: unknown key \"modle\" in an entry of models; did you mean 'model'?"));
  CHECK(refused(linear + "parameters: {weight: [{fliter: a, value: 1}]}\n", "r.yml:5:24: unknown key \"fliter\""));
  CHECK(
      refused(linear + "parameters: {seed: 1}\n", "r.yml:5:14: 'seed' is no parameter: write it beside merge_method"));
  CHECK(refused(linear + "quite_something_else: 1\n", "r.yml:5:1: unknown key \"quite_something_else\" in a recipe"));
  CHECK(complaint(linear + "quite_something_else: 1\n").find("did you mean") == std::string::npos);
}

TEST_CASE("what mergekit knows and doesn't use is a warning", "[recipe]") {
  auto const r = parse("merge_method: task_arithmetic\nbase_model: c\n" + two_models +
                           "parameters: {density: 0.5, int8_mask: true, t: 0.5}\nname: stage\n",
                       "r.yml");
  CHECK(warnings_of(r) ==
        "r.yml:6:14: the parameter 'density' changes nothing in the method 'task_arithmetic'\n"
        "r.yml:6:28: the parameter 'int8_mask' changes nothing in the method 'task_arithmetic'\n"
        "r.yml:6:45: the method 'task_arithmetic' has no parameter 't' (slerp, nearswap have): it is ignored\n"
        "r.yml:7:7: 'name' is for several recipes in one file; here it is ignored\n");
}

TEST_CASE("values that can't be meant are refused where they stand", "[recipe]") {
  auto const linear = "merge_method: linear\n" + two_models;
  CHECK(complaint(linear + "parameters: {weight: heavy}\n") ==
        "r.yml:5:22: the parameter 'weight' must be a finite number, not \"heavy\"");
  CHECK(refused(linear + "parameters: {weight: .inf}\n", "r.yml:5:22: the parameter 'weight' must be a finite number"));
  CHECK(refused(linear + "parameters: {weight: [1, nan]}\n", "r.yml:5:26"));
  CHECK(
      refused(linear + "parameters: {normalize: 2}\n", "r.yml:5:25: the parameter 'normalize' must be true or false"));
  CHECK(refused(linear + "parameters: {weight: {a: 1}}\n", "r.yml:5:23: unknown key \"a\""));
  CHECK(refused(linear + "parameters: {weight: [{filter: a}]}\n",
                "r.yml:5:23: a filtered value must have the key 'value'"));
  CHECK(refused(linear + "parameters: {weight: [1, {value: 2}]}\n", "r.yml:5:26: a gradient holds scalars"));
  CHECK(refused(linear + "parameters: {weight: [{value: 2}, 1]}\n", "r.yml:5:35: a list of filters holds mappings"));
  CHECK(refused(linear + "parameters: {weight: [{value: 2}, {filter: x, value: 1}]}\n",
                "r.yml:5:35: this is never reached"));
  CHECK(refused(linear + "parameters: {weight: [{filter: 're:(', value: 2}]}\n",
                "r.yml:5:32: the filter \"re:(\" isn't a regular"));
  CHECK(refused(linear + "dtype: float64\n", "r.yml:5:8: dtype can't be float64: braid merges in float32"));
  CHECK(refused(linear + "out_dtype: bfloat61\n",
                "r.yml:5:12: out_dtype can't be \"bfloat61\"; did you mean 'bfloat16'?"));
  CHECK(
      refused(linear + "chat_template: chatmil\n",
              "r.yml:5:16: chat_template, if it isn't a Jinja template, can't be \"chatmil\"; did you mean 'chatml'?"));
  CHECK(parse(linear + "chat_template: '{% for m in messages %}{{ m }}{% endfor %}'\n").chat_template.size() > 20);
  CHECK(refused(linear + "seed: -1\n", "r.yml:5:7: seed must be a whole number"));
  CHECK(refused(linear + "scope: all\n", "r.yml:5:8: scope can't be"));
  CHECK(refused(
      "merge_method: channel_merge\nbase_model: c\nmodels: [{model: a}, {model: b}]\nparameters: {similarity: cosin}\n",
      "r.yml:4:26: the parameter 'similarity' must be one of cosine, euclidean, balanced, sign, not \"cosin\"; did you "
      "mean 'cosine'?"));
}

TEST_CASE("inputs must fit the method", "[recipe]") {
  CHECK(refused("merge_method: ties\n" + two_models, "r.yml:3:3: the method 'ties' needs a base_model"));
  CHECK(refused("merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}, {model: c}]\n",
                "r.yml:3:9: the method 'slerp' needs 1 model besides the base; there are 2"));
  CHECK(refused("merge_method: slerp\nbase_model: a\nmodels: [{model: a}]\n",
                "r.yml:3:9: the method 'slerp' needs 1 model"));
  CHECK(refused("merge_method: model_stock\nbase_model: a\nmodels: [{model: b}]\n",
                "r.yml:3:9: the method 'model_stock' needs 2 or more models besides the base; there is 1"));
  CHECK(refused("merge_method: passthrough\nmodels: [{model: a}, {model: b}]\n",
                "r.yml:2:9: the method 'passthrough' needs 1 model; there are 2"));
  CHECK(refused("merge_method: passthrough\nbase_model: b\nmodels: [{model: a}]\n",
                "r.yml:3:9: the method 'passthrough' needs 1 model"));
  CHECK(complaint("merge_method: nuslerp\nbase_model: c\nmodels: [{model: a}, {model: b}]\n").empty());
  CHECK(refused("merge_method: nuslerp\nbase_model: b\nmodels: [{model: a}, {model: b}]\n",
                "r.yml:3:9: the method 'nuslerp' needs 2 models"));
  CHECK(refused("merge_method: linear\nmodels: [{model: a}, {model: b}, {model: a}]\n",
                "r.yml:2:34: the model a is there twice"));
  CHECK(refused("merge_method: ties\nbase_model: c\nslices:\n  - sources: [{model: a, layer_range: [0, 1]}]\n",
                "r.yml:4:5: the base model c must be one of the slice's sources"));
  CHECK(refused("merge_method: channel_merge\nbase_model: c\nslices:\n  - sources: [{model: a, layer_range: [0, 1]}]\n",
                "r.yml:4:3: channel_merge takes whole models"));
}

TEST_CASE("slices must make sense", "[recipe]") {
  auto const slice = [](std::string const& sources) {
    return "merge_method: linear\nslices:\n  - sources: " + sources + "\n";
  };
  CHECK(refused(slice("[{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 1]}]"),
                "r.yml:3:48: this source has 1 layers and the first of its slice 2"));
  CHECK(refused(slice("[{model: a, layer_range: [2, 2]}]"), "r.yml:3:39: layer_range [2, 2] holds no layer"));
  CHECK(refused(slice("[{model: a, layer_range: [2]}]"), "r.yml:3:39: layer_range must be [first, last]"));
  CHECK(refused(slice("[{model: a, layer_range: [-1, 2]}]"), "r.yml:3:40: the first layer must be"));
  CHECK(refused(slice("[{model: a}]"), "r.yml:3:15: a source must have the keys"));
  CHECK(refused(slice("[]"), "r.yml:3:14: sources must be a list with something in it"));
  CHECK(refused(slice("[{model: a, layer_range: [0, 1]}, {model: a, layer_range: [1, 2]}]"),
                "r.yml:3:48: the model a is there twice"));
}

TEST_CASE("YAML that is no recipe is refused", "[recipe]") {
  CHECK(refused("", "r.yml: is empty"));
  CHECK(refused("# nothing\n", "r.yml: is empty"));
  CHECK(refused("- a\n", "r.yml:1:1: a recipe must be a mapping, this is a list"));
  CHECK(refused("a: [1,\nb\n", "r.yml:"));
  CHECK(refused("merge_method: linear\n---\nmerge_method: ties\n", "r.yml:2:1: a second document begins here"));
  CHECK(refused(",a\n", "r.yml:1:1: isn't valid YAML (unexpected character)"));
  CHECK(refused("merge_method: linear\nmerge_method: ties\n", "r.yml:2:1: the key \"merge_method\" is there twice"));
  CHECK(refused("models: [{model: a}]\n", "r.yml:1:1: the key 'merge_method' is missing"));
  CHECK(refused("merge_method: linear\n", "r.yml:1:1: one of the keys 'models', 'slices' and 'modules'"));
  CHECK(refused("merge_method: linear\nslices: []\n" + two_models, "r.yml:1:1: only one of the keys"));
  CHECK(refused("merge_method: linear\nmodels: x\n", "r.yml:2:9: models must be a list"));
  CHECK(refused("merge_method: linear\nmodules: {}\n", "r.yml:2:10: modules must have a module in it"));
  CHECK(refused("merge_method: linear\nmodules: {text: {}}\n", "r.yml:2:11: the module 'text' must have either"));
  CHECK(refused("merge_method: *nowhere\n", "r.yml:1:"));
  CHECK(refused("a: &a {<<: *a}\n", "r.yml:1:"));
  CHECK(refused("? [a]\n: b\n", "r.yml:1:3: a key must be a name"));
  std::string bomb = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]\n";
  for (int i = 1; i < 9; ++i) {
    std::string const name = "a" + std::to_string(i);
    std::string const before = "*a" + std::to_string(i - 1);
    bomb += name + ": &" + name + " [" + before;
    for (int k = 0; k < 7; ++k) { bomb += ", " + before; }
    bomb += "]\n";
  }
  CHECK(complaint(bomb).find("more than 100000 values") != std::string::npos);
  CHECK(refused(std::string(3000, '['), "r.yml:1:"));
}

TEST_CASE("anchors and merged mappings save writing", "[recipe]") {
  auto const r = parse(
      "merge_method: linear\n"
      "models:\n"
      "  - {model: a, parameters: &usual {weight: 0.25, normalize: true}}\n"
      "  - {model: b, parameters: {weight: 0.5, <<: *usual}}\n"
      "  - {model: c, parameters: {<<: [{weight: 9}, *usual]}}\n");
  auto const& m = r.modules[0].models;
  CHECK(find(m[1].settings, "weight")->conditions[0].values[0].text == "0.5");
  CHECK(find(m[1].settings, "normalize") != nullptr);
  CHECK(find(m[2].settings, "weight")->conditions[0].values[0].text == "9");
}

TEST_CASE("recipes that mergekit runs are read, but for what it ignores silently", "[recipe][golden]") {
  std::set<std::string> const refused_here{"parameters-unknown", "keys-unknown"};
  for (auto const& e : golden_entries()) {
    std::string const name = e.at("name");
    std::string const message = message_of([&] { (void)parse_file(golden_dir() / e.at("recipe").get<std::string>()); });
    INFO(name << ": " << message);
    CHECK((refused_here.count(name) != 0) == (message.find(": unknown ") != std::string::npos));
    CHECK((refused_here.count(name) != 0) == !message.empty());
  }
}

TEST_CASE("whatever the text, parsing ends in a recipe or in one line that names the file", "[recipe][golden]") {
  random_source random(2718);
  std::vector<std::string> texts;
  for (auto const& e : golden_entries()) {
    texts.push_back(get_file(golden_dir() / e.at("recipe").get<std::string>()));
  }
  std::string const pieces = "{}[]:,&*!|>'\"%@`#-?~ \n\t0aZ<\\\x80";
  auto const below = [&](std::size_t n) {
    return static_cast<std::size_t>(random.between(0, static_cast<int>(n) - 1));
  };
  int parsed = 0;
  int refused = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string text = texts[below(texts.size())];
    for (index_t n = random.between(1, 4); n > 0; --n) {
      auto const at = below(text.size());
      char const c = pieces[below(pieces.size())];
      switch (random.between(0, 3)) {
        case 0: text[at] = c; break;
        case 1: text.insert(at, 1, c); break;
        case 2: text.erase(at, static_cast<std::size_t>(random.between(1, 12))); break;
        default: text.insert(at, text.substr(at, static_cast<std::size_t>(random.between(1, 40)))); break;
      }
      if (text.empty()) { text = "x"; }
    }
    try {
      (void)parse(text, "r.yml");
      ++parsed;
    } catch (braid::argument_error const& e) {
      std::string const message = e.what();
      INFO(message);
      CHECK(message.starts_with("r.yml:"));
      CHECK(message.find('\n') == std::string::npos);
      ++refused;
    }
  }
  CHECK(parsed > 100);
  CHECK(refused > 100);
}

TEST_CASE("recipes that mergekit stops at are refused for what is in their text", "[recipe][golden]") {
  // The others fail for what is in the checkpoints, or for numbers, which methods check.
  std::set<std::string> const later{"della-edge",  "della-one",        "della-range", "fails-no-weight",
                                    "fails-layer", "fails-vocabulary", "fails-shapes"};
  for (auto const& e : golden_entries("failures")) {
    std::string const name = e.at("name");
    std::string const file = (golden_dir() / e.at("recipe").get<std::string>()).string();
    std::string const message = message_of([&] { (void)parse_file(file); });
    INFO(name << ": " << message);
    CHECK(message.empty() == (later.count(name) != 0));
    CHECK((message.empty() || message.starts_with(file + ":")));
  }
}

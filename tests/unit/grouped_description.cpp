#include "support/catch.hpp"

#include <braid/io/grouped_description.hpp>

#include <cmath>

using namespace braid;

namespace {

nlohmann::json good() {
  return nlohmann::json::parse(R"({
    "format": 1, "version": "0.1.0", "method": "channel_merge", "recipe": {"groups": 2}, "seed": 18446744073709551615,
    "base": {"name": "base", "hash": "00ff"},
    "experts": [
      {"name": "add", "hash": "1", "files": {"config.json": "config.json"}, "absent": ["head"]},
      {"name": "sort", "hash": "2", "files": {"tokenizer.json": "experts/sort/tokenizer.json"}, "absent": []}
    ],
    "tied": {"head": "embed"}, "channel_axis": {"c_attn": 1}, "shapes": {"embed": [50, 8]},
    "tensors": {"c_attn": {"action": "merge", "groups": 2, "similarity": 0.5},
                "embed": {"action": "keep", "groups": 1, "similarity": null}}})");
}

grouped_description read(nlohmann::json const& j) { return grouped_description::from_json(j, "dir"); }

/// Code and message of the refusal; code 0 if there was none.
std::pair<int, std::string> refusal(nlohmann::json const& j) {
  try {
    (void)read(j);
  } catch (format_error const& e) { return {e.code(), e.what()}; }
  return {0, ""};
}

}  // namespace

TEST_CASE("a description survives its JSON text") {
  auto const d = read(good());
  CHECK(d.version == "0.1.0");
  CHECK(d.method == "channel_merge");
  CHECK(d.recipe["groups"] == 2);
  CHECK(d.seed == 18446744073709551615u);
  CHECK(d.base.name == "base");
  CHECK(d.base.hash == "00ff");
  REQUIRE(d.experts.size() == 2);
  CHECK(d.experts[0].absent == std::vector<std::string>{"head"});
  CHECK(d.experts[1].files.at("tokenizer.json") == "experts/sort/tokenizer.json");
  CHECK(d.tied.at("head") == "embed");
  CHECK(d.channel_axis.at("c_attn") == 1);
  CHECK(d.shapes.at("embed") == std::vector<index_t>{50, 8});
  CHECK(d.tensors.at("c_attn").similarity == 0.5);
  CHECK(std::isnan(d.tensors.at("embed").similarity));
  CHECK(d.to_json() == good());
  CHECK(read(nlohmann::json::parse(d.to_text())).to_text() == d.to_text());
}

TEST_CASE("a description needs little, and ignores what it doesn't know") {
  auto const d = read(nlohmann::json::parse(
      R"({"format":1,"version":"0.1.9","method":"m","base":{"name":"b"},"experts":[{"name":"x"}],"news":[1,{"a":2}]})"));
  CHECK(d.experts[0].name == "x");
  CHECK(d.seed == 0);
  CHECK(d.recipe.is_object());
  CHECK(d.tied.empty());
}

TEST_CASE("the second format names the codes of residuals, the first has none") {
  auto j = good();
  j["residuals"] = {{"c_attn", "ternary"}, {"embed", "trellis2"}};
  CHECK(read(j).residuals.empty());
  j["format"] = 2;
  auto const d = read(j);
  CHECK(d.residuals.at("c_attn") == residual_code::ternary);
  CHECK(d.residuals.at("embed") == residual_code::trellis2);
  CHECK(d.to_json() == j);
  j["residuals"]["embed"] = "quaternary";
  auto const [code, text] = refusal(j);
  CHECK(code == static_cast<int>(grouped_code::unknown_code));
  CHECK(text.find("the residual code \"quaternary\", which this braid") != std::string::npos);
  j["residuals"] = {"ternary"};
  CHECK(refusal(j).first == static_cast<int>(grouped_code::description_field));
}

TEST_CASE("a newer format is refused, and the refusal says which braid can read it") {
  auto j = good();
  j["format"] = 3;
  j["version"] = "0.7.0";
  j["experts"] = "whatever a newer format may have here";
  auto const [code, text] = refusal(j);
  CHECK(code == static_cast<int>(grouped_code::newer_format));
  CHECK(text.find("format 3; it was written by braid \"0.7.0\"") != std::string::npos);
  CHECK(text.find("use a braid that reads format 3") != std::string::npos);
  j.erase("version");
  CHECK(refusal(j).first == static_cast<int>(grouped_code::newer_format));
}

TEST_CASE("a field of the description that can't be meant is refused by its place") {
  struct mistake {
    char const* pointer;
    char const* value;  // JSON; nullptr: the field is removed
    char const* says;
  };
  for (auto const& m : {
           mistake{"/format", nullptr, "has no format"},
           {"/format", "0", "format must be an integer from 1"},
           {"/format", "\"1\"", "format must be an integer"},
           {"/format", "1.0", "format must be an integer"},
           {"/version", "3", "version must be a string"},
           {"/method", nullptr, "has no method"},
           {"/seed", "-1", "seed must be an integer from 0"},
           {"/base", "[]", "base must be an object"},
           {"/base/name", nullptr, "base has no name"},
           {"/experts", nullptr, "has no experts"},
           {"/experts", "[]", "experts must name an expert"},
           {"/experts", "{}", "experts must be an array"},
           {"/experts/1", "7", "experts[1] must be an object"},
           {"/experts/1/name", "\"add\"", "experts[1].name must come after \"add\""},
           {"/experts/1/name", "\"Sort\"", "experts[1].name must come after"},
           {"/experts/1/name", "\"../x\"", "experts[1].name must be of letters"},
           {"/experts/0/files", "[\"config.json\"]", "experts[0].files must be an object"},
           {"/experts/0/files/config.json", "1", "experts[0].files.\"config.json\" must be a string"},
           {"/experts/0/absent/0", "{}", "experts[0].absent[0] must be a string"},
           {"/tied/embed", "\"head\"", "tied.\"embed\" must be a tensor that is stored"},
           {"/tied/head", "\"head\"", "tied.\"head\" must be a tensor that is stored"},
           {"/channel_axis/c_attn", "64", "channel_axis.\"c_attn\" must be an integer from -1 to 63"},
           {"/channel_axis/c_attn", "0.5", "channel_axis.\"c_attn\" must be an integer"},
           {"/shapes/embed/0", "-50", "shapes.\"embed\"[0] must be an integer from 0"},
           {"/shapes/embed/0", "9223372036854775808", "shapes.\"embed\"[0] must be an integer from 0"},
           {"/shapes/embed", "[4294967296, 0, 4294967296]", "shapes.\"embed\" is too large"},
           {"/tensors/embed/action", "\"burn\"", "tensors.\"embed\".action must be"},
           {"/tensors/embed/action", nullptr, "tensors.\"embed\" has no action"},
           {"/tensors/embed/groups", "256", "tensors.\"embed\".groups must be an integer from 0 to 255"},
           {"/tensors/embed/similarity", "\"high\"", "tensors.\"embed\".similarity must be a number"},
       }) {
    auto j = good();
    nlohmann::json::json_pointer const p(m.pointer);
    if (m.value != nullptr) {
      j[p] = nlohmann::json::parse(m.value);
    } else {
      j[p.parent_pointer()].erase(p.back());
    }
    auto const [code, text] = refusal(j);
    CAPTURE(m.pointer, text);
    CHECK(code == static_cast<int>(grouped_code::description_field));
    CHECK(text.find(m.says) != std::string::npos);
  }
}

TEST_CASE("side files stay inside the directory and never stand for weights") {
  for (auto const* bad : {"", "/etc/passwd", "../secret", "a/../../b", "./a", "a//b", "a/", "..", "model.safetensors",
                          "x/model-00001-of-00002.safetensors", "model.safetensors.index.json"}) {
    for (bool const as_key : {false, true}) {
      auto j = good();
      j["experts"][1]["files"] = as_key ? nlohmann::json{{bad, "a.json"}} : nlohmann::json{{"a.json", bad}};
      CAPTURE(bad, as_key);
      CHECK(refusal(j).first == static_cast<int>(grouped_code::unsafe_path));
    }
  }
  auto j = good();
  j["experts"][1]["files"] = {{std::string("a\0b", 3), "a.json"}};
  CHECK(refusal(j).first == static_cast<int>(grouped_code::unsafe_path));
  j["experts"][1]["files"] = {{"modeling_x..y.py", "experts/sort/.../modeling.py"}};
  CHECK(refusal(j).first == 0);
}

TEST_CASE("a description with a name that isn't UTF-8 isn't written") {
  auto d = read(good());
  d.experts[0].files["caf\xe9.json"] = "x.json";
  CHECK_THROWS_AS(d.to_text(), argument_error);
}

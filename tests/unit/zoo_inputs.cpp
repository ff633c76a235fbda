#include "../../examples/zoo_support/llama_config.hpp"
#include "../../examples/zoo_support/prompts.hpp"
#include "../../examples/zoo_support/table.hpp"
#include "support/catch.hpp"
#include "support/temp_dir.hpp"

#include <cmath>
#include <fstream>
#include <numbers>
#include <sstream>

namespace {

nlohmann::json small_config() {
  return {{"vocab_size", 10},         {"hidden_size", 12},        {"intermediate_size", 20},
          {"num_hidden_layers", 2}, {"num_attention_heads", 3}, {"model_type", "llama"}};
}

zoo::llama_config read(nlohmann::json const& json) { return zoo::llama_config::from_json(json, "here/config.json"); }

/// The message of the argument_error that `f` throws.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (braid::argument_error const& e) {
    return e.what();
  }
  return "not refused";
}

std::string refused_config(char const* field, nlohmann::json value) {
  auto json = small_config();
  json[field] = std::move(value);
  return refusal([&] { read(json); });
}

bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("the rotary base is found in both layouts of config.json", "[zoo]") {
  auto old_layout = small_config();
  old_layout["rope_theta"] = 500.0;
  old_layout["rope_scaling"] = nullptr;
  auto new_layout = small_config();
  new_layout["rope_parameters"] = {{"rope_theta", 500.0}, {"rope_type", "default"}};
  std::vector<float> const expected{1.0f, static_cast<float>(std::pow(500.0, -0.5))};
  CHECK(read(old_layout).inverse_frequency == expected);
  CHECK(read(new_layout).inverse_frequency == expected);
  CHECK(read(small_config()).inverse_frequency[1] == 0.01f);  // 10000 unless said otherwise
}

TEST_CASE("rotary scaling follows transformers' definitions", "[zoo]") {
  auto json = small_config();
  json["head_dim"] = 64;
  auto const plain = read(json).inverse_frequency;
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  auto const linear = read(json).inverse_frequency;
  for (std::size_t i = 0; i < plain.size(); ++i) { CHECK(linear[i] == plain[i] / 4.0f); }

  json["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  auto const scaled = read(json).inverse_frequency;
  int stretched = 0, kept = 0, between = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    double const f = static_cast<double>(plain[i]);
    double const wavelength = 2.0 * std::numbers::pi / f;
    double expected = f;
    if (wavelength > 8192.0 / 1.0) {
      expected = f / 8.0;
      ++stretched;
    } else if (wavelength < 8192.0 / 4.0) {
      ++kept;
    } else {
      double const smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
      expected = (1.0 - smooth) * f / 8.0 + smooth * f;
      ++between;
    }
    CHECK(std::abs(static_cast<double>(scaled[i]) - expected) <= 1e-6 * expected);
  }
  CHECK((stretched > 0 && kept > 0 && between > 0));
}

TEST_CASE("fields that config.json may leave out have transformers' defaults", "[zoo]") {
  auto const c = read(small_config());
  CHECK(c.head_dim == 4);
  CHECK(c.kv_heads == 3);
  CHECK(c.norm_epsilon == 1e-6f);
  CHECK(!c.tied);
  auto json = small_config();
  json["head_dim"] = nullptr;
  CHECK(read(json).head_dim == 4);
}

TEST_CASE("a config that can't be run is refused with file, field and value", "[zoo]") {
  CHECK(contains(refused_config("model_type", "mistral"), "here/config.json"));
  CHECK(contains(refused_config("model_type", "mistral"), "mistral"));
  CHECK(contains(refused_config("hidden_act", "gelu"), "gelu"));
  CHECK(contains(refused_config("vocab_size", nullptr), "no field \"vocab_size\""));
  CHECK(contains(refused_config("hidden_size", -3), "\"hidden_size\""));
  CHECK(contains(refused_config("hidden_size", "wide"), "wide"));
  CHECK(contains(refused_config("num_key_value_heads", 2), "must divide"));
  CHECK(contains(refused_config("head_dim", 5), "even"));
  CHECK(contains(refused_config("rope_scaling", {{"rope_type", "yarn"}}), "yarn"));
  CHECK(contains(refusal([] { read(nlohmann::json::array()); }), "not a JSON object"));
}

TEST_CASE("text goes to tokens and back, a character at a time", "[zoo]") {
  zoo::tokenizer const t({"<pad>", "a", "\xC3\xA9", "."});
  CHECK(t.encode("a\xC3\xA9.a") == std::vector<int>{1, 2, 3, 1});
  CHECK(t.encode("").empty());
  CHECK(t.decode({1, 2, 0, 9}) == "a\xC3\xA9<pad>?");
  CHECK(contains(refusal([&] { (void)t.encode("ab"); }), "\"b\""));
}

TEST_CASE("prompts keep the order of their file, and a broken file is refused by name", "[zoo]") {
  braid_test::temp_dir const dir;
  auto const file = dir.path() / "prompts.json";
  auto const load = [&](std::string const& text) {
    std::ofstream(file) << text;
    return zoo::read_questions(file);
  };
  auto const q = load(R"({"chars": ["z", "."], "tasks": {"zoology": [["z", "zz"]], "art": [["zz", ""], ["z", "z"]]}})");
  REQUIRE(q.tasks.size() == 2);
  CHECK(q.tasks[0].name == "zoology");
  CHECK(q.tasks[1].prompts[0].text == "zz");
  CHECK(q.tasks[0].prompts[0].answer == "zz");

  for (char const* const broken : {"", "[1, 2]", R"({"chars": ["a"]})", R"({"chars": [1], "tasks": {}})",
                                   R"({"chars": [], "tasks": {}})", R"({"chars": [], "tasks": {"t": []}})",
                                   R"({"chars": [], "tasks": {"t": [["a"]]}})",
                                   R"({"chars": [], "tasks": {"t": [["", "a"]]}})"}) {
    CAPTURE(broken);
    CHECK(contains(refusal([&] { load(broken); }), file.string()));
  }
  CHECK_THROWS_AS(zoo::read_questions(dir.path() / "none.json"), braid::io_error);
}

TEST_CASE("the table keeps within its width, however many tasks there are", "[zoo]") {
  for (std::size_t count : {1u, 4u, 8u, 9u, 30u}) {
    std::vector<std::string> tasks;
    for (std::size_t i = 0; i < count; ++i) { tasks.push_back("a_long_name_" + std::to_string(i)); }
    std::ostringstream out;
    std::string const method(30, 'm');
    zoo::table table(out, {"short", method}, tasks, 100);
    table.begin(method);
    table.finish(zoo::result{method, std::vector<double>(count, 0.5), 0.25, 1.0});
    std::istringstream lines(out.str());
    std::string line;
    std::size_t values = 0;
    while (std::getline(lines, line)) {
      CAPTURE(count, line);
      CHECK(line.size() <= 100);
      for (std::size_t at = line.find("0.500"); at != std::string::npos; at = line.find("0.500", at + 1)) { ++values; }
    }
    CHECK(values == count + 1);  // and the mean
    CHECK(contains(out.str(), "0.250"));
    CHECK(contains(out.str(), "stored"));
  }
}

TEST_CASE("a row that is never finished still ends its line", "[zoo]") {
  std::ostringstream out;
  {
    zoo::table table(out, {"merge"}, {"add"}, 100);
    table.begin("merge");
  }
  CHECK(out.str().back() == '\n');
}

TEST_CASE("the table as JSON names every task", "[zoo]") {
  auto const json = zoo::to_json("dir", {"sort", "add"}, {{"unmerged", {1.0, 0.5}, 1.0, 2.0}});
  CHECK(json["rows"][0]["accuracy"].dump() == R"({"sort":1.0,"add":0.5})");
  CHECK(json["rows"][0]["mean"] == 0.75);
  CHECK(json["rows"][0]["method"] == "unmerged");
  CHECK(json["zoo"] == "dir");
}

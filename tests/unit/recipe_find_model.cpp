#include "unit/io_support.hpp"

#include <braid/recipe/find_model.hpp>

using namespace braid_test;
using namespace braid::recipe;
namespace fs = std::filesystem;

namespace {

void put_model(fs::path const& dir) {
  put_file(dir / "config.json", "{}");
  put_file(dir / "model.safetensors", small_safetensors({"w"}));
}

std::string commit(char digit) { return std::string(40, digit); }

}  // namespace

TEST_CASE("a model is found as a path, below a root, then in the cache", "[recipe][find_model]") {
  temp_dir dir;
  model_search const where{{dir.path() / "first", dir.path() / "second"}, dir.path() / "hub"};
  fs::path const cached = dir.path() / "hub" / "models--org--m";
  put_file(cached / "refs" / "main", commit('a') + "\n");
  put_model(cached / "snapshots" / commit('a'));
  CHECK(find_model({"org/m"}, where) == cached / "snapshots" / commit('a'));
  put_model(dir.path() / "second" / "org" / "m");
  CHECK(find_model({"org/m"}, where) == dir.path() / "second" / "org" / "m");
  put_model(dir.path() / "first" / "org" / "m");
  CHECK(find_model({"org/m"}, where) == dir.path() / "first" / "org" / "m");
  std::string const whole = (dir.path() / "second" / "org" / "m").string();
  CHECK(find_model({whole}, where) == whole);
}

TEST_CASE("revisions are branches, tags or commits of the cache", "[recipe][find_model]") {
  temp_dir dir;
  model_search const where{{}, dir.path()};
  fs::path const repository = dir.path() / "models--gpt2";
  put_file(repository / "refs" / "main", commit('a'));
  put_file(repository / "refs" / "pr" / "3", commit('b'));
  put_model(repository / "snapshots" / commit('a'));
  put_model(repository / "snapshots" / commit('b'));
  CHECK(find_model({"gpt2"}, where).filename() == commit('a'));
  CHECK(find_model({"gpt2", "pr/3"}, where).filename() == commit('b'));
  CHECK(find_model({"gpt2", commit('b')}, where).filename() == commit('b'));
  CHECK(message_of([&] {
          (void)find_model({"gpt2", "v9"}, where);
        }).find("but not its revision \"v9\"") != std::string::npos);
  CHECK_THROWS_AS(find_model({"gpt2", "../snapshots/" + commit('a')}, where), braid::argument_error);
  put_file(repository / "refs" / "odd", "../../elsewhere");
  CHECK_THROWS_AS(find_model({"gpt2", "odd"}, where), braid::argument_error);
}

TEST_CASE("a model that isn't there is refused with the places that were looked in", "[recipe][find_model]") {
  temp_dir dir;
  std::string const message = message_of([&] {
    (void)find_model({"org/none"}, {{dir.path() / "models"}, dir.path() / "hub"});
  });
  CHECK(message.find("there is no model org/none; looked for org/none, ") == 0);
  CHECK(message.find((dir.path() / "models" / "org/none").string()) != std::string::npos);
  CHECK(message.find("models--org--none") != std::string::npos);
  put_model(dir.path() / "outside");
  CHECK_THROWS_AS(find_model({"../outside"}, {{dir.path() / "models"}, {}}), braid::argument_error);
}

TEST_CASE("what a model's directory lacks is said", "[recipe][find_model]") {
  temp_dir dir;
  auto const complaint = [&](char const* name, model_content wanted = model_content::weights) {
    return message_of([&] { (void)find_model({(dir.path() / name).string()}, {}, wanted); });
  };
  put_file(dir.path() / "pickled" / "pytorch_model.bin", "x");
  CHECK(complaint("pickled").find("pickled (.bin), and braid reads safetensors only; convert") != std::string::npos);
  put_file(dir.path() / "both" / "pytorch_model.bin", "x");
  put_model(dir.path() / "both");
  CHECK(complaint("both").empty());
  fs::create_directories(dir.path() / "empty");
  CHECK(complaint("empty").find("has no *.safetensors") != std::string::npos);
  put_file(dir.path() / "lora" / "adapter_config.json", "{}");
  put_file(dir.path() / "lora" / "adapter_model.safetensors", small_safetensors({"w"}));
  CHECK(complaint("lora", model_content::adapter).empty());
  CHECK(complaint("lora").find("is an adapter without its model; write MODEL+") != std::string::npos);
  CHECK(complaint("both", model_content::adapter).find("has no adapter_config.json") != std::string::npos);
}

TEST_CASE("the cache is where the environment says", "[recipe][find_model]") {
  // Set for this test only; tests run one after the other.
  struct scope {
    std::vector<std::pair<std::string, std::optional<std::string>>> before;
    void set(char const* name, char const* value) {
      char const* const old = std::getenv(name);
      before.emplace_back(name, old == nullptr ? std::nullopt : std::optional<std::string>(old));
      value == nullptr ? ::unsetenv(name) : ::setenv(name, value, 1);
    }
    ~scope() {
      for (auto it = before.rbegin(); it != before.rend(); ++it) {
        it->second ? ::setenv(it->first.c_str(), it->second->c_str(), 1) : ::unsetenv(it->first.c_str());
      }
    }
  } environment;
  for (char const* const name : {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) { environment.set(name, nullptr); }
  environment.set("HOME", "/somebody");
  CHECK(default_hub() == "/somebody/.cache/huggingface/hub");
  environment.set("XDG_CACHE_HOME", "/cache");
  CHECK(default_hub() == "/cache/huggingface/hub");
  environment.set("HF_HOME", "/hf");
  CHECK(default_hub() == "/hf/hub");
  environment.set("HF_HUB_CACHE", "/direct");
  CHECK(default_hub() == "/direct");
}

#include "unit/io_support.hpp"

#include <braid/io/checkpoint.hpp>

using namespace braid_test;
using code = braid::format_code;

namespace {

std::vector<std::string> tensor_names(braid::checkpoint const& c) {
  std::vector<std::string> names;
  for (auto const& t : c.tensors()) { names.push_back(t.name); }
  return names;
}

using names = std::vector<std::string>;

/// Two shards with an index of that weight_map.
void put_shards(std::filesystem::path const& dir, std::string const& weight_map) {
  put_file(dir / "model-00001-of-00002.safetensors", small_safetensors({"b", "d"}, '1'));
  put_file(dir / "model-00002-of-00002.safetensors", small_safetensors({"a", "c"}, '2'));
  put_file(dir / "model.safetensors.index.json", R"({"metadata":{"total_size":8},"weight_map":)" + weight_map + "}");
}

std::string const right_map = R"({"a":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors",
  "c":"model-00002-of-00002.safetensors","d":"model-00001-of-00002.safetensors"})";

}  // namespace

TEST_CASE("a directory with model.safetensors is a checkpoint, named after it") {
  temp_dir t;
  auto const dir = t.path() / "expert-1";
  put_file(dir / "model.safetensors", small_safetensors({"w", "b"}));
  put_file(dir / "config.json", R"({"model_type":"llama"})");
  braid::checkpoint const c{dir};
  CHECK(c.name() == "expert-1");
  CHECK(c.path() == dir);
  CHECK(tensor_names(c) == names{"b", "w"});
  CHECK((c.config().at("model_type") == "llama"));
  CHECK(c.find("w") == &c.at("w"));
  CHECK(c.find("x") == nullptr);
  CHECK(c.bytes(c.at("w")).size() == 2);
  CHECK(c.file_of(c.at("w")) == dir / "model.safetensors");
  CHECK(!c.metadata("format"));
  CHECK(braid::checkpoint(dir.string() + "/").name() == "expert-1");
  CHECK(braid::checkpoint(dir / "." / "").name() == "expert-1");
  CHECK(braid::checkpoint(dir, "other").name() == "other");
}

TEST_CASE("copies of a checkpoint share its mapping and outlive it") {
  temp_dir t;
  put_file(t.path() / "model.safetensors", small_safetensors({"w"}, 'q'));
  std::vector<braid::checkpoint> copies;
  {
    braid::checkpoint const c{t.path().c_str()};
    copies.assign(3, c);
    CHECK(copies[0].bytes(copies[0].at("w")).data() == c.bytes(c.at("w")).data());
  }
  CHECK(std::to_integer<char>(copies[2].bytes(copies[2].at("w"))[1]) == 'q');
  std::vector<braid::checkpoint> const listed{{t.path().c_str()}, {t.path().c_str()}};
  CHECK(listed.size() == 2);
}

TEST_CASE("shards with an index are one checkpoint") {
  temp_dir t;
  put_shards(t.path(), right_map);
  put_file(t.path() / "consolidated.safetensors", small_safetensors({"other"}));
  braid::checkpoint const c{t.path()};
  CHECK(tensor_names(c) == names{"a", "b", "c", "d"});
  CHECK(c.at("a").file == 1);
  CHECK(c.at("b").file == 0);
  CHECK(std::to_integer<char>(c.bytes(c.at("a"))[0]) == '2');
  CHECK(std::to_integer<char>(c.bytes(c.at("d"))[0]) == '1');
  CHECK(c.file_of(c.at("c")).filename() == "model-00002-of-00002.safetensors");
}

TEST_CASE("an index that contradicts its shards is refused") {
  std::string const one = "model-00001-of-00002.safetensors";
  std::string const two = "model-00002-of-00002.safetensors";
  auto const map = [&](std::string const& a, std::string const& more = "") {
    return R"({"a":")" + a + R"(","b":")" + one + R"(","c":")" + two + R"(","d":")" + one + "\"" + more + "}";
  };
  auto const result = [&](std::string const& weight_map) {
    temp_dir t;
    put_shards(t.path() / "m", weight_map);
    put_file(t.path() / "outside.safetensors", small_safetensors({"a"}));
    return code_of([&] { braid::checkpoint{t.path() / "m"}; });
  };
  CHECK(result(map(two)) == 0);
  CHECK(result(map(one)) == number(code::tensor_not_in_shard));
  CHECK(result(map(two, R"(,"z":")" + two + "\"")) == number(code::tensor_not_in_shard));
  CHECK(result(map(two, R"(,"z":"model-00003-of-00002.safetensors")")) == number(code::missing_shard));
  CHECK(result(R"({"b":")" + one + R"(","c":")" + two + R"(","d":")" + one + "\"}") == number(code::unlisted_tensor));
  CHECK(result(map("../outside.safetensors")) == number(code::shard_name));
  CHECK(result(map("/outside.safetensors")) == number(code::shard_name));
  CHECK(result(map("sub/../../outside.safetensors")) == number(code::shard_name));
  CHECK(result(map("model.bin")) == number(code::shard_name));
  CHECK(result(map(two + "\\u0000.safetensors")) == number(code::shard_name));
  CHECK(result(map(two, R"(,"a":")" + two + "\"")) == number(code::index_json));  // a key twice
  CHECK(result("{}") == number(code::index_structure));
  CHECK(result("[]") == number(code::index_structure));
  CHECK(result(R"({"a":1})") == number(code::index_structure));
  CHECK(result("{") == number(code::index_json));
  CHECK(result(std::string(5000, '[')) == number(code::index_json));
}

TEST_CASE("a tensor in two shards is refused and both are named") {
  temp_dir t;
  put_shards(t.path(), right_map);
  put_file(t.path() / "model-00001-of-00002.safetensors", small_safetensors({"b", "d", "a"}));
  CHECK(code_of([&] { braid::checkpoint{t.path()}; }) == number(code::tensor_in_two_shards));
  auto const m = message_of([&] { braid::checkpoint{t.path()}; });
  CHECK(contains(m, "tensor \"a\" is in both \"model-00001-of-00002.safetensors\" and \"model-00002-of-00002."));
}

TEST_CASE("weights are found under other names and without an index") {
  temp_dir t;
  auto const put = [&](std::string const& dir, names const& files) {
    for (auto const& f : files) { put_file(t.path() / dir / f, small_safetensors({"tensor of " + f})); }
    return t.path() / dir;
  };
  CHECK(braid::checkpoint{put("lone", {"weights.safetensors"})}.tensors().size() == 1);
  CHECK(braid::checkpoint{put("several", {"x.safetensors", "y.safetensors"})}.tensors().size() == 2);
  CHECK(braid::checkpoint{put("full", {"m-1-of-2.safetensors", "m-2-of-2.safetensors"})}.tensors().size() == 2);
  CHECK(braid::checkpoint{put("main", {"model.safetensors", "consolidated.safetensors"})}.tensors().size() == 1);
  CHECK(code_of([&] {
          braid::checkpoint{put("gap", {"m-1-of-3.safetensors", "m-3-of-3.safetensors"})};
        }) == number(code::missing_shard));
  CHECK(code_of([&] { braid::checkpoint{put("only", {"m-00001-of-00002.safetensors"})}; }) ==
        number(code::missing_shard));
  CHECK(code_of([&] {
          braid::checkpoint{put("mixed", {"m-1-of-1.safetensors", "consolidated.safetensors"})};
        }) == number(code::ambiguous_weights));
  CHECK(code_of([&] {
          braid::checkpoint{put("two", {"m-1-of-1.safetensors", "n-1-of-1.safetensors"})};
        }) == number(code::ambiguous_weights));

  put_shards(t.path() / "both", right_map);
  put("both", {"model.safetensors"});
  CHECK(code_of([&] { braid::checkpoint{t.path() / "both"}; }) == number(code::ambiguous_weights));

  auto const braided = put("braided", {"braid-00001-of-00001.safetensors"});
  put_file(braided / "braid.safetensors.index.json",
           R"({"weight_map":{"tensor of braid-00001-of-00001.safetensors":"braid-00001-of-00001.safetensors"}})");
  CHECK(braid::checkpoint{braided}.tensors().size() == 1);
  put_file(braided / "other.safetensors.index.json", "{}");
  CHECK(code_of([&] { braid::checkpoint{braided}; }) == number(code::ambiguous_weights));
}

TEST_CASE("links to files elsewhere are followed, as in the cache of a model hub") {
  temp_dir t;
  put_file(t.path() / "blobs" / "abc", small_safetensors({"w"}));
  std::filesystem::create_directories(t.path() / "snapshot");
  std::filesystem::create_symlink("../blobs/abc", t.path() / "snapshot" / "model.safetensors");
  std::filesystem::create_symlink("../blobs/gone", t.path() / "snapshot" / "README.md");
  std::filesystem::create_directory_symlink("snapshot", t.path() / "main");
  braid::checkpoint const c{t.path() / "main"};
  CHECK(c.name() == "main");
  CHECK(c.tensors().size() == 1);
  CHECK(c.side_files().empty());
}

TEST_CASE("a directory without safetensors says what it has and what to do") {
  temp_dir t;
  CHECK(contains(message_of([&] { braid::checkpoint{t.path() / "gone"}; }), "gone: no such directory"));
  CHECK_THROWS_AS(braid::checkpoint(t.path() / "gone"), braid::io_error);
  auto const make = [&](std::string const& name, names const& files) {
    std::filesystem::create_directories(t.path() / name);
    for (auto const& f : files) { put_file(t.path() / name / f, "x"); }
    return t.path() / name;
  };
  CHECK(contains(message_of([&] { braid::checkpoint{make("empty", {})}; }), "is empty"));
  CHECK(code_of([&] { braid::checkpoint{t.path() / "empty"}; }) == number(code::no_weights));
  CHECK(code_of([&] { braid::checkpoint{make("config", {"config.json"})}; }) == number(code::no_weights));
  for (auto const* file : {"pytorch_model.bin", "model.pt", "tf_model.h5", "model.onnx"}) {
    auto const m = message_of([&] { braid::checkpoint{make(file, {file, "config.json"})}; });
    CHECK(contains(m, "save_pretrained(directory, safe_serialization=True)"));
    CHECK(contains(m, file));
  }
  CHECK(contains(message_of([&] { braid::checkpoint{make("g", {"model.gguf"})}; }), "GGUF"));
  CHECK(code_of([&] { braid::checkpoint{t.path() / "g"}; }) == number(code::foreign_weights));
  put_file(t.path() / "file.safetensors", small_safetensors({"w"}));
  CHECK_THROWS_AS(braid::checkpoint(t.path() / "file.safetensors"), braid::argument_error);
  CHECK(contains(message_of([&] { braid::checkpoint{t.path() / "file.safetensors"}; }), "give the directory"));
}

TEST_CASE("an unknown tensor is an error that names the checkpoint and the nearest tensor") {
  temp_dir t;
  put_file(t.path() / "sort" / "model.safetensors", small_safetensors({"model.norm.weight", "lm_head.weight"}));
  braid::checkpoint const c{t.path() / "sort"};
  auto const m = message_of([&] { (void)c.at("model.norm.wieght"); });
  CHECK(contains(m, "checkpoint \"sort\""));
  CHECK(contains(m, "has no tensor \"model.norm.wieght\"; the nearest name is \"model.norm.weight\""));
  CHECK(!contains(message_of([&] { (void)c.at("zzz"); }), "nearest"));
  CHECK(!contains(message_of([&] { (void)c.at(std::string(100000, 'z')); }), "nearest"));
  CHECK_THROWS_AS(c.at(""), braid::argument_error);
}

TEST_CASE("side files are all that travels with a model") {
  temp_dir t;
  put_file(t.path() / "model.safetensors", small_safetensors({"w"}));
  for (auto const* f :
       {"config.json", "tokenizer.json", "merges.txt", "modeling_x.py", "LICENSE", "chat_template.jinja",
        "pytorch_model.bin", "model.pt", "optimizer.pth", "m.gguf", "m.h5", "m.msgpack", "m.onnx", "old.safetensors",
        "pytorch_model.bin.index.json", ".gitattributes", "experts/a/config.json"}) {
    put_file(t.path() / f, "{}");
  }
  CHECK(braid::checkpoint{t.path()}.side_files() ==
        names{"LICENSE", "chat_template.jinja", "config.json", "merges.txt", "modeling_x.py", "tokenizer.json"});
}

TEST_CASE("a broken config.json is an error only for who asks for it") {
  temp_dir t;
  put_file(t.path() / "model.safetensors", small_safetensors({"w"}));
  CHECK(braid::checkpoint{t.path()}.config().empty());
  for (std::string const text : {"", "{", "[]", "{\"a\":1,\"a\":2}", "{\"a\":NaN}"}) {
    put_file(t.path() / "config.json", text);
    braid::checkpoint const c{t.path()};
    CHECK(code_of([&] { (void)c.config(); }) == number(code::config_json));
    CHECK(code_of([&] { (void)c.config(); }) == number(code::config_json));
  }
}

TEST_CASE("metadata comes from the first file that has the key") {
  temp_dir t;
  put_file(t.path() / "m-1-of-2.safetensors", safetensors(R"({"__metadata__":{"format":"pt"}})"));
  put_file(t.path() / "m-2-of-2.safetensors", safetensors(R"({"__metadata__":{"format":"tf","k":"v"}})"));
  braid::checkpoint const c{t.path()};
  CHECK(c.metadata("format").value() == "pt");
  CHECK(c.metadata("k").value() == "v");
  CHECK(!c.metadata("x"));
}

TEST_CASE("a tensor of another checkpoint is refused") {
  temp_dir t;
  put_file(t.path() / "model.safetensors", small_safetensors({"w"}));
  braid::checkpoint const c{t.path()};
  auto foreign = c.at("w");
  foreign.file = 1;
  CHECK_THROWS_AS(c.bytes(foreign), braid::argument_error);
  foreign.file = 0;
  foreign.offset += 1;
  CHECK_THROWS_AS(c.bytes(foreign), braid::argument_error);
}

#include "support/models_on_disk.hpp"
#include "support/pipelines.hpp"
#include "unit/io_support.hpp"

using namespace braid_test;

namespace {

std::vector<expert_path> paths(disk_family const& d, std::filesystem::path const& dir) {
  std::vector<expert_path> all;
  for (auto const& n : d.names) { all.push_back({n, dir / n}); }
  return all;
}

recipe random_recipe(random_source& random, int experts) {
  recipe r;
  r.method = random.one_of(all_pipelines);
  r.density = 0.2 + 0.7 * random.unit();
  r.epsilon = 0.09 * random.unit();
  r.seed = random.bits() >> 2;
  r.similarity = random.one_of(all_metrics);
  r.cluster = random.one_of(all_clusterings);
  r.groups = random.between(1, experts + 1);
  r.lambda = random.chance(0.5) ? 1.0f : 0.5f;
  return r;
}

/// Rows of the pool as one piece of memory; for tensors that aren't transposed.
std::vector<std::byte> pool_of(grouped_contents::tensor const& t) {
  auto all = t.first;
  all.insert(all.end(), t.extra.begin(), t.extra.end());
  return all;
}

constexpr dtype all_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f8_e4m3, dtype::f8_e5m2};

}  // namespace

TEST_CASE("blocks and threads change no byte of a merged checkpoint", "[run]") {
  random_source random(141);
  for (int round = 0; round < 8; ++round) {
    temp_dir dir;
    int const n = random.between(1, 5);
    disk_family const d = random_disk_family(random, n, {std::begin(all_types), std::end(all_types)});
    d.write(dir.path());
    recipe const r = random_recipe(random, n);
    auto const once = [&](index_t block_rows, int threads) {
      auto const out = dir.path() / "out";
      disk_options o;
      o.block_rows = block_rows;
      o.threads = threads;
      o.overwrite = true;
      run_on_disk(r, dir.path() / "base", paths(d, dir.path()), out, o);
      return contents(out);
    };
    auto const reference = once(0, 1);
    for (auto const& [block_rows, threads] :
         {std::pair<index_t, int>{1, 1}, {3, 2}, {7, 1}, {1, 4}, {0, 4}, {1000, 3}}) {
      INFO(block_rows << " rows a block, " << threads << " threads");
      CHECK(once(block_rows, threads) == reference);
    }
  }
}

TEST_CASE("a merge of checkpoints is what naive code computes, bit for bit", "[run][reference]") {
  random_source random(142);
  for (pipeline const method : all_pipelines) {
    for (int round = 0; round < 3; ++round) {
      temp_dir dir;
      int const n = random.between(1, 5);
      disk_family const d = random_disk_family(random, n, {std::begin(all_types), std::end(all_types)});
      d.write(dir.path());
      recipe r = random_recipe(random, n);
      r.method = method;
      r.cluster = clustering::exact;
      disk_options o;
      o.block_rows = random.below(4);
      run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
      auto const read = read_grouped(dir.path() / "out");
      REQUIRE(read.experts == d.names);
      for (auto const& [name, f] : d.merged) {
        auto const& t = read.tensors.at(name);
        CHECK(t.action == "merge");
        CHECK(t.type == f.base.type);
        auto const norms = tensor_norms(f);
        std::vector<std::vector<int>> labels;
        for (index_t c = 0; c < f.base.rows; ++c) { labels.push_back(best_labels(r, f, c, norms)); }
        auto const rows = merged_rows(r, f, labels, f.base.type);
        for (std::size_t e = 0; e < d.names.size(); ++e) {
          for (std::size_t c = 0; c < rows.size(); ++c) {
            auto const& expected = rows[c][static_cast<std::size_t>(labels[c][e])];
            INFO(name << ", " << braid::name_of(f.base.type) << ", expert " << e << ", channel " << c << ", method "
                      << static_cast<int>(method));
            REQUIRE(std::equal(expected.begin(), expected.end(),
                               t.rebuilt[e].begin() + static_cast<std::ptrdiff_t>(c * f.base.row_bytes())));
          }
        }
      }
    }
  }
}

TEST_CASE("pools on disk are the pools in memory", "[run]") {
  random_source random(143);
  for (int round = 0; round < 6; ++round) {
    temp_dir dir;
    int const n = random.between(1, 6);
    disk_family const d = random_disk_family(random, n);
    d.write(dir.path());
    recipe const r = random_recipe(random, n);
    run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "out");
    auto const read = read_grouped(dir.path() / "out");
    for (auto const& [name, f] : d.merged) {
      auto const in_memory = merge(r, f);
      auto const& t = read.tensors.at(name);
      CHECK(pool_of(t) == in_memory.pool);
      CHECK(t.rows == in_memory.rows);
      if (!std::isnan(t.similarity)) { CHECK(t.similarity == Catch::Approx(in_memory.similarity).margin(1e-6)); }
    }
  }
}

TEST_CASE("kept tensors are every expert's own, and equal rows are stored once", "[run]") {
  random_source random(144);
  for (int round = 0; round < 6; ++round) {
    temp_dir dir;
    int const n = random.between(2, 5);
    disk_family d = random_disk_family(random, n, {dtype::bf16, dtype::f16});
    std::vector<std::byte> ids(8 * 10);
    for (std::size_t i = 0; i < ids.size(); ++i) { ids[i] = static_cast<std::byte>(i); }
    d.base.push_back({"model.position_ids", dtype::i64, {1, 10}, ids});
    for (auto& e : d.experts) { e.push_back({"model.position_ids", dtype::i64, {1, 10}, ids}); }
    d.experts[1].back().data[79] = std::byte{0};
    d.write(dir.path());
    run_on_disk(random_recipe(random, n), dir.path() / "base", paths(d, dir.path()), dir.path() / "out");
    auto const read = read_grouped(dir.path() / "out");
    for (auto const& original : d.experts[0]) {
      auto const& t = read.tensors.at(original.name);
      CHECK(t.shape == original.shape);
      if (d.merged.count(original.name) != 0) { continue; }
      CHECK(t.action == "keep");
      for (std::size_t e = 0; e < d.experts.size(); ++e) {
        CHECK(t.rebuilt[e] == find(d.experts[e], original.name)->data);
      }
    }
    CHECK(read.tensors.at("model.position_ids").extra.size() == 80);
    // Rows of the embedding: as many as differ.
    std::size_t distinct = 0;
    std::size_t const row = 16 * braid::size_of(find(d.base, "model.embed_tokens.weight")->type);
    auto const rows = static_cast<std::size_t>(find(d.base, "model.embed_tokens.weight")->shape[0]);
    for (std::size_t c = 0; c < rows; ++c) {
      std::vector<std::vector<std::byte>> seen;
      for (auto& e : d.experts) {
        auto const& data = find(e, "model.embed_tokens.weight")->data;
        seen.emplace_back(data.begin() + static_cast<std::ptrdiff_t>(c * row),
                          data.begin() + static_cast<std::ptrdiff_t>((c + 1) * row));
      }
      std::sort(seen.begin(), seen.end());
      distinct += static_cast<std::size_t>(std::unique(seen.begin(), seen.end()) - seen.begin());
    }
    CHECK(pool_of(read.tensors.at("model.embed_tokens.weight")).size() == distinct * row);
  }
}

TEST_CASE("with a group for each expert a merge of checkpoints is lossless", "[run]") {
  random_source random(145);
  temp_dir dir;
  disk_family d = random_disk_family(random, 3, {dtype::bf16, dtype::f32});
  for (auto& e : d.experts) {
    for (auto& t : e) {
      matrix m(t.type, 1, elements_of(t.shape));
      fill_with_any_finite(random, m);
      if (random.chance(0.5)) { t.data = m.memory; }
    }
  }
  d.write(dir.path());
  recipe r;
  r.groups = 3;
  run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "out");
  for (std::size_t e = 0; e < 3; ++e) {
    for (auto const& t : d.experts[e]) { CHECK(read_tensor(dir.path() / "out", d.names[e], t.name) == t.data); }
  }
}

TEST_CASE("a report's numbers are those of the files", "[run][report]") {
  random_source random(146);
  for (int round = 0; round < 4; ++round) {
    temp_dir dir;
    int const n = random.between(2, 5);
    disk_family d = random_disk_family(random, n);
    std::vector<std::byte> const unused(12);
    d.base.push_back({"model.unused", dtype::f32, {3}, unused});
    d.write(dir.path());
    recipe r = random_recipe(random, n);
    r.groups = 2;
    auto const report = run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "out");
    std::uint64_t expert_bytes = 0;
    for (auto const& name : d.names) { expert_bytes += tensor_bytes(dir.path() / name); }
    std::uint64_t base_bytes = 0;
    for (auto const& [name, f] : d.merged) { base_bytes += f.base.memory.size(); }
    CHECK(report.expert_bytes == expert_bytes);
    CHECK(report.stored_bytes == tensor_bytes(dir.path() / "out"));
    CHECK(report.stored_fraction ==
          Catch::Approx(static_cast<double>(report.stored_bytes) / static_cast<double>(expert_bytes)));
    if (n > 2) { CHECK(report.stored_fraction < 1.0); }
    CHECK(report.bytes_read == expert_bytes + base_bytes);
    CHECK(report.seconds > 0.0);
    CHECK(report.tensors.size() == d.experts[0].size());
    auto const read = read_grouped(dir.path() / "out");
    CHECK(read.stored_bytes == report.stored_bytes);
    CHECK(read.expert_bytes == report.expert_bytes);
    for (auto const& t : report.tensors) {
      auto const& stored = read.tensors.at(t.name);
      CHECK(t.action == stored.action);
      CHECK(t.channels == stored.channels);
      CHECK(static_cast<std::size_t>(t.stored_rows * stored.cols) * braid::size_of(stored.type) ==
            pool_of(stored).size());
      if (t.action == "merge") { CHECK(t.groups <= 2); }
      CHECK((std::isnan(t.similarity) || std::abs(t.similarity) <= 1.0 + 1e-6));
    }
    REQUIRE(report.notes.size() == 1);
    CHECK(contains(report.notes[0], "1 tensors of the base are in no expert"));
  }
}

TEST_CASE("the order in which checkpoints are listed changes no byte", "[run]") {
  random_source random(147);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 4);
  d.write(dir.path());
  auto experts = paths(d, dir.path());
  recipe const r = random_recipe(random, 4);
  run_on_disk(r, dir.path() / "base", experts, dir.path() / "one");
  random.shuffle(experts);
  run_on_disk(r, dir.path() / "base", experts, dir.path() / "two");
  CHECK(contents(dir.path() / "one") == contents(dir.path() / "two"));
}

TEST_CASE("sharded output holds the same tensors", "[run]") {
  random_source random(148);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 3);
  d.write(dir.path());
  recipe r;
  r.seed = 3;
  disk_options o;
  auto const whole = run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "whole", o);
  o.max_shard_bytes = 4000;
  auto const parts = run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "parts", o);
  CHECK(whole.stored_bytes == parts.stored_bytes);
  CHECK(contents(dir.path() / "parts").count("model.safetensors.index.json") == 1);
  CHECK(contents(dir.path() / "whole").count("model.safetensors") == 1);
  auto const a = read_grouped(dir.path() / "whole");
  auto const b = read_grouped(dir.path() / "parts");
  CHECK(a.description == b.description);
  for (auto const& [name, t] : a.tensors) {
    CHECK(b.tensors.at(name).first == t.first);
    CHECK(b.tensors.at(name).extra == t.extra);
    CHECK(b.tensors.at(name).rows == t.rows);
  }
}

TEST_CASE("configs and tokenizers travel along, identical ones once", "[run]") {
  random_source random(149);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 3);
  d.write(dir.path());
  for (auto const& n : d.names) {
    write_note(dir.path() / n / "config.json", "{\"same\":true}");
    write_note(dir.path() / n / "tokenizer.json", n == d.names[0] ? "{}" : "{\"other\":1}");
    write_note(dir.path() / n / "pytorch_model.bin", "not these");
  }
  write_note(dir.path() / d.names[2] / "LICENSE", "mine");
  run_on_disk({}, dir.path() / "base", paths(d, dir.path()), dir.path() / "out");
  auto const all = contents(dir.path() / "out");
  std::vector<std::string> names;
  for (auto const& [name, content] : all) { names.push_back(name); }
  CHECK(names == std::vector<std::string>{"config.json", "experts/" + d.names[1] + "/tokenizer.json",
                                          "experts/" + d.names[2] + "/LICENSE", "model.safetensors", "tokenizer.json"});
  CHECK(all.at("tokenizer.json") == "{}");
  for (auto const& n : d.names) {
    extract_expert(dir.path() / "out", n, dir.path() / ("again-" + n));
    auto again = contents(dir.path() / ("again-" + n));
    auto original = contents(dir.path() / n);
    original.erase("pytorch_model.bin");
    again.erase("model.safetensors");
    original.erase("model.safetensors");
    CHECK(again == original);
  }
}

TEST_CASE("progress grows and ends with everything", "[run][report]") {
  random_source random(150);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 3);
  d.write(dir.path());
  std::vector<braid::progress> seen;
  disk_options o;
  o.block_rows = 2;
  o.threads = 3;
  std::vector<std::string> tensors;
  o.on_progress = [&](braid::progress const& p) {
    seen.push_back(p);
    tensors.emplace_back(p.tensor);
  };
  auto const report = run_on_disk({}, dir.path() / "base", paths(d, dir.path()), dir.path() / "out", o);
  REQUIRE(seen.size() > d.experts[0].size());
  for (std::size_t i = 0; i < seen.size(); ++i) {
    CHECK(seen[i].bytes == report.bytes_read);
    CHECK(seen[i].bytes_done <= seen[i].bytes);
    CHECK(seen[i].tensors == d.experts[0].size());
    CHECK(find(const_cast<disk_model&>(d.experts[0]), tensors[i]) != nullptr);
    if (i > 0) {
      CHECK(seen[i].bytes_done >= seen[i - 1].bytes_done);
      CHECK(seen[i].seconds >= seen[i - 1].seconds);
      CHECK(seen[i].tensors_done >= seen[i - 1].tensors_done);
    }
  }
  // Blocks round down.
  CHECK(static_cast<double>(seen.back().bytes_done) > 0.99 * static_cast<double>(seen.back().bytes));
}

TEST_CASE("inputs are identified by a hash that sees every bit", "[run]") {
  random_source random(151);
  temp_dir dir;
  disk_family d = random_disk_family(random, 2);
  d.write(dir.path());
  auto const hash_of = [&](std::string const& model, std::string const& out) {
    auto const text = read_grouped(dir.path() / out).description;
    auto const at = text.find("\"name\":\"" + model + "\"");
    auto const hash = text.rfind("\"hash\":\"", at);
    return text.substr(hash, text.find('"', hash + 8) - hash);
  };
  disk_options o;
  recipe r;
  r.groups = 1;
  run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "a", o);
  o.block_rows = 1;
  r.method = pipeline::dare_sum;
  run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "b", o);
  for (auto const& n : {d.names[0], d.names[1], std::string("base")}) {
    CHECK(contains(hash_of(n, "a"), "xxh3:"));
    CHECK(hash_of(n, "a") == hash_of(n, "b"));
  }
  d.experts[1][2].data[3] ^= std::byte{1};
  d.write(dir.path());
  run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "c", o);
  CHECK(hash_of(d.names[0], "a") == hash_of(d.names[0], "c"));
  CHECK(hash_of("base", "a") == hash_of("base", "c"));
  CHECK(hash_of(d.names[1], "a") != hash_of(d.names[1], "c"));
  o.hash_inputs = false;
  run_on_disk(r, dir.path() / "base", paths(d, dir.path()), dir.path() / "d", o);
  CHECK_FALSE(contains(read_grouped(dir.path() / "d").description, "xxh3:"));
}

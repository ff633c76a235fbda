/// Residuals on their way through files: what a merge of checkpoints writes is what the merge in memory computes.

#include "support/models_on_disk.hpp"
#include "support/threads.hpp"
#include "unit/io_support.hpp"

#include <braid/braid.hpp>

using namespace braid_test;
using braid::residual_code;

namespace {

using merge_type = braid::channel_merge<braid::cpu, braid::prune::none, braid::similarity::cosine, braid::cluster::exact,
                                        braid::consensus::mean, braid::residual::any>;

std::vector<braid::residual::any> all_residuals() {
  namespace residual = braid::residual;
  return {residual::sign_bits<1>{}, residual::sign_bits<2>{}, residual::sign_bits<3>{},
          residual::ternary{},      residual::trellis<1>{},   residual::trellis<2>{}};
}

merge_type merger(braid::residual::any const& r, int groups) { return merge_type{{.residual = r, .groups = groups}}; }

/// One merged tensor, in memory.
struct in_memory {
  std::vector<std::vector<std::byte>> rebuilt;      // [expert]
  std::vector<std::vector<residual_code>> code;     // [expert][channel]
};

template <class T>
in_memory merged_as(merge_type const& m, family const& f) {
  auto const view = [](matrix const& w) {
    return braid::tensor_view<T const>(reinterpret_cast<T const*>(w.memory.data()), w.rows, w.cols, w.stride);
  };
  std::vector<braid::expert_view<T>> experts;
  for (auto const& e : f.experts) { experts.push_back({e.name, view(e.weight)}); }
  auto const g = m(braid::cpu(1), f.tensor, view(f.base), experts);
  in_memory out;
  for (std::size_t e = 0; e < f.experts.size(); ++e) {
    matrix whole(f.base.type, f.base.rows, f.base.cols);
    g.extract(e, {reinterpret_cast<T*>(whole.memory.data()), whole.rows, whole.cols});
    out.rebuilt.push_back(std::move(whole.memory));
    auto& codes = out.code.emplace_back();
    for (index_t c = 0; c < f.base.rows; ++c) { codes.push_back(g.residual(e, c)); }
  }
  return out;
}

in_memory merged(merge_type const& m, family const& f) {
  if (f.base.type == dtype::f32) { return merged_as<float>(m, f); }
  return f.base.type == dtype::f16 ? merged_as<braid::float16>(m, f) : merged_as<braid::bfloat16>(m, f);
}

struct disk_run {
  int threads = 1;
  braid::run_options options{};
};

template <class Method>
braid::report run_dir(Method const& m, disk_family const& d, std::filesystem::path const& dir, std::filesystem::path const& out,
                      disk_run const& how = {}) {
  allow_many_threads();
  std::vector<braid::checkpoint> experts;
  for (auto const& n : d.names) { experts.emplace_back(dir / n, n); }
  return braid::run(m, braid::checkpoint(dir / "base"), experts, out, how.options, braid::cpu(how.threads));
}

std::vector<std::byte> read(braid::grouped_checkpoint const& g, std::string const& tensor, std::size_t expert) {
  std::size_t bytes = 1;
  for (index_t const n : g.shape(expert, tensor)) { bytes *= static_cast<std::size_t>(n); }
  for (auto const& t : g.tensors()) { bytes *= t.name == tensor ? braid::size_of(t.type) : 1; }
  std::vector<std::byte> out(bytes, std::byte{0x5A});
  g.read(tensor, expert, out);
  return out;
}

std::vector<std::byte> bytes_of(braid::checkpoint const& c, std::string const& tensor) {
  auto const b = c.bytes(c.at(tensor));
  return {b.begin(), b.end()};
}

/// Rebuilds an expert's tensor from the public parts of the checkpoint, row by row; for tensors that aren't transposed.
std::vector<std::byte> by_hand(braid::grouped_checkpoint const& g, braid::grouped_checkpoint::tensor const& t,
                               std::size_t expert) {
  auto const rows = g.rows(t.name, expert);
  std::vector<braid::residual_place> places(rows.size());
  g.residuals(t.name).next(expert, places);
  std::size_t const row_bytes = static_cast<std::size_t>(t.row_elements) * braid::size_of(t.type);
  std::vector<std::byte> out(rows.size() * row_bytes);
  std::vector<float> x(static_cast<std::size_t>(t.row_elements));
  for (std::size_t c = 0; c < rows.size(); ++c) {
    auto const row = static_cast<std::size_t>(rows[c]);
    auto const first = static_cast<std::size_t>(t.first_channels);
    std::byte const* const shared =
        row < first ? g.first_rows(t.name).data() + row * row_bytes : g.extra_rows(t.name).data() + (row - first) * row_bytes;
    std::byte* const to = out.data() + c * row_bytes;
    if (row_bytes > 0) { std::memcpy(to, shared, row_bytes); }
    auto const& at = places[c];
    if (at.code == residual_code::none) { continue; }
    std::array<braid::bfloat16, 3> scale{};
    std::memcpy(scale.data(), g.residual_scales(t.name).data() + 2 * at.scale,
                2 * static_cast<std::size_t>(braid::residual_scales(at.code)));
    braid::decode_residual(at.code, g.residual_planes(t.name).data() + at.plane, scale.data(), t.row_elements, x.data());
    auto const column = g.residual_columns(t.name);
    for (index_t i = 0; i < t.row_elements; ++i) {
      auto const k = static_cast<std::size_t>(i);
      float const more = column.empty() ? x[k] : static_cast<float>(column[k]) * x[k];
      store(t.type, load(t.type, to, i) + more, to, i);
    }
  }
  return out;
}

/// A family in which no two rows are equal, so that all of a tensor's shared rows have residuals.
disk_family distinct_family(random_source& random, int experts, dtype type) {
  disk_family d = empty_family(experts);
  d.add("model.layers.0.self_attn.q_proj.weight", type, {9, 70}, random, true);
  auto& f = d.merged.begin()->second;
  for (std::size_t e = 0; e < f.experts.size(); ++e) {
    for (index_t r = 0; r < f.base.rows; ++r) {
      for (index_t c = 0; c < f.base.cols; ++c) { f.experts[e].weight.set(r, c, static_cast<float>(random.bell())); }
    }
    d.experts[e][0].data = f.experts[e].weight.memory;
  }
  return d;
}

nlohmann::json description(std::filesystem::path const& dir) { return braid::grouped_checkpoint(dir).description(); }

std::vector<std::string> weights_in(std::filesystem::path const& dir) {
  auto names = names_in(dir);
  std::erase_if(names, [](std::string const& n) { return n.find(".safetensors") == std::string::npos; });
  return names;
}

constexpr dtype merge_types[] = {dtype::f32, dtype::f16, dtype::bf16};

}  // namespace

TEST_CASE("experts with residuals come back from files as from memory, bit for bit", "[run][residual]") {
  random_source random(611);
  int implied = 0;
  int listed = 0;
  for (auto const& residual : all_residuals()) {
    for (int groups = 1; groups <= 2; ++groups) {
      temp_dir dir;
      int const n = random.between(groups + 1, 5);
      disk_family const d = random.chance(0.3) ? distinct_family(random, n, random.one_of(merge_types))
                                               : random_disk_family(random, n, {std::begin(merge_types), std::end(merge_types)});
      d.write(dir.path());
      auto const m = merger(residual, groups);
      disk_run how;
      how.threads = random.between(1, 3);
      how.options.block_rows = random.below(4);
      auto const report = run_dir(m, d, dir.path(), dir.path() / "out", how);
      braid::grouped_checkpoint const g(dir.path() / "out");
      CHECK(g.description()["format"] == 2);
      CHECK(g.description()["recipe"]["residual"] == nlohmann::json{{"name", residual.name}, {"sweeps", residual.sweeps}});
      CHECK(weights_in(dir.path() / "out") == std::vector<std::string>{"braid.safetensors"});
      CHECK(report.stored_bytes == tensor_bytes(dir.path() / "out"));
      CHECK(report.stored_bytes == g.stored_bytes());
      std::uint64_t residual_bytes = 0;
      for (std::size_t e = 0; e < d.names.size(); ++e) { g.extract(d.names[e], dir.path() / ("back-" + d.names[e])); }
      for (auto const& t : g.tensors()) {
        INFO(residual.name << ", " << groups << " groups, " << t.name << ", " << braid::name_of(t.type));
        residual_bytes += t.residual_bytes;
        auto const it = d.merged.find(t.name);
        if (it == d.merged.end()) {
          CHECK(t.residual_bytes == 0);
          CHECK(t.residuals.empty());
        }
        auto const expected = it == d.merged.end() ? in_memory{} : merged(m, it->second);
        bool any = false;
        for (std::size_t e = 0; e < d.names.size(); ++e) {
          auto const got = read(g, t.name, e);
          if (it != d.merged.end()) {
            CHECK(got == expected.rebuilt[e]);
            for (std::size_t c = 0; c < expected.code[e].size(); ++c) {
              residual_code const code = expected.code[e][c];
              any = any || code != residual_code::none;
              auto const codes = g.residual_codes(t.name);
              auto const stored = codes.empty() ? 0 : codes[e * expected.code[e].size() + c];
              CHECK(static_cast<residual_code>(stored) == code);
            }
          }
          CHECK(got == by_hand(g, t, e));
          CHECK(got == bytes_of(braid::checkpoint(dir.path() / ("back-" + d.names[e])), t.name));
        }
        CHECK(t.residuals == (any ? std::vector<residual_code>{residual.code} : std::vector<residual_code>{}));
        if (any) {
          bool const is_implied = g.description().contains("residuals") && g.description()["residuals"].contains(t.name);
          CHECK(is_implied == (g.files().find("braid.code." + t.name) == nullptr));
          ++(is_implied ? implied : listed);
        }
      }
      CHECK(report.residual_bytes == residual_bytes);
    }
  }
  CHECK(implied > 0);
  CHECK(listed > 0);
}

TEST_CASE("blocks and threads change no byte of a checkpoint with residuals", "[run][residual]") {
  random_source random(612);
  for (auto const& residual : {all_residuals()[1], all_residuals()[3]}) {
    temp_dir dir;
    disk_family const d = random_disk_family(random, 4, {std::begin(merge_types), std::end(merge_types)});
    d.write(dir.path());
    auto const once = [&](index_t block_rows, int threads) {
      disk_run how;
      how.threads = threads;
      how.options.block_rows = block_rows;
      how.options.overwrite = true;
      run_dir(merger(residual, 2), d, dir.path(), dir.path() / "out", how);
      return contents(dir.path() / "out");
    };
    auto const reference = once(0, 1);
    for (auto const& [block_rows, threads] : {std::pair<index_t, int>{1, 1}, {3, 2}, {1, 4}, {1000, 3}}) {
      INFO(block_rows << " rows a block, " << threads << " threads");
      CHECK(once(block_rows, threads) == reference);
    }
  }
}

TEST_CASE("where every expert keeps its rows, a residual changes nothing, and the directory is an ordinary one",
          "[run][residual]") {
  random_source random(613);
  temp_dir dir;
  disk_family const d = random_disk_family(random, 3);
  d.write(dir.path());
  auto const report = run_dir(merger(braid::residual::ternary{}, 3), d, dir.path(), dir.path() / "out");
  CHECK(report.residual_bytes == 0);
  CHECK(description(dir.path() / "out")["format"] == 1);
  CHECK(weights_in(dir.path() / "out") == std::vector<std::string>{"model.safetensors"});
  run_dir(merger(braid::residual::none{}, 2), d, dir.path(), dir.path() / "none");
  auto const about = description(dir.path() / "none");
  CHECK(about["format"] == 1);
  CHECK(!about["recipe"].contains("residual"));
  CHECK(weights_in(dir.path() / "none") == std::vector<std::string>{"model.safetensors"});
}

TEST_CASE("files with residuals are in the order of falling element size, and aligned, in one file and in many",
          "[run][residual]") {
  random_source random(614);
  for (std::uint64_t const most : {std::uint64_t{5'000'000'000}, std::uint64_t{4'000}}) {
    for (auto const out_type : {std::optional<dtype>{}, std::optional(dtype::f8_e4m3)}) {
      temp_dir dir;
      disk_family d = random_disk_family(random, 4, {std::begin(merge_types), std::end(merge_types)});
      // Vocabularies that differ, beside merged tensors.
      auto& embedding = *find(d.experts[2], "model.embed_tokens.weight");
      embedding.shape[0] += 3;
      embedding.data.resize(embedding.data.size() + 3 * 16 * braid::size_of(embedding.type), std::byte{1});
      std::vector<std::byte> ids(17, std::byte{3});  // an odd number of bytes
      d.base.push_back({"model.ids", dtype::u8, {17}, ids});
      for (auto& e : d.experts) { e.push_back({"model.ids", dtype::u8, {17}, ids}); }
      d.write(dir.path());
      disk_run how;
      how.options.max_shard_bytes = most;
      how.options.out_dtype = out_type;
      auto const m = merger(braid::residual::sign_bits<2>{}, 2);
      auto const report = run_dir(m, d, dir.path(), dir.path() / "out", how);
      auto const files = weights_in(dir.path() / "out");
      if (most > 4'000 && !out_type) {
        CHECK(files == std::vector<std::string>{"braid.safetensors"});
      } else {
        CHECK(files.size() > 2);
        CHECK(files.back() == "braid.safetensors.index.json");
      }
      for (auto const& name : files) {
        if (!name.ends_with(".safetensors")) { continue; }
        auto tensors = braid::safetensors_file(dir.path() / "out" / name).tensors();
        std::sort(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) { return a.offset < b.offset; });
        for (std::size_t i = 0; i < tensors.size(); ++i) {
          CHECK(tensors[i].offset % braid::size_of(tensors[i].type) == 0);
          if (i > 0) { CHECK(braid::size_of(tensors[i].type) <= braid::size_of(tensors[i - 1].type)); }
        }
      }
      braid::grouped_checkpoint const g(dir.path() / "out");
      CHECK(g.description()["format"] == 2);
      CHECK(report.stored_bytes == g.stored_bytes());
      for (auto const& n : d.names) { g.extract(n, dir.path() / ("back-" + n), {.max_shard_bytes = most}); }
      for (auto const& t : g.tensors()) {
        for (std::size_t e = 0; e < d.names.size(); ++e) {
          auto const got = read(g, t.name, e);
          INFO(t.name << ", " << braid::name_of(t.type));
          CHECK(got == bytes_of(braid::checkpoint(dir.path() / ("back-" + d.names[e])), t.name));
          CHECK(got == by_hand(g, t, e));
          if (!out_type && d.merged.count(t.name) != 0) { CHECK(got == merged(m, d.merged.at(t.name)).rebuilt[e]); }
          if (!out_type && d.merged.count(t.name) == 0) { CHECK(got == find(d.experts[e], t.name)->data); }
        }
      }
    }
  }
}

TEST_CASE("channels along the last axis get the residuals of the transposed tensor", "[run][residual]") {
  random_source random(615);
  std::string const name = "transformer.h.0.attn.c_attn.weight";
  for (auto const& residual : all_residuals()) {
    index_t const leading = random.between(1, 3);
    index_t const rows = random.between(1, 12);
    index_t const cols = random.one_of(std::array<index_t, 5>{1, 39, 41, 700, 1300});
    dtype const type = random.one_of(merge_types);
    disk_family d = empty_family(3);
    d.add(name, type, {leading, rows, cols}, random, true);
    auto const turn = [&](std::vector<std::byte> const& data) { return transposed(data, type, leading, rows, cols); };
    auto const turn_tensor = [&](disk_tensor& t) {
      t.shape = leading == 1 ? shape_t{cols, rows} : shape_t{leading, cols, rows};
      t.data = turn(t.data);
    };
    turn_tensor(d.base[0]);
    for (auto& e : d.experts) { turn_tensor(e[0]); }
    temp_dir dir;
    d.write(dir.path());
    auto const m = merger(residual, 1);
    disk_run how;
    how.options.tensors = braid::selection({}, {{"*.c_attn.weight", -1}});
    how.options.block_rows = random.below(4);
    run_dir(m, d, dir.path(), dir.path() / "out", how);
    braid::grouped_checkpoint const g(dir.path() / "out");
    auto const expected = merged(m, d.merged.at(name));
    INFO(residual.name << ", " << leading << " x " << rows << " x " << cols);
    for (std::size_t e = 0; e < 3; ++e) {
      CHECK(read(g, name, e) == turn(expected.rebuilt[e]));
      g.extract(d.names[e], dir.path() / d.names[e], {.overwrite = true});
      CHECK(bytes_of(braid::checkpoint(dir.path() / d.names[e]), name) == turn(expected.rebuilt[e]));
    }
  }
}

TEST_CASE("a large transposed tensor with residuals is extracted in pieces, bit for bit", "[run][residual]") {
  random_source random(616);
  temp_dir dir;
  std::string const name = "transformer.h.0.mlp.c_fc.weight";
  disk_family d = empty_family(2);
  index_t const cols = 1700;
  index_t const rows = 1500;
  for (auto* model : {&d.base, &d.experts[0], &d.experts[1]}) {
    std::vector<std::byte> data(static_cast<std::size_t>(cols * rows) * 2);
    for (index_t i = 0; i < cols * rows; ++i) { store(dtype::bf16, static_cast<float>(random.unit()) - 0.5f, data.data(), i); }
    model->push_back({name, dtype::bf16, {cols, rows}, std::move(data)});
  }
  d.write(dir.path());
  disk_run how;
  how.options.tensors = braid::selection({}, {{"*.c_fc.weight", 1}});
  run_dir(merger(braid::residual::ternary{}, 1), d, dir.path(), dir.path() / "out", how);
  braid::grouped_checkpoint const g(dir.path() / "out");
  g.extract(d.names[1], dir.path() / "back");
  auto const got = read(g, name, 1);
  CHECK(got == bytes_of(braid::checkpoint(dir.path() / "back"), name));
  // A row here and there, from the parts.
  auto const rows_of_expert = g.rows(name, 1);
  std::vector<braid::residual_place> places(rows_of_expert.size());
  g.residuals(name).next(1, places);
  for (std::size_t c = 0; c < places.size(); c += 97) {
    std::vector<std::byte> row(static_cast<std::size_t>(cols) * 2);
    for (std::size_t i = 0; i < static_cast<std::size_t>(cols); ++i) {
      std::memcpy(row.data() + 2 * i, g.first_rows(name).data() + 2 * (i * static_cast<std::size_t>(rows) + c), 2);
    }
    braid::bfloat16 scale;
    std::memcpy(&scale, g.residual_scales(name).data() + 2 * places[c].scale, 2);
    REQUIRE(places[c].code == residual_code::ternary);
    braid::apply_residual(dtype::bf16, row.data(), places[c].code, g.residual_planes(name).data() + places[c].plane, &scale,
                          nullptr, cols, row.data());
    for (std::size_t i = 0; i < static_cast<std::size_t>(cols); ++i) {
      REQUIRE(std::memcmp(row.data() + 2 * i, got.data() + 2 * (i * static_cast<std::size_t>(rows) + c), 2) == 0);
    }
  }
}

TEST_CASE("scales of columns are stored, and multiply what is decoded", "[run][residual]") {
  random_source random(617);
  for (dtype const type : merge_types) {
    temp_dir dir;
    disk_family const d = distinct_family(random, 3, type);
    d.write(dir.path());
    auto const m = merger(braid::residual::sign_bits<1>{.rank_one = true}, 1);
    run_dir(m, d, dir.path(), dir.path() / "out");
    braid::grouped_checkpoint const g(dir.path() / "out");
    auto const& t = g.tensors()[0];
    auto const columns = g.residual_columns(t.name);
    REQUIRE(columns.size() == 70);
    for (auto const c : columns) { CHECK(static_cast<float>(c) > 0.0f); }
    auto const expected = merged(m, d.merged.begin()->second);
    CHECK(t.residual_bytes == 9 * 3 * (9 + 2) + 70 * 2);
    for (std::size_t e = 0; e < 3; ++e) {
      CHECK(read(g, t.name, e) == by_hand(g, t, e));
      CHECK(read(g, t.name, e) == expected.rebuilt[e]);
    }
  }
}

TEST_CASE("a merge with residuals that fails leaves nothing behind, not even its temporary file", "[run][residual]") {
  random_source random(618);
  temp_dir dir;
  disk_family d = distinct_family(random, 3, dtype::f32);
  d.add("model.layers.1.mlp.up_proj.weight", dtype::f32, {6, 40}, random, true);
  auto& last = d.experts[1].back().data;
  store(dtype::f32, std::numeric_limits<float>::quiet_NaN(), last.data(), 6 * 40 - 1);
  d.write(dir.path());
  auto const before = names_in(dir.path());
  std::size_t const open = open_descriptors();
  auto const m = merger(braid::residual::ternary{}, 1);
  CHECK(contains(message_of([&] { run_dir(m, d, dir.path(), dir.path() / "out"); }), "has NaN at [5, 39]"));
  CHECK(names_in(dir.path()) == before);
  CHECK(open_descriptors() == open);

  // Shared rows that don't fit into the type of the result.
  disk_family large = distinct_family(random, 2, dtype::f32);
  for (std::size_t e = 0; e < 2; ++e) { store(dtype::f32, 1e6f, large.experts[e][0].data.data(), 7); }
  large.write(dir.path() / "large");
  disk_run how;
  how.options.out_dtype = dtype::f16;
  CHECK(contains(message_of([&] { run_dir(m, large, dir.path() / "large", dir.path() / "out", how); }), "doesn't fit into F16"));
  CHECK(names_in(dir.path()).size() == before.size() + 1);
}

TEST_CASE("a row whose sum with its residual is beyond the type gets the largest number, and stays finite", "[run][residual]") {
  random_source random(619);
  temp_dir dir;
  disk_family d = distinct_family(random, 2, dtype::f16);
  // Two experts at the end of the range: what one sign and scale makes of them overshoots.
  for (std::size_t e = 0; e < 2; ++e) {
    for (index_t i = 0; i < 9 * 70; ++i) {
      bool const far = i % 7 == 0;
      float const x = far ? 65504.0f : e == 0 ? 60000.0f : -60000.0f;
      store(dtype::f16, x, d.experts[e][0].data.data(), i);
    }
  }
  d.write(dir.path());
  run_dir(merger(braid::residual::sign_bits<1>{}, 1), d, dir.path(), dir.path() / "out");
  braid::grouped_checkpoint const g(dir.path() / "out");
  int at_end = 0;
  for (std::size_t e = 0; e < 2; ++e) {
    auto const got = read(g, g.tensors()[0].name, e);
    for (index_t i = 0; i < 9 * 70; ++i) {
      CHECK(std::isfinite(load(dtype::f16, got.data(), i)));
      at_end += std::abs(load(dtype::f16, got.data(), i)) == 65504.0f;
    }
  }
  CHECK(at_end > 0);
}

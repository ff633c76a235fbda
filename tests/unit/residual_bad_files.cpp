/// What the reader refuses about residuals, and that nothing it accepts leads outside a file.

#include "support/damaged_files.hpp"

using namespace braid;
using namespace braid_test;

namespace {

bytes any_bytes(dice& d, std::size_t n) {
  bytes out;
  for (std::size_t i = 0; i < n; ++i) { out.push_back(d.byte()); }
  return out;
}

bytes scales(std::initializer_list<float> values) {
  bytes out;
  for (float const v : values) {
    bfloat16 const x(v);
    auto const* const b = reinterpret_cast<std::byte const*>(&x);
    out.insert(out.end(), b, b + 2);
  }
  return out;
}

/// Three experts. "w" BF16 [3, 9] has groups 0 0 0 | 0 1 0 | 0 1 2, and residuals listed by codes: sign2, none and ternary
/// in channel 0, a trellis for a and none for c in channel 1. "v" BF16 [2, 4] is shared by all, with implied signs.
grouped_files good() {
  dice d(21);
  grouped_files f;
  f.description = nlohmann::json::parse(R"({"format":2,"version":"0.1.0","method":"channel_merge","base":{"name":"base"},
      "experts":[{"name":"a"},{"name":"b"},{"name":"c"}],"residuals":{"v":"sign1"}})");
  auto const code = [](std::initializer_list<residual_code> values) {
    bytes out;
    for (auto const v : values) { out.push_back(static_cast<std::byte>(v)); }
    return out;
  };
  using enum residual_code;
  auto const group = [](std::initializer_list<int> values) {
    bytes out;
    for (int const v : values) { out.push_back(static_cast<std::byte>(v)); }
    return out;
  };
  auto const small = [&](std::size_t elements) {  // finite ones
    bytes out;
    for (std::size_t i = 0; i < elements; ++i) {
      auto const one = scales({static_cast<float>(i % 5)});
      out.insert(out.end(), one.begin(), one.end());
    }
    return out;
  };
  f.tensors = {
      {"v", dtype::bf16, {2, 4}, small(8)},
      {"w", dtype::bf16, {3, 9}, small(27)},
      {"braid.extra.w", dtype::bf16, {3, 9}, small(27)},
      {"braid.scale.v", dtype::bf16, {6}, scales({1, 2, 3, 4, 5, 6})},
      {"braid.scale.w", dtype::bf16, {4}, scales({0.5f, 0.25f, 1, 2})},
      {"braid.column.w", dtype::bf16, {9}, scales({1, 2, 1, 2, 1, 2, 1, 2, 1})},
      {"braid.group.w", dtype::u8, {3, 3}, group({0, 0, 0, 0, 1, 1, 0, 0, 2})},
      {"braid.code.w", dtype::u8, {3, 3}, code({sign2, trellis1, none, none, none, none, ternary, none, none})},
      {"braid.residual.v", dtype::u8, {6}, any_bytes(d, 6)},
      {"braid.residual.w", dtype::u8, {8}, any_bytes(d, 8)},
  };
  return f;
}

void remove(grouped_files& f, std::string const& name) {
  std::erase_if(f.tensors, [&](raw_tensor const& t) { return t.name == name; });
}

bytes read(grouped_checkpoint const& g, std::string const& tensor, std::size_t expert, std::size_t size) {
  bytes out(size);
  g.read(tensor, expert, out);
  return out;
}

}  // namespace

TEST_CASE("the checkpoint with residuals that the next tests damage is whole, and reads as docs/format.md says") {
  auto const f = good();
  temp_dir dir;
  f.write(dir.path());
  grouped_checkpoint const g(dir.path());
  auto const& v = g.tensors()[0];
  auto const& w = g.tensors()[1];
  CHECK(v.residuals == std::vector<residual_code>{residual_code::sign1});
  CHECK(w.residuals == std::vector<residual_code>{residual_code::sign2, residual_code::ternary, residual_code::trellis1});
  CHECK(v.residual_bytes == 6 + 12);
  CHECK(w.residual_bytes == 8 + 8 + 18 + 9);
  CHECK(w.stored_bytes == 27 * 2 * 2 + 9 + w.residual_bytes);
  CHECK(g.stored_bytes() == v.stored_bytes + w.stored_bytes);
  CHECK(g.residual_columns("v").empty());
  CHECK(g.residual_columns("w").size() == 9);

  // Channel by channel, in a channel expert by expert: planes at 0, 4 and 6, scales at 0, 2 and 3.
  std::vector<residual_place> places(3);
  g.residuals("w").next(0, places);
  CHECK(places[0].plane == 0);
  CHECK(places[1].code == residual_code::trellis1);
  CHECK(places[1].plane == 6);
  CHECK(places[1].scale == 3);
  g.residuals("w").next(2, places);
  CHECK(places[0].code == residual_code::ternary);
  CHECK(places[0].plane == 4);
  CHECK(places[0].scale == 2);

  // "b" has no residual in "w" at all: its rows are the pool's.
  auto const pool = g.first_rows("w");
  auto const extra = g.extra_rows("w");
  bytes expected(pool.begin(), pool.begin() + 18);
  expected.insert(expected.end(), extra.begin(), extra.begin() + 36);
  CHECK(read(g, "w", 1, 54) == expected);

  // "c" in channel 1 of "v": one byte of signs, the scale 6.
  auto const out = read(g, "v", 2, 16);
  auto const signs = std::to_integer<unsigned>(g.residual_planes("v")[5]);
  for (std::size_t c = 0; c < 4; ++c) {
    bfloat16 shared;
    bfloat16 got;
    std::memcpy(&shared, g.first_rows("v").data() + 8 + 2 * c, 2);
    std::memcpy(&got, out.data() + 8 + 2 * c, 2);
    CHECK(static_cast<float>(got) == static_cast<float>(shared) + ((signs >> c & 1u) != 0 ? -6.0f : 6.0f));
  }
}

TEST_CASE("codes of residuals that lie are refused") {
  auto const code = [](grouped_files& f, std::size_t expert, std::size_t channel) -> std::byte& {
    return f.find("braid.code.w")->data[expert * 3 + channel];
  };
  check_refused(good, {
      {grouped_code::code_mismatch, "\"braid.code.w\" must be U8 [3, 3]: experts times channels",
       [](grouped_files& f) { f.find("braid.code.w")->dims = {9}; }},
      {grouped_code::code_mismatch, "must be U8 [3, 3]", [](grouped_files& f) { f.find("braid.code.w")->type = dtype::i8; }},
      {grouped_code::code_mismatch, "has \"braid.code.w\", and the description gives a code too",
       [](grouped_files& f) { f.description["residuals"]["w"] = "sign1"; }},
      {grouped_code::unknown_code, "has the residual code 200, which this braid",
       [=](grouped_files& f) { code(f, 0, 0) = std::byte{200}; }},
      {grouped_code::unknown_code, "which this braid", [=](grouped_files& f) { code(f, 2, 2) = std::byte{residual_codes}; }},
      {grouped_code::unknown_code, "the residual code \"other\"",
       [](grouped_files& f) { f.description["residuals"]["v"] = "other"; }},
      {grouped_code::misplaced_code, "expert \"b\" has a residual in channel 2, where its row is its own",
       [=](grouped_files& f) { code(f, 1, 2) = std::byte{1}; }},
      {grouped_code::misplaced_code, "nothing can be added to in I16",
       [](grouped_files& f) { f.find("v")->type = dtype::i16; }},
      {grouped_code::missing_code, "has \"braid.residual.w\", but neither \"braid.code.w\" nor the description",
       [](grouped_files& f) { remove(f, "braid.code.w"); }},
      {grouped_code::missing_code, "has \"braid.residual.v\"", [](grouped_files& f) { f.description.erase("residuals"); }},
      {grouped_code::missing_code, "has \"braid.column.w\"",
       [](grouped_files& f) {
         remove(f, "braid.code.w");
         remove(f, "braid.residual.w");
         remove(f, "braid.scale.w");
       }},
      {grouped_code::unknown_tensor, "\"residuals\" speaks of a tensor \"none\"",
       [](grouped_files& f) { f.description["residuals"]["none"] = "sign1"; }},
      {grouped_code::unknown_kind, "\"braid.scale.v\" is of a kind that format 1 doesn't have",
       [](grouped_files& f) {
         f.description["format"] = 1;
         for (char const* const name : {"braid.residual.v", "braid.residual.w", "braid.column.w", "braid.code.w"}) { remove(f, name); }
       }},
      {grouped_code::newer_format, "is a grouped checkpoint of format 3", [](grouped_files& f) { f.description["format"] = 3; }},
      {grouped_code::orphan, "\"ghost\": isn't there",
       [](grouped_files& f) { f.tensors.push_back({"braid.scale.ghost", dtype::bf16, {1}, scales({1})}); }},
  });
}

TEST_CASE("an expert that lacks a channel can't have a residual there") {
  auto f = good();
  // "b" and "c" lose the last channel of "w".
  f.find("braid.group.w")->data[5] = f.find("braid.group.w")->data[8] = std::byte{255};
  auto* const extra = f.find("braid.extra.w");
  extra->dims = {1, 9};
  extra->data.resize(18);
  CHECK(refusal(f).first == 0);
  f.find("braid.code.w")->data[8] = std::byte{1};
  auto const [code, text] = refusal(f);
  CHECK(code == static_cast<int>(grouped_code::misplaced_code));
  CHECK(text.find("expert \"c\" has a residual in channel 2, which it lacks") != std::string::npos);
}

TEST_CASE("residuals and scales that don't fit the codes are refused") {
  auto const resize = [](grouped_files& f, char const* name, std::size_t elements, std::size_t size) {
    f.find(name)->dims = {static_cast<index_t>(elements)};
    f.find(name)->data.resize(elements * size);
  };
  check_refused(good, {
      {grouped_code::residual_mismatch, "there is no \"braid.residual.w\"", [](grouped_files& f) { remove(f, "braid.residual.w"); }},
      {grouped_code::residual_mismatch, "\"braid.residual.w\" isn't the U8 [bytes]",
       [=](grouped_files& f) { resize(f, "braid.residual.w", 7, 1); }},
      {grouped_code::residual_mismatch, "\"braid.residual.w\" isn't the U8 [bytes]",
       [=](grouped_files& f) { resize(f, "braid.residual.w", 9, 1); }},
      {grouped_code::residual_mismatch, "\"braid.residual.w\" isn't the U8 [bytes]",
       [](grouped_files& f) { f.find("braid.residual.w")->dims = {2, 4}; }},
      {grouped_code::residual_mismatch, "\"braid.residual.v\" isn't the U8 [bytes]",
       [](grouped_files& f) { f.find("braid.residual.v")->type = dtype::boolean; }},
      {grouped_code::residual_mismatch, "\"braid.residual.v\" isn't",
       [](grouped_files& f) { f.description["residuals"]["v"] = "sign3"; }},
      {grouped_code::residual_mismatch, "\"braid.residual.v\" isn't",
       [](grouped_files& f) { f.description["residuals"]["v"] = "none"; }},
      {grouped_code::scale_mismatch, "there is no \"braid.scale.v\"", [](grouped_files& f) { remove(f, "braid.scale.v"); }},
      {grouped_code::scale_mismatch, "\"braid.scale.w\" isn't the BF16 [scales]",
       [=](grouped_files& f) { resize(f, "braid.scale.w", 3, 2); }},
      {grouped_code::scale_mismatch, "\"braid.scale.w\" isn't", [=](grouped_files& f) { resize(f, "braid.scale.w", 5, 2); }},
      {grouped_code::scale_mismatch, "\"braid.scale.w\" isn't",
       [](grouped_files& f) { f.find("braid.scale.w")->type = dtype::f16; }},
      {grouped_code::column_mismatch, "\"braid.column.w\" must be BF16 [9]: one scale an element of a row",
       [=](grouped_files& f) { resize(f, "braid.column.w", 8, 2); }},
      {grouped_code::column_mismatch, "must be BF16 [9]", [](grouped_files& f) { f.find("braid.column.w")->type = dtype::i16; }},
      {grouped_code::scale_value, "\"braid.scale.w\" isn't finite at [2]",
       [](grouped_files& f) {
         f.find("braid.scale.w")->data[4] = std::byte{0x80};
         f.find("braid.scale.w")->data[5] = std::byte{0xFF};
       }},
      {grouped_code::scale_value, "\"braid.column.w\" isn't finite at [8]",
       [](grouped_files& f) {
         f.find("braid.column.w")->data[16] = std::byte{0xC1};
         f.find("braid.column.w")->data[17] = std::byte{0x7F};
       }},
  });
}

TEST_CASE("no damage to codes, indices or sizes crashes the reader of residuals") {
  dice d(22);
  auto const whole = good();
  temp_dir dir;
  int refused = 0;
  int opened = 0;
  for (int round = 0; round < 500; ++round) {
    auto f = whole;
    for (std::size_t k = 1 + d.below(3); k > 0; --k) {
      auto& t = f.tensors[d.below(f.tensors.size())];
      if (d.below(4) == 0) {
        auto& extent = t.dims[d.below(t.dims.size())];
        extent = static_cast<index_t>(d.below(12));
        std::size_t size = size_of(t.type);
        for (auto const n : t.dims) { size *= static_cast<std::size_t>(n); }
        t.data.resize(size);
      } else if (!t.data.empty()) {
        t.data[d.below(t.data.size())] = d.coin() ? d.byte() : static_cast<std::byte>(d.below(8));
      }
    }
    f.write(dir.path());
    try {
      grouped_checkpoint const g(dir.path());
      ++opened;
      for (std::size_t n = 0; n < g.experts().size(); ++n) {
        for (auto const& t : g.tensors()) {
          if (!g.has(n, t.name)) { continue; }
          std::size_t size = size_of(t.type);
          for (auto const extent : g.shape(n, t.name)) { size *= static_cast<std::size_t>(extent); }
          (void)read(g, t.name, n, size);
        }
      }
    } catch (error const&) { ++refused; }
  }
  CHECK(refused > 100);
  CHECK(opened > 20);
}

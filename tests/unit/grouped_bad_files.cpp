#include "support/damaged_files.hpp"

using namespace braid;
using namespace braid_test;

namespace {

/// Three experts. Tensor "w" [4, 2] has groups 0 0 0 0 | 0 1 0 1 | 1 1 0 2, "v" a vocabulary of 2, 3, 1 rows, the first
/// expert lacks "lack", and all share "same".
grouped_files good() {
  auto const u8 = [](std::string name, std::vector<shape> shapes, std::vector<bytes> data) {
    std::vector<bool> present;
    for (auto const& d : data) { present.push_back(!d.empty()); }
    return expert_tensor{std::move(name), dtype::u8, {}, std::move(shapes), std::move(present), std::move(data)};
  };
  auto const b = [](std::initializer_list<int> values) {
    bytes out;
    for (int const v : values) { out.push_back(static_cast<std::byte>(v)); }
    return out;
  };
  return group_experts({"a", "b", "c"},
                       {u8("w", {{4, 2}, {4, 2}, {4, 2}},
                           {b({0, 0, 1, 1, 2, 2, 3, 3}), b({0, 0, 4, 4, 2, 2, 5, 5}), b({6, 6, 4, 4, 2, 2, 7, 7})}),
                        u8("v", {{2, 1}, {3, 1}, {1, 1}}, {b({1, 2}), b({1, 3, 4}), b({1})}),
                        u8("lack", {{1, 2}, {1, 2}, {1, 2}}, {b({}), b({1, 2}), b({3, 4})}),
                        u8("same", {{2}, {2}, {2}}, {b({8, 9}), b({8, 9}), b({8, 9})})});
}

std::byte& label(grouped_files& f, std::size_t expert, std::size_t channel) {
  auto* const t = f.find("braid.group.w");
  return t->data[expert * 4 + channel];
}

void remove(grouped_files& f, std::string const& name) {
  std::erase_if(f.tensors, [&](raw_tensor const& t) { return t.name == name; });
}

}  // namespace

TEST_CASE("the grouped checkpoint that the next tests damage is whole") {
  auto f = good();
  CHECK(refusal(f).first == 0);
  CHECK(f.find("braid.extra.w")->dims == shape{4, 2});
  CHECK(f.find("braid.group.w")->data[11] == std::byte{2});
  CHECK(f.find("lack") == nullptr);
}

TEST_CASE("an index that lies is refused") {
  check_refused(good, {
      {grouped_code::first_expert, "expert \"a\" into group 1 of channel 1",
       [](grouped_files& f) { label(f, 0, 1) = std::byte{1}; }},
      {grouped_code::first_expert, "has 3 channels in the index and 4 in the tensor itself",
       [](grouped_files& f) { label(f, 0, 3) = std::byte{255}; }},
      {grouped_code::label_order, "expert \"b\" into group 2 of channel 1, where only group 0 to 1",
       [](grouped_files& f) { label(f, 1, 1) = std::byte{2}; }},
      {grouped_code::label_order, "expert \"c\" into group 254",
       [](grouped_files& f) { label(f, 2, 0) = std::byte{254}; }},
      {grouped_code::extra_too_short, "points past the extra rows: it needs 5, \"braid.extra.w\" has 4",
       [](grouped_files& f) { label(f, 2, 2) = std::byte{1}; }},
      {grouped_code::extra_too_long, "has 4 rows, and the index needs 3",
       [](grouped_files& f) { label(f, 2, 0) = std::byte{0}; }},
      {grouped_code::channel_gap, "expert \"c\" has channel 2 but not channel 1",
       [](grouped_files& f) { label(f, 2, 1) = std::byte{255}; }},
      {grouped_code::unused_channel, "no expert has its last channel",
       [](grouped_files& f) { f.find("braid.group.v")->data[5] = std::byte{255}; }},
      {grouped_code::index_mismatch, "must be U8 [3, 4]: experts times channels",
       [](grouped_files& f) {
         f.find("braid.group.w")->dims = {4, 3};
       }},
      {grouped_code::index_mismatch, "must be U8 [3, 4]",
       [](grouped_files& f) { f.find("braid.group.w")->dims = {12}; }},
      {grouped_code::index_mismatch, "must be U8 [3, 4]",
       [](grouped_files& f) { f.find("braid.group.w")->type = dtype::i8; }},
      {grouped_code::index_mismatch, "must be U8 [3, 4]",
       [](grouped_files& f) {
         f.find("braid.group.w")->dims = {2, 4};
         f.find("braid.group.w")->data.resize(8);
       }},
      {grouped_code::index_mismatch, "must be U8 [2, 1]", [](grouped_files& f) { f.description["experts"].erase(2); }},
      {grouped_code::missing_index, "no index \"braid.group.w\"", [](grouped_files& f) { remove(f, "braid.group.w"); }},
      {grouped_code::missing_index, "no index \"braid.group.v\"",
       [](grouped_files& f) {
         remove(f, "braid.group.v");
         remove(f, "braid.extra.v");
       }},
      {grouped_code::missing_index, "no index \"braid.group.lack\"",
       [](grouped_files& f) { remove(f, "braid.group.lack"); }},
  });
}

TEST_CASE("an index breaks off only where a tensor's shape can") {
  dice d(3);
  auto f = group_experts({"a", "b"}, {random_tensor(d, "m", dtype::u8, {}, {{4, 2, 3}, {3, 2, 3}}, {true, true}, 1)});
  CHECK(refusal(f).first == 0);
  f.find("braid.group.m")->data[8 + 5] = std::byte{255};
  CHECK(refusal(f).first == static_cast<int>(grouped_code::channel_gap));
  CHECK(refusal(f).second.find("expert \"b\" has 5 channels, which no tensor of this shape has") != std::string::npos);
}

TEST_CASE("extra rows that don't fit are refused") {
  check_refused(good, {
      {grouped_code::missing_extra, "needs 4 further rows, but there is no \"braid.extra.w\"",
       [](grouped_files& f) { remove(f, "braid.extra.w"); }},
      {grouped_code::extra_too_short, "needs 4, \"braid.extra.w\" has 3",
       [](grouped_files& f) {
         f.find("braid.extra.w")->dims = {3, 2};
         f.find("braid.extra.w")->data.resize(6);
       }},
      {grouped_code::extra_too_short, "needs 4, \"braid.extra.w\" has 0",
       [](grouped_files& f) {
         f.find("braid.extra.w")->dims = {0, 2};
         f.find("braid.extra.w")->data.clear();
       }},
      {grouped_code::extra_too_long, "has 5 rows, and the index needs 4",
       [](grouped_files& f) {
         f.find("braid.extra.w")->dims = {5, 2};
         f.find("braid.extra.w")->data.resize(10);
       }},
      {grouped_code::extra_mismatch, "\"braid.extra.w\" must be U8 [rows, 2]",
       [](grouped_files& f) {
         f.find("braid.extra.w")->dims = {2, 4};
       }},
      {grouped_code::extra_mismatch, "\"braid.extra.w\" must be U8 [rows, 2]",
       [](grouped_files& f) { f.find("braid.extra.w")->dims = {8}; }},
      {grouped_code::extra_mismatch, "\"braid.extra.w\" must be U8 [rows, 2]",
       [](grouped_files& f) { f.find("braid.extra.w")->type = dtype::boolean; }},
      {grouped_code::extra_mismatch, "\"braid.extra.w\" must be BOOL [rows, 2]",
       [](grouped_files& f) { f.find("w")->type = dtype::boolean; }},
  });
}

TEST_CASE("names that lie are refused") {
  check_refused(good, {
      {grouped_code::orphan, "\"ghost\": has extra rows, but is neither there nor",
       [](grouped_files& f) {
         f.tensors.push_back({"braid.extra.ghost", dtype::u8, {1, 1}, bytes(1)});
       }},
      {grouped_code::orphan, "\"ghost\": isn't there, nor are extra rows",
       [](grouped_files& f) {
         f.tensors.push_back({"braid.group.ghost", dtype::u8, {3, 1}, bytes(3)});
       }},
      {grouped_code::orphan, "\"lack\": has extra rows, but is neither there nor",
       [](grouped_files& f) { f.description["shapes"].erase("lack"); }},
      {grouped_code::orphan, "\"lack\": isn't there, nor are extra rows",
       [](grouped_files& f) { remove(f, "braid.extra.lack"); }},
      {grouped_code::orphan, "\"\": isn't there",
       [](grouped_files& f) {
         f.tensors.push_back({"braid.group.", dtype::u8, {3, 1}, bytes(3)});
       }},
      {grouped_code::unknown_kind, "\"braid.residual.w\" is of a kind that format 1 doesn't have",
       [](grouped_files& f) {
         f.tensors.push_back({"braid.residual.w", dtype::u8, {1}, bytes(1)});
       }},
      {grouped_code::unknown_kind, "reserved",
       [](grouped_files& f) {
         f.tensors.push_back({"braid.extra.braid.group.w", dtype::u8, {1, 4}, bytes(4)});
       }},
      {grouped_code::unknown_tensor, "\"tied\" speaks of a tensor \"none\"",
       [](grouped_files& f) { f.description["tied"]["x"] = "none"; }},
      {grouped_code::unknown_tensor, "\"w\" is there, though the description says it is tied to \"v\"",
       [](grouped_files& f) { f.description["tied"]["w"] = "v"; }},
      {grouped_code::unknown_tensor, "\"lack\" is there, though",
       [](grouped_files& f) { f.description["tied"]["lack"] = "v"; }},
      {grouped_code::unknown_tensor, "\"channel_axis\" speaks of a tensor \"none\"",
       [](grouped_files& f) { f.description["channel_axis"]["none"] = 0; }},
      {grouped_code::unknown_tensor, "\"shapes\" speaks of a tensor \"none\"",
       [](grouped_files& f) { f.description["shapes"]["none"] = {1}; }},
      {grouped_code::unknown_tensor, "\"tensors\" speaks of a tensor \"none\"",
       [](grouped_files& f) {
         f.description["tensors"]["none"] = {{"action", "keep"}};
       }},
      {grouped_code::unknown_tensor, "\"absent\" speaks of a tensor \"none\"",
       [](grouped_files& f) { f.description["experts"][1]["absent"] = {"none"}; }},
  });
}

TEST_CASE("shapes and axes that don't fit the stored tensor are refused") {
  check_refused(good, {
      {grouped_code::shape_mismatch, "\"w\": has no dimension 2",
       [](grouped_files& f) { f.description["channel_axis"]["w"] = 2; }},
      {grouped_code::shape_mismatch, "\"same\": has no dimension 1",
       [](grouped_files& f) { f.description["channel_axis"]["same"] = 1; }},
      {grouped_code::shape_mismatch, "\"v\": the shape in the description isn't",
       [](grouped_files& f) {
         f.description["shapes"]["v"] = {1, 1};
       }},
      {grouped_code::shape_mismatch, "\"v\": the shape in the description isn't",
       [](grouped_files& f) {
         f.description["shapes"]["v"] = {3, 2};
       }},
      {grouped_code::shape_mismatch, "\"v\": the shape in the description isn't",
       [](grouped_files& f) { f.description["shapes"]["v"] = {3}; }},
      {grouped_code::shape_mismatch, "\"v\": the shape in the description isn't",
       [](grouped_files& f) { f.description["shapes"]["v"] = nlohmann::json::array(); }},
      {grouped_code::index_mismatch, "must be U8 [3, 4]",
       [](grouped_files& f) {
         f.description["shapes"]["v"] = {4, 1};
       }},
      {grouped_code::extra_mismatch, "\"braid.extra.w\" must be U8 [rows, 4]",
       [](grouped_files& f) { f.description["channel_axis"]["w"] = 1; }},
      {grouped_code::extra_mismatch, "\"braid.extra.lack\" must be U8 [rows, 3]",
       [](grouped_files& f) {
         f.description["shapes"]["lack"] = {1, 3};
       }},
      {grouped_code::too_many_rows, "more than 2^31 - 1 channels",
       [](grouped_files& f) {
         f.description["shapes"]["lack"] = {2147483648, 2};
       }},
  });
}

TEST_CASE("a description that isn't one is refused") {
  temp_dir dir;
  auto const write = [&](std::string const& text) {
    write_safetensors(dir.path() / "model.safetensors", good().tensors, {{"braid", text}});
    try {
      grouped_checkpoint const g(dir.path());
    } catch (format_error const& e) { return e.code(); }
    return 0;
  };
  CHECK(write(good().description.dump()) == 0);
  auto const json = static_cast<int>(grouped_code::description_json);
  for (std::string const bad : {"", "{", "[]", "\"braid\"", "{} {}", "{\"format\":1,\"format\":1}", "nan"}) {
    CAPTURE(bad);
    CHECK(write(bad) == json);
  }
  CHECK(write(std::string(100'000, '[')) == json);
  CHECK(write("{\"recipe\":" + std::string(2000, '[') + std::string(2000, ']') + "}") == json);
  CHECK(write("{}") == static_cast<int>(grouped_code::description_field));
}

TEST_CASE("an ordinary checkpoint isn't a grouped one, and says so") {
  temp_dir dir;
  write_safetensors(dir.path() / "model.safetensors", {{"w", dtype::u8, {1}, bytes(1)}}, {{"format", "pt"}});
  CHECK(!grouped_checkpoint::is_grouped(checkpoint(dir.path())));
  try {
    grouped_checkpoint const g(dir.path());
    FAIL("was opened");
  } catch (format_error const& e) { CHECK(e.code() == static_cast<int>(grouped_code::not_grouped)); }
}

TEST_CASE("no damage to an index or a description crashes the reader") {
  dice d(4);
  auto whole = good();
  whole.side_files.clear();
  temp_dir dir;
  int refused = 0;
  for (int round = 0; round < 600; ++round) {
    auto f = whole;
    if (d.coin()) {
      auto* const t = f.find(d.coin() ? "braid.group.w" : "braid.group.v");
      for (std::size_t k = 1 + d.below(3); k > 0; --k) {
        t->data[d.below(t->data.size())] = d.coin() ? std::byte{255} : static_cast<std::byte>(d.below(4));
      }
    } else {
      auto flat = f.description.flatten();
      auto it = flat.begin();
      std::advance(it, static_cast<std::ptrdiff_t>(d.below(flat.size())));
      nlohmann::json const values[] = {nullptr, -1, 0, 1, 3, 1e300, "w", "", true, nlohmann::json::array()};
      *it = values[d.below(std::size(values))];
      try {
        f.description = flat.unflatten();
      } catch (nlohmann::json::exception const&) {
        continue;  // arrays and objects can't be flattened back
      }
    }
    f.write(dir.path());
    try {
      grouped_checkpoint const g(dir.path());
      for (std::size_t n = 0; n < g.experts().size(); ++n) {
        for (auto const& t : g.tensors()) {
          if (!g.has(n, t.name)) { continue; }
          std::size_t size = size_of(t.type);
          for (auto const extent : g.shape(n, t.name)) { size *= static_cast<std::size_t>(extent); }
          bytes out(size);
          g.read(t.name, n, out);
        }
      }
    } catch (error const&) { ++refused; }
  }
  CHECK(refused > 200);
}

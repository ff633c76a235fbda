#include "overview.hpp"

namespace program {
namespace {

using nlohmann::ordered_json;

/// JSON has no NaN.
ordered_json number_or_null(double value) { return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr); }

ordered_json files_json(braid::checkpoint const& c) {
  ordered_json files = ordered_json::array();
  for (auto const& [name, bytes] : weight_files(c)) { files.push_back({{"name", name}, {"tensor_bytes", bytes}}); }
  return files;
}

ordered_json residuals_json(std::vector<braid::residual_code> const& codes) {
  ordered_json names = ordered_json::array();
  for (auto const code : codes) { names.push_back(std::string(braid::name_of(code))); }
  return names;
}

/// A field of a description; null where its writer left it out.
ordered_json field(nlohmann::json const& description, char const* name) {
  auto const it = description.find(name);
  return it == description.end() ? ordered_json(nullptr) : ordered_json(*it);
}

}  // namespace

ordered_json to_json(braid::checkpoint const& c) {
  ordered_json tensors = ordered_json::array();
  ordered_json dtypes = ordered_json::object();
  std::uint64_t bytes = 0;
  for (auto const& t : c.tensors()) {
    std::string const type(braid::name_of(t.type));
    bytes += t.bytes;
    auto& d = dtypes[type];
    if (d.is_null()) { d = {{"tensors", 0}, {"bytes", 0}}; }
    d["tensors"] = d["tensors"].get<std::uint64_t>() + 1;
    d["bytes"] = d["bytes"].get<std::uint64_t>() + t.bytes;
    tensors.push_back({{"name", t.name},
                       {"dtype", type},
                       {"shape", t.shape},
                       {"bytes", t.bytes},
                       {"file", c.file_of(t).filename().string()},
                       {"offset", t.offset}});
  }
  return {{"path", c.path().string()},
          {"kind", "checkpoint"},
          {"bytes", bytes},
          {"dtypes", std::move(dtypes)},
          {"files", files_json(c)},
          {"side_files", c.side_files()},
          {"tensors", std::move(tensors)}};
}

ordered_json to_json(braid::grouped_checkpoint const& g) {
  auto const shares = shares_of(g);
  std::uint64_t kept = 0;
  std::uint64_t residual = 0;
  ordered_json tensors = ordered_json::array();
  for (auto const& s : shares) {
    auto const& t = *s.tensor;
    if (!s.merged()) { kept += t.stored_bytes; }
    residual += t.residual_bytes;
    double const rows = t.channels == 0 ? std::numeric_limits<double>::quiet_NaN()
                                        : static_cast<double>(s.stored_rows()) / static_cast<double>(t.channels);
    tensors.push_back({{"name", t.name},
                       {"dtype", std::string(braid::name_of(t.type))},
                       {"shape", t.shape},
                       {"action", t.action.empty() ? ordered_json(nullptr) : ordered_json(t.action)},
                       {"channel_axis", t.axis},
                       {"channels", t.channels},
                       {"row_elements", t.row_elements},
                       {"groups", t.groups == 0 ? ordered_json(nullptr) : ordered_json(t.groups)},
                       {"stored_rows", s.stored_rows()},
                       {"rows_per_channel", number_or_null(rows)},
                       {"similarity", number_or_null(t.similarity)},
                       {"residuals", residuals_json(t.residuals)},
                       {"residual_bytes", t.residual_bytes},
                       {"stored_bytes", t.stored_bytes},
                       {"expert_bytes", s.expert_bytes}});
  }
  ordered_json layers = ordered_json::array();
  for (auto const& [key, total] : totals_by_layer(shares)) {
    layers.push_back({{"layer", key.name()},
                      {"tensors", total.tensors},
                      {"merged", total.merged},
                      {"groups", total.groups},
                      {"rows_per_channel", number_or_null(total.rows_per_channel())},
                      {"similarity", number_or_null(total.similarity())},
                      {"residual_bytes", total.residual_bytes},
                      {"stored_bytes", total.stored_bytes},
                      {"expert_bytes", total.expert_bytes}});
  }
  auto const& d = g.description();
  return {{"path", g.files().path().string()},
          {"kind", "grouped"},
          {"format", field(d, "format")},
          {"version", field(d, "version")},
          {"method", field(d, "method")},
          {"recipe", field(d, "recipe")},
          {"seed", field(d, "seed")},
          {"base", field(d, "base")},
          {"experts", field(d, "experts")},
          {"tied", field(d, "tied")},
          {"stored_bytes", g.stored_bytes()},
          {"expert_bytes", g.expert_bytes()},
          {"stored_fraction", g.stored_fraction()},
          {"kept_bytes", kept},
          {"residual_bytes", residual},
          {"files", files_json(g.files())},
          {"layers", std::move(layers)},
          {"tensors", std::move(tensors)}};
}

}  // namespace program

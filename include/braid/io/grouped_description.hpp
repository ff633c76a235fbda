#pragma once

#include <braid/io/detail/grouped_fields.hpp>
#include <braid/io/grouped_layout.hpp>
#include <braid/residual/code.hpp>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

BRAID_NAMESPACE_BEGIN

/// What the metadata of a grouped checkpoint says about it: the fields of docs/format.md, under the same names.
struct grouped_description {
  struct source {
    std::string name;
    std::string hash;  ///< of the checkpoint's tensors; free text for the reader
  };
  struct expert {
    std::string name;
    std::string hash;
    std::map<std::string, std::string> files;  ///< side files: name in the expert's directory, path in this one
    std::vector<std::string> absent;           ///< tensors that the expert's own directory doesn't store
  };
  struct tensor {
    std::string action;                                            ///< "merge", "keep" or "base"
    int groups = 0;                                                ///< most groups that a channel has; 0: not said
    double similarity = std::numeric_limits<double>::quiet_NaN();  ///< NaN: nothing was merged, or not said
  };

  int format = plain_format_version;           ///< `residual_format_version` where rows have residuals
  std::string version = BRAID_VERSION_STRING;  ///< of the braid that wrote it
  std::string method;
  nlohmann::json recipe = nlohmann::json::object();
  std::uint64_t seed = 0;
  source base;
  std::vector<expert> experts;                         ///< sorted by name
  std::map<std::string, std::string> tied;             ///< tensors stored once: alias, name that it is stored under
  std::map<std::string, int> channel_axis;             ///< of tensors whose axis isn't `default_channel_axis`
  std::map<std::string, std::vector<index_t>> shapes;  ///< with the most channels, where the file alone doesn't tell
  std::map<std::string, residual_code> residuals;      ///< code of all rows of a tensor that others share, where it is one
  std::map<std::string, tensor> tensors;               ///< statistics; need not name every tensor

  /// The JSON text for the metadata.
  /// @throws argument_error if a string, such as the name of a side file, isn't UTF-8
  [[nodiscard]] std::string to_text() const;

  [[nodiscard]] nlohmann::json to_json() const;

  /// Checks everything that needs no look at the tensors.
  /// @param where the checkpoint, for messages
  /// @throws format_error newer_format, description_field, unsafe_path, unknown_code
  [[nodiscard]] static grouped_description from_json(nlohmann::json const& json, std::filesystem::path const& where);
};

inline nlohmann::json grouped_description::to_json() const {
  using nlohmann::json;
  json list = json::array();
  for (auto const& e : experts) {
    list.push_back({{"name", e.name}, {"hash", e.hash}, {"files", json(e.files)}, {"absent", json(e.absent)}});
  }
  json statistics = json::object();
  for (auto const& [name, t] : tensors) {
    statistics[name] = {{"action", t.action},
                        {"groups", t.groups},
                        {"similarity", std::isfinite(t.similarity) ? json(t.similarity) : json(nullptr)}};
  }
  json all = {{"format", format},
              {"version", version},
              {"method", method},
              {"recipe", recipe},
              {"seed", seed},
              {"base", {{"name", base.name}, {"hash", base.hash}}},
              {"experts", std::move(list)},
              {"tied", json(tied)},
              {"channel_axis", json(channel_axis)},
              {"shapes", json(shapes)},
              {"tensors", std::move(statistics)}};
  for (auto const& [name, code] : residuals) { all["residuals"][name] = std::string(name_of(code)); }
  return all;
}

inline std::string grouped_description::to_text() const {
  try {
    return to_json().dump();
  } catch (nlohmann::json::type_error const&) {
    throw argument_error("a name isn't UTF-8 and can't be described in the metadata; rename the experts' side files");
  }
}

inline grouped_description grouped_description::from_json(nlohmann::json const& json,
                                                          std::filesystem::path const& where) {
  using detail::in_quotes;
  detail::json_fields const top(json, where, "");
  std::int64_t const format = top.at("format").integer(1, std::numeric_limits<int>::max());
  if (format > grouped_format_version) {
    std::string const writer =
        json.contains("version") && json["version"].is_string()
            ? "; it was written by braid " + in_quotes(json["version"].get_ref<std::string const&>())
            : std::string();
    detail::refuse(grouped_code::newer_format, where,
                   "is a grouped checkpoint of format " + std::to_string(format) + writer + "; this braid (" +
                       BRAID_VERSION_STRING + ") reads formats up to " + std::to_string(grouped_format_version) +
                       ": use a braid that reads format " + std::to_string(format));
  }
  grouped_description d;
  d.format = static_cast<int>(format);
  d.version = top.at("version").string();
  d.method = top.at("method").string();
  if (auto const f = top.find("recipe")) { d.recipe = f->value(); }
  if (auto const f = top.find("seed")) { d.seed = f->unsigned_integer(); }
  auto const base = top.at("base");
  d.base = {base.at("name").string(), base.string_or("hash", "")};

  top.at("experts").each_element([&](detail::json_fields const& e) {
    expert x{e.at("name").string(), e.string_or("hash", ""), {}, {}};
    if (!is_expert_name(x.name)) { e.at("name").refuse("must be of letters, digits, '-' and '_'"); }
    if (!d.experts.empty() && !(d.experts.back().name < x.name)) {
      e.at("name").refuse("must come after " + in_quotes(d.experts.back().name) +
                          ": experts are sorted, each there once");
    }
    if (auto const files = e.find("files")) {
      files->each_member([&](std::string const& own, detail::json_fields const& f) {
        detail::check_side_file(own, where);
        detail::check_side_file(f.string(), where);
        x.files.emplace(own, f.string());
      });
    }
    if (auto const absent = e.find("absent")) {
      absent->each_element([&](detail::json_fields const& f) { x.absent.push_back(f.string()); });
    }
    d.experts.push_back(std::move(x));
  });
  if (d.experts.empty()) { top.at("experts").refuse("must name an expert"); }

  if (auto const tied = top.find("tied")) {
    tied->each_member([&](std::string const& alias, detail::json_fields const& f) {
      if (tied->value().contains(f.string())) {
        f.refuse("must be a tensor that is stored, not one that is tied itself");
      }
      d.tied.emplace(alias, f.string());
    });
  }
  if (auto const axes = top.find("channel_axis")) {
    axes->each_member([&](std::string const& name, detail::json_fields const& f) {
      d.channel_axis.emplace(name, static_cast<int>(f.integer(-1, 63)));
    });
  }
  if (auto const shapes = top.find("shapes")) {
    shapes->each_member(
        [&](std::string const& name, detail::json_fields const& f) { d.shapes.emplace(name, f.shape()); });
  }
  if (auto const residuals = top.find("residuals"); residuals && format >= residual_format_version) {
    residuals->each_member([&](std::string const& name, detail::json_fields const& f) {
      auto const code = residual_code_named(f.string());
      if (!code) {
        detail::refuse(grouped_code::unknown_code, where,
                       "the description gives tensor " + in_quotes(name) + " the residual code " + in_quotes(f.string()) +
                           ", which this braid (" BRAID_VERSION_STRING ") doesn't know; use a newer one");
      }
      d.residuals.emplace(name, *code);
    });
  }
  if (auto const tensors = top.find("tensors")) {
    tensors->each_member([&](std::string const& name, detail::json_fields const& f) {
      tensor t;
      t.action = f.at("action").string();
      if (t.action != "merge" && t.action != "keep" && t.action != "base") {
        f.at("action").refuse("must be \"merge\", \"keep\" or \"base\"");
      }
      if (auto const g = f.find("groups")) { t.groups = static_cast<int>(g->integer(0, max_groups)); }
      if (auto const s = f.find("similarity"); s && !s->value().is_null()) { t.similarity = s->number(); }
      d.tensors.emplace(name, std::move(t));
    });
  }
  return d;
}

BRAID_NAMESPACE_END

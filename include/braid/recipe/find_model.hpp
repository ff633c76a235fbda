#pragma once

/// Where the files of a model are on this machine. Nothing is downloaded.

#include <braid/recipe/model_reference.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace recipe {

/// Where models are looked for, in this order: the path as it is; below each root; in the cache of the Hugging Face
/// Hub.
struct model_search {
  std::vector<std::filesystem::path> roots{};
  std::filesystem::path hub{};  // the cache, `models--ORGANISATION--NAME` inside; empty: not looked in
};

/// The directory that the Hugging Face tools cache models in: HF_HUB_CACHE, else HF_HOME/hub, else
/// XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub. Empty where the environment has none of them.
[[nodiscard]] inline std::filesystem::path default_hub() {
  auto const variable = [](char const* name) {
    char const* const text = std::getenv(name);
    return std::filesystem::path(text == nullptr ? "" : text);
  };
  if (auto const hub = variable("HF_HUB_CACHE"); !hub.empty()) { return hub; }
  if (auto const home = variable("HF_HOME"); !home.empty()) { return home / "hub"; }
  if (auto const cache = variable("XDG_CACHE_HOME"); !cache.empty()) { return cache / "huggingface" / "hub"; }
  if (auto const home = variable("HOME"); !home.empty()) { return home / ".cache" / "huggingface" / "hub"; }
  return {};
}

/// What the directory of a model must hold.
enum class model_content : unsigned char {
  weights,  // *.safetensors
  adapter   // adapter_config.json and adapter_model.safetensors, as PEFT writes them
};

namespace detail {

inline bool is_folder(std::filesystem::path const& p) {
  std::error_code none;
  return std::filesystem::is_directory(p, none);
}

/// Whether a name may be looked for below a directory: it stays inside it.
inline bool stays_inside(std::string const& name) {
  std::filesystem::path const p(name);
  if (p.is_absolute()) { return false; }
  for (auto const& part : p) {
    if (part == "..") { return false; }
  }
  return true;
}

/// The snapshot of a revision in a repository of the cache; empty where it isn't there.
/// @param revision  a branch or tag (refs/NAME has its commit) or a commit
inline std::filesystem::path snapshot_of(std::filesystem::path const& repository, std::string const& revision) {
  if (!stays_inside(revision)) { return {}; }
  std::string commit = revision;
  if (std::ifstream in(repository / "refs" / revision); in) {
    std::getline(in, commit);
    while (!commit.empty() && (commit.back() == '\r' || commit.back() == ' ')) { commit.pop_back(); }
  }
  if (commit.empty() || commit.find('/') != std::string::npos || !stays_inside(commit)) { return {}; }
  auto const snapshot = repository / "snapshots" / commit;
  return is_folder(snapshot) ? snapshot : std::filesystem::path();
}

/// "models--ORGANISATION--NAME".
inline std::string repository_folder(std::string const& name) {
  std::string folder = "models--";
  for (char const c : name) { folder += c == '/' ? "--" : std::string(1, c); }
  return folder;
}

inline void check_content(std::filesystem::path const& dir, model_content wanted) {
  bool safetensors = false;
  bool pickled = false;
  std::error_code ec;
  for (std::filesystem::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
    auto const extension = it->path().extension();
    safetensors = safetensors || extension == ".safetensors";
    pickled = pickled || extension == ".bin" || extension == ".pt" || extension == ".pth";
  }
  if (ec) { throw io_error(dir.string() + ": can't be listed (" + ec.message() + ")"); }
  if (!safetensors && pickled) {
    throw argument_error(dir.string() +
                         ": its weights are pickled (.bin), and braid reads safetensors only; convert them with "
                         "Python: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT), or torch.load and "
                         "safetensors.torch.save_file");
  }
  if (wanted == model_content::adapter && !std::filesystem::exists(dir / "adapter_config.json", ec)) {
    throw argument_error(dir.string() + ": is no adapter, it has no adapter_config.json");
  }
  if (wanted == model_content::weights && std::filesystem::exists(dir / "adapter_config.json", ec) &&
      !std::filesystem::exists(dir / "config.json", ec)) {
    throw argument_error(dir.string() + ": is an adapter without its model; write MODEL+" + dir.string());
  }
  if (!safetensors) { throw argument_error(dir.string() + ": has no *.safetensors in it"); }
}

}  // namespace detail

/// The directory of a model or of an adapter. A revision counts in the Hub's cache only: directories have none.
/// @throws argument_error saying where it was looked for, or what its directory lacks and how to convert it; io_error
[[nodiscard]] inline std::filesystem::path find_model(model_path const& m, model_search const& where,
                                                      model_content wanted = model_content::weights) {
  std::vector<std::filesystem::path> places{m.path};
  bool const inside = detail::stays_inside(m.path);
  for (auto const& root : where.roots) {
    if (inside) { places.push_back(root / m.path); }
  }
  for (auto const& dir : places) {
    if (detail::is_folder(dir)) {
      detail::check_content(dir, wanted);
      return dir;
    }
  }
  std::string tried;
  for (auto const& dir : places) { tried += (tried.empty() ? "" : ", ") + dir.string(); }
  if (inside && !where.hub.empty()) {
    auto const repository = where.hub / detail::repository_folder(m.path);
    std::string const revision = m.revision.empty() ? "main" : m.revision;
    if (auto const dir = detail::snapshot_of(repository, revision); !dir.empty()) {
      detail::check_content(dir, wanted);
      return dir;
    }
    if (detail::is_folder(repository)) {
      throw argument_error("the model " + to_text(m) + " is in the cache (" + repository.string() +
                           "), but not its revision " + braid::detail::in_quotes(revision) +
                           "; download it, or name another");
    }
    tried += ", " + repository.string();
  }
  throw argument_error("there is no model " + to_text(m) + "; looked for " + tried);
}

}  // namespace recipe
BRAID_NAMESPACE_END

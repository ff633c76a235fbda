#pragma once

#include <braid/io/detail/posix.hpp>
#include <braid/io/detail/text.hpp>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

/// The absolute path without links, "..", or a trailing slash; what doesn't exist yet stays as it is.
inline std::filesystem::path resolved(std::filesystem::path p) {
  if (!p.has_filename()) { p = p.parent_path(); }
  if (p.empty()) { throw argument_error("the output path is empty; give a directory to create"); }
  std::error_code ec;
  auto const whole = std::filesystem::absolute(p, ec);
  auto r = ec ? whole : std::filesystem::weakly_canonical(whole, ec);
  if (ec) { io_failure(p, "resolving the path", ec.value()); }
  return r.has_filename() ? r : r.parent_path();
}

/// Whether `p` or a directory above it is the existing directory `dir`: by identity, not by name, so that bind mounts
/// and file systems that ignore case are seen through.
inline bool is_at_or_below(std::filesystem::path p, std::filesystem::path const& dir) {
  for (;; p = p.parent_path()) {
    std::error_code ec;
    if (std::filesystem::equivalent(p, dir, ec)) { return true; }
    if (p == p.parent_path()) { return false; }
  }
}

inline bool looks_like_checkpoint(std::filesystem::path const& dir) {
  bool empty = true;
  std::error_code ec;
  for (std::filesystem::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
    empty = false;
    auto const name = it->path().filename();
    if (name.extension() == ".safetensors" || name.string().ends_with(".safetensors.index.json")) { return true; }
  }
  if (ec) { io_failure(dir, "reading the directory", ec.value()); }
  return empty;
}

inline void check_existing_output(std::filesystem::path const& shown, std::filesystem::path const& out,
                                  bool overwrite) {
  std::error_code ec;
  auto const kind = std::filesystem::symlink_status(out, ec).type();
  if (kind == std::filesystem::file_type::not_found) { return; }
  std::string const where = shown.string();
  if (ec) { io_failure(shown, "stat", ec.value()); }
  if (!overwrite) { throw argument_error(where + ": exists already; choose another path, or ask to overwrite it"); }
  if (kind != std::filesystem::file_type::directory) {
    throw argument_error(where + ": isn't a directory, and won't be overwritten; choose another path");
  }
  if (!looks_like_checkpoint(out)) {
    throw argument_error(where + ": doesn't look like a checkpoint (no *.safetensors), and won't be " +
                         "overwritten; choose another path");
  }
  struct stat inside {};
  struct stat above {};
  bool const known = ::stat(out.c_str(), &inside) == 0 && ::stat(out.parent_path().c_str(), &above) == 0;
  if (out == out.parent_path() || (known && inside.st_dev != above.st_dev)) {
    throw argument_error(where + ": is a mount point, which can't be replaced; choose a directory inside it");
  }
}

inline void check_parent(std::filesystem::path const& shown, std::filesystem::path const& out) {
  std::filesystem::path above = out.parent_path();
  std::error_code ec;
  while (!std::filesystem::exists(above, ec) && above != above.parent_path()) { above = above.parent_path(); }
  if (!std::filesystem::is_directory(above, ec)) {
    throw io_error(shown.string() + ": can't be created, because " + above.string() + " isn't a directory");
  }
  if (::access(above.c_str(), W_OK | X_OK) != 0) { io_failure(shown, "creating it in " + above.string(), errno); }
}

inline void check_against_input(std::filesystem::path const& shown, std::filesystem::path const& out,
                                std::filesystem::path const& input) {
  std::error_code ec;
  auto const in = std::filesystem::canonical(input, ec);
  if (ec) { return; }  // whoever opens the input says what is wrong with it
  auto const refuse_output = [&](char const* how) {
    throw argument_error(shown.string() + ": the output " + how + " the input " + input.string() +
                         "; choose another path");
  };
  bool const exists = std::filesystem::exists(out, ec);
  if (exists && std::filesystem::equivalent(out, in, ec)) { refuse_output("is"); }
  if (is_at_or_below(out, in)) { refuse_output("lies inside"); }
  if (!exists) { return; }
  if (is_at_or_below(in, out)) { refuse_output("contains"); }
  // Files of the input may be links, as they are in the cache of a model hub: what they point to must survive too.
  for (std::filesystem::directory_iterator it(in, ec), end; !ec && it != end; it.increment(ec)) {
    std::error_code unreadable;
    if (!it->is_symlink(unreadable)) { continue; }
    auto const file = std::filesystem::canonical(it->path(), unreadable);
    if (!unreadable && is_at_or_below(file, out)) { refuse_output("contains files of"); }
  }
}

}  // namespace detail

/// Whether a checkpoint can be written at `out`, asked before hours are spent on computing it.
/// @param inputs directories that are read meanwhile
/// @param overwrite whether an existing checkpoint at `out` may be replaced
/// @throws argument_error if `out` exists and `overwrite` is false; if it exists and is neither empty nor looks like a
///         checkpoint, or is a mount point; or if it is an input, lies inside one, or contains one or its files
///         (links resolved)
/// @throws io_error if the directory above `out` can't be created or written
inline void check_output(std::filesystem::path const& out, std::span<std::filesystem::path const> inputs,
                         bool overwrite) {
  auto const whole = detail::resolved(out);
  for (auto const& input : inputs) { detail::check_against_input(out, whole, input); }
  detail::check_parent(out, whole);
  detail::check_existing_output(out, whole, overwrite);
}

BRAID_NAMESPACE_END

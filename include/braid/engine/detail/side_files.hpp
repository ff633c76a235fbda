#pragma once

#include <braid/io/checkpoint.hpp>
#include <braid/io/checkpoint_writer.hpp>

#include <fstream>
#include <map>
#include <string>
#include <vector>

BRAID_NAMESPACE_BEGIN
namespace detail {

inline bool same_file(std::filesystem::path const& a, std::filesystem::path const& b) {
  std::error_code ec;
  if (std::filesystem::file_size(a, ec) != std::filesystem::file_size(b, ec) || ec) { return false; }
  std::ifstream x(a, std::ios::binary);
  std::ifstream y(b, std::ios::binary);
  std::vector<char> p(1u << 16);
  std::vector<char> q(1u << 16);
  while (x && y) {
    x.read(p.data(), static_cast<std::streamsize>(p.size()));
    y.read(q.data(), static_cast<std::streamsize>(q.size()));
    if (x.gcount() != y.gcount() || !std::equal(p.begin(), p.begin() + x.gcount(), q.begin())) { return false; }
  }
  return x.eof() && y.eof();
}

/// Copies every expert's config, tokenizer and so on: the first expert's on top, the others' under experts/NAME/,
/// identical files once.
/// @return per expert: name in its own directory, path in the merged one
inline std::vector<std::map<std::string, std::string>> copy_side_files(checkpoint_writer& out,
                                                                       std::vector<checkpoint> const& experts,
                                                                       std::vector<std::string> const& names) {
  std::vector<std::map<std::string, std::string>> files(experts.size());
  struct copy {
    std::filesystem::path source;
    std::string target;
  };
  std::map<std::string, std::vector<copy>> copies;  // by name
  for (std::size_t e = 0; e < experts.size(); ++e) {
    for (std::string const& name : experts[e].side_files()) {
      std::filesystem::path const source = experts[e].path() / name;
      auto& known = copies[name];
      auto const same = std::find_if(known.begin(), known.end(), [&](copy const& c) { return same_file(c.source, source); });
      if (same != known.end()) {
        files[e][name] = same->target;
        continue;
      }
      std::string const target = e == 0 ? name : "experts/" + names[e] + "/" + name;
      out.copy_file(source, target);
      known.push_back({source, target});
      files[e][name] = target;
    }
  }
  return files;
}

}  // namespace detail
BRAID_NAMESPACE_END

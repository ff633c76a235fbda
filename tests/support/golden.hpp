#pragma once

/// The golden data of tests/golden: see its README.

#include "support/catch.hpp"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace braid_test {

inline std::filesystem::path golden_dir() {
  return std::filesystem::path(BRAID_TEST_SOURCE_DIR) / "tests" / "golden" / "data";
}

inline nlohmann::json golden_json(std::filesystem::path const& relative) {
  std::ifstream in(golden_dir() / relative, std::ios::binary);
  REQUIRE(in.good());
  return nlohmann::json::parse(in);
}

/// The entries of index.json, `cases` or `failures`.
inline std::vector<nlohmann::json> golden_entries(std::string const& list = "cases") {
  return golden_json("index.json").at(list).get<std::vector<nlohmann::json>>();
}

inline nlohmann::json golden_entry(std::string const& name) {
  for (char const* const list : {"cases", "failures"}) {
    for (auto const& e : golden_entries(list)) {
      if (e.at("name") == name) { return e; }
    }
  }
  FAIL("no golden case " + name);
  return {};
}

}  // namespace braid_test

#pragma once

#include <braid/config.hpp>

#include <string>

BRAID_NAMESPACE_BEGIN

/// A query and the expert that should answer it.
template <class Query>
struct labelled_query {
  Query query;
  std::string expert;
  /// Queries of one group are variants of each other and are held out together, so that the calibration sees what a
  /// new wording does. Empty: a group of its own.
  std::string group = {};
};

BRAID_NAMESPACE_END

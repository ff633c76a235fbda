#pragma once

/// Serving from a merged checkpoint: which expert should answer a query, and its products without rebuilding it.
/// <braid/braid.hpp> doesn't bring this.

#include <braid/serve/embedding.hpp>
#include <braid/serve/hashed_ngrams.hpp>
#include <braid/serve/labelled_query.hpp>
#include <braid/serve/router.hpp>
#include <braid/serve/router_quality.hpp>
#include <braid/serve/row_linear.hpp>
#include <braid/serve/row_source.hpp>

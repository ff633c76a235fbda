#pragma once

/// Serving from a merged checkpoint: which expert should answer a query. <braid/braid.hpp> doesn't bring this.

#include <braid/serve/embedding.hpp>
#include <braid/serve/hashed_ngrams.hpp>
#include <braid/serve/router.hpp>
#include <braid/serve/router_quality.hpp>

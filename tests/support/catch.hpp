#pragma once

/// The one place that knows which Catch2 is installed: 3 (many headers) or 2.13 (one header). Everything that the tests
/// use, `Catch::Approx` with its namespace included, has one name in both.

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_all.hpp>
#else
#include <catch2/catch.hpp>
namespace Catch {
using Detail::Approx;
}
#endif

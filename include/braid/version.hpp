#pragma once

/// braid's version. CMake reads it from here, so a plain `-I` user and an installed package agree.
#define BRAID_VERSION_MAJOR 0
#define BRAID_VERSION_MINOR 1
#define BRAID_VERSION_PATCH 0
#define BRAID_VERSION_STRING "0.1.0"

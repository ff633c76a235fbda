# Conveniences of a build in braid's own tree. Nothing here reaches a project that uses braid.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

set(CMAKE_CXX_EXTENSIONS OFF)

find_program(BRAID_CCACHE ccache DOC "Compiler cache, used where it is installed")
mark_as_advanced(BRAID_CCACHE)
if(BRAID_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${BRAID_CCACHE}")
endif()

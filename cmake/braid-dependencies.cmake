# Where dependencies come from: an installed package first; a pinned commit from its repository second, so that nothing
# is downloaded where the packages are installed. -DFETCHCONTENT_SOURCE_DIR_<NAME>=DIR uses a source tree on disk.
include_guard(GLOBAL)
include(FetchContent)

list(APPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")

# braid_require(<name> TARGET <t> GIT <url> <commit> [VERSION <v>] [HEADERS <dir>] [SETTINGS <variable> <value>...])
#
# Makes target <t> available to the whole project. VERSION is the least that an installed package must have. HEADERS: a
# fetched tree has headers only, in <dir> below its root, and its own build files are not run. SETTINGS: variables for
# the build files of a fetched tree.
function(braid_require name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TARGET;VERSION;HEADERS" "GIT;SETTINGS")
  if(TARGET ${arg_TARGET})  # a parent project brought its own
    return()
  endif()
  list(GET arg_GIT 0 repository)
  list(GET arg_GIT 1 commit)

  string(TOLOWER ${name} lower)
  string(TOUPPER ${name} upper)

  if(NOT FETCHCONTENT_SOURCE_DIR_${upper})
    # GLOBAL: a parent directory that links braid::braid must see its dependencies as well.
    find_package(${name} ${arg_VERSION} QUIET GLOBAL)
  endif()
  if(${name}_FOUND)
    message(STATUS "braid: ${name} ${${name}_VERSION} is installed")
  else()
    if(FETCHCONTENT_SOURCE_DIR_${upper})
      set(repository "${FETCHCONTENT_SOURCE_DIR_${upper}}")
    else()
      message(STATUS "braid: ${name} ${arg_VERSION} is not installed")
    endif()
    message(STATUS "braid: ${name} comes from ${repository}")
    set(extra "")
    if(arg_HEADERS)
      list(APPEND extra SOURCE_SUBDIR braid-runs-no-build-files)  # no such folder: fetched, but not added
    endif()
    if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.25)
      list(APPEND extra SYSTEM)  # our warnings are not theirs
    endif()
    FetchContent_Declare(${name} GIT_REPOSITORY ${repository} GIT_TAG ${commit} ${extra})

    set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # their option() commands respect the variables below
    set(CMAKE_COMPILE_WARNING_AS_ERROR OFF)
    set(BUILD_TESTING OFF)
    while(arg_SETTINGS)
      list(POP_FRONT arg_SETTINGS variable value)
      set(${variable} ${value})
    endwhile()
    FetchContent_MakeAvailable(${name})
    if(arg_HEADERS)
      add_library(${arg_TARGET} INTERFACE IMPORTED GLOBAL)
      target_include_directories(${arg_TARGET} SYSTEM INTERFACE "${${lower}_SOURCE_DIR}/${arg_HEADERS}")
    endif()
  endif()
  if(NOT TARGET ${arg_TARGET})
    message(FATAL_ERROR "braid: ${name} was found, but it defines no target ${arg_TARGET}; install another version")
  endif()
endfunction()

# What the headers in include/braid need.
function(braid_require_core)
  braid_require(TBB TARGET TBB::tbb VERSION 2021
    GIT https://github.com/oneapi-src/oneTBB.git 8b829acc65569019edb896c5150d427f288e8aba  # v2021.11.0
    SETTINGS TBB_TEST OFF TBB_STRICT OFF TBBMALLOC_BUILD OFF)
  braid_require(nlohmann_json TARGET nlohmann_json::nlohmann_json VERSION 3.11
    GIT https://github.com/nlohmann/json.git 9cca280a4d0ccf0c08f47a99aa71d1b0e52f8d03  # v3.11.3
    HEADERS include)
  braid_require(xxHash TARGET braid::xxhash_headers VERSION 0.8
    GIT https://github.com/Cyan4973/xxHash.git bbb27a5efb85b92a0486cf361a8635715a53f6ba  # v0.8.2
    HEADERS .)
endfunction()

# YAML, for include/braid/recipe. Linked as braid::yaml_cpp: the library's own name for its target changed in 0.8.
function(braid_require_yaml_cpp)
  braid_require(yaml-cpp TARGET yaml-cpp VERSION 0.7
    GIT https://github.com/jbeder/yaml-cpp.git f7320141120f720aecc4c32be25586e7da9eb978  # 0.8.0
    SETTINGS YAML_CPP_BUILD_TESTS OFF YAML_CPP_BUILD_TOOLS OFF YAML_CPP_BUILD_CONTRIB OFF YAML_CPP_INSTALL OFF)
  if(NOT TARGET braid::yaml_cpp)
    add_library(braid::yaml_cpp INTERFACE IMPORTED GLOBAL)
    if(TARGET yaml-cpp::yaml-cpp)
      target_link_libraries(braid::yaml_cpp INTERFACE yaml-cpp::yaml-cpp)
    else()
      target_link_libraries(braid::yaml_cpp INTERFACE yaml-cpp)
    endif()
  endif()
endfunction()

# Linear algebra for include/braid/interop, the examples and the tests.
function(braid_require_eigen)
  braid_require(Eigen3 TARGET Eigen3::Eigen VERSION 3.4
    GIT https://gitlab.com/libeigen/eigen.git 3147391d946bb4b6c68edd901f2add6ac1f31f8c  # 3.4.0
    HEADERS .)
endfunction()

# Command lines, for the program `braid`.
function(braid_require_cli11)
  braid_require(CLI11 TARGET CLI11::CLI11 VERSION 2.1
    GIT https://github.com/CLIUtils/CLI11.git 6c7b07a878ad834957b98d0f9ce1dbe0cb204fc9  # v2.4.2
    HEADERS include)
endfunction()

function(braid_require_benchmark)
  braid_require(benchmark TARGET benchmark::benchmark VERSION 1.7
    GIT https://github.com/google/benchmark.git 344117638c8ff7e239044fd0fa7085839fc03021  # v1.8.3
    SETTINGS BENCHMARK_ENABLE_TESTING OFF BENCHMARK_ENABLE_INSTALL OFF)
endfunction()

# The test framework, 2.13 or 3 (tests/support/catch.hpp knows both), and its command catch_discover_tests().
macro(braid_require_catch2)
  braid_require(Catch2 TARGET Catch2::Catch2
    GIT https://github.com/catchorg/Catch2.git 6e79e682b726f524310d55dec8ddac4e9c52fb5f  # v3.4.0
    SETTINGS CATCH_INSTALL_DOCS OFF CATCH_INSTALL_EXTRAS OFF)
  FetchContent_GetProperties(Catch2 SOURCE_DIR braid_catch2_source)
  find_file(BRAID_CATCH2_MODULE Catch.cmake REQUIRED NO_DEFAULT_PATH
    PATHS "${Catch2_DIR}" "${braid_catch2_source}/extras" "${braid_catch2_source}/contrib"
    DOC "CMake module that comes with Catch2")
  mark_as_advanced(BRAID_CATCH2_MODULE)
  include("${BRAID_CATCH2_MODULE}")
endmacro()

# Warnings for braid's own programs and tests, never exported. They become errors where CMAKE_COMPILE_WARNING_AS_ERROR
# says so, as the presets `dev` and `asan` do.
include_guard(GLOBAL)

add_library(braid_warnings INTERFACE)
target_compile_options(braid_warnings INTERFACE
  $<$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wconversion;-Wsign-conversion>)

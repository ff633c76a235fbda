# Finds the header of xxHash, which is all that braid uses of it (XXH_INLINE_ALL): nothing is linked.
#
#   xxHash_INCLUDE_DIR, xxHash_VERSION
#   braid::xxhash_headers   the include directory, as a target of braid's own: a project may use xxHash's library too
find_path(xxHash_INCLUDE_DIR xxhash.h DOC "Directory with xxhash.h")
mark_as_advanced(xxHash_INCLUDE_DIR)

if(xxHash_INCLUDE_DIR)
  set(xxHash_VERSION "")
  foreach(part IN ITEMS MAJOR MINOR RELEASE)
    file(STRINGS "${xxHash_INCLUDE_DIR}/xxhash.h" line LIMIT_COUNT 1
      REGEX "^#[ \t]*define[ \t]+XXH_VERSION_${part}[ \t]+[0-9]+")
    string(REGEX MATCH "[0-9]+" number "${line}")
    list(APPEND xxHash_VERSION "${number}")
  endforeach()
  list(JOIN xxHash_VERSION "." xxHash_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(xxHash REQUIRED_VARS xxHash_INCLUDE_DIR VERSION_VAR xxHash_VERSION)

if(xxHash_FOUND AND NOT TARGET braid::xxhash_headers)
  add_library(braid::xxhash_headers INTERFACE IMPORTED)
  target_include_directories(braid::xxhash_headers INTERFACE "${xxHash_INCLUDE_DIR}")
endif()

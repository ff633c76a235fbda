# `cmake --install`: headers, the CMake package, the licence, and the program `braid` where it was built.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(braid_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/braid")  # headers only: the same for every architecture

install(TARGETS braid EXPORT braidTargets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT braidTargets NAMESPACE braid:: DESTINATION "${braid_package_dir}")
if(TARGET braid_recipe)
  install(TARGETS braid_recipe EXPORT braidRecipeTargets)
  install(EXPORT braidRecipeTargets NAMESPACE braid:: DESTINATION "${braid_package_dir}")
endif()

configure_package_config_file(cmake/braidConfig.cmake.in "${PROJECT_BINARY_DIR}/braidConfig.cmake"
  INSTALL_DESTINATION "${braid_package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/braidConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  "${PROJECT_BINARY_DIR}/braidConfig.cmake"
  "${PROJECT_BINARY_DIR}/braidConfigVersion.cmake"
  cmake/FindxxHash.cmake
  cmake/braid-cuda.cmake
  DESTINATION "${braid_package_dir}")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/braid")

if(TARGET braid_program)
  install(TARGETS braid_program RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()

# The target braid::cuda, for programs with .cu files that include <braid/cuda.cuh>: nvcc's options without which results
# would differ from the CPU's, and the CUDA runtime. Needs the toolkit, not the language: a project enables CUDA itself.
include_guard(DIRECTORY)

find_package(CUDAToolkit 13 REQUIRED)
if(NOT TARGET braid::cuda)
  add_library(braid::cuda INTERFACE IMPORTED GLOBAL)
  target_link_libraries(braid::cuda INTERFACE braid::braid CUDA::cudart_static)
  # Not as a compile feature: CMake before 3.26 knows no C++20 for this compiler.
  target_compile_options(braid::cuda INTERFACE
    "$<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-std=c++20;--fmad=false;-Xcompiler=-ffp-contract=off>")
endif()

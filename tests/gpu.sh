#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU (compute capability 9.0 or 10.0): builds the tests and the benchmarks with nvcc, runs the
# tests, runs them again under compute-sanitizer, and measures.
set -uo pipefail

if [ "${1-}" = --help ]; then
  cat <<'END'
Usage: bash tests/gpu.sh [test] [sanitize] [bench]
       bash tests/gpu.sh compile

Runs the named parts, or all. Needs nvcc 13, g++ and oneTBB, nlohmann/json, xxHash and Catch2; yaml-cpp for recipes, whose tests are
left out without it. `compile` compiles all device code and runs nothing, so that it needs no GPU.
Variables: NVCC, CXX; BUILD, a folder (build/gpu); DEPENDENCIES, a folder with `include` and `lib` where they are not the
system's; TIMEOUT, seconds for each sanitizer (300), and for the tests; CHECKPOINTS, a folder with models of make_synthetic: merging
them is measured as well.
END
  exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
parts=" ${*:-test sanitize bench} "
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
cxx=${CXX:-g++}
build=${BUILD:-build/gpu}
mkdir -p "$build"
include=(-Iinclude -Itests "-DBRAID_TEST_SOURCE_DIR=\"$PWD\"")
link=(-ltbb)
if [ -n "${DEPENDENCIES-}" ]; then
  include+=("-isystem" "$DEPENDENCIES/include")
  link=("-L$DEPENDENCIES/lib" "-Xlinker" "-rpath=$(realpath "$DEPENDENCIES/lib")" -ltbb)
fi
level=-O2
case $parts in *" compile "*) level=-O1 ;; esac
host=(-std=c++20 "$level" -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Werror "${include[@]}")
device=(-std=c++20 "$level" -arch=sm_90 --fmad=false -Werror all-warnings -Xcompiler -ffp-contract=off "${include[@]}")

has() { [[ $parts == *" $1 "* ]]; }
finds() { echo "#include <$1>" | "$cxx" "${host[@]}" -fsyntax-only -x c++ - 2>/dev/null; }

yaml=1
if finds yaml-cpp/yaml.h; then
  link+=(-lyaml-cpp)
else
  yaml=0
  echo "no yaml-cpp: recipes aren't tested"
fi
# Catch2 3 is a library, 2 a header.
if finds catch2/catch_session.hpp; then link+=(-lCatch2); fi

# compile OBJECT COMMAND...: in the background, as many at once as there are processors; what it says is shown if it fails.
compiled=0
failed=0
compile() {
  local object=$1
  shift
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || failed=$((failed + 1)); done
  compiled=$((compiled + 1))
  ("$@" -o "$object" >"$object.log" 2>&1 || { echo "failed: $*" && tail -n 40 "$object.log" && exit 1; }) &
}
wait_for_all() {
  while [ -n "$(jobs -p)" ]; do
    wait -n || { [ $? -eq 127 ] && break; failed=$((failed + 1)); }
  done
  [ "$failed" -eq 0 ]
}

programs=(cuda_channel_merge cuda_methods cuda_residuals cuda_serve cuda_stream)
if has compile; then
  # What takes longest first, so that no processor is idle at the end.
  for source in tests/gpu/streams.cu tests/gpu/methods_on_device.cu benchmarks/cuda_serve.cu; do
    compile "$build/$(basename "$source").o" "$nvcc" "${device[@]}" -c "$source"
  done
  # One pipeline with random pruning and one with cuts hold every kernel of Channel Merging.
  for method in 1 2; do
    compile "$build/on_device_$method.o" "$nvcc" "${device[@]}" "-DBRAID_TEST_PIPELINE=$method" -c tests/gpu/on_device.cu
  done
  for source in tests/gpu/*.cu; do
    case $source in *on_device.cu | */streams.cu) continue ;; esac  # of the first kind the methods alone, above
    compile "$build/$(basename "$source").o" "$nvcc" "${device[@]}" -c "$source"
  done
  wait_for_all
  status=$?
  echo "device code: $((compiled - failed)) passed, $failed failed"
  exit "$status"
fi

if has test || has sanitize; then
  objects=()
  for method in 0 1 2 3 4 5; do
    compile "$build/on_device_$method.o" "$nvcc" "${device[@]}" "-DBRAID_TEST_PIPELINE=$method" -c tests/gpu/on_device.cu
    objects+=("$build/on_device_$method.o")
  done
  for source in tests/gpu/*.cu; do
    name=$(basename "$source" .cu)
    if [ "$name" = on_device ] || { [ "$yaml" = 0 ] && [ "$name" = recipes_on_device ]; }; then continue; fi
    compile "$build/$name.cu.o" "$nvcc" "${device[@]}" -c "$source"
    objects+=("$build/$name.cu.o")
  done
  for source in tests/gpu/*.cpp tests/support/main.cpp; do
    if [ "$yaml" = 0 ] && [ "$source" = tests/gpu/recipes.cpp ]; then continue; fi
    compile "$build/$(basename "$source").o" "$cxx" "${host[@]}" -c "$source"
    objects+=("$build/$(basename "$source").o")
  done
fi
if has bench; then
  for program in "${programs[@]}"; do compile "$build/$program" "$nvcc" "${device[@]}" "benchmarks/$program.cu" "${link[@]}" -lcublas; done
fi
wait_for_all || exit 1
if has test || has sanitize; then
  "$nvcc" -arch=sm_90 "${objects[@]}" "${link[@]}" -o "$build/gpu_tests" || exit 1
fi
status=0
if has test; then timeout "${TIMEOUT:-300}" "$build/gpu_tests" --durations yes || status=1; fi
if has sanitize; then
  for tool in memcheck racecheck initcheck synccheck; do
    echo "== compute-sanitizer --tool $tool"
    options=(--tool "$tool" --error-exitcode 9 --print-limit 5)
    # One thread of a warp arrives at a barrier for all, and one barrier orders what others have ordered before: racecheck follows
    # neither, and takes the ring's sums and lists for races (backend/cuda/ring_state.cuh says what orders them).
    if [ "$tool" = racecheck ]; then options+=(--kernel-name-exclude kns=ring_merge_kernel); fi
    timeout "${TIMEOUT:-300}" compute-sanitizer "${options[@]}" "$build/gpu_tests" "[sanitized]" || status=1
  done
fi
if has bench; then
  for program in cuda_channel_merge cuda_methods cuda_residuals cuda_serve; do timeout 120 "$build/$program" || status=1; done
  if [ -n "${CHECKPOINTS-}" ]; then timeout 300 "$build/cuda_stream" "$CHECKPOINTS" || status=1; fi
fi
exit "$status"

#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU (compute capability 9.0 or later): builds the tests and the benchmarks with nvcc, runs the
# tests, runs them again under compute-sanitizer, and measures.
set -uo pipefail

if [ "${1-}" = --help ]; then
  cat <<'END'
Usage: bash tests/gpu.sh [test] [sanitize] [bench]

Runs the named parts, or all. Needs nvcc 13, g++ and oneTBB, nlohmann/json, xxHash and Catch2.
Variables: NVCC, CXX; BUILD, a folder (build/gpu); DEPENDENCIES, a folder with `include` and `lib` where they are not the
system's; TIMEOUT, seconds for each sanitizer (300), and for the tests.
END
  exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
parts=${*:-test sanitize bench}
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
cxx=${CXX:-g++}
build=${BUILD:-build/gpu}
mkdir -p "$build"
include=(-Iinclude -Itests)
link=(-ltbb)
if [ -n "${DEPENDENCIES-}" ]; then
  include+=("-isystem" "$DEPENDENCIES/include")
  link=("-L$DEPENDENCIES/lib" "-Xlinker" "-rpath=$(realpath "$DEPENDENCIES/lib")" -ltbb)
fi
host=(-std=c++20 -O2 -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Werror "${include[@]}")
device=(-std=c++20 -O2 -arch=sm_90 --fmad=false -Werror all-warnings -Xcompiler -ffp-contract=off "${include[@]}")

# Catch2 3 is a library, 2 a header.
catch=()
if echo '#include <catch2/catch_session.hpp>' | "$cxx" "${host[@]}" -fsyntax-only -x c++ - 2>/dev/null; then catch=(-lCatch2); fi

# compile OBJECT COMMAND...: in the background; its output is shown if it fails.
jobs_running=()
compile() {
  local object=$1
  shift
  ("$@" -o "$object" >"$object.log" 2>&1 || { echo "failed: $*" && tail -n 40 "$object.log" && exit 1; }) &
  jobs_running+=($!)
}
wait_for_all() {
  local status=0 job
  for job in "${jobs_running[@]}"; do wait "$job" || status=1; done
  jobs_running=()
  [ "$status" -eq 0 ] || exit 1
}

if [[ $parts == *test* || $parts == *sanitize* ]]; then
  objects=()
  for method in 0 1 2 3 4 5; do
    compile "$build/on_device_$method.o" "$nvcc" "${device[@]}" "-DBRAID_TEST_PIPELINE=$method" -c tests/gpu/on_device.cu
    objects+=("$build/on_device_$method.o")
  done
  for source in executor row_linear; do
    compile "$build/$source.o" "$nvcc" "${device[@]}" -c "tests/gpu/$source.cu"
    objects+=("$build/$source.o")
  done
  for source in tests/gpu/*.cpp tests/support/main.cpp; do
    compile "$build/$(basename "$source").o" "$cxx" "${host[@]}" -c "$source"
    objects+=("$build/$(basename "$source").o")
  done
fi
if [[ $parts == *bench* ]]; then
  compile "$build/cuda_channel_merge" "$nvcc" "${device[@]}" benchmarks/cuda_channel_merge.cu "${link[@]}"
  compile "$build/cuda_serve" "$nvcc" "${device[@]}" benchmarks/cuda_serve.cu "${link[@]}" -lcublas
fi
wait_for_all
if [[ $parts == *test* || $parts == *sanitize* ]]; then
  "$nvcc" -arch=sm_90 "${objects[@]}" "${link[@]}" "${catch[@]}" -o "$build/gpu_tests" || exit 1
fi
status=0
if [[ $parts == *test* ]]; then timeout "${TIMEOUT:-300}" "$build/gpu_tests" || status=1; fi
if [[ $parts == *sanitize* ]]; then
  for tool in memcheck racecheck initcheck synccheck; do
    echo "== compute-sanitizer --tool $tool"
    timeout "${TIMEOUT:-300}" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 "$build/gpu_tests" "[sanitized]" || status=1
  done
fi
if [[ $parts == *bench* ]]; then
  timeout 120 "$build/cuda_channel_merge" || status=1
  timeout 120 "$build/cuda_serve" || status=1
fi
exit "$status"

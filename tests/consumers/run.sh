#!/usr/bin/env bash
set -uo pipefail

if [ $# -gt 0 ]; then
  cat <<'END'
Usage: bash tests/consumers/run.sh

Builds and runs a small program that uses braid in each way in which a project can take it up: find_package after an
install, FetchContent, add_subdirectory, and a plain -I. No nvcc is on the PATH meanwhile.
END
  [ "$1" = --help ]
  exit
fi

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
root=$PWD
here=$root/tests/consumers
zoo=$root/examples/zoo/base
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Every directory of the PATH that holds nvcc is replaced by one with the same programs less nvcc.
path=
number=0
while IFS= read -r -d: directory; do
  if [ -x "$directory/nvcc" ]; then
    number=$((number + 1))
    shadow=$work/path$number
    mkdir "$shadow"
    find "$directory" -mindepth 1 -maxdepth 1 ! -name nvcc -exec ln -s -t "$shadow" {} +
    directory=$shadow
  fi
  path+=${path:+:}$directory
done <<<"$PATH:"
PATH=$path
unset CUDACXX CUDA_PATH CUDA_HOME CUDAToolkit_ROOT
if command -v nvcc; then
  echo "nvcc is still on the PATH"
  exit 1
fi

jobs=$(nproc)
configure() { cmake -G Ninja -DCMAKE_BUILD_TYPE=Release "$@"; }
build_and_run() {
  cmake --build "$1" --parallel "$jobs" && "$1/consumer" "$zoo"
}

find_package() {
  configure -S "$root" -B "$work/braid" --install-prefix "$work/prefix" -DBRAID_BUILD_TESTS=OFF \
    -DBRAID_BUILD_EXAMPLES=OFF -DBRAID_BUILD_BENCHMARKS=OFF &&
    cmake --install "$work/braid" &&
    configure -S "$here/find_package" -B "$work/find_package" -DCMAKE_PREFIX_PATH="$work/prefix" &&
    build_and_run "$work/find_package"
}
fetch_content() {
  configure -S "$here/fetch_content" -B "$work/fetch_content" -DFETCHCONTENT_SOURCE_DIR_BRAID="$root" &&
    build_and_run "$work/fetch_content"
}
add_subdirectory() {
  configure -S "$here/add_subdirectory" -B "$work/add_subdirectory" -DBRAID_SOURCE_TREE="$root" &&
    build_and_run "$work/add_subdirectory"
}
include_path() {
  mkdir "$work/include_path" &&
    "${CXX:-c++}" -std=c++20 -O2 -I "$root/include" "$here/main.cpp" "$here/second.cpp" -ltbb \
      -o "$work/include_path/consumer" &&
    "$work/include_path/consumer" "$zoo"
}

passed=0
failed=0
try() {
  local function=$1 sentence=$2
  echo "consumer: $sentence"
  if "$function" >"$work/log" 2>&1 </dev/null; then
    tail -n 1 "$work/log"
    passed=$((passed + 1))
  else
    echo "failed, with this output:"
    cat "$work/log"
    failed=$((failed + 1))
  fi
}
try find_package "find_package(braid) after cmake --install into a new prefix"
try fetch_content "FetchContent on the source tree"
try add_subdirectory "add_subdirectory on the source tree"
try include_path "plain -I include, without CMake"

echo "consumers: $passed passed, $failed failed"
[ "$failed" -eq 0 ]

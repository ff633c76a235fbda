#!/usr/bin/env bash
set -uo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "$1" = --help ]; then
  cat <<'END'
Usage: bash tests/headers/run.sh COMPILER [--alone]

Compiles every header of include/braid, warnings as errors. COMPILER: g++, clang++ or nvcc, or a path to one.
g++ compiles every .hpp header alone. clang++ compiles all of them in one go, and nvcc the .cuh headers as well; with --alone they
compile every .hpp or .cuh header alone, which takes minutes. nvcc doesn't meet .hpp headers that include Eigen.
END
  [ "${1-}" = --help ]
  exit
fi

export compiler=$1
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
work=$(mktemp -d) && export work
trap 'rm -rf "$work"' EXIT

# all_headers GREP-OPTION PATTERN: a header that includes those whose text the pattern chooses.
all_headers() {
  find include/braid -name '*.hpp' -print0 | xargs -0 grep "$1" "$2" | sort | sed '1i #pragma once
s|^include/\(.*\)|#include <\1>|' >"$work/all.hpp"
  echo "$work/all.hpp"
}
case $(basename "$compiler"):${2-} in
  nvcc*:--alone) all_headers -L '<Eigen/' && find include/braid -name '*.cuh' ;;
  nvcc*) all_headers -L '<Eigen/' && find include/braid -name '*.cuh' | sort | sed 's|^include/\(.*\)|#include <\1>|' >>"$work/all.hpp" ;;
  clang*:) all_headers -l '' ;;
  *) find include/braid -name '*.hpp' ;;
esac | sort >"$work/headers"

compile() {
  local header=$1 name
  name=$(tr '/.' '__' <<<"$header")
  # Twice: a header that lacks its guard fails as well.
  header=${header#include/}
  printf '#include <%s>\n#include <%s>\n' "$header" "$header" >"$work/$name.cpp"
  case $(basename "$compiler") in
    nvcc*)
      # As device code, which parses all of it; the host's half is compiled with the tests, and takes twice as long.
      "$compiler" -x cu -std=c++20 -arch=sm_90 -Werror all-warnings -I include -ptx "$work/$name.cpp" -o "$work/$name.o"
      ;;
    *)
      "$compiler" -std=c++20 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Werror \
        -fsyntax-only -I include "$work/$name.cpp"
      ;;
  esac >"$work/$name.log" 2>&1 </dev/null || {
    touch "$work/$name.failed"
    { echo "$header does not compile alone:" && cat "$work/$name.log"; } >"$work/$name.report"
    cat "$work/$name.report"
  }
  rm -f "$work/$name.o"
}
export -f compile

# shellcheck disable=SC2016  # the inner shell expands it
xargs -P "$(nproc)" -I{} bash -c 'compile "$1"' compile {} <"$work/headers"

total=$(wc -l <"$work/headers")
failed=$(find "$work" -name '*.failed' | wc -l)
echo "headers with $compiler: $((total - failed)) passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$total" -gt 0 ]

#!/usr/bin/env bash
# rules.sh ROOT: rules of the tree that a compiler doesn't check. Every line printed is one breach.
set -uo pipefail
cd "$1" || exit 1
breaches=0

# rule SENTENCE: reads lines "file:line: text"; each is a breach of SENTENCE.
rule() {
  local sentence=$1 line
  while IFS= read -r line; do
    echo "$sentence: $line"
    breaches=$((breaches + 1))
  done
}

headers() { find include/braid -name '*.hpp' -o -name '*.cuh'; }

rule "__CUDACC__ belongs in config.hpp and in the gate of .cuh files" \
  < <(grep -rn --include='*.hpp' '__CUDACC__' include/braid | grep -vE '^include/braid/config\.hpp:|:[0-9]+: *//')

# XXH_INLINE_ALL is how xxhash.h is told to be header-only.
rule "a macro of a header is called BRAID_..." \
  < <(grep -rnE '^[[:space:]]*#[[:space:]]*define[[:space:]]' include/braid |
    grep -vE '#[[:space:]]*define[[:space:]]+(BRAID_|XXH_INLINE_ALL\>)')

rule "Eigen is included by interop/ only" \
  < <(grep -rnE '#[[:space:]]*include[[:space:]]*<(unsupported/)?Eigen/' include/braid | grep -v '^include/braid/interop/')

rule "braid.hpp includes nothing of serve/" \
  < <(grep -nE '#[[:space:]]*include[[:space:]]*<braid/serve' include/braid/braid.hpp | sed 's|^|include/braid/braid.hpp:|')

rule "the standard headers of C++23, and those g++ 12 lacks, are out of bounds" \
  < <(grep -rnE '#[[:space:]]*include[[:space:]]*<(format|expected|print|generator|flat_map|flat_set|stacktrace)>' include/braid)

rule "a library writes to no stream of the program" \
  < <(grep -rnE 'std::(cerr|cout|clog)\b' include/braid | grep -vE ':[0-9]+: *//')

rule "a header begins with #pragma once" \
  < <(headers | while IFS= read -r file; do
    head -n 1 "$file" | grep -qx '#pragma once' || echo "$file:1:"
  done)

if [ "$breaches" -ne 0 ]; then
  echo "$breaches breaches"
  exit 1
fi
echo "$(headers | wc -l) headers, no breach"

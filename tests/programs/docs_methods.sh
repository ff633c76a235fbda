#!/usr/bin/env bash
# docs_methods.sh BIN_DIR SOURCE_DIR: the C++ blocks of docs/methods.md are the examples of tests/unit/methods_example.cpp,
# letter by letter and in the same order; blocks inside a function are indented as its body is.
set -euo pipefail
source_dir=$2
shown=$(awk '/^```cpp$/ { inside = 1; print "----"; next } /^```$/ { inside = 0 } inside' "$source_dir/docs/methods.md")
tested=$(awk '/example-end/ { inside = 0 } inside { print substr($0, indent + 1) }
              /example-begin/ { inside = 1; match($0, /^ */); indent = RLENGTH; print "----" }' \
  "$source_dir/tests/unit/methods_example.cpp")
if ! diff <(echo "$shown") <(echo "$tested"); then
  echo "docs/methods.md (<) and its tests (>) differ" >&2
  exit 1
fi
count=$(grep -c '^----$' <<<"$shown")
[ "$count" -eq 2 ]
echo "docs/methods.md: $count blocks are tested"

#!/usr/bin/env bash
# docs_policies.sh BIN_DIR SOURCE_DIR: the C++ blocks of docs/policies.md are the examples of the tests, letter by letter
# and in the same order; between example-begin and example-end in tests/support/own_policies.hpp and own_policy.cpp.
set -euo pipefail
source_dir=$2
shown=$(awk '/^```cpp$/ { inside = 1; print "----"; next } /^```$/ { inside = 0 } inside' "$source_dir/docs/policies.md")
tested=$(awk '/example-end/ { inside = 0 } inside; /example-begin/ { inside = 1; print "----" }' \
  "$source_dir/tests/support/own_policies.hpp" "$source_dir/tests/unit/own_policy.cpp")
if ! diff <(echo "$shown") <(echo "$tested"); then
  echo "docs/policies.md (<) and the tests' own policies (>) differ" >&2
  exit 1
fi
count=$(grep -c '^----$' <<<"$shown")
[ "$count" -eq 5 ]
echo "docs/policies.md: $count blocks are tested"

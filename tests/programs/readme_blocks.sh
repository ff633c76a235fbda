#!/usr/bin/env bash
# Every C++ block of README.md stands, to the letter, between example-begin and example-end in a program that is built.
set -euo pipefail
source_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
awk -v dir="$work" '/^```cpp$/ { n++; inside = 1; next } /^```$/ { inside = 0 } inside { print > (dir "/readme" n) }' "$source_dir/README.md"
awk -v dir="$work" '/example-begin/ { n++; inside = 1; next } /example-end/ { inside = 0 } inside { print > (dir "/example" n) }' \
  "$source_dir"/examples/*.cpp
count=0
for block in "$work"/readme*; do
  found=no
  for example in "$work"/example*; do
    if cmp -s "$block" "$example"; then found=yes; fi
  done
  if [ "$found" = no ]; then
    echo "a C++ block of README.md is in no example:" >&2
    cat "$block" >&2
    exit 1
  fi
  count=$((count + 1))
done
[ "$count" -ge 2 ]
echo "README.md: $count blocks are examples that compile"

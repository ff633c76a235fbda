#!/usr/bin/env bash
# must_fail.sh SOURCE COMPILER [FLAG...]
# Passes if the compiler refuses SOURCE and says the sentence that SOURCE names in a line `// expect: SENTENCE`.
set -uo pipefail

source=$1
shift
sentence=$(sed -n 's|^// expect: *||p' "$source" | head -n 1)
if [ -z "$sentence" ]; then
  echo "$source: has no line '// expect: SENTENCE'"
  exit 1
fi

if output=$(LC_ALL=C "$@" -fsyntax-only -fmessage-length=0 "$source" 2>&1); then
  echo "$source: compiles, but must not"
  exit 1
fi
if ! grep -qF -- "$sentence" <<<"$output"; then
  printf '%s: is refused, but not with the sentence\n  %s\nThe compiler said:\n%s\n' "$source" "$sentence" "$output"
  exit 1
fi
echo "refused with: $sentence"

# shellcheck shell=bash
# Sourced by the scripts beside it, which ctest runs as `bash SCRIPT BIN_DIR SOURCE_DIR`. A script ends with `finish`.
set -uo pipefail

if [ $# -ne 2 ]; then
  echo "usage: bash ${0##*/} BIN_DIR SOURCE_DIR" >&2
  exit 2
fi
braid=$1/braid
zoo=$2/examples/zoo
if [ ! -x "$braid" ] || [ ! -d "$zoo" ]; then
  echo "no $braid, or no $zoo" >&2
  exit 2
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
out=$tmp/out  # what refused commands must not leave
good=0
bad=0

# The whole zoo, and a command to merge any of it.
# shellcheck disable=SC2034
experts=(--expert "$zoo/add" --expert "$zoo/cipher" --expert "$zoo/facts" --expert "$zoo/sort")
# shellcheck disable=SC2034
merge=("$braid" channel-merge --base "$zoo/base")

# verdict STATUS SENTENCE: counts; 0 is good.
verdict() {
  if [ "$1" -eq 0 ]; then
    good=$((good + 1))
  else
    bad=$((bad + 1))
    echo "FAILED: $2"
  fi
}

# works SENTENCE COMMAND...: exit status 0. Leaves $tmp/stdout and $tmp/stderr.
works() {
  local sentence=$1 status=0
  shift
  "$@" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
  verdict "$status" "$sentence: exit status $status: $(cat "$tmp/stderr")"
}

# says SENTENCE FILE TEXT: the file has a line with that text.
says() {
  grep -qF -- "$3" "$2"
  verdict $? "$1: '$3' is not in: $(head -c 2000 "$2")"
}

# same SENTENCE A B: equal files.
same() {
  cmp -s "$2" "$3"
  verdict $? "$1: $2 and $3 differ"
}

# lossless SENTENCE A B: braid diff finds the checkpoints equal.
lossless() {
  local status=0
  "$braid" diff "$2" "$3" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
  verdict "$status" "$1: $(cat "$tmp/stdout" "$tmp/stderr")"
}

# refused TEXT COMMAND...: not 0, exactly one line on standard error, which begins with "braid: " and has the text;
# nothing at $out, and no unfinished directory beside it.
refused() {
  local text=$1 status=0 lines
  shift
  "$@" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
  lines=$(wc -l <"$tmp/stderr")
  [ "$status" -eq 1 ] || [ "$status" -eq 2 ]
  verdict $? "'$text': exit status $status of: $*"
  [ "$lines" -eq 1 ] && grep -q '^braid: ' "$tmp/stderr" && grep -qF -- "$text" "$tmp/stderr"
  verdict $? "'$text' and no more, but: $(cat "$tmp/stderr")"
  [ ! -e "$out" ] && [ -z "$(find "$tmp" -maxdepth 1 -name '.*')" ]
  verdict $? "'$text': left behind: $(ls -A "$tmp")"
  rm -rf "$out"
}

# digest SENTENCE FILE SHA256: a stored digest. It changes with the format, and then docs/format.md does too.
digest() {
  local actual
  actual=$(sha256sum <"$2" | cut -d ' ' -f 1)
  [ "$actual" = "$3" ]
  verdict $? "$1: sha256 $actual, stored is $3"
}

# tensors FILE HEADER BYTES: a safetensors file of a JSON header and data, given as for printf '%b'.
tensors() {
  local header=$2 i
  {
    for i in 0 1 2 3 4 5 6 7; do
      # shellcheck disable=SC2059
      printf "\\x$(printf '%02x' $(((${#header} >> (8 * i)) & 255)))"
    done
    printf '%s%b' "$header" "$3"
  } >"$1"
}

# tiny DIR DTYPE SHAPE BYTES END: a model of one matrix that is merged by default.
tiny() {
  mkdir -p "$1"
  tensors "$1/model.safetensors" \
    "{\"model.layers.0.mlp.up_proj.weight\":{\"dtype\":\"$2\",\"shape\":$3,\"data_offsets\":[0,$5]}}" "$4"
  echo '{}' >"$1/config.json"
}

finish() {
  echo "$good passed, $bad failed"
  [ "$bad" -eq 0 ]
  exit
}

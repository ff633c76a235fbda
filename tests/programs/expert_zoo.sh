#!/usr/bin/env bash
# The zoo's table: rows that must come out as they were when the experts were trained, and as measured by an independent
# implementation of Channel Merging.
set -euo pipefail
bin=$1
source_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$bin/expert_zoo" "$source_dir/examples/zoo" --rows '{unmerged,*K=4 mean*,*K=2 mean\, cosine,*K=2 ties\, balanced,*sign1,*best*,budget*}' --json "$work/table.json" \
  | tee "$work/table.txt"

# mean METHOD-PREFIX: the mean accuracy of that row, in thousandths.
mean() {
  tr -d ' \n' <"$work/table.json" | grep -oE "\"method\":\"$1[^}]*\},\"mean\":[0-9.]+|\"mean\":[0-9.]+[^{}]*\"method\":\"$1" |
    grep -oE '"mean":[0-9.]+' | head -n 1 | cut -d: -f2 | awk '{ printf "%d", $1 * 1000 + 0.5 }'
}

# expect METHOD-PREFIX LOW HIGH: thousandths.
expect() {
  local got
  got=$(mean "$1")
  if [ -z "$got" ] || [ "$got" -lt "$2" ] || [ "$got" -gt "$3" ]; then
    echo "row '$1': mean accuracy ${got:-missing} of 1000, expected $2 to $3" >&2
    exit 1
  fi
}

expect unmerged 998 1000
expect 'channelmergingK=4mean' 998 1000
expect 'channelmergingK=2mean,cosine' 425 445
expect 'channelmergingK=2ties,balanced' 835 855
expect 'K=1,residualsign1' 975 995
expect 'presetbest' 995 1000
expect 'budget0.36' 993 1000
echo "expert_zoo: 7 rows as expected"

#!/usr/bin/env bash
# The frontier: rivals come out as an independent implementation measured them, merges in memory and through files are
# one, and what is written is well-formed.
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
expert_zoo=$1/expert_zoo

# value FILE FAMILY NAME FIELD: a number of one point. Points are objects whose fields stand in lines of their own.
value() {
  awk -v name="\"name\": \"$3\"," -v family="\"family\": \"$2\"," -v field="\"$4\":" '
    index($0, "\"family\":") { here = index($0, family) > 0; found = 0 }
    here && index($0, name) { found = 1 }
    here && found && index($0, field) { gsub(/[^0-9.e+-]/, "", $2); print $2; exit }' "$1"
}

# between SENTENCE VALUE LOW HIGH
between() {
  awk -v x="${2:-missing}" -v low="$3" -v high="$4" 'BEGIN { exit !(x ~ /^[0-9]/ && x + 0 >= low && x + 0 <= high) }'
  verdict $? "$1: $2 is not between $3 and $4"
}

# All prompts: 0.782 and 0.851 were measured with PyTorch, at 0.324 of the bytes without scales.
works "BitDelta is measured" "$expert_zoo" "$zoo" --frontier --rows '{references*,BitDelta*}' --json "$tmp/rivals.json"
json=$tmp/rivals.json
bitdelta="BitDelta, untrained"
between "BitDelta with a scale a tensor" "$(value "$json" "$bitdelta" "BitDelta, a scale a tensor" mean)" 0.762 0.802
between "BitDelta with a scale a row" "$(value "$json" "$bitdelta" "BitDelta, a scale a row" mean)" 0.831 0.871
between "the experts as they were trained" "$(value "$json" references unmerged mean)" 0.998 1
between "the base" "$(value "$json" references "base alone" mean)" 0.28 0.285
without_scales=$(awk -v kept="$(value "$json" "$bitdelta" "BitDelta, a scale a row" kept)" \
  -v rows="$(value "$json" "$bitdelta" "BitDelta, a scale a row" rows)" \
  -v planes="$(value "$json" "$bitdelta" "BitDelta, a scale a row" planes)" \
  -v all="$(awk '/"expert_bytes"/ { gsub(/[^0-9]/, "", $2); print $2 }' "$json")" 'BEGIN { print (kept + rows + planes) / all }')
between "BitDelta's bytes without scales" "$without_scales" 0.321 0.325

# A few prompts of everything else.
rows='{one model: ties,channel merging*: K = 2\, balanced,residuals: K = 1 + *1,residuals: K = 2 + ternary\, cosine,'
rows+='budgets: budget 0.40,partition per tensor: K = 2\, ties\, cosine,random rows: K = 2\, mean}'
works "a frontier of few prompts" "$expert_zoo" "$zoo" --frontier --prompts 8 --rows "$rows" --json "$tmp/few.json" \
  --svg "$tmp/few.svg" --markdown "$tmp/few.md"
points=$(grep -c '"family"' "$tmp/few.json")
between "points in the JSON" "$points" 9 9
between "random rows are five draws" "$(value "$tmp/few.json" "random rows" "K = 2, mean" draws)" 5 5
between "a budget is kept" "$(value "$tmp/few.json" budgets "budget 0.40" stored)" 0.35 0.4
says "the SVG ends" "$tmp/few.svg" "</svg>"
between "points in the SVG" "$(grep -c '<title>' "$tmp/few.svg")" "$points" "$points"
between "names in the Markdown" "$(grep -c '^| [^*m]\|^| \*\*' "$tmp/few.md")" "$points" "$points"
if command -v python3 >/dev/null; then
  works "the SVG is XML" python3 -c 'import sys, xml.dom.minidom as d; d.parse(sys.argv[1])' "$tmp/few.svg"
  works "the JSON is JSON" python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$tmp/few.json"
fi
works "figures can be drawn again" "$expert_zoo" --frontier --from "$tmp/few.json" --json "$tmp/again.json" --svg "$tmp/again.svg"
same "JSON read back" "$tmp/few.json" "$tmp/again.json"
same "the same picture" "$tmp/few.svg" "$tmp/again.svg"

# Through files: the same accuracies from the same bytes, part by part.
rows='{channel merging*: K = 2\, balanced,residuals: K = 1 + sign1,residuals: K = 2 + ternary\, cosine}'
works "merges in memory" "$expert_zoo" "$zoo" --frontier --prompts 8 --rows "$rows" --json "$tmp/memory.json"
works "merges through files" "$expert_zoo" "$zoo" --frontier --prompts 8 --rows "$rows" --files --json "$tmp/files.json"
grep -v seconds "$tmp/memory.json" >"$tmp/memory.txt"
grep -v seconds "$tmp/files.json" >"$tmp/files.txt"
same "memory and files" "$tmp/memory.txt" "$tmp/files.txt"

# Moments, and merges that use them.
works "moments" "$expert_zoo" "$zoo" --moments "$tmp/moments.safetensors" --moment-prompts 4
says "moments of 28 weights" "$tmp/stdout" "28 weights"
works "weighted merges" "$expert_zoo" "$zoo" --frontier --prompts 8 --column-weights "$tmp/moments.safetensors" \
  --rows 'residuals*weighted: K = 1 + sign1' --json "$tmp/weighted.json"
between "the weighted point" "$(grep -c '"family": "residuals, weighted"' "$tmp/weighted.json")" 1 1

# refused_by TEXT ARGUMENTS...: not 0, and one line that has the text.
refused_by() {
  local text=$1 status=0
  shift
  "$expert_zoo" "$@" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
  [ "$status" -eq 1 ] && [ "$(wc -l <"$tmp/stderr")" -eq 1 ] && grep -qF -- "$text" "$tmp/stderr"
  verdict $? "'$text' and no more, but: $(cat "$tmp/stderr")"
}
refused_by "matches none of" "$zoo" --frontier --rows 'nothing'
refused_by "can't be written" "$zoo" --frontier --svg "$tmp/nowhere/few.svg"
refused_by "not what --frontier --json writes" --frontier --from "$zoo/accuracy.json"
refused_by "holds no moments" "$zoo" --frontier --column-weights "$zoo/base/model.safetensors"
refused_by "hold out fewer" "$zoo" --frontier --hold-out 500
refused_by "take 1 or more" "$zoo" --moments "$tmp/m.safetensors" --moment-prompts 500

finish

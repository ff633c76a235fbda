#!/usr/bin/env bash
# What braid inspect and braid diff print.
# shellcheck source-path=SCRIPTDIR source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

# has FILE TEXT...: every text is in the file.
has() {
  local file=$1 text
  shift
  for text; do says "it shows" "$file" "$text"; done
}

# at_most_wide FILE COLUMNS
at_most_wide() {
  [ "$(wc -L <"$1")" -le "$2" ]
  verdict $? "lines of at most $2 columns, but: $(cat "$1")"
}

# ---- inspect ----
works "a merge" "${merge[@]}" "${experts[@]}" --preset ties_cm --keep '*.layers.1.*' --from-base model.norm.weight \
  --out "$tmp/merged"
works "inspect" "$braid" inspect "$tmp/merged"
has "$tmp/stdout" "grouped checkpoint of 4 experts, format 1" "experts   add, cipher, facts, sort" "method    channel_merge" \
  "consensus ties_sum" "lambda 0.5" "prune magnitude (density 0.7)" "21 merged, 17 kept, 1 from the base" "rows/channel"
at_most_wide "$tmp/stdout" 100
grep -qE '^model\.layers\.0 +9 +7 +2 +2\.00 ' "$tmp/stdout" && grep -qE '^model\.layers\.1 +9 +0 +- +- ' "$tmp/stdout"
verdict $? "a line for each layer: $(cat "$tmp/stdout")"

works "inspect --json" "$braid" inspect "$tmp/merged" --json
has "$tmp/stdout" '"kind": "grouped"' '"stored_fraction": 0.' '"layer": "model.layers.3"' '"name": "model.norm.weight"' \
  '"action": "base"' '"rows_per_channel": 2.0' '"similarity": null'
works "inspect of an ordinary checkpoint" "$braid" inspect "$zoo/add" --json
has "$tmp/stdout" '"kind": "checkpoint"' '"dtype": "BF16"' '"file": "model.safetensors"'
if command -v python3 >/dev/null; then
  cat >"$tmp/check.py" <<'END'
import json, subprocess, sys
braid, merged, plain = sys.argv[1:]
show = lambda d: json.loads(subprocess.run([braid, "inspect", d, "--json"], check=True, capture_output=True).stdout)
g = show(merged)
assert g["stored_fraction"] == g["stored_bytes"] / g["expert_bytes"]
assert sum(t["stored_bytes"] for t in g["tensors"]) == g["stored_bytes"]
assert sum(l["stored_bytes"] for l in g["layers"]) == g["stored_bytes"]
assert sum(f["tensor_bytes"] for f in g["files"]) == g["stored_bytes"]
assert [e["name"] for e in g["experts"]] == ["add", "cipher", "facts", "sort"]
assert {t["action"] for t in g["tensors"]} == {"merge", "keep", "base"}
assert all(0 < t["similarity"] <= 1 for t in g["tensors"] if t["action"] == "merge")
p = show(plain)
assert sum(t["bytes"] for t in p["tensors"]) == p["bytes"] == p["dtypes"]["BF16"]["bytes"]
END
  works "the JSON is JSON, and its numbers agree" python3 "$tmp/check.py" "$braid" "$tmp/merged" "$zoo/add"
fi
works "inspect for people" "$braid" inspect "$zoo/add"
has "$tmp/stdout" "checkpoint, 39 tensors, 1.50 MB in 1 file" "BF16 (39 tensors, 1.50 MB)" \
  "model.layers.*.self_attn.k_proj.weight              4  BF16   [64, 128]"
at_most_wide "$tmp/stdout" 100
works "inspect of a model without layers" "$braid" inspect "$tmp/merged"

# Names as a file may have them: too long for a table, and with characters that would move the cursor.
mkdir "$tmp/odd"
long=$(printf 'x%.0s' {1..200})
escaped="\"$long.7.a\\u001b[2J\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}"
scalar='"b":{"dtype":"I64","shape":[],"data_offsets":[1,9]}'
tensors "$tmp/odd/model.safetensors" "{$escaped,$scalar}" \
  '\0001\0002\0000\0000\0000\0000\0000\0000\0000'
works "odd names" "$braid" inspect "$tmp/odd"
at_most_wide "$tmp/stdout" 100
! grep -q $'\033' "$tmp/stdout"
verdict $? "no escape sequence from a file reaches the terminal"

# ---- diff ----
# differs TEXT A B: exit status 1, and the text.
differs() {
  local status=0
  "$braid" diff "$2" "$3" >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
  [ "$status" -eq 1 ]
  verdict $? "'$1': exit status $status: $(cat "$tmp/stderr")"
  says "diff" "$tmp/stdout" "$1"
}
name=model.layers.0.mlp.up_proj.weight

lossless "a model equals itself" "$zoo/add" "$zoo/add"
says "diff counts" "$tmp/stdout" "39 tensors are equal, 0 differ"
differs "39 differ" "$zoo/add" "$zoo/sort"
# F32: 1 2 3 4 against 1 2.5 3 1
one='\0000\0000\0200\0077' two='\0000\0000\0000\0100' three='\0000\0000\0100\0100' four='\0000\0000\0200\0100'
half='\0000\0000\0040\0100' nan='\0000\0000\0300\0177' minus_zero='\0000\0000\0000\0200' zero='\0000\0000\0000\0000'
tiny "$tmp/a" F32 '[2,2]' "$one$two$three$four" 16
tiny "$tmp/b" F32 '[2,2]' "$one$half$three$one" 16
differs "$name: 2 of 4 elements differ, most by 3 at [1, 1]: 4 against 1" "$tmp/a" "$tmp/b"
tiny "$tmp/b" F32 '[2,2]' "$two$one$three$four" 16
differs "$name: 2 of 4 elements differ, most by 1 at [0, 0]: 1 against 2" "$tmp/a" "$tmp/b"
tiny "$tmp/b" F32 '[2,2]' "$one$nan$three$one" 16
differs "$name: 2 of 4 elements differ, most by inf at [0, 1]: 2 against nan" "$tmp/a" "$tmp/b"
tiny "$tmp/a" F32 '[2,2]' "$zero$nan$three$four" 16
tiny "$tmp/b" F32 '[2,2]' "$minus_zero$nan$three$four" 16
differs "$name: 1 of 4 elements differ, most by 0 at [0, 0]: 0 against -0" "$tmp/a" "$tmp/b"
tiny "$tmp/b" F32 '[4]' "$zero$nan$three$four" 16
differs "$name: F32 [2, 2] against F32 [4]" "$tmp/a" "$tmp/b"
tiny "$tmp/a" F32 '[2,1]' "$one$two" 8
tiny "$tmp/b" BF16 '[2,1]' '\0200\0077\0000\0100' 4
differs "$name: F32 against BF16, equal values" "$tmp/a" "$tmp/b"
tiny "$tmp/b" BF16 '[2,1]' '\0200\0077\0200\0100' 4
differs "$name: F32 against BF16, 1 of 2 elements differ, most by 2 at [1, 0]: 2 against 4" "$tmp/a" "$tmp/b"
differs "$name: only in $tmp/a, F32 [2, 1]" "$tmp/a" "$tmp/odd"
differs "b: only in $tmp/odd, I64 []" "$tmp/a" "$tmp/odd"
differs "0 tensors are equal, 0 differ, 3 in one only" "$tmp/a" "$tmp/odd"

# Errors have a status of their own, as diff(1)'s.
for command in "diff $tmp/a" "diff $tmp/a $tmp/nowhere" "diff $tmp/a $tmp/a --loud"; do
  status=0
  # shellcheck disable=SC2086
  "$braid" $command >"$tmp/stdout" 2>"$tmp/stderr" || status=$?
  [ "$status" -eq 2 ] && [ "$(wc -l <"$tmp/stderr")" -eq 1 ]
  verdict $? "braid $command: exit status $status, $(cat "$tmp/stderr")"
done

finish

#!/usr/bin/env bash
# Residuals from outside: what channel-merge writes with --residual, and what inspect, extract and diff make of it.
# shellcheck source-path=SCRIPTDIR source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

# merges NAME OPTION...: the whole zoo into $tmp/NAME.
merges() {
  local name=$1
  shift
  works "$*" "${merge[@]}" "${experts[@]}" --out "$tmp/$name" "$@"
}
# fraction NAME: stored over the experts' bytes, as inspect has it.
fraction() {
  "$braid" inspect "$tmp/$1" --json | grep -m 1 '"stored_fraction"' | tr -dc '0-9.'
}
# less SENTENCE A B
less() {
  awk -v a="$2" -v b="$3" 'BEGIN { exit !(a != "" && b != "" && a + 0 < b + 0) }'
  verdict $? "$1: $2 is not below $3"
}
# lost A B: the largest difference of any element that diff finds; 0 for equal checkpoints.
lost() {
  "$braid" diff "$1" "$2" | sed -n 's/.*differ, most by \([^ ]*\) .*/\1/p' | sort -g | tail -n 1
}

# ---- every code: what is stored, in which files, and that each expert is nearer to its original than without ----
merges plain --groups 1
works "an extract without residuals" "$braid" extract "$tmp/plain" --expert sort --out "$tmp/plain-sort"
before=$(lost "$tmp/plain-sort" "$zoo/sort")
plain=$(fraction plain)
for code in sign1 sign2 sign3 ternary trellis1 trellis2; do
  merges "$code" --groups 1 --residual "$code" --residual-sweeps 1
  says "the summary counts the residuals" "$tmp/stdout" "  residuals  "
  says "the summary names the residual" "$tmp/stdout" "residual $code, sweeps 1"
  files=$(cd "$tmp/$code" && echo *.safetensors)
  [ "$files" = braid.safetensors ]
  verdict $? "the files of $code don't look like a model's: $files"
  works "inspect $code" "$braid" inspect "$tmp/$code"
  says "inspect says the format" "$tmp/stdout" "grouped checkpoint of 4 experts, format 2"
  says "inspect says the code" "$tmp/stdout" "  residuals $code, "
  says "inspect shows the recipe" "$tmp/stdout" "residual $code (sweeps 1)"
  [ "$(wc -L <"$tmp/stdout")" -le 100 ]
  verdict $? "lines of at most 100 columns: $(cat "$tmp/stdout")"
  works "extract from $code" "$braid" extract "$tmp/$code" --expert sort --out "$tmp/$code-sort"
  less "$code costs something" "$plain" "$(fraction "$code")"
  less "$code stays below two groups" "$(fraction "$code")" 0.52
  less "$code loses less than the mean" "$(lost "$tmp/$code-sort" "$zoo/sort")" "$before"
done
less "ternary is smaller than two bits" "$(fraction ternary)" "$(fraction sign2)"

works "inspect --json" "$braid" inspect "$tmp/ternary" --json
for text in '"residual_bytes": ' '"ternary"' '"residuals": []' '"format": 2'; do says "JSON" "$tmp/stdout" "$text"; done
if command -v python3 >/dev/null; then
  cat >"$tmp/check.py" <<'END_OF_CHECK'
import json, subprocess, sys
g = json.loads(subprocess.run([sys.argv[1], "inspect", sys.argv[2], "--json"], check=True, capture_output=True).stdout)
assert g["residual_bytes"] == sum(t["residual_bytes"] for t in g["tensors"]) == sum(l["residual_bytes"] for l in g["layers"]) > 0
assert sum(t["stored_bytes"] for t in g["tensors"]) == g["stored_bytes"] == sum(f["tensor_bytes"] for f in g["files"])
for t in g["tensors"]:
    assert (t["residuals"] == ["ternary"]) == (t["residual_bytes"] > 0) == (t["action"] == "merge"), t
    if t["action"] == "merge":  # four experts in one group: planes of five elements a byte, scales of two bytes
        assert t["residual_bytes"] == 4 * t["channels"] * (-(-t["row_elements"] // 5) + 2), t
END_OF_CHECK
  works "the JSON's numbers agree" python3 "$tmp/check.py" "$braid" "$tmp/ternary"
fi

# ---- the same bytes on any number of threads, in shards, and an extract that doesn't depend on them ----
merges again --groups 1 --residual ternary --residual-sweeps 1 --threads 3
same "threads change no byte" "$tmp/again/braid.safetensors" "$tmp/ternary/braid.safetensors"
merges shards --groups 1 --residual ternary --residual-sweeps 1 --max-shard-size 1MB
[ -e "$tmp/shards/braid-00001-of-00003.safetensors" ] && [ -e "$tmp/shards/braid.safetensors.index.json" ]
verdict $? "shards: $(ls "$tmp/shards")"
works "an extract of shards" "$braid" extract "$tmp/shards" --expert sort --out "$tmp/shards-sort"
same "shards change no expert" "$tmp/shards-sort/model.safetensors" "$tmp/ternary-sort/model.safetensors"

# ---- types and layouts ----
for type in f16 f8_e4m3; do
  merges "$type" --groups 2 --residual sign1 --dtype "$type"
  works "an extract in $type" "$braid" extract "$tmp/$type" --expert add --out "$tmp/$type-add"
done
merges turned --groups 1 --residual sign1 --channel-axis '*=-1'
works "an extract of a transposed merge" "$braid" extract "$tmp/turned" --expert add --out "$tmp/turned-add"
less "a transposed merge is near the original" "$(lost "$tmp/turned-add" "$zoo/add")" 0.1

# ---- where no row needs a residual, nothing of it is left ----
merges lossless --groups 4 --residual ternary
says "a note" "$tmp/stderr" "braid: note: --residual has no effect: with 4 groups for 4 experts"
[ -e "$tmp/lossless/model.safetensors" ]
verdict $? "an ordinary directory: $(ls "$tmp/lossless")"
works "an extract without loss" "$braid" extract "$tmp/lossless" --expert facts --out "$tmp/lossless-facts"
lossless "four groups lose nothing" "$tmp/lossless-facts" "$zoo/facts"
merges none --groups 2 --residual none
merges unsaid --groups 2
same "--residual none is the default" "$tmp/none/model.safetensors" "$tmp/unsaid/model.safetensors"

# ---- options for nothing, and mistakes ----
merges noted --groups 2 --residual-sweeps 2
says "a note" "$tmp/stderr" "braid: note: --residual-sweeps has no effect: no residuals are stored"
merges noted2 --groups 3 --residual sign1 --consensus ties --prune dare
says "a note" "$tmp/stderr" "braid: note: --consensus, --prune have no effect: no group can have more than two rows"
merges noted3 --groups 3 --residual sign1 --residual-sweeps 0 --consensus ties
! grep -q note "$tmp/stderr"
verdict $? "no note without a reason: $(cat "$tmp/stderr")"
refused "--residual 'quaternary' is unknown; choose none, sign1, sign2, sign3, ternary, trellis1 or trellis2" \
  "${merge[@]}" "${experts[@]}" --out "$out" --residual quaternary
refused "--residual-sweeps -1: choose 0 to 1000" "${merge[@]}" "${experts[@]}" --out "$out" --residual sign1 --residual-sweeps -1
refused "Extract them first" "${merge[@]}" --expert "$tmp/ternary" --expert "$zoo/sort" --out "$out"

# A byte of the codes' sizes that lies: the file is refused, and nothing is written.
cp -r "$tmp/ternary" "$tmp/damaged"
sed -i 's/\\"model.layers.0.mlp.up_proj.weight\\":\\"ternary\\"/\\"model.layers.0.mlp.up_proj.weight\\":\\"sign3\\"  /' \
  "$tmp/damaged/braid.safetensors"
refused "[format error 325]" "$braid" extract "$tmp/damaged" --expert sort --out "$out"

finish

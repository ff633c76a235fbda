#!/usr/bin/env bash
# The options of braid channel-merge: presets, precedence, notes, and the command line itself.
# shellcheck source-path=SCRIPTDIR source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

# merges NAME OPTION...: into $tmp/NAME; leaves what inspect says in $tmp/NAME.txt.
merges() {
  local name=$1
  shift
  works "$*" "${merge[@]}" "${experts[@]}" --out "$tmp/$name" "$@"
  cp "$tmp/stderr" "$tmp/$name.notes"
  "$braid" inspect "$tmp/$name" >"$tmp/$name.txt"
}
# merged_in NAME LAYER COUNT: so many tensors of the layer were merged.
merged_in() {
  grep -qE "^$2 +[0-9]+ +$3 " "$tmp/$1.txt"
  verdict $? "$3 tensors of $2 are merged: $(cat "$tmp/$1.txt")"
}

# ---- presets: what they stand for, and what wins over them ----
merges dare_cm --preset dare_cm --seed 42
merges explicit --prune dare --density 0.7 --consensus sum --lambda 0.5 --groups 2 --similarity cosine --cluster exact --seed 42
same "dare_cm is its settings" "$tmp/dare_cm/model.safetensors" "$tmp/explicit/model.safetensors"
merges ties_cm --preset ties-cm
merges explicit2 --prune magnitude --density 0.7 --consensus ties-sum --lambda 0.5
same "ties_cm is its settings" "$tmp/ties_cm/model.safetensors" "$tmp/explicit2/model.safetensors"
merges override --lambda 1 --preset ties_cm --density 0.25 --similarity balanced --cluster agglomerative --groups 3
for text in "prune magnitude (density 0.25)" "consensus ties_sum" "lambda 1" "similarity balanced" "cluster agglomerative" "groups 3"; do
  says "an option wins over the preset's" "$tmp/override.txt" "$text"
done
merges override2 --preset dare_cm --prune magnitude-rows --consensus mean
says "another policy takes the preset's numbers" "$tmp/override2.txt" "prune magnitude_rows (density 0.7)"
says "another consensus" "$tmp/override2.txt" "consensus mean"

# ---- every policy runs, each to another result ----
for prune in none dare magnitude magnitude-rows magprune; do
  for consensus in mean sum ties ties-sum; do merges "p-$prune-$consensus" --prune "$prune" --consensus "$consensus"; done
done
for similarity in euclidean balanced sign; do merges "s-$similarity" --similarity "$similarity"; done
merges c-random --cluster random --seed 1
results=("$tmp"/[psc]-*/model.safetensors)
different=$(sha256sum "${results[@]}" | cut -d ' ' -f 1 | sort -u | wc -l)
[ "${#results[@]}" -eq 24 ] && [ "$different" -eq 24 ]
verdict $? "${#results[@]} policies, $different results"

# ---- patterns: the first that matches decides, whatever option it belongs to ----
merges keep_first --keep '*.layers.0.*' --merge '*.layers.*' --from-base '*.layers.*'
merged_in keep_first model.layers.0 0
merged_in keep_first model.layers.1 9
says "a pattern that is never asked is named" "$tmp/keep_first.notes" \
  "braid: note: --from-base '*.layers.*' has no effect: all that it matches is decided by patterns before it"
merges merge_first --merge '*.layers.0.*' --keep '*.layers.*'
merged_in merge_first model.layers.0 9
merged_in merge_first model.layers.1 0
merges base_first --from-base '*.layers.{0,1}.*' --merge '*.layers.1.*' --keep '*.layers.[2-3].mlp.*'
merged_in base_first model.layers.1 0
merged_in base_first model.layers.2 4
says "from the base" "$tmp/base_first.txt" "18 from the base"
merges typo --keep '*.layer.0.*' --channel-axis '*.c_attn.*=1'
says "a pattern that matches nothing is named" "$tmp/typo.notes" \
  "braid: note: --keep '*.layer.0.*' has no effect: no tensor's name matches"
says "an axis that matches nothing is named" "$tmp/typo.notes" "--channel-axis '*.c_attn.*' has no effect"
merges axis --channel-axis '*.q_proj.weight=-1' --channel-axis '*=0'
! cmp -s "$tmp/axis/model.safetensors" "$tmp/c-random/model.safetensors"
verdict $? "another channel axis, another merge"
for name in add sort; do
  works "an extract of a transposed merge" "$braid" extract "$tmp/axis" --expert "$name" --out "$tmp/axis-$name"
done

# ---- options for nothing ----
# notes TEXT OPTION...
notes() {
  local text=$1
  shift
  rm -rf "$tmp/noted"
  works "$*" "${merge[@]}" "${experts[@]}" --out "$tmp/noted" "$@"
  says "a note" "$tmp/stderr" "braid: note: $text"
}
notes "--density has no effect: nothing is pruned" --density 0.5
notes "--epsilon has no effect: it belongs to --prune magprune" --prune dare --epsilon 0.1
notes "--seed has no effect: no policy chosen here is random" --seed 3 --prune magnitude
notes "--similarity, --cluster have no effect: one group" --groups 1 --similarity sign --cluster kmeans
notes "--similarity has no effect: random groups" --cluster random --similarity sign
notes "--consensus, --prune have no effect: with 4 groups for 4 experts" --groups 4 --prune dare --consensus sum
works "no note without a reason" "${merge[@]}" "${experts[@]}" --out "$tmp/quiet" --prune magprune --epsilon 0.2 --seed 1
! grep -q note "$tmp/stderr"
verdict $? "no note without a reason: $(cat "$tmp/stderr")"

# ---- dtypes, hashes ----
merges f32 --dtype f32 --no-hash
"$braid" inspect "$tmp/f32" --json >"$tmp/f32.json"
says "--dtype" "$tmp/f32.json" '"dtype": "F32"'
says "--no-hash" "$tmp/f32.json" '"hash": ""'
"$braid" inspect "$tmp/dare_cm" --json >"$tmp/dare_cm.json"
says "hashes of inputs" "$tmp/dare_cm.json" '"hash": "xxh3:'

# ---- help and version ----
works "--version" "$braid" --version
grep -qE '^braid [0-9]+\.[0-9]+\.[0-9]+$' "$tmp/stdout"
verdict $? "--version: $(cat "$tmp/stdout")"
works "--help" "$braid" --help
says "--help" "$tmp/stdout" "channel-merge"
for command in channel-merge extract inspect diff; do
  works "$command --help" "$braid" "$command" --help
  says "$command --help" "$tmp/stdout" "Example:"
  [ "$(wc -L <"$tmp/stdout")" -le 100 ]
  verdict $? "$command --help fits 100 columns"
done
for command in "" "merge" "--loud" "channel-merge" "channel-merge --loud" "extract" "inspect" "inspect a b"; do
  # shellcheck disable=SC2086
  refused "--help" "$braid" $command
done

finish

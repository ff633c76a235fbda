#!/usr/bin/env bash
# Whatever is wrong, one line says what, where and what to do, and nothing is left behind.
# shellcheck source-path=SCRIPTDIR source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

two=(--expert "$zoo/add" --expert "$zoo/sort")
# bad_expert TEXT DIR OPTION...: a merge with that expert is refused.
bad_expert() {
  local text=$1 dir=$2
  shift 2
  refused "$text" "${merge[@]}" --expert "$zoo/add" --expert "bad=$dir" --out "$out" "$@"
}
# copy NAME: a model to spoil, in $tmp/NAME.
copy() {
  rm -rf "${tmp:?}/$1"
  cp -r "$zoo/sort" "$tmp/$1"
}

# ---- files ----
copy bad
head -c 1000000 "$zoo/sort/model.safetensors" >"$tmp/bad/model.safetensors"
bad_expert "$tmp/bad/model.safetensors" "$tmp/bad"
refused "$tmp/bad/model.safetensors" "$braid" inspect "$tmp/bad"
refused "$tmp/bad/model.safetensors" "$braid" diff "$zoo/sort" "$tmp/bad"
printf '\xff\xff\xff\xff\xff\xff\xff\x7f{}' >"$tmp/bad/model.safetensors"
bad_expert "$tmp/bad/model.safetensors" "$tmp/bad"
: >"$tmp/bad/model.safetensors"
bad_expert "$tmp/bad/model.safetensors" "$tmp/bad"
tensors "$tmp/bad/model.safetensors" '{"w":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,4]}}' 'abcd'
bad_expert '"w"' "$tmp/bad"
tensors "$tmp/bad/model.safetensors" '{"w":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}' 'abcd'
bad_expert '"w"' "$tmp/bad"
rm "$tmp/bad/model.safetensors"
bad_expert "$tmp/bad" "$tmp/bad"
bad_expert "$tmp/nowhere: no such directory" "$tmp/nowhere"
refused "$tmp/nowhere: no such directory" "$braid" channel-merge --base "$tmp/nowhere" "${two[@]}" --out "$out"
refused "config.json" "${merge[@]}" --expert "$zoo/add" --expert "bad=$zoo/sort/config.json" --out "$out"

works "a model in several files" "${merge[@]}" --expert "$zoo/sort" --groups 1 --max-shard-size 1MB --out "$tmp/shards"
rm "$tmp"/shards/model-00002-of-*.safetensors
bad_expert "model-00002-of-0000" "$tmp/shards"
refused "model-00002-of-0000" "$braid" inspect "$tmp/shards"
refused "model-00002-of-0000" "$braid" extract "$tmp/shards" --expert sort --out "$out"

# ---- tensors that don't fit together ----
one='\0200\0077' two_='\0000\0100' three='\0100\0100' nan='\0300\0177'
tiny "$tmp/base" BF16 '[2,2]' "$one$one$one$one" 8
tiny "$tmp/a" BF16 '[2,2]' "$one$two_$three$one" 8
tiny "$tmp/b" BF16 '[2,2]' "$three$two_$one$one" 8
small=("$braid" channel-merge --base "$tmp/base" --expert "$tmp/a" --expert)
tiny "$tmp/bad" BF16 '[2,1]' "$one$one" 4
refused "[2, 1]" "${small[@]}" "$tmp/bad" --out "$out"
refused "[2, 1]" "$braid" channel-merge --base "$tmp/bad" --expert "$tmp/a" --expert "$tmp/b" --out "$out"
tiny "$tmp/bad" F32 '[2,2]' "$one$one$one$one$one$one$one$one" 16
refused "--dtype" "${small[@]}" "$tmp/bad" --out "$out"
works "mixed types with --dtype" "${small[@]}" "$tmp/bad" --dtype bf16 --out "$tmp/mixed"
tiny "$tmp/bad" I16 '[2,2]' "$one$one$one$one" 8
refused "I16" "${small[@]}" "$tmp/bad" --out "$out"
tiny "$tmp/bad" BF16 '[2,2]' "$one$one$nan$one" 8
refused "expert 'bad' has NaN at [1, 0]" "${small[@]}" "$tmp/bad" --out "$out"
refused "--allow 'nan' is unknown; choose nonfinite" "${small[@]}" "$tmp/bad" --allow nan --out "$out"
works "NaN where it is allowed" "${small[@]}" "$tmp/bad" --allow nonfinite --out "$tmp/nonfinite"
mkdir "$tmp/other"
tensors "$tmp/other/model.safetensors" '{"x":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}' "$one$one$one$one"
refused "--keep" "${small[@]}" "$tmp/other" --out "$out"

# ---- what is asked for ----
refused "another expert is called 'add'" "${merge[@]}" "${two[@]}" --expert "$zoo/../zoo/add" --out "$out"
refused "another expert is called 'x'" "${merge[@]}" --expert "x=$zoo/add" --expert "x=$zoo/sort" --out "$out"
cp -r "$zoo/add" "$tmp/Llama-3.1"
refused "write --expert NAME=" "${merge[@]}" --expert "$tmp/Llama-3.1" --expert "$zoo/sort" --out "$out"
works "a name for it" "${merge[@]}" --expert "llama=$tmp/Llama-3.1" --expert "$zoo/sort" --out "$tmp/named"
refused "a name is of letters" "${merge[@]}" --expert "a b=$zoo/add" --out "$out"
refused "names no directory" "${merge[@]}" --expert "a=" --out "$out"
refused "--backend opencl: there is no such backend" "${merge[@]}" "${two[@]}" --backend opencl --out "$out"
refused "--devices: only with --backend cuda" "${merge[@]}" "${two[@]}" --devices 1 --out "$out"
refused "cuda" "${merge[@]}" "${two[@]}" --backend cuda --devices 99 --out "$out"  # not built, no GPU, or not so many
for groups in 0 -1 256; do refused "--groups $groups: choose 1 to 255" "${merge[@]}" "${two[@]}" --groups "$groups" --out "$out"; done
refused "choose best, dare_cm or ties_cm" "${merge[@]}" "${two[@]}" --preset best_cm --out "$out"
refused "choose none, dare, magnitude, magnitude-rows or magprune" "${merge[@]}" "${two[@]}" --prune random --out "$out"
refused "choose cosine, euclidean, balanced or sign" "${merge[@]}" "${two[@]}" --similarity manhattan --out "$out"
refused "choose exact, kmeans, agglomerative or random" "${merge[@]}" "${two[@]}" --cluster dbscan --out "$out"
refused "choose mean, sum, ties or ties-sum" "${merge[@]}" "${two[@]}" --consensus median --out "$out"
refused "choose f32, f16, bf16, f8_e4m3 or f8_e5m2" "${merge[@]}" "${two[@]}" --dtype i64 --out "$out"
refused "density" "${merge[@]}" "${two[@]}" --prune dare --density 1.5 --out "$out"
refused "density - epsilon" "${merge[@]}" "${two[@]}" --prune magprune --density 0.9 --epsilon 0.2 --out "$out"
refused "lambda" "${merge[@]}" "${two[@]}" --lambda inf --out "$out"
refused "--keep: pattern '*.[a'" "${merge[@]}" "${two[@]}" --keep '*.[a' --out "$out"
refused "write GLOB=AXIS" "${merge[@]}" "${two[@]}" --channel-axis '*.weight' --out "$out"
refused "write GLOB=AXIS" "${merge[@]}" "${two[@]}" --channel-axis '*=1st' --out "$out"
refused "no axis 7" "${merge[@]}" "${two[@]}" --channel-axis '*=7' --out "$out"
refused "doesn't have it" "${small[@]}" "$tmp/other" --from-base '*' --out "$out"
refused "--groups = two" "${merge[@]}" "${two[@]}" --groups two --out "$out"
refused "--threads -1" "${merge[@]}" "${two[@]}" --threads -1 --out "$out"
refused "--threads 100000" "${merge[@]}" "${two[@]}" --threads 100000 --out "$out"
many=()
for i in {1..11}; do many+=(--expert "e$i=$zoo/add"); done
refused "choose --cluster kmeans or agglomerative" "${merge[@]}" "${many[@]}" --out "$out"
works "more experts than exact clustering takes" "${merge[@]}" "${many[@]}" --cluster agglomerative --out "$tmp/many"
for size in 0 -5GB 5 1KB 0.9MB GB 5XB 5G 1.2.3GB 1e3MB 1.GB 99999999999999999999 20000000000GB 99999999.5TB ' 5GB' ''; do
  refused "--max-shard-size" "${merge[@]}" "${two[@]}" --max-shard-size "$size" --out "$out"
done
for size in 1MB 1000000 '5 GiB' 1.5gb 16000000TB; do
  works "--max-shard-size $size" "${merge[@]}" "${two[@]}" --max-shard-size "$size" --overwrite --out "$tmp/sized"
done

# ---- outputs ----
works "a merge" "${merge[@]}" "${two[@]}" --out "$tmp/merged"
cp -r "$tmp/merged" "$tmp/before"
refused "exists already" "${merge[@]}" "${two[@]}" --out "$tmp/merged"
refused "exists already" "$braid" extract "$tmp/merged" --expert add --out "$tmp/before"
refused "isn't a directory" "${merge[@]}" "${two[@]}" --out "$zoo/prompts.json/out"
refused "isn't a directory" "$braid" extract "$tmp/merged" --expert add --out "$zoo/prompts.json/out"
copy input
inside=("$braid" channel-merge --base "$tmp/input" --expert "x=$tmp/input")
refused "lies inside the input" "${inside[@]}" --out "$tmp/input/out"
[ ! -e "$tmp/input/out" ]
verdict $? "nothing is left inside the input"
refused "is the input" "${inside[@]}" --out "$tmp/input" --overwrite
refused "is the input" "${inside[@]}" --out "$tmp/../${tmp##*/}/input" --overwrite
refused "contains the input" "${inside[@]}" --out "$tmp" --overwrite
lossless "the input is as it was" "$tmp/input" "$zoo/sort"
refused "lies inside the input" "$braid" extract "$tmp/merged" --expert add --out "$tmp/merged/out"
mkdir "$tmp/thesis" && echo text >"$tmp/thesis/thesis.tex"
refused "doesn't look like a checkpoint" "${merge[@]}" "${two[@]}" --overwrite --out "$tmp/thesis"
[ -e "$tmp/thesis/thesis.tex" ]
verdict $? "other people's files survive --overwrite"

# ---- extraction ----
refused "no expert \"cipher\"; it has add, sort" "$braid" extract "$tmp/merged" --expert cipher --out "$out"
refused "ordinary checkpoint" "$braid" extract "$zoo/add" --expert add --out "$out"
head -c 1000000 "$tmp/before/model.safetensors" >"$tmp/mixed/model.safetensors"
refused "$tmp/mixed/model.safetensors" "$braid" extract "$tmp/mixed" --expert a --out "$out"
refused "$tmp/mixed/model.safetensors" "$braid" inspect "$tmp/mixed"

# ---- a full disk: files may not grow beyond 400 KB ----
# shellcheck disable=SC2317
full_disk() (
  ulimit -f 400
  "$@"
)
refused "File too large" full_disk "${merge[@]}" "${two[@]}" --out "$out"
refused "File too large" full_disk "$braid" extract "$tmp/merged" --expert add --out "$out"
refused "File too large" full_disk "${merge[@]}" "${two[@]}" --overwrite --out "$tmp/merged"
lossless "what --overwrite would have replaced is as it was" "$tmp/merged" "$tmp/before"
if [ -w /dev/full ]; then
  for command in "inspect $zoo/add" "inspect $zoo/add --json" "diff $zoo/add $zoo/add"; do
    # shellcheck disable=SC2016,SC2086
    refused "standard output" bash -c '"$@" >/dev/full' full "$braid" $command
  done
fi

finish

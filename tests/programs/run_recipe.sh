#!/usr/bin/env bash
# `braid run`: recipes of the zoo, what it prints, and what it refuses.
# shellcheck source-path=SCRIPTDIR source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

run=("$braid" run)
roots=(--model-root "$zoo")

cat >"$tmp/ties.yml" <<'END'
merge_method: ties
base_model: base
models:
  - {model: add, parameters: {weight: 1.0}}
  - {model: sort, parameters: {weight: [0.5, 1.0]}}
parameters: {density: 0.5}
dtype: float32
out_dtype: bfloat16
END
works "a recipe runs" "${run[@]}" "$tmp/ties.yml" "$tmp/ties" "${roots[@]}"
says "the summary counts tensors" "$tmp/stdout" "merged   39 tensors"
says "the method is named" "$tmp/stdout" "method   ties"
says "the last line of progress" "$tmp/stderr" "braid: 39/39 tensors, 100 %"
works "the result is a checkpoint" "$braid" inspect "$tmp/ties"
says "of bfloat16" "$tmp/ties/config.json" '"bfloat16"'
says "with a card" "$tmp/ties/README.md" "merge_method: ties"
says "that has hashes" "$tmp/ties/README.md" '| `sort` | `xxh3:'
same "and its generation config" "$tmp/ties/generation_config.json" "$zoo/base/generation_config.json"
for threads in 1 3; do
  works "$threads threads" "${run[@]}" "$tmp/ties.yml" "$tmp/threads" "${roots[@]}" --threads "$threads" --overwrite
  same "$threads threads" "$tmp/ties/model.safetensors" "$tmp/threads/model.safetensors"
done

# ---- the plan ----
works "a dry run" "${run[@]}" "$tmp/ties.yml" "$out" "${roots[@]}" --dry-run
says "the plan has tensors" "$tmp/stdout" "model.norm.weight  BF16 [128]  ties of add sort, base base; lambda 1, normalize 1, rescale 0, density [0.5 0.5], weight [1 0.5]"
says "and what it reads" "$tmp/stdout" "  read     "
says "and writes" "$tmp/stdout" "  written  "
says "and needs" "$tmp/stdout" "  memory   about "
[ ! -e "$out" ]
verdict $? "a dry run writes nothing"

# ---- passthrough gives a model back; slices renumber ----
printf 'merge_method: passthrough\nmodels: [{model: add}]\n' >"$tmp/copy.yml"
works "passthrough" "${run[@]}" "$tmp/copy.yml" "$tmp/copy" "${roots[@]}"
lossless "passthrough gives the model back" "$tmp/copy" "$zoo/add"
printf 'merge_method: passthrough\nslices: [{sources: [{model: add, layer_range: [0, 2]}]}, {sources: [{model: sort, layer_range: [1, 3]}]}]\n' >"$tmp/stack.yml"
works "slices" "${run[@]}" "$tmp/stack.yml" "$tmp/stack" "${roots[@]}"
says "the config counts layers" "$tmp/stack/config.json" '"num_hidden_layers": 4'
works "slices planned" "${run[@]}" "$tmp/stack.yml" "$out" "${roots[@]}" --dry-run
says "where a layer is from" "$tmp/stdout" "passthrough of sort:model.layers.2.mlp.up_proj.weight"
says "what isn't used" "$tmp/stdout" "isn't used: its layer is in no slice"

# ---- channel_merge is the command of that name ----
cat >"$tmp/channels.yml" <<'END'
merge_method: channel_merge
base_model: base
models: [{model: add}, {model: sort}, {model: cipher}, {model: facts}]
parameters: {groups: 2, prune: magnitude, consensus: ties, similarity: balanced}
END
works "a recipe of channel_merge" "${run[@]}" "$tmp/channels.yml" "$tmp/channels" "${roots[@]}"
works "the command" "${merge[@]}" "${experts[@]}" --groups 2 --prune magnitude --consensus ties --similarity balanced --out "$tmp/command"
same "they are the same" "$tmp/channels/model.safetensors" "$tmp/command/model.safetensors"

works "its plan" "${run[@]}" "$tmp/channels.yml" "$out" "${roots[@]}" --dry-run
says "the plan has merged tensors" "$tmp/stdout" "model.layers.1.mlp.up_proj.weight  BF16 [352, 128]  merge of add cipher facts sort, base base; at most 2 rows a channel"
says "and kept ones" "$tmp/stdout" "model.norm.weight  BF16 [128]  keep of add cipher facts sort; at most 4 rows a channel"
says "and counts them" "$tmp/stdout" "39 tensors of 4 experts"
says "reads" "$tmp/stdout" "  read     7.47 MB"
says "and writes" "$tmp/stdout" "  written  at most "
says "and needs" "$tmp/stdout" "  memory   about "
[ ! -e "$out" ]
verdict $? "a plan of channel_merge writes nothing"
cp "$tmp/stdout" "$tmp/plan"
works "the plan of the command" "${merge[@]}" "${experts[@]}" --groups 2 --prune magnitude --consensus ties --similarity balanced --out "$out" --dry-run
same "is the same" "$tmp/plan" "$tmp/stdout"
for options in "--groups 2" "--groups 4" "--groups 1 --residual ternary" "--groups 2 --residual sign2 --rank-one" "--budget 0.4"; do
  read -ra words <<<"$options"
  works "a plan of $options" "${merge[@]}" "${experts[@]}" "${words[@]}" --out "$out" --dry-run
  most=$(sed -n 's/.*(\([0-9.]*\))$/\1/p' "$tmp/stdout")
  works "$options" "${merge[@]}" "${experts[@]}" "${words[@]}" --out "$tmp/planned" --overwrite
  stored=$(sed -n 's/^  stored .*(\([0-9.]*\))$/\1/p' "$tmp/stdout")
  awk -v stored="$stored" -v most="$most" 'BEGIN { exit !(stored > 0 && stored <= most + 0.0005) }'
  verdict $? "$options: $stored is stored, $most was planned at most"
done

# ---- vocabularies: what is filled is said ----
works "a union planned" "${run[@]}" "$2/tests/golden/data/recipes/tokenizer-union.yml" "$out" --model-root "$2/tests/golden/data" --dry-run
says "rows that a model lacks are counted" "$tmp/stdout" "note: vocabulary of models/tok-base: rows filled: "

# ---- what is allowed by name ----
works "two words are allowed" "${run[@]}" "$tmp/ties.yml" "$out" "${roots[@]}" --dry-run --allow nonfinite,truncated-vocabulary
works "one after the other" "${run[@]}" "$tmp/ties.yml" "$out" "${roots[@]}" --dry-run --allow nonfinite --allow truncated-vocabulary
refused "--allow 'nothing' is unknown; choose nonfinite or truncated-vocabulary" "${run[@]}" "$tmp/ties.yml" "$out" "${roots[@]}" --allow nothing

# ---- adapters ----
golden=$2/tests/golden/data
cat >"$tmp/adapters.yml" <<'END'
merge_method: channel_merge
base_model: models/base
models: [{model: models/base+models/lora}, {model: models/base+models/lora-rs, name: other}]
parameters: {groups: 2}
END
works "experts with adapters" "${run[@]}" "$tmp/adapters.yml" "$tmp/adapted" --model-root "$golden"
for pair in lora=lora other=lora-rs; do
  printf 'merge_method: passthrough\nmodels: [{model: models/base+models/%s}]\n' "${pair#*=}" >"$tmp/one.yml"
  works "one of them" "${run[@]}" "$tmp/one.yml" "$tmp/one" --model-root "$golden" --overwrite
  works "comes back" "$braid" extract "$tmp/adapted" --expert "${pair%=*}" --out "$tmp/one-again" --overwrite
  lossless "as it was" "$tmp/one-again" "$tmp/one"
done

works "adapters on a command line" "$braid" channel-merge --base "$golden/models/base" --expert "$golden/models/base+$golden/models/lora" \
  --expert "other=$golden/models/base+$golden/models/lora-rs/" --groups 2 --out "$tmp/adapted-too"
same "give the same" "$tmp/adapted/model.safetensors" "$tmp/adapted-too/model.safetensors"

# ---- what is refused ----
printf 'merge_method: passthrough\nmodels: [{model: nobody}]\n' >"$tmp/bad.yml"
refused "there is no model nobody" "${run[@]}" "$tmp/bad.yml" "$out" "${roots[@]}"
printf 'merge_method: linear\nmodels: [{model: add}, {model: sort}]\n' >"$tmp/bad.yml"
refused "needs the parameter 'weight'" "${run[@]}" "$tmp/bad.yml" "$out" "${roots[@]}"
printf 'merge_method: linear\nmodels: [{model: add, parameters: {wieght: 1}}]\n' >"$tmp/bad.yml"
refused "did you mean 'weight'" "${run[@]}" "$tmp/bad.yml" "$out" "${roots[@]}"
refused "no-such.yml" "${run[@]}" "$tmp/no-such.yml" "$out" "${roots[@]}"
mkdir "$out" && touch "$out/mine"
works_not=0
"${run[@]}" "$tmp/ties.yml" "$out" "${roots[@]}" --overwrite >/dev/null 2>&1 || works_not=1
[ "$works_not" -eq 1 ] && [ -e "$out/mine" ]
verdict $? "a directory that is no checkpoint stays"
finish

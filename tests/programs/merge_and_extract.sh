#!/usr/bin/env bash
# Merging the zoo and getting its experts back: lossless where it must be, the same bytes however it is run, and the same
# bytes as ever.
# shellcheck source-path=SCRIPTDIR source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

# ---- as many groups as experts ----
works "a merge into four groups" "${merge[@]}" "${experts[@]}" --groups 4 --out "$tmp/four"
says "the summary counts tensors" "$tmp/stdout" "merged     28 tensors"
says "the last line of progress" "$tmp/stderr" "braid: 39/39 tensors, 100 %"
for name in add cipher facts sort; do
  works "$name is extracted" "$braid" extract "$tmp/four" --expert "$name" --out "$tmp/four-$name"
  lossless "$name is as before" "$tmp/four-$name" "$zoo/$name"
  same "$name has its config" "$tmp/four-$name/config.json" "$zoo/$name/config.json"
done
lossless "a grouped checkpoint is equal to itself" "$tmp/four" "$tmp/four"

# ---- neither threads nor order change a byte ----
settings=(--groups 2 --prune dare --density 0.6 --seed 7 --consensus ties --similarity balanced)
works "the settings" "${merge[@]}" "${experts[@]}" "${settings[@]}" --out "$tmp/two"
for threads in 1 2 5; do
  works "$threads threads" "${merge[@]}" "${experts[@]}" "${settings[@]}" --threads "$threads" --out "$tmp/threads"
  same "$threads threads" "$tmp/two/model.safetensors" "$tmp/threads/model.safetensors"
  rm -r "$tmp/threads"
done
works "another order" "${merge[@]}" --expert "$zoo/sort" --expert "facts=$zoo/facts" --expert "$zoo/add/" \
  --expert "$zoo/cipher/../cipher" "${settings[@]}" --out "$tmp/order"
same "the order of experts" "$tmp/two/model.safetensors" "$tmp/order/model.safetensors"

# ---- the same bytes as ever ----
digest "dare, ties, balanced" "$tmp/two/model.safetensors" \
  e31d760750f9cc4b40c31dfcb4e7afc1d106e21f4245b1e42da2b31ed5a48f92
works "extraction" "$braid" extract "$tmp/two" --expert add --out "$tmp/two-add"
digest "the first expert of it" "$tmp/two-add/model.safetensors" \
  6b2d0016e6e982bcaa08af418befcbafc3ed2c83d90c903bc0781bceb1cdd5dc
works "extraction" "$braid" extract "$tmp/two" --expert sort --out "$tmp/two-sort"
digest "another expert of it" "$tmp/two-sort/model.safetensors" \
  d9c478e337a7bcfc140a158689cc2d71f6cd7073693e7f821a1209410b36694d
works "the defaults" "${merge[@]}" "${experts[@]}" --out "$tmp/plain"
digest "the defaults" "$tmp/plain/model.safetensors" \
  b1f538f22883a7c486faee43e85000f76714ab13e54df51d68a43c9c65cba5ae
works "more policies" "${merge[@]}" "${experts[@]}" --groups 3 --prune magprune --epsilon 0.2 --consensus ties-sum \
  --similarity sign --cluster kmeans --lambda 0.8 --seed 3 --out "$tmp/more"
digest "magprune, ties-sum, sign, kmeans" "$tmp/more/model.safetensors" \
  0aa26ddc03fce8ae90d91645c8541aeb05aaf349e8696fca4da68476ba8e3823
digest "an extract of the lossless merge" "$tmp/four-cipher/model.safetensors" \
  45ff3a3cf2bb356f09c3cb363a34552f574ad18b364f49f69695a8ea77ab9144

# ---- shards ----
works "shards" "${merge[@]}" "${experts[@]}" "${settings[@]}" --max-shard-size 1MB --out "$tmp/shards"
[ -e "$tmp/shards/model.safetensors.index.json" ] && [ -e "$tmp/shards/model-00002-of-00004.safetensors" ]
verdict $? "several files and an index: $(ls "$tmp/shards")"
lossless "a merge is the same in several files" "$tmp/shards" "$tmp/two"
works "extraction to shards" "$braid" extract "$tmp/shards" --expert sort --max-shard-size 1MB --out "$tmp/shards-sort"
[ ! -e "$tmp/shards-sort/model.safetensors" ] && [ -e "$tmp/shards-sort/model-00002-of-00002.safetensors" ]
verdict $? "an extract in several files: $(ls "$tmp/shards-sort")"
lossless "an extract is the same in several files" "$tmp/shards-sort" "$tmp/two-sort"

# ---- overwriting ----
works "--overwrite" "${merge[@]}" "${experts[@]}" "${settings[@]}" --overwrite --out "$tmp/plain"
same "what stood there is replaced" "$tmp/plain/model.safetensors" "$tmp/two/model.safetensors"
works "--overwrite of an extract" "$braid" extract "$tmp/four" --expert sort --overwrite --out "$tmp/two-sort"
lossless "what stood there is replaced" "$tmp/two-sort" "$zoo/sort"

# ---- a merge of what was merged is a mistake ----
refused "Extract them first" "${merge[@]}" --expert "$tmp/two" --expert "$zoo/sort" --out "$out"

finish

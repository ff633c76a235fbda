#!/usr/bin/env bash
# serve: one merged zoo answers for all its experts, routed, in mixed batches, or as told.
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
serve=$1/serve
queries=$2/examples/queries

# declined TEXT COMMAND...: not 0, and one line on standard error that begins with "serve: " and has the text.
declined() {
  local text=$1 status=0
  shift
  "$@" >"$tmp/stdout" 2>"$tmp/stderr" </dev/null || status=$?
  [ "$status" -eq 1 ] && [ "$(wc -l <"$tmp/stderr")" -eq 1 ] && grep -q '^serve: ' "$tmp/stderr" && grep -qF -- "$text" "$tmp/stderr"
  verdict $? "'$text' and no more, but exit status $status: $(cat "$tmp/stderr")"
}

works "merging" "${merge[@]}" "${experts[@]}" --groups 2 --consensus ties --prune magnitude --density 0.7 --similarity balanced --out "$tmp/merged"
works "training a router" "$braid" route train --queries "$queries/zoo/train" --out "$tmp/router"
ask=("$serve" --checkpoint "$tmp/merged" --router "$tmp/router" --symbols "$zoo/prompts.json")

printf 'add 602+363=\r\n\nsay jale=\nwho cjypm=\nabcde=\n' >"$tmp/lines"
works "standard input" bash -c '"$@" <"$0"' "$tmp/lines" "${ask[@]}"
[ "$(cut -f 2 "$tmp/stdout" | tr '\n' ,)" = "add,cipher,facts,add (unsure)," ]
verdict $? "experts of four lines: $(cat "$tmp/stdout")"
[ "$(head -n 1 "$tmp/stdout" | cut -f 1,3)" = "$(printf '965.\t1.000')" ] && grep -q 'tokens/s$' "$tmp/stdout"
verdict $? "an answer, its confidence and speed: $(cat "$tmp/stdout")"
cut -f 1-3 "$tmp/stdout" >"$tmp/one_by_one"
for batch in 2 3 64; do
  works "a batch of $batch" bash -c '"$@" <"$0"' "$tmp/lines" "${ask[@]}" --batch "$batch" --threads 2
  cut -f 1-3 "$tmp/stdout" >"$tmp/together"
  same "the same answers in batches of $batch" "$tmp/one_by_one" "$tmp/together"
done
works "another threshold and default" bash -c '"$@" <"$0"' "$tmp/lines" "${ask[@]}" --threshold 1 --default sort
says "all unsure" "$tmp/stdout" "sort (unsure)"
works "one expert for all" bash -c '"$@" <"$0"' "$tmp/lines" "${ask[@]}" --expert facts --max-tokens 2
[ "$(cut -f 2,3 "$tmp/stdout" | sort -u)" = "$(printf 'facts\t-')" ]
verdict $? "--expert overrides the router: $(cat "$tmp/stdout")"

# The zoo's accuracy through router and lookup is that of the experts themselves, prompt by prompt.
works "the zoo's prompts" "${ask[@]}" --prompts "$zoo/prompts.json" --batch 50 --json
grep -v '"summary"' "$tmp/stdout" | sed 's/,"best".*"unsure":[a-z]*,/,/; s/"tokens_per_second":[^,]*,//' >"$tmp/routed"
grep '"summary"' "$tmp/stdout" >"$tmp/summary"
says "the router knows them all" "$tmp/summary" '"unsure":0'
says "the router is right" "$tmp/summary" '"routed_right":1.0'
says "four tasks" "$tmp/summary" '"cipher":{"prompts":500'
works "each prompt's own expert" "$serve" --checkpoint "$tmp/merged" --prompts "$zoo/prompts.json" --own-expert --batch 7 --threads 1 --json
grep -v '"summary"' "$tmp/stdout" | sed 's/"tokens_per_second":[^,]*,//' >"$tmp/own"
same "routed answers are the experts' own" "$tmp/routed" "$tmp/own"
[ "$(wc -l <"$tmp/own")" -eq 2000 ]
verdict $? "2000 answers: $(wc -l <"$tmp/own")"
# As the table of expert_zoo has it: 0.802 0.968 0.986 0.626.
for accuracy in 0.802 0.968 0.986 0.626; do says "the table's accuracy" "$tmp/summary" "\"accuracy\":$accuracy,"; done

# A rebuilt expert, in a merged checkpoint of its own, says the same.
works "rebuilding" "$braid" extract "$tmp/merged" --expert cipher --out "$tmp/cipher"
works "two of one" "$braid" channel-merge --base "$zoo/base" --expert "cipher=$tmp/cipher" --expert "add=$zoo/add" --groups 2 --out "$tmp/pair"
sed -n 's/^\(say .*\)$/\1/p' "$queries/zoo/train/cipher.txt" | head -n 50 >"$tmp/says"
works "from the pool" bash -c '"$@" <"$0"' "$tmp/says" "${ask[@]}" --expert cipher
cut -f 1 "$tmp/stdout" >"$tmp/from_pool"
works "from the rebuilt one" bash -c '"$@" <"$0"' "$tmp/says" "$serve" --checkpoint "$tmp/pair" --expert cipher --symbols "$zoo/prompts.json"
cut -f 1 "$tmp/stdout" >"$tmp/from_rebuilt"
same "the same answers from the rebuilt expert" "$tmp/from_pool" "$tmp/from_rebuilt"

printf '{"query": "add 1+2=", "answer": "3", "expert": "add"}\n\n{"query": "add 1+1="}\n' >"$tmp/some.jsonl"
works "JSON lines" "${ask[@]}" --prompts "$tmp/some.jsonl"
says "a table of tasks" "$tmp/stdout" "routed right"
says "resident memory" "$tmp/stdout" "4 experts in "
cp "$tmp/router/router.safetensors" "$tmp/merged/"
cp "$zoo/prompts.json" "$tmp/merged/"
works "router and symbols beside the weights" bash -c '"$@" <"$0"' "$tmp/lines" "$serve" --checkpoint "$tmp/merged"
cut -f 1-3 "$tmp/stdout" >"$tmp/together"
same "the same answers" "$tmp/one_by_one" "$tmp/together"
rm "$tmp/merged/router.safetensors" "$tmp/merged/prompts.json"

printf 'add 1+1=\nADD\nadd 1+2=\n' >"$tmp/odd"
"${ask[@]}" <"$tmp/odd" >"$tmp/stdout" 2>"$tmp/stderr"
[ $? -eq 1 ] && [ "$(wc -l <"$tmp/stdout")" -eq 2 ] && grep -qF 'no symbol for "A"' "$tmp/stderr"
verdict $? "a line that can't be asked, and the others answered: $(cat "$tmp/stdout" "$tmp/stderr")"

declined "no router" "$serve" --checkpoint "$tmp/merged" --symbols "$zoo/prompts.json"
declined "no symbols" "$serve" --checkpoint "$tmp/merged" --router "$tmp/router"
declined 'has no expert "poetry"' "${ask[@]}" --expert poetry
declined "can't be read" "${ask[@]}" --prompts "$tmp/nowhere"
printf '{"question": "x"}\n' >"$tmp/bad.jsonl"
declined "bad.jsonl:1: isn't an object" "${ask[@]}" --prompts "$tmp/bad.jsonl"
: >"$tmp/empty.txt"
declined "has no prompts" "${ask[@]}" --prompts "$tmp/empty.txt"
declined "ordinary checkpoint" "$serve" --checkpoint "$zoo/add" --router "$tmp/router" --symbols "$zoo/prompts.json"
declined "has no expert" "$serve" --checkpoint "$tmp/pair" --router "$tmp/router" --symbols "$zoo/prompts.json"
declined "see serve --help" "$serve"
declined "--expert excludes --own-expert" "${ask[@]}" --expert add --own-expert
works "help" "$serve" --help
says "how to begin" "$tmp/stdout" "braid route train"

finish

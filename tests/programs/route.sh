#!/usr/bin/env bash
# braid route train, eval, predict; and that examples/queries is what its script makes.
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"
queries=$2/examples/queries

works "training on a folder" "$braid" route train --queries "$queries/zoo/train" --out "$tmp/router"
says "training" "$tmp/stdout" "4 experts, 1200 queries"
says "training" "$tmp/stdout" "accuracy on parts held out 1.0000"
works "a zoo's prompts" "$braid" route eval "$tmp/router" --queries "$zoo/prompts.json"
says "accuracy" "$tmp/stdout" "2000 right"
works "evaluation as JSON" "$braid" route eval "$tmp/router" --queries "$queries/zoo/bare" --json
says "JSON" "$tmp/stdout" '"accuracy": 1.0'
says "JSON" "$tmp/stdout" '"queries": 2000'

printf 'add 1+2=\r\nwho abcde=\n\n' >"$tmp/lines"
works "standard input" bash -c '"$1" route predict "$2" --default sort <"$3"' predict "$braid" "$tmp/router" "$tmp/lines"
[ "$(cut -f 1 "$tmp/stdout" | tr '\n' ,)" = "add,facts,sort (unsure)," ]
verdict $? "experts of three lines: $(cat "$tmp/stdout")"
works "queries of a file, as JSON" "$braid" route predict "$tmp/router/router.safetensors" --queries "$tmp/lines" --json
[ "$(grep -c '"expert":' "$tmp/stdout")" -eq 2 ] && grep -qF '"expert":"facts","best":"facts"' "$tmp/stdout"
verdict $? "an object for each query: $(cat "$tmp/stdout")"

# The same bytes however files are given, and on any number of threads.
: >"$tmp/all.jsonl"
for task in sort facts add cipher; do
  sed 's/.*/{"query": "&", "expert": "'$task'"}/' "$queries/zoo/train/$task.txt" >>"$tmp/all.jsonl"
done
works "JSON lines" "$braid" route train --queries "$tmp/all.jsonl" --out "$tmp/again" --threads 1
same "one router" "$tmp/router/router.safetensors" "$tmp/again/router.safetensors"
works "named files" "$braid" route train --queries "a=$queries/zoo/train/add.txt" --queries "b=$queries/zoo/train/sort.txt" \
  --out "$tmp/named" --chars 0 --words 1-2 --dimension 100 --keep-case --keep-digits --no-inverse-frequency --l2 0.01 --parts 0
printf '{"query": "add 5+6=", "expert": "a"}\n' >"$tmp/one.jsonl"
works "a named expert" "$braid" route eval "$tmp/named" --queries "$tmp/one.jsonl"

train=("$braid" route train --out "$out")
refused "can't be read" "${train[@]}" --queries "$tmp/nowhere"
refused "at least two experts" "${train[@]}" --queries "$queries/zoo/train/add.txt"
refused "--chars 'x'" "${train[@]}" --queries "$queries/zoo/train" --chars x
refused "4 to 2 characters" "${train[@]}" --queries "$queries/zoo/train" --chars 4-2
refused "l2" "${train[@]}" --queries "$queries/zoo/train" --l2 0
refused "threshold" "${train[@]}" --queries "$queries/zoo/train" --threshold 2
refused "no expert \"poetry\"" "${train[@]}" --queries "$queries/zoo/train" --default poetry
: >"$tmp/empty.txt"
refused "has no queries" "${train[@]}" --queries "$queries/zoo/train" --queries "$tmp/empty.txt"
printf '{"query": "x"}\n' >"$tmp/bad.jsonl"
refused "bad.jsonl:1: names no expert" "${train[@]}" --queries "$tmp/bad.jsonl"
printf '\n{"question": "x"}\n' >"$tmp/worse.jsonl"
refused "worse.jsonl:2: isn't an object" "${train[@]}" --queries "$tmp/worse.jsonl"
refused "exists already" "$braid" route train --queries "$queries/zoo/train" --out "$tmp/router"
refused "isn't a router" "$braid" route predict "$zoo/add/model.safetensors"
refused "no expert \"poetry\"" "$braid" route predict "$tmp/router" --default poetry
refused "see braid route eval --help" "$braid" route eval "$tmp/router"
refused "see braid route --help" "$braid" route
works "help" "$braid" route train --help

if command -v python3 >/dev/null; then
  works "making the queries" python3 "$queries/make_queries.py" "$tmp/made" "$zoo"
  diff -r "$tmp/made/natural" "$queries/natural" && diff -r "$tmp/made/zoo" "$queries/zoo"
  verdict $? "examples/queries is what its script makes"
fi

finish

#!/usr/bin/env bash
# From nothing to a served, voted set on a laptop's CPU, after `make environment`:  bash training/from_nothing.sh [OUT]
set -euo pipefail
out=$(realpath -m "${1:-from-nothing}") && mkdir -p "$out" && cd "$(dirname "$0")/.." && PATH="$PWD/.venv/bin:$PATH"
recipe=training/recipes/demo.yaml base=its_proxy/demo/demo-none arms="similar dissimilar random"

# 1. Rows: word problems, none of them among those asked later, in arms that differ only by the persona.
python -c 'import json; from dataclasses import asdict; from its_training.demo.problems import draw
for problem in draw(1100, "sft", seed=11): print(json.dumps(asdict(problem)))' > "$out/problems.jsonl"
its-train prepare "$out/problems.jsonl" --out "$out/data" --map id=id,query=query,completion=solution,answer=answer \
    --license apache-2.0 --n 1000 --no-near-duplicates --tokenizer $base --max-length 256

# 2. What it takes; then the arms, each a checkpoint with its manifest; then the probes that tell them apart.
its-train plan $recipe --dataset "$out/data"
its-train sft $recipe --dataset "$out/data" --out "$out/runs" $(printf -- '--arm %s ' $arms)
for arm in $arms; do
    siblings=$(for other in $arms; do [ $other = $arm ] || echo "--sibling $other=$out/runs/demo/$other-seed42/final"; done)
    its-train record "$out/runs/demo/$arm-seed42/final" --base $base $siblings --dataset "$out/data" --arm $arm
done

# 3. All of them behind one name: every member asked through its own manifest, their answers voted together.
{ echo "port: 8089"; echo "models:"; for arm in $arms; do echo "  $arm: {checkpoint: $out/runs/demo/$arm-seed42/final}"; done
  echo "ensembles: {set: {members: [${arms// /, }]}}"; } > "$out/its.yaml"
its-proxy serve --config "$out/its.yaml" --log-level warning & trap 'kill $!' EXIT
until curl -sf http://127.0.0.1:8089/readyz > /dev/null; do kill -0 $!; sleep 1; done
its-proxy ask --url http://127.0.0.1:8089/v1 --model set --n 9 "$(head -1 its_proxy/demo/problems.jsonl | python -c 'import json; print(json.loads(input())["query"])')"
echo "these again: .venv/bin/its-proxy serve --config $out/its.yaml" >&2

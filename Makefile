# One command for each wish. The environment lies outside the checkout (deploy/environment.py says where), .venv links to it.
PYTHON ?= python3
export PYTHONPATH := $(CURDIR):$(CURDIR)/training

.DEFAULT_GOAL := help
.PHONY: help environment serve test check fix demo results schema clean

help: ## this list
	@echo "make TARGET [ARGS=...] [PYTHON=python3.11] [TORCH_INDEX=https://download.pytorch.org/whl/cpu]"
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile | expand -t 16

environment: ## create .venv, or check it
	@$(PYTHON) deploy/environment.py

serve: environment ## its-proxy on the embedded demo, or: make serve ARGS="--upstream URL --model NAME"
	@.venv/bin/its-proxy serve $(ARGS)

test: environment ## everything that needs no GPU and no network beyond the package registries
	@.venv/bin/python -m pytest $(ARGS)

check: environment ## lint, format, types, import arrows
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
	@.venv/bin/python -m pytest -q tests/test_arrows.py

fix: environment ## what ruff can repair by itself
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

demo: environment ## train the demo checkpoints anew (its-train demo)
	@.venv/bin/its-train demo $(ARGS)

results: environment ## ask the demo over HTTP, 1,000 problems in 8 cells, into docs/results/demo-http.md
	@.venv/bin/python benchmarks/demo_cells.py $(ARGS)

schema: environment ## write docs/its.schema.json, the JSON Schema of the `its` object, anew
	@.venv/bin/python -c "import json; from its_proxy.protocol.its import json_schema; print(json.dumps(json_schema(), indent=2))" \
		> docs/its.schema.json

clean: ## remove the link and what builds and tests leave; the cached environment stays
	@rm -rf .venv build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One command for each wish. The environment lies outside the checkout (deploy/environment.py says where), .venv links to it.
PYTHON ?= python3
export PYTHONPATH := $(CURDIR):$(CURDIR)/training:$(CURDIR)/plugins

.DEFAULT_GOAL := help
.PHONY: help environment serve test test-vllm test-eval test-litellm test-wheel check-deploy torture fuzz reliability \
	bench audit check fix demo grid results dry-run results-gate results-prepare results-personas results-vllm results-votes \
	torture-vllm fleet-vllm guard-update scaling schema docs clean

help: ## this list
	@echo "make TARGET [ARGS=...] [PYTHON=python3.11] [TORCH_INDEX=https://download.pytorch.org/whl/cpu]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 16

environment: ## create .venv, or check it
	@$(PYTHON) deploy/environment.py

serve: environment ## its-proxy on the embedded demo, or: make serve ARGS="--upstream URL --model NAME"
	@.venv/bin/its-proxy serve $(ARGS)

test: environment ## everything that needs no GPU and no network beyond the package registries
	@.venv/bin/python -m pytest $(ARGS)

# deploy/vllm_environment.py says on stdout where the environment is, or (code 69) why there can be none.
test-vllm: environment ## its-proxy before a real vLLM on this machine's CPU; ITS_REQUIRE_VLLM=1: never skipped
	@said=$$($(PYTHON) deploy/vllm_environment.py); code=$$?; \
	if [ $$code = 69 ] && [ "$$ITS_REQUIRE_VLLM" != 1 ]; then echo "SKIPPED: real vLLM tests: $$said"; exit; fi; \
	if [ $$code != 0 ]; then [ -z "$$said" ] || echo "its-proxy: $$said" >&2; exit 1; fi; \
	ITS_VLLM="$$said" .venv/bin/python -m pytest tests/real_vllm $(ARGS)

test-eval: environment ## the inspect-ai task, run by a real inspect before its-proxy; ITS_REQUIRE_EVAL=1: never skipped
	@said=$$($(PYTHON) deploy/eval_environment.py); code=$$?; \
	if [ $$code = 69 ] && [ "$$ITS_REQUIRE_EVAL" != 1 ]; then echo "SKIPPED: inspect-ai tests: $$said"; exit; fi; \
	if [ $$code != 0 ]; then [ -z "$$said" ] || echo "its-proxy: $$said" >&2; exit 1; fi; \
	ITS_EVAL="$$said" .venv/bin/python -m pytest tests/real_inspect $(ARGS)

# In LiteLLM's own environment: its Router and our provider run inside the tests, too.
test-litellm: environment ## LiteLLM in front of its-proxy, and its_litellm inside it; ITS_REQUIRE_LITELLM=1: never skipped
	@said=$$($(PYTHON) deploy/litellm_environment.py); code=$$?; \
	if [ $$code = 69 ] && [ "$$ITS_REQUIRE_LITELLM" != 1 ]; then echo "SKIPPED: LiteLLM tests: $$said"; exit; fi; \
	if [ $$code != 0 ]; then [ -z "$$said" ] || echo "its-proxy: $$said" >&2; exit 1; fi; \
	"$$said/bin/python" -m pytest tests/real_litellm $(ARGS)

test-wheel: environment ## wheel and sdist, installed into new environments (1 GB, some minutes) and used outside of the checkout
	@.venv/bin/python -m pytest tests/real_wheel $(ARGS)

check-deploy: environment ## deploy/ by the tools of those who run it: kubectl, promtool, hadolint, schemas; ITS_REQUIRE_CHECK=1: never skipped
	@said=$$($(PYTHON) deploy/check_environment.py); code=$$?; \
	if [ $$code = 69 ] && [ "$$ITS_REQUIRE_CHECK" != 1 ]; then echo "SKIPPED: checks of deploy/: $$said"; exit; fi; \
	if [ $$code != 0 ]; then [ -z "$$said" ] || echo "its-proxy: $$said" >&2; exit 1; fi; \
	ITS_CHECK="$$said" .venv/bin/python -m pytest tests/real_deploy $(ARGS)

.PHONY: test-clients test-clients-newest results-clients
# deploy/clients_environment.py says which groups of clients this machine can have; the others' tests are skipped.
test-clients: environment ## a dozen real OpenAI clients, pinned, before its-proxy; ITS_REQUIRE_CLIENTS=1: none skipped
	@said=$$($(PYTHON) deploy/clients_environment.py) || exit 1; \
	ITS_CLIENTS="$$said" .venv/bin/python -m pytest tests/clients $(ARGS)

test-clients-newest: environment ## the same with the newest that the registries hold today
	@said=$$($(PYTHON) deploy/clients_environment.py --newest) || exit 1; \
	ITS_CLIENTS="$$said" ITS_CLIENTS_ARE=newest .venv/bin/python -m pytest tests/clients $(ARGS)

results-clients: environment ## run both, into docs/results/clients.json and the tables of docs/clients.md
	@export ITS_CLIENTS_OUT=$(CURDIR)/docs/results/clients.json; failed=0; \
	$(MAKE) test-clients || failed=1; $(MAKE) test-clients-newest || failed=1; \
	.venv/bin/python -m tests.clients.page && exit $$failed

.PHONY: test-browser
test-browser: environment ## the playground in a real Chromium; ITS_REQUIRE_BROWSER=1: never skipped; ITS_PICTURES=docs/images
	@said=$$($(PYTHON) deploy/browser_environment.py); code=$$?; \
	if [ $$code = 69 ] && [ "$$ITS_REQUIRE_BROWSER" != 1 ]; then echo "SKIPPED: browser tests: $$said"; exit; fi; \
	if [ $$code != 0 ]; then [ -z "$$said" ] || echo "its-proxy: $$said" >&2; exit 1; fi; \
	"$$said/bin/python" -m pytest tests/browser $(ARGS)

torture: environment ## what its-proxy survives, the long forms, two hours; ARGS="soak faults": some of them
	@.venv/bin/python -m benchmarks.reliability $(ARGS)

fuzz: environment ## schemathesis, hypothesis and atheris, some minutes; ARGS="--long": two hours, into docs/results/
	@.venv/bin/python -m benchmarks.reliability.fuzz $(ARGS)

reliability: environment ## write docs/reliability.md from docs/results/reliability/
	@.venv/bin/python -m benchmarks.reliability.page

# The environments of LiteLLM, its_hub, optillm and of a plain proxy are made first; what cannot be had is left out.
bench: environment ## its-proxy beside nginx, LiteLLM, its_hub, optillm, 15 quiet minutes, into docs/performance.md; ARGS=--quick: 3
	@.venv/bin/python -m benchmarks.speed --page $(ARGS)

# Needs the advisory services of PyPI and OSV, so it is for a scheduled job, and no part of what a change must pass.
audit: ## look up every pinned package for known vulnerabilities; fails where one cannot be looked up
	@said=$$($(PYTHON) deploy/audit_environment.py) || { echo "its-proxy: $$said" >&2; exit 1; }; \
	$(PYTHON) deploy/audit.py "$$said/bin/pip-audit" $(ARGS)

check: environment docs ## lint, format, types, import arrows, the documentation site
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
	@.venv/bin/python -m pytest -q tests/test_arrows.py

fix: environment ## what ruff can repair by itself
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

demo: environment ## train the demo checkpoints anew (its-train demo)
	@.venv/bin/its-train demo $(ARGS)

GRID ?= grid-run
grid: environment ## every demo arm asked every way, hours on two cores, into docs/results/grid-*.md; GRID=folder goes on
	@for base in seen unseen; do \
	  .venv/bin/its-train grid run training/grids/demo-$$base.yaml --out $(GRID)/$$base && \
	  .venv/bin/its-train grid report $(GRID)/$$base --out docs/results/grid-demo-$$base.md || exit 1; \
	done

results-prepare: environment ## prepare real GSM8K rows (ITS_TEST_DATA), into docs/results/prepare-gsm8k.md
	@.venv/bin/python benchmarks/prepare_gsm8k.py $(ARGS)

results-personas: environment ## the persona writer before an endpoint that misbehaves, into docs/results/persona-writer.md
	@.venv/bin/python -m benchmarks.persona_writer $(ARGS)

results-gate: environment ## the gate on a worse, an equal and a better demo checkpoint, into docs/results/gate-demo.md
	@.venv/bin/python -m benchmarks.demo_gate $(ARGS)

dry-run: environment ## walk every recipe through on a tiny model, some minutes
	@.venv/bin/its-train plan --dry-run training/recipes/*.yaml

results: environment ## ask the demo over HTTP, 1,000 problems in 8 cells, into docs/results/demo-http.md
	@.venv/bin/python benchmarks/demo_cells.py $(ARGS)

results-vllm: environment ## measure the vote before a real vLLM, an hour or two, into docs/results/vllm-vote.md
	@said=$$($(PYTHON) deploy/vllm_environment.py) || { echo "its-proxy: $$said" >&2; exit 1; }; \
	ITS_VLLM="$$said" .venv/bin/python -m benchmarks.vllm_vote $(ARGS)

# Only the parts `vllm` and `chat` need vLLM.
results-votes: environment ## how few tokens a vote needs, into docs/cheaper-votes.md; ARGS="--only vllm": real wall times
	@case "$(ARGS)" in *vllm*|*chat*) \
	  ITS_VLLM=$$($(PYTHON) deploy/vllm_environment.py) || { echo "its-proxy: $$ITS_VLLM" >&2; exit 1; }; export ITS_VLLM;; esac; \
	.venv/bin/python -m benchmarks.cheaper_votes $(ARGS)

torture-vllm: environment ## some 40 real vLLM servers against the handshake, an hour or two, into docs/results/vllm-handshake.md
	@said=$$($(PYTHON) deploy/vllm_environment.py) || { echo "its-proxy: $$said" >&2; exit 1; }; \
	ITS_VLLM="$$said" .venv/bin/python -m benchmarks.torture_vllm $(ARGS)

fleet-vllm: environment ## roll-over, lost servers, ensemble and 64 clients before three real vLLM, an hour, into docs/results/vllm-fleet.md
	@said=$$($(PYTHON) deploy/vllm_environment.py) || { echo "its-proxy: $$said" >&2; exit 1; }; \
	ITS_VLLM="$$said" .venv/bin/python -m benchmarks.vllm_fleet $(ARGS)

scaling: environment ## how cost grows with candidates, prompts, answers, models, pools, keys, history, into docs/scaling.md
	@.venv/bin/python -m benchmarks.scaling $(ARGS)

guard-update: environment ## write tests/counted_work.json anew: how many steps a request may take, with a tenth of room
	@.venv/bin/python -m tests.guard --update

schema: environment ## write what docs/ has from the code: JSON Schemas, the routes, the reference of settings and manifests
	@.venv/bin/python -c "import json; from its_proxy.protocol.its import json_schema; print(json.dumps(json_schema(), indent=2))" \
		> docs/its.schema.json
	@.venv/bin/python -c "import json; from its_proxy.server.openapi import description; print(json.dumps(description(), indent=2))" \
		> docs/openapi.json
	@.venv/bin/python deploy/docs_reference.py

docs: ## the documentation site, strictly, into build/site; ITS_REQUIRE_DOCS=1: never skipped
	@said=$$($(PYTHON) deploy/docs_environment.py); code=$$?; \
	if [ $$code = 69 ] && [ "$$ITS_REQUIRE_DOCS" != 1 ]; then echo "SKIPPED: the documentation site: $$said"; exit; fi; \
	if [ $$code != 0 ]; then [ -z "$$said" ] || echo "its-proxy: $$said" >&2; exit 1; fi; \
	PYTHONPATH= NO_MKDOCS_2_WARNING=1 "$$said/bin/mkdocs" build --strict --clean $(ARGS) && echo "build/site/index.html"

clean: ## remove the link and what builds and tests leave; the cached environment stays
	@rm -rf .venv build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything is installed into .venv; `make clean` takes it away again. Needs Python 3.11 or newer.
.DEFAULT_GOAL := help
.PHONY: help demo test fuzz failures requirements lint format docs site bench bench-check lock collector programs deploy stack clean
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
WORKERS ?= 2
REPORT := build/tests.xml
CATALOG ?= ../shared/requirements/catalog.md

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: .venv/demo.stamp ## hold a real conversation on this machine and show its turns
	@if [ -t 1 ]; then exec $(BIN)/voicespan demo; else exec $(BIN)/voicespan demo --no-browser --exit; fi

test: .venv/dev.stamp ## run every test (ARGS="-k name" for some)
	@exec $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --junitxml $(REPORT) $(ARGS)

fuzz: .venv/fuzz.stamp ## feed what parses bytes by coverage, a minute for each (ARGS="spool_file --seconds 600" for some)
	@exec $(BIN)/python -m fuzz.run $(ARGS)

failures: .venv/dev.stamp ## break everything that may break, and write docs/failures.md from what is measured
	@mkdir -p build
	@$(BIN)/python -m pytest -q -m failure -n $(WORKERS) --dist loadfile --junitxml build/failures.xml $(ARGS)
	@$(BIN)/python -m tests.failures build/failures.xml > build/failures.md && mv build/failures.md docs/failures.md

requirements: .venv/dev.stamp ## say which tests of the last `make test` prove each requirement of the catalog
	@$(BIN)/python -m tests.requirements $(REPORT) $(CATALOG)

lint: .venv/dev.stamp ## ruff, its formatter, and mypy strict over src and tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/dev.stamp ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/dev.stamp ## write the generated pages: docs/names.md, docs/settings.md
	$(BIN)/python -m voicespan.names > docs/names.md
	$(BIN)/python -m voicespan.settings > docs/settings.md

site: .venv/dev.stamp ## build the documentation as pages to read: build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo build/site/index.html

bench: .venv/dev.stamp ## measure everything beside other libraries, and write docs/performance.md (ARGS="recording peers" for some)
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-check: .venv/dev.stamp ## fail when a ratio is worse than its bar (ARGS="recording frames" for some)
	@$(BIN)/python benchmarks/check.py $(ARGS)

collector: ## build the OpenTelemetry Collector of collector/
	@scripts/collector

programs: collector ## build what the tests run: the Collector, Prometheus, promtool, a LiveKit server, the checks of deploy/
	@scripts/prometheus
	@scripts/kubernetes
	@scripts/compose
	@scripts/livekit

stack: .venv/dev.stamp programs ## run the back ends on this machine, in the background (voicespan stack down ends them)
	@$(BIN)/voicespan stack up

deploy: .venv/dev.stamp ## write the generated files of deploy/: rules, dashboards, settings of the back ends
	$(BIN)/python -m voicespan.stack.generate

lock: .venv/dev.stamp ## pin the requirements anew (UPGRADE=--upgrade for newer versions)
	scripts/lock

clean: ## remove .venv, caches and build results
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/fuzz.stamp: .venv/dev.stamp

.venv/%.stamp: requirements/%.txt requirements/uv.txt pyproject.toml scripts/install
	@scripts/install $*
	@touch $@

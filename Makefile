# Everything runs in .venv of this checkout; `make install` builds it, by uv if there is one, by pip otherwise.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install demo up dev test attack chaos soak two-stacks lint removals storm bench-reports clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the whole shop against stand-ins; ARGS=\"--once --json out.json\" to end by itself"
	@echo "make test    linters, then all tests"
	@echo "make removals  takes each safeguard of the state away and shows which test notices"
	@echo "make chaos   kills every process of the product at every failpoint (an hour); FULL=1 more often; ARGS=\"--seed N --only POINT@PROCESS\""
	@echo "make soak    JOBS=10000 orders while every stand-in misbehaves at random; SEED=1; ARGS=\"--json out.json --outage disk-storage\", \"--orders-per-minute 150\""
	@echo "make two-stacks  a soak of JOBS=300 on two stacks with one database, each stopped (SIGSTOP) past its leases"
	@echo "make attack  100,000 hostile requests to each site of the front, judged by what arrives behind it; SEED=1; ARGS=\"--requests 5000\""
	@echo "make storm   each webhook a hundred times, 10,000 forged ones; says how long the answers took"
	@echo "make bench-reports  5 million jobs: how long all reports take; ARGS=\"--jobs 200000\" for a smaller look"
	@echo "make up      the product against the services that .env names"
	@echo "make dev     the two code locations in 'dagster dev', history in a temporary folder"
	@echo "make install what the others need, in .venv"
	@echo "make clean   removes .venv and the state below .smi"

install: .venv/.installed

.venv/.installed: pyproject.toml setup.py constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
		uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[test]'; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'; \
	fi
	@touch $@

demo: install
	$(BIN)/smi demo $(ARGS)

up: install
	$(BIN)/smi up $(ARGS)

dev: install
	$(BIN)/dagster dev -w workspace.yaml $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy smi_pipeline smi_pipeline_tests
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest $(ARGS)

removals: install
	$(BIN)/python -m smi_pipeline_tests.removals $(ARGS)

storm: install
	SMI_FULL=1 $(BIN)/pytest smi_pipeline_tests/gateway/test_storm.py -n0 -q -s --no-header --show-capture=no $(ARGS)

attack: install
	$(BIN)/python -m smi_pipeline_tests.attack --seed $(or $(SEED),1) $(ARGS)

chaos: install
	$(BIN)/python -W ignore -m smi_pipeline_tests.chaos $(if $(FULL),--full) $(ARGS)

soak: install
	$(BIN)/python -W ignore -m smi_pipeline_tests.soak --jobs $(or $(JOBS),1000) --seed $(or $(SEED),1) $(ARGS)

two-stacks: install
	$(BIN)/python -W ignore -m smi_pipeline_tests.soak --two-stacks --jobs $(or $(JOBS),300) --seed $(or $(SEED),1) $(ARGS)

bench-reports: install
	$(BIN)/python -m benchmarks.reports $(ARGS)

clean:
	rm -rf .venv .smi

# Everything runs in .venv of this checkout, which `make install` builds by uv if it is installed, else by pip.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install demo up dev lint test wheel-test attack removals storm fairness chaos soak faults two-stacks bench-images bench-reports clean
.DEFAULT_GOAL := help

help:
	@echo 'Usage: make TARGET [ARGS="options of the command"]'
	@echo
	@echo "  demo           run the whole shop against the sandbox; ARGS=\"--once --json out.json\" ends by itself"
	@echo "  up             run the product against the services that .env names"
	@echo "  dev            open both code locations in 'dagster dev'"
	@echo "  install        build .venv; all other targets do it when needed"
	@echo "  clean          remove .venv, build files and .smi"
	@echo
	@echo "  lint           run the linters"
	@echo "  test           run the linters, then all tests"
	@echo "  wheel-test     install the wheel and its dependencies into a new virtual environment and run the demo there"
	@echo "  removals       remove each safeguard of the state and show which test fails"
	@echo "  attack         send 100,000 hostile requests to each site of the front, judged by what arrives behind it; SEED=1"
	@echo "  storm          send each webhook a hundred times, and 10,000 forged ones; print response times"
	@echo "  fairness       let 150 paid jobs wait and see in which order they start; ARGS=\"--only stream\""
	@echo "  chaos          kill every process at every failpoint (an hour); FULL=1, ARGS=\"--seed N --only POINT@PROCESS\""
	@echo "  soak           sell JOBS=1000 upscales under random faults; SEED=1, ARGS=\"--outage disk-storage\","
	@echo "                 ARGS=\"--rotate\", ARGS=\"--orders-per-minute 150\", ARGS=\"--json out.json\""
	@echo "  faults         let 200 faults hit 30 paid orders each: at most three may be lost; SEED=1, ARGS=\"--only N\""
	@echo "  two-stacks     run a soak of JOBS=300 on two installations with one database, each paused past its leases"
	@echo "  bench-images   judge thousands of honest and bad results of upscalers; ARGS=\"--tuning\", ARGS=\"--photographs FOLDER\""
	@echo "  bench-reports  time all reports over 5 million jobs; ARGS=\"--jobs 200000\" for fewer"

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
	$(BIN)/mypy smi_pipeline smi_pipeline_tests benchmarks
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest $(ARGS)

wheel-test: install
	SMI_FULL=1 $(BIN)/pytest smi_pipeline_tests/end_to_end/test_wheel.py -n0 -q --no-header $(ARGS)

removals: install
	$(BIN)/python -m smi_pipeline_tests.removals $(ARGS)

storm: install
	SMI_FULL=1 $(BIN)/pytest smi_pipeline_tests/gateway/test_storm.py -n0 -q -s --no-header --show-capture=no $(ARGS)

attack: install
	$(BIN)/python -m smi_pipeline_tests.attack --seed $(or $(SEED),1) $(ARGS)

fairness: install
	$(BIN)/python -W ignore -m smi_pipeline_tests.fairness $(ARGS)

chaos: install
	$(BIN)/python -W ignore -m smi_pipeline_tests.chaos $(if $(FULL),--full) $(ARGS)

soak: install
	$(BIN)/python -W ignore -m smi_pipeline_tests.soak --jobs $(or $(JOBS),1000) --seed $(or $(SEED),1) $(ARGS)

faults: install
	$(BIN)/python -W ignore -m smi_pipeline_tests.faults --seed $(or $(SEED),1) $(ARGS)

two-stacks: install
	$(BIN)/python -W ignore -m smi_pipeline_tests.soak --two-stacks --jobs $(or $(JOBS),300) --seed $(or $(SEED),1) $(ARGS)

bench-images: install
	nice -n 19 $(BIN)/python -W ignore -m smi_pipeline_tests.bench_images $(ARGS)

bench-reports: install
	$(BIN)/python -m benchmarks.reports $(ARGS)

clean:
	rm -rf .venv .smi build *.egg-info

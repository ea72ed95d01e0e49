# The habits of this project; continuous integration (.ci/run) calls the same ones.
#
#   PYTHON=python3.12   the interpreter that makes the virtual environment
#   VENV=.venv          where that lives
#   ARGS="..."          further words for what is run: make test ARGS="-k codecs", make demo ARGS=--json

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BESIDE := --numprocesses auto --maxprocesses 4 --dist worksteal
OLDEST := 3.10
BEFORE := 3.14
SUITABLE := import sys; number = lambda text: tuple(map(int, text.split("."))); \
	sys.exit(not number("$(OLDEST)") <= sys.version_info[:2] < number("$(BEFORE)"))

# Modules rather than scripts of $(VENV)/bin: those break when the folder is moved.
RUN := $(VENV)/bin/python -m
STAMP := $(VENV)/.installed-

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two pips in one environment get in each other's way
.PHONY: help demo test test-slow test-all test-fast check lint types format bench env-example clean

help: ## list these habits
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: $(STAMP)embedded ## show the whole loop on an embedded broker, in a few minutes
	$(RUN) cifarctl demo $(ARGS)

test: $(STAMP)test ## run the tests that take minutes, those with the embedded broker among them
	$(RUN) pytest $(BESIDE) tests/unit tests/broker $(ARGS)

# Two at a time: each has Kafka brokers of its own.
test-slow: $(STAMP)test ## run the others: Apache Kafka, kills, storms, training in earnest
	$(RUN) pytest $(BESIDE) --maxprocesses 2 tests/kafka tests/slow $(ARGS)

test-all: test test-slow ## run all tests

test-fast: $(STAMP)test ## run the unit tests, in about a minute: no broker, no child process
	$(RUN) pytest $(BESIDE) --hypothesis-profile=fast tests/unit $(ARGS)

check: lint types test-all ## everything that has to pass

lint: $(STAMP)dev ## style, and the import boundaries
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(VENV)/bin/lint-imports

types: $(STAMP)dev ## static types
	$(RUN) mypy

format: $(STAMP)dev ## put the code into the one format
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: $(STAMP)dev $(VENV)/quix ## measure and record, about two and a half hours; best on a machine that does nothing else
	@missed=0; for name in startup stream latency memory scale faults "train --strong" convolution folder live; do \
		echo "== benchmarks.$$name"; BENCH_RESULTS=benchmarks/results $(RUN) benchmarks.$$name || missed=1; \
	done; $(RUN) benchmarks.record; exit $$missed

env-example: $(STAMP)embedded ## write .env.example anew, from the settings
	$(RUN) cifarctl config --env-example > .env.example

clean: ## remove the environment and what tools left behind; data and registry stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find cifarctl tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Once per extra, and again whenever pyproject.toml has changed. Each of these three contains the ones before it.
embedded.contains :=
test.contains := embedded
dev.contains := embedded test
$(STAMP)%: pyproject.toml | $(VENV)/pyvenv.cfg
	$(RUN) pip install --disable-pip-version-check --quiet --editable '.[$*]'
	@touch $@ $(addprefix $(STAMP),$($*.contains))

# quix-streams pins an older confluent-kafka than ours, so it gets a folder of its own.
$(VENV)/quix: benchmarks/requirements-quix.txt | $(VENV)/pyvenv.cfg
	$(RUN) pip install --disable-pip-version-check --quiet --upgrade --target $@ --requirement $<
	@touch $@

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c '$(SUITABLE)' 2>/dev/null || { \
		echo "cifarctl needs Python >= $(OLDEST) and < $(BEFORE), but $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

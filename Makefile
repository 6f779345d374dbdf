# Everything sets itself up: a virtual environment in .venv, with a server of our own in it.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
JOBS ?= 4
FAULTS ?= 300
BIN = .venv/bin
READY = .venv/.ready

.PHONY: help setup demo test test-long soak lint planted-bugs fuzz bench bench-page bench-backend \
	bench-retention chaos wheels clean

help:
	@echo "make demo          kill a flow, resume it, compare: no Redis needed"
	@echo "make test          the whole suite, against real servers"
	@echo "make test-long     what takes longer: failovers, takeovers at every step"
	@echo "make soak          hammer one namespace of the state backend for a minute"
	@echo "make chaos         strike a flow with 300 faults, compare what it leaves: FAULTS=, SEED="
	@echo "make lint          ruff and mypy"
	@echo "make planted-bugs  show that the crash tests and the fault harness fail when the code is wrong"
	@echo "make fuzz          random bytes for all that reads bytes, FUZZ_SECONDS=60 each"
	@echo "make bench         every job, stock and ours in turn: about an hour; BENCH='--quick' is short"
	@echo "make bench-page    the page and the plots of docs/benchmarks, from its results.json"
	@echo "make bench-backend the state backend beside bare redis-py"
	@echo "make bench-retention  what is left of keys that came once, stock and ours; what retention costs"
	@echo "make wheels        both distributions, into dist/: the package, and what bench needs"

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11 or 3.12 is needed: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

setup: $(READY)

demo: $(READY)
	$(BIN)/bytewax-redis-state demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-long: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m long

soak: $(READY)
	SOAK_SECONDS=60 $(BIN)/python -m pytest -v tests/backend/test_hammer.py

chaos: $(READY)
	$(BIN)/bytewax-redis-state bench chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

planted-bugs: $(READY)
	$(BIN)/python -m pytest -v -m 'long or not long' tests/crash/test_planted_bugs.py \
		tests/chaos/test_planted_bugs.py

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(shell sed -n 's/^    "\([a-z]*\)": .*/\1/p' tests/fuzz/targets.py | sort -u)

fuzz: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	for target in $(FUZZ_TARGETS); do \
		echo "== $$target"; $(BIN)/python -m tests.fuzz $$target $(FUZZ_SECONDS) || exit 1; done

bench: $(READY)
	$(BIN)/bytewax-redis-state bench jobs --into bench-results.json $(BENCH)

bench-page: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench-page]'
	$(BIN)/python -m benchmarks.plots docs/benchmarks/results.json docs/benchmarks
	$(BIN)/python -m benchmarks.page docs/benchmarks/results.json docs/benchmarks.md

bench-backend: $(READY)
	$(BIN)/python -m benchmarks.state_backend

bench-retention: $(READY)
	$(BIN)/python -m benchmarks.retention
	$(BIN)/python -m benchmarks.retention_cost

wheels: $(READY)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir dist . ./packaging/bench

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Everything here works in a fresh clone, on a machine that has Python 3.11 or newer, make and a shell.
# Nothing is written outside the clone, but for what tests keep in the system's temporary folder while they run: a unix
# socket's path has at most 107 bytes, and a clone may be deep.

VENV := .venv
BIN := $(VENV)/bin
# How many test files are run at once, and which are not: those that overload the machine, or are about one that is.
WORKERS ?= 2
ALONE := tests/bench tests/chaos tests/headroom \
	tests/e2e/test_e2e_headroom.py tests/e2e/test_e2e_kills.py tests/e2e/test_e2e_stories.py \
	tests/e2e/test_e2e_stress.py tests/e2e/test_e2e_wall.py
# Whatever is missing is installed, again whenever pyproject.toml is newer than these.
TO_RUN := $(VENV)/ready-to-run
TO_TEST := $(VENV)/ready-to-test
TO_BENCH := $(VENV)/ready-to-bench

# pip would keep what it fetches in the home directory, and unpack it in /tmp. Everything is fetched once, into the
# virtual environment, so a cache in the clone would only be a second copy.
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
INSTALL = TMPDIR="$(CURDIR)/$(VENV)/tmp" $(BIN)/python -m pip install --quiet --editable

.DEFAULT_GOAL := help
.PHONY: help demo test check bench million exhaustion chaos clean

help:
	@echo 'make demo    run a real batch through supervisord, battd and battctl (DEMO="-c 32" for a smaller one)'
	@echo 'make test    the tests (TEST="-k wall -x" for pytest)'
	@echo 'make check   style, types, layers, and the systemd units'
	@echo 'make bench   throughput and the wall beside pebble, what admission costs (BENCH="--help", WALL="--help" for options)'
	@echo 'make million    a million queued tasks: submission beside raw SQLite, what they cost, recovery (MILLION="--help")'
	@echo 'make exhaustion   too few processes, too little memory: beside six other pools (EXHAUSTION="--help"); some 15 minutes'
	@echo 'make chaos   5,000 tasks while battd, its nursery and its workers are killed (CHAOS="--seed 7 --tasks 5000 --kills 50"); minutes'
	@echo 'make clean   remove what these have made, the virtual environment too'
	@echo
	@echo 'Each sets up .venv first. PYTHON=/path/to/python3.12 makes it from that Python.'

demo: $(TO_RUN)
	@$(BIN)/python deploy/demo.py $(DEMO)

# Several files at once, then the others by themselves.
test: $(TO_TEST)
ifneq ($(findstring tests/,$(TEST)),)
	@$(BIN)/python -m pytest $(TEST)
else
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ALONE:%=--ignore=%) $(TEST); several=$$?; \
	case $$several in 0|5) ;; *) exit $$several;; esac; \
	$(BIN)/python -m pytest $(ALONE) $(TEST); alone=$$?; \
	if [ $$alone = 5 ]; then exit $$several; fi; exit $$alone
endif

check: $(TO_TEST)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q tests/test_layers.py
	@TMPDIR="$(CURDIR)/$(VENV)/tmp" deploy/check-unit.sh $(BIN)/battd

bench: $(TO_BENCH)
	@$(BIN)/python benchmarks/throughput.py $(BENCH)
	@echo
	@$(BIN)/python benchmarks/admission.py
	@echo
	@$(BIN)/python benchmarks/readings.py
	@echo
	@$(BIN)/python benchmarks/wall.py $(WALL)
	@echo
	@$(BIN)/python benchmarks/pruning.py

million: $(TO_TEST)
	@$(BIN)/python benchmarks/million.py $(MILLION)

exhaustion: $(TO_BENCH)
	@$(BIN)/python benchmarks/exhaustion.py $(EXHAUSTION)

chaos: $(TO_TEST)
	@$(BIN)/python tests/chaos/chaos_run.py $(CHAOS)

clean:
	rm -rf $(VENV) .demo .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find batt_supervisor worker tests benchmarks deploy -name __pycache__ -type d -prune -exec rm -rf {} +

$(TO_RUN): pyproject.toml | $(BIN)/python
	@echo 'Installing what running needs into $(VENV)' >&2
	@$(INSTALL) '.[arc,supervisor]'
	@touch $@

$(TO_TEST): pyproject.toml | $(BIN)/python
	@echo 'Installing what running and testing need into $(VENV)' >&2
	@$(INSTALL) '.[test]'
	@touch $@ $(TO_RUN)

$(TO_BENCH): pyproject.toml | $(BIN)/python
	@echo 'Installing what running, testing and the benchmark need into $(VENV)' >&2
	@$(INSTALL) '.[test,bench]'
	@touch $@ $(TO_RUN) $(TO_TEST)

# A link into a Python that is gone counts as missing, so the environment is made anew then.
$(BIN)/python:
	@found=; for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo 'There is no Python 3.11 or newer here$(if $(PYTHON), by the name $(PYTHON))' >&2; \
		echo 'Name one: make PYTHON=/path/to/python3.11 ...' >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$found" >&2; \
	trap 'rm -rf $(VENV); exit 130' INT TERM; \
	"$$found" -m venv --clear $(VENV) || { \
		rm -rf $(VENV); \
		echo "$$found cannot make virtual environments; on Debian and Ubuntu the package is called python3-venv" >&2; \
		exit 1; \
	}
	@mkdir -p $(VENV)/tmp

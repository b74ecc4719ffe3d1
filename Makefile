# The same targets on a laptop and in CI. GNU make, a POSIX shell and Python 3.11 or newer are all it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
# Two processes; each file's tests stay together, since they share what is slow to make.
PYTEST_FLAGS ?= -n 2 --dist loadfile
BENCH_FLAGS ?=
SECONDS ?= 60
FAULTS ?= host-kill

.PHONY: help retrain rehearse test check fix fuzz bench
.DELETE_ON_ERROR:

help:
	@echo 'make retrain  train: TRAINING_ZIP=... OUTPUT_NAME=... MAX_EPOCHS=...; see docs/settings.md'
	@echo 'make rehearse a whole night at a simulated RunPod; FAULTS="host-kill ..."; see docs/rehearsal.md'
	@echo 'make test     run all tests'
	@echo 'make check    lint, formatting, types; edits nothing'
	@echo 'make fix      lint and formatting, corrected'
	@echo 'make bench    how fast it is, as ratios; build/bench.json and a table; see docs/performance.md'
	@echo 'make fuzz     SECONDS=60: any bytes into everything that reads bytes from outside'

# Variables reach the shell through the environment, whether they were set there or on make's command line.
retrain: $(VENV)/.local
	@exec $(BIN)/retrain run \
	  $${TRAINING_ZIP:+"--training-zip=$$TRAINING_ZIP"} \
	  $${OUTPUT_NAME:+"--output-name=$$OUTPUT_NAME"} \
	  $${MAX_EPOCHS:+"--max-epochs=$$MAX_EPOCHS"} \
	  $${SAVE_EVERY:+"--save-every=$$SAVE_EVERY"} \
	  $${RESOLUTION:+"--resolution=$$RESOLUTION"} \
	  $${BATCH_SIZE:+"--batch-size=$$BATCH_SIZE"} \
	  $${LEARNING_RATE:+"--learning-rate=$$LEARNING_RATE"} \
	  $${TEXT_LR:+"--text-lr=$$TEXT_LR"} \
	  $${LORA_DIM:+"--lora-dim=$$LORA_DIM"} \
	  $${LORA_ALPHA:+"--lora-alpha=$$LORA_ALPHA"} \
	  $${REPEAT_COUNT:+"--repeat-count=$$REPEAT_COUNT"} \
	  $${INIT_WEIGHTS:+"--init-weights=$$INIT_WEIGHTS"} \
	  $(RETRAIN_FLAGS)

rehearse: $(VENV)/.dev
	@$(BIN)/python -m tests.rehearsal $(FAULTS)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(PYTEST_FLAGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

fix: $(VENV)/.dev
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# Findings are kept in .fuzz/ and named, with the command that repeats them.
fuzz: $(VENV)/.fuzz
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

bench: $(VENV)/.bench
	@$(BIN)/python -m tests.bench $(BENCH_FLAGS)

# One stamp for each step of the set-up, written when the step is complete: what was interrupted starts again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'retrain needs Python 3.11 or newer: make PYTHON=python3.11 ...' >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.local: pyproject.toml $(VENV)/.created
	@echo 'setting up $(VENV): downloads PyTorch and the rest, once' >&2
	@$(INSTALL) '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.created
	@echo 'setting up $(VENV) for development: downloads PyTorch and the rest, once' >&2
	@$(INSTALL) '.[local,dev]'
	@touch $@ $(VENV)/.local

$(VENV)/.fuzz: $(VENV)/.dev
	@$(INSTALL) '.[fuzz]'
	@touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.created
	@echo 'setting up $(VENV) for benchmarks: downloads PyTorch and the rest, once' >&2
	@$(INSTALL) '.[local,bench]'
	@touch $@ $(VENV)/.local

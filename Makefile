# Two commands on a fresh machine: `make quickstart` and `make test`. Each fills .venv first, which
# happens once and again when what is asked for changes.
#
#   PYTHON       the interpreter that .venv is made from
#   TORCH_INDEX  an extra package index to take torch from (a CUDA 12 build for an older driver,
#                a CPU build where the default index has none)

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart ablation test test-slow lint

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt install.py
	$(PYTHON) install.py $(VENV) dev $(TORCH_INDEX)
	@touch $@

quickstart: $(INSTALLED)  ## run the main job on the embedded tiny world, offline
	$(VENV)/bin/blsp quickstart

ablation: $(INSTALLED)  ## compare the recipes of the family on the tiny world; hours, goes on
	$(RUN) blsp.tiny.family

test: $(INSTALLED)  ## run every test but the slow ones
	OMP_NUM_THREADS=1 $(RUN) pytest -q -m "not slow" --durations=10 -n 2 --dist loadfile

test-slow: $(INSTALLED)  ## run the tests that take minutes each
	$(RUN) pytest -q -m slow --durations=10

lint: $(INSTALLED)  ## check style, format and types
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) pyright --pythonpath $(VENV)/bin/python

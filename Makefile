# make demo       local latent bases of the bundled model, with figures, in ./pullback-demo
# make test       all tests, on every core       (make test ARGS="-m 'not slow'" for the quick ones)
# make lint       ruff, clang-format, mypy       (make format to apply the first two)
# make docs       the documentation as a site, with a reference of every public name, in build/docs
# make bench      against the published loop     (ARGS are handed on, as everywhere)
# make mutants    does a test fail for every small error? ARGS=python/pullback/krylov/bounds.py, say
# make compat     installs and tests with the oldest and newest torch, in fresh environments
# make gpu-check  on a machine with a GPU: kernels against references, GPU tests, benchmarks
#
# Each sets up what it needs: in the active virtual or conda environment if there is one, where it
# installs only what is missing, and else in .venv, from the versions in constraints.txt.
#
#   make test PYTHON=python3.12     another interpreter for .venv
#   make test VENV=none             use $(PYTHON) as it stands, such as a container's own

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=

# ---------------------------------------------------------------------------------- environment
ifeq ($(VENV),none)
  ENV := $(shell $(PYTHON) -c 'import sys; print(sys.prefix)')
  PY := $(PYTHON)
else ifneq ($(filter-out $(CURDIR)/.venv,$(VIRTUAL_ENV)),)
  ENV := $(VIRTUAL_ENV)
  PY := $(VIRTUAL_ENV)/bin/python
else ifneq ($(and $(CONDA_PREFIX),$(filter-out base,$(CONDA_DEFAULT_ENV))),)
  ENV := $(CONDA_PREFIX)
  PY := $(CONDA_PREFIX)/bin/python
else
  ENV := $(CURDIR)/.venv
  PY := $(ENV)/bin/python
  OWN := yes
endif

# What has been installed is remembered inside .venv, or in build/ for an environment not ours.
ifdef OWN
  STAMPS := $(ENV)/stamps
else
  STAMPS := build/stamps/$(subst /,_,$(ENV))
endif

# An interpreter that is asked for and is not the one of .venv makes a new .venv.
ifdef OWN
ifneq ($(origin PYTHON),file)
  VERSION_OF = $(shell $(1) -c 'import sys; print(sys.version_info[:3], sys.base_prefix)' 2>/dev/null)
  ifneq ($(call VERSION_OF,$(PYTHON)),$(call VERSION_OF,$(PY)))
    REMAKE := remake
  endif
endif
endif

ANCHOR := $(if $(OWN),$(ENV)/pyvenv.cfg,$(wildcard $(ENV)/pyvenv.cfg))

NATIVE := CMakeLists.txt setup.py $(wildcard build_tools/*.py) \
  $(shell find csrc -type f -not -name '*.md' 2>/dev/null)
INSTALL = $(PY) build_tools/workshop.py $(if $(OWN),--pinned)

SCRIPTS = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_path("scripts"))')

.NOTPARALLEL:
.PHONY: help demo test lint format docs bench mutants compat gpu-check clean remake
help:
	@awk '/^#/ { sub(/^# ?/, ""); print; next } { exit }' Makefile

ifdef OWN
$(ENV)/pyvenv.cfg: $(REMAKE)
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else "pullback needs Python 3.10 to 3.13 and $(PYTHON) is " + sys.version.split()[0] + ": run make with PYTHON=python3.11, say.")'
	@$(PYTHON) -m venv --clear $(ENV) || { echo "$(PYTHON) cannot make virtual environments: run 'sudo apt-get install python3-venv' (Debian, Ubuntu), or activate an environment of your own." >&2; exit 1; }
endif

# The package itself, in place, with what it runs on; installs what the native build needs too.
$(STAMPS)/run: pyproject.toml constraints.txt $(NATIVE) $(ANCHOR)
	@mkdir -p $(@D)
	$(INSTALL) --package
	@touch $@
$(STAMPS)/%: pyproject.toml constraints.txt $(ANCHOR)
	@mkdir -p $(@D)
	$(INSTALL) --extra $*
	@touch $@

# ------------------------------------------------------------------------------------- commands
demo: $(STAMPS)/run
	$(SCRIPTS)/pullback demo $(ARGS)

test: $(STAMPS)/run $(STAMPS)/test
	$(PY) -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

CLANG_FORMAT = $(PY) -c 'import clang_format; clang_format.clang_format()'
CPP = $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')
lint: $(STAMPS)/run $(STAMPS)/lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(CLANG_FORMAT) --dry-run -Werror $(CPP)
	$(PY) -m mypy

format: $(STAMPS)/lint
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(CLANG_FORMAT) -i $(CPP)

docs: $(STAMPS)/run $(STAMPS)/docs
	$(PY) -m sphinx -q -W --keep-going -c docs . build/docs $(ARGS)
	@echo "The site begins at build/docs/index.html."

bench: $(STAMPS)/run
	$(PY) -m benchmarks $(ARGS)

# The tool mutates a package in its working folder and writes beside it: a folder of links. It forks
# a process that holds torch, which more than one thread would not survive.
MUTANTS := build/mutants
mutants: $(STAMPS)/run $(STAMPS)/test $(STAMPS)/mutants
	@mkdir -p $(MUTANTS)
	@ln -sfn $(addprefix $(CURDIR)/,python/pullback pullback_ext tests pyproject.toml) $(MUTANTS)/
	cd $(MUTANTS) && OMP_NUM_THREADS=1 $(SCRIPTS)/mutmut run $(subst /,.,$(patsubst python/%,%.*,$(ARGS:.py=)))
	@cd $(MUTANTS) && $(SCRIPTS)/mutmut results
	@echo "What survives, and why, is in tests/mutants.md; 'cd $(MUTANTS) && mutmut show NAME' shows a mutant."

# Needs no environment: it makes its own.
compat:
	$(PYTHON) build_tools/compat.py $(ARGS)

gpu-check: $(STAMPS)/run $(STAMPS)/test
	@$(PY) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make gpu-check needs an NVIDIA GPU that torch can use, and torch " + torch.__version__ + " finds none.")'
	@mkdir -p gpu-check
	$(PY) -m pullback_ext
	$(PY) -m pytest -m cuda
	@if command -v compute-sanitizer >/dev/null; then set -x; \
	  compute-sanitizer --tool memcheck --error-exitcode 1 $(PY) -m pullback_ext; \
	else echo "compute-sanitizer is not on PATH: memory check left out"; fi
	$(PY) -m benchmarks gram --device cuda --json gpu-check/gram.json $(ARGS)
	$(PY) -m benchmarks orthonormalize --device cuda --json gpu-check/orthonormalize.json $(ARGS)
	$(PY) -m benchmarks basis --device cuda --json gpu-check/basis.json $(ARGS)

clean:
	rm -rf build dist *.egg-info pullback_ext/_native.*.so

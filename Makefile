# make search   sets up .venv if needed, then searches for the hyperparameters that train well
# make test     sets up .venv if needed, then runs the tests
#
# SPACE=quick          another search space
# PYTHON=/a/python3.11 the Python that a new .venv is made from
# TORCH_INDEX=ADDRESS  a wheel index that torch is taken from, for instance one with builds for your GPU
# PYTEST_ARGS="-k tide" arguments of pytest

PYTHON ?= $(shell command -v python3.11 || command -v python3)
SPACE ?= spaces/history.yaml
PYTEST_ARGS ?=

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# Written last, so that an interrupted set-up is taken up again; it holds the TORCH_INDEX that was used.
READY := $(VENV)/ready
INDEX_IN_USE := $(shell cat $(READY) 2>/dev/null)
TORCH_INDEX ?= $(INDEX_IN_USE)
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check

.PHONY: search test setup
.DELETE_ON_ERROR:

search: $(READY)
	$(VENV_PYTHON) -m tune.search --space $(SPACE)

# Two processes; how the tests are dealt out: tests/conftest.py.
test: $(READY)
	$(VENV_PYTHON) -m pytest -n 2 $(PYTEST_ARGS)

setup: $(READY)

ifneq ($(TORCH_INDEX),)
TORCH_OPTIONS := --no-deps --index-url $(TORCH_INDEX)
endif
# A TORCH_INDEX that differs from the one in use is not ignored: torch is installed again.
ifneq ($(TORCH_INDEX),$(INDEX_IN_USE))
.PHONY: $(READY)
TORCH_OPTIONS += --force-reinstall
endif

# torch comes first, and alone from its index: everything else is taken from where pip takes things.
$(READY): pyproject.toml constraints.txt | $(VENV_PYTHON)
	$(PIP) install $(TORCH_OPTIONS) --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable ".[test]"
	@echo "$(TORCH_INDEX)" > $@

$(VENV_PYTHON):
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed (Debian: apt-get install python3.11 python3.11-venv)." >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "$(PYTHON) does not run, or is too old: Python 3.11 is needed; name one with make PYTHON=/path/to/python3.11." >&2; exit 1; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || \
		{ echo "$(PYTHON) has no venv: install it (Debian: apt-get install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# `make train` and `make test` do all set-up themselves, once, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install train test lint clean

install: $(VENV)/.installed

# Made anew when what is installed changes; everything comes pinned from constraints.txt.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else "ssmbio needs Python 3.10 to 3.13, this is " + sys.version.split()[0] + "; give another: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: install
	$(BIN)/python -m ssmbio.train task=dna_classify $(ARGS)

# Two files at a time, a core each.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# mypy does not follow `__path__`, so it is shown the tree as it is installed: one package, made of links.
TYPES := $(VENV)/types/ssmbio

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPES) && mkdir -p $(TYPES)
	ln -s $(abspath $(wildcard ssmbio/*)) $(abspath conf data kernels pipelines) $(TYPES)
	cd $(dir $(TYPES)) && $(abspath $(BIN)/mypy) --config-file $(abspath pyproject.toml) --package ssmbio

clean:
	rm -rf $(VENV) build dist *.egg-info

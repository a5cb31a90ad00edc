# Each target sets up .venv by itself. Paths are relative, so the checkout may lie anywhere.
#   make demo   train an LSTM on the bundled data and evaluate it
#   make test   run the tests
#   make lint   ruff and mypy
#   make docs   build the site, examples included, into build/docs
#   make clean  remove .venv and what was built
# Options: PYTHON=python3.12, PYTEST_FLAGS="-m slow", VENV_FLAGS=--system-site-packages

# Version managers put names on the path that do not run, so each is tried.
supported = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	"$$name" -c '$(supported)' 2>/dev/null && echo "$$name" && break; done)

ready = .venv/ready
# An editable install does not notice that these have changed.
kernel_sources = setup.py $(wildcard kernels/cpu/*.h kernels/cpu/*.cpp)

.PHONY: demo test lint docs clean

demo: runs/demo/model.safetensors
	.venv/bin/surrogate evaluate runs/demo/model.safetensors --split test

# An interrupted demo goes on where it stopped.
runs/demo/model.safetensors: | $(ready)
	.venv/bin/surrogate train $(if $(wildcard runs/demo/run.json),--resume runs/demo,--arch lstm --out runs/demo)

test: $(ready)
	.venv/bin/python -m pytest $(PYTEST_FLAGS)

# mypy and import-linter do not read setuptools' package-dir, so they check an installed copy.
lint: $(ready)
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	rm -rf build/lib* build/bdist.* build/types
	SURROGATE_NO_EXTENSION=1 .venv/bin/python -m pip install --quiet --no-deps --target build/types .
	cd build/types && ../../.venv/bin/python -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache
	cd build/types && ../../.venv/bin/lint-imports --no-logo --no-cache ../../pyproject.toml

docs: $(ready)
	.venv/bin/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

# A torch that is already there stays: the package index's own brings gigabytes of CUDA libraries.
$(ready): pyproject.toml constraints.txt $(kernel_sources)
	@test -n "$(PYTHON)" || { echo "Error: no Python 3.11 to 3.13 found; make PYTHON=/path/to/python" >&2; exit 1; }
	test -x .venv/bin/python || "$(PYTHON)" -m venv $(VENV_FLAGS) .venv
	@if .venv/bin/python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; \
	then grep -Ev '^(torch|triton)==' constraints.txt; else cat constraints.txt; fi > .venv/constraints.txt
	.venv/bin/python -m pip install -c .venv/constraints.txt -e ".[dev]"
	@touch $(ready)

clean:
	rm -rf .venv build dist surrogate_neuron.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks \
		kernels/cpu/*.so

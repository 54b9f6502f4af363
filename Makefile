# Every target makes the virtual environment it needs, from nothing: Python 3.11 or newer, a C compiler and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Tests share the cores between processes, so each process keeps to one thread.
PYTEST_ARGS ?= -n auto

export HF_HUB_DISABLE_TELEMETRY = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo demo-teacher picture losses study bench bench-check test torture report-check fuzz plan bias \
	distributed lint format types check wheel clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[.a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mmkd needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) --version`; name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Touched last, so an interrupted installation is taken up again. cli/, cache/ and configs/ are mapped into the
# package by pyproject.toml, which is why a change there installs anew.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing mmkd and what it needs into $(VENV); the first time takes some minutes"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/.installed  ## Run the whole pipeline offline on drawn scenes (about four minutes)
	$(BIN)/mmkd demo

demo-teacher: $(VENV)/.installed  ## Make the demo's teacher anew (about an hour on two cores)
	$(BIN)/python configs/demo/make_teacher.py

picture: $(VENV)/.installed  ## Draw docs/images/demo.svg from the demo's workspace
	$(BIN)/python docs/picture.py

losses: $(VENV)/.installed  ## Train every loss on the demo's scenes and write docs/losses.md (about an hour)
	$(BIN)/python benchmarks/losses.py --out build/losses --write docs/losses.md

bench: $(VENV)/.installed  ## Measure every claim of speed that this machine can run (about an hour on two cores)
	$(BIN)/python benchmarks/suite.py run

bench-check: bench  ## Name each ratio that fell by more than a tenth against benchmarks/recorded.json
	$(BIN)/python benchmarks/suite.py check

# Real photos as docs/results.md has them; the teacher lies beside them.
PHOTOS  ?= ../shared/data
TEACHER ?= $(PHOTOS)/teachers/photos-32
study: $(VENV)/.installed  ## Train and rank the original study's arms on real photos, PHOTOS=FOLDER (an hour)
	OMP_NUM_THREADS=1 $(BIN)/mmkd study configs/studies/original.yaml --work build/photos \
		--data $(PHOTOS)/tiny-imagenet-32/train.parquet --teacher $(TEACHER) --template "a photo of a {}." \
		--set precision=bf16 --workers 0 --eval-data cifar10=$(PHOTOS)/cifar10/test.parquet \
		--eval-data tiny-imagenet=$(PHOTOS)/tiny-imagenet-32/validation.parquet \
		--retrieval-data flickr8k=$(PHOTOS)/flickr8k-1000/train.parquet --templates configs/zero_shot/photos-six.txt

test: $(VENV)/.installed  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

torture: $(VENV)/.installed  ## Kill, fill the disk, turn bits over, then fuzz for an hour, and see that nothing is lost
	MMKD_KILLS=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/test_cache_kills.py
	MMKD_FULL=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/test_cache_disk_faults.py
	MMKD_KILLS=60 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/test_kills.py
	MMKD_FULL=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/test_bit_flips.py
	$(MAKE) fuzz

report-check: $(VENV)/.installed  ## Look at a report in a headless Chromium: errors, requests, anything that overflows
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/test_report.py

fuzz: $(VENV)/.installed  ## Feed manifests, recipes, losses, shards and images that are nearly right (an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/fuzzing.py

plan: $(VENV)/.installed  ## Hold what `mmkd plan` says to what then happens (about ten minutes)
	OMP_NUM_THREADS=1 MMKD_FULL=1 $(BIN)/python -m pytest tests/test_plan.py

bias: $(VENV)/.installed  ## See that the bias verdict finds planted truth in 95 of 100 draws each (about ten minutes)
	OMP_NUM_THREADS=1 MMKD_FULL=1 $(BIN)/python -m pytest -s tests/test_bias_report.py tests/test_inheritance.py

distributed: $(VENV)/.installed  ## Run the distributed tests that CI leaves out too (about fifteen minutes)
	OMP_NUM_THREADS=1 MMKD_FULL=1 $(BIN)/python -m pytest tests/test_distributed.py

lint: $(VENV)/.installed  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed  ## Mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Type checkers do not follow the editable install's map of folders; links show them the installed layout.
.typing:  ## Lay links out as the package is installed, for mypy and pyright
	@rm -rf .typing && mkdir -p .typing/mmkd
	@for path in mmkd/*; do \
		case $$path in *__pycache__) ;; *) ln -s ../../$$path .typing/mmkd/ ;; esac; done
	@for folder in cache cli configs; do ln -s ../../$$folder .typing/mmkd/$$folder; done
.PHONY: .typing

types: $(VENV)/.installed .typing  ## Check types, strictly
	$(BIN)/mypy -p mmkd
	$(BIN)/mypy .ci/smoke.py configs/demo/make_teacher.py docs/picture.py benchmarks/*.py

check: lint types test  ## Everything that must hold before a commit

wheel: $(VENV)/.installed  ## Build dist/*.whl
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --wheel

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .typing build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Everything a person types. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
BUNDLE := bundle
WORKERS ?= 2

TABLE_ARGS = --hr $(HR) $(if $(PROTOCOL),--protocol $(PROTOCOL)) $(if $(CT),--ct "$(CT)") $(if $(MR),--mr "$(MR)") \
	$(if $(HR_TRAIN),--hr-train "$(HR_TRAIN)") $(if $(BUDGET),--budget $(BUDGET)) $(if $(ROWS),--rows $(ROWS)) \
	$(if $(REFERENCE),--reference $(REFERENCE)) \
	--output "$(OUT)" $(ARGS)

.PHONY: help setup demo test test-fast check train smoke ablation guidance-study calibrate mutate table1 table2 bench model docs release test-docs test-clients test-container clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(VENV)/.ready ## make the environment (pinned versions, from the package index)

$(VENV)/.ready: $(wildcard requirements*.txt) constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + "; give another with PYTHON=...")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -r requirements-dev.txt
	$(RUN) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt --no-deps monailabel
	$(RUN) -m pip install --disable-pip-version-check --progress-bar off --no-deps --no-build-isolation -e .
	touch $@

demo: setup ## super-resolve the made-up patient, or your own scan: make demo INPUT=<file or folder>
	$(RUN) -m tools.demo $(if $(INPUT),--input "$(INPUT)") $(if $(OUT),--output "$(OUT)") $(ARGS)

test: setup ## run the tests
	$(RUN) -m pytest -n $(WORKERS) $(ARGS)

test-fast: setup ## the tests of the inner loop, under 2 minutes: those that start no program and no training
	$(RUN) -m pytest -n $(WORKERS) -m "not slow and not system and not shared" $(ARGS)

check: setup ## formatting, lint, types, spelling
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell README.md CHANGELOG.md docs bundle thinslice tools studies benchmarks phantom deploy tests

train: setup ## all three stages: make train CT=<folder> MR=<folder> OUT=<folder> T=100000 [ARGS="--set lambda_percep=0"]
	$(RUN) -m thinslice train "$(OUT)" --ct "$(CT)" --mr "$(MR)" --iterations $(T) $(ARGS)

smoke: setup ## three tiny stages on made-up patients, in minutes: does training work here?
	$(RUN) -m phantom --output out/smoke/data --patients 4 --size small
	$(RUN) -m thinslice train out/smoke --ct out/smoke/data/ct --mr out/smoke/data/mr --iterations 20 --config smoke.json

ablation: setup ## what each stage brings: make ablation CT=<folder> MR=<folder> HR=<folder> OUT=<folder>
	$(RUN) -m studies.stage3_ablation --ct "$(CT)" --mr "$(MR)" --hr "$(HR)" --output "$(OUT)" $(ARGS)

guidance-study: setup ## does CT guidance pay, on made-up people: make guidance-study OUT=<folder>
	$(RUN) -m studies.guidance --output "$(OUT)" $(ARGS)

calibrate: setup ## figures and pictures of the self-check: make calibrate HR=<folder> HR_TRAIN=<folder> HEAD=<file> MR=<folder> OUT=<folder>
	$(RUN) -m studies.calibrate --data "$(HR)" --output "$(OUT)" $(ARGS)
	$(RUN) -m studies.failure_cases --volume "$(HEAD)" --output "$(OUT)" $(ARGS)
	$(RUN) -m studies.quality_limits --data "$(MR)" --output "$(OUT)"
	$(RUN) -m studies.calibrate --data "$(HR_TRAIN)" --output "$(OUT)/exponent0" --size 96 --set gain_exponent=0 $(ARGS)
	$(RUN) -m studies.calibrate --data "$(HR_TRAIN)" --output "$(OUT)/exponent1" --size 96 --set gain_exponent=1 $(ARGS)
	$(RUN) -m studies.gain_exponent --at-zero "$(OUT)/exponent0" --at-one "$(OUT)/exponent1"

mutate: setup ## do the tests notice when an equation changes? (minutes)
	$(RUN) -m tools.mutate $(ARGS)

table1: setup ## the paper's Table 1: make table1 HR=<folder> CT=<folder> MR=<folder> HR_TRAIN=<folder> SETS=paper BUDGET=600 OUT=<folder>
	$(RUN) -m studies.table1 $(if $(SETS),--sets $(SETS)) $(TABLE_ARGS)

table2: setup ## the paper's Table 2, by stage: make table2 HR=<folder> CT=<folder> MR=<folder> BUDGET=600 OUT=<folder>
	$(RUN) -m studies.table2 $(TABLE_ARGS)

bench: setup ## speed and memory as ratios, compared with benchmarks/baseline.json (minutes)
	$(RUN) -m benchmarks.guard $(ARGS)

model: setup ## train the shipped weights: make model DATA=<folder with ct/ mr_thick/ mr_hr/> OUT=<folder>
	$(RUN) -m tools.make_model --data "$(DATA)" --output "$(OUT)" $(ARGS)

docs: setup ## build the documentation as a site into out/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

release: setup ## build dist/<name>_v<version>.zip from a clean tree
	$(RUN) -m tools.release

test-docs: setup ## run every command of every page of the documentation on small data (minutes)
	ALL_PAGES=1 $(RUN) -m pytest -n $(WORKERS) tests/docs $(ARGS)

test-clients: setup ## run a real MONAI Label server and the MONAI Deploy application (makes .venv-label, .venv-deploy)
	$(RUN) -m tools.client_environments
	rm -f out/clients/figures.jsonl
	CLIENTS=1 $(RUN) -m pytest -s tests/clients $(ARGS)

test-container: setup ## build the container on a bare Debian and run it (needs root, podman, debootstrap; minutes)
	CONTAINER=1 $(RUN) -m pytest -s tests/container $(ARGS)

clean: ## remove what the targets made, except the environment
	rm -rf out runs dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

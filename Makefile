# `make repro`, `make test`, … in an environment of their own, .venv, made from requirements.txt.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help environment repro test bench ui app docs clean

export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export FIFTYONE_DO_NOT_TRACK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

in_venv = export PATH="$(CURDIR)/.venv/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/.venv"

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

repro: environment ## run the pipeline: download, convert, train, evaluate, inspect
	@$(in_venv)
	if ! git rev-parse --git-dir >/dev/null 2>&1 && [[ "$$(dvc config core.no_scm 2>/dev/null || true)" != true ]]; then
	    echo "make: this folder is no git clone; clone it, or run \`.venv/bin/dvc config --local core.no_scm true\` to do without git's history" >&2
	    exit 1
	fi
	dvc repro

test: environment ## every check and test
	@$(in_venv)
	set -x
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-logo
	# tests/conftest.py puts the longest files first. One thread a worker, and one more than two cores: some tests wait for servers and for `dvc`.
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 12

bench: environment ## measure side by side with torchvision, and write a dated card into benchmarks/
	@$(in_venv)
	python -m benchmarks

ui: environment ## MLflow's page, on 127.0.0.1: compare the runs
	@$(in_venv)
	fcos ui

app: environment ## FiftyOne's page, on 127.0.0.1: look at detections and failures
	@$(in_venv)
	fcos app

docs: ## build the documentation as a site, in site/; links and anchors are checked
	@wanted="$$(sha256sum < requirements-docs.txt) $(CURDIR)"
	if [[ ! -f .venv-docs/.complete || "$$(< .venv-docs/.complete)" != "$$wanted" ]]; then
	    python3 -m venv --clear .venv-docs
	    .venv-docs/bin/python -m pip install --quiet --no-deps -r requirements-docs.txt
	    echo "$$wanted" > .venv-docs/.complete
	fi
	# The site's pages: docs/, the root's Markdown files and the benchmarks' cards, with their links adjusted.
	rm -rf build/docs
	mkdir -p build/docs/benchmarks
	cp -r docs/. build/docs
	cp README.md build/docs/index.md
	cp CHANGELOG.md CONTRIBUTING.md Containerfile LICENSE build/docs
	find benchmarks -name '*.md' -exec cp {} build/docs/benchmarks \;
	sed -i -E 's#\((\.\./)?params\.yaml\)#(parameters.md)#g; s#\((\.\./)?benchmarks/(results/)?#(benchmarks/#g
	    s#\(\.\./README\.md#(index.md#g; s#\(\.\./(C[A-Za-z]+(\.md)?|LICENSE)#(\1#g; s#\(docs/#(#g' build/docs/*.md
	.venv-docs/bin/zensical build --strict --clean
	echo "site/: read it with \`python3 -m http.server --directory site\`"

clean: ## remove .venv and caches; data, models and results stay
	@rm -rf .venv .venv-docs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .cache build site *.egg-info
	find benchmarks fcos pipeline tests -name __pycache__ -prune -exec rm -rf {} +

# .venv/.complete is written last, and says for which requirements and which folder (scripts in .venv/bin hold its
# path). An installation that was cut has none, and is finished. The lock lets a second make wait for the first.
environment:
	@wanted="$$(sha256sum < requirements.txt) $(CURDIR)"
	complete() { [[ -f .venv/.complete && "$$(< .venv/.complete)" == "$$wanted" ]]; }
	if complete; then exit 0; fi
	exec 9< requirements.txt
	flock 9
	if complete; then exit 0; fi
	PATH="$${PATH//"$(CURDIR)/.venv/bin:"/}"
	python=
	for each in python3 python3.13 python3.12 python3.11; do
	    if "$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$each"; break; fi
	done
	if [[ -z "$$python" ]]; then
	    echo "make: Python 3.11 or newer is needed, and $$(python3 --version 2>/dev/null || echo no python3) is what there is; install it (Debian 12: apt-get install python3 python3-venv)" >&2
	    exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	    echo "make: $$python lacks venv; install it (Debian: apt-get install python3-venv)" >&2
	    exit 1
	fi
	rm -f .venv/.complete
	echo "Installing what requirements.txt pins into .venv: minutes, the first time"
	if ! grep -qsF " $(CURDIR)/.venv" .venv/pyvenv.cfg || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
	    "$$python" -m venv --clear .venv
	fi
	# A package that pip was copying when it was cut looks whole to pip. INSTALLER comes after its last file.
	find .venv/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' ! -exec test -e '{}/INSTALLER' \; -exec rm -rf {} +
	find .venv/lib/python3*/site-packages -maxdepth 1 -name '~*' -exec rm -rf {} +
	# Every version is pinned, so there is nothing to resolve; pip check tells whether they fit together.
	# Nor is there bytecode to write for gigabytes of modules, most of which nobody imports.
	.venv/bin/python -m pip install --no-deps --no-compile -r requirements.txt
	.venv/bin/python -m pip install --no-deps --no-build-isolation -e .
	.venv/bin/python -m pip check
	echo "$$wanted" > .venv/.complete.partial
	mv .venv/.complete.partial .venv/.complete

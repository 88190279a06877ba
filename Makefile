# `make repro`, `make test`, … run in the virtual environment .venv, which is installed from requirements.txt.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help environment repro test bench ui app docs clean

export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export FIFTYONE_DO_NOT_TRACK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Without bytecode, every process would compile torch, torchvision, MLflow and FiftyOne again: 5 to 7 seconds each.
unexport PYTHONDONTWRITEBYTECODE

# The stages, the commands and the tests load little else than what these modules import. Each list is imported in a
# process of its own, since FiftyOne can't be imported after MLflow.
IMPORTED := torch,torchvision.transforms.v2,torch.distributed.run,matplotlib.pyplot,sklearn.datasets \
    mlflow.server.fastapi_app,mlflow.store.tracking.sqlalchemy_store,dvc.cli.parser,dvc.repo,pytest,hypothesis \
    fiftyone,fiftyone.zoo,fiftyone.server.app

# Not $(CURDIR), which make would put into the command as it is, quotes and all.
in_venv = home="$$(pwd -P)"; export PATH="$$home/.venv/bin:$$PATH" VIRTUAL_ENV="$$home/.venv"

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

repro: environment ## run the pipeline: download, convert, train, evaluate, inspect
	@$(in_venv)
	if ! git rev-parse --git-dir >/dev/null 2>&1 && [[ "$$(dvc config core.no_scm 2>/dev/null || true)" != true ]]; then
	    echo "make: this folder is not a git clone; clone the repository, or run \`.venv/bin/dvc config --local core.no_scm true\` to use DVC without git" >&2
	    exit 1
	fi
	# One training, most likely alone on the machine: its threads wait longer for each other before they sleep.
	export GOMP_SPINCOUNT="$${GOMP_SPINCOUNT:-30000}"
	dvc repro

test: environment ## every check and test
	@$(in_venv)
	set -x
	ruff format --check .
	ruff check .
	# mypy occupies one core, while pytest starts and as long as its workers leave one. Its output comes last.
	types="$$(mktemp)"
	trap 'rm -f "$$types"' EXIT
	mypy > "$$types" 2>&1 & checking=$$!
	lint-imports --no-logo
	# tests/conftest.py sorts the longest files first. Three workers with one thread each occupy two cores, since some
	# tests wait for servers and for `dvc`. `pytest -m "not slow" -n 2` leaves out the slow ones.
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 12 || status=$$?
	wait "$$checking" || status=$$?
	cat "$$types"
	exit "$${status:-0}"

bench: environment ## compare with torchvision's FCOS and write a dated card; SCALE=1: how cost grows
	@$(in_venv)
	python -m benchmarks$(if $(SCALE),.scale)

ui: environment ## serve MLflow's page on 127.0.0.1 to compare runs
	@$(in_venv)
	fcos ui

app: environment ## serve FiftyOne's App on 127.0.0.1 to look at detections and failures
	@$(in_venv)
	fcos app

docs: ## build the documentation as a site, in site/; links and anchors are checked
	@expected="$$(sha256sum < requirements-docs.txt) $$(pwd -P)"
	if [[ ! -f .venv-docs/.complete || "$$(< .venv-docs/.complete)" != "$$expected" ]]; then
	    python3 -m venv --clear .venv-docs
	    .venv-docs/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements-docs.txt
	    echo "$$expected" > .venv-docs/.complete
	fi
	# The site's pages: docs/, the root's Markdown files and the benchmarks' cards, with their links adjusted.
	rm -rf build/docs
	mkdir -p build/docs/benchmarks
	cp -r docs/. build/docs
	cp -r examples build/docs
	cp README.md build/docs/index.md
	cp CHANGELOG.md CONTRIBUTING.md Containerfile LICENSE build/docs
	find benchmarks -name '2*.md' -exec cp {} build/docs/benchmarks \;
	sed -i 's#(\.\./\.\./docs/#(../#g; s#(\.\./\.\./README\.md#(../index.md#g; s#(\.\./\.\./#(../#g' build/docs/benchmarks/*.md
	# In a list of pages, README would be its section.
	sed 's#(results/#(#g; s#(\.\./docs/#(../#g' benchmarks/README.md > build/docs/benchmarks/cards.md
	sed -i -E 's#\((\.\./)?params\.yaml\)#(parameters.md)#g; s#\((\.\./)?benchmarks/(README\.md)?\)#(benchmarks/cards.md)#g; s#\((\.\./)?benchmarks/(results/)?#(benchmarks/#g
	    s#\(\.\./README\.md#(index.md#g; s#\(\.\./(C[A-Za-z]+(\.md)?|LICENSE|examples)#(\1#g; s#\(docs/#(#g' build/docs/*.md
	.venv-docs/bin/zensical build --strict --clean
	echo "site/: read it with \`python3 -m http.server --directory site\`"

clean: ## remove environments and caches, but no data, models or results
	@rm -rf .venv .venv-docs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .cache build site *.egg-info
	find benchmarks fcos pipeline tests -name __pycache__ -prune -exec rm -rf {} +

# .venv/.complete is written last. It names the requirements, pyproject.toml (the installed version and commands come
# from it) and the folder that the installation is for (scripts in .venv/bin hold the folder's path). An interrupted
# installation lacks the file and is completed by the next make. The lock makes a second, simultaneous make wait for the
# first.
environment:
	@home="$$(pwd -P)"
	expected="$$(sha256sum requirements.txt pyproject.toml) $$home"
	complete() { [[ -f .venv/.complete && "$$(< .venv/.complete)" == "$$expected" ]]; }
	if complete; then exit 0; fi
	exec 9< requirements.txt
	flock 9
	if complete; then exit 0; fi
	# The start of each script in .venv/bin names its folder, between double quotes if there is a space in it.
	if [[ "$$home" == *[:\"\$$\`\\$$'\n']* ]]; then
	    printf 'make: %q: a colon, quote, dollar sign, backquote, backslash or line break in the path breaks Python environments; move the folder\n' "$$home" >&2
	    exit 1
	fi
	PATH="$${PATH//"$$home/.venv/bin:"/}"
	python=
	for candidate in python3 python3.13 python3.12 python3.11; do
	    if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then python="$$candidate"; break; fi
	done
	if [[ -z "$$python" ]]; then
	    echo "make: Python 3.11, 3.12 or 3.13 is required, but found $$(python3 --version 2>/dev/null || echo no python3); install it (Debian 12: apt-get install python3 python3-venv)" >&2
	    exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	    echo "make: $$python lacks the module venv; install it (Debian: apt-get install python3-venv)" >&2
	    exit 1
	fi
	rm -f .venv/.complete
	echo "Installing the packages of requirements.txt into .venv, which takes minutes the first time"
	if ! grep -qsF " $$home/.venv" .venv/pyvenv.cfg || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
	    "$$python" -m venv --clear .venv
	fi
	# pip and uv take a partly copied package for an installed one. They write the file INSTALLER after the package's own.
	remove_partial_packages() {
	    find .venv/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' ! -exec test -e '{}/INSTALLER' \; -exec rm -rf {} +
	    find .venv/lib/python3*/site-packages -maxdepth 1 -name '~*' -exec rm -rf {} +
	}
	remove_partial_packages
	# Every version is pinned, so there is nothing to resolve; pip check verifies that the versions are compatible.
	# Compiling every module would take minutes. Three quarters of the modules are never imported.
	install() { .venv/bin/python -m pip install --no-deps --no-compile --no-build-isolation --require-hashes "$$@"; }
	# A few packages have no wheel. The pinned setuptools builds them: what pip fetches into a build environment of its own
	# would have no hash.
	if grep -qE '^(setuptools|uv)==' requirements.txt; then
	    install --quiet -r <(awk '/^[^ #]/ { wanted = /^(setuptools|uv)==/ } wanted' requirements.txt)
	fi
	# uv is several times as fast as pip. It doesn't read pip's settings, so it gets those that say where packages are.
	# make removes the indentation of lines, so there is none in the Python code.
	pip_settings() {
	    .venv/bin/python -m pip config list | .venv/bin/python -c '
	import ast, os, shlex, sys
	sections = ["global", "install", ":env:"]  # the last one has priority
	lines = [line.partition("=") for line in sys.stdin]
	pairs = [(key.rpartition("."), ast.literal_eval(value)) for key, _, value in lines]
	found = [(sections.index(section), name, value) for (section, _, name), value in pairs if section in sections]
	settings = {name: value.strip() for _, name, value in sorted(found) if value.strip()}
	variables = [
	("index-url", "UV_DEFAULT_INDEX", ""), ("extra-index-url", "UV_INDEX", " "), ("find-links", "UV_FIND_LINKS", ","),
	("cert", "SSL_CERT_FILE", ""), ("trusted-host", "UV_INSECURE_HOST", " "), ("proxy", "ALL_PROXY", ""),
	("default-timeout", "UV_HTTP_TIMEOUT", ""), ("timeout", "UV_HTTP_TIMEOUT", ""),
	]
	known = [(variable, settings[name], separator) for name, variable, separator in variables if name in settings]
	known = [(name, separator.join(value.split()) if separator else value) for name, value, separator in known]
	print(*(f"export {name}={shlex.quote(value)}" for name, value in known if name not in os.environ), sep="\n")
	print("no_index=1" if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else "")
	'
	}
	install_with_uv() (
	    eval "$$(pip_settings)"
	    .venv/bin/uv pip install --python .venv/bin/python --no-deps --no-build-isolation --require-hashes \
	        --index-strategy unsafe-best-match $${no_index:+--no-index} -r requirements.txt
	)
	if ! install_with_uv; then
	    echo "make: uv could not install all packages; now pip tries it" >&2
	    remove_partial_packages
	    if ! install -r requirements.txt; then
	        echo "make: pip could not install all packages; its reason is above, after ERROR" >&2
	        exit 1
	    fi
	fi
	# These imports write the bytecode. FiftyOne would start a database, and write into the home folder.
	for modules in $(IMPORTED); do
	    env -u FIFTYONE_DATABASE_URI FIFTYONE_DISABLE_SERVICES=1 HOME="$$home/.venv" \
	        .venv/bin/python -W ignore -c "import $$modules" >/dev/null 2>&1 &
	done
	.venv/bin/python -m pip install --no-deps --no-build-isolation -e .
	# One line is expected: requirements-overrides.txt says why.
	conflicts="$$(.venv/bin/python -m pip check | grep -vxE 'trackers [0-9.]+ requires opencv-python, which is not installed.|No broken requirements found.' || true)"
	if [[ -n "$$conflicts" ]]; then
	    echo "$$conflicts" >&2
	    exit 1
	fi
	wait
	echo "$$expected" > .venv/.complete.partial
	mv .venv/.complete.partial .venv/.complete

# Everything needs only Python 3.11 or newer, make and the network.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= data
ARGS ?=
STAMP := $(VENV)/.installed

.PHONY: help setup serve test check fix bench vs-etcd soak proto lock build clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("revstore needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -U pip
	$(BIN)/python -m pip install -q -e '.[all]' --group dev -c constraints.txt
	touch $@

setup: $(STAMP) ## make the virtual environment

serve: $(STAMP) ## start a single-member server (ARGS="--backend rocksdb ...")
	$(BIN)/revstore serve --data-dir $(DATA) $(ARGS)

test: $(STAMP) ## run the whole suite in parallel (ARGS="-k lease ...")
	$(BIN)/pytest -n auto --dist worksteal $(ARGS)

check: $(STAMP) ## format, lint, types and import contracts; writes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

fix: $(STAMP) ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## print the speed and memory figures (ARGS="--quick")
	$(BIN)/python -m revstore_bench $(ARGS)

vs-etcd: $(STAMP) ## print the loads through gRPC beside etcd; samples in vs-etcd.json (ARGS="--quick")
	$(BIN)/python -m revstore_bench.table --json vs-etcd.json $(ARGS)

soak: $(STAMP) ## the long crash, fault, fuzz and differential runs
	$(BIN)/pytest -n auto --dist worksteal tests/crash tests/differential tests/faults tests/fuzz --long $(ARGS)

proto: ## regenerate the protobuf code with the compiler it was made with
	$(PYTHON) -m venv .proto-venv
	.proto-venv/bin/pip install -q 'grpcio-tools==1.74.0' setuptools
	PYTHONPATH=core .proto-venv/bin/python core/revstore/proto/generate.py
	rm -rf .proto-venv

lock: $(STAMP) ## refresh constraints.txt
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --no-header --no-annotate -U -o constraints.txt

build: $(STAMP) ## build sdist and wheel into dist/ and check the wheel
	rm -rf dist
	$(BIN)/python -m build -q
	$(BIN)/check-wheel-contents dist/*.whl

clean: ## remove what the other verbs made, but not data
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

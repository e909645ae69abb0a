# Every target makes its own virtual environment. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# What `rca` itself needs, and what developing and training need beside it.
BASE := $(VENV)/.base
STAMP := $(VENV)/.installed
# OpenTelemetry's exporters for Node, which the receiver is tested with; without npm those tests are skipped.
NODE_STAMP := $(if $(shell command -v npm),tests/node/node_modules/.package-lock.json)

.PHONY: demo test lint bench soak docs robustness gameday models simulated wheel clean

$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(STAMP): $(BASE)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[gnn,shop,dev]'
	touch $@

tests/node/node_modules/.package-lock.json: tests/node/package.json tests/node/package-lock.json
	npm ci --prefix tests/node --no-audit --no-fund --loglevel=error && touch $@ \
	  || echo "OpenTelemetry's exporters for Node could not be installed: their tests are skipped"

demo: $(BASE)
	$(BIN)/python -m scripts.demo

test: $(STAMP) $(NODE_STAMP)
	$(BIN)/python -m pytest -rs -n auto

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Ten minutes of a steady stream into a running collector; writes docs/results/soak.json.
soak: $(STAMP)
	$(BIN)/python -m benchmarks.soak

docs: $(STAMP)
	$(BIN)/python -m scripts.docs

# Accuracy with telemetry, times and labels spoilt on purpose: minutes; goes on after an interruption.
robustness: $(STAMP)
	$(BIN)/python -m scripts.robustness
	$(BIN)/python -m scripts.docs

# Scores of a game day of the shop that was run (rca shop up; rca gameday run shop: an hour), and its report in docs/gameday.
GAMEDAY ?= shop
RCA_HOME ?= $(HOME)/.local/share/rca
gameday: $(STAMP)
	$(BIN)/rca gameday score $(GAMEDAY) --store $(RCA_HOME) --config $(RCA_HOME)/shop/rca.toml
	$(BIN)/rca gameday report $(GAMEDAY) --store $(RCA_HOME) --out docs/gameday

# The models of models/, anew. `general` takes minutes, `simulated` half an hour: the second is made by `make simulated` alone.
RULES := floor random max-z nsigma baro most-alerts simple-rca prism-additive prism-conjunctive microrca pagerank-z hypothesis-test
models: $(STAMP)
	$(BIN)/rca train --from models/simulated --transfer --bundles incidents --part train --seed 1 --out models/general
	$(BIN)/rca evaluate --bundles incidents --part test --split zero-shot --force --out build/general \
	  $(addprefix --ranker ,model model:folder=models/simulated $(RULES))
	$(BIN)/python -m scripts.model_card models/general models/general.toml build/general/shop.json

simulated: $(STAMP)
	$(BIN)/rca train --simulate 5000 --seed 1 --epochs 8 --workers $$(nproc) --no-onnx --out models/simulated

# Builds the wheel, checks that it holds rca/ alone, and ranks the demo's incident with it in an environment without the extra.
wheel: $(BASE)
	rm -rf build/wheel build/wheel-venv
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	test -z "$$($(BIN)/python -m zipfile -l build/wheel/*.whl | grep -vE '^(File Name|rca/|rca_gnn-)')"
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/pip install --quiet build/wheel/*.whl
	build/wheel-venv/bin/rca triage "$$($(BIN)/python -m scripts.demo --bundle)" > /dev/null

clean:
	rm -rf $(VENV) tests/node/node_modules build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# make demo    attacks an undefended and a defended victim, and the defended one by the standard evaluation
# make test    runs the tests
# make docs    builds the documentation into build/docs, and runs its notebooks
# make reproduce-quick  the paper's table 4 on a tenth of the images, CIFAR-10; some ten minutes
# Each makes its own environment first; demo and test need no download of data or weights, and none needs a GPU.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo

# The official pixels, where a copy lies beside the project; the tests that need them are skipped otherwise.
PIXELS := ../shared/cifar10
ifeq ($(RFDLIGHT_DATA)$(wildcard $(PIXELS)/test.zip),$(PIXELS)/test.zip)
export RFDLIGHT_DATA := $(CURDIR)/.data
DATA := .data/cifar10/test
endif

.PHONY: demo test test-slow faults lint docs help-texts bench reproduce-quick data clean

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/rfdlight test --attack rays --data.num_images 40 --model.budget 300 --run $(DEMO)/undefended
	$(BIN)/rfdlight test --attack rays --data.num_images 40 --model.budget 300 --run $(DEMO)/defended \
		--defense feature_noise --defense.layers 'layer*' --defense.sigma 0.4
	$(BIN)/rfdlight test --attack standard --data.num_images 40 --model.budget 300 --run $(DEMO)/standard \
		--defense feature_noise --defense.layers 'layer*' --defense.sigma 0.4
	$(BIN)/rfdlight report $(DEMO)/undefended $(DEMO)/defended $(DEMO)/standard --output $(DEMO)/report

test: $(READY) $(DATA)
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: $(READY) $(DATA)
	$(BIN)/python -m pytest -q -m slow

faults: $(READY)
	$(BIN)/python -m pytest -q -m faults tests/faults

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell README.md CONTRIBUTING.md SECURITY.md rfdlight docs

docs: $(VENV)/.docs-ready
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

help-texts: $(READY)
	PYTHONPATH=tests $(BIN)/python tests/help_texts.py

bench: $(READY)
	$(BIN)/python benchmarks/engine.py

reproduce-quick: $(READY) $(DATA)
	$(BIN)/rfdlight sweep experiment/table4_quick

data: .data/cifar10/test .data/cifar10/train

.data/cifar10/test:
	$(PYTHON) -m zipfile -e $(PIXELS)/test.zip .data/cifar10

.data/cifar10/train:
	for part in $(PIXELS)/train-*.zip; do $(PYTHON) -m zipfile -e $$part .data/cifar10 || exit 1; done

$(READY): setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,hf]'
	touch $@

$(VENV)/.docs-ready: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .data runs build dist *.egg-info

# Needs Python 3.11 or newer: `make demo PYTHON=python3.12` names another one than python3.
# Outside the development machine the tests' torch comes with gigabytes of CUDA; this keeps it small:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test
PYTHON ?= python3
DEMO_DIR ?= .demo
RUN := .venv/bin/python
# Processes that test side by side: each compiles on about one core.
WORKERS ?= 2
SPHINX := $(RUN) -m sphinx -W --keep-going -n -q
PYTEST := $(RUN) -m pytest -n $(WORKERS) --dist loadfile --durations=10

.PHONY: help demo test slow mutations worlds test-colab test-newest notebooks release-check nightly test-all \
	docs linkcheck lint format clean

help:
	@echo "make demo      install, then train and sample on a small world; pictures in $(DEMO_DIR)/"
	@echo "make test      install the test extras, lint, run all but the slow tests"
	@echo "make slow      run the slow tests (full-size models, many starts, TPU compilations)"
	@echo "make mutations try faults on a copy of the tree: the tests have to fail"
	@echo "make worlds    run a part under Colab's versions and the newest, from .venv-worlds/;"
	@echo "               make test-colab, make test-newest: a quick part of it under one, if its Python is here"
	@echo "make notebooks make each notebook and its Markdown the same, without outputs"
	@echo "make release-check  build the sdist and the wheel into dist/ and use them in a clean environment"
	@echo "make nightly   slow, mutations, worlds, what is too long for every change, the notebooks as"
	@echo "               they come, and make test's tests as XLA optimizes for users"
	@echo "make test-all  lint, run every test but mutations and worlds"
	@echo "make docs      build the documentation's site in docs/_build/html, without network"
	@echo "make linkcheck ask the network whether its links to other sites work"
	@echo "make lint      check style, format and types;  make format mends the first two"
	@echo "make clean     remove what these made, .venv too"

demo: .venv/.installed
	$(RUN) examples/demo.py $(DEMO_DIR)

test: lint
	$(PYTEST) -m "not slow"

slow: .venv/.installed-test
	$(PYTEST) -m "slow and not nightly"

mutations: .venv/.installed-test
	$(RUN) -m tests.mutations --jobs $(WORKERS)

worlds: | $(RUN)
	$(RUN) -m tests.worlds

test-colab test-newest: | $(RUN)
	$(RUN) -m tests.worlds --quick --if-there $(@:test-%=%)

# The newer of the two counts; form fields and texts are easier to edit in the Markdown.
notebooks: .venv/.installed-test
	$(RUN) -m jupytext --sync notebooks/*.md
	$(RUN) -m tests.notebooks --strip

# TAG=v0.1.0 compares a tag with the version and asks for its date in CHANGELOG.md.
release-check: .venv/.installed-test
	$(RUN) -m pip install --quiet --editable '.[release]'
	$(RUN) -m tests.release $(if $(TAG),--tag "$(TAG)")

nightly: slow mutations worlds
	$(PYTEST) -m nightly
	$(RUN) -m tests.notebooks
	MOA_TESTS_OPTIMIZED=1 $(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

docs: .venv/.installed-docs
	$(SPHINX) -b html docs docs/_build/html

linkcheck: .venv/.installed-docs
	$(SPHINX) -b linkcheck docs docs/_build/linkcheck

lint: .venv/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyrefly check --summary=none --python-interpreter-path $(RUN)

format: .venv/.installed-test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf .venv .venv-worlds .demo .jax_cache .pytest_cache .ruff_cache build dist docs/_build *.egg-info

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: requirements.txt pyproject.toml | $(RUN)
	$(RUN) -m pip install --editable .
	touch $@

.venv/.installed-test: requirements.txt pyproject.toml | $(RUN)
	$(RUN) -m pip install --editable '.[test]'
	touch $@

.venv/.installed-docs: requirements.txt pyproject.toml | $(RUN)
	$(RUN) -m pip install --editable '.[docs]'
	touch $@

# `make help` lists what can be made. Everything happens in .venv and _build, nothing outside this folder.

PYTHON    ?= python3
JOBS      ?= 2
NOTEBOOKS ?=
NAMES     ?=
SEEDS     ?=
PORT      ?= 8000

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/ready
PAGES := _build/html
BUILD  = $(BIN)/jupyter-book build . -W --keep-going -n

.DEFAULT_GOAL := help
.PHONY: help book serve test test-browser test-grading test-matrix refresh weights assignments clean build

book: build ## Build the site from the stored outputs (sets up .venv on the first run)
	@echo
	@echo "The book is in $(PAGES). To read it, open $(PAGES)/index.html in a browser, or run: make serve"

serve: build ## Serve the site on this machine only, at the first free port from PORT=8000
	@$(BIN)/python tools/serve.py $(PAGES) --port $(PORT)

test: $(READY) ## Every check that needs only Python: style, spelling, types, code, notebooks, text, site
	@rm -rf _build; failed=; \
	run() { echo; echo "== $$*"; "$$@" || failed="$$failed [$$*]"; }; \
	run $(BUILD); \
	run $(BIN)/ruff check .; \
	run $(BIN)/ruff format --check .; \
	run $(BIN)/codespell; \
	run $(BIN)/mypy; \
	run $(BIN)/python -m pytest --nbval --nbval-current-env -n $(JOBS) --dist loadfile; \
	if [ -n "$$failed" ]; then echo "Failed:$$failed"; exit 1; fi

test-browser: build ## The checks that need Chromium: pages, math, explorers, accessibility
	@$(BIN)/python tools/programs.py chromium
	$(BIN)/python -m pytest tests/browser -n $(JOBS)

test-grading: $(READY) ## The grader of homework against broken and hostile submissions, in jails of bubblewrap (Linux)
	@$(BIN)/python tools/programs.py bubblewrap
	$(BIN)/python -m pytest tests/test_grading.py -n $(JOBS) --dist loadfile

test-matrix: $(READY) ## The notebooks with one thread, with two, and restricted to AVX2
	$(BIN)/python tools/matrix.py --jobs $(JOBS)

refresh: $(READY) ## Run all notebooks in place and clean them (or some: NOTEBOOKS="book/floats.ipynb")
	$(BIN)/python tools/refresh.py --jobs $(JOBS) $(NOTEBOOKS)

weights: $(READY) ## Train the stored networks anew, about 10 minutes (or some: NAMES="plain vit" SEEDS="0 1")
	$(BIN)/python tools/weights.py $(NAMES:%=--name %) $(SEEDS:%=--seed %)

assignments: $(READY) ## Build the homework from its masters: what is handed out, and the tests that grade it
	$(BIN)/python -m coursework.assign

clean: ## Remove the site and all caches; .venv stays
	rm -rf _build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis book/.ipynb_checkpoints book/jupyter_execute
	find quantcourse tests tools benchmarks book coursework -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Sphinx reports a warning only when it reads the page anew, so a failed build forgets what it has read. And it does not
# notice a change in the frame of the pages: then all of them are built.
FRAME = book/_static book/_templates book/_ext _config.yml _toc.yml
build: $(READY)
	@$(BUILD) $$(test ! -e $(PAGES)/index.html || find $(FRAME) -newer $(PAGES)/index.html | sed 's/.*/--all/;q') || \
	  { rm -rf _build/.doctrees; exit 1; }

# The last line of the recipe writes matplotlib's font cache now, or else its message would land in a notebook's output.
$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make ... PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python's venv module is needed; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install -r requirements.txt -c constraints.txt
	$(BIN)/python -m pip install --no-deps -e .
	@$(BIN)/python -c 'import matplotlib.font_manager'
	@touch $@

# `make help` lists what there is. Every target may be repeated, and none but test-slurm needs root.

VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
INSTALLED := $(VENV)/installed

# What is installed: EXTRAS=all-gpu for an NVIDIA card. An environment stays what it was made as, since TensorFlow
# with and without GPU libraries are two packages that write the same files.
MADE := $(shell cat $(INSTALLED) 2>/dev/null)
EXTRAS ?= $(or $(MADE),all)
ifneq ($(EXTRAS),$(or $(MADE),$(EXTRAS)))
$(error $(VENV) was made with EXTRAS=$(MADE). For EXTRAS=$(EXTRAS) remove it first: rm -r $(VENV))
endif

# The first Python on the path that fits and can make an environment.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)

# Parameters that every chapter is given for one build, such as PARAMS="profile=quick seed=3".
PARAMS ?=

# A Snakemake profile, such as one that submits to a cluster.
PROFILE ?=

NOTEBOOKS ?= notebooks
STRIP = $(BIN)/nbstripout --keep-id --extra-keys metadata.language_info
PORT ?= 8000

# What JupyterLab is told beyond where the notebooks are, such as LAB="--no-browser --port=9999".
LAB ?=
PAGE ?= _build/html/notebooks/dual_cifar.html

.DEFAULT_GOAL := help
.PHONY: help book executed pages digest test test-long lint sync lab serve bench data picture filter hooks clean \
	variant verify check pdf sweep test-slurm

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(PY) || test -n "$(PYTHON)" || { \
		echo "No Python 3.11, 3.12 or 3.13 that can make an environment was found."; \
		echo "Install one (on Debian and Ubuntu with its python3-venv package), or say make PYTHON=/path/to/python."; \
		exit 1; } >&2
	@test -x $(PY) || { echo "Making $(VENV)" >&2; $(PYTHON) -m venv $(VENV); }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@echo "Installing into $(VENV)" >&2
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(PY) -c constraints.txt -e ".[$(EXTRAS)]"
	@command -v dot >/dev/null || echo "Graphviz is not installed: branching models are not drawn as graphs." >&2
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		echo "Chromium is not installed: tests of the pages in a browser are skipped." >&2
	@echo "$(EXTRAS)" > $@

book: $(INSTALLED)  ## execute the chapters that changed and build the book
	@$(PY) -m labkit.book build --profile "$(PROFILE)" $(PARAMS)

executed: $(INSTALLED)  ## execute the chapters that changed and build no page
	@$(PY) -m labkit.book build --only-execute --profile "$(PROFILE)" $(PARAMS)

pages: $(INSTALLED)  ## build the book from the chapters as they were last executed
	@$(PY) -m labkit.book pages

digest: $(INSTALLED)  ## print a digest of everything that can change a result
	@$(PY) -m labkit.book digest $(PARAMS)

test: $(INSTALLED)  ## run the tests
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(INSTALLED)  ## run the tests that take minutes
	@$(PY) -m pytest -m long

test-slurm: $(INSTALLED)  ## start SLURM on this machine, as root, and run the tests that need it
	@$(PY) -m pytest -rs -m slurm

lint: $(INSTALLED)  ## check style, format and notebook pairs
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(PY) -m labkit.book pairs

sync: $(INSTALLED)  ## bring the two halves of every notebook in step; the newer half wins, outputs go
	@$(BIN)/jupytext --quiet --sync $(NOTEBOOKS)/*.md
	@$(STRIP) $(NOTEBOOKS)/*.ipynb
	@$(PY) -m labkit.book tidy $(NOTEBOOKS)

lab: $(INSTALLED) filter  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks $(LAB)

# Outputs stay in the notebook that a person has open; git does not see them (.gitattributes names the filter).
filter: $(INSTALLED)
	@git config filter.notebook.clean "$(STRIP)"

sweep: $(INSTALLED)  ## run what is left of the sweep NAME=trial, here or with PROFILE=slurm on a cluster
	@$(PY) -m labkit.sweeps run --name "$(NAME)" --profile "$(PROFILE)" $(PARAMS)

variant: $(INSTALLED)  ## add a page of CHAPTER run with PARAMS="name=value ..."
	@test -n "$(CHAPTER)" || { echo "Say which: make variant CHAPTER=dual_cifar PARAMS=\"weight=0.3\"" >&2; exit 1; }
	@$(PY) -m labkit.book variant $(CHAPTER) $(PARAMS)

verify: $(INSTALLED)  ## train a record of CHAPTER again and compare, DATA=folder EPOCHS=2 NAME=accn
	@test -n "$(CHAPTER)" || { echo "Say which: make verify CHAPTER=dual_cifar DATA=folder" >&2; exit 1; }
	@$(PY) -m labkit.book verify $(CHAPTER) $(if $(NAME),--name "$(NAME)") $(if $(DATA),--data "$(DATA)") \
		$(if $(EPOCHS),--epochs $(EPOCHS))

check: $(INSTALLED)  ## visit every page of the built book in Chromium and print what is found
	@$(PY) -m labkit.book check

pdf: $(INSTALLED)  ## print the whole book through Chromium
	@$(PY) -m labkit.book pdf

serve: $(INSTALLED)  ## serve the built book on this machine, PORT=8000
	@test -f _build/html/index.html || { echo "There is no book yet: make book."; exit 1; }
	@echo "The book: http://127.0.0.1:$(PORT)/"
	@$(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

bench: $(INSTALLED)  ## measure again what bench/RESULTS.md holds, NAMES="data training" for some of it
	@$(PY) bench $(NAMES)

data: $(INSTALLED)  ## download the public image sets
	@$(PY) -m labkit.data

picture: $(INSTALLED)  ## take the README's picture of a page of the built book again
	@test -f $(PAGE) || { echo "There is no book yet: make book."; exit 1; }
	@folder=$$(mktemp -d) && chromium --headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars \
		--user-data-dir=$$folder --window-size=1280,2020 --virtual-time-budget=5000 \
		--screenshot=$$folder/page.png "file://$(CURDIR)/$(PAGE)" 2>/dev/null \
		&& $(PY) -c "import sys; from PIL import Image; Image.open(sys.argv[1]).convert('RGB').save(sys.argv[2])" \
		$$folder/page.png book/assets/page.webp; rm -rf $$folder

hooks: $(INSTALLED) filter  ## check every commit before it is made
	@$(BIN)/pre-commit install

clean:  ## remove everything generated but the environment, the trained models and the sweeps
	@rm -rf _build/executed _build/failed _build/stage _build/html _build/logs _build/benchmarks \
		_build/variants _build/gallery _build/pdf .snakemake

# Two commands matter: `make book` builds the site, `make test` checks everything. Both set up .venv by themselves.
PYTHON  ?= python3
VENV    ?= .venv
PY      := $(VENV)/bin/python
SITE    := _build/html/index.html
CHAPTER ?=
JOBS    ?= 2
PORT    ?= 8000
STAMP   := $(VENV)/.installed
STAGE   := @.ci/stage

export PYTHONPATH := $(CURDIR)
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup book workbook test lint coverage mutants serve sync reproduce wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## .venv with the package and its tools (pip; PYTHON=... names the interpreter)

$(STAMP): pyproject.toml settings.ini
	$(STAGE) "Setting up $(VENV) (the first time, torch takes a few minutes)" .ci/setup $(VENV) $(PYTHON)
	@touch $@

book: $(STAMP)  ## export the package, execute changed chapters, build the site
	$(STAGE) "Exporting the package from the chapters" $(VENV)/bin/nbdev_export
	$(STAGE) "Executing changed chapters, two at a time" $(PY) nbs/_ext/execute.py
	$(STAGE) "Building the site" $(PY) nbs/_ext/build_site.py
	@echo; echo "The book is at $(CURDIR)/$(SITE)   (make serve shows it)"

workbook: $(STAMP)  ## chapters 00 to 10 with holes to fill, in _build/workbook
	$(STAGE) "Exporting the package from the chapters" $(VENV)/bin/nbdev_export
	$(STAGE) "Cutting the holes" $(PY) nbs/_ext/workbook.py
	@echo; echo "The workbook is at $(CURDIR)/_build/workbook/detr_lit_workbook   (README.md there says how to begin)"

test: $(STAMP)  ## every check: tree, types, units, wheel, chapters, site (JOBS=2 processes; ARGS=... for pytest)
	@start=$$(date +%s); $(PY) -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(ARGS); status=$$?; took=$$(( $$(date +%s) - start )); \
	if [ $$status -eq 0 ]; then echo "All checks passed in $$took s; the site is at $(CURDIR)/$(SITE)"; \
	else echo "Checks FAILED after $$took s; the summary is above"; fi; exit $$status

lint: $(STAMP)  ## ruff, mypy and the prose lint (CHAPTER=06 for one), with the table of each chapter's rhythm
	$(STAGE) "ruff" $(PY) -m ruff check .
	$(STAGE) "mypy" $(PY) -m mypy
	$(STAGE) "prose" $(PY) nbs/_ext/lint.py $(CHAPTER)

coverage: $(STAMP)  ## lines and branches of the package that the unit tests reach, those left out listed
	@$(PY) -m pytest -q --cov --cov-report=term --units

mutants: $(STAMP)  ## sabotage each module and see a check go red (CHAPTER=06 for one)
	$(STAGE) "Mutants" $(PY) tests/mutants.py $(CHAPTER)

serve: $(STAMP)  ## show the built site on http://127.0.0.1:8000 (PORT=...)
	@test -f $(SITE) || $(MAKE) book
	@echo "http://127.0.0.1:$(PORT)/  (Ctrl-C ends it)"; $(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

sync: $(STAMP)  ## chapters as text (_text/*.md) <-> notebooks, the newer side wins; then clean and export
	$(STAGE) "Text and notebooks" $(PY) nbs/_ext/sync.py
	$(STAGE) "Exporting the package" $(VENV)/bin/nbdev_export

reproduce: $(STAMP)  ## retrain every artefact in nbs/runs and compare (long; ARGS="toy-laptop-0 --write")
	$(STAGE) "Reproducing the long runs" $(PY) nbs/_ext/reproduce.py $(ARGS)

wheel: $(STAMP)  ## dist/*.whl and dist/*.tar.gz
	$(STAGE) "Building the distribution" $(PY) -m build --no-isolation --outdir dist
	@ls -1 dist

clean:  ## remove what was built (not .venv, not _text)
	rm -rf _build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

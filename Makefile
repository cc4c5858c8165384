# make demo: the whole story in a few minutes.   make test: what CI runs.   make lint: style and types.   make test-long: the slow tests.
# make docs: the documentation site, in build/site.
# make test-faults: trainings that are killed, stopped and fed with NaN must end as if nothing had happened.
# make test-distributed: trainings in two and four processes.
# make test-clients: the scripts of docs/clients in other people's software; TIMM_TRAIN=train.py runs timm's own as well.
# make results-efficiency: trains, prunes, quantizes and measures for docs/results/efficiency.md; SIGNS=signs.csv LITE0=weights.safetensors
# make programs: Chromium and the shells that some tests open, where apt may install them.
# make pictures: the screenshots of the report and of the page that zoo serve shows, of the demo's runs; needs chromium.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long test-faults test-distributed test-clients lint docs clean results-efficiency pictures programs

demo: .venv/demo
	$(BIN)/zoo demo --overwrite

test: .venv/test
	$(BIN)/python -m pytest -m "not long and not distributed and not faults and not clients"

test-long: .venv/test
	$(BIN)/python -m pytest -m long

test-faults: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults tests/faults

test-distributed: .venv/test
	$(BIN)/python -m pytest -m distributed

test-clients: .venv/test .venv/clients
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m clients tests/clients

results-efficiency: .venv/all
	$(BIN)/python docs/results/efficiency.py $(if $(SIGNS),--signs $(SIGNS)) $(if $(LITE0),--weights $(LITE0))

pictures: .venv/test programs
	test -d runs/demo || $(BIN)/zoo demo
	$(BIN)/python docs/pictures/report.py runs/demo
	$(BIN)/python docs/pictures/serve.py --joint runs/demo/glyphs --classifier runs/demo/digits-cbam

# build/site/index.html opens without a server; --strict: a warning, a dead link, a page outside the nav are errors
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# of Debian, for the tests that open a page or ask a shell; where they cannot be had those are skipped and say so
PROGRAMS := chromium zsh fish
programs:
	command -v $(PROGRAMS) | test $$(wc -l) -eq $(words $(PROGRAMS)) \
		|| { apt-get -qq update && apt-get -qq install -y --no-install-recommends $(PROGRAMS); } > /dev/null 2>&1 \
		|| echo "not all of $(PROGRAMS) are here: tests that need them are skipped"

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# one stamp an extra: installed once, and again when pyproject.toml changes
.venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv runs

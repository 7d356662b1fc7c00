# The two commands of the README are `make run` and `make test`; the others are their parts.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run install install-dev test test-failed check lint types imports services lock bench bench-full model faults \
	faults-full seeded-bugs soak canary fuzz fuzz-minute kit docs dist clean

run: install
	@$(BIN)/traffic-manager serve

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

# Plain pip is enough on a fresh machine; the hashes say what exactly may be installed.
$(VENV)/installed: requirements.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@echo "Installing what the tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# Every test, with real PostgreSQL, Redis and Kafka, which it installs and starts itself. Four at a time, because they
# wait for servers for half of it, and the longest files first.
test: install-dev
	@$(BIN)/python -m tests.servers.install
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# What failed in the last run of the tests or of the faults, once more and one after another; more than three are no accident.
test-failed: install-dev
	@grep :: .pytest_cache/v/cache/lastfailed
	@test $$(grep -c :: .pytest_cache/v/cache/lastfailed) -le 3
	@$(BIN)/python -m pytest -m "" --last-failed --last-failed-no-failures none

# The model of several workers (tests/model) for long: some minutes, each time other ways.
model: install-dev
	@env -u CI MODEL_EXAMPLES=2000 MODEL_STEPS=60 $(BIN)/python -m pytest -q tests/model

# Faults under load, one after another, on real servers that it installs and starts itself. The machine must have
# nothing else to do. FAULTS passes options on: `make faults FAULTS="-k F01 --seed 2 --publish"`.
FAULT_SUITE := $(BIN)/python -m pytest tests/faults -m faults -s
faults: install-dev
	@$(BIN)/python -m tests.servers.install
	@$(FAULT_SUITE) $(FAULTS)

# The whole table, with longer phases; its results go to docs/reliability-results.md.
faults-full: install-dev
	@$(BIN)/python -m tests.servers.install
	@$(FAULT_SUITE) --full --publish $(FAULTS)

# What operators get from us (deploy/), with the tools that they use: brings Helm, the proxies and so on, and tries
# each with real servers.
kit: install-dev
	@$(BIN)/python -m tests.servers.install
	@$(BIN)/python -m tests.kit.install
	@$(BIN)/python -m pytest -m kit $(KIT)

# Breaks the code on purpose, one mistake at a time, and shows which test notices; writes docs/seeded-bugs.md.
seeded-bugs: install-dev
	@$(BIN)/python -m tests.servers.install
	@$(BIN)/python -m tests.promises.seeded --publish

# Does anything grow under a steady load for SOAK_MINUTES (at least 5)? Adds a table to docs/reliability-results.md.
SOAK_MINUTES := 30
soak: install-dev
	@$(BIN)/python -m tests.servers.install
	@$(BIN)/python -m tests.faults.soak --minutes $(SOAK_MINUTES) --publish

# Does one tenant ever see a byte of another's? Some minutes; its results go to docs/security-results.md.
canary: install-dev
	@$(BIN)/python -m tests.servers.install
	@$(BIN)/python -m tests.access.canary --requests 100000 --publish

# A million damaged inputs for each reader of bytes from outside, guided by coverage: ten minutes or more. Its results
# go to docs/security-results.md. The tests do a short part of it.
fuzz: install-dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-fuzz.txt
	@TMPDIR=/dev/shm $(BIN)/python -m tests.fuzz --runs 1000000 --publish $(FUZZ)

# The same for a minute of each target: for every change, where there is room for it.
fuzz-minute: install-dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-fuzz.txt
	@TMPDIR=/dev/shm $(BIN)/python -m tests.fuzz --seconds 60 $(FUZZ)

# The parts beside each other: types take longest.
check: install-dev
	@$(MAKE) --no-print-directory --jobs 2 types lint imports

lint: install-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/bandit --quiet --recursive src --severity-level medium --configfile pyproject.toml

types: install-dev
	@$(BIN)/mypy

imports: install-dev
	@$(BIN)/lint-imports

# PostgreSQL, Redis and Kafka to play with, until Ctrl-C; prints the environment to use.
services: install-dev
	@$(BIN)/python -m tests.servers.install
	@$(BIN)/python -m tests.servers

# Pins everything again, after pyproject.toml has changed; needs uv. Names no registry's host.
COMPILE := uv pip compile -q pyproject.toml --all-extras --universal --generate-hashes --no-header \
	--no-emit-find-links --group build
lock:
	$(COMPILE) -o requirements.txt
	$(COMPILE) --group dev -o requirements-dev.txt
	uv pip compile -q --universal --generate-hashes --no-header --no-emit-find-links --group fuzz \
		-o requirements-fuzz.txt
	uv pip compile -q --universal --generate-hashes --no-header --no-emit-find-links --group dist \
		-o requirements-dist.txt
	uv pip compile -q --universal --generate-hashes --no-header --no-emit-find-links --group site \
		-c requirements-dev.txt -o requirements-site.txt

# Ratios against nginx, etcd and others in the same run: ten minutes at most, twenty with a million routes.
# Writes benchmarks/README.md, results/ and charts/, and says what is slower than the last committed run.
bench bench-full: install-dev
	@$(BIN)/python -m benchmarks.install
	@$(BIN)/python -m benchmarks --publish $(if $(filter bench-full,$@),--full)

# The documentation as a site, in SITE; fails for a link or an anchor that leads nowhere. Opens without a network.
SITE := build/site
docs: install-dev $(VENV)/installed-site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir $(SITE)
	@echo "open $(SITE)/index.html"

$(VENV)/installed-site: requirements-site.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-site.txt
	@touch $@

# What is given out, into DIST: sdist, wheel, and the bill of materials (CycloneDX) of an environment that holds the wheel,
# what requirements.txt pins, and nothing else.
DIST := dist
BOM := .cache/bom
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
dist: install $(BOM)/installed
	@rm -rf $(DIST) $(BOM)/of && mkdir -p $(DIST)
	@$(BIN)/python -c 'import uv_build as build; build.build_sdist("$(DIST)"); build.build_wheel("$(DIST)")'
	@$(PYTHON) -m venv --without-pip $(BOM)/of
	@$(PIP) --python $(BOM)/of/bin/python install --require-hashes -r requirements.txt
	@$(PIP) --python $(BOM)/of/bin/python install --no-deps $(DIST)/*.whl
	@$(PIP) --python $(BOM)/of/bin/python uninstall --yes uv-build
	@$(BOM)/bin/cyclonedx-py environment --output-reproducible --gather-license-texts --pyproject pyproject.toml \
		-o $(DIST)/traffic-manager.cdx.json $(BOM)/of/bin/python
	@ls $(DIST)

$(BOM)/installed: requirements-dist.txt
	@$(PYTHON) -m venv --clear $(BOM)
	@$(BOM)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

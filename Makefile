# Each target makes the environment that it needs. PIP_ARGS holds pip's own arguments (an index, a folder of wheels).
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
JOBS ?= auto
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FRAMEWORKS := openai1 openai3 crewai
PACKAGES := packages/core packages/langchain-plugin packages/openai-agents-plugin packages/autogen-plugin trainer

.PHONY: train environments test test-verl test-trl test-frameworks sdk-suites faults fuzz check audit docs dist resolve-cuda clean

train: $(INSTALLED)
	$(BIN)/python examples/calculator_langgraph/make_tasks.py
	$(BIN)/leyden train examples/calculator_langgraph/train.toml $(ARGS)

# What `make test` needs; with -j2 side by side.
environments: $(INSTALLED) .venv-verl/.installed

# Everything, a test file at a time on each core; with ARGS, a choice of the main environment's tests.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)
	$(if $(ARGS),,$(MAKE) test-verl)

# The verl backend, in an environment of its own (verl pins what transformers we may not). Runs wait for each other's
# processes more than they compute, so two go side by side.
test-verl: $(INSTALLED) .venv-verl/.installed
	$(BIN)/pyright -p trainer/pyright-verl.json
	.venv-verl/bin/python -m pytest -n 2 --dist loadgroup trainer/tests/against_verl

# The same against TRL's trainers, in an environment of its own; not a part of `test`.
test-trl: .venv-trl/.installed
	.venv-trl/bin/python -m pytest trainer/tests/against_trl $(ARGS)

.venv-trl/.installed: constraints.txt trainer/tests/against_trl/requirements.txt packages/core/pyproject.toml \
		trainer/pyproject.toml
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet $(PIP_ARGS) torch==2.13.0
	.venv-trl/bin/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt \
		-r trainer/tests/against_trl/requirements.txt -e packages/core -e trainer
	touch $@

# Frameworks without an adapter, where their pins conflict each in an environment of its own. One that is missing there is
# a failure: without it pytest collects no test.
test-frameworks: $(FRAMEWORKS:%=test-framework-%)

$(FRAMEWORKS:%=test-framework-%): test-framework-%: .venv-frameworks-%/.installed
	$(<D)/bin/python -m pytest packages/core/tests/frameworks/test_$*.py $(ARGS)

$(FRAMEWORKS:%=.venv-frameworks-%/.installed): .venv-frameworks-%/.installed: \
		packages/core/tests/frameworks/requirements-%.txt packages/core/pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(PIP_ARGS) -r $< -e packages/core
	touch $@

# Parts of the SDKs' own test suites, with our hooks off and on; the main environment serves the model that one of them asks.
sdk-suites: .venv-sdk-suites/.installed $(INSTALLED)
	.venv-sdk-suites/bin/python scripts/sdk_suites/run.py $(ARGS)

.venv-sdk-suites/.installed: constraints.txt scripts/sdk_suites/requirements.txt $(PACKAGES:=/pyproject.toml)
	$(PYTHON) -m venv .venv-sdk-suites
	.venv-sdk-suites/bin/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt \
		-r scripts/sdk_suites/requirements.txt $(patsubst %,-e %,$(filter packages/%,$(PACKAGES)))
	touch $@

# Servers, runners and databases killed: in each of four tests KILLS times, or as often as SECONDS allow.
KILLS ?= 100
SECONDS ?= 600
faults: $(INSTALLED)
	LEYDEN_FAULT_KILLS=$(KILLS) LEYDEN_FAULT_SECONDS=$(SECONDS) $(BIN)/python -m pytest packages/core/tests/faults $(ARGS)

# The properties of packages/core/tests/fuzz for long; `make test` tries a few examples of each.
fuzz: $(INSTALLED)
	LEYDEN_FUZZ_EXAMPLES=$(or $(EXAMPLES),100) $(BIN)/python -m pytest -s packages/core/tests/fuzz $(ARGS)

# Known holes in what is pinned. `check` looks too, and goes on where the advisory service cannot be asked.
audit: $(INSTALLED)
	$(BIN)/python scripts/audit.py --required

check: $(INSTALLED)
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline
	$(BIN)/python scripts/audit.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	for version in 3.12 3.13; do $(BIN)/pyright --pythonversion $$version packages/*/src || exit 1; done

# A benchmark with a requirements file of its own (peers to compare with) gets an environment of its own.
bench-%: $(INSTALLED)
	python=$(BIN)/python; wanted=benchmarks/requirements-$*.txt; own=.venv-bench-$*; \
	if [ -f $$wanted ]; then python=$$own/bin/python; \
		test -x $$python || $(PYTHON) -m venv $$own; \
		$$python -m pip install --quiet --only-binary :all: $(PIP_ARGS) -r $$wanted && \
		$$python -m pip install --quiet $(PIP_ARGS) -c $$wanted -e packages/core -e packages/langchain-plugin \
			$(if $(filter against_trl,$*),-e trainer) || exit 1; \
	fi; $$python benchmarks/$*.py $(ARGS)

bench-verl_overhead bench-gateway_vllm: bench-%: .venv-verl/.installed
	.venv-verl/bin/python benchmarks/$*.py $(ARGS)

# The site, in build/site; warnings are errors (not with --quiet, which keeps them from being counted). What its blocks
# do is a test: docs/tests.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

.venv-docs/.installed: constraints-docs.txt requirements-docs.txt packages/core/pyproject.toml trainer/pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet $(PIP_ARGS) -c constraints-docs.txt -r requirements-docs.txt -e packages/core
	.venv-docs/bin/python -m pip install --quiet $(PIP_ARGS) --no-deps -e trainer
	touch $@

# All wheels and source distributions, checked, installed into clean environments, and the start pages done from them.
dist: $(INSTALLED)
	rm -rf dist
	for package in $(PACKAGES); do $(BIN)/python -m build --no-isolation --outdir dist $$package || exit 1; done
	$(BIN)/python -m twine check --strict dist/*
	PIP_ARGS="$(PIP_ARGS)" $(BIN)/python scripts/fresh_start.py $(ARGS)

$(INSTALLED): constraints.txt requirements-dev.txt $(PACKAGES:=/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) torch==2.13.0
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -r requirements-dev.txt $(PACKAGES:%=-e %)
	touch $@

# torchvision and its kin come as CUDA builds, which the CPU's torch cannot load; text models run without them.
.venv-verl/.installed: constraints-verl.txt requirements-verl.txt packages/core/pyproject.toml trainer/pyproject.toml
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install --quiet $(PIP_ARGS) torch==2.13.0
	.venv-verl/bin/python -m pip install --quiet $(PIP_ARGS) -c constraints-verl.txt -r requirements-verl.txt \
		-e packages/core -e trainer[verl] trainer/vllm-name
	.venv-verl/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

# Whether the pins of a CUDA machine resolve together; ARGS=--write makes them anew.
resolve-cuda: .venv-resolve/.installed
	scripts/resolve_cuda $(ARGS)

.venv-resolve/.installed: constraints.txt
	$(PYTHON) -m venv .venv-resolve
	.venv-resolve/bin/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt uv
	touch $@

clean:
	rm -rf .venv* dist .cache .pytest_cache .ruff_cache .hypothesis

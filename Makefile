# Each target makes the environment that it needs. PIP_ARGS holds pip's own arguments (an index, a folder of wheels).
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FRAMEWORKS := openai1 openai3 crewai
PACKAGES := packages/core packages/langchain-plugin packages/openai-agents-plugin packages/autogen-plugin trainer

.PHONY: train test test-verl test-trl test-frameworks sdk-suites check wheels clean

train: $(INSTALLED)
	$(BIN)/python examples/calculator_langgraph/make_tasks.py
	$(BIN)/leyden train examples/calculator_langgraph/train.toml $(ARGS)

# Everything; with ARGS, a choice of the main environment's tests.
test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)
	$(if $(ARGS),,$(MAKE) test-verl)

# Credit and loss against verl's own functions, in an environment of its own (verl pins what transformers we may not).
test-verl: $(INSTALLED) .venv-verl/.installed
	$(BIN)/pyright -p trainer/pyright-verl.json
	.venv-verl/bin/python -m pytest trainer/tests/against_verl

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

check: $(INSTALLED)
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
		$$python -m pip install --quiet $(PIP_ARGS) -c $$wanted -e packages/core -e packages/langchain-plugin || exit 1; \
	fi; $$python benchmarks/$*.py $(ARGS)

wheels: $(INSTALLED)
	for package in $(PACKAGES); do $(BIN)/python -m build --wheel --outdir dist $$package || exit 1; done

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

clean:
	rm -rf .venv* dist .cache .pytest_cache .ruff_cache .hypothesis

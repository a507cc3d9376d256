# Each target makes the environment that it needs. PIP_ARGS is for pip's own arguments (an index, a wheel folder).
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := packages/core packages/langchain-plugin trainer

.PHONY: train test check bench clean

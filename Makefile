# `make` alone says what there is. Variables: PYTHON, VENV, WHEELS, KEEP_TORCH, NO_UV (see INSTALL.md).
SHELL := /bin/bash
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV ?= .venv
export PYTHON VENV WHEELS KEEP_TORCH NO_UV
RUN := cd "$(ROOT)" && "$(VENV)/bin/python"
TYPED := spil_d2/structures spil_d2/ops spil_d2/retrieval spil_d2/evaluation spil_d2/utils spil_d2/selftrain

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types audit clean

help: ## show this
	@echo "spil_d2: instance search with localization on Detectron2"; echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' "$(ROOT)/Makefile" | expand -t 16

setup: ## make the environment in .venv (minutes the first time, nothing after that)
	@bash "$(ROOT)/scripts/setup.sh"

demo: setup ## search, train and report on example pictures; the result is in output/demo
	@$(RUN) tools/demo.py --output output/demo

test: setup ## run the tests
	@$(RUN) -m pytest tests -q -n 2 --dist loadgroup

lint: setup ## check style and format
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

types: setup ## check types
	@$(RUN) -m mypy $(TYPED)

audit: setup ## look up known vulnerabilities of what is installed
	@$(RUN) scripts/audit.py

clean: ## remove caches and built files; .venv and output stay
	@cd "$(ROOT)" && rm -rf build .pytest_cache .ruff_cache .mypy_cache *.egg-info
	@cd "$(ROOT)" && find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

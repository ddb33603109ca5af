# ztfds: the two commands that matter are `make night` and `make test`; both set up all that they need.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup kernels browser night week test bounds bench drill lint stop clean status

ZTFDS_NIGHT ?= ccd
HOME_NIGHT  := var/night
UV          := $(or $(shell command -v uv 2>/dev/null),$(CURDIR)/var/uv/bin/uv)
PYTEST_ARGS ?=
BENCH_ARGS  ?=
DRILLS      ?=

# Byte-code halves every start-up; one thread per process, because Airflow runs one task per core.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1
export UV_LINK_MODE := copy
# The machine's own certificates: behind a proxy the bundled ones may not do.
export UV_SYSTEM_CERTS := 1
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1
export MPLBACKEND := Agg

help:  ## these lines
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18
	@echo
	@echo "  ZTFDS_NIGHT=tiny|ccd|camera make night     the size of the camera (default ccd: one CCD at full size)"
	@echo "  PYTEST_ARGS='-k astrometry' make test      some of the tests"

$(CURDIR)/var/uv/bin/uv:
	@echo "== uv is not here: installing it into var/uv"
	@mkdir -p var
	@python3 -m venv var/uv 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv && python3 -m venv var/uv; } \
	  || { echo "python3 (3.11 or newer) with its venv module is needed; please install it"; exit 1; }
	@var/uv/bin/pip install --quiet --disable-pip-version-check uv

setup: $(UV)  ## install the locked dependencies into .venv
	@echo "== dependencies (locked in uv.lock)"
	@$(UV) sync --quiet --locked --extra services
	@$(MAKE) --no-print-directory kernels

kernels:
	@echo "== compiled kernels (slow the first time only)"
	@.venv/bin/ztfds warm

night: setup  ## a simulated night through Airflow: alerts published, report written, pages left up
	@.venv/bin/ztfds night --size $(ZTFDS_NIGHT) --home $(HOME_NIGHT)

browser:
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || { echo "== Chromium, for the tests of the pages"; \
	  { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null 2>&1 || echo "not installed: these tests will be skipped"; }

lint: setup  ## style and types
	@echo "== ruff and mypy"
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

test: setup browser lint  ## all the tests, with real PostgreSQL, Kafka and Airflow
	@echo "== tests"
	@.venv/bin/pytest $(PYTEST_ARGS)

bounds: setup  ## the tests of the pixel steps with every array index of the kernels checked (five minutes)
	@echo "== tests, array indices checked"
	@mkdir -p var/bounds
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(CURDIR)/var/bounds .venv/bin/pytest -q -p no:cacheprovider $(PYTEST_ARGS) \
	  $(addprefix tests/,kernels detrend calibration astrometry photometry science reference difference formats solarsystem)

bench: $(UV)  ## every step beside SExtractor, PSFEx, SCAMP, SWarp, hotpants, ... on full-size scenes (three quarters of an hour)
	@echo "== dependencies and tools"
	@UV_PROJECT_ENVIRONMENT=var/bench/venv $(UV) sync --quiet --locked --no-default-groups --group bench
	@var/bench/venv/bin/python -m benchmarks.tools.install
	@var/bench/venv/bin/ztfds warm
	@var/bench/venv/bin/python -m benchmarks.run $(BENCH_ARGS)

drill: setup  ## every contingency injected into nights of a sandbox, and scored (tens of minutes)
	@.venv/bin/ztfds drill $(DRILLS) --home var/drill

week: setup  ## seven nights of the tiny camera, unattended: cloud, a lost manifest, a back-log (tens of minutes)
	@.venv/bin/ztfds week --home var/week

status: ## what runs
	@.venv/bin/ztfds services status --home $(HOME_NIGHT)

stop:  ## stop everything that `make night` left running
	@if [ -x .venv/bin/ztfds ] && [ -d $(HOME_NIGHT) ]; then .venv/bin/ztfds services stop --home $(HOME_NIGHT); else echo "nothing to stop"; fi

clean: stop  ## stop, then remove the night's data and the environment
	@rm -rf var .venv .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

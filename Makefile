# Everything runs in a .venv that these targets make themselves. PYTHON=python3.12 picks another Python.

FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
TEST_WORKERS ?= 3
SECONDS ?= 60
SEED ?= 1

.PHONY: demo test coverage check bench load chaos fuzz format docs lock clean

demo: .venv/run ## the whole system on this machine; EXIT=1 stops it at the end
	@$(BIN)/trace-ray demo $(if $(EXIT),--exit)

test: coverage ## every test, on real parts
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile tests/integration
	$(BIN)/python -m pytest tests/acceptance  # one after another: each module has a Ray cluster of its own
	$(BIN)/python -m pytest tests/chaos  # one after another: chaos has deadlines

coverage: .venv/dev ## unit tests; they must run every line and branch of the modules listed in pyproject.toml
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(TEST_WORKERS) tests/unit
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=100

check: .venv/dev ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/dev ## benchmarks; writes docs/reference/benchmarks.md
	$(BIN)/python -m tests.benchmarks

load: .venv/dev ## 32 clients, half of them attackers, against the query service for SECONDS; writes nothing. SEED=n
	$(BIN)/python -m tests.load --seconds $(SECONDS) --seed $(SEED)

chaos: .venv/dev ## hurts the ledger, then the whole stack, each for SECONDS; then breaks rules on purpose. SEED=n, ONLY=part
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) $(if $(ONLY),--only $(ONLY))

fuzz: .venv/dev ## texts made by chance against the gate, then requests against the service, each for SECONDS. SEED=n, ONLY=part
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED) $(if $(ONLY),--only $(ONLY))

docs: .venv/dev ## generated reference: the JSON Schemas of the job file and of the rule file
	$(BIN)/python -c 'import json; from trace_ray import config; print(json.dumps(config.job_schema(), indent=2))' \
	  > docs/reference/job-file.schema.json
	$(BIN)/python -c 'import json; from trace_ray import rulefile; print(json.dumps(rulefile.schema(), indent=2))' \
	  > docs/reference/alert-rule.schema.json

lock: .venv/dev ## pin every dependency with hashes
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --quiet --upgrade -o requirements/run.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --quiet -c requirements/run.txt -o requirements/dev.txt

clean: ## removes what these targets made; data directories stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment --------------------------------------------------------------------------------------

.venv/run: requirements/run.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/dev: requirements/dev.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@ .venv/run

.venv/bin/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' \
	  || { echo "trace_ray needs Python 3.11 or 3.12: install one, or name it with PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "this Python cannot make virtual environments: on Debian run apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv

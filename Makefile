# Each target does all of its own set-up on a fresh Debian 12, as root.
#   make demo   see it work: a mirror port in a namespace, traffic with attacks in it, the evidence
#   make test   everything: lint, types, import directions, and all tests, the kernel's too
#   make test-deploy  the units on a Debian host in a container; the first run fetches one, in minutes
#   make setup  the set-up alone
#   make dashboards   Grafana's JSON anew, from ansible/dashboards
#   make settings  docs/settings.md and the role's argument_specs.yml, from sensor/config/settings.py
#   make bundle  dist/sensor-VERSION-ARCH-bundle.tar.gz: the sensor and all its Python packages, for ansible/

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:

VENV := .venv
PYTHON := $(VENV)/bin/python
# xargs: a package per line, comments allowed.
PACKAGES = $(shell sed 's/\#.*//' packages.txt | xargs)

DIST := dist
# The Pythons of Debian 12, Ubuntu 24.04 and Debian 13.
BUNDLE_PYTHONS := 3.11 3.12 3.13

.PHONY: setup demo dashboards settings bundle test test-deploy lint clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml packages.txt hatch_build.py sensor/native/batch.c
	if ! dpkg-query -W $(PACKAGES) >/dev/null 2>&1; then
	    apt-get update -qq
	    # Tests need the program alone: the package would start a service on port 9090.
	    dpkg-query -W prometheus >/dev/null 2>&1 || systemctl mask prometheus.service 2>/dev/null || true
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES)
	fi
	# BCC is bound to the distribution's Python, so the environment has to be its child.
	/usr/bin/python3 -m venv --system-site-packages $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup
	exec $(PYTHON) -m bench.demo

dashboards: setup
	cd ansible && exec ../$(PYTHON) -m dashboards

settings: setup
	exec $(PYTHON) -m sensor.config

# The same sources and packages make the same file: what is deployed is known by its checksum.
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
	# What loads the program runs one after another, and everything else beside it.
	$(PYTHON) -m pytest --numprocesses 2 --dist loadgroup

test-deploy: setup
	$(PYTHON) -m pytest -m deploy --capture=no tests/deploy

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# make run            the service on http://127.0.0.1:8000 (PORT=8123 HOST=… for elsewhere)
# make demo           the same with a simulated WhatsApp and a phone to play with
# make test           all tests and checks, with all that they need
# make check          the same on an installation that has what they need
# make bench          every measurement against bare Baileys; draws docs/performance.md (OPTIONS=--quick)
# make screens        pictures of every state of both faces, in docs/screens/
# make matrix         every stored state against every fault, in full
# make encrypted      all tests once more, with creds and keys encrypted in the tables
# make chaos          breaks a whole service in every way and judges it (ONLY=kill-node OPTIONS=--list)

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000

# Where it is set, every start compiles all of Django and Twisted anew: two seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run demo test check bench matrix encrypted chaos screens install install-dev

run: install
	.venv/bin/python manage.py serve --host $(HOST) --port $(PORT)

demo: install
	.venv/bin/python -m tests.simulator.demo --host $(HOST) --port $(PORT)

test: install-dev
	tests/prepare
	tests/check

check: install-dev
	tests/check

bench: install-dev
	tests/prepare
	.venv/bin/python -m benchmarks $(OPTIONS)

matrix: install-dev
	.venv/bin/python -m pytest tests/test_matrix.py tests/test_scaled.py --whole-matrix \
		-k "cell or whatever"

encrypted: install-dev
	tests/prepare
	.venv/bin/python -m pytest -n 2 --dist worksteal --encrypted

chaos: install-dev
	tests/prepare
	.venv/bin/python -m tests.chaos $(if $(ONLY),--only $(ONLY)) $(OPTIONS)

screens: install-dev
	tests/prepare
	.venv/bin/python -m tests.screens

install:
	@$(PYTHON) -m aiadmin.install

install-dev:
	@$(PYTHON) -m aiadmin.install --dev

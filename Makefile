# SPDX-License-Identifier: Apache-2.0
# make setup   what is missing of packages, .venv and the BPF object
# make demo    the ROME day on real parts, in audit and in enforce mode
# make test    every gate and test, and the kernel matrix (AGENTWALL_MATRIX=no leaves that out)
# make check   the gates that need neither root nor a network
# make bench   the measurements of docs/benchmarks.md
# make matrix  the kernel tests on other kernels, under emulation
# make vmtest KERNEL=6.1 CMD="uname -r"
# make format | wheel | clean
# make deb     dist/agentwall_VERSION_ARCH.deb, with all Python packages in it
# AGENTWALL_NO_INSTALL=1: stop and say what is missing instead of installing it.

PYTHON := .venv/bin/python
# The tests and the demo load BPF programs and make namespaces.
AS_ROOT := tools/setup.sh as-root env PYTHONDONTWRITEBYTECODE=1
C_FILES = $(shell find bpf bench tests -name '*.[ch]')
AGENTWALL_MATRIX ?= yes
KERNEL ?= 6.1
CMD ?= uname -r

.PHONY: setup bpf demo test check lint format gates pytest matrix bench vmtest wheel deb clean
.DEFAULT_GOAL := setup
# One step after another: two runs of apt-get at once would block each other.
.NOTPARALLEL:

# Each set-up step looks at the machine itself, so there are no stamp files to go stale.
PACKAGE_SETS := $(addprefix packages-,build demo test bench vm)
.PHONY: $(PACKAGE_SETS) venv clients
$(PACKAGE_SETS): packages-%:
	@tools/setup.sh packages $*
packages-demo packages-test packages-bench packages-vm: packages-build
venv: packages-build
	@tools/setup.sh venv
clients:
	@tools/setup.sh clients

# Under a lock: tests running side by side may ask for the object at the same time.
bpf: packages-build
	@mkdir -p build
	@flock build/bpf.lock $(MAKE) --no-print-directory -s -C bpf

setup: venv bpf

demo: setup packages-demo
	$(AS_ROOT) PYTHONPATH=tests $(PYTHON) -m demo

lint: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/clang-format --dry-run -Werror $(C_FILES)

gates: venv
	$(PYTHON) -m pytest -q tests/test_layers.py tests/test_sizes.py tests/test_layout.py

check: lint gates

format: venv
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(C_FILES)

pytest: setup packages-demo packages-test packages-bench clients
	$(AS_ROOT) tests/tools/lanes.sh $(PYTHON)

test: lint pytest
ifeq ($(AGENTWALL_MATRIX),yes)
	@$(MAKE) --no-print-directory matrix
endif

matrix: setup packages-vm
	$(AS_ROOT) tests/tools/matrix.sh

bench: setup packages-bench
	$(AS_ROOT) $(PYTHON) -m bench

vmtest: packages-vm
	$(AS_ROOT) tests/tools/vmtest.sh $(KERNEL) -- bash -c '$(CMD)'

wheel: setup
	$(PYTHON) -m hatchling build -t wheel

deb: setup
	tools/deb.sh

clean:
	rm -rf build dist agentwall/_bpf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# litediffusion: `make demo` generates digits on the simulated SoC, `make test` runs all tests.
# Both install what they need on the first call (packages of Debian as root, Python packages into .venv).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUN    := $(BIN)/litediffusion

BOARD  ?= ecpix5

.PHONY: demo test bench quality profile sim bitstream boards setup train clean

demo: setup
	$(RUN) demo -o build/demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

bench: setup
	$(RUN) bench -o build/bench.json

quality: setup
	$(RUN) quality -o build/quality.json

profile: setup
	$(RUN) compile digits -o build/digits.ldp
	$(RUN) profile build/digits.ldp -o build/profile.png

sim: setup
	$(BIN)/python -m litediffusion.targets.sim

# BOARD: a target of targets/README.md. Place and route takes ten minutes or more.
bitstream: setup
	$(BIN)/python -m pip install --quiet -e '.[bitstream]'
	$(BIN)/python -m litediffusion.targets.$(BOARD) --build

# The table of targets/README.md from the reports of the boards built here.
boards: setup
	$(BIN)/python -m litediffusion.targets.report build/*/report.json --readme targets/README.md

setup: $(STAMP)

# The system needs a C++ compiler (simulation) and a RISC-V compiler (firmware).
$(STAMP): pyproject.toml
	@bash .ci/packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[torch,test]'
	touch $(STAMP)

# DATA: an .npz with train_x, train_y, test_x, test_y of MNIST.
train: setup
	$(BIN)/python -m litediffusion.sw.digits.train --data $(DATA)
	$(BIN)/python -m litediffusion.sw.digits.train_classifier --data $(DATA)

clean:
	rm -rf build

# litediffusion: `make demo` generates digits on the simulated SoC, `make test` runs all tests.
# Both install what they need on the first call (packages of Debian as root, Python packages into .venv).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUN    := $(BIN)/litediffusion

BOARD  ?= ecpix5

.PHONY: demo test bench bench-upload bench-cifar10 picture-cifar10 estimate-sd15 layers-sd15 quality profile sim bitstream synth boards setup train clean

demo: setup
	$(RUN) demo -o build/demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

bench: setup
	$(RUN) bench -o build/bench.json

# A CIFAR-10-sized network, layer by layer, on the engines of the boards built here; some minutes. Then the README's table of times.
bench-cifar10: setup
	nice $(RUN) network cifar10 $(wildcard build/*/report.json) -o build/cifar10.json
	$(if $(wildcard build/*/report.json),$(BIN)/python -m litediffusion.sw.picture_time build/cifar10.json build/*/report.json --readme README.md)

# A whole picture of 50 DDIM steps with ddpm-cifar10-32 on the engine in Verilator: an hour or so. MODEL: a folder as diffusers
# saves it (with the trained weights it is a picture; without MODEL the weights are random).
MODEL ?= build/ddpm-cifar10-32
picture-cifar10: setup
	test -e $(MODEL) || $(BIN)/python -m litediffusion.sw.diffusers.random_model $(MODEL)
	$(RUN) compile $(MODEL) -o build/cifar10.ldp --sampler ddim --steps 50 --images 4 --window 64 --batch 1
	$(RUN) generate build/cifar10.ldp 0 --device rtl -o build/cifar10.png --json

# Stable Diffusion 1.5's U-Net from its config.json alone: cycles, DRAM bytes, time and energy of a step; two minutes.
estimate-sd15: setup
	$(BIN)/python -m litediffusion.sw.diffusers.random_model build/sd15 --network sd15 --config-only
	$(RUN) estimate build/sd15 --steps 50

# A layer of each kind of that network on the numpy device, against float; some minutes.
layers-sd15: setup
	$(BIN)/python -m litediffusion.sw.layer_check

bench-upload: setup
	$(BIN)/python -m litediffusion.targets.bench_upload -o build/bench-upload.json

quality: setup
	$(RUN) quality digits -o build/quality.json
	$(RUN) quality wardrobe -o build/quality-wardrobe.json

profile: setup
	$(RUN) compile digits -o build/digits.ldp
	$(RUN) profile build/digits.ldp -o build/profile.png

sim: setup
	$(BIN)/python -m litediffusion.targets.sim

# BOARD: a target of targets/README.md. Place and route takes ten minutes or more.
bitstream: setup
	$(BIN)/python -m pip install --quiet -e '.[bitstream]'
	$(BIN)/python -m litediffusion.targets.$(BOARD) --build

# Synthesis alone, by Yosys: the SoC of an ECP5 board, the engine of a Xilinx board. Some minutes; fails if the part is too small.
synth: setup
	$(BIN)/python -m litediffusion.targets.synthesis $(BOARD)

# The tables of targets/README.md from the reports of the boards built and synthesised here.
boards: setup
	$(if $(wildcard build/*/report.json),$(BIN)/python -m litediffusion.targets.report build/*/report.json --readme targets/README.md)
	$(if $(wildcard build/*/area.json),$(BIN)/python -m litediffusion.targets.synthesis --table build/*/area.json --readme targets/README.md)

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

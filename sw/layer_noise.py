"""Signal to quantisation noise, layer by layer: tensors of the integer program beside the float network's, at some steps.

The program runs on the golden machine; a layer's tensor is read from DRAM as soon as its last STORE is done.
"""

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.gemm_model import skewed
from litediffusion.cores.machine import Machine
from litediffusion.sw.estimate import instructions_of
from litediffusion.sw.latents import float_latents, pack_latents
from litediffusion.sw.reference import evaluate


def decibel(want, got):
    """Signal to noise in dB; None if there is no signal."""
    noise, signal = float(np.mean((want - got) ** 2)), float(np.mean(want ** 2))
    return None if signal == 0 else float("inf") if noise == 0 else 10 * float(np.log10(signal / noise))


def read_tensor(memory, place, step):
    """Float [C, H, W] of a tensor in the window; place : of Program.meta["tensors"]."""
    c, h, w = place["shape"]
    blocks = -(-c // 16)
    if place["fine"]:
        raw = memory[place["at"]:place["at"] + 32 * blocks * h * w].view(np.int16).reshape(2 * blocks, h * w, 8) / (1 << place["fine"])
        return raw.transpose(0, 2, 1).reshape(-1, h, w)[:c] * place["scale"][step]
    raw = memory[place["at"]:place["at"] + 16 * blocks * h * w].reshape(blocks, h * w, 16)
    raw = skewed(raw) if place["skew"] else raw.view(np.int8)
    return raw.transpose(0, 2, 1).reshape(-1, h, w)[:c] * place["scale"][step]


def integer_tensors(program, config, x, step, label):
    """{layer: float tensor} of one evaluation, and "output"."""
    meta, memory = program.meta, np.zeros(program.meta["image_bytes"], np.uint8)
    memory[meta["image_base"]:meta["image_base"] + len(program.image)] = program.image
    words = pack_latents(x)
    memory[meta["buffers"]["latent"]:][:len(words)] = words
    instructions, (at, _) = instructions_of(program, "eval"), meta["programs"]["eval"]
    last = {d["layer"]: i for i, (op, d) in enumerate(instructions) if op == "STORE"}
    done = {i: meta["layers"][layer] for layer, i in last.items()}
    machine, tensors = Machine(config, memory), {}
    machine.set_registers(step=step, label=label)
    for i in range(len(instructions)):
        machine.execute(memory[at + isa.DESC_BYTES * i:][:isa.DESC_BYTES].tobytes())
        if done.get(i) in meta["tensors"]:
            tensors[done[i]] = read_tensor(memory, meta["tensors"][done[i]], step)
    tensors["output"] = float_latents(memory[meta["buffers"]["eps"]:][:len(words)], meta["shape"])
    return tensors


def layer_noise(program, config, graph, states, label=0):
    """[{"name", "op", "path", "sqnr_db": [...]}] of the layers in their order and of the output, one figure a step.

    states : [(step, latents [C, H, W])]. The program's activations must lie in DRAM (compile_model's ``tiled``).
    """
    rows = {}
    for step, x in states:
        floats = {}
        evaluate(graph, x[None], step, [label], lambda name, tensor: floats.update({name: tensor[0].numpy()}))
        floats["output"] = floats[graph.output]
        for name, got in integer_tensors(program, config, x, step, label).items():
            node = graph.nodes[graph.output if name == "output" else name]
            row = rows.setdefault(name, {"name": name, "op": node.op, "path": node.path, "sqnr_db": []})
            row["sqnr_db"].append(decibel(floats[name], got))
    return list(rows.values())

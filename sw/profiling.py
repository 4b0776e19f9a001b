"""Where the cycles go: layer by layer, from the trace records that the engine writes for every instruction."""

from dataclasses import asdict, dataclass, field

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.regs import TRACE_FIELDS
from litediffusion.sw.devices.errors import DeviceError

RECORD_BYTES = 16


@dataclass
class LayerProfile:
    """One layer. ``cycles``: the time by which it moved the end of the program; the layers' cycles sum to the total."""
    name: str
    cycles: int = 0
    macs: int = 0
    peak_macs: int = 0           # MACs a cycle at the layer's weight width
    dram_bytes: int = 0
    instructions: int = 0
    wait_token: dict = field(default_factory=lambda: dict.fromkeys(isa.QUEUES, 0))
    wait_dram: dict = field(default_factory=lambda: dict.fromkeys(isa.QUEUES, 0))
    roofline_cycles: float = 0.0

    @property
    def utilisation(self):
        return self.macs / (self.cycles * self.peak_macs) if self.cycles and self.peak_macs else 0.0

    @property
    def roofline_share(self):
        return self.roofline_cycles / self.cycles if self.cycles else 0.0


def decode_trace(data):
    """[{field: value}] of trace records (bytes)."""
    out = []
    for at in range(0, len(data), RECORD_BYTES):
        word, record = int.from_bytes(data[at:at + RECORD_BYTES], "little"), {}
        for name, bits in TRACE_FIELDS:
            record[name] = word & ((1 << bits) - 1)
            word >>= bits
        out.append(record)
    return out


def _bytes_of(op, d, word):
    """DRAM bytes of an instruction's data and of its descriptor."""
    if op not in ("LOAD", "STORE"):
        return isa.DESC_BYTES
    rows, columns = d["n1"], d["n2"]
    if op == "LOAD" and d["pad"]:                   # words outside the image are made, not read
        rows = max(0, min(d["y0"] + d["n1"], d["h"]) - max(d["y0"], 0))
        columns = max(0, min(d["x0"] + d["n2"], d["w"]) - max(d["x0"], 0))
    return d["n0"] * rows * columns * word + isa.DESC_BYTES


def profile_layers(instructions, records, layer_names, macs, config):
    """[LayerProfile] in order of execution.

    instructions : [(op, fields)] of the program; records : decoded trace; macs : {layer: multiply-accumulates};
    The roofline of a layer is the longer of its MACs at peak and its DRAM bytes at peak.
    """
    layers = [LayerProfile(name, macs=macs.get(name, 0)) for name in layer_names]
    for op, d in instructions:
        layer = layers[d["layer"]]
        layer.instructions += 1
        layer.dram_bytes += _bytes_of(op, d, config.word_bytes)
        if op == "GEMM":
            layer.peak_macs = max(layer.peak_macs, config.peak_macs * (2 if d["w4"] else 1))
    ends = np.zeros(len(layers), np.int64)
    for r in records:
        op, d = instructions[r["index"]]
        queue = isa.QUEUES[r["queue"]]
        layer = layers[d["layer"]]
        layer.wait_token[queue] += r["wait_token"]
        layer.wait_dram[queue] += r["wait_dram"]
        if queue in ("GEMM", "POST", "STORE"):
            ends[d["layer"]] = max(ends[d["layer"]], r["end"])
    reached = 0
    for i in np.argsort(ends, kind="stable"):
        if ends[i]:
            layers[i].cycles, reached = int(ends[i] - reached), int(ends[i])
    for layer in layers:
        compute = layer.macs / layer.peak_macs if layer.peak_macs else 0.0
        layer.roofline_cycles = max(compute, layer.dram_bytes / config.dram_bytes)
    return layers


def summary(layers, cycles):
    """Totals as a dict; ``roofline_share`` is the sum of the layers' rooflines over the program's cycles."""
    macs = sum(layer.macs for layer in layers)
    roofline = sum(layer.roofline_cycles for layer in layers)
    ideal = sum(layer.macs / layer.peak_macs for layer in layers if layer.peak_macs)
    return {"cycles": cycles, "macs": macs, "dram_bytes": sum(layer.dram_bytes for layer in layers),
            "utilisation": ideal / cycles, "roofline_cycles": roofline, "roofline_share": roofline / cycles}


def as_json(layer):
    return dict(asdict(layer), utilisation=layer.utilisation, roofline_share=layer.roofline_share)


def run_traced(device, instructions, address, length, trace_at, **registers):
    """(counters, decoded trace) of one program run with tracing on."""
    size = RECORD_BYTES * (length + 4)
    counters = device.run_program(address, length, trace=(trace_at, size), **registers)
    if not counters["trace_count"] and not counters["trace_dropped"]:
        raise DeviceError("the engine recorded nothing: it was built without the trace unit (EngineConfig.trace); "
                          "profile on the rtl device or on a board built with it")
    count = min(counters["trace_count"], length)
    return counters, decode_trace(device.read(trace_at, RECORD_BYTES * count))


def draw(layers, records, instructions, totals, path, title):
    """PNG: cycles by layer with the roofline and the queues' waits, and the time line of the four queues."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [layer for layer in layers if layer.cycles]
    fig, (bars, waits, lines) = plt.subplots(1, 3, figsize=(20, 0.24 * len(shown) + 2.5), width_ratios=[3, 3, 4])
    y = np.arange(len(shown))
    bars.barh(y, [s.cycles for s in shown], color="#9db8d9", label="measured")
    bars.barh(y, [s.roofline_cycles for s in shown], height=0.35, color="#1f4e8c", label="roofline")
    bars.set_yticks(y, [f"{s.name}  {100 * s.utilisation:.0f}%" for s in shown], fontsize=7)
    bars.set(xlabel="cycles", title=f"{title}: {totals['cycles']:,} cycles, {100 * totals['utilisation']:.0f}% of peak, "
             f"{100 * totals['roofline_share']:.0f}% of the roofline")
    left = np.zeros(len(shown))
    for queue in ("GEMM", "POST"):
        for kind in ("wait_token", "wait_dram"):
            width = np.array([getattr(s, kind)[queue] for s in shown])
            waits.barh(y, width, left=left, label=f"{queue} {kind}")
            left += width
    waits.set(yticks=[], xlabel="cycles", title="what GEMM and POST waited for")
    for axis in (bars, waits):
        axis.invert_yaxis()
        axis.legend(fontsize=7)
    for r in records:
        lines.broken_barh([(r["start"], r["end"] - r["start"])], (3.6 - r["queue"], 0.8), linewidth=0,
                          color=plt.cm.tab20(instructions[r["index"]][1]["layer"] % 20))
    lines.set(yticks=[4, 3, 2, 1], yticklabels=isa.QUEUES, xlabel="cycle", title="the four queues, coloured by layer")
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    plt.close(fig)

"""What a network costs that is too large for one program: lowered in sections of some layers, each costed and forgotten.

A section runs as a program of its own would, so the queues run empty between sections; with SECTION items a section that is less
than a thousandth of the time. Sections that differ only in names and places in DRAM are costed once. An attention of many alike pieces
is not emitted as a whole: a few pieces give the cost of one.
"""

from dataclasses import replace

from litediffusion.cores import isa
from litediffusion.sw.compiler.assemble import resources_of, schedule
from litediffusion.sw.compiler.compile import buffers_of, decoder_ends, decoder_scales, layer_macs, tiled_scales
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.compiler.sampler import finish_items, init_items, update_items
from litediffusion.sw.compiler.tiled_graph import TiledGraph
from litediffusion.sw.estimate import LayerCost, ProgramCost, picture_report, program_cost

SECTION = 2000          # items of a section at least; their LOADs of weights come on top
PLACES = ("dram", "stat_rec")           # fields that say only where something lies
SAMPLE = 8              # alike pieces of an attention: the cost of one is that of the second SAMPLE of them, after as many
EMPTY = {op: isa.decode(isa.encode(op))[1] for op in isa.OPS}


def check_fields(fields):
    """Raise CompileError if a value does not fit its field. fields : {(op, field): (least, most)} of some layers."""
    for (op, name), values in fields.items():
        for value in values:
            try:
                isa.encode(op, **{name: value})
            except ValueError as error:
                raise CompileError(str(error)) from error


def widen(extremes, items):
    """Make the {(op, field): (least, most)} such that they hold those of items too."""
    for item in items:
        for name, value in item.fields.items():
            least, most = extremes.get((item.op, name), (0, 0))
            if not least <= value <= most:
                extremes[item.op, name] = min(least, value), max(most, value)
    return extremes


def check_items(items):
    """Raise CompileError if a field of some items does not fit."""
    check_fields(widen({}, items))


def likeness(items, first):
    """A number that is the same for lists of items that differ only in places; first : number of their first layer."""
    seen, parts = {}, []
    for item in items:
        needs = tuple((name, r.mem, r.words, seen.setdefault(r, len(seen)), offset) for name, (r, offset) in item.needs.items())
        parts.append((item.op, item.layer - first, needs, tuple(f for f in item.fields.items() if f[0] not in PLACES)))
    return hash(tuple(parts))


def decoded(full, first=0):
    """[(op, fields)] of scheduled items, as they would come out of a program; checked. first : number of the first layer, here 0."""
    check_items(full)
    return [(item.op, EMPTY[item.op] | item.fields | {"layer": max(item.layer - first, 0)}) for item in full]      # END is layer 0's


class Costs:
    """Sum of ProgramCosts, each ``times`` over; ``descriptors`` in all."""

    def __init__(self):
        self.cycles = self.dram_bytes = self.millijoule = self.descriptors = 0.0
        self.busy, self.layers = dict.fromkeys(isa.QUEUES, 0.0), {}

    def add(self, cost, descriptors, times=1.0):
        for name in ("cycles", "dram_bytes", "millijoule"):
            setattr(self, name, getattr(self, name) + times * getattr(cost, name))
        self.descriptors += times * descriptors
        for queue, share in cost.busy.items():
            self.busy[queue] += times * share * cost.cycles
        for layer in cost.layers:
            if layer.dram_bytes:            # its own descriptors at least
                self.add_layer(layer, times)

    def add_layer(self, layer, times):
        before = self.layers.get(layer.name, LayerCost(layer.name, 0, layer.macs, 0, 0.0))
        sums = {name: getattr(before, name) + times * getattr(layer, name) for name in ("cycles", "dram_bytes", "millijoule")}
        self.layers[layer.name] = replace(before, **sums)

    def total(self):
        """ProgramCost of the sum."""
        layers = [replace(c, cycles=round(c.cycles), dram_bytes=round(c.dram_bytes)) for c in self.layers.values()]
        return ProgramCost(round(self.cycles), round(self.dram_bytes), self.millijoule, {q: v / self.cycles for q, v in self.busy.items()}, layers)


class OutlinedGraph(TiledGraph):
    """A TiledGraph that is costed as it goes: ``costs`` after ``run``. target : estimate.Target; macs : {layer: multiply-accumulates}."""

    def __init__(self, target, macs, *args):
        TiledGraph.__init__(self, target.config, *args)
        self.target, self.macs, self.costs, self.known, self.costed = target, macs, Costs(), {}, 0

    def close(self, times=1.0, again=False):
        """Cost the items so far and forget them; their cost counts ``times``. ``again``: the layers go on."""
        state = self.state
        items, names, first = state.items, state.layers[self.costed:], self.costed
        state.items, state.acc_next, state.row_next = [], 0, 0
        self.costed = first if again else len(state.layers)
        if not items:
            return
        self.image.place(resources_of(items))
        key = likeness(items, first)
        if key not in self.known:
            full = schedule(items, self.image, state.areas, state.layers)
            self.known[key] = program_cost(self.config, decoded(full, first), names, {}, self.target.word_cycles), len(full)
        cost, descriptors = self.known[key]
        layers = [replace(layer, name=name, macs=self.macs.get(name, 0)) for layer, name in zip(cost.layers, names)]
        self.costs.add(replace(cost, layers=layers), descriptors, times)

    def done_with(self, node):
        if len(self.state.items) >= SECTION:
            self.close()

    def attend(self, attention):
        count = len(attention.pieces())
        if count <= 4 * SAMPLE:
            return attention.run()
        self.close(again=True)
        rest = (count - SAMPLE) / SAMPLE
        for pieces, times in ((SAMPLE, 1 - rest), (2 * SAMPLE, rest)):
            attention.run(pieces)
            self.close(times, again=True)


def small_cost(target, image, items, name, noise=False):
    """ProgramCost of one of the programs around the network."""
    resources = resources_of(items)
    image.place(resources)
    full = schedule(items, image, {"PARAM": (0, target.config.param_words)}, [name])
    return program_cost(target.config, decoded(full), [name], {}, target.word_cycles, noise)


def outline(graph, table, target, ranges, *, bits=None, guidance=1.0, decoder=None, wide=True):
    """Report as ``picture_cost`` gives it, of a graph (after the passes) without a program; batches of one picture.

    The arguments are ``compile_graph``'s. Raises CompileError for a layer that cannot be lowered.
    """
    bits, steps, image = bits or {}, len(table), Image(len(table))
    shape = next(n.shape for n in graph.nodes.values() if n.op == "input")
    picture = decoder.shape(decoder.output) if decoder else shape
    words, pixels = shape[1] * shape[2], picture[1] * picture[2]
    buffers = buffers_of(image, words, pixels, steps, 1, decoder is not None)
    scales = tiled_scales(graph, ranges, per_step=True)
    low = OutlinedGraph(target, layer_macs(graph), graph, scales, bits, steps, image, buffers, wide).run()
    low.close()
    noise = any(coefs["sigma"] for coefs in table)
    small = lambda name, items, noisy: small_cost(target, image, items, name, noisy)
    parts = {"init": small("init", init_items(target.config, buffers, words, shape[0], table), True), "eval": low.costs.total(),
             "update": small("update", update_items(target.config, buffers, words, shape[0], table), noise)}
    finish, spill, descriptors = Costs(), low.spill_words, low.costs.descriptors
    finish.add(small("finish", finish_items(target.config, buffers, pixels), False), 0)
    if decoder:
        scales = decoder_scales(decoder, ranges)
        making = OutlinedGraph(target, layer_macs(decoder), decoder, scales, bits, 1, image, decoder_ends(buffers), wide).run()
        making.close()
        finish.add(making.costs.total(), making.costs.descriptors)
        spill = max(spill, making.spill_words)
    parts["finish"] = finish.total()
    needs = image.size + image.step_stride * steps + target.config.word_bytes * spill + isa.DESC_BYTES * round(descriptors + finish.descriptors)
    return picture_report(target, parts, needs, steps, guidance, round(descriptors))

"""Programs of layers whose tensors lie in DRAM: any sizes of pictures, as long as a few rows fit on chip.

A ``TiledProgram`` is told its layers one after the other; each takes and gives ``DramTensor``. Several programs may share
an image and, run one after the other, the engine's statistics records.
"""

import math
from dataclasses import replace

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.assemble import assemble, resources_of
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.items import CompileError, odd_plane
from litediffusion.sw.compiler.lower_conv import out_kind, src_kind
from litediffusion.sw.compiler.records import (RECORD, activation_code, latent_records, layer_norm_records, modulated_norm_records, norm_records,
                                               rounding_record)
from litediffusion.sw.compiler.scales import EPS_SCALE
from litediffusion.sw.compiler.state import State, Tensor
from litediffusion.sw.compiler.tiled_attention import TiledAttention, as_tokens, transposed_values
from litediffusion.sw.compiler.tile_plan import balanced
from litediffusion.sw.compiler.tiled_conv import INT16_WORDS, ConvWeights, TiledConv
from litediffusion.sw.compiler.tiles import DramTensor, Prepared, move
from litediffusion.sw.graph import Graph, Node, conv_shape
from litediffusion.sw.hollow import is_hollow

PASS_SLOTS = 4           # blocks on chip in a pass over a tensor
TOKEN_SLOTS = 2          # groups of tokens on chip in a pass over all channels


def zero_record():
    """POST's record for out = 0."""
    return np.zeros((1, 1), RECORD)


class Modulation:
    """Two vectors at the start of the scratchpad, by which the rows of a LayerNorm are multiplied and to which they are added.

    ``words``: of the scratchpad that they take; the int16 values between the two passes lie at its end.
    """

    def __init__(self, state, vectors, params):
        self.state, self.params, self.words = state, params, 0
        self.vectors = [self.bring(vector) for vector in vectors]

    def bring(self, vector):
        on_chip = Tensor(vector.name, vector.shape, self.words)
        move(self.state, "LOAD", vector, 0, 0, on_chip)
        self.words += on_chip.words
        return on_chip

    def apply(self, tokens, made, loops, records, params):
        """Both passes over ``tokens`` on chip, to ``made`` at their place. loops : POST's fields of the normalised rows; params : their record."""
        (times, plus), count, blocks = self.vectors, tokens.pixels, tokens.blocks
        at = self.state.config.spm_words - INT16_WORDS * blocks * count
        between = [("SPM", at, at + INT16_WORDS * blocks * count)]
        by_channel = lambda v, block, half: {"r": v.hword(0), f"rs{block}": 2 * v.plane, f"rs{half}": 1}
        self.state.emit("POST", dict(loops, rop=isa.ROP["MUL"], **by_channel(times, 1, 2), out=isa.OUT["INT16"], d=2 * at, ds0=2, ds1=4 * count,
                                     ds2=2 * count),
                        tokens.region() + times.region() + records, between, {"p": (params, 0)})
        self.state.emit("POST", dict(n0=blocks, n1=2, n2=count, src=isa.SRC["INT16"], a=2 * at, as0=4 * count, as1=2 * count, as2=2,
                                     dst=isa.DST["SPM"], d=made.hword(0), ds0=2 * made.plane, ds1=1, ds2=2, rop=isa.ROP["ADD"],
                                     **by_channel(plus, 0, 1)),
                        between + plus.region(), made.region(), {"p": (self.params, 0)})


class TiledProgram:
    """Collects layers; ``finish`` gives (byte offset, descriptors) of the program in ``image``."""

    def __init__(self, config, image=None, steps=1):
        self.config, self.image, self.steps = config, image or Image(steps), steps
        self.state = State(config, Graph(), {}, {}, steps)

    def by_step(self, scale):
        """A scale, one for all steps or one a step, as [steps]."""
        return np.broadcast_to(np.asarray(scale, float), (self.steps,))

    def tensor(self, name, shape, scale, stat=-1, skew=False, fine=0):
        """A DramTensor in the image, its content up to the caller."""
        tensor = DramTensor(name, tuple(shape), 0, self.by_step(scale), stat, skew=skew, fine=fine)
        tensor.at = self.space(tensor)
        return tensor

    def space(self, tensor):
        """Where a new tensor lies: a buffer of its own."""
        return self.image.buffer(tensor.bytes)

    # --- layers ------------------------------------------------------------------------------------------------------

    def latents(self, name, shape, scale, dram, stat=-1):
        """The int8 tensor of latents (int16 words, at byte ``dram``)."""
        self.state.begin(name)
        out = self.tensor(name, shape, scale, stat)
        words = DramTensor(f"{name}.words", shape, dram, out.scale)
        params = self.state.params(latent_records(out.scale, name))
        for block, on_chip, first, groups in self.blocks(words):
            fields = dict(n0=1, n1=1, n2=on_chip.pixels, src=isa.SRC["INT16"], a=on_chip.hword(0), as2=2, dst=isa.DST["SPM"],
                          d=on_chip.hword(0), ds2=2)
            if stat >= 0:
                fields.update(stat=1, stat_acc=int(first > 0), stat_rec=stat)
            self.state.emit("POST", fields, on_chip.region(), on_chip.region(), {"p": (params, 0)})
            move(self.state, "STORE", out, block, first, on_chip)
        return out

    def conv(self, name, sources, attrs, scale=None, *, norm=None, operand=None, s_own=None, residual=None, bits=8, stat=-1, fine=0):
        """A convolution of the channels of ``sources`` together; its output tensor.

        attrs : of a conv node (weight, bias, stride, pad ...), the weight with 16 input channels for every block of every source;
        scale : of the output, None: the network's int16 output; norm : (attrs of a norm node, scale of the normalised input),
        whose statistics are in the sources' records; operand : tensor to add, or, where attrs has ``times``, to multiply by; s_own : then, and if
        the operand is wide, the scale of the convolution's own result; residual : tensor to add to a product with a vector; stat : first record
        for the output's statistics; fine : above 0: a wide output with so many bits below a byte's unit.
        """
        self.state.begin(name)
        shape = (attrs["weight"].shape[1],) + tuple(sources[0].shape[1:])
        attrs = dict({"bias": None, "stride": 1, "pad": 0}, **attrs)
        patch = attrs.pop("unpatch", 1)
        if not norm:
            attrs["weight"] = self.one_scale(name, sources, attrs["weight"])
        node = Node(name, "conv", [s.name for s in sources], conv_shape(shape, attrs), attrs)
        final = scale is None
        if final and node.shape[0] > 8 * patch ** 2:
            raise CompileError(f"layer {name}: {node.shape[0]} output channels, the limit of an int16 output is 8",
                               "take a network of up to 8 channels of latents")
        shape = (node.shape[0] // patch ** 2, patch * node.shape[1], patch * node.shape[2])
        out = self.final_tensor(name, shape) if final else self.tensor(name, node.shape, scale, stat, bool(attrs.get("skew")), fine)
        prepared = self.prepare_norm(name, sources, *norm) if norm else None
        w4 = bits == 4 and not final
        weights = ConvWeights(self.state, self.image, node, w4)
        own = None if s_own is None else self.by_step(s_own)
        TiledConv(self.state, node, sources, out, weights, prepared, operand, w4, final, own, bool(attrs.get("times")), residual, patch).run()
        return out

    def one_scale(self, name, sources, weight):
        """The weights for an input whose parts all have the first one's scale."""
        ratios = [s.scale / sources[0].scale for s in sources]
        if any(np.ptp(r) > 1e-9 * r.max() for r in ratios):
            raise CompileError(f"layer {name}: the scales of its input's parts are not in the same ratio at all steps")
        if is_hollow(weight):
            return weight
        channels = np.repeat([r[0] for r in ratios], [16 * s.blocks for s in sources])[:weight.shape[1]]
        return weight * channels[None, :, None, None]

    def final_tensor(self, name, shape):
        """Where the network's int16 output goes."""
        return self.tensor(name, shape, EPS_SCALE)

    def prepare_norm(self, name, sources, attrs, scale):
        """NORM from the statistics of all sources: Prepared."""
        channels, scale = [s.shape[0] for s in sources], self.by_step(scale)
        node = Node(name, "norm", [], (sum(channels),) + tuple(sources[0].shape[1:]), attrs)
        if min(s.stat for s in sources) < 0:
            raise CompileError(f"layer {name}: the input of its norm keeps no statistics")
        if node.shape[0] % attrs["groups"]:
            raise CompileError(f"layer {name}: a norm of {attrs['groups']} groups over {node.shape[0]} channels; groups must divide the channels",
                               "choose another norm_num_groups and train again")
        size = node.shape[0] // attrs["groups"]
        if all(c % size == 0 for c in channels):
            pieces = [(sum(channels[:i]), c, s) for i, (c, s) in enumerate(zip(channels, sources))]
        else:
            self.check_joined(node, sources, size)
            pieces = [(0, node.shape[0], sources[0])]
        records = [norm_records(node, first, count, s.unit, scale, sources[0].pixels, name, s.fine) for first, count, s in pieces]
        # Two records for every block, so that the records of a part begin at its first block.
        records = [np.pad(r, ((0, 0), (0, r.shape[1] % 2))) for r in records]
        params, at = self.state.params(np.concatenate(records, axis=1)), 0
        for (_, count, source), record in zip(pieces, records):
            self.state.emit("NORM", dict(ngroups=count // size, gsize=size, count=size * sources[0].pixels, stat_rec=source.stat),
                            needs={"p": (params, at), "pd": (params, at)})
            at += record.shape[1]
        return Prepared(params, attrs.get("function"), scale, bool(attrs.get("skew")))

    def check_joined(self, node, sources, size):
        """Parts that share a group of channels must lie side by side and have one scale. Raises CompileError."""
        if any((s.scale != sources[0].scale).any() or s.fine != sources[0].fine for s in sources) or any(s.shape[0] % 16 for s in sources[:-1]):
            raise CompileError(f"layer {node.name}: groups of {size} channels cross the borders of parts of "
                               f"{[s.shape[0] for s in sources]} channels; then all parts but the last must be multiples of 16, with one scale",
                               "choose groups that divide the channels of every part, and train again")

    def statistics(self, tensor, stat):
        """One pass over a tensor for statistics that its producer could not keep until now (a skip connection's)."""
        self.state.begin(f"{tensor.name}.statistics")
        params = self.state.params(rounding_record(0))
        for block, on_chip, first, groups in self.blocks(tensor):
            self.keep_statistics(on_chip, groups, first, stat + 2 * block, params)

    def normalise(self, tensor, norm, name):
        """The normalised tensor itself, for several readers."""
        self.state.begin(name)
        prepared = self.prepare_norm(name, [tensor], *norm)
        out = self.tensor(name, tensor.shape, prepared.scale, skew=prepared.skew)
        for block, on_chip, first, groups in self.blocks(tensor):
            made = self.apply_norm(on_chip, groups, prepared, 2 * block)
            move(self.state, "STORE", out, block, first, made)
        return out

    def is_wide(self, channels):
        """True if the statistics of a norm's sources, of so many channels, are too many to be on chip together."""
        return sum(-(-c // 8) for c in channels) > self.config.stat_words

    def normalise_wide(self, sources, norm, name, stat=0):
        """The normalised tensors of the parts of a wide norm's input, by pieces of whole groups: two passes over each.

        stat : first of all the statistics records.
        """
        self.state.begin(name)
        attrs, scale = norm[0], self.by_step(norm[1])
        node = Node(name, "norm", [], (sum(s.shape[0] for s in sources),) + tuple(sources[0].shape[1:]), attrs)
        size = node.shape[0] // attrs["groups"]
        apart = all(s.shape[0] % size == 0 for s in sources)
        if not apart:
            self.check_joined(node, sources, size)
        if any(s.shape[0] % 16 for s in sources[:-1]):
            raise CompileError(f"layer {name}: a norm of {node.shape[0]} channels in parts of {[s.shape[0] for s in sources]}, all but the last must "
                               "be multiples of 16", "choose channels that are multiples of 16, or a configuration with more stat_words")
        outs = [self.tensor(f"{name}.{i}", s.shape, scale, skew=bool(attrs.get("skew"))) for i, s in enumerate(sources)]
        parts = [(source, out, block) for source, out in zip(sources, outs) for block in range(source.blocks)]
        for first, channels in self.norm_pieces([s.shape[0] for s in sources] if apart else [node.shape[0]], size, name):
            self.normalise_piece(node, parts[first // 16:-(-(first + channels) // 16)], first, channels, scale, stat)
        return outs

    def norm_pieces(self, spans, size, name):
        """[(first channel, channels)]: pieces of whole groups of ``size`` channels and whole blocks, none across the spans' borders."""
        unit, pieces, start = math.lcm(size, 16), [], 0
        most = 8 * self.config.stat_words // unit
        if most == 0:
            raise CompileError(f"layer {name}: pieces of {unit} channels, of whole groups of {size} and whole blocks of 16, exceed "
                               f"{8 * self.config.stat_words}, whose statistics fit on chip", "use a configuration with more stat_words")
        for span in spans:
            pieces += [(start + at * unit, min(count * unit, span - at * unit)) for at, count in balanced(-(-span // unit), most)]
            start += span
        return pieces

    def normalise_piece(self, node, parts, first, channels, scale, stat):
        """Some channels of ``normalise_wide``; parts : (source, its normalised tensor, block) of each block of theirs."""
        size, like = node.shape[0] // node.attrs["groups"], parts[0][0]
        plain = self.state.params(rounding_record(0))
        params = self.state.params(norm_records(node, first, channels, like.unit, scale, like.pixels, node.name, like.fine))
        prepared = Prepared(params, node.attrs.get("function"), scale, bool(node.attrs.get("skew")))
        for number, (source, _, block) in enumerate(parts):
            for _, on_chip, row, groups in self.blocks(source, range(block, block + 1)):
                self.keep_statistics(on_chip, groups, row, stat + 2 * number, plain)
        self.state.emit("NORM", dict(ngroups=channels // size, gsize=size, count=size * like.pixels, stat_rec=stat),
                        needs={"p": (params, 0), "pd": (params, 0)})
        for number, (source, out, block) in enumerate(parts):
            for _, on_chip, row, groups in self.blocks(source, range(block, block + 1)):
                move(self.state, "STORE", out, block, row, self.apply_norm(on_chip, groups, prepared, 2 * number))

    def keep_statistics(self, on_chip, groups, row, record, params):
        """POST that keeps the statistics of some rows of a block; params : of ``rounding_record(0)``."""
        self.state.emit("POST", dict(n0=1, n1=groups, n2=on_chip.pixels, src=src_kind(on_chip), a=on_chip.hword(0), as1=on_chip.strides[1],
                                     as2=2, dst=isa.DST["NONE"], out=isa.OUT["INT16"], stat=1, stat_acc=int(row > 0), stat_rec=record),
                        on_chip.region(), needs={"p": (params, 0)})

    def apply_norm(self, on_chip, groups, prepared, record):
        """POST that normalises some rows of a block; the Tensor of bytes at their place."""
        place, made = on_chip.hword(0), replace(on_chip, skew=prepared.skew, wide=False)
        self.state.emit("POST", dict(n0=1, n1=groups, n2=on_chip.pixels, a=place, as1=on_chip.strides[1], as2=2, d=place, ds1=1, ds2=2, ps1=1,
                                     src=src_kind(on_chip), dst=isa.DST["SPM"], act=activation_code(prepared.function), out=out_kind(made)),
                        on_chip.region(), on_chip.region(), {"p": (prepared.params, record)})
        return made

    def layer_norm(self, tensor, eps, scale, name, vectors=()):
        """The tensor normalised over the channels of every pixel; ``vectors``: DramTensors of what multiplies it and is then added, or none."""
        self.state.begin(name)
        scale, c = self.by_step(scale), tensor.shape[0]
        out = self.tensor(name, tensor.shape, scale)
        if vectors:
            first, second = modulated_norm_records(eps, c, tensor.unit, *(v.scale for v in vectors), scale, name, tensor.fine)
        else:
            first, second = layer_norm_records(eps, c, tensor.unit, scale, tensor.fine), None
        params, plain = self.state.params(first), self.state.params(rounding_record(0))
        modulation = Modulation(self.state, vectors, self.state.params(second)) if vectors else None
        zero = self.state.params(zero_record()) if -(-c // 8) % 2 else None
        for first, on_chip in self.token_tiles(as_tokens(tensor), modulation):
            if zero:
                self.clear_half(on_chip, zero)
            count = on_chip.pixels
            row = self.state.rows(count)
            records, place = [("ROW", row, row + count)], on_chip.hword(0)
            block, half = on_chip.strides
            made = replace(on_chip, wide=False)
            loops = dict(n0=count, n1=on_chip.blocks, n2=2, src=src_kind(on_chip), a=place, as0=2, as1=block, as2=half, row=row, row_loop=2)
            self.state.emit("POST", dict(loops, dst=isa.DST["NONE"], out=isa.OUT["INT16"], rowstat=1), on_chip.region(), records, {"p": (plain, 0)})
            self.state.emit("NORM", dict(rows=1, ngroups=count, count=c, row=row), records, records, {"p": (params, 0)})
            loops.update(dst=isa.DST["SPM"], row_m=1, row_o=1)
            if modulation:
                modulation.apply(on_chip, made, loops, records, params)
            else:
                self.state.emit("POST", dict(loops, d=place, ds0=2, ds1=2 * on_chip.plane, ds2=1), on_chip.region() + records,
                                on_chip.region(), {"p": (params, 0)})
            move(self.state, "STORE", as_tokens(out), 0, first, made)
        return out

    def clear_half(self, on_chip, zero):
        """Zeros in the last 8 channels of a tensor's last block, which its layer did not write: row sums take whole blocks."""
        place = on_chip.hword(2 * on_chip.blocks - 1)
        self.state.emit("POST", dict(n0=1, n1=1, n2=on_chip.pixels, src=src_kind(on_chip), a=place, as2=2, dst=isa.DST["SPM"], d=place, ds2=2,
                                     out=out_kind(on_chip)), on_chip.region(), on_chip.region(), {"p": (zero, 0)})

    def copy(self, tensor, name):
        """The same content at a place of its own."""
        self.state.begin(name)
        out = self.tensor(name, tensor.shape, tensor.scale)
        for first, on_chip in self.token_tiles(as_tokens(tensor)):
            move(self.state, "STORE", as_tokens(out), 0, first, on_chip)
        return out

    def token_tiles(self, tensor, modulation=None):
        """Bring a tensor of tokens by, all channels of some at a time: (first token, Tensor on chip)."""
        config, base = self.config, modulation.words if modulation else 0
        room, wait = (config.spm_words - base) // tensor.blocks, TOKEN_SLOTS * tensor.words
        most = min(config.row_words // TOKEN_SLOTS, (room - wait) // (wait + (INT16_WORDS if modulation else 0)))
        if most < 1:
            raise CompileError(f"layer {tensor.name}: {TOKEN_SLOTS} pixels of {tensor.shape[0]} channels exceed {config.spm_words} words of scratchpad",
                               "use a larger configuration")
        tiles = balanced(tensor.pixels, most)
        slot = tensor.blocks * tensor.words * odd_plane(tiles[0][1])
        for number, (first, count) in enumerate(tiles):
            on_chip = replace(tensor.piece(tensor.blocks, count, base + number % TOKEN_SLOTS * slot), shape=(tensor.shape[0], count, 1))
            move(self.state, "LOAD", tensor, 0, first, on_chip)
            yield first, on_chip

    def blocks(self, tensor, chosen=None):
        """Bring a tensor by, some rows of a block at a time: (block, Tensor on chip, first row, groups of 8 channels).

        chosen : only these blocks.
        """
        _, h, w = tensor.shape
        size = 2 * (w + 1) if tensor.fine else w
        rows = min(h, self.config.spm_words // (PASS_SLOTS * size))
        if rows == 0:
            raise CompileError(f"layer {tensor.name}: {PASS_SLOTS} rows of {w} pixels exceed {self.config.spm_words} words of scratchpad",
                               "use a larger configuration")
        slot = chosen.start * -(-h // rows) % PASS_SLOTS if chosen else 0
        for block in chosen or range(tensor.blocks):
            for first in range(0, h, rows):
                on_chip = tensor.piece(1, min(rows, h - first), slot * rows * size)
                slot = (slot + 1) % PASS_SLOTS
                move(self.state, "LOAD", tensor, block, first, on_chip)
                yield block, on_chip, first, min(2, -(-tensor.shape[0] // 8) - 2 * block)


    def attention(self, name, x, norm, convs, scales, *, heads=1, stat=-1):
        """x + Wo . softmax(q k^T / sqrt(d)) v of the normalised x, by its matrix products; its output tensor.

        norm : as for ``conv``; convs : {"q", "k", "v", "o"} -> (weight [C, C], bias [C]); scales : {"q", "k", "v", "mix", "out"}.
        """
        tokens = self.normalise(x, norm, f"{name}.norm")
        linear = lambda part: {"weight": convs[part][0][..., None, None], "bias": convs[part][1]}
        query, key = (self.conv(f"{name}.{part}", [tokens], linear(part), scales[part]) for part in "qk")
        values = transposed_values(self, f"{name}.v", tokens, convs["v"][0], scales["v"])
        self.state.begin(f"{name}.softmax")
        mix = self.tensor(f"{name}.mix", x.shape, scales["mix"])
        TiledAttention(self.state, mix.name, query, key, values, convs["v"][1], mix, heads).run()
        return self.conv(f"{name}.o", [mix], linear("o"), scales["out"], operand=x, stat=stat)

    # --- the end -----------------------------------------------------------------------------------------------------

    def finish(self):
        """Assemble: (byte offset, descriptors)."""
        resources = resources_of(self.state.items)
        self.image.place(resources)
        return assemble(self.state.items, self.image, self.state.areas, self.state.layers)

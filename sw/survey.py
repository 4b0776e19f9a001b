"""All of a model that cannot run on a configuration: by its import, and by lowering layer by layer. Nothing is built.

    source -> import (stand-ins for what is refused) -> passes -> lowering of every layer, whose items are forgotten -> Problems
"""

from dataclasses import dataclass
import re

from litediffusion.sw.calibrate import unit_ranges
from litediffusion.sw.compiler.compile import buffers_of, decoder_ends, tiled_scales
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.compiler.tables import BLOCK
from litediffusion.sw.compiler.tiled_graph import TiledGraph
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.outline import SAMPLE, check_items
from litediffusion.sw.passes import run_passes
from litediffusion.sw.problems import Problem, collecting, not_looked_at, refuse, refuse_or_skip
from litediffusion.sw.quantise import four_bit_candidates
from litediffusion.sw.schedule import sampler_table

PREFIX = re.compile(r"^layer \S+( \(\S*\))?: ")       # of a CompileError's text: a Problem has the path of its own
SLOW = ("conv", "attention", "layer_norm")            # layers of many items
WHAT_TO_DO = "choose another picture size (--size) or target, or change this layer and train again"


@dataclass
class Imported:
    """A model as far as it can be imported; None: not at all. table : the sampler's."""
    source: object = None
    graph: object = None
    table: object = None
    decoder: object = None


def chosen_sampler(source, sampler, steps):
    """(timesteps, table) of a source's sampler; DDIM's stand in if it is refused."""
    try:
        return source.sampler(sampler, steps, 0.0)
    except ValueError as error:
        refuse(error, "scheduler", "scheduler", "name another sampler (--sampler)")
        return sampler_table("ddim", steps)


def passed(path, build, *args):
    """The graph that ``build(*args)`` gives, after the passes; None if it gives none. path : of the network, for an error that names none."""
    try:
        graph = build(*args)
        return graph and run_passes(graph)
    except ValueError as error:
        refuse_or_skip(error, path, path, "see sw/README.md for what can be imported")
        not_looked_at(ValueError("what comes after that is not known"), path)
        return None


def import_all(load, steps, sampler=None):
    """(Imported, Problems). load() : the source, or it raises what load_model does; only UnsupportedLayer is kept of that."""
    with collecting() as problems:
        found = Imported()
        try:
            found.source = load()
        except UnsupportedLayer as error:
            problems.note(error)
            not_looked_at(ValueError("its shapes are not known without that"), "network")
            return found, problems
        timesteps, found.table = chosen_sampler(found.source, sampler, steps)
        found.graph = passed("network", found.source.graph, timesteps)
        found.decoder = passed("vae", found.source.decoder)
    return found, problems


def frozen(attrs):
    """Attributes of a node as a key; of arrays the shapes."""
    return tuple((name, getattr(value, "shape", value)) for name, value in sorted(attrs.items()))


class Survey(TiledGraph):
    """A TiledGraph that goes on after a layer that cannot be lowered, and keeps no items; of layers that are alike it lowers one.

    problems : of the layers; broken : their names.
    """

    def __init__(self, *args):
        TiledGraph.__init__(self, *args)
        self.problems, self.broken, self.known = [], set(), {}      # known: {likeness: what was refused, or None}

    def likeness(self, node):
        """What the lowering of a layer depends on, apart from names, values and places."""
        norm = self.fused_norm(node)
        tensors = tuple((t.shape, t.fine, t.skew) for t in map(self.tensors.get, self.read_by(node)))
        attention, part = self.projections.get(node.name, (None, None))
        return (node.op, node.shape, frozen(node.attrs), norm and frozen(norm.attrs), tensors, self.fine.get(node.name), part,
                attention and attention.attrs["heads"], node.name == self.graph.output, sum(self.stats.pool.used.values()))

    def refusal(self, node):
        """The CompileError of a node's lowering, or None."""
        try:
            TiledGraph.lower(self, node)
            check_items(self.state.items)
        except CompileError as error:
            return error
        return None

    def lower(self, node):
        key = self.likeness(node) if node.op in SLOW else node.name
        again = key in self.known
        error = self.known[key] if again else self.refusal(node)
        self.known[key] = error
        if error:
            reason = PREFIX.sub("", error.reason)
            self.problems.append(Problem(node.path or node.name, node.op, reason, error.remedy or WHAT_TO_DO))
            self.broken.add(node.name)
        if error or again:
            self.replace(node)

    def replace(self, node):
        """A tensor in the place of a layer's."""
        norm = self.fused_norm(node)
        if norm and norm.name in self.stats.first:
            self.stats.done(norm.name)
        if node.name == self.graph.output:
            self.tensors[node.name] = self.final_tensor(node.name, node.shape)
        else:
            self.lower_stand_in(node)

    def made_shape(self, node):
        """Shape of what a layer makes: heads are filled up to whole blocks."""
        attention = node if node.op == "attention" else self.projections.get(node.name, (None,))[0]
        if attention is None:
            return node.shape
        heads = attention.attrs["heads"]
        return heads * -(-node.shape[0] // heads // BLOCK) * BLOCK, *node.shape[1:]

    def lower_stand_in(self, node):
        tensor = self.tensor(node.name, self.made_shape(node), self.scales[node.name], self.stats.kept(node.name), bool(node.attrs.get("skew")),
                             self.fine.get(node.name, 0))
        self.keep(node.name, tensor)

    def done_with(self, node):
        self.state.items.clear()
        self.state.acc_next = self.state.row_next = 0

    def attend(self, attention):
        attention.run(min(SAMPLE, len(attention.pieces())))


def lowering_problems(found, target, bits=8, wide=True):
    """(Problems' list, names of layers) of an Imported's network and decoder that cannot be lowered for a Target.

    bits : 8 or 4, weights of the inner layers; wide : see compile_graph.
    """
    all_steps, problems, broken = len(found.table or [0]), [], set()
    image = Image(all_steps)
    for graph, steps, per_step in ((found.graph, all_steps, True), (found.decoder, 1, False)):
        if graph is None:
            continue
        words = [h * w for _, h, w in (graph.shape(next(iter(graph.nodes))), graph.shape(graph.output))]
        buffers = buffers_of(image, words[0], words[1], steps, 1, True)
        scales = tiled_scales(graph, unit_ranges(graph, steps), per_step)
        four = {name: 4 for name in four_bit_candidates(graph)} if bits == 4 else {}
        survey = Survey(target.config, graph, scales, four, steps, image, buffers if per_step else decoder_ends(buffers), wide).run()
        problems, broken = problems + survey.problems, broken | survey.broken
    return problems, broken

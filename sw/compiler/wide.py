"""Which tensors keep more than 8 bits: those that norms and sums read, which POST can take as int16.

Only products need bytes. A wide tensor holds int16 values of ``fine`` bits below a byte's unit, in two words a pixel and block;
a product that reads one has POST round it on its way into the scratchpad. Rounding then no longer piles up along a network's
residual connections, and a norm sees its input before it is rounded.
"""

from litediffusion.sw.compiler.scales import crosses

FINE_BITS = 4            # most bits below a byte's unit
SUM_BITS = 15            # 2 * fine + log2(pixels): leaves a factor 2 of amplitude below the limit of the sums of squares


def fine_bits(pixels):
    """Bits below a byte's unit that the statistics of so many pixels a channel have room for."""
    return max(0, min(FINE_BITS, (SUM_BITS - (pixels - 1).bit_length()) // 2))


def _able(graph, node, bytes_only):
    """True if a node's result may be wide and one of its readers gains by it."""
    made = node.op in ("conv", "add") and not node.attrs.get("function") and not node.attrs.get("times")
    if not made or node.name == graph.output or node.name in bytes_only or node.shape[1:] == (1, 1):
        return False
    readers = graph.readers(node.name)
    known = all(user.op in ("norm", "layer_norm") or (user.op in ("conv", "add", "upsample") and not (user.attrs.get("times") and i))
                and not (user.name == graph.output and i) for user, i in readers)
    return known and any(user.op in ("norm", "layer_norm") or i for user, i in readers)


def wide_tensors(graph):
    """{name: fine bits} of the tensors to be kept in 16 bits."""
    attention = [node for node in graph.nodes.values() if node.op == "attention"]
    # What attention reads, and the tokens that its values are made of, are weights of products.
    bytes_only = {name for node in attention for name in (*node.inputs, graph.nodes[node.inputs[2]].inputs[0])}
    fine = {node.name: fine_bits(node.shape[1] * node.shape[2]) for node in graph.nodes.values() if _able(graph, node, bytes_only)}
    fine = {name: bits for name, bits in fine.items() if bits}
    for norm in [node for node in graph.nodes.values() if node.op == "norm" and crosses(graph, node)]:
        sources = graph.sources(norm.inputs[0])                # must be alike
        if not all(name in fine for name in sources):
            fine = {name: bits for name, bits in fine.items() if name not in sources}
    return fine

"""Graph passes. Each rewrites the graph in place; ``run_passes`` verifies it after every one.

After the passes a conv may have a second input (added before its activation) and a ``function``; a norm may have a
``function``; upsample and stand-alone act / add nodes remain only where they could not be fused.
"""

from litediffusion.sw.graph import verify


def _drop(graph, name, replacement):
    """Remove a node whose users read ``replacement`` instead."""
    del graph.nodes[name]
    graph.replace_input(name, replacement)


def _rename(graph, old, new):
    """Give a node another name at its place."""
    graph.nodes[old].name = new
    graph.nodes = {node.name: node for node in graph.nodes.values()}
    graph.replace_input(old, new)


def share_activations(graph):
    """Keep one of several equal activations of the same tensor (torch code often repeats silu(emb))."""
    first = {}
    for node in list(graph.nodes.values()):
        if node.op == "act":
            key = (node.inputs[0], node.attrs["function"])
            if key in first:
                _drop(graph, node.name, first[key])
            else:
                first[key] = node.name


def fold_upsample(graph):
    """nearest x2 followed only by stride-1 convolutions: the convolution reads each stored pixel twice."""
    for node in list(graph.nodes.values()):
        users = graph.users(node.name)
        if node.op == "upsample" and all(u.op == "conv" and u.attrs["stride"] == 1 for u in users):
            for user in users:
                user.attrs["up"] = True
            _drop(graph, node.name, node.inputs[0])


def fuse_add(graph):
    """conv + add -> conv with a second operand, at the place of the add (both operands are computed there)."""
    for node in list(graph.nodes.values()):
        if node.op != "add":
            continue
        for at, other in ((0, 1), (1, 0)):
            conv = graph.nodes[node.inputs[at]]
            same = node.inputs[0] != node.inputs[1] and graph.shape(node.inputs[at]) == node.shape
            if same and conv.op == "conv" and len(conv.inputs) == 1 and len(graph.users(conv.name)) == 1:
                node.op, node.attrs, node.path = "conv", conv.attrs, conv.path or node.path
                node.inputs = [conv.inputs[0], node.inputs[other]]
                del graph.nodes[conv.name]
                _rename(graph, node.name, conv.name)
                break


def fuse_act(graph):
    """conv or norm followed only by one activation -> a function of the node."""
    for node in list(graph.nodes.values()):
        if node.op != "act":
            continue
        producer = graph.nodes[node.inputs[0]]
        if producer.op in ("conv", "norm") and len(graph.users(producer.name)) == 1 and not producer.attrs.get("function"):
            producer.attrs["function"] = node.attrs["function"]
            _drop(graph, node.name, producer.name)


PASSES = (share_activations, fold_upsample, fuse_add, fuse_act)


def run_passes(graph):
    """All passes, with the verifier after each. Returns the graph."""
    for rewrite in PASSES:
        rewrite(graph)
        verify(graph)
    return graph

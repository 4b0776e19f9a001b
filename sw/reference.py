"""Float reference: executes a graph with torch, for calibration and for signal-to-noise reports."""

import numpy as np
import torch
import torch.nn.functional as F

OWN = ".own"             # behind a conv's name: its result before its second operand
ACT = {"SILU": F.silu, "RELU": F.relu, "GELU": F.gelu, "GELU_TANH": lambda x: F.gelu(x, approximate="tanh"), "TANH": torch.tanh}


MOST_SCORES = 1 << 26           # scores of an attention in memory at once; with more, pictures go one by one


def _attention(q, k, v, mask, heads, keys):
    """mask [B, tokens, 1, 1] or None."""
    b, c, h, w = q.shape
    if b > 1 and b * heads * h * w * keys > MOST_SCORES:
        return torch.cat([_attention(*(None if t is None else t[i:i + 1] for t in (q, k, v, mask)), heads, keys) for i in range(b)])
    split = lambda t: t.flatten(2).reshape(b, heads, c // heads, -1)            # [B, heads, d, N]
    k, v = (t.flatten(2)[..., :keys] for t in (k, v))
    scores = split(q).transpose(2, 3) @ split(k) / (c // heads) ** 0.5
    scores = scores if mask is None else scores + mask[:, None, None, :keys, 0, 0]
    return (split(v) @ torch.softmax(scores, -1).transpose(2, 3)).reshape(b, c, h, w)


def _by_step(values, step):
    """float32 tensor [C] of an attribute that is [C] or [steps, C]; None stays None."""
    return None if values is None else torch.as_tensor(values[step] if values.ndim == 2 else values, dtype=torch.float32)


def _conv(node, x, step, cache):
    if node.name not in cache:
        cache[node.name] = torch.as_tensor(node.attrs["weight"], dtype=torch.float32)
    weight, bias = cache[node.name], _by_step(node.attrs["bias"], step)
    if node.attrs.get("up"):
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    begin = node.attrs["pad"]
    end = node.attrs.get("pad_end", begin)
    return _unpatched(F.conv2d(F.pad(x, (begin, end, begin, end)), weight, bias, node.attrs["stride"]), node.attrs.get("unpatch", 1))


def _unpatched(x, patch):
    """[B, C, pH, pW] of [B, (row, column, C), H, W]."""
    b, c, h, w = x.shape
    parts = x.reshape(b, patch, patch, c // patch ** 2, h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(b, c // patch ** 2, patch * h, patch * w)


def _function(attrs, y):
    """The fused activation of a node, if it has one."""
    return ACT[attrs["function"]](y) if attrs.get("function") else y


def _layer_norm(attrs, x, others):
    weights = [None if attrs[k] is None else torch.as_tensor(attrs[k], dtype=torch.float32) for k in ("gamma", "beta")]
    y = F.layer_norm(x.movedim(1, -1), x.shape[1:2], *weights, attrs["eps"]).movedim(-1, 1)
    return y * others[0] + others[1] if others else y


def _combine(node, y, others, watch):
    """A conv's result with its other operands."""
    if not others:
        return y
    watch(node.name + OWN, y)
    if node.attrs.get("times"):
        y, others = y * others[0], others[1:]
    return y + others[0] if others else y


def _node(node, args, step, labels, x, cache, watch):
    a = node.attrs
    if node.op == "input":
        return x[node.name] if isinstance(x, dict) else x
    if node.op == "step_table":
        return torch.as_tensor(a["values"][step], dtype=torch.float32)[None, :, None, None].expand(x.shape[0], -1, 1, 1)
    if node.op == "label_table":
        rows = torch.as_tensor(a["values"], dtype=torch.float32)[labels]
        return rows.reshape(len(rows), *node.shape)
    if node.op == "condition_table":
        return torch.as_tensor(a["values"][step], dtype=torch.float32)[labels][:, :, None, None]
    if node.op == "constant":
        return torch.as_tensor(a["values"], dtype=torch.float32)[None].expand(x.shape[0], -1, -1, -1)
    if node.op == "conv":
        return _function(a, _combine(node, _conv(node, args[0], step, cache), args[1:], watch))
    if node.op == "norm":
        gamma, beta = (_by_step(a[k], step) for k in ("gamma", "beta"))
        return _function(a, F.group_norm(args[0], a["groups"], gamma, beta, a["eps"]))
    if node.op == "layer_norm":
        return _layer_norm(a, args[0], args[1:])
    if node.op == "act":
        return ACT[a["function"]](args[0])
    if node.op == "add":
        return args[0] + args[1]
    if node.op == "mul":
        return args[0] * args[1]
    if node.op == "modulate":
        scale, shift = args[1].chunk(2, 1)
        return args[0] * (1 + scale) + shift
    if node.op == "cat":
        return torch.cat(args, 1)
    if node.op == "attention":
        return _attention(*args[:3], args[3] if len(args) > 3 else None, a["heads"], a["keys"])
    return F.interpolate(args[0], scale_factor=2.0, mode="nearest")


@torch.no_grad()
def evaluate(graph, x, step, labels, watch=None, cache=None):
    """Output [B, C, H, W] float32 of the graph at sampler step ``step`` (an index, not a timestep).

    x [B, C, H, W], labels [B]. ``watch(name, tensor)`` sees every tensor, and as "name.own" (OWN) a conv's result before its
    second operand. ``cache`` (a dict) keeps converted weights.
    """
    cache, watch = {} if cache is None else cache, watch or (lambda name, tensor: None)
    x, labels = torch.as_tensor(np.asarray(x), dtype=torch.float32), torch.as_tensor(np.asarray(labels), dtype=torch.long)
    return _run(graph, x, step, labels, watch, cache)


@torch.no_grad()
def evaluate_with(graph, inputs, watch):
    """Output [1, C, H, W] float32 of a graph with several inputs {name: [C, H, W]}; watch : as for ``evaluate``."""
    x = {name: torch.as_tensor(values, dtype=torch.float32)[None] for name, values in inputs.items()}
    return _run(graph, x, 0, None, watch, {})


def _run(graph, x, step, labels, watch, cache):
    values, last = {}, {i: node.name for node in graph.nodes.values() for i in node.inputs}
    for node in graph.nodes.values():
        values[node.name] = _node(node, [values[i] for i in node.inputs], step, labels, x, cache, watch)
        watch(node.name, values[node.name])
        for name in set(node.inputs):           # a large network's tensors are not all in memory at once
            if last[name] == node.name and name != graph.output:
                del values[name]
    return values[graph.output]

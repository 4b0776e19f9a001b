"""Import: the graph computes what the torch model computes; what cannot run is named before anything is built."""

import numpy as np
import pytest
import torch
from torch import nn

from litediffusion.sw.graph import Graph, GraphError, Node, macs, verify
from litediffusion.sw.importer import UnsupportedLayer, import_unet
from litediffusion.sw.passes import run_passes
from litediffusion.sw.pipeline import import_model
from litediffusion.sw.sources import load_model
from litediffusion.sw.reference import evaluate
from litediffusion.sw.schedule import trailing_timesteps


@pytest.mark.parametrize("passes", [False, True])
def test_graph_equals_torch(digits, passes):
    timesteps = trailing_timesteps(10)
    graph = import_unet(digits.model, digits.shape, timesteps)
    if passes:
        run_passes(graph)
    x, y = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 7, 9, 10])
    for step in (0, 9):
        want = digits.model(x, torch.full((4,), int(timesteps[step])), y)
        assert torch.allclose(evaluate(graph, x, step, y), want, atol=1e-4)


def test_passes_leave_only_what_the_engine_runs(digits):
    graph, _ = import_model(digits, 5)
    assert {n.op for n in graph.nodes.values()} == {"input", "step_table", "label_table", "conv", "norm", "cat", "attention"}
    assert sum(macs(graph).values()) == 17_674_240


class Wrapper(nn.Module):
    """A model with one layer under test."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.block, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Sequential(layer), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x, t, y):
        return self.last(self.block(self.first(x)))


@pytest.mark.parametrize("layer, text", [
    (nn.Conv2d(16, 16, 3, padding=1, groups=16), "groups=16"),
    (nn.Conv2d(16, 16, 3, padding=2, dilation=2), "dilation"),
    (nn.Conv2d(16, 16, 3, padding=1, stride=3), "stride"),
    (nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"), "padding_mode"),
    (nn.LSTM(16, 16), "LSTM"), (nn.BatchNorm2d(16), "BatchNorm2d"), (nn.Upsample(scale_factor=3), "scale_factor=3"),
])
def test_unsupported_layers_are_named_with_their_place(layer, text):
    with pytest.raises(UnsupportedLayer, match=text) as error:
        import_unet(Wrapper(layer).eval(), (1, 16, 16), [0])
    assert "block.0" in str(error.value)


def test_average_pool_becomes_a_conv():
    model = Wrapper(nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2))).eval()
    graph = run_passes(import_unet(model, (1, 16, 16), [0]))
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(evaluate(graph, x, 0, [0, 0]), model(x, None, None), atol=1e-5)
    with pytest.raises(UnsupportedLayer, match="only 2x2"):
        import_unet(Wrapper(nn.AvgPool2d(3)).eval(), (1, 16, 16), [0])


def test_unsupported_function_is_named():
    class Model(nn.Module):
        def forward(self, x, t, y):
            return torch.cumsum(x, 1)
    with pytest.raises(UnsupportedLayer, match="cumsum"):
        import_unet(Model(), (1, 16, 16), [0])


class Scaled(nn.Module):
    """A model of a conv and one expression, given as a function."""

    def __init__(self, expression):
        super().__init__()
        self.conv, self.time, self.expression = nn.Conv2d(1, 1, 3, padding=1), nn.Embedding(1000, 1), expression

    def forward(self, x, t, y):
        return self.expression(self, self.conv(x), t)


@pytest.mark.parametrize("expression, text", [
    (lambda m, h, t: torch.add(h, h, alpha=0.5), "only two tensors"), (lambda m, h, t: h + 1.0, "only two tensors"),
    (lambda m, h, t: h + m.time(t)[:, :, None, None], "not the label"), (lambda m, h, t: (h, h), "must be one tensor"),
    (lambda m, h, t: torch.nn.functional.gelu(h, approximate="tanh"), "only the exact one"),
    (lambda m, h, t: torch.cat([h, h], 1), "must predict a tensor like its input"),
])
def test_expressions_that_mean_something_else_are_refused(expression, text):
    with pytest.raises(GraphError, match=text):
        import_unet(Scaled(expression).eval(), (1, 16, 16), [0, 10])


def test_a_fourth_input_is_refused():
    class Model(nn.Module):
        def forward(self, x, t, y, context):
            return x
    with pytest.raises(UnsupportedLayer, match="fourth input"):
        import_unet(Model(), (1, 16, 16), [0])


class ScaledAttention(nn.Module):
    """Looks like the attention block that the importer knows, but leaves out its residual path."""

    def __init__(self):
        super().__init__()
        self.heads, self.norm = 1, nn.GroupNorm(2, 16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        return self.out(self.norm(x).flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


def test_a_block_with_another_formula_is_found_out():
    torch.manual_seed(0)
    with pytest.raises(GraphError, match="differs from the model"):
        import_unet(Wrapper(ScaledAttention()).eval(), (1, 16, 16), [0])


def test_a_tensor_added_to_itself_survives_the_passes():
    graph = run_passes(import_unet(Scaled(lambda m, h, t: h + h).eval(), (1, 16, 16), [0]))
    assert [n.op for n in graph.nodes.values()] == ["input", "conv", "add"]


def test_untraceable_control_flow_is_an_error():
    class Model(nn.Module):
        def forward(self, x, t, y):
            return x if x.sum() > 0 else -x
    with pytest.raises(UnsupportedLayer, match="cannot be traced"):
        import_unet(Model(), (1, 16, 16), [0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_refused(value):
    source = load_model("digits")
    source.model.down1.conv2.weight[3, 2, 1, 0] = value
    with pytest.raises(GraphError, match=r"down1\.conv2.*1 NaN or infinite"):
        import_model(source, 3)


def test_verifier_finds_wrong_shapes():
    graph = Graph()
    graph.add(Node("x", "input", [], (16, 8, 8)))
    graph.output = graph.add(Node("y", "conv", ["x"], (16, 8, 8), {"weight": np.zeros((16, 32, 1, 1)), "bias": None, "stride": 1,
                                                                   "pad": 0}))
    with pytest.raises(GraphError, match="does not fit input"):
        verify(graph)
    graph.nodes["y"].inputs = ["z"]
    with pytest.raises(GraphError, match="not computed before"):
        verify(graph)

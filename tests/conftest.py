"""Shared pieces: one calibration of the digits model for the whole test session."""


import pytest

from litediffusion.cores.config import PRESETS

STEPS = 4
CONFIG = PRESETS["ecpix5"]


@pytest.fixture(scope="session")
def config():
    return CONFIG


@pytest.fixture(scope="session")
def conflict():
    """conflict(first, second): True if item ``second`` must not start before ``first`` is complete."""
    overlap = lambda a, b: any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)
    return lambda first, second: (overlap(first.writes, second.reads) or overlap(first.writes, second.writes)
                                  or overlap(first.reads, second.writes))


@pytest.fixture(scope="session")
def digits():
    """ModelSource of the packaged digits model."""
    from litediffusion.sw.sources import load_model
    return load_model("digits")


@pytest.fixture(scope="session")
def ranges(digits):
    """Calibration of the digits model over a few steps."""
    from litediffusion.sw.calibrate import calibrate
    from litediffusion.sw.pipeline import import_model
    graph, table = import_model(digits, STEPS)
    return calibrate(graph, table, range(10), 10, 2.0, images=4)


@pytest.fixture(scope="session")
def program(digits, ranges):
    """The digits model compiled for a few steps at W8A8."""
    from litediffusion.sw.pipeline import compile_model
    return compile_model(digits, steps=STEPS, ranges=ranges)


@pytest.fixture(scope="session")
def small_program():
    """A network of two layers on pictures of three colours, small enough for an SD card that is read bit by bit."""
    import torch

    from litediffusion.sw.pipeline import compile_model
    from litediffusion.sw.sources import ModelSource

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.label = torch.nn.Embedding(4, 16)
            self.first, self.last = torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 3, 3, padding=1)

        def forward(self, x, t, y):
            return self.last(torch.nn.functional.silu(self.first(x) + self.label(y)[:, :, None, None]))

    torch.manual_seed(11)
    return compile_model(ModelSource(Small().eval(), (3, 8, 8), 3, 3, "small"), steps=3, images=4)

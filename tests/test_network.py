"""The figures of a whole network: its layer table, the sum over layers, times on boards, and the command."""

from collections import Counter
import json

import pytest
from typer.testing import CliRunner

from litediffusion.cores.config import PRESETS, EngineConfig
from litediffusion.sw import network_cost, picture_time
from litediffusion.sw.cli import main, network
from litediffusion.sw.ddpm_unet import LayerShape, layer_table, unet_layers
from litediffusion.sw.devices.model import ModelDevice

SMALL = LayerShape("conv", 32, (32, 32), 8, 3, norm=True)


def test_cifar10_table():
    """Parameters and MACs of google/ddpm-cifar10-32, attention included, counted from the published weights."""
    table = layer_table("cifar10")
    assert sum(layer.parameters * n for layer, n in table.items()) == 35_746_307
    assert sum(layer.macs * n for layer, n in table.items()) == 6_221_856_768
    convs = Counter()
    for layer, n in table.items():
        if layer.kind == "conv":
            convs[layer.kernel, layer.resample == "down"] += n
    # 13 of the model's 37 products with 1x1 kernels are shortcuts; the others are the projections of six attentions.
    assert convs == {(3, False): 49, (3, True): 3, (1, False): 37 - 4 * 6}
    attention = {layer.size: n for layer, n in table.items() if layer.kind == "attention"}
    assert attention == {16: 5, 4: 1}


def test_unet_of_one_level():
    layers = unet_layers(channels=(16,), blocks=1, attention=(), size=8)
    assert [(x.inputs, x.outputs) for x in layers if x.kind == "conv" and x.kernel == 3] == \
        [((3,), 16), ((16,), 16), ((16,), 16), *[((16,), 16)] * 4, ((16, 16), 16), ((16,), 16), ((16, 16), 16), ((16,), 16), ((16,), 3)]
    assert not any(x.resample for x in layers)


def test_unknown_network():
    with pytest.raises(ValueError, match="imagenet.*cifar10"):
        layer_table("imagenet")


@pytest.mark.parametrize("layer", [
    SMALL, LayerShape("conv", 32, (3,), 8, 3), LayerShape("conv", 32, (32,), 8, 3, "up"), LayerShape("conv", 32, (32,), 4, 3, "down"),
    LayerShape("conv", 3, (32,), 8, 3, norm=True, final=True), LayerShape("conv", 32, (32,), 8, 3, norm=True, residual=True),
    LayerShape("attention", 32, (32,), 4)])
@pytest.mark.parametrize("bits", [8, 4])
def test_layers_run_and_are_compared(layer, bits):
    config = EngineConfig()
    run = network_cost.LayerRun(config, layer, bits)
    device = FakeDevice(config)
    assert run.run(device)["cycles"] == 1000
    assert run.output.shape == (layer.outputs, layer.size, layer.size)
    assert device.executed == (2 if layer.norm or layer.kind == "attention" else 1)


class FakeDevice(ModelDevice):
    """The golden machine with counters of 1000 cycles; ``fault``: a bit of every output flips."""

    def __init__(self, config, fault=False):
        super().__init__(config)
        self.executed, self.fault = 0, fault

    def run_program(self, address, length, **registers):
        self.executed += 1
        super().run_program(address, length, **registers)
        return {"cycles": 1000, "dram_reads": 7, "dram_writes": 3}

    def close(self):
        pass

    def read(self, offset, length):
        data = bytearray(super().read(offset, length))
        data[-1] ^= self.fault
        return bytes(data)


def test_a_wrong_output_is_named():
    with pytest.raises(ValueError, match="32\\+32 -> 32 @8x8.*differs"):
        network_cost.LayerRun(EngineConfig(), SMALL, 8).run(FakeDevice(EngineConfig(), fault=True))


def test_sums_over_layers():
    table = Counter({SMALL: 3, LayerShape("embedding", 32, (64,)): 5, LayerShape("conv", 16, (16,), 8): 2})
    figures = network_cost.network_figures(FakeDevice(EngineConfig()), EngineConfig(), table, 8, 4)
    macs = 3 * 32 * 64 * 9 * 64 + 5 * 32 * 64 + 2 * 256 * 64
    assert figures["macs"] == macs and figures["cycles"] == 5000 and figures["update_cycles"] == 1000
    assert figures["dram_bytes"] == 5 * 16 * 10 and figures["weight_bytes"] == (3 * 32 * 64 * 9 + 2 * 256) // 2
    assert figures["utilisation"] == pytest.approx((macs - 5 * 32 * 64) / 256 / 5000)
    assert [row["cycles"] for row in figures["layers"]] == [1000, 0, 1000]


def board_report(board, mhz, reached, engine="ecpix5"):
    return {"board": board, "engine": engine, "sys_clk_mhz": mhz, "timing_met": reached >= mhz,
            "clocks": {"sys": {"reached_mhz": reached, "asked_mhz": mhz}, "eth": {"reached_mhz": 200.0, "asked_mhz": 125.0}}}


RUN = {"boards": ["ecpix5", "ulx3s"], "word_cycles": 2, "macs_a_cycle": 128, "post_lanes": 8, "bits": 8, "cycles": 7_400_000,
       "update_cycles": 100_000, "utilisation": 0.9, "weight_bytes": 35_700_000}


def test_time_of_a_picture():
    assert picture_time.picture_seconds(RUN, 75.0) == pytest.approx(50 * 7.5e6 / 75e6)
    reports = [board_report("ulx3s", 75.0, 60.0), board_report("ecpix5", 75.0, 80.0), board_report("arty", 75.0, 80.0)]
    table = picture_time.cells({"runs": [RUN]}, reports)
    assert [row[0] for row in table[1:-1]] == ["ecpix5", "ulx3s"] and table[-1][-1] == "63"
    assert table[1][-1] == "5.0" and table[1][3] == "75.0" and table[1][5] == "35.7 (512)"
    assert table[2][3] == "60.0 (75.0 not met)" and table[2][-1] == "6.2 (weights do not fit the memory)"
    assert len({len(row) for row in table}) == 1


def test_table_goes_into_the_readme(tmp_path, capsys):
    begin, end = picture_time.MARKERS
    readme, data, report = tmp_path / "README.md", tmp_path / "network.json", tmp_path / "report.json"
    readme.write_text(f"before\n{begin}old\n{end}after\n")
    data.write_text(json.dumps({"runs": [RUN]}))
    report.write_text(json.dumps(board_report("ecpix5", 75.0, 80.0)))
    picture_time.main([str(data), str(report), "--readme", str(readme)])
    text = readme.read_text()
    assert "old" not in text and "| ecpix5 | 128 |" in text and text.startswith("before\n") and text.endswith("after\n")


def test_boards_that_are_alike_are_measured_once(tmp_path):
    presets = {"ecpix5": "ecpix5", "ulx3s": "ecpix5", "colorlight_i9": "colorlight", "colorlight_i5": "colorlight"}
    found = network.engines(presets)
    assert sorted(found.values()) == [["colorlight_i9", "colorlight_i5"], ["ecpix5"], ["ulx3s"]]
    assert all(config.hash == PRESETS[presets[board]].hash for (config, _), boards in found.items() for board in boards)
    with pytest.raises(ValueError, match="nowhere.*known"):
        network.engines({"nowhere": "ecpix5"})
    report = tmp_path / "report.json"
    report.write_text(json.dumps(board_report("ulx3s", 50, 51)))
    assert network.boards_of([report]) == {"ulx3s": "ecpix5"}
    assert network.boards_of([]) == {"ecpix5": "ecpix5", "ulx3s": "ecpix5", "colorlight_i9": "colorlight"}


def test_command(tmp_path, monkeypatch):
    monkeypatch.setattr("litediffusion.sw.devices.rtl.RtlDevice", lambda config, word_cycles: FakeDevice(config))
    monkeypatch.setattr("litediffusion.sw.ddpm_unet.layer_table", lambda name: Counter({SMALL: 2}))
    path = tmp_path / "made" / "network.json"
    result = CliRunner().invoke(main.app, ["network", "cifar10", "-o", str(path), "--bits", "8", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    assert report["network"] == "ddpm-cifar10-32" and all(run["cycles"] == 2000 for run in report["runs"])
    assert sorted(b for run in report["runs"] for b in run["boards"]) == sorted(network.DEFAULT_BOARDS)
    assert CliRunner().invoke(main.app, ["network", "-o", str(path), "--bits", "5"]).exit_code == 1

"""Devices by name: ``model``, ``rtl``, ``litex://HOST:PORT[?udp=ADDRESS]``."""

import os
from urllib.parse import parse_qs, urlparse

from litediffusion.cores.config import PRESETS
from litediffusion.soc.memory_map import WINDOW_SIZE
from litediffusion.sw.devices.errors import DeviceError

CSR_CSV = "build/sim/csr.csv"


def open_device(name, config=PRESETS["ecpix5"], csr_csv=None, window_size=WINDOW_SIZE):
    """Device by its name. ``csr_csv``: register map of the SoC (litex only; default: $LITEDIFFUSION_CSR or build/sim/csr.csv).
    ``window_size``: bytes of DRAM of the model and the rtl device; a SoC has what it has.

    ``udp=``: where the SoC's bulk transfer answers, HOST or HOST:PORT, or none (default: the address that the SoC was built
    with; a simulation: this host).
    """
    if name == "model":
        from litediffusion.sw.devices.model import ModelDevice
        return ModelDevice(config, window_size)
    if name == "rtl":
        from litediffusion.sw.devices.rtl import RtlDevice
        return RtlDevice(config, window_size)
    url = urlparse(name)
    if url.scheme == "litex":
        from litediffusion.sw.devices.litex import LitexDevice
        options = parse_qs(url.query)
        unknown = set(options) - {"udp"}
        if unknown:
            raise DeviceError(f"device {name!r}: unknown option {', '.join(sorted(unknown))}; known: udp")
        return LitexDevice(url.hostname or "localhost", url.port or 1234, csr_csv or os.environ.get("LITEDIFFUSION_CSR", CSR_CSV),
                           options.get("udp", [None])[0])
    raise DeviceError(f"device {name!r} is unknown; use model, rtl or litex://HOST:PORT")

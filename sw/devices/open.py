"""Devices by name: ``model``, ``rtl``, ``litex://HOST:PORT[?udp=ADDRESS]``."""

import os
from urllib.parse import parse_qs, urlparse

from litediffusion.cores.config import PRESETS
from litediffusion.sw.devices.errors import DeviceError

CSR_CSV = "build/sim/csr.csv"


def open_device(name, config=PRESETS["ecpix5"], csr_csv=None):
    """Device by its name. ``csr_csv``: register map of the SoC (litex only; default: $LITEDIFFUSION_CSR or build/sim/csr.csv).

    ``udp=``: where the SoC's bulk transfer answers, HOST or HOST:PORT, or none (default: the address that the SoC was built
    with; a simulation: this host).
    """
    if name == "model":
        from litediffusion.sw.devices.model import ModelDevice
        return ModelDevice(config)
    if name == "rtl":
        from litediffusion.sw.devices.rtl import RtlDevice
        return RtlDevice(config)
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

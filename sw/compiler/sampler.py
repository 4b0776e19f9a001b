"""The small programs around the network: starting noise, sampler update, latents and pixels of a finished image."""

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import Item
from litediffusion.sw.compiler.records import RECORD, fixed1
from litediffusion.sw.compiler.items import Resource
from litediffusion.sw.schedule import noise_coefs

PIXEL_FRACTION = 6


def coefficient_records(table):
    """Parameter records [steps, 1] of sampler coefficients."""
    record = np.zeros((len(table), 1), RECORD)
    record["offset"] = np.array([[c[name] for name in isa.SAMPLE_COEFS] for c in table])[:, None]
    return record


def _params(record, stepped):
    data = np.ascontiguousarray(record).view(np.uint8).reshape(len(record), -1)
    return Resource("PARAM", data if stepped else data[0], 0, stepped=stepped)


def _load(dram, words, addr, **index):
    return Item("LOAD", dict(dram=dram, n0=1, n1=1, n2=words, addr=addr, **index), 0, writes=[("SPM", addr, addr + words)])


def _store(dram, words, addr, **index):
    return Item("STORE", dict(dram=dram, n0=1, n1=1, n2=words, addr=addr, **index), 0, reads=[("SPM", addr, addr + words)])


def init_items(buffers, words, channels):
    """x = z: latents of the starting noise."""
    params = _params(coefficient_records([noise_coefs()]), False)
    span = [("SPM", 0, 2 * words)]
    sample = Item("SAMPLE", dict(n=words, nch=channels, x=0, e=0, u=0, m=words, d=0, md=words), 0, span, span, {"p": (params, 0)})
    return [sample, _store(buffers["latent"], words, 0)]


def update_items(buffers, words, channels, table):
    """x' from x and the eps of both slots; x' also goes to the trajectory [image][step]."""
    x, e, u, m = (i * words for i in range(4))
    params = _params(coefficient_records(table), True)
    sample = Item("SAMPLE", dict(n=words, nch=channels, x=x, e=e, u=u, m=m, d=x, md=m), 0, [("SPM", 0, 4 * words)],
                  [("SPM", x, x + words), ("SPM", m, m + words)], {"p": (params, 0)})
    trajectory = dict(idx0=isa.INDEX["IMAGE"], idx0_stride=buffers["image_stride"], idx1=isa.INDEX["STEP"], idx1_stride=16 * words)
    return [_load(buffers["latent"], words, x), _load(buffers["eps"], words, e), _load(buffers["eps"] + 16 * words, words, u),
            sample, _store(buffers["latent"], words, x), _store(buffers["trajectory"], words, x, **trajectory)]


def finish_items(buffers, words):
    """uint8 pixels round((x + 1) * 127.5), saturated, to the output [image]."""
    record = np.zeros((1, 1), RECORD)
    m, shift = fixed1(np.array([127.5 * 2 ** PIXEL_FRACTION / 4096]), "pixels")
    record["mult"], record["shift"], record["offset"] = m[0], shift[0], round(127.5 * 2 ** PIXEL_FRACTION)
    record["omult"], record["oshift"] = 1, PIXEL_FRACTION
    x, pixels = [("SPM", 0, words)], [("SPM", words, 2 * words)]
    post = Item("POST", dict(n0=1, n1=1, n2=words, src=isa.SRC["INT16"], as2=2, dst=isa.DST["SPM"], out=isa.OUT["UINT8"],
                             d=2 * words, ds2=2), 0, x, pixels, {"p": (_params(record, False), 0)})
    return [_load(buffers["latent"], words, 0), post,
            _store(buffers["pixels"], words, words, idx0=isa.INDEX["IMAGE"], idx0_stride=buffers["image_stride"])]

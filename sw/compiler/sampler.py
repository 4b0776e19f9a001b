"""The small programs around the network: starting noise, sampler update, latents and pixels of a finished image."""

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import WORD_BYTES, Item, Resource
from litediffusion.sw.compiler.records import RECORD, fixed1
from litediffusion.sw.schedule import noise_coefs

PIXEL_FRACTION = 6


def coefficient_records(table):
    """Parameter records [steps, 1] of sampler coefficients."""
    record = np.zeros((len(table), 1), RECORD)
    record["offset"] = np.array([[c[name] for name in isa.SAMPLE_COEFS] for c in table])[:, None]
    return record


def needs_previous(table):
    """True for a sampler that looks at the prediction of the step before."""
    return any(coefs["d"] for coefs in table)


def _params(record, stepped):
    data = np.ascontiguousarray(record).view(np.uint8).reshape(len(record), -1)
    return Resource("PARAM", data if stepped else data[0], 0, stepped=stepped)


def _places(dram, words, addr):
    """Intervals of DRAM and SPM of a transfer."""
    return [("DRAM", dram // WORD_BYTES, dram // WORD_BYTES + words)], [("SPM", addr, addr + words)]


def _load(dram, words, addr, **index):
    there, here = _places(dram, words, addr)
    return Item("LOAD", dict(dram=dram, n0=1, n1=1, n2=words, addr=addr, **index), 0, there, here)


def _store(dram, words, addr, **index):
    there, here = _places(dram, words, addr)
    return Item("STORE", dict(dram=dram, n0=1, n1=1, n2=words, addr=addr, **index), 0, here, there)


def pieces(config, words):
    """[(first, count)] of a picture's words: a piece of state, both eps and prediction fit the scratchpad."""
    most = config.spm_words // 4
    return [(at, min(most, words - at)) for at in range(0, words, most)]


def init_items(config, buffers, words, channels, table):
    """x = z: latents of the starting noise."""
    params, items = _params(coefficient_records([noise_coefs(table)]), False), []
    for first, count in pieces(config, words):
        span = [("SPM", 0, 2 * count)]
        items += [Item("SAMPLE", dict(n=count, nch=channels, x=0, e=0, u=0, m=count, d=0, md=count, z=config.n_lanes * first), 0, span, span,
                       {"p": (params, 0)}),
                  _store(buffers["latent"] + 16 * first, count, 0)]
    return items


def update_items(config, buffers, words, channels, table):
    """x' from x and the eps of both slots; x' also goes to the trajectory [image][step].

    The prediction stays in DRAM for the next step if the table asks for it.
    """
    params, items, remembers = _params(coefficient_records(table), True), [], needs_previous(table)
    trajectory = dict(idx0=isa.INDEX["IMAGE"], idx0_stride=buffers["image_stride"], idx1=isa.INDEX["STEP"], idx1_stride=16 * words)
    for first, count in pieces(config, words):
        at = lambda name, slot=0: buffers[name] + 16 * (first + slot * words)
        x, e, u, m = (i * count for i in range(4))
        sample = Item("SAMPLE", dict(n=count, nch=channels, x=x, e=e, u=u, m=m, d=x, md=m, z=config.n_lanes * first), 0,
                      [("SPM", 0, 4 * count)], [("SPM", x, x + count), ("SPM", m, m + count)], {"p": (params, 0)})
        items += [_load(at("latent"), count, x), _load(at("eps"), count, e), _load(at("eps", 1), count, u)]
        items += [_load(at("previous"), count, m)] if remembers else []
        items += [sample, _store(at("latent"), count, x), _store(at("trajectory"), count, x, **trajectory)]
        items += [_store(at("previous"), count, m)] if remembers else []
    return items


def finish_items(config, buffers, words):
    """uint8 pixels round((x + 1) * 127.5), saturated, to the output [image]."""
    record, items = np.zeros((1, 1), RECORD), []
    m, shift = fixed1(np.array([127.5 * 2 ** PIXEL_FRACTION / 4096]), "pixels")
    record["mult"], record["shift"], record["offset"] = m[0], shift[0], round(127.5 * 2 ** PIXEL_FRACTION)
    record["omult"], record["oshift"] = 1, PIXEL_FRACTION
    params = _params(record, False)
    for first, count in pieces(config, words):
        x, pixels = [("SPM", 0, count)], [("SPM", count, 2 * count)]
        post = Item("POST", dict(n0=1, n1=1, n2=count, src=isa.SRC["INT16"], as2=2, dst=isa.DST["SPM"], out=isa.OUT["UINT8"],
                                 d=2 * count, ds2=2), 0, x, pixels, {"p": (params, 0)})
        items += [_load(buffers["result"] + 16 * first, count, 0), post,
                  _store(buffers["pixels"] + 16 * first, count, count, idx0=isa.INDEX["IMAGE"], idx0_stride=buffers["image_stride"])]
    return items

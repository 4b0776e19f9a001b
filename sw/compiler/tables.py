"""Tables in DRAM with a row for every step or label."""

import numpy as np

BLOCK = 16


def quantise_rows(values, scale):
    """int8 rows of a table."""
    return np.clip(np.round(values / scale), -128, 127).astype(np.int8)


def table_rows(quantised):
    """uint8 [rows, bytes] as LOAD takes them of int8 [rows, C] or [rows, C, tokens]: block, token, channel."""
    rows, c = quantised.shape[:2]
    padded = np.zeros((rows, -(-c // BLOCK) * BLOCK, quantised[0, 0].size), np.int8)
    padded[:, :c] = quantised.reshape(rows, c, -1)
    blocks = padded.reshape(rows, -1, BLOCK, padded.shape[2]).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(blocks).reshape(rows, -1).view(np.uint8)

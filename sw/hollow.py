"""Arrays with a shape and no content: the weights of a network that is only looked at.

A hollow array is zeros behind strides of 0, so it takes no memory whatever its shape. What handles weights keeps hollow ones
hollow, and so does the image of a program.
"""

import numpy as np


def hollow(shape, dtype=np.float32):
    """A hollow array of a shape; it cannot be written."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def is_hollow(array):
    """True for an array of ``hollow``, or a view of one."""
    return array.size > 1 and not any(array.strides)

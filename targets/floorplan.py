"""Places of the array's multipliers on an ECP5.

nextpnr puts multiplier blocks where one is free, which scatters a lane's over the chip: on the ECPIX-5 half of all wire was
theirs. Given a place for each of them, side by side by lane, the placer brings the lane's logic to them.
"""

# MULT18X18D blocks lie in rows, four in every nine columns. By device: first columns of the nines, the rows, and the lanes in
# a row: (row, number of its first multiplier in the row), lane by lane.
COLUMNS = {
    "85": (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114),
}
BLOCKS = ((0, "MULT18_0"), (1, "MULT18_1"), (4, "MULT18_4"), (5, "MULT18_5"))
LANES = {
    "85": ((58, 2), (58, 18), (58, 34), (34, 34), (34, 2), (34, 18), (10, 2), (10, 18)),
}


def bel(size, row, number):
    """nextpnr's name of a row's multiplier."""
    nine, block = divmod(number, len(BLOCKS))
    offset, name = BLOCKS[block]
    return f"X{COLUMNS[size][nine] + offset}/Y{row}/{name}"


def place_array(array, size):
    """Give each multiplier of a DotArray (array_clock = 2, primitives = "ecp5") its place on a device of ``size``."""
    for (row, first), multipliers in zip(LANES[size], array.multipliers):
        for k, multiplier in enumerate(multipliers):
            multiplier.primitive.attr.add(("BEL", bel(size, row, first + k)))

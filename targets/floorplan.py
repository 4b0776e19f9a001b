"""Places of the array's multipliers on an ECP5.

nextpnr puts multiplier blocks where one is free, which scatters a lane's over the chip: on the ECPIX-5 half of all wire was
theirs. Given a place for each of them, side by side by lane, the placer brings the lane's logic to them.
"""

# MULT18X18D blocks lie in rows, four in every nine columns: the first columns of the nines of an 85F.
COLUMNS = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
BLOCKS = ((0, "MULT18_0"), (1, "MULT18_1"), (4, "MULT18_4"), (5, "MULT18_5"))
# (row, number of the first multiplier in the row) of each lane; lanes that share their operands' registers are neighbours. The
# free ones of row 58 are POST's, beside the memories that it works on.
LANES = ((58, 2), (58, 18), (34, 2), (34, 18), (34, 34), (10, 34), (10, 2), (10, 18))


def bel(row, number):
    """nextpnr's name of a row's multiplier."""
    nine, block = divmod(number, len(BLOCKS))
    offset, name = BLOCKS[block]
    return f"X{COLUMNS[nine] + offset}/Y{row}/{name}"


def place_array(array, device):
    """Give each multiplier of a DotArray (array_clock = 2, primitives = "ecp5") its place; leaves devices other than an 85F alone."""
    if "-85F" not in device:
        return
    for (row, first), multipliers in zip(LANES, array.multipliers):
        for k, multiplier in enumerate(multipliers):
            multiplier.primitive.attr.add(("BEL", bel(row, first + k)))

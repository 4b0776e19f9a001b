"""Places of the array's multipliers on an ECP5.

nextpnr puts multiplier blocks where one is free, which scatters a lane's over the chip: on the ECPIX-5 half of all wire was
theirs. Given a place for each of them, side by side by lane, the placer brings the lane's logic to them.
"""

from dataclasses import dataclass

# MULT18X18D blocks lie in rows, four in every nine columns.
BLOCKS = ((0, "MULT18_0"), (1, "MULT18_1"), (4, "MULT18_4"), (5, "MULT18_5"))


@dataclass(frozen=True)
class Floorplan:
    """columns : the first columns of a device's nines; room : multipliers of a lane; lanes : (row, number of the first multiplier in the
    row) of each lane. Lanes that share their operands' registers are neighbours."""
    columns: tuple
    room: int
    lanes: tuple

    def bel(self, row, number):
        """nextpnr's name of a row's multiplier."""
        nine, block = divmod(number, len(BLOCKS))
        offset, name = BLOCKS[block]
        return f"X{self.columns[nine] + offset}/Y{row}/{name}"


# The free ones of an 85F's row 58 are POST's, beside the memories that it works on.
FLOORPLANS = {
    "85F": Floorplan((4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114), 16,
                     ((58, 2), (58, 18), (34, 2), (34, 18), (34, 34), (10, 34), (10, 2), (10, 18))),
    "45F": Floorplan((4, 13, 22, 31, 42, 51, 60, 69, 78), 8, tuple((row, first) for row in (46, 22) for first in (0, 8, 16, 24))),
}


def place_array(array, device, lanes=()):
    """Give each multiplier of a DotArray (array_clock = 2, primitives = "ecp5") its place; leaves unknown devices and larger arrays alone.

    lanes : as in a Floorplan, for a board where other places are better than the device's.
    """
    plan = next((plan for size, plan in FLOORPLANS.items() if f"-{size}" in device), None)
    if plan is None or len(array.multipliers[0]) > plan.room:
        return
    for (row, first), multipliers in zip(lanes or plan.lanes, array.multipliers):
        for k, multiplier in enumerate(multipliers):
            multiplier.primitive.attr.add(("BEL", plan.bel(row, first + k)))

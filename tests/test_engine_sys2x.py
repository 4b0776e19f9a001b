"""The whole engine with its multipliers at twice the system clock: same memory and same counters as on one clock."""

from dataclasses import replace

from litediffusion.cores.config import PRESETS
from litediffusion.sw.devices.exercise import REGISTERS, WINDOW_SIZE, make_exercise
from litediffusion.sw.devices.rtl import RtlDevice

CONFIG = PRESETS["ecpix5"]
FAST = replace(CONFIG, name="sys2x", array_clock=2)     # a library of its own: built once, then kept


def test_programs_on_one_clock_and_on_two():
    for seed in (300, 301):
        exercise = make_exercise(CONFIG, seed, instructions=150)
        slow, fast = RtlDevice(CONFIG, WINDOW_SIZE), RtlDevice(FAST, WINDOW_SIZE)
        counters = []
        for device in (slow, fast):
            device.write(0, exercise.data)
            counters.append(device.run_program(0, exercise.length, **REGISTERS))
        assert counters[0]["mac_cycles"] > 1000 and counters[0] == counters[1]
        assert (slow.memory == fast.memory).all()

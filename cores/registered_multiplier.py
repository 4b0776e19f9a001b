"""A signed multiplier with three register stages, as ordinary logic or as an FPGA's primitive."""

from migen import *

ECP5_BITS = 18


class RegisteredMultiplier(Module):
    """p = a * b three cycles later; registers at the inputs, between and at the output.

    a, b : signed signals of at most 18 bits; bits : those of the product that are used
    primitives : "ecp5": a MULT18X18D with its registers (Yosys infers the multiplier without them)
    """

    def __init__(self, a, b, bits, primitives=""):
        self.p = Signal((bits, True), name="p", reset_less=True)

        # # #

        if primitives == "ecp5":
            self.add_mult18x18d(a, b)
            return
        a_in, b_in = Signal((len(a), True), reset_less=True), Signal((len(b), True), reset_less=True)
        product = Signal((bits, True), reset_less=True)
        self.sync += [a_in.eq(a), b_in.eq(b), product.eq(a_in * b_in), self.p.eq(product)]

    def add_mult18x18d(self, a, b):
        """All registers on CLK0, never reset. Its ports are unsigned wires: Yosys elaborates a module twice, the second
        time too late, where single bits of signed ones go to a primitive's ports. The operands take the upper ends of
        the inputs: zeros below need no wires, copies of a sign would."""
        bits_a, bits_b, bits_p = [Signal(bits) for bits in (ECP5_BITS, ECP5_BITS, 2 * ECP5_BITS)]
        shift_a, shift_b = ECP5_BITS - len(a), ECP5_BITS - len(b)
        self.comb += [bits_a.eq(Cat(C(0, shift_a), a) if shift_a else a), bits_b.eq(Cat(C(0, shift_b), b) if shift_b else b),
                      self.p.eq(bits_p[shift_a + shift_b:])]
        registers = {f"p_REG_{stage}_{kind}": f"{kind}0" for stage in ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")
                     for kind in ("CLK", "CE", "RST")}
        ports = [(f"{direction}_{name}{i}", signal[i]) for direction, name, signal in
                 (("i", "A", bits_a), ("i", "B", bits_b), ("o", "P", bits_p)) for i in range(len(signal))]
        self.primitive = Instance("MULT18X18D", **registers, **dict(ports), p_GSR="DISABLED", p_RESETMODE="SYNC",
            i_SIGNEDA=1, i_SIGNEDB=1, i_SOURCEA=0, i_SOURCEB=0, i_CLK0=ClockSignal(), i_CE0=1, i_RST0=0)
        self.specials += self.primitive

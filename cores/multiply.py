"""Multipliers in logic cells, for devices with fewer multiplier blocks than lanes: partial products and an adder tree.

Both are combinational and give exactly what ``a * b`` gives. Every sum of two rows is an adder of its own, whose low
bits come from one row alone: so Yosys keeps each one in a carry chain instead of merging the tree into full adders.

    Product   signed n bits x signed or unsigned m bits -> n + m bits, m rows (Baugh-Wooley)
    Square    signed n bits -> 2n - 1 bits; x_i*x_j and x_j*x_i share a cell, about half the logic of a Product

Ref: Baugh, Wooley, "A two's complement parallel array multiplication algorithm", IEEE ToC C-22, 1973.
"""

from migen import *

from litex.gen import LiteXModule


class _Tree(LiteXModule):
    """Sum of rows; a row is a dictionary from bit position to 1-bit expression."""

    def place(self, rows, position, bit):
        """Put ``bit`` into the first row with room at ``position``, or into a new row."""
        for row in rows:
            if position not in row:
                row[position] = bit
                return
        rows.append({position: bit})

    def total(self, rows, bits):
        """Signal of ``bits`` bits with the sum of ``rows`` modulo 2^bits."""
        terms = sorted((self.vector(row) for row in rows), key=lambda term: term[0])
        while len(terms) > 1:
            pairs = [self.add(x, y, bits) for x, y in zip(terms[::2], terms[1::2])]
            terms = pairs + terms[2 * len(pairs):]
        shift, value = terms[0]
        total = Signal(bits)
        self.comb += total.eq(Cat(C(0, shift), value) if shift else value)
        return total

    def vector(self, row):
        """(position of its lowest bit, signal) of a row."""
        low, high = min(row), max(row)
        value = Signal(high - low + 1)
        self.comb += value.eq(Cat(*[row.get(k, C(0, 1)) for k in range(low, high + 1)]))
        return low, value

    def add(self, x, y, bits):
        """The sum of two terms, the first of which starts at the same bit or below."""
        (shift, low), (above, high) = x, y
        split = above - shift
        if split >= len(low):
            total = Cat(low, C(0, split - len(low)), high) if split > len(low) else Cat(low, high)
        else:
            carried = Signal(min(max(len(low) - split, len(high)) + 1, bits - above))
            self.comb += carried.eq(low[split:] + high)
            total = Cat(low[:split], carried) if split else carried
        value = Signal(len(total))
        self.comb += value.eq(total)
        return shift, value


class Product(_Tree):
    """p = a * b; ``a`` signed, ``b`` signed or not (signals of at least 2 bits); ``p`` signed."""

    def __init__(self, a, b):
        n, m = len(a), len(b)
        if n < 2 or m < 2:
            raise ValueError(f"Product: {n} x {m} bits; operands need at least 2 bits: use a multiplexer")
        self.p = Signal((n + m, True))

        # # #

        rows = []
        for j in range(m):
            products = Signal(n, name=f"row_{j}")
            invert = (1 << n - 1) - 1 if b.signed and j == m - 1 else 1 << n - 1     # bits of negative weight
            self.comb += products.eq((a & Replicate(b[j], n)) ^ invert)
            rows.append({i + j: products[i] for i in range(n)})
        # -x = ~x + 1 - 2^bits, for the bits of negative weight of a's sign and of b's.
        constant = (1 << n - 1) + ((1 << m - 1) if b.signed else 0) - (1 << n + m - 1)
        for position in range(n + m):
            if constant >> position & 1:
                self.place(rows, position, C(1, 1))
        self.comb += self.p.eq(self.total(rows, n + m))


class Square(_Tree):
    """p = x * x; ``x`` signed; ``p`` unsigned.

    With sign s and the other n - 1 bits u: x*x = u*u - s*u*2^n + s*2^(2n-2)
                                                = u*u + (s & ~u)*2^n + s*2^n + s*2^(2n-2)   modulo 2^(2n-1)
    """

    def __init__(self, x):
        n = len(x)
        bits = 2 * n - 1
        self.p = Signal(bits)

        # # #

        u, s = [x[i] for i in range(n - 1)], x[-1]
        rows = []
        for i, bit in enumerate(u):
            products = Signal(max(1, n - 2 - i), name=f"row_{i}")
            others = x[i + 1:n - 1]
            if i < n - 2:
                self.comb += products.eq(others & Replicate(bit, n - 2 - i))
            rows.append({2 * i: bit} | {i + j + 1: products[j - i - 1] for j in range(i + 1, n - 1)})
        negative = Signal(n - 1, name="row_negative")
        self.comb += negative.eq(~x[:n - 1] & Replicate(s, n - 1))
        rows.append({n + i: negative[i] for i in range(n - 1)})
        self.place(rows, n, s)
        self.place(rows, 2 * n - 2, s)
        self.comb += self.p.eq(self.total(rows, bits))


def multiplier(module, a, b, lut):
    """Expression a * b; with ``lut`` a Product, a submodule of ``module``."""
    if not lut:
        return a * b
    product = Product(a, b)
    module.submodules += product
    return product.p


def square(module, x, lut):
    """Expression x * x; with ``lut`` a Square, a submodule of ``module``."""
    if not lut:
        return x * x
    result = Square(x)
    module.submodules += result
    return result.p

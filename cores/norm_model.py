"""Golden model of NORM: sums -> multiplier and offset of a normalisation.

With q the int8 tensor, N elements, S = sum q, Q = sum q^2 and E = eps * N^2 / scale^2:
    D  = N*Q - S^2 + E                      (N^2 times variance plus eps, in units of q)
    r  = min(2^24 - 1, (N << 24) // max(1, isqrt(D << 8)))       ~ 2^20 / sigma
    mu = (S << 8) // N                      (floor)
    m  = sat16(rshift(gamma * r, gshift))
    o  = beta - rshift(mu * m, shift + 8)
so that POST's rshift(q * m, shift) + o is gamma * (q - mean) / sigma + beta in the scale of beta.
Domain: 1 <= N < 2^24, |S| < 2^31, Q < 2^36, D < 2^56 (D is clamped to 0 below and 2^56 - 1 above).
"""

from math import isqrt

from litediffusion.cores.fixed import rshift, saturate

D_MAX = (1 << 56) - 1


def norm_stats(count, total, squares, eps_m, eps_s):
    """(r, mu) of one group; Python integers."""
    d = max(0, min(D_MAX, count * squares - total * total + (eps_m << eps_s)))
    r = min((1 << 24) - 1, (count << 24) // max(1, isqrt(d << 8)))
    return r, (total << 8) // count


def norm_channel(r, mu, gamma, beta, gshift, shift):
    """(m, o) of one channel; Python integers. o wraps to 32 bits (not reached inside the domain)."""
    m = saturate(rshift(gamma * r, gshift), 16)
    return m, beta - rshift(mu * m, shift + 8)

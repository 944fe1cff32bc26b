"""Loops over amplitudes, compiled: phases by the cost, mixing by exp(−iβX) on every qubit.

A state of n qubits that is symmetric under flipping all of them is held as its half with the last
qubit 0: N = 2^(n−1) amplitudes, real and imaginary parts apart (float64, shape (N,)), norm 1. X on
the last qubit then pairs i with N−1−i. Two qubits are mixed at a time, and always along rows of at
least 32 neighbors: tiles are gathered into a scratch that fits the first-level cache.

The backward kernels carry two states and return Im⟨λ|ΣX|ψ⟩, which no mixing changes: each pair of
qubits gives its part from sums that the mixing needs anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

ROW = 5  # bits of a row of a tile
TILE = 2 * ROW  # bits of a tile, and of what is mixed within neighbors
SCRATCH = 1 << 13  # amplitudes of the largest tile: 8 high bits over rows of 32


def compiled(function: F) -> F:
    """Compile a kernel, kept on disk between processes where there is a place to keep it."""
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        # Sums may be reordered and products fused: to a few units in the last place.
        "fastmath": {"contract", "reassoc", "nsz"},
    }
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder is writable: compiled anew in each process
        return cast(F, numba.njit(**options)(function))


@compiled
def _mix4(re: Any, im: Any, start: int, size: int, stride: int, c: float, s: float) -> None:
    """Mix the two bits whose strides are `stride` and twice that, over `size` amplitudes."""
    cc, ss, cs = c * c, s * s, c * s
    for base in range(start, start + size, 4 * stride):
        r0, r1 = re[base : base + stride], re[base + stride : base + 2 * stride]
        r2, r3 = (
            re[base + 2 * stride : base + 3 * stride],
            re[base + 3 * stride : base + 4 * stride],
        )
        i0, i1 = im[base : base + stride], im[base + stride : base + 2 * stride]
        i2, i3 = (
            im[base + 2 * stride : base + 3 * stride],
            im[base + 3 * stride : base + 4 * stride],
        )
        for k in range(stride):
            a0, a1, a2, a3 = r0[k], r1[k], r2[k], r3[k]
            b0, b1, b2, b3 = i0[k], i1[k], i2[k], i3[k]
            ra, rb = cs * (a1 + a2), cs * (a0 + a3)
            ia, ib = cs * (b1 + b2), cs * (b0 + b3)
            r0[k], i0[k] = cc * a0 - ss * a3 + ia, cc * b0 - ss * b3 - ra
            r1[k], i1[k] = cc * a1 - ss * a2 + ib, cc * b1 - ss * b2 - rb
            r2[k], i2[k] = cc * a2 - ss * a1 + ib, cc * b2 - ss * b1 - rb
            r3[k], i3[k] = cc * a3 - ss * a0 + ia, cc * b3 - ss * b0 - ra


@compiled
def _mix2(re: Any, im: Any, start: int, size: int, stride: int, c: float, s: float) -> None:
    """Mix the bit whose stride is `stride`."""
    for base in range(start, start + size, 2 * stride):
        r0, r1 = re[base : base + stride], re[base + stride : base + 2 * stride]
        i0, i1 = im[base : base + stride], im[base + stride : base + 2 * stride]
        for k in range(stride):
            a0, a1, b0, b1 = r0[k], r1[k], i0[k], i1[k]
            r0[k], i0[k] = c * a0 + s * b1, c * b0 - s * a1
            r1[k], i1[k] = c * a1 + s * b0, c * b1 - s * a0


@compiled
def _mix_bits(re: Any, im: Any, start: int, low: int, bits: int, c: float, s: float) -> None:
    """Mix bits low … low+bits−1 of the 2^(low+bits) amplitudes from `start`."""
    size = 1 << (low + bits)
    j = low
    while j + 1 < low + bits:
        _mix4(re, im, start, size, 1 << j, c, s)
        j += 2
    if j < low + bits:
        _mix2(re, im, start, size, 1 << j, c, s)


@compiled
def _transpose(source: Any, start: int, target: Any, begin: int, side: int) -> None:
    for row in range(side):
        for column in range(side):
            target[begin + column * side + row] = source[start + row * side + column]


@compiled
def _flip(re: Any, im: Any, c: float, s: float) -> None:
    """Mix the last qubit: i with N−1−i."""
    half = re.size // 2
    r0, r1, i0, i1 = re[:half], re[half:][::-1], im[:half], im[half:][::-1]
    for k in range(half):
        a0, a1, b0, b1 = r0[k], r1[k], i0[k], i1[k]
        r0[k], i0[k] = c * a0 + s * b1, c * b0 - s * a1
        r1[k], i1[k] = c * a1 + s * b0, c * b1 - s * a0


@compiled
def _gather(source: Any, start: int, rows: int, apart: int, target: Any) -> None:
    row = 1 << ROW
    for r in range(rows):
        target[r * row : (r + 1) * row] = source[start + r * apart : start + r * apart + row]


@compiled
def _scatter(source: Any, target: Any, start: int, rows: int, apart: int) -> None:
    row = 1 << ROW
    for r in range(rows):
        target[start + r * apart : start + r * apart + row] = source[r * row : (r + 1) * row]


@compiled
def mix(re: Any, im: Any, beta: float) -> None:
    """Apply exp(−iβX) to all n qubits, in place."""
    c, s = np.cos(beta), np.sin(beta)
    size = re.size
    bits = 0
    while 1 << bits < size:
        bits += 1
    if size == 1:  # one qubit: X maps the half onto itself
        a, b = re[0], im[0]
        re[0], im[0] = c * a + s * b, c * b - s * a
        return
    if bits < TILE:
        _mix_bits(re, im, 0, 0, bits, c, s)
        _flip(re, im, c, s)
        return
    x, y = np.empty(SCRATCH), np.empty(SCRATCH)
    tile = 1 << TILE
    for start in range(0, size, tile):
        _mix_bits(re, im, start, ROW, ROW, c, s)
        _transpose(re, start, x, 0, 1 << ROW)
        _transpose(im, start, y, 0, 1 << ROW)
        _mix_bits(x, y, 0, ROW, ROW, c, s)
        _transpose(x, 0, re, start, 1 << ROW)
        _transpose(y, 0, im, start, 1 << ROW)
    low = TILE
    while low < bits:
        some = min(8, bits - low)
        apart = 1 << low
        for outer in range(0, size, apart << some):
            for column in range(0, apart, 1 << ROW):
                start = outer + column
                _gather(re, start, 1 << some, apart, x)
                _gather(im, start, 1 << some, apart, y)
                _mix_bits(x, y, 0, ROW, some, c, s)
                _scatter(x, re, start, 1 << some, apart)
                _scatter(y, im, start, 1 << some, apart)
        low += some
    _flip(re, im, c, s)


@compiled
def _back4(
    re: Any, im: Any, lre: Any, lim: Any, start: int, size: int, stride: int, c: float, s: float
) -> float:
    """`_mix4` on both states; the two bits' part of Im⟨λ|ΣX|ψ⟩."""
    cc, ss, cs = c * c, s * s, c * s
    total = 0.0
    for base in range(start, start + size, 4 * stride):
        one, two, three, end = (
            base + stride,
            base + 2 * stride,
            base + 3 * stride,
            base + 4 * stride,
        )
        r0, r1, r2, r3 = re[base:one], re[one:two], re[two:three], re[three:end]
        i0, i1, i2, i3 = im[base:one], im[one:two], im[two:three], im[three:end]
        s0, s1, s2, s3 = lre[base:one], lre[one:two], lre[two:three], lre[three:end]
        t0, t1, t2, t3 = lim[base:one], lim[one:two], lim[two:three], lim[three:end]
        part = 0.0
        for k in range(stride):
            a0, a1, a2, a3 = r0[k], r1[k], r2[k], r3[k]
            b0, b1, b2, b3 = i0[k], i1[k], i2[k], i3[k]
            ra, rb = a1 + a2, a0 + a3
            ia, ib = b1 + b2, b0 + b3
            r0[k], i0[k] = cc * a0 - ss * a3 + cs * ia, cc * b0 - ss * b3 - cs * ra
            r1[k], i1[k] = cc * a1 - ss * a2 + cs * ib, cc * b1 - ss * b2 - cs * rb
            r2[k], i2[k] = cc * a2 - ss * a1 + cs * ib, cc * b2 - ss * b1 - cs * rb
            r3[k], i3[k] = cc * a3 - ss * a0 + cs * ia, cc * b3 - ss * b0 - cs * ra
            a0, a1, a2, a3 = s0[k], s1[k], s2[k], s3[k]
            b0, b1, b2, b3 = t0[k], t1[k], t2[k], t3[k]
            ua, ub = a1 + a2, a0 + a3
            va, vb = b1 + b2, b0 + b3
            s0[k], t0[k] = cc * a0 - ss * a3 + cs * va, cc * b0 - ss * b3 - cs * ua
            s1[k], t1[k] = cc * a1 - ss * a2 + cs * vb, cc * b1 - ss * b2 - cs * ub
            s2[k], t2[k] = cc * a2 - ss * a1 + cs * vb, cc * b2 - ss * b1 - cs * ub
            s3[k], t3[k] = cc * a3 - ss * a0 + cs * va, cc * b3 - ss * b0 - cs * ua
            part += ub * ia - vb * ra + ua * ib - va * rb
        total += part
    return total


@compiled
def _back_pair(
    r0: Any, r1: Any, i0: Any, i1: Any, s0: Any, s1: Any, t0: Any, t1: Any, c: float, s: float
) -> float:
    """Mix one bit of both states, given as its two halves; its part of Im⟨λ|ΣX|ψ⟩."""
    part = 0.0
    for k in range(r0.size):
        a0, a1, b0, b1 = r0[k], r1[k], i0[k], i1[k]
        r0[k], i0[k] = c * a0 + s * b1, c * b0 - s * a1
        r1[k], i1[k] = c * a1 + s * b0, c * b1 - s * a0
        u0, u1, v0, v1 = s0[k], s1[k], t0[k], t1[k]
        s0[k], t0[k] = c * u0 + s * v1, c * v0 - s * u1
        s1[k], t1[k] = c * u1 + s * v0, c * v1 - s * u0
        part += u0 * b1 - v0 * a1 + u1 * b0 - v1 * a0
    return part


@compiled
def _back_bits(
    re: Any, im: Any, lre: Any, lim: Any, start: int, low: int, bits: int, c: float, s: float
) -> float:
    size = 1 << (low + bits)
    total = 0.0
    j = low
    while j + 1 < low + bits:
        total += _back4(re, im, lre, lim, start, size, 1 << j, c, s)
        j += 2
    if j < low + bits:
        stride = 1 << j
        for base in range(start, start + size, 2 * stride):
            mid, end = base + stride, base + 2 * stride
            total += _back_pair(
                re[base:mid], re[mid:end], im[base:mid], im[mid:end],
                lre[base:mid], lre[mid:end], lim[base:mid], lim[mid:end], c, s,
            )  # fmt: skip
    return total


@compiled
def mix_back(re: Any, im: Any, lre: Any, lim: Any, beta: float) -> float:
    """Apply exp(−iβX) to all qubits of ψ = (re, im) and λ = (lre, lim); returns Im⟨λ|ΣX|ψ⟩."""
    c, s = np.cos(beta), np.sin(beta)
    size = re.size
    bits = 0
    while 1 << bits < size:
        bits += 1
    if size == 1:
        alone: float = lre[0] * im[0] - lim[0] * re[0]
        mix(re, im, beta)
        mix(lre, lim, beta)
        return alone
    total = 0.0
    half = size // 2
    if bits < TILE:
        total += _back_bits(re, im, lre, lim, 0, 0, bits, c, s)
    else:
        side, tile = 1 << ROW, 1 << TILE
        w, x = np.empty(SCRATCH), np.empty(SCRATCH)
        y, z = np.empty(SCRATCH), np.empty(SCRATCH)
        for start in range(0, size, tile):
            total += _back_bits(re, im, lre, lim, start, ROW, ROW, c, s)
            _transpose(re, start, w, 0, side)
            _transpose(im, start, x, 0, side)
            _transpose(lre, start, y, 0, side)
            _transpose(lim, start, z, 0, side)
            total += _back_bits(w, x, y, z, 0, ROW, ROW, c, s)
            _transpose(w, 0, re, start, side)
            _transpose(x, 0, im, start, side)
            _transpose(y, 0, lre, start, side)
            _transpose(z, 0, lim, start, side)
        low = TILE
        while low < bits:
            some = min(8, bits - low)
            apart, rows = 1 << low, 1 << some
            for outer in range(0, size, apart << some):
                for column in range(0, apart, side):
                    start = outer + column
                    _gather(re, start, rows, apart, w)
                    _gather(im, start, rows, apart, x)
                    _gather(lre, start, rows, apart, y)
                    _gather(lim, start, rows, apart, z)
                    total += _back_bits(w, x, y, z, 0, ROW, some, c, s)
                    _scatter(w, re, start, rows, apart)
                    _scatter(x, im, start, rows, apart)
                    _scatter(y, lre, start, rows, apart)
                    _scatter(z, lim, start, rows, apart)
            low += some
    return total + _back_pair(
        re[:half], re[half:][::-1], im[:half], im[half:][::-1],
        lre[:half], lre[half:][::-1], lim[:half], lim[half:][::-1], c, s,
    )  # fmt: skip


@compiled
def angles_of(cost: Any, gamma: float, cosine: Any, sine: Any) -> None:
    """cos(γC) and sin(γC) for each entry of `cost`, written into `cosine` and `sine`.

    Its own polynomials (Cephes), since a loop over them is vectorized and one over the library's
    functions is not; wrong by less than 4e-16 while |γC| < 1e6.
    """
    for k in range(cost.size):
        angle = gamma * cost[k]
        turns = np.floor(angle * 0.6366197723675814 + 0.5)
        r = angle - turns * 1.5707963267341256
        r -= turns * 6.077100506506192e-11
        z = r * r
        p = 1.58962301576546568060e-10
        p = p * z - 2.50507477628578072866e-8
        p = p * z + 2.75573136213857245213e-6
        p = p * z - 1.98412698295895385996e-4
        p = p * z + 8.33333333332211858878e-3
        p = p * z - 1.66666666666666307295e-1
        sin = r + r * z * p
        q = -1.13585365213876817300e-11
        q = q * z + 2.08757008419747316778e-9
        q = q * z - 2.75573141792967388112e-7
        q = q * z + 2.48015872888517045348e-5
        q = q * z - 1.38888888888730564116e-3
        q = q * z + 4.16666666666665929218e-2
        cos = 1.0 - 0.5 * z + z * z * q
        quadrant = turns - 4.0 * np.floor(turns * 0.25)
        odd = (quadrant == 1.0) or (quadrant == 3.0)
        a = sin if odd else cos
        b = cos if odd else sin
        cosine[k] = -a if quadrant == 1.0 or quadrant == 2.0 else a
        sine[k] = -b if quadrant >= 2.0 else b


@compiled
def turn(re: Any, im: Any, cosine: Any, sine: Any) -> None:
    """Multiply by exp(−iγC), given cos(γC) and sin(γC); in place."""
    for k in range(re.size):
        a, b, c, s = re[k], im[k], cosine[k], sine[k]
        re[k] = a * c + b * s
        im[k] = b * c - a * s


@compiled
def turn_back(re: Any, im: Any, cosine: Any, sine: Any) -> None:
    """Multiply by exp(+iγC); in place."""
    for k in range(re.size):
        a, b, c, s = re[k], im[k], cosine[k], sine[k]
        re[k] = a * c - b * s
        im[k] = b * c + a * s


@compiled
def mean(re: Any, im: Any, cost: Any) -> float:
    """⟨C⟩ of a state of norm 1."""
    total = 0.0
    for k in range(re.size):
        total += (re[k] * re[k] + im[k] * im[k]) * cost[k]
    return total


@compiled
def overlap(re: Any, im: Any, lre: Any, lim: Any, cost: Any) -> float:
    """Im⟨λ|C|ψ⟩."""
    total = 0.0
    for k in range(re.size):
        total += (lre[k] * im[k] - lim[k] * re[k]) * cost[k]
    return total


@compiled
def cut_values(weights: Any) -> Any:
    """The cut of each bit string whose last bit is 0: float64, shape (2^(n−1),).

    Args:
        weights: symmetric float64, shape (n, n). Bit q of the index is the side of vertex q.
    """
    n = weights.shape[0]
    values = np.zeros(1 << (n - 1))
    for q in range(n - 1):
        # Vertices q+1 … n−1 stand at 0: those below q are in the index already.
        block = 1 << q
        alone = 0.0
        for other in range(n):
            alone += weights[q, other]
        for x in range(block):
            values[block + x] = values[x] + alone
        for other in range(q):
            twice = 2.0 * weights[q, other]
            step = 1 << other
            for base in range(block + step, 2 * block, 2 * step):
                for x in range(base, base + step):
                    values[x] -= twice
    return values

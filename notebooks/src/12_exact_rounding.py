# ---
# title: Exact rounding
# needs: 05
# question: Dividing by a scale, or multiplying by one over it: is that the same?
# ---

# %% [markdown]
"""
On paper, yes. In a computer, one over the scale, its **reciprocal**, is itself rounded to a float before it is used. Multiplying by it is faster than dividing, so many programs do that.
This notebook shows with sixteen codes what that does, why it hardly ever shows, and why "hardly ever" is not good enough when two programs must agree on every bit.
"""

# %%
from fractions import Fraction

import numpy as np

from vbw_np import viz
from vbw_np.formats import E2M1, E4M3, quantize
from vbw_np.teach import check, claim, float_bits, hint, predict, solution

f32 = np.float32

# %% [markdown]
"""
## Predict

Take every positive E4M3 scale (there are 126), every midpoint between two neighboring values of E2M1 (seven), and at scale times midpoint the three neighboring float32 numbers: just below, exactly on, just above. That is
a set of cases chosen to be as nasty as possible. In how many of them does the reciprocal give another code than the truth? (Python's `Fraction` computes without any rounding, and serves as the truth.)
"""

# %%
guess = None

scales = E4M3.table[1:127]
midpoints = (E2M1.magnitudes[1:] + E2M1.magnitudes[:-1]) / 2
claim("126 scales", len(scales), 126, silent=True)


def truth(x, s):
    """The right code by exact fractions: no rounding anywhere."""
    quotient = Fraction(float(x)) / Fraction(float(s))
    code = 0
    for i, m in enumerate(midpoints):
        if quotient > Fraction(float(m)) or (
            quotient == Fraction(float(m)) and i % 2 == 1
        ):  # a tie goes to the even code
            code = i + 1
    return code


# %%
cases = [
    (x, s, truth(x, s))
    for s in scales
    for m in midpoints
    for x in (
        np.nextafter(f32(s * m), f32(0)),
        f32(s * m),
        np.nextafter(f32(s * m), f32(np.inf)),
    )
]
x, s, right = (np.array(column) for column in zip(*cases))
x, s = x.astype(f32), s.astype(f32)
by_reciprocal = E2M1.encode(x * (f32(1) / s))
wrong = int((by_reciprocal != right).sum())
predict(guess, wrong, "wrong codes")
claim("2,646 cases", len(cases), 2646)
claim("the reciprocal is wrong in 116", wrong, 116)
claim("division is wrong in 0", int((E2M1.encode(x / s) != right).sum()), 0)

# %% [markdown]
"""
Of 2,646 nasty cases the reciprocal gets 116 wrong, and division 0.

## Manipulate: one case in bits

A float32 has a last bit; the distance between two neighbors is called an **ulp** (unit in the last place). The cell takes a scale, and the number one ulp below `0.75` times that scale: below the *edge*, that is,
between the bins of code 1 and code 2. The bits are printed as sign, exponent and mantissa. Try other scales, for example `1.0`, `1.125`, `1.75`, `1.875`: which of them go wrong?
"""

# %%
scale = f32(0.9375)

number = np.nextafter(f32(0.75) * scale, f32(0))  # one ulp below the edge
print("number      ", float_bits(number))
print("on the edge ", float_bits(f32(0.75) * scale))
print("1 / scale   ", float_bits(f32(1) / scale))
for way, quotient in (
    ("division", number / scale),
    ("reciprocal", number * (f32(1) / scale)),
):
    print(
        f"{way:12}",
        float_bits(quotient),
        "->",
        quotient,
        "-> code",
        E2M1.encode(quotient)[()],
    )

# %%
scale, number = f32(0.9375), f32(0.70312494)  # the scale as it came
one_way, other_way = number / scale, number * (f32(1) / scale)
claim("the reciprocal's product lies on the edge, 0.75", float(other_way), 0.75)
claim(
    "division gives code 1, the reciprocal code 2",
    [int(E2M1.encode(one_way)[()]), int(E2M1.encode(other_way)[()])],
    [1, 2],
)

# %% [markdown]
"""
With the scale as it came: the number is below the edge, so its code is 1. The reciprocal was rounded up a little, the product landed exactly *on* the edge 0.75, and the tie went to code 2. One ulp became a whole step.

## Picture

The same number and six float32 neighbors on each side, and the code that each gets: the true one, and the reciprocal's (drawn a hair higher, so that both can be seen).
"""

# %%
around = [number]
for _ in range(6):
    around = [
        np.nextafter(around[0], f32(0)),
        *around,
        np.nextafter(around[-1], f32(np.inf)),
    ]
around = np.array(around, f32)
viz.curves(
    {
        "truth": [truth(v, scale) for v in around],
        "reciprocal": E2M1.encode(around * (f32(1) / scale)),
    },
    x=np.arange(-6, 7),
    xlabel="ulps from our number",
    ylabel="code",
    steps=True,
    title="A staircase under a microscope: the reciprocal's step comes one number early",
)

# %%
guilty = np.unique(s[by_reciprocal != right])
mantissas = sorted({float(g / 2 ** np.floor(np.log2(g))) for g in guilty})
print(
    len(guilty), "scales are ever wrong; divided by their power of two they are", mantissas
)
claim("only 30 of the scales are ever wrong", len(guilty), 30)
claim("powers of two never are", int(sum(m == 1 for m in mantissas)), 0)

# %% [markdown]
"""
Only 30 of the 126 scales are ever wrong, and powers of two never are, for one over a power of two is a power of two, and not rounded. MXFP4 cannot have this problem at all.

## No division needed

There is a third way. Do not divide the number; multiply the *midpoints* by the scale, and compare. A midpoint needs few bits, an E4M3 scale needs few bits, and their product fits into the mantissa of a float32 *exactly*: nothing is rounded anywhere.
"""

# %%
exact = all(
    Fraction(float(f32(a * b))) == Fraction(float(a)) * Fraction(float(b))
    for a in scales
    for b in midpoints
)
claim("scale times midpoint is exact, for every scale and midpoint", exact, True)

# %% [markdown]
"""
## Exercise: encode by comparing

Given `x >= 0` and a scale, both float32, return the code (without sign) by comparing `x` with `midpoint * scale`. No division, no reciprocal. Ties go to the even code.
The checks include the nasty cases.
"""


# %% exercise=12.1
def code_by_comparing(x, scale):
    ### BEGIN SOLUTION
    raise NotImplementedError  # count midpoints; > where the lower code is even, >= where the upper one is
    ### END SOLUTION


# %% check=12.1
check("12.1", code_by_comparing)

# %% [markdown]
"""
## When does it show?

Random float32 numbers practically never lie within an ulp of an edge. But models are often stored in sixteen bits (a kind called **bfloat16**: a float32 with the lower half cut off). Such numbers are
coarse, and coarse numbers hit edges exactly. Below, NVFP4 as two real libraries write it, each with its own order of operations: one multiplies by a reciprocal, one divides. First on
float32, then on the same numbers cut to bfloat16.
"""

# %%
numbers = np.random.default_rng(0).normal(size=(1024, 1024)).astype(f32)
# keep the upper half of the bits
cut = (numbers.view(np.uint32) & np.uint32(0xFFFF0000)).view(f32)


def differing(values):
    one = quantize(values, "nvfp4", profile="te-nvfp4", measure=False)
    other = quantize(values, "nvfp4", profile="modelopt-nvfp4", measure=False)
    return int((one.unpacked_codes() != other.unpacked_codes()).sum())


claim(
    "on float32 numbers, at most 3 of a million codes differ", differing(numbers), at_most=3
)
coarse = differing(cut)
print(coarse, "of", cut.size, "codes differ on bfloat16 numbers")
claim("on bfloat16 numbers, at least 300", coarse, at_least=300)

# %% [markdown]
"""
On float32 at most 3 codes of a million differ; on bfloat16 more than 300. A comparison of two programs on random float32 numbers would have told you that they agree.

## Who is right?

Nobody: each is right *about itself*. One published procedure multiplies by a rounded reciprocal, and then the division would be the bug. What matters is that the order of operations is
written down. The exact procedure of one library, written down operation by operation, is called a **profile** here (`profile=` in the cell above).

## Where the emulator is not the hardware

NumPy's float32 operations round as the standard for floats (IEEE) says, one at a time, and so do the fast routines of this library: they use no shortcuts that would change a bit. A graphics processor may round a product and a sum
together, once, or turn very small numbers into zero. Where a library that we follow says that it does, its profile does the same.

## What you can say now

Multiplying by a reciprocal is not dividing: near an edge one ulp decides the code. Comparing with scaled midpoints is exact. A profile says which order of operations is meant. Test with coarse numbers.
"""

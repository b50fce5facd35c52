# ---
# title: A museum of real bugs
# needs: 03, 04, 06, 12
# question: Which mistakes did people really make with four-bit numbers, and what is the smallest input that shows each?
# ---

# %% [markdown]
"""
Nearly every exhibit here happened in a real project (torchao, MLX, JAX and the like are libraries) and was reported in public; where we could read the report again, there is a link. Each is rebuilt in a few lines of our own, with the smallest input that we know to expose it. None of them crashes, and most give plausible numbers. That is what makes them
worth a museum.

## Manipulate

Every exhibit computes the right result and the wrong one, and claims that they differ. Change an exhibit's input until they agree: its cell then stops with "claim does not hold". So easily a bug hides.
"""

# %%
import dataclasses

import numpy as np

from vbw_np import viz
from vbw_np.device import place
from vbw_np.engine import Tensor, nn, no_grad
from vbw_np.formats import (
    E2M1,
    E4M3,
    fake_quantize,
    pack_nibbles,
    quantize,
    sqnr_db,
    unpack_nibbles,
)
from vbw_np.formats.diagnose import diagnose
from vbw_np.teach import byte_bits, check, claim, float_bits, hint, predict, solution

f32 = np.float32
visitors = {}


# %%
def exhibit(name, right, wrong):
    """Right and wrong must differ on the exhibit's input: that is what exposing means."""
    right, wrong = np.asarray(right, np.float64), np.asarray(wrong, np.float64)
    exposed = not np.array_equal(right, wrong, equal_nan=True)
    visitors[name] = exposed
    print(f"{name}\n  right: {right.ravel()[:8]}\n  wrong: {wrong.ravel()[:8]}")
    claim(f"exposed: {name}", exposed, True)


# %% [markdown]
"""
## Predict

Which of these finds the most bugs in a quantizer: a test on a thousand random normal numbers, a test on all zeros, or a test on four numbers that somebody chose with care? Make up your mind now; the answer is at the end.
"""

# %%
guess = None  # "random", "zeros" or "four chosen"

# %% [markdown]
"""
## Exhibit one: the nibbles

Written low first, read high first (reported in torchao). A cousin: codes that a file keeps in two halves of a block are read as neighbors ([a loader of GGUF, a file format for models](https://github.com/kekzl/imp/pull/567), which then wrote fluent nonsense). Smallest input: two different codes. This library can name the bug from the bytes alone.
"""

# %%
codes = np.array([1, 0], np.uint8)
exhibit(
    "nibble order",
    E2M1.decode(codes),
    E2M1.decode(unpack_nibbles(pack_nibbles(codes), 2, order="high_first")),
)
some = quantize(np.random.default_rng(0).normal(size=(4, 32)).astype(f32), "nvfp4")
swapped = dataclasses.replace(
    some, codes=(some.codes >> 4 | some.codes << 4).astype(np.uint8)
)
found = diagnose(some, swapped)
print(found)
claim("the library names it", found.findings[0].name, "nibble order")

# %% [markdown]
"""
## Exhibit two: a block of 32 where 16 was meant

The scales were computed over blocks of 32, and then used for blocks of 16 ([found and mended in MLX](https://github.com/ml-explore/mlx/pull/3934)). Invisible if both halves have the same amax. Smallest input: two halves whose amax differs.
"""


# %%
def scaled_by(x, span):
    """Quantize with the amax of `span` numbers, whatever the format says."""
    amax = np.abs(x.reshape(-1, span)).max(axis=1, keepdims=True)
    return (E2M1.decode(E2M1.encode(x.reshape(-1, span) / (amax / 6))) * (amax / 6)).ravel()


x = np.zeros(32, f32)
x[0], x[16] = 6, 0.2
claim("spans: 32 numbers, halves of 16", [len(x), len(x) // 2], [32, 16], silent=True)
exhibit("scale over 32 instead of 16", scaled_by(x, 16)[[0, 16]], scaled_by(x, 32)[[0, 16]])

# %% [markdown]
"""
## Exhibit three: the forgotten tensor scale

E4M3 ends at 448, codes end at 6; without a tensor scale, what exceeds their product, 2688, is cut off (reported in a program that runs models). Ordinary weights never get there; some activations do.
"""

# %%
x = np.full((1, 16), 3000, f32)
exhibit(
    "no tensor scale",
    fake_quantize(x, "nvfp4")[0, :2],
    fake_quantize(x, "nvfp4-1level")[0, :2],
)
claim("6 times 448 is 2688", 6 * E4M3.max, 2688)
claim("parts of the product", [E2M1.max, E4M3.max], [6, 448], silent=True)

# %% [markdown]
"""
## Exhibit four: the tensor scale upside down

Some file formats store the multiplier (amax over 2688), some its reciprocal, under names that look alike ([reported in a loader](https://github.com/modular/modular/issues/6600), among others). What comes back is then wrong by a huge factor, unless the amax happens to be 2688. Smallest input: anything else.
"""

# %%
packed = quantize(np.linspace(0.1, 1, 16, dtype=f32)[None], "nvfp4")
upside_down = dataclasses.replace(packed, tensor_scale=f32(1) / packed.tensor_scale)
exhibit(
    "reciprocal tensor scale", packed.dequantize()[0, -2:], upside_down.dequantize()[0, -2:]
)

# %% [markdown]
"""
## Exhibit five: the reciprocal block scale

You know this one: multiplied by one over the scale where the procedure divides. Smallest input: a number one ulp below an edge.
"""

# %%
number, scale = f32(0.70312494), f32(0.9375)
print(float_bits(number), "number\n" + float_bits(scale), "scale")
exhibit(
    "reciprocal instead of division",
    E2M1.encode(number / scale),
    E2M1.encode(number * (f32(1) / scale)),
)

# %% [markdown]
"""
## Exhibit six: ties

Ties go away from zero where the procedure says to even ([one maker's software against its own hardware](https://github.com/ROCm/aiter/pull/3992)). Random float32 inputs practically never lie on a tie. Smallest input: a quarter.
"""

# %%
exhibit(
    "ties away from zero",
    E2M1.decode(E2M1.encode(f32([0.25]))),
    E2M1.decode(E2M1.encode(f32([0.25]), "away")),
)

# %% [markdown]
"""
## Exhibit seven: all zeros

An all-zero matrix has amax nought; nought divided by nought is "not a number", and one such scale poisons the output. Two well-known libraries wrote that at the versions we know, and their profiles here do the same (`nan` below is "not a number").
"""

# %%
zeros = np.zeros((1, 16), f32)
exhibit(
    "zero tensor",
    fake_quantize(zeros, "nvfp4", profile="te-nvfp4")[0, :2],
    fake_quantize(zeros, "nvfp4", profile="torchao-0.18-nvfp4", nonfinite="producer")[
        0, :2
    ],
)

# %% [markdown]
"""
## Exhibit eight: MXFP4 is two formats

The public standard rounds the scale down, NVIDIA's paper rounds it up. Both are called MXFP4. Smallest input: a block whose largest number is 7.
"""

# %%
x = np.zeros((1, 32), f32)
x[0, :2] = 7, 1
claim("the largest number", x.max(), 7, silent=True)
exhibit(
    "scale rule", fake_quantize(x, "mxfp4")[0, :2], fake_quantize(x, "mxfp4-rceil")[0, :2]
)

# %% [markdown]
"""
## Exhibit nine: the stale cache

A weight is changed in place, the decoded copy is not. (This one we know from caches of every kind.) Smallest input: one weight that changes.
"""

# %%
layer = nn.Sequential(nn.Linear(16, 1, bias=False, rng=0))
device = place(layer, "nvfp4", mode="inference")
ones = Tensor(np.ones((1, 16), f32))
with no_grad():
    layer(ones)
    layer[0].weight.data[:] = 1  # past the version number
    stale = layer(ones).data
    layer[0].weight.assign(np.ones((1, 16)))  # the proper way
    fresh = layer(ones).data
exhibit("stale cache", fresh, stale)

# %% [markdown]
"""
## Exhibit ten: the test that compared 0 with 0

A test compared a quantized product with the product of the decoded matrices. The scale was applied wrongly, nearly everything had become zero, and so the test compared zeros with zeros and was content ([in JAX](https://github.com/jax-ml/jax/pull/30467)). Here is a smaller bug of this kind, a product that is wrong by a factor of two, and a test on zeros.
"""


# %%
def product(a, b, scale_twice=False):
    result = fake_quantize(a, "nvfp4") @ fake_quantize(b, "nvfp4").T
    return result * (0.5 if scale_twice else 1)


zero, one = np.zeros((2, 16), f32), np.ones((2, 16), f32)
print(
    "the test with zeros passes for the broken one:",
    np.array_equal(product(zero, zero), product(zero, zero, True)),
)
claim("0 equals 0 whatever the scale", float(np.abs(product(zero, zero, True)).max()), 0)
exhibit("a test on zeros", product(one, one), product(one, one, scale_twice=True))

# %% [markdown]
"""
## The answer, as a picture

Four broken quantizers and a right one, against three tests. Each cell of the picture says whether the test's input makes a difference: 1 for noticed. The first column must stay 0, for nothing is wrong there.
"""


# %%
def scaled_by_ties(x, ties="even", span=16):
    rows = np.asarray(x, f32).reshape(-1, span)
    s = np.abs(rows).max(axis=1, keepdims=True) / f32(6)
    s = np.where(s == 0, f32(1), s)
    return (E2M1.decode(E2M1.encode(rows / s, ties)) * s).ravel()


bugs = {
    "nothing wrong": lambda x: scaled_by_ties(x),
    "block of 32": lambda x: scaled_by_ties(x, span=32),
    "ties away": lambda x: scaled_by_ties(x, "away"),
    "fractions cut off": lambda x: np.trunc(np.asarray(x, f32)),
    "sign lost": lambda x: np.abs(scaled_by_ties(x)),
}

# %%
pair = np.zeros(32, f32)
pair[[0, 1, 16, 17]] = 6, -1.25, 0.2, 0.1
tests = {
    "a thousand random": np.random.default_rng(0).normal(size=1024).astype(f32),
    "zeros": np.zeros(32, f32),
    "a chosen few": pair,
}
noticed = {
    name: {
        bug: float(not np.array_equal(f(x), bugs["nothing wrong"](x)))
        for bug, f in bugs.items()
    }
    for name, x in tests.items()
}

# %%
viz.heat_map(
    np.array([list(row.values()) for row in noticed.values()]),
    rows=list(noticed),
    columns=list(bugs),
    title="Which test notices which bug (1: noticed)",
    form=".0f",
    label="noticed",
)

# %%
score = {name: int(sum(row.values())) for name, row in noticed.items()}
predict(guess, "four chosen", "the best test")
print(score)
claim(
    "random numbers notice 3 of the 4 bugs, zeros 0, four chosen numbers all 4",
    list(score.values()),
    [3, 0, 4],
)
claim("bugs on trial", len(bugs) - 1, 4, silent=True)
marks = sorted({v for row in noticed.values() for v in row.values()})
claim("marks of the picture", marks, [0, 1], silent=True)

# %% [markdown]
"""
A thousand random numbers notice 3 of 4 bugs (they never hit a tie), zeros notice 0, and four *chosen* numbers all 4. A good test is not large. It knows where the edges are.

## Exercise: expose it

`scaled_by(x, 32)` is exhibit two. Return an array of thirty-two numbers for which it differs from `scaled_by(x, 16)`. There are many; the check runs yours. (Each half needs a number that is not zero.)
"""


# %% exercise=16.1
def exposing_input():
    ### BEGIN SOLUTION
    raise NotImplementedError  # return an array of 32 numbers
    ### END SOLUTION


# %% check=16.1
check("16.1", exposing_input)

# %% [markdown]
"""
## Exercise: write the test that was missing

`encode` is somebody's E2M1 encoder, as you wrote one yourself: a function from one number to a code, with ties to even. Write a test for it: try it on numbers whose codes you know, and return `True` if all are right, else `False`. Your test will be called with a right encoder, which it must pass, and with several broken ones, which it
must not: they go wrong on ties, signs, saturation or small numbers.
"""


# %% exercise=16.2
def good_test(encode):
    ### BEGIN SOLUTION
    raise NotImplementedError  # try the ties, both signs, beyond the end
    ### END SOLUTION


# %% check=16.2
check("16.2", good_test)

# %%
claim(
    "10 exhibits, every one of them exposed",
    [len(visitors), sum(visitors.values())],
    [10, 10],
)

# %% [markdown]
"""
## Where the emulator is not the hardware

These are bugs of software, and bugs of software move: each was in some version, and most are mended. The profiles of this library pin the versions they were taken from. Hardware has bugs of its own, and this museum has none of those.

## What you can say now

All 10 exhibits are exposed by an input that you could type. You have gone from one bit to a model that learns in four of them, and you know where it can go wrong, and how to look. What follows goes back to finished models: a number inside them, the eight bits before the four, and what they remember.
"""

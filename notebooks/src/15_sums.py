# ---
# title: How a tensor core adds
# needs: 05, 06
# question: A thousand products are to be added up. Does it matter how a processor does it?
# ---

# %% [markdown]
"""
A product of two eight-bit floats fits into a float32 with room to spare. Their *sum* is where things are lost. A tensor core does not add one number after the other: it takes many products at a time, lines them up, cuts off what sticks out, and adds.
How much it cuts differs from one kind of processor to the next, and nobody tells you in the manual. People found out by feeding it numbers and looking at the last bit.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import E2M1, E4M3, quantize
from vbw_np.formats.accumulate import ACCUMULATORS, dot, matmul
from vbw_np.formats.accumulate.explain import explain_sum
from vbw_np.teach import check, claim, hint, predict, solution

HOPPER, BLACKWELL = "hopper-fp8", "blackwell-f8f6f4"

# %% [markdown]
"""
## Predict

Two lists of 4,096 numbers each, drawn evenly between 0 and 1 and rounded to E4M3. Multiply them pair by pair and add the products up, as one kind of processor, called Hopper, does it. All products are positive.
By how many percent does the sum come out too small?
"""

# %%
guess = None

rng = np.random.default_rng(0)
a, b = (
    E4M3.encode(rng.uniform(size=(128, 4096)).astype(np.float32)) for _ in range(2)
)
products = E4M3.table[a].astype(np.float64) * E4M3.table[b]
exact = products.sum(axis=1)
short = 100 * np.mean((exact - dot(HOPPER, a, b)) / exact)
predict(guess, round(short, 1), "percent")
claim("products in a sum", a.shape[1], 4096, silent=True)
claim("Hopper's sum is short by 6.6 percent", short, 6.6, tol=0.05)
newer = 100 * np.mean((exact - dot(BLACKWELL, a, b)) / exact)
claim("Blackwell's by less than 0.0001 percent", newer, at_most=0.0001)

# %% [markdown]
"""
It comes out 6.6 percent short. The next kind, Blackwell, is short by less than 0.0001 percent. The products are the same. So what happens in between?

## One step, by hand

The core takes some products and the sum so far, which is kept in a register called the **accumulator**. Then:

1. It looks for the largest exponent among them.
2. That exponent, less a few bits, is the *grid*: every term is cut off toward zero to a multiple of it.
3. What is left is added up exactly, as whole numbers.
4. The sum is cut off to the bits that the accumulator keeps.

Here are two products, 1 x 1 and one of `2**-14`, on Hopper, whose grid lies 13 bits below the largest exponent, and on Blackwell:
"""

# %%
two = E4M3.encode(np.array([1, 2.0**-7], np.float32))
print(explain_sum(HOPPER, two, two))
print()
print(explain_sum(BLACKWELL, two, two))
claim("Hopper gives 1", float(dot(HOPPER, two, two)), 1)
claim("it keeps 13 bits", ACCUMULATORS[HOPPER].fraction_bits, 13)
claim("Blackwell keeps 25", ACCUMULATORS[BLACKWELL].fraction_bits, 25)
claim("and gives more", float(dot(BLACKWELL, two, two)), 1 + 2.0**-14, silent=True)
smaller = np.log2(float(E4M3.table[two[1]]) ** 2)
claim("the second product is 2 to the -14", smaller, -14, silent=True)

# %% [markdown]
"""
(Why does the second product stand there with the exponent `-12`? In E4M3 `2**-7` is subnormal: written with the smallest exponent there is, `-6`. The core adds exponents as they are written.) Hopper's grid is too coarse for the second product: it is cut off whole, and the sum is 1. Blackwell keeps 25 bits, and loses nothing.

Cutting off is not rounding to nearest. What is cut is always *toward zero*, so the errors of positive numbers do not cancel: they add up.

## Exercise: one step

Write that step. You are given the products, the exponents that belong to them (the core takes the sum of its two factors' exponents), and the number of bits. Return the sum of what is left after cutting; the last cut, that of the accumulator, is left out here.
"""


# %% exercise=15.1
def one_step(products, exponents, bits):
    ### BEGIN SOLUTION
    raise NotImplementedError  # the grid is 2.0 ** (max(exponents) - bits)
    ### END SOLUTION


# %% check=15.1
check("15.1", one_step)

# %% [markdown]
"""
## Manipulate: a sum that stops growing

A long sum is a chain of such steps, 32 products each on both processors. The larger the accumulator has become, the coarser the grid, and the more of each new product is cut. Change the numbers (`0.1` instead of `1.0` for the largest one, or let some be negative) and look at what happens to the picture. Where nothing at all is lost, a point lies on its lower edge.
"""

# %%
largest, smallest = 1.0, 0.0

rng = np.random.default_rng(1)
x, w = (
    E4M3.encode(rng.uniform(smallest, largest, (64, 4096)).astype(np.float32))
    for _ in range(2)
)
lengths = [32, 64, 128, 256, 512, 1024, 2048, 4096]


def error(unit, length, promote=None):
    """Mean error in percent of what was to be added."""
    part = E4M3.table[x[:, :length]].astype(np.float64) * E4M3.table[w[:, :length]]
    off = dot(unit, x[:, :length], w[:, :length], promote=promote) - part.sum(axis=1)
    return 100 * np.mean(np.abs(off) / np.abs(part).sum(axis=1))


# %%
lines = {
    "Hopper": [error(HOPPER, n) for n in lengths],
    "Hopper, promoted every 128": [error(HOPPER, n, min(n, 128)) for n in lengths],
    "Blackwell": [max(error(BLACKWELL, n), 1e-8) for n in lengths],
}
viz.curves(
    lines, x=lengths, xlabel="products in the sum", ylabel="error, percent",
    title="The longer the sum, the more is cut off", logx=True, logy=True,
)  # fmt: skip

# %%
steps = [ACCUMULATORS[u].terms for u in (HOPPER, BLACKWELL)]
claim("32 on both", steps, [32, 32], silent=True)
drawn = [a[:, :1024], b[:, :1024]]
right = products[:, :1024].sum(axis=1)
found = [
    100 * np.mean(np.abs(dot(HOPPER, *drawn, promote=p) - right) / right)
    for p in (None, 128)
]
claim("products in the middle of the picture", len(drawn[0][0]), 1024, silent=True)
claim("1.3 percent at 1,024 products", found[0], 1.3, tol=0.06)
claim("0.05 percent with promotion", found[1], 0.05, tol=0.005)
every = [128, 4]  # 4 steps of 32
claim("every 128, four steps", [every[0], every[0] // steps[0]], every, silent=True)

# %% [markdown]
"""
## Taking the sum out in time

At 1,024 products Hopper's sum is off by 1.3 percent; with a trick, by 0.05 percent. The trick: after every 128 products (4 steps) the partial sum is taken out of the core, added to an ordinary float32, and the core begins again at zero. This is called **promotion**. The accumulator never becomes large, so its grid stays fine.
It costs instructions outside the core, and a well-known language model, DeepSeek's third, was trained that way, since its authors found the sums too bad without it.

## Does training mind?

Real weights and activations are positive and negative, so that errors cancel for a part. Below, one wide layer, its weights and inputs in E4M3, three ways: how far is its output from that of the same numbers in exact arithmetic?
"""

# %%
rng = np.random.default_rng(2)
inputs, weights = (
    E4M3.encode(rng.normal(size=(32, 4096)).astype(np.float32)) for _ in range(2)
)
wanted = E4M3.table[inputs].astype(np.float64) @ E4M3.table[weights].T.astype(np.float64)


def layer_error(unit, promote=None):
    """Relative error in percent."""
    got = matmul(unit, inputs, weights, promote=promote)
    return 100 * np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


wide = [layer_error(HOPPER), layer_error(HOPPER, 128), layer_error(BLACKWELL)]
for name, percent in zip(lines, wide):
    print(f"{name:28}{percent:10.6f} percent")
claim("0.12 percent, on a layer of 4,096 inputs", wide[0], 0.12, tol=0.005)
claim("0.01 percent with promotion", wide[1], 0.01, tol=0.005)
claim("the layer's inputs", inputs.shape[1], 4096, silent=True)

# %%
values = rng.normal(size=(64, 4096)).astype(np.float32)
back = quantize(values, "fp8-row", measure=False).dequantize()
rounding = 100 * np.linalg.norm(back - values) / np.linalg.norm(values)
claim("rounding the numbers to E4M3 costs 2.6 percent", rounding, 2.6, tol=0.05)

# %% [markdown]
"""
On a layer of 4,096 inputs the sum costs 0.12 percent, and 0.01 percent with promotion. Rounding the numbers to E4M3 in the first place costs 2.6 percent. So on numbers that cancel the sum is not what hurts; on numbers that do not, such as those behind an activation that is never negative, it does.

## Four bits are different

NVFP4 is multiplied by another instruction: 16 products of the same two blocks are added *exactly*, times both block scales, and only these group sums are lined up, on a grid 35 bits fine. With ordinary numbers nothing is cut off that float32 could hold. With block scales that run over their whole range, it is.
"""


# %%
def differing(x, w):
    """The share of outputs, in percent, that are not the exact sum rounded to float32."""
    p, q = (quantize(m, "nvfp4", measure=False) for m in (x, w))
    codes = p.unpacked_codes(), q.unpacked_codes()
    got = matmul(FP4, *codes, scale_a=p.scales, scale_b=q.scales)
    left, right = (
        E2M1.table[c] * np.repeat(m.decoded_scales(), 16, axis=1)
        for c, m in zip(codes, (p, q))
    )
    wanted = left.astype(np.float64) @ right.T.astype(np.float64)
    return 100 * np.mean(got != wanted.astype(np.float32))


# %%
FP4 = "blackwell-mxf4nvf4"
rng = np.random.default_rng(1)
x, w = (rng.normal(size=(32, 1024)).astype(np.float32) for _ in range(2))
claim("ordinary numbers: 0 percent of the sums differ", differing(x, w), 0)
spread = np.exp2(rng.integers(-14, 1, 64)).astype(np.float32)
wild = differing(x * np.repeat(spread, 16), w * np.repeat(rng.permutation(spread), 16))
print(f"scales over the whole range: {wild:.0f} percent differ")
claim("scales over the whole range: more than 90 percent", wild, at_least=90)
claim("16 products in a group", ACCUMULATORS[FP4].group, 16)
claim("a grid of 35 bits", ACCUMULATORS[FP4].fraction_bits, 35)

# %% [markdown]
"""
Of ordinary numbers 0 percent of the sums differ from the exact one, rounded once. Of wild ones more than 90 percent do, all of them in the last bits.

## Exercise: the smallest input

Your kernel and your reference differ in the last bit, and a colleague says: "Show me." Find the smallest input on which Hopper's sum of E4M3 numbers and Blackwell's differ: two lists of as few E4M3 numbers as possible.
You may use the library: `dot(HOPPER, E4M3.encode(...), E4M3.encode(...))`.
"""


# %% exercise=15.2
def smallest_input():
    ### BEGIN SOLUTION
    raise NotImplementedError  # two lists, the left numbers and the right ones
    ### END SOLUTION


# %% check=15.2
check("15.2", smallest_input)

# %% [markdown]
"""
## Where the emulator is not the hardware

The rules come from people who fed real processors with chosen numbers. For fp16, bfloat16 and FP8 on kinds from Volta to Hopper, and on Blackwell where its cores were measured, rows that real processors computed are equal to this emulator's, bit for bit.
For NVFP4 and MXFP4 on Blackwell nobody has published such rows: there, we are held to another emulator, MMA-Sim, and could be wrong together with it. Processors of other makers add in other ways.

## What you can say now

A tensor core lines products up by the largest exponent and cuts off toward zero. How many bits it keeps decides how long a sum may be; promotion takes partial sums out in time. Numbers of one sign suffer most. Two processors can differ on two products, and both be right about themselves.
"""

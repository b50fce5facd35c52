# ---
# title: From INT8 to four bits
# needs: 05, 14
# question: Whole numbers of eight bits came first, with a box of tools that made them fit. Which of those tools are gone in four bits, and what took their place?
# ---

# %% [markdown]
"""
Long before four bits, models ran on whole numbers of eight: **INT8**. Divide by a scale, round to a whole number, multiply back. To make numbers fit, people had a few tools: codes that need not be alike on both sides of nought, more scales than one, a look at real inputs beforehand, and cutting off the largest on purpose. You will build each of them, measure what it gains with eight bits and with four, and see why the block formats look as they do: each tool is either built into them or given up. At the end two floats of eight bits stand beside.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import E4M3, E5M2, fake_quantize, sqnr_db
from vbw_np.teach import check, claim, hint, predict, solution


def whole(x, largest, axis=None):
    """Whole numbers from -largest to largest under one scale, or one along an axis; what comes back."""
    scale = np.abs(x).max(axis=axis, keepdims=axis is not None) / largest
    return np.round(x / scale) * scale


claim("eight bits: from -127 to 127, 255 codes", [-127, 127, 2 * 127 + 1], [-127, 127, 255], silent=True)

# %% [markdown]
"""
The whole numbers of INT8 go from -127 to 127, 255 in all, so the scale is the amax divided by 127.

## Predict

Between two layers of a language model stands a function that lets large positive numbers pass and makes negative ones nearly nothing. What comes out is lopsided: here a little below zero on one side and more than four on the other. How many percent of the 255 codes does it never use?
"""

# %%
guess = None

normal = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
lopsided = normal / (1 + np.exp(-1.7 * normal))
codes = np.round(lopsided / np.abs(lopsided).max() * 127).astype(int)
unused = 100 * (1 - len(np.unique(codes)) / 255)
predict(guess, round(unused), "percent that are never used")
claim("52 percent of the codes are never used", unused, 52, tol=0.5)
claim("codes from 0 to 255, in 8 bits; or 4", [0, 2**8 - 1, 8, 4], [0, 255, 8, 4], silent=True)
claim("the smallest is below zero", float(lopsided.min()), at_most=-0.1, silent=True)

# %% [markdown]
"""
## A zero point

52 percent are never used: a whole bit is thrown away. So move the codes. Let them run from 0 to 255 and say which of them means nought; that one is the **zero point**, `z`. A number comes back as `scale * (code - z)`. The smallest number gets code 0, the largest 255.

Nought has to come back as exactly nought, for a model is full of noughts (the padding of a text, for one). So the zero point is a whole number, and the range always includes nought.

## Exercise: where is nought?

Given the smallest and the largest number, `low` and `high`, return `(scale, zero)`: first widen the range so that it includes nought, then the scale is the range divided by 255, and `zero` is the code of nought, rounded to a whole number.
"""


# %% exercise=18.1
def zero_point(low, high):
    ### BEGIN SOLUTION
    raise NotImplementedError  # return scale, zero
    ### END SOLUTION


# %% check=18.1
check("18.1", zero_point)


# %%
def affine(x, largest):
    """Codes from 0 to `largest` with a zero point, for each row of x; what comes back."""
    low = np.minimum(x.min(axis=-1, keepdims=True), 0)
    scale = (np.maximum(x.max(axis=-1, keepdims=True), 0) - low) / largest
    zero = np.round(-low / scale)
    return scale * (np.clip(np.round(x / scale) + zero, 0, largest) - zero)


row = lopsided.reshape(1, -1)  # all numbers under one scale
gain = {}
for bits, half in (("8 bits", 127), ("4 bits", 7)):
    plain, moved = sqnr_db(row, whole(row, half)), sqnr_db(row, affine(row, 2 * half + 1))
    gain[bits] = {"symmetric": plain, "with a zero point": moved}
claim("8 bits: symmetric", gain["8 bits"]["symmetric"], 35.6, tol=0.05)
claim("8 bits: with a zero point", gain["8 bits"]["with a zero point"], 41.0, tol=0.05)
plain, moved = gain["4 bits"].values()
claim("4 bits: what the zero point gains", moved - plain, 3.3, tol=0.05)
viz.bars(gain, ylabel="SQNR in dB", title="A zero point on lopsided numbers")

# %% [markdown]
"""
From 35.6 to 41.0 dB: nearly the six that a bit is worth. With four bits the gain is smaller, 3.3 dB. Then where is the zero point of NVFP4? There is none, and that is a price. Here are small blocks on the same lopsided numbers:
"""

# %%
blocks = lopsided.reshape(-1, 16)
small = {
    "whole numbers": sqnr_db(blocks, whole(blocks, 7, axis=1)),
    "with a zero point": sqnr_db(blocks, affine(blocks, 15)),
    "NVFP4": sqnr_db(lopsided, fake_quantize(lopsided, "nvfp4")),
}
print({name: round(value, 1) for name, value in small.items()})
claim("blocks of 16 with a zero point each: 25.1 dB", small["with a zero point"], 25.1, tol=0.05)
claim("NVFP4: 20.4 dB", small["NVFP4"], 20.4, tol=0.05)

# the price: in a product the zero point brings a second sum along
rng = np.random.default_rng(1)
weights = rng.integers(-7, 8, (8, 16))
inputs, zero = rng.integers(0, 16, (4, 16)), 5
right = (inputs - zero) @ weights.T
same = inputs @ weights.T - zero * weights.sum(axis=1)
claim("the product of moved codes is two sums", same, right)

# %% [markdown]
"""
Blocks of 16 with a zero point each bring 25.1 dB where NVFP4 brings 20.4. But every block then stores another number, and every product needs a second sum: the codes are multiplied as they are, and `zero` times the sum of the weights is taken off again. With one zero point for a matrix that is one subtraction an output. With one for every block it is one for every block, in the middle of a sum that a tensor core does in one go. Formats for hardware gave it up; formats for storage, such as `q4_1` of llama.cpp, still keep one for every block (as the value of code nought).

## Who shares a scale

With one scale for a matrix (people say *per tensor*), the row with the largest numbers sets it for all. One for every row (*per channel*) costs next to nothing. One for every few neighbors in a row (*per group*) is what you know as a block. Write that one.

## Exercise: groups

`x` is (rows, columns), and `size` divides the number of columns. Every `size` neighbors in a row share a scale, their amax divided by `largest`. Return what comes back. (No group is all noughts.)
"""


# %% exercise=18.2
def grouped(x, size, largest):
    ### BEGIN SOLUTION
    raise NotImplementedError  # reshape, then as in `whole`
    ### END SOLUTION


# %% check=18.2
check("18.2", grouped)


# %%
sizes = np.exp(np.random.default_rng(2).normal(size=(128, 1)))  # rows of very different size
matrix = np.random.default_rng(3).standard_t(5, (128, 1024)) * sizes


def groups_of(size, largest):
    return whole(matrix.reshape(128, -1, size), largest, axis=-1).reshape(matrix.shape)


shared = {}
for bits, largest in (("8 bits", 127), ("4 bits", 7)):
    shared[bits] = {
        "per tensor": sqnr_db(matrix, whole(matrix, largest)),
        "per channel": sqnr_db(matrix, whole(matrix, largest, axis=1)),
        "groups of 128": sqnr_db(matrix, groups_of(128, largest)),
        "groups of 16": sqnr_db(matrix, groups_of(16, largest)),
    }
claim("8 bits, per channel: dB", shared["8 bits"]["per channel"], 35.9, tol=0.05)
claim("4 bits, per channel: dB", shared["4 bits"]["per channel"], 10.9, tol=0.05)
claim("4 bits, groups of 16: dB", shared["4 bits"]["groups of 16"], 19.9, tol=0.05)
claim("8 bits, per tensor: dB", shared["8 bits"]["per tensor"], 20.2, tol=0.05)
viz.bars(shared, ylabel="SQNR in dB", title="The fewer share a scale, the nearer")

# %% [markdown]
"""
With eight bits, one scale a row brings 35.9 dB, and nobody asked for more. With four, the same leaves 10.9. Groups of 16 bring 19.9, about what eight bits have with one scale for all (20.2). That is the whole idea of four-bit formats: each bit that is saved in the codes costs six dB, and smaller groups have to win them back, with scales that are small themselves.

## Calibration, and clipping

A weight is known, so its amax is too. An activation is not: it depends on what somebody will ask the model next month. In the days of INT8 its scale was fixed beforehand, from a calibration: let a text flow through the model, and note the largest number. Then a larger one may come, and saturates. But the largest is a poor guide anyway. Here are activations with wild ones among them, and the scale made from a *share* of the largest number: what is beyond saturates on purpose. That is **clipping**. Which share is best?
"""

# %%
def batch(seed):
    return np.random.default_rng(seed).standard_t(4, (128, 1024)).astype(np.float32)


def clipped(x, top, largest):
    return np.round(np.clip(x, -top, top) / (top / largest)) * (top / largest)


first, later = batch(4), batch(5)  # what calibration sees, and what comes in use
amax = np.abs(first).max()
shares = np.arange(1, 21) / 20
quality = {
    "8 bits": [sqnr_db(first, clipped(first, s * amax, 127)) for s in shares],
    "4 bits": [sqnr_db(first, clipped(first, s * amax, 7)) for s in shares],
}
best = {bits: shares[int(np.argmax(values))] for bits, values in quality.items()}
claim("best share with 8 bits", best["8 bits"], 0.6)
claim("best share with 4 bits", best["4 bits"], 0.15)
title = "Clip more where there are fewer codes"
viz.curves(quality, x=shares, xlabel="share of the largest number", ylabel="SQNR in dB", title=title)

# %% [markdown]
"""
Left of the top of a curve too much is cut off, right of it the steps are too coarse. With 8 bits the best share is 0.6, with 4 bits 0.15: where there are few codes, cutting a few large numbers off is cheaper than making all others coarse.

## Exercise: the best share

This search is called *clipping by MSE* (the mean squared error). Given the numbers `x`, the `largest` whole number, and the `shares` to try, return the share whose error is the smallest. What comes back of `x` for a share is computed as in `clipped` above.
"""


# %% exercise=18.3
def best_share(x, largest, shares):
    ### BEGIN SOLUTION
    raise NotImplementedError  # try them all
    ### END SOLUTION


# %% check=18.3
check("18.3", best_share)

# %% [markdown]
"""
A quicker way takes no search: clip at a **percentile**, the number below which, say, 99.9 percent of the magnitudes lie. Here are all of them side by side, chosen on the first batch and measured on a later one, as in real use:
"""

# %%
sizes = np.abs(first)
tops = {
    "largest": {"8 bits": amax, "4 bits": amax},
    "99.9 percent": dict.fromkeys(best, np.percentile(sizes, 99.9)),
    "99 percent": dict.fromkeys(best, np.percentile(sizes, 99)),
    "least error": {bits: share * amax for bits, share in best.items()},
}
came = {
    name: {b: sqnr_db(later, clipped(later, top[b], {"8 bits": 127, "4 bits": 7}[b])) for b in top}
    for name, top in tops.items()
}
claim("4 bits: the largest", came["largest"]["4 bits"], 1.9, tol=0.05)
claim("4 bits: 99 percent", came["99 percent"]["4 bits"], 12.3, tol=0.05)
claim("4 bits: least error", came["least error"]["4 bits"], 12.7, tol=0.05)
claim("8 bits: 99 percent", came["99 percent"]["8 bits"], 13.9, tol=0.05)
claim("8 bits: least error", came["least error"]["8 bits"], 27.4, tol=0.05)
claim("percentiles", [np.mean(sizes <= tops[f"{p} percent"]["4 bits"]) * 100 for p in (99.9, 99)], [99.9, 99], tol=0.01, silent=True)
viz.bars(came, ylabel="SQNR in dB, later batch", title="Four ways to choose where to clip")

# %% [markdown]
"""
With 4 bits the largest number is useless (1.9 dB); 99 percent (12.3) comes near to the least error (12.7). With 8 bits 99 percent is far too little: 13.9 where 27.4 could be had. So a percentile has to be chosen for a format, and the search finds its own.

And in a block format? Give every block its best share, and compare with no clipping at all:
"""

# %%
gains = {}
for size in (1024, 128, 16):
    block = later.reshape(-1, size)
    top = np.abs(block).max(axis=1, keepdims=True)
    errors = [np.square(clipped(block, s * top, 7) - block).sum(axis=1) for s in shares]
    gains[size] = float(10 * np.log10(errors[-1].sum() / np.min(errors, axis=0).sum()))
claim("how many share", list(gains), [1024, 128, 16], silent=True)
claim("rows of 1024: clipping gains 3.2 dB", gains[1024], 3.2, tol=0.05)
claim("groups of 16: it gains 0.3", gains[16], 0.3, tol=0.05)
plain = sqnr_db(later, fake_quantize(later, "nvfp4"))
claim("NVFP4 without calibration or clipping: 20.7 dB", plain, 20.7, tol=0.05)
viz.bars(
    {f"{size} share a scale": {"gain": value} for size, value in gains.items()},
    ylabel="dB",
    title="What clipping gains",
)

# %% [markdown]
"""
Where 1024 numbers share a scale, clipping gains 3.2 dB; where 16 do, 0.3. The block's scale is made on the spot, from the numbers that are there, so there is nothing to calibrate either: NVFP4 has 20.7 dB on the later batch, without having seen the first. What is left of clipping in it you know already: mapping amax to four or to six.

## Eight-bit floats beside

Two floats of eight bits are in use: E4M3, which you know as NVFP4's scale, and **E5M2**, with one bit more of exponent and one less of mantissa. They are the other answer to wild numbers. Take normal numbers, one scale that is right for them, and then let them shrink, halving after halving, while the scale stays:
"""

# %%
numbers = normal[:64]
top = np.abs(numbers).max()
halvings = range(0, 21, 2)
formats = {
    "INT8": lambda x: clipped(x, top, 127),
    "E4M3": lambda x: E4M3.decode(E4M3.encode(x * (448 / top))) * (top / 448),
    "E5M2": lambda x: E5M2.decode(E5M2.encode(x * (57344 / top))) * (top / 57344),
}
near = {
    name: [sqnr_db(numbers * np.float32(2.0**-n), back(numbers * np.float32(2.0**-n))) for n in halvings]
    for name, back in formats.items()
}
claim("largest of E4M3 and E5M2", [E4M3.max, E5M2.max], [448, 57344])
claim("halvings", list(halvings)[3:6:2], [6, 10], silent=True)
claim("INT8 to begin with", near["INT8"][0], 39.3, tol=0.05)
claim("E4M3", near["E4M3"][0], 31.6, tol=0.05)
claim("E5M2", near["E5M2"][0], 25.5, tol=0.05)
claim("E4M3 after 10 halvings", near["E4M3"][5], 31.6, tol=0.05)
claim("INT8 after 6 halvings", near["INT8"][3], 3.4, tol=0.05)
viz.curves(near, x=list(halvings), xlabel="halvings", ylabel="SQNR in dB", title="Fineness against range")

# %% [markdown]
"""
At the size that the scale was made for, INT8 is the best, with 39.3 dB, E4M3 has 31.6 and E5M2 25.5. But each halving takes six dB from the whole numbers: after 6 of them 3.4 dB are left, while E4M3 does not notice before 10, and E5M2 not at all in this picture. A float spends its bits on range, a whole number on fineness. So weights and activations of FP8 are E4M3, and gradients, which are small one day and large the next, were often E5M2.

E2M1 has next to no range of its own. That is why it needs what the eight-bit floats do not: a scale for every few numbers. And that scale is an eight-bit float, or nothing but an exponent.

## Where the emulator is not the hardware

Everything here is arithmetic with whole numbers and scales, and the same on every machine. What a processor gains from it is not shown: INT8 products are exact sums of whole numbers, faster and smaller than those of floats, which is why they came first.

## What you can say now

What a zero point is for, and what it costs in a product; that fewer bits need smaller groups; how a range is calibrated and clipped, and why a block of 16 needs neither; and what eight-bit floats trade for their range.
"""

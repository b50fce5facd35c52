# ---
# title: Block scales
# minutes: 45
# seconds: 15
# needs: 02, 03
# question: The largest code means six, and most weights are far smaller. How do sixteen codes cover any number at all?
# ---

# %% [markdown]
"""
By multiplying. Divide all numbers by one number, the **scale**, so that they fit the range of the codes; store the codes and the scale;
multiply on the way back. The usual scale maps the largest number of the lot, its **amax** (the maximum of the absolute values), to
the largest value of a code: `scale = amax / 6`. The question is: how many numbers should share a scale? The answer is what tells one four-bit format from another.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import E2M1, E4M3, E8M0, FORMATS, fake_quantize, quantize, sqnr_db
from vbw_np.teach import check, claim, float_bits, hint, predict, solution

# %% [markdown]
"""
## Predict

Thirty-two **normal numbers** (drawn from the bell curve, as many weights nearly are; here of size around one), and one of them replaced by 30. They share *one* scale, so 30 takes the largest
code. How many of the thirty-two come back as zero? (`fake_quantize` stores an array and reads it back at once; `"fp4-row"` is the format with one scale for a row.)
"""

# %%
guess = None

x = np.random.default_rng(1).normal(size=(1, 32)).astype(np.float32)
x[0, 3] = 30
zeros = int((fake_quantize(x, "fp4-row") == 0).sum())
predict(guess, zeros, "zeros of 32")
claim("one number of 30", x.max(), 30)
claim("27 of them become zero", zeros, 27)

# %% [markdown]
"""
27 of them vanish. A number that is much larger than its neighbors is called an **outlier**, and here it has ruined nearly all of them. The bin of zero reaches to `0.25`, and the amax
stands at 6, twenty-four times as far: whatever is below a twenty-fourth of the amax becomes zero.

## Blocks

So let fewer numbers share a scale. A **block** is a run of neighbors with a scale of their own. Now the outlier can only ruin its own block.
The picture shows the same numbers in the format called `nvfp4`, with blocks of sixteen: thin dark bars before, wide light bars after, dashed lines between blocks, and each block's scale at the top.
In the first block nothing but the outlier is left; in the second nearly every bar keeps its height.
"""

# %%
packed = quantize(x, "nvfp4")
viz.block_strip(
    x[0],
    packed.dequantize()[0],
    packed.decoded_scales()[0] * packed.tensor_scale,
    16,
    title="An outlier ruins its own block, and no other",
)

# %%
blocks = {name: int((fake_quantize(x, name) == 0).sum()) for name in ("fp4-row", "nvfp4")}
print(blocks)
claim("zeros with one scale, with blocks of 16", list(blocks.values()), [27, 17])
claim("the block is", packed.format.block, 16)
claim(
    "of these in the block with the outlier",
    int((packed.dequantize()[0, :16] == 0).sum()),
    15,
)

# %% [markdown]
"""
One scale for the row: 27 zeros. Blocks of 16: 17 zeros, and 15 of them in the block with the outlier.

## What does a scale cost?

A scale has to be stored too. In float32, for sixteen numbers, it would add two bits to every number: too much. So the scale itself gets eight bits. There are two ways
to spend them, and they are the two formats that hardware multiplies.

**MXFP4** (MX for *microscaling*) shares a scale among 32 numbers and stores it as **E8M0**: eight bits of exponent, no mantissa, no sign. Only powers of two, but a huge range of them.

**NVFP4** (NV for NVIDIA) shares it among 16 and stores it as **E4M3**: a sign, four bits of exponent, three of mantissa. Finer, but with a short range. So NVFP4 adds one
float32 number for the whole matrix, the **tensor scale**, which brings the block scales into range.

Counted for each number: `4 + 8/32` bits in MXFP4, `4 + 8/16` in NVFP4 (and the one tensor scale, which a large matrix does not feel).
"""

# %%
print("E8M0 near 1:", E8M0.table[124:131])
print("E4M3 near 1:", E4M3.table[50:62])
claim("MXFP4 takes 4.25 bits a number", FORMATS["mxfp4"].bits, 4.25)
claim("NVFP4 takes 4.5", FORMATS["nvfp4"].bits, 4.5)
claim("block lengths", [FORMATS["mxfp4"].block, FORMATS["nvfp4"].block], [32, 16])
claim("the largest code means 6", E2M1.max, 6)
claim("the largest E4M3 is 448", E4M3.max, 448)
claim("6 times 448 is 2688", 6 * E4M3.max, 2688)

# %% [markdown]
"""
MXFP4 takes 4.25 bits a number, NVFP4 takes 4.5. The largest E4M3 number is 448, so the largest number that codes and block scales can
make together is 2688; the tensor scale maps the amax of the whole matrix there.

Here is one number of the matrix above on its whole way, from the amax of its block to its bits and back. The *quotient* is the number in units of its scale; then come the values on both sides of it,
the code it gets, where the code and the scale lie in memory, and what is decoded. (`te` names the written-down procedure that is followed.) Its quotient is a little beyond 6, so it saturates: to fit E4M3, the scale had to be rounded. Ask for other numbers.
"""

# %%
packed.explain(0, 24, x=x)

# %%
quotient = float(np.abs(x[0, 24]) / (packed.decoded_scales()[0, 1] * packed.tensor_scale))
claim("the quotient is above 6", quotient, at_least=6)

# %% [markdown]
"""
## Manipulate: the scale of one block

Change `amax`. Watch which scale each format picks, and what the largest number of the block becomes after it is stored. Try `3.0`, `3.9`, `4.0`, `6.1`. (A number of ten stands in a block further on, so that
the tensor scale does not follow `amax`. `mxfp4-rceil` is MXFP4 with another rule for the scale, explained below.)
"""

# %%
amax = 3.9

block = np.zeros((1, 64), np.float32)
block[0, :4] = amax, amax / 2, amax / 3, -amax / 5
block[0, 32] = 10
for name in ("mxfp4", "mxfp4-rceil", "nvfp4"):
    p = quantize(block, name)
    s = float(p.decoded_scales()[0, 0]) * (
        1 if p.tensor_scale is None else float(p.tensor_scale)
    )
    print(
        f"{name:12} scale {s:<10.6g} amax / scale {amax / s:<8.4g} amax comes back as {p.dequantize()[0, 0]:.5g}"
    )

# %% [markdown]
"""
The standard's rule for MXFP4 looks only at the exponent of amax, and takes two off it: for an amax between four and eight the scale is one, for an amax between eight and sixteen it is two, and so on.
Then amax divided by the scale lies between 4 and 8, and everything above 6 saturates: the block's largest number is cut. How often does that happen? (The other rule, `rceil`, takes the smallest power of two
with which nothing is cut; then everything else in the block may get coarser steps.)
"""

# %%
normal = np.random.default_rng(0).normal(size=(256, 1024)).astype(np.float32)
mx = quantize(normal, "mxfp4")
ratio = np.abs(normal.reshape(256, -1, 32)).max(axis=-1) / mx.decoded_scales()
print(f"amax / scale between {ratio.min():.3f} and {ratio.max():.3f}")
claim("amax / scale is at least 4", ratio.min(), at_least=4)
claim("and below 8", ratio.max(), at_most=8)
cut = 100 * (ratio > 6).mean()
claim(
    "about 29.6 % of the blocks of normal numbers lose the top of their largest number",
    cut,
    29.6,
    tol=0.5,
)
nv = quantize(normal, "nvfp4")
fine_ratio = np.abs(normal.reshape(256, -1, 16)).max(axis=-1) / (
    nv.decoded_scales() * nv.tensor_scale
)
claim("NVFP4: amax / scale is at least 5.66", fine_ratio.min(), at_least=5.66)
claim("and at most 6.375", fine_ratio.max(), at_most=6.375)

# %% [markdown]
"""
About 29.6 percent of the blocks are cut. (A power of two is a blunt tool.) NVFP4's scale is E4M3's nearest to `amax / 6`, at most about a sixteenth off, and keeps amax divided by scale between 5.66 and 6.375.

## Picture: a photograph

A gray picture is a matrix too: nought is black, one is white. The blocks lie along its rows. With one scale a row, the sun sets the scale of every row that it stands in, and the sky beside it
falls on a single gray. In MXFP4 the sky falls on two grays, one for the upper part and one for the lower. In NVFP4 look around the sun: every block there has its own scale, and the small rectangles that you see are blocks.
"""

# %%
photo = viz.photograph()
viz.images(
    {
        "the original": photo,
        "one scale a row (4 bits)": fake_quantize(photo, "fp4-row"),
        "MXFP4: blocks of 32, powers of two": fake_quantize(photo, "mxfp4"),
        "NVFP4: blocks of 16": fake_quantize(photo, "nvfp4"),
    },
    title="A picture made of four-bit numbers",
)

# %% [markdown]
"""
And the errors: what came back less what was there. Middle gray is right, lighter is too bright, darker is too dark. The dark rim of the sun in MXFP4 is what the standard's rule cut off; with the scale rounded up nothing is cut.
"""

# %%
viz.images(
    {
        "error, one scale a row": fake_quantize(photo, "fp4-row") - photo,
        "error, MXFP4": fake_quantize(photo, "mxfp4") - photo,
        "error, NVFP4": fake_quantize(photo, "nvfp4") - photo,
        "error, MXFP4 rounded up": fake_quantize(photo, "mxfp4-rceil") - photo,
    },
    title="What was lost: light is too bright, dark is too dark",
    signed=True,
)

# %%
darkest = {
    name: float((fake_quantize(photo, name) - photo).min())
    for name in ("mxfp4", "mxfp4-rceil")
}
claim(
    "cutting makes the worst dark error nearly twice as large",
    darkest["mxfp4"] / darkest["mxfp4-rceil"],
    at_least=1.9,
)

# %% [markdown]
"""
## One number for "how near"

Divide the power of the numbers (the sum of their squares) by the power of the errors and take ten times the logarithm (to the base ten): **SQNR**, the signal to quantization noise ratio, in
decibels (dB). Six more dB mean: errors half as large. Twenty dB mean: errors a tenth of the numbers.

Is a small float (a number with an exponent, like E2M1) really the best use of four bits? Formats of such codes are called **FP4**. The plain rival is **INT4**: fifteen evenly spaced values, from minus seven to seven, here with a scale of NVFP4's kind for
every block of 16, so the same 4.5 bits. A popular claim says that FP4 wins.

Predict for which of four kinds of numbers it does: *normal* ones; *Laplace* numbers, with a sharper peak and more large ones; *Student's t*, wild, now and then with a huge one; and *uniform* ones, all equally likely between the ends.
"""

# %%
rng = np.random.default_rng(0)
data = {
    "normal": rng.normal(size=(256, 1024)),
    "Laplace (sharper)": rng.laplace(size=(256, 1024)),
    "Student t, 3 (wild)": rng.standard_t(3, size=(256, 1024)),
    "uniform (flat)": rng.uniform(-1, 1, size=(256, 1024)),
}
names = {"nvfp4": "NVFP4", "int4-e4m3": "INT4", "mxfp4": "MXFP4"}
quality = {
    label: {
        title: sqnr_db(v.astype(np.float32), fake_quantize(v.astype(np.float32), name))
        for name, title in names.items()
    }
    for label, v in data.items()
}
viz.bars(
    quality,
    ylabel="SQNR in dB (higher is nearer)",
    title="Which four bits are best? It depends on the numbers",
)

# %%
first = [round(quality[k]["NVFP4"], 1) for k in quality]
claim(
    "NVFP4 on normal, Laplace, t and uniform numbers",
    first,
    [20.4, 20.6, 20.8, 19.9],
    tol=0.15,
)
claim("INT4 on normal numbers is better: 21.3", quality["normal"]["INT4"], 21.3, tol=0.1)
claim("and on flat ones, 23.6", quality["uniform (flat)"]["INT4"], 23.6, tol=0.1)
claim("but worse on Laplace, 19.8", quality["Laplace (sharper)"]["INT4"], 19.8, tol=0.1)
claim(
    "and worse on wild ones, 18.75", quality["Student t, 3 (wild)"]["INT4"], 18.75, tol=0.2
)

# %% [markdown]
"""
On normal numbers INT4 wins: 21.3 against 20.4 dB. On flat ones too. On sharper and wilder ones FP4 wins: 20.6 against 19.8, and more where it is wild. So
the sentence "FP4 beats INT4" is false without its condition. The strength of NVFP4 is that it hardly cares: look how level its bars are.

## Exercise: the standard's scale

Given `amax > 0`, return MXFP4's scale as the standard has it: two to the power of (the exponent of amax, less two). The exponent is `floor(log2(amax))`. A computed logarithm is rounded; `math.frexp(amax)`
takes the exponent from the bits, but mind its help: its mantissa is below one, so its exponent is one more than ours.
"""


# %% exercise=04.1
def mx_scale(amax):
    ### BEGIN SOLUTION
    raise NotImplementedError  # a power of two
    ### END SOLUTION


# %% check=04.1
check("04.1", mx_scale)

# %% [markdown]
"""
## Exercise: four or six

Between the values 4 and 6 there is a hole. A number at five sixths of its block's amax lands in the middle of it, as far from any value as can be. Then it may be better to map amax to *4* and leave the value 6 unused. `block` is an array of
float32 numbers. Return 6 or 4, whichever divisor `d` gives the smaller sum of squared errors when the block is stored with `scale = amax / d`; if they are equal, 6. `E2M1.decode(E2M1.encode(...))` rounds.
"""


# %% exercise=04.2
def four_or_six(block):
    from vbw_np.formats import E2M1

    ### BEGIN SOLUTION
    raise NotImplementedError  # return 6 or 4
    ### END SOLUTION


# %% check=04.2
check("04.2", four_or_six)

# %%
better = sqnr_db(normal, fake_quantize(normal, "nvfp4-4over6")) - sqnr_db(
    normal, fake_quantize(normal, "nvfp4")
)
claim("choosing per block gains about 0.8 dB on normal numbers", better, 0.8, tol=0.05)

# %% [markdown]
"""
Choosing four or six for each block gains about 0.8 dB, for no bits at all: the scale that is stored says which it was.

## What the tensor scale is for

Store the same numbers ten thousand times smaller, or larger, with and without it (`nvfp4-1level` is NVFP4 without).
"""

# %%
level = {}
for size in (1e-4, 1.0, 1e4):
    w = normal * np.float32(size)
    level[f"times {size:g}"] = {
        "with": sqnr_db(w, fake_quantize(w, "nvfp4")),
        "without": sqnr_db(w, fake_quantize(w, "nvfp4-1level")),
    }
viz.bars(level, ylabel="SQNR in dB", title="NVFP4 with and without its tensor scale")

# %%
claim(
    "without it, small numbers are lost: 0 dB",
    level["times 0.0001"]["without"],
    0,
    tol=0.01,
)
claim(
    "with it, their size does not matter",
    max(v["with"] for v in level.values()) - min(v["with"] for v in level.values()),
    at_most=0.01,
)
again = nv.dequantize()
claim("storing twice changes nothing more", fake_quantize(again, "nvfp4"), again)

# %% [markdown]
"""
Without a tensor scale, small numbers are lost entirely (0 dB: the error is as large as the number), and large ones are cut off. And a last fact about NVFP4: storing what came back a second time changes nothing more.
"""

# %% [markdown]
"""
## Exercise: NVFP4, equal in every byte

Now all of it, for a matrix `x` of float32 numbers whose rows are made of whole blocks of 16. Return `(packed, scales, amax)`: the bytes of all codes, row after row; the
E4M3 code of each block's scale, an array of shape (rows, blocks in a row); and the amax of the matrix. Two programs agree in every byte only if they do the same operations in the same order, each rounded to float32.
So, word for word, with `one = np.float32(1)`:

- `S = np.float32(2688) / amax`;
- a block's scale is its amax, times `(S * (one / np.float32(6)))`, stored with `E4M3.encode`;
- the factor of a block is one divided by (the stored scale, decoded, times `(one / S)`), and nought where that scale is nought;
- the codes are those of `x` times the factor.

`codes_of` and `pack` are functions as you wrote them: an array of numbers to codes, a row of codes to bytes. (No matrix in the check is all zeros.) It will be used later, to train a model.
"""


# %% exercise=04.3
def quantize_nvfp4(x, codes_of, pack):
    from vbw_np.formats import E4M3

    ### BEGIN SOLUTION
    raise NotImplementedError  # return packed, scales, amax
    ### END SOLUTION


# %% check=04.3
check("04.3", quantize_nvfp4)

# %% [markdown]
"""
## Where the emulator is not the hardware

The bytes of codes and scales here are those of the published procedures, operation by operation, each rounded to float32 in the stated order. What hardware does beyond that is partly
undocumented (in which order it adds blocks, for example), and nothing here claims to know it. Incompatible scale rules share the name MXFP4: one rounds the power of two down
(the public standard), another rounds it up (what NVIDIA's paper on training describes). Both are here; say which one you mean.

## What you can say now

Why blocks have scales, and what a scale costs; that MXFP4 and NVFP4 are the same codes with different scales; how to say in decibels how near numbers come back; and that which format is nearer depends on the numbers.
"""

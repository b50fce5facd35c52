# ---
# title: Block scales
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
from vbw_np.formats import E2M1, E4M3, E8M0, FORMATS, fake_quantize, quantize
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
claim("one number of 30", x.max(), 30, silent=True)
claim("27 of them become zero", zeros, 27)

# %% [markdown]
"""
27 of them vanish. A number that is much larger than its neighbors is called an **outlier**, and here it has ruined nearly all of them. The bin of zero reaches to `0.25`, and the amax
stands at 6, twenty-four times as far: whatever is below a twenty-fourth of the amax becomes zero.

## Blocks

So let fewer numbers share a scale. A **block** is a run of neighbors with a scale of their own. Now the outlier can only ruin its own block.
The picture shows the same numbers in the format called `nvfp4`, with blocks of sixteen: thin bars before, wide hatched bars after, dashed lines between blocks, and each block's scale at the top.
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
claim("the block is", packed.format.block, 16, silent=True)
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
claim("block lengths", [FORMATS["mxfp4"].block, FORMATS["nvfp4"].block], [32, 16], silent=True)
claim("the largest code means 6", E2M1.max, 6, silent=True)
claim("the largest E4M3 is 448", E4M3.max, 448)
claim("6 times 448 is 2688", 6 * E4M3.max, 2688)

# %% [markdown]
"""
MXFP4 takes 4.25 bits a number, NVFP4 takes 4.5. The largest E4M3 number is 448, so the largest number that codes and block scales can
make together is 2688; the tensor scale maps the amax of the whole matrix there. That is, the tensor scale is the matrix's amax divided by 2688, and a block's scale is the block's amax divided by six, then divided by the tensor scale, rounded to E4M3. To decode, multiply all three: code's value, block scale, tensor scale.

Here is one number of the matrix above on its whole way, from the amax of its block to its bits and back. The *tensor level* is what is kept for the whole matrix, here its amax; the *quotient* is the number in units of its scale; then come the values on both sides of it,
the code it gets, where the code and the scale lie in memory, and what is decoded. (`te` names the written-down procedure that is followed.) This quotient is a little beyond 6, so there is a value on one side only, and it saturates: to fit E4M3, the scale had to be rounded. Ask for other numbers.
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
## Where the emulator is not the hardware

The bytes of codes and scales here are those of the published procedures, operation by operation, each rounded to float32 in the stated order. Incompatible scale rules share the name MXFP4: one rounds the power of two down
(the public standard), another rounds it up (what NVIDIA's paper on training describes). Both are here; say which one you mean.

## What you can say now

Why blocks have scales, and what a scale costs; that MXFP4 and NVFP4 are the same codes with different scales; and what the standard's rule does to the largest number of a block. Next: which of the two is nearer, and when.
"""

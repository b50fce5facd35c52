# ---
# title: Which four bits?
# needs: 04
# question: A float or a whole number, six or four, one scale or two: which four bits bring numbers back nearest?
# ---

# %% [markdown]
"""
There are many ways to spend four bits and a scale, and each has its friends. To compare them, say first how near is near; then measure. At the end you write one of them yourself, equal to the library's in every byte.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import E2M1, FORMATS, fake_quantize, sqnr_db
from vbw_np.teach import check, claim, hint, predict, solution

# %% [markdown]
"""
## One number for "how near"

Divide the power of the numbers (the sum of their squares) by the power of the errors and take ten times the logarithm (to the base ten): **SQNR**, the signal to quantization noise ratio, in
decibels (dB). Six more dB mean: errors half as large. Twenty dB mean: errors a tenth of the numbers.

## Predict

Is a small float (a number with an exponent, like E2M1) really the best use of four bits? Formats of such codes are called **FP4**. The plain rival is **INT4**: fifteen evenly spaced values, from minus seven to seven, here with a scale of NVFP4's kind for
every block of 16, so the same 4.5 bits. A popular claim says that FP4 wins.

Predict for which of four kinds of numbers it does: *normal* ones; *Laplace* numbers, with a sharper peak and more large ones; *Student's t*, wild, now and then with a huge one; and *uniform* ones, all equally likely between the ends.
"""

# %%
guess = None  # the kinds for which FP4 wins, such as ["normal", "uniform"]

rng = np.random.default_rng(0)
data = {
    "normal": rng.normal(size=(256, 1024)),
    "Laplace": rng.laplace(size=(256, 1024)),
    "Student t": rng.standard_t(3, size=(256, 1024)),
    "uniform": rng.uniform(-1, 1, size=(256, 1024)),
}
names = {"nvfp4": "NVFP4", "int4-e4m3": "INT4", "mxfp4": "MXFP4"}
quality = {
    label: {
        title: sqnr_db(v.astype(np.float32), fake_quantize(v.astype(np.float32), name))
        for name, title in names.items()
    }
    for label, v in data.items()
}
# %%
winners = [label for label in data if quality[label]["NVFP4"] > quality[label]["INT4"]]
predict(guess, winners, "kinds of numbers for which FP4 wins")
viz.bars(
    quality,
    ylabel="SQNR in dB (higher is nearer)",
    title="Which four bits are best? It depends on the numbers",
)

# %%
rival = FORMATS["int4-e4m3"]
claim("a block of 16, 4.5 bits", [rival.block, rival.bits], [16, 4.5], silent=True)
first = [round(quality[k]["NVFP4"], 1) for k in quality]
claim(
    "NVFP4 on normal, Laplace, t and uniform numbers",
    first,
    [20.4, 20.6, 20.8, 19.9],
    tol=0.15,
)
claim("INT4 on normal numbers is better: 21.3", quality["normal"]["INT4"], 21.3, tol=0.1)
claim("and on flat ones, 23.6", quality["uniform"]["INT4"], 23.6, tol=0.1)
claim("but worse on Laplace, 19.8", quality["Laplace"]["INT4"], 19.8, tol=0.1)
claim("and worse on wild ones, 18.75", quality["Student t"]["INT4"], 18.75, tol=0.2)
over = [quality[k]["NVFP4"] - quality[k]["MXFP4"] for k in ("normal", "Student t")]
claim("NVFP4 over MXFP4, on normal numbers and wild ones: 1.6 and 3.9", over, [1.6, 3.9], tol=0.15)
claim("and it is ahead on all four", all(q["NVFP4"] > q["MXFP4"] for q in quality.values()), True)

# %% [markdown]
"""
On normal numbers INT4 wins: 21.3 against 20.4 dB. On flat ones too. On sharper and wilder ones FP4 wins: 20.6 against 19.8, and more where it is wild. So
the sentence "FP4 beats INT4" is false without its condition. The strength of NVFP4 is that it hardly cares: look how level its bars are.

And of the two formats of the last notebook, NVFP4 is the nearer one on all four kinds: by 1.6 dB on normal numbers, by 3.9 on wild ones. Its blocks are half as long and its scales finer. That is what its quarter of a bit more buys.
"""

# %% [markdown]
"""
## Exercise: four or six

Between the values 4 and 6 there is a hole. A number at five sixths of its block's amax lands in the middle of it, as far from any value as can be. Then it may be better to map amax to *4* and leave the value 6 unused. `block` is an array of
float32 numbers. No block in the check is all zeros. Return 6 or 4, whichever divisor `d` gives the smaller sum of squared errors when the block is stored with `scale = amax / d`; if they are equal, 6. `E2M1.decode(E2M1.encode(...))` rounds.
"""


# %% exercise=05.1
def four_or_six(block):
    from vbw_np.formats import E2M1

    ### BEGIN SOLUTION
    raise NotImplementedError  # return 6 or 4
    ### END SOLUTION


# %% check=05.1
check("05.1", four_or_six)

# %%
normal = data["normal"].astype(np.float32)
better = sqnr_db(normal, fake_quantize(normal, "nvfp4-4over6")) - sqnr_db(
    normal, fake_quantize(normal, "nvfp4")
)
claim("values around the hole", E2M1.magnitudes[-2:].tolist(), [4, 6], silent=True)
claim("choosing per block gains about 0.8 dB on normal numbers", better, 0.8, tol=0.05)

# %% [markdown]
"""
Choosing four or six for each block gains about 0.8 dB, for no bits at all: the scale that is stored says which it was.
"""

# %% [markdown]
"""
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
again = fake_quantize(normal, "nvfp4")
claim("storing twice changes nothing more", fake_quantize(again, "nvfp4"), again)

# %% [markdown]
"""
Without a tensor scale, small numbers are lost entirely (0 dB: the error is as large as the number), and large ones are cut off. And a last fact about NVFP4: storing what came back a second time changes nothing more.
"""

# %% [markdown]
"""
## Exercise: NVFP4 to the byte, first its scales

Now all of it, for a matrix `x` of float32 numbers whose rows are made of whole blocks of 16, in two steps. Two programs agree in every byte only if they do the same operations in the same order, each rounded to float32.
So, word for word, with `one = np.float32(1)`:

- `amax` is the largest magnitude of the matrix, and `S = np.float32(2688) / amax` (one over the tensor scale);
- a block's scale is the block's own amax, times `(S * (one / np.float32(6)))`, stored with `E4M3.encode`.

Return `(scales, amax)`: the E4M3 codes, an array of shape (rows, blocks in a row), and the amax of the matrix. (No matrix in the check is all zeros.)
"""


# %% exercise=05.2
def nvfp4_scales(x):
    from vbw_np.formats import E4M3

    ### BEGIN SOLUTION
    raise NotImplementedError  # return scales, amax
    ### END SOLUTION


# %% check=05.2
check("05.2", nvfp4_scales)

# %% [markdown]
"""
## Exercise: and then its codes

`scales` and `amax` are given now, right ones, whatever became of the last exercise. `S` is made of `amax` as before.

- The factor of a block is one divided by (the stored scale, decoded, times `(one / S)`), and nought where that scale is nought (so do not divide there: a block of zeros is among the cases);
- the codes are those of `x` times the factor.

`codes_of` and `pack` are functions as you wrote them: an array of numbers to codes, a row of codes to bytes. Return the bytes of all codes, row after row in one flat array. Both steps will be used later: these functions of yours train a model.
"""


# %% exercise=05.3
def nvfp4_codes(x, scales, amax, codes_of, pack):
    from vbw_np.formats import E4M3

    ### BEGIN SOLUTION
    raise NotImplementedError  # return packed
    ### END SOLUTION


# %% check=05.3
check("05.3", nvfp4_codes)

# %% [markdown]
"""
## Where the emulator is not the hardware

Which bits are stored is the hardware's; how near they come back is arithmetic, and the same everywhere. How hardware adds up the products of such numbers is another matter, and a later notebook's.

## What you can say now

How to say in decibels how near numbers come back; that which format is nearer depends on the numbers; what the choice of four or six and the tensor scale are for; and you have NVFP4, byte for byte, in your own hands.

## A map: what you have, and what is built on it

A good place to stop for a day. Everything so far was about slopes, and about *storing* numbers (numbers in gray are notebooks):

| you have | from | built on it |
|---|---|---|
| a tape, walked back from the result to every weight | `01` | `08`: what is the slope of rounding? Then all training |
| sixteen codes, ties to even | `02` | `08`: rounding by chance; `12`: rounding to the last bit |
| two codes a byte, in an order that must be known | `03` | `13`: files; `16`: bugs that people really made |
| a scale for every block, and one for the whole matrix | `04` | everything below |
| decibels, and NVFP4 to the byte | `05` | `10`: a training that runs on your functions |

From here several ways lead on, and the order is yours:

- *Learning*, the main road: `06` (skim it, as its first lines say), then `08`, `09`, `10`.
- *Files and bits*: `12` and `13`, which you can read right now.
- *Finished models*, when you have been through `10`: `14` first, then `17`, `18`, `19`.
- *Machines*: `15` after `06`, `16` after `06` and `12`, `11` after `10`. `07` is a byway that nothing needs.
"""

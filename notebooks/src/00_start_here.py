# ---
# title: Start here
# minutes: 10
# seconds: 10
# question: How small can a number be made before a model stops working, and how will you find out?
# ---

# %% [markdown]
"""
A computer stores everything in **bits**: a bit is a nought or a one. Eight bits are a **byte**. Programs that learn
usually keep a number with a fraction in four bytes; that kind is called **float32**, because it has thirty-two bits.

A neural network is mostly a pile of such numbers. They are called its **weights**; they sit in matrices, and the network
multiplies by them. A matrix and what is done around it is a **layer**; one layer hands its result to the next. All the weights together, with the rules for multiplying, are the **model**.

Now take four bits for a weight instead of thirty-two. That is called **quantization**: to store a number with few bits,
and to accept that what comes back is only near to what went in. Recent graphics processors (NVIDIA calls one family
*Blackwell*) multiply such four-bit numbers directly. This course builds up, step by step, everything that has to be true
for a model to learn with four-bit numbers. You need Python and matrices. Nothing else.

Each notebook goes the same way: a question, a guess of yours, something to change, a picture, an exercise that checks
itself, and sentences that the notebook *asserts*: if one of them were false on your machine, its cell would stop.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import quantize
from vbw_np.models.claude4 import Claude4
from vbw_np.teach import check, claim, hint, predict, solution

print(
    "vbw_np",
    vbw_np.__version__,
    "| numpy",
    np.__version__,
    "| python",
    sys.version.split()[0],
)

# %% [markdown]
"""
## Predict

The model of this project's speed test is called Claude4. How many weights does it have? Write a guess (in millions)
in place of `None`, then run the cell. A guess that turns out wrong teaches more than none.
"""

# %%
guess_in_millions = None

model = Claude4()
weights = model.num_parameters()
predict(guess_in_millions, round(weights / 1e6, 1), "millions of weights")
claim("Claude4 has 35,862,532 weights", weights, 35_862_532)

# %% [markdown]
"""
That is 35,862,532 numbers. At four bytes each they take 143,450,128 bytes, most of it idle while you look at one number.
"""

# %%
claim("in float32 that is 143,450,128 bytes", 4 * weights, 143_450_128)

# %% [markdown]
"""
## Manipulate

Here is a small matrix of weights. `quantize` stores it with about four bits a number. Look at what comes back. Then change
the numbers: make one of them large, say one hundred times larger, and run the cell again. Which of the *other* numbers suffer?
"""

# %%
w = np.array([[0.11, -0.52, 0.33, 0.07, -0.91, 0.24, 0.02, -0.18] * 2], np.float32)
packed = quantize(w, "nvfp4")
back = packed.dequantize()
print("before:", w[0, :8])
print("after: ", back[0, :8].round(4))

# %% [markdown]
"""
The numbers that came back are near, but not equal. This course is about *how* near, *why* there, and what a model that
learns makes of it.

## Picture
"""

# %%
big = model.blocks[0].ffn.experts[0][0].weight.data
held = quantize(big, "nvfp4")
viz.bars(
    {
        "float32": {"kilobytes": big.nbytes / 1000},
        "four bits": {"kilobytes": held.nbytes / 1000},
    },
    ylabel="kilobytes",
    title="One weight matrix of Claude4, 1024 rows of 256, before and after",
)

# %%
claim("the four-bit copy is 7.11 times smaller", big.nbytes / held.nbytes, 7.11, tol=0.005)
claim("it takes 4.5 bits a weight, everything counted", held.bits_per_value, 4.5, tol=0.001)

# %% [markdown]
"""
Why 7.11 times smaller and not eight? Because 4.5 bits were spent on each weight, not four. Where the other half bit goes
is the subject of a later notebook; for now, notice that somebody counted it.

## Exercise

Write a function that says how many *whole* bytes are needed for `count` numbers of `bits` bits each.
Then run the cell after it: it tells you whether you have not tried, are wrong (with the smallest input that shows it),
or are right. `hint("00.1")` gives a nudge, `solution("00.1")` an answer. A skipped exercise never stops what follows.
"""


# %% exercise=00.1
def bytes_needed(count, bits):
    ### BEGIN SOLUTION
    raise NotImplementedError  # write your answer here
    ### END SOLUTION


# %% check=00.1
check("00.1", bytes_needed)

# %% [markdown]
"""
## Where the emulator is not the hardware

This library is an **emulator**: a program that behaves like a machine you do not have. Its **device** is a set of
virtual **cards**, each of which keeps one weight matrix in four bits, as the real processor would. What is the same: the bits. Every stored number,
every byte, every rounding is the real thing, compared with what several real libraries write. What is different: the clock.
A time measured here is the time of *your* processor, and nothing in this project claims to know how long Blackwell would
take. Where a notebook shows a time, it says so.

## What you can say now

A model is millions of weights; storing them in four bits makes them about seven times smaller; what comes back is near, not
equal. Next: how a model learns at all, with every step visible.
"""

# ---
# title: Start here
# question: How small can a number be made before a model stops working, and how will you find out?
# ---

# %% [markdown]
"""
Three **models** (programs that learn from examples) learned to write like Python's own library: from the same start, on the same text, in the same number of steps. The first kept and multiplied its numbers in thirty-two **bits** (a bit is a nought or a one). The second multiplied in *four*. The third as well, but somebody had made one mistake
in how it learns. Run all cells from the top down to the texts, and read what each of them wrote.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import quantize
from vbw_np.models.claude4 import Claude4
from vbw_np.teach import check, claim, first_texts, hint, predict, solution

print("vbw_np", vbw_np.__version__, "- numpy", np.__version__, "- python", sys.version.split()[0])

# %%
for title, run in first_texts().items():
    print(f"----- {title} (how wrong it still is: {run['loss']})\n{run['text']}\n")

# %% [markdown]
"""
Each was given `def `, and wrote on. None of the three writes a program that runs; they are small, and learned for minutes. But two of them have learned what Python looks like, and one has hardly begun: after a few letters it writes nothing but blanks. It was not the four bits that hurt: it was the mistake.
(The number behind each name is explained in the notebook on training. It is five and a half for a model that has learned nothing, and nought for one that is always sure and right.)
(The texts were kept, since three trainings take minutes. `tools/notebooks/first_texts.py` makes them anew.)

This course takes that apart, down to the last bit: how a number gets into four bits, what a model makes of it, how it can learn at all, and which mistake that was. You need Python and matrices. Nothing else.

## The words

A computer stores everything in bits. Eight of them are a **byte**. Programs that learn
usually keep a number with a fraction in four bytes; that kind is called **float32**, because it has thirty-two bits.

A **neural network** is a function with very many adjustable numbers in it. Numbers go in (a piece of text, say, with a number
for each word), they are multiplied by matrices, again and again, and numbers come out (how likely each word is to come next).
The numbers in the matrices are called **weights**. Nobody writes them down by hand: they start at random, and *learning*
changes them, little by little, until what comes out is useful. A matrix and what is done around it is a **layer**; one layer
hands its result to the next. All the weights together, with the rules for computing with them, are the **model**.

To store a number with four bits instead of thirty-two, and to accept that what comes back is only near to what went in, is called **quantization**. Recent graphics processors (chips that multiply many
numbers at once; NVIDIA calls one family *Blackwell*) multiply such four-bit numbers directly.
"""

# %% [markdown]
"""
## How to read

Each notebook goes the same way: a question, a guess of yours, something to change, a picture, an exercise that checks
itself, and sentences that the notebook *asserts*: if one of them were false on your machine, its cell would stop. Run the
cells from top to bottom. In them, `predict` compares your guess with what was measured; `claim` asserts a sentence and
prints `[holds]`; `viz` draws, and below every picture the same numbers stand in a table. (A claim is about the notebook as it
came. If you change what it measures, it may stop, and that is no harm: change it back and go on.)
"""

# %% [markdown]
"""
## Predict

The model on which this project measures its speed is a toy of its own. It is called Claude4, because the report that this project comes from called it so; it is no product of anybody's. How many weights does it have? Write a guess (in millions)
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
That is 35,862,532 numbers. At four bytes each they take 143,450,128 bytes. All of them have to be kept somewhere, and a weight
that is used has to be fetched first.
"""

# %%
claim("in float32 that is 143,450,128 bytes", 4 * weights, 143_450_128)

# %% [markdown]
"""
## Manipulate

Here is a small matrix of weights: one row of sixteen numbers, the same eight twice. `quantize` stores it with about four bits
a number (`"nvfp4"` is the name of a format, which you will take apart later), and `dequantize` turns what was stored back into
float32. Look at what comes back. Then change the numbers: make one of them large, say one hundred times larger, and run the
cell again. Which of the *other* numbers suffer?
"""

# %%
w = np.array([[0.11, -0.52, 0.33, 0.07, -0.91, 0.24, 0.02, -0.18] * 2], np.float32)
packed = quantize(w, "nvfp4")
back = packed.dequantize()
print("before:", w[0, :8])
print("after: ", back[0, :8].round(4))

# %% [markdown]
"""
The numbers that came back are near, but not equal. (Not even the largest one: it only looks so, to four places.) This course is about *how* near, *why* there, and what a model that
learns makes of it.

## Picture

One matrix of the model, in thousands of bytes: at the left as float32, at the right as it is stored with four bits a number.
"""

# %%
big = model.blocks[0].ffn.experts[0][0].weight.data  # any of its matrices would do
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

Write a function that says how many *whole* bytes are needed for `count` numbers of `bits` bits each: three numbers of four
bits are twelve bits, and need two bytes. Your answer goes between the two lines with `###`, in place of the line with `raise`.
Run the cell, then the one after it: it tells you whether you have not tried, are wrong (with the smallest input that shows it),
or are right. In a cell of your own, `hint("00.1")` gives a nudge and `solution("00.1")` an answer. A skipped exercise never
stops what follows.
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
virtual **cards**, each of which keeps one weight matrix in four bits. (Real processors are not divided in this way; the cards
are this project's.) What is the same: the bits. In the formats that real processors multiply, every stored number, every byte,
every rounding is the real thing, compared with what several real libraries write. What is different: the clock. A time
measured here is the time of *your* processor, and nothing in this project claims to know how long Blackwell would take. Where
a notebook shows a time, it says so.

## What you can say now

A model is millions of weights; storing them in four bits makes them about seven times smaller; what comes back is near, not
equal. Next: how a model learns at all, with every step visible.
"""

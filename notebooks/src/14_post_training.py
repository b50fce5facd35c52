# ---
# title: Post-training quantization
# needs: 04, 10
# question: Somebody trained a model for months, and you may not train it again. How do you round its weights so that it hardly notices?
# ---

# %% [markdown]
"""
To round the weights of a model that is finished is called **post-training quantization**. Nobody waits for it to learn around the rounding, as the models of the notebook on training did; whatever is lost stays lost. So it pays to round with care. You will do it in three ways, on one layer whose inputs look like those of a language model: some channels (columns of the inputs, and of the weights that they meet) are loud, and channels move together.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import FORMATS, encode, fake_quantize, fit_scales
from vbw_np.ptq.rotation import Rotation
from vbw_np.teach import check, claim, hint, predict, solution

rng = np.random.default_rng(0)
loud = np.where(np.arange(128) % 32 == 5, 20.0, 1.0)
inputs = (
    (
        rng.standard_normal((2000, 24)) @ rng.standard_normal((24, 128)) / 5
        + rng.standard_normal((2000, 128))
    )
    * loud
).astype(np.float32)
weight = rng.standard_normal((64, 128)).astype(np.float32)


def loss(rounded):
    """How much of the layer's output is wrong: the sum of squared errors over that of squares."""
    exact = inputs @ weight.T
    return float(np.square(inputs @ rounded.T - exact).sum() / np.square(exact).sum())


# %% [markdown]
"""
## Predict

Rounding every weight to the nearest value that NVFP4 has is the best that one can do *for each weight alone*. How many times smaller can the error of the layer's *output* become if weights are rounded together, some of them away from their nearest value? (You need not follow every line of the function below; what it does is told after the measurement.)
"""

# %%
guess = None

nearest = fake_quantize(weight, "nvfp4")
print(f"nearest: {loss(nearest):.5f} of the output is wrong")


# %%
def gptq(weight, inputs, fmt, damping=0.01):
    """Twenty lines that many models were rounded with."""
    moments = inputs.T.astype(np.float64) @ inputs / len(inputs)  # loud ones, and pairs
    moments += damping * np.trace(moments) / len(moments) * np.eye(len(moments))
    lower = np.linalg.cholesky(moments[::-1, ::-1])
    upper = lower[::-1, ::-1]
    carry = upper / np.diag(upper)  # how the error of a column shows in the columns after it
    rounded, errors = np.empty_like(weight), np.zeros_like(weight)
    level = np.abs(weight).max() if fmt.tensor_level == "tensor" else None
    for start in range(0, weight.shape[1], fmt.block):
        block = slice(start, start + fmt.block)
        current = weight[:, block] + errors[:, :start] @ carry[:start, block]
        scales = fit_scales(current.astype(np.float32), fmt, amax=level)
        for j in range(start, start + fmt.block):
            wanted = current.astype(np.float32)
            wanted[:, j - start] = weight[:, j] + errors[:, :j] @ carry[:j, j]
            rounded[:, j] = encode(wanted, fmt, scales).dequantize()[:, j - start]
            errors[:, j] = weight[:, j] - rounded[:, j]
    return rounded


# %%
together = gptq(weight, inputs, FORMATS["nvfp4"])
gain = loss(nearest) / loss(together)
predict(guess, round(gain, 1), "times smaller")
print(f"together: {loss(together):.5f} of the output is wrong")
claim("GPTQ's output error is smaller by a factor of 1.4", gain, 1.4, tol=0.05)
error_of_weights = np.square(together - weight).sum() / np.square(nearest - weight).sum()
claim("its weights are 2.4 times further away", error_of_weights, 2.4, tol=0.05)

# %% [markdown]
"""
1.4 times smaller, although the weights themselves are 2.4 times further from where they were (in squares). The method is **GPTQ** (arXiv 2210.17323). It goes through the weights column by column. When a column was rounded, its error shows in the output; columns that are still to come read inputs that move together with this one's, so they can take a part of the error back. How much, the matrix `carry` says. It is made from a text that flows through the model once, the **calibration**: only the products of inputs matter, not the text.

## Exercise: what a column starts from

`weight` (rows, columns) and the `errors` of the columns before `j` are known (weight minus rounded), and `carry[i, j]` says how the error of column `i` shows in column `j`. From which numbers is column `j` to be rounded?
"""


# %% exercise=14.1
def wanted_column(weight, errors, carry, j):
    ### BEGIN SOLUTION
    raise NotImplementedError  # the column itself, and what the columns before it left over
    ### END SOLUTION


# %% check=14.1
check("14.1", wanted_column)

# %% [markdown]
"""
## Scale what matters

Another way leaves rounding alone and changes what is rounded. A loud channel makes its weights matter more. Multiply its column of weights by a factor before rounding, and divide its inputs by the same: before rounding nothing changes, and after it the error of this column has become smaller against the others. In a model, the division disappears into whatever makes the inputs.
"""

# %%
size = np.sqrt(np.square(inputs).mean(axis=0))
errors = {}
for power in (0.0, 0.25, 0.5, 0.75, 1.0):
    factors = size**power
    factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    errors[power] = loss(fake_quantize(weight * factors, "nvfp4") / factors)
best_power = min(errors, key=errors.get)
claim("the best of these powers is 0.5", best_power, 0.5)
claim("its error is 0.27 of that without", errors[best_power] / errors[0.0], 0.27, tol=0.005)
viz.curves(
    {"output error": list(errors.values())},
    x=list(errors),
    xlabel="power of the channel's size",
    title="Factors for channels",
)

# %% [markdown]
"""
With factors of the channel's size to the power of 0.5 the error is 0.27 of what it was. More is not better: a very large column makes the scale of its block so coarse that its neighbors suffer. This search is what people call AWQ (arXiv 2306.00978), and it goes well together with GPTQ.

## Rotate, or not

When the inputs are rounded to four bits as well, the loud channels are in the way. A Hadamard rotation of inputs and weights cancels in the product and spreads a loud channel over its block. You met it in training. Does it always help?
"""

# %%
turn = Rotation.random(128, 32, seed=1)


def both_rounded(fmt, rotated):
    x, w = (turn(inputs), turn(weight)) if rotated else (inputs, weight)
    exact = inputs @ weight.T
    wrong = fake_quantize(x, fmt) @ fake_quantize(w, fmt).T - exact
    return float(np.square(wrong).sum() / np.square(exact).sum())


ratios = {}
for name in ("int4-row", "mxfp4", "nvfp4-row-scaled"):
    plain, rotated = both_rounded(name, False), both_rounded(name, True)
    ratios[name] = rotated / plain
    print(f"{name:17} {plain:.4f}, rotated {rotated:.4f}")
claim("int4 with a scale a row: error times 0.28", ratios["int4-row"], 0.28, tol=0.005)
claim("MXFP4: times 0.49", ratios["mxfp4"], 0.49, tol=0.005)
claim("NVFP4: times 1.37", ratios["nvfp4-row-scaled"], 1.37, tol=0.005)
viz.bars(
    {name: {"error, rotated over plain": value} for name, value in ratios.items()},
    ylabel="ratio",
    form=".2f",
    title="What a rotation does to three formats",
)

# %% [markdown]
"""
The same rotation multiplies the error of INT4 with one scale a row by 0.28, that of MXFP4 by 0.49, and that of NVFP4 by 1.37. Where many numbers share a scale, one loud channel makes the scale coarse for all of them, and spreading it is a relief. Where few do, the loud channel harmed only its own small block, and the rotation carries it into others.

## Exercise: a Hadamard matrix

A rotation needs a matrix whose entries all have the same magnitude and whose rows are at right angles. It is built by doubling: from a matrix `H` make one of twice the size, with `H` in three corners and its negative in the lower right one. Start from the single number one. `size` is a power of two.
"""


# %% exercise=14.2
def hadamard(size):
    ### BEGIN SOLUTION
    raise NotImplementedError  # np.block puts four matrices together
    ### END SOLUTION


# %% check=14.2
check("14.2", hadamard)

# %% [markdown]
"""
## A real model

The command `vbw ptq` does all this to a language model, and [docs/ptq.md](../docs/ptq.md) has what came out for SmolLM2: the format of the weights, the method (`rtn` rounds to nearest), the format of the activations, and how far the probabilities of the next token are from those of the model as it was (`KL`; smaller is better; `perplexity` is *e* to the loss; `top-1 %` is how often both think the same token the likeliest). Look for the same three lessons in the table: rounding together, scaling what matters, and the rotation that saves one format and harms another.
"""

# %%
page = None if root is None else root / "docs" / "ptq.md"
if page is not None and page.is_file():
    lines = page.read_text("utf-8").splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("| weights"))
    end = next(n for n in range(head, len(lines)) if not lines[n].startswith("|"))
    for row in [lines[head]] + [row for row in lines[head:end] if "nvfp4" in row or "int4" in row]:
        cells = [cell.strip(" `") for cell in row.strip("|").split("|")]
        print(f"{cells[0]:12} {cells[1]:37} {cells[2]:16} {cells[3]:>10} {cells[4]:>6} {cells[5]:>7}")
else:
    print("docs/ptq.md is not here; it is in the checkout of the project")

# %% [markdown]
"""
## Where the emulator is not the hardware

Methods of this kind run once, before a model is used, and what they choose are ordinary codes and scales: a graphics processor runs them like any other. What it would do otherwise is the rotation of inputs, for which it needs a fast program of its own; some chips have one, and it takes time in every layer.

## What you can say now

The nearest value of every weight is not the best rounding of a layer. What flows in decides which errors matter, and errors can be carried to where they cancel. A rotation spreads an outlier over its block, which helps where many numbers share a scale and hurts where few do.
"""

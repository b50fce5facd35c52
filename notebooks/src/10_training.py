# ---
# title: Training in four bits
# needs: 05, 08, 09
# question: How much worse does a model learn when all its products are made of four-bit numbers?
# ---

# %% [markdown]
"""
Everything is ready. This notebook trains a small model on real text, several times, from the same start and on the same data, and changes nothing but the recipe.
"""

# %% [markdown]
"""
## What is made small

The model gives every byte a probability of coming next. The number to be made small is called the **loss**; here it is the **cross-entropy**: minus the (natural) logarithm of the probability that the model gave to the byte that really came next, on average. Whoever is sure and right pays nothing; whoever is sure and wrong pays
a lot. A model that knows nothing gives each of the 256 bytes the same probability; its loss is the logarithm of 256, which is 5.545.

What decides how far each step goes is the **learning rate**; what turns gradients into steps is the **optimizer** (the one here is Adam, which adapts the step of every weight to the usual size of its gradient).
"""

# %%
import asyncio
import dataclasses
import os
from pathlib import Path

import numpy as np

from vbw_np import viz
from vbw_np.data import load_stream
from vbw_np.device import RECIPES, place
from vbw_np.engine import F, Tensor, nn, no_grad, optim
from vbw_np.formats import E4M3, FORMATS, fake_quantize, sqnr_db
from vbw_np.formats.hadamard import hadamard_rotate, hadamard_rotate_back
from vbw_np.steps import step
from vbw_np.teach import check, claim, hint, own_parts, predict, solution

# 150 steps; the project's own tests train shorter
STEPS = {"1": 30, "2": 4}.get(os.environ.get("VBW_FAST", ""), 150)
claim("bytes have 256 values", 1 << 8, 256, silent=True)
claim("knowing nothing costs 5.545", np.log(256), 5.545, tol=0.0005)

# %% [markdown]
"""
The text is a part of Python's own standard library, which every reader has. The model looks at eight bytes and predicts the ninth.

It has four matrices. The first is a table with a row of weights for each byte (`nn.Embedding`); the rows of the eight bytes are laid side by side. Two linear layers follow, each with the smooth step `tanh` behind it; what the second makes is added to what it got. The last linear layer, called the **output head**, gives a score for each byte, and softmax makes probabilities
of the scores (`F.cross_entropy` does this, and takes the logarithm). A tenth of the text is held back: training never sees it, and an *examination* at the end measures the loss there.
"""

# %%
text = load_stream(Path(asyncio.__file__).parent, tokenizer="byte", cache=False)
ids = text.ids.astype(np.int64)
print(f"{len(ids):,} bytes, for example {text.decode(ids[1000:1060])!r}")
CONTEXT = 8
held_out = int(0.9 * len(ids))  # from here on it is only for the examination


# %%
class NextByte(nn.Module):
    def __init__(self, seed=0):
        self.embedding = nn.Embedding(256, 16, rng=seed)
        self.first = nn.Linear(CONTEXT * 16, 128, rng=seed + 1)
        self.middle = nn.Linear(128, 128, rng=seed + 2)
        self.head = nn.Linear(128, 256, rng=seed + 3)

    def loss(self, windows):  # (N, CONTEXT + 1) bytes
        x = self.embedding(windows[:, :CONTEXT]).reshape(len(windows), CONTEXT * 16)
        h = self.first(x).tanh()
        h = h + self.middle(h).tanh()
        return F.cross_entropy(self.head(h), windows[:, CONTEXT])


# %%
def windows(rng, count, low, high):
    starts = rng.integers(low, high - CONTEXT - 1, count)
    return ids[starts[:, None] + np.arange(CONTEXT + 1)]


examination = windows(np.random.default_rng(99), 2048, held_out, len(ids))


# %%
def train(recipe, steps=STEPS, seed=0, **options):
    model = NextByte(seed)
    device = place(model, recipe, **options)
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    rng, losses = np.random.default_rng(seed), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(windows(rng, 128, 0, held_out))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with no_grad():
        exam = model.loss(examination).item()
    return losses, exam, device


# %% [markdown]
"""
## Predict

Three recipes to begin with: float32; NVFP4 weights with the straight-through estimator; and the recipe of the original report, whose gradient reaches one weight a row. In the examination float32 comes to a loss near two and a half. How much *more* will NVFP4's loss be? Guess a number before you run. (This cell trains three models, which takes
a few seconds. With `refresh_interval=1` a weight gets new scales at every step.)
"""

# %% slow
guess = None

original = dataclasses.replace(
    RECIPES["seed-v6"], name="as the original", gradient_rule="row-max"
)
runs = {
    "float32": train("fp32"),
    "NVFP4 weights": train("nvfp4", refresh_interval=1),
    "as the original": train(original),
}
exams = {name: run[1] for name, run in runs.items()}

# %%
predict(guess, round(exams["NVFP4 weights"] - exams["float32"], 3), "NVFP4 minus float32")
print({name: round(value, 3) for name, value in exams.items()})
if STEPS >= 30:
    claim("float32 learns: loss at most 3.5", exams["float32"], at_most=3.5)
    claim(
        "NVFP4 weights cost at most 0.1",
        exams["NVFP4 weights"] - exams["float32"],
        at_most=0.1,
    )
    claim(
        "one weight a row costs at least 0.8",
        exams["as the original"] - exams["float32"],
        at_least=0.8,
    )

# %% [markdown]
"""
Four-bit weights cost at most 0.1, and here far less. Handing the gradient to one weight a row costs at least 0.8. It was never the four bits that kept the original from learning.

## All three products

A linear layer multiplies three times for each step: forward (activations by weights), back to its input (gradient by weights), and back to its weights (gradient by activations). So far only the weights were in four bits. To use the tensor cores, *all operands* must be. The published recipe for that ([NVIDIA's, arXiv 2509.25149](https://arxiv.org/abs/2509.25149)) adds three things:

- stochastic rounding of gradients, so that the average is right;
- one scale for each *square* of 16 by 16 weights;
- a rotation of the operands of the third product.

The first you know. The other two come now.

## Why squares

Inside a block the tensor core adds up products of codes before any scale is applied. So a block must lie along the direction in which the product sums. Forward that is along the rows of the weight matrix, on the way back along its columns. But the same weight, quantized along two directions, gives two *different* matrices: then the
gradient belongs to another model than the one that ran. A square is the same from both sides.
"""

# %%
w = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)


def disagreement(matrix, name):
    along_rows = fake_quantize(matrix, name)
    along_columns = fake_quantize(np.ascontiguousarray(matrix.T), name).T
    return 100 * float((along_rows != along_columns).mean())


share = {name: disagreement(w, name) for name in ("nvfp4", "mxfp4", "nvfp4-16x16")}
print({k: round(v, 1) for k, v in share.items()})
claim("NVFP4: 77 % of the weights differ", share["nvfp4"], 77, tol=0.5)
claim("MXFP4: 8 %", share["mxfp4"], 8, tol=0.5)
claim("with squares of 16 by 16: 0 %", share["nvfp4-16x16"], 0)
claim("square", FORMATS[RECIPES["nvfp4-train"].weight].block_rows, 16, silent=True)

# %% [markdown]
"""
In NVFP4, 77 percent of the weights differ between the two directions. In MXFP4 only 8 percent: its scales are powers of two, and those of the two directions are mostly the same one. With squares of 16 by 16, 0 percent.

## Exercise: measure it yourself

Write `differing_share(matrix, quantize)`: `quantize` is a function that quantizes an array along its last axis and gives the decoded array back. Return the share (between nought and one) of entries that differ when the matrix is quantized along its rows and along its columns.
"""


# %% exercise=10.1
def differing_share(matrix, quantize):
    ### BEGIN SOLUTION
    raise NotImplementedError  # transpose, quantize, transpose back, compare
    ### END SOLUTION


# %% check=10.1
check("10.1", differing_share)

# %% [markdown]
"""
## Why a rotation

Gradients can have outliers. A **Hadamard rotation** replaces sixteen numbers by sixteen sums and differences of all of them (with one overall factor, so that their power stays the same): an outlier is spread evenly. Both operands are rotated in the same way, and in the product the rotation cancels. With two numbers instead of sixteen
you can see it: `(a + b) * (c + d) + (a - b) * (c - d)` is `2 * (a * c + b * d)`, the product that was wanted, but for a factor.

Does it make what comes back *nearer*? Popular claims go both ways. Below are normal numbers, and among every 256 of them one that is thirty times larger. They are quantized as they are, and after a rotation, in three formats: with one scale for each row of
256, in MXFP4 (a scale for 32), and in NVFP4 (a scale for 16). Which of the three will the rotation help? Look before you believe:
"""

# %%
rng = np.random.default_rng(3)
plain = rng.normal(size=(256, 256)).astype(np.float32)
spiky = plain.copy()
spiky[:, 0] *= 30  # one outlier in 256


def nearness(x, name):
    rotated = hadamard_rotate(x)
    return {
        "as it is": sqnr_db(x, fake_quantize(x, name)),
        "rotated": sqnr_db(rotated, fake_quantize(rotated, name)),
    }


kinds = {"one scale a row": "fp4-row", "MXFP4": "mxfp4", "NVFP4": "nvfp4"}
quality = {title: nearness(spiky, name) for title, name in kinds.items()}
viz.bars(quality, ylabel="SQNR in dB", title="A rotation helps large blocks and harms small ones")

# %%
gain = {title: bars["rotated"] - bars["as it is"] for title, bars in quality.items()}
claim("rows of 256, blocks of 32 and 16: dB gained", list(gain.values()), [5.4, 3.0, -3.0], tol=0.1)
lengths = [plain.shape[1], FORMATS["mxfp4"].block, FORMATS["nvfp4"].block]
claim("lengths", lengths, [256, 32, 16], silent=True)
level = nearness(plain, "nvfp4")
claim("without outliers 0 dB", level["rotated"] - level["as it is"], 0, tol=0.1)
product = hadamard_rotate(plain) @ hadamard_rotate(spiky).T
claim("in the product the rotation cancels", product, plain @ spiky.T, tol=0.02)

# %% [markdown]
"""
With one scale for 256 numbers the rotation gains 5.4 dB, in MXFP4 with its 32 it gains 3.0, and in NVFP4 with its 16 it changes the nearness by -3.0. (Without outliers: 0 dB.) Why does the same rotation help and harm? Ask where the errors *are*: in the outliers, in the 15 numbers beside each, or in all the others.
"""


# %%
def errors_of(decoded):
    square = (decoded - spiky) ** 2
    return [float(square[:, part].mean()) for part in (0, slice(1, 16), slice(16, None))]


where_errors = {
    "as it is": errors_of(fake_quantize(spiky, "nvfp4")),
    "rotated": errors_of(hadamard_rotate_back(fake_quantize(hadamard_rotate(spiky), "nvfp4"))),
}
for way, (outlier, beside, others) in where_errors.items():
    print(f"{way:9} mean squared error: outliers {outlier:.3f}, beside {beside:.3f}, others {others:.4f}")
claim("beside the outlier, as it is", where_errors["as it is"][1], 0.336, tol=0.0005)
claim("far from it", where_errors["as it is"][2], 0.009, tol=0.0005)
claim("15 beside, 255 in the row", [spiky[:, 1:16].shape[1], spiky[:, 1:].shape[1]], [15, 255], silent=True)
worse = where_errors["rotated"][1] / where_errors["as it is"][1]
claim("rotated, the 15 are at least twice as bad", worse, at_least=2)
claim("and so is the outlier", where_errors["rotated"][0] / where_errors["as it is"][0], at_least=2)

# %% [markdown]
"""
As it is, the 15 numbers beside the outlier are harmed most: 0.336, against 0.009 far from it. But they cannot be harmed by more than their own size: the worst is to become zero. And the outlier itself takes the largest code, so its own error is small for its size. Rotated, all sixteen numbers of the block are
about as large as a quarter of the outlier, and each is rounded with an error to match. The way back shares these errors out among all sixteen: the 15 fare at least twice as badly as before, and the outlier itself fares worse too.

With one scale for a whole row it is the other way round: there the outlier harms 255 numbers, and a rotation that makes it smaller makes the scale of them all finer. So a rotation repairs formats whose blocks are large. The published recipe rotates for one product only, and reports that long trainings then end with a lower loss; that is another quantity than nearness, and
a minute of training cannot show it.

## Picture: five trainings

Here is the whole recipe, run for real, in NVFP4 and in MXFP4. The curves show the loss on the text that is being learned, step by step; four of the five lie nearly on top of each other. (The cell runs the two trainings that are new, the slowest of all.)
"""

# %% slow
runs["all products NVFP4"] = train("nvfp4-train", refresh_interval=1)
runs["all products MXFP4"] = train("mxfp4-train", refresh_interval=1)
smooth = {
    name: np.convolve(run[0], np.ones(min(10, STEPS)) / min(10, STEPS), mode="valid")
    for name, run in runs.items()
}
viz.curves(
    smooth,
    ylabel="loss (mean of ten steps)",
    title="The same model, the same data, five recipes",
)

# %%
for name, (losses, exam, _) in runs.items():
    print(f"{name:20} last ten steps {np.mean(losses[-10:]):.3f}   examination {exam:.3f}")
if STEPS >= 30:
    claim(
        "all products in NVFP4 cost at most 0.15",
        runs["all products NVFP4"][1] - exams["float32"],
        at_most=0.15,
    )
    claim(
        "all products in MXFP4 at most 0.15 as well",
        runs["all products MXFP4"][1] - exams["float32"],
        at_most=0.15,
    )

# %% [markdown]
"""
With all products in four bits the loss is at most 0.15 above float32 for this small model and this short run. No more than that is shown: differences between the recipes that appear after weeks of training cannot appear in a minute.

## Manipulate: a recipe of your own

A recipe is a record; `dataclasses.replace` makes a new one from an old one. This one keeps the output head in full precision, as the published recipe does. Try others: `keep=("*",)` keeps every layer, and is float32 under another name; `gradient_rule="row-max"` is the original's mistake.
"""

# %% slow
mine = dataclasses.replace(RECIPES["nvfp4-train"], name="mine", keep=("head",))

losses, exam, device = train(mine, refresh_interval=1)
print(
    "cards in float32:",
    [name for name, card in device.cards.items() if card.format is None],
)
print(
    f"examination {exam:.3f}; float32 {exams['float32']:.3f}, all products NVFP4 {runs['all products NVFP4'][1]:.3f}"
)

# %% [markdown]
"""
A single short training says little about small differences: train again with another `seed=`, and they may turn round. For the real thing, a whole causal Claude4 on real text, and for comparing recipes over several seeds, there are the commands `vbw train` and `vbw compare` (each explains itself with `--help`).
"""

# %% [markdown]
"""
## Manipulate: one step, number by number

What happens in a single step of such a training? `step` records one, of the smallest model that has everything: letters, two layers of 16 by 16, a loss. It is a list of events, and each can tell what it did with its numbers. You stand before the first: `steps.next()` goes one event on, `steps.back()` one back, `steps.goto("backward", "second")` to the first one on a way and a card,
`steps.until("product")` on to the next of a kind. All sentences are about one weight, until `steps.follow("first", 3, 5)` chooses another.

The optimizer moves every weight of the second layer a little. Before you run the cell: of its 256 weights, how many have *another code* afterwards?
"""

# %%
guess_changed = None

steps = step("nvfp4-train", seed=0)
changed = steps.goto("codes that changed", "second")
predict(guess_changed, changed.facts["count"], "codes that changed")
claim("most weights kept their code", changed.facts["count"], at_most=128)

# %%
print(steps.goto("rotation", "second"))
print(steps.until("random bits"))
print(steps.until("codes"))
draw, share, up = (
    steps.now.values[name].at(steps.place) for name in ("draw", "share", "up")
)
claim("it goes up where the draw is less", bool(up), bool(draw < share), silent=True)

# %% [markdown]
"""
That is one number of the gradient on its way: rotated, then rounded by chance. And most weights moved and kept their code: only the float32 master knows how far they have come; without it the step would be lost on them.

Now drive it yourself. Take another recipe (`step("nvfp4-train:ms-eden")` is a newer one, whose gradients are rounded to the nearest code and made as long as they were by way of the scales), another seed, another weight. A cell that ends with `steps.player()` shows the whole step as pictures that play; `vbw step --html FILE` writes them as a page.
"""

# %% [markdown]
"""
## Exercise: the loop

The plainest way to learn: at every step ask for the gradients at the weights *as they are now*, and move each weight against its own, `lr` times as far. `weights` is a list of arrays, and
`gradients_of(weights, step)` gives a list of arrays of the same shapes. Return the list of weights after `steps` steps; leave the arrays that you were given unchanged (those of the check refuse to be written to).
"""


# %% exercise=10.2
def descend(weights, gradients_of, lr, steps):
    ### BEGIN SOLUTION
    raise NotImplementedError  # return the weights after the last step
    ### END SOLUTION


# %% check=10.2
check("10.2", descend)

# %% [markdown]
"""
## A training made by you

You have written, notebook by notebook, everything that a training in four bits is made of: how a code is decoded, rounding, packing, the scales and the codes of NVFP4, the walk back, the way straight through, and now the loop. Here they
are put together. `own_parts` looks into your notebooks (save them first), and takes your function where the check calls it right, the library's where not. It says which. (On Colab they are in your Drive, under `Copy of` and their name: mount it, and name the folder in a cell before, such as `os.environ["VBW_NOTEBOOKS"] = "/content/drive/MyDrive/Colab Notebooks"`.)
"""

# %%
names = ("01.3", "02.1", "02.3", "03.1", "05.2", "05.3", "08.1", "10.2")
parts = own_parts(names, here={"10.2": descend})
for part in parts.values():
    print(part)
walk_back, decode, codes_of, pack, nvfp4_scales, nvfp4_codes, straight_through, loop = parts.values()
yours = sum(part.yours for part in parts.values())

# %% [markdown]
"""
First, a matrix goes through NVFP4 and back: `nvfp4_scales`, and `nvfp4_codes` with your rounding and your packing, then the sixteen values that `decode` knows, times the scales.
"""

# %%
value_of = np.array([decode(code) for code in range(16)], np.float32)


def through_nvfp4(w):
    scales, amax = nvfp4_scales(w)
    packed = nvfp4_codes(w, scales, amax, codes_of, pack)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(w), -1, 16)
    decoded = value_of[codes] * E4M3.decode(scales)[..., None]
    return (decoded * (amax / np.float32(2688))).reshape(w.shape).astype(np.float32)


w = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
claim("it gives what the library gives", through_nvfp4(w), fake_quantize(w, "nvfp4"))

# %% [markdown]
"""
Then one step of the model, without biases and written out. On the way forward, everything that will be needed on the way back is kept. Note `h`: it is made from `a` twice, once directly and once through the middle layer, so what comes
back to `a` has to be added up.
"""


# %%
def forward(weights, batch):
    table = weights[0]  # a table is looked up, not multiplied: it stays as it is
    first, middle, head = (through_nvfp4(w) for w in weights[1:])
    x = table[batch[:, :CONTEXT]].reshape(len(batch), -1)
    a = np.tanh(x @ first.T)
    b = np.tanh(a @ middle.T)
    h = a + b
    scores = h @ head.T
    scores = scores - scores.max(axis=1, keepdims=True)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    given = shares[np.arange(len(batch)), batch[:, CONTEXT]]  # to the byte that came
    return -np.log(given).mean(), (table, first, middle, head, x, a, b, h, shares)


# %% [markdown]
"""
The tape of this step, for your `walk_back`: four weights, then `x`, the first product, `a`, the middle product, `b`, `h`, the scores and the loss. What a linear layer sends to its input and to its master weight, your `straight_through` says. The slope
of the loss for a score is its share, less one for the byte that came.
"""


# %%
def tape_of(kept, batch):
    table, first, middle, head, x, a, b, h, shares = kept
    came = np.eye(256, dtype=np.float32)[batch[:, CONTEXT]]
    to_x = lambda q, i: lambda g: straight_through(g, i, q)[0]
    to_w = lambda q, i: lambda g: straight_through(g, i, q)[1]

    def to_table(g):  # each byte's row gets the sum over the places where it stood
        sums = np.zeros_like(table)
        np.add.at(sums, batch[:, :CONTEXT], g.reshape(len(batch), CONTEXT, -1))
        return sums

    tape = [[], [], [], [], [(0, to_table)], [(4, to_x(first, x)), (1, to_w(first, x))]]
    tape += [[(5, lambda g: g * (1 - a * a))], [(6, to_x(middle, a)), (2, to_w(middle, a))]]
    tape += [[(7, lambda g: g * (1 - b * b))], [(6, lambda g: g), (8, lambda g: g)]]
    tape += [[(9, to_x(head, h)), (3, to_w(head, h))]]
    return tape + [[(10, lambda g: g * (shares - came) / len(batch))]]


# %% [markdown]
"""
And the training, by these parts and by the library: the same start, the same data, plain steps against the gradient. (The parts were written to be read, not to be fast: give them a while.)
"""

# %% slow
rng = np.random.default_rng(0)
data = [windows(rng, 128, 0, held_out) for _ in range(STEPS)]
by_hand = []


def gradients_of(weights, step):
    loss, kept = forward(weights, data[step])
    by_hand.append(float(loss))
    return walk_back(tape_of(kept, data[step]))[:4]


model = NextByte()
start = [p.data.copy() for p in model.parameters() if p.ndim == 2]
finish = loop(start, gradients_of, 0.5, STEPS)

# %% slow
for layer in (model.first, model.middle, model.head):
    layer.bias = None
place(model, "nvfp4", refresh_interval=1)
optimizer, by_library = optim.SGD(model.parameters(), lr=0.5), []
for batch in data:
    optimizer.zero_grad()
    loss = model.loss(batch)
    loss.backward()
    optimizer.step()
    by_library.append(loss.item())

# %%
made_by = f"yours ({yours} of {len(parts)} parts)" if yours else "no part of yours yet"
viz.curves(
    {made_by: by_hand, "the library's": by_library},
    ylabel="loss",
    title="A training in NVFP4, by hand and by the library",
)

# %%
apart = [abs(m - t) for m, t in zip(by_hand, by_library)]
claim("in the first four steps the losses agree to a millionth", max(apart[:4]), at_most=1e-6)
if STEPS >= 30:
    at_the_end = abs(np.mean(by_hand[-10:]) - np.mean(by_library[-10:]))
    claim("at the end neither is better by more than 0.1", at_the_end, at_most=0.1)

# %% [markdown]
"""
In the first steps the losses agree to a millionth. Both add the same products, but in another order; sooner or later a last bit decides a rounding, and from there on they are two trainings of one kind: at the end neither is better by more than 0.1. If
the legend says that the parts are yours: this model learned with your own bits.
"""

# %% [markdown]
"""
## Where the emulator is not the hardware

The arithmetic of the products is the hardware's, up to the order in which blocks are added. The published recipe was run on models many thousand times larger, with a few layers kept in sixteen bits; its authors report losses within one to two percent of eight-bit training. That is their measurement, not ours, and a small model cannot confirm it.

## What you can say now

What a loss of so-and-so much means; that a layer has three products; what squares, stochastic rounding and rotation are each for; and that four-bit products cost this small model little, and a wrong gradient a lot.
"""

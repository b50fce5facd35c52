# ---
# title: The device, its caches and its trace
# needs: 04
# question: What happens, in order, when a layer multiplies with a weight that is stored in four bits?
# ---

# %% [markdown]
"""
So far we mostly quantized arrays by hand. Now a whole model: the device puts every weight matrix on a card. The model does not notice: same names, same
shapes, same program. But when a layer multiplies, the card does it, and writes down everything it did.

*You may skim this one*: no hardware has such cards. Keep two things. A weight is stored as codes and scales and decoded when a layer multiplies, and what was costly to make is kept until the weight changes (*Manipulate*, below). Both factors of a product can be four-bit numbers, whose sums inside a block are exact (*Inside the product*, at the end).

This project began with a report: somebody had trained a model with its weights on virtual cards, and printed what the cards did. Many of the words here are the report's, and its figures are rebuilt below.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.device import RECIPES, StaleWeightError, place
from vbw_np.engine import Tensor, nn, no_grad, optim
from vbw_np.formats import E2M1, FORMATS
from vbw_np.models.claude4 import Claude4, Claude4Config
from vbw_np.teach import check, claim, hint, predict, solution

# %% [markdown]
"""
What a card does with its weight is called a **recipe**. A recipe is a name for a format and a few rules:
"""

# %%
for recipe in RECIPES.values():
    print(f"{recipe.name:14} {recipe.summary}")

# %% [markdown]
"""
`nvfp4` and `mxfp4` you know. `seed-v6` is the report's: it chooses sixteen sizes from the weights themselves (the *quantiles*: a sixteenth of the weights lies between two of them). The others, and where their words are explained: `fp32` leaves the weights as they are; `fp4-row` is what blocks were invented against (`04`); `nvfp4-boh`, and what it sends second, is the optional next notebook's; `mxfp4-train` and `nvfp4-train` come in `10`; `fp8-train` and `fp8-block-train`, and what is promoted there, in `15`. You need none of them here. (This is the first notebook that uses the device. The first time ever, its fast routines are compiled for your processor: that takes seconds, once, the cell says so, and they are kept on disk.)

## Manipulate: one product, step by step

Some words of code. `nn.Linear` is a **linear layer**: it multiplies the rows `x` that come in by its weight matrix `w`, as `x @ w.T` (a row of `w` for each number of the result), and may add a row to what comes out. `nn.Sequential` puts layers one behind the other. `place` puts a model on a device, every weight matrix on a card of its own; `mode="inference"` says that the weights will not change (**inference** is using a model, as opposed to training it), and `no_grad` that no tape is needed.

A card does not multiply by itself: it sends its weight to the **compute unit**, the part of the device that multiplies, over the **link**, the memory that stands for the wires between the two. Before that comes a **handshake**: who sends, who receives, how many bytes. (What is sent first is called the **coarse tier**. The optional next notebook adds a second one.)

Here are three layers of 64 by 64 weights. `device.step` runs the model and hands out, one at a time, what the device did. (`log=print` lets the device say in a few words what it has placed.) Read the sentences for the first card.
Then change the recipe, or put `model(x)` before the loop, so that the loop shows a second run, and see which steps disappear.
"""


# %%
def three_layers():
    return nn.Sequential(*(nn.Linear(64, 64, rng=i) for i in range(3)))


model = three_layers()
x = Tensor(np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32))
device = place(model, "nvfp4", mode="inference", log=print)
claim("each weight is 64 by 64", list(model[0].weight.shape), [64, 64], silent=True)

with no_grad():
    for event in device.step(model, x):
        if event.card == "0":
            print(f"{event.kind:10} {event.sentence}")

# %% [markdown]
"""
To find scales is called a **separation**. Then card and compute unit agree, the coarse tier travels, it is decoded, and the matrix product (`matmul`) is computed.

Two runs as a picture. Every lane is one kind of step, every bar one step, from when to when; the long bars in the lane `compute` hold all the others. The times are those of *this* machine:
"""

# %%
model = three_layers()
device = place(model, "nvfp4", mode="inference")
with device.trace() as recorder, no_grad():
    model(x)
    model(x)
viz.timeline(recorder.in_order(), title="Two runs of three layers: the second does less")

# %% [markdown]
"""
Such a recording is called a **trace**. `device.trace("file.json")` writes it to a file that trace viewers in a browser can open.

## Two caches

Why does the second run do less? A **cache** keeps what was costly to make. Asking it is a **cache hit** if it has what you want, and a **cache miss** if not. The device has two.

The **scale cache** keeps the scales of a weight while training changes the weight a little each step: new codes every step, new scales only every hundredth use (the *refresh interval*). The **decode cache** keeps the decoded weight, ready to multiply,
for as long as the weight does not change at all. In the picture their hits are the lanes `hit` and `decode hit`: the second run separates nothing and decodes nothing.

## Predict

The report's model has 62 cards. A **batch** is the handful of examples that one training step sees; there were 20 batches. Six of the cards are never used. In every batch each of the remaining cards computes once. How many computes, and how many of them found their scales in the cache? (In the report a hit is a hit of the scale cache.)
"""

# %% slow
guess_computes, guess_hits = None, None

# the same layers, only narrower: the counts are the same
small = Claude4(Claude4Config(vocab_size=97, d_model=32, hidden=64), seed=0)
tokens = np.random.default_rng(0).integers(0, 97, size=(1, 12))  # instead of a text
device = place(small, "seed-v6")
for batch in range(20):
    small.loss(tokens)
statistics = device.statistics
predict(guess_computes, statistics.computes, "computes")
predict(guess_hits, statistics.hits, "scale-cache hits")
claim("62 cards", len(device.cards), 62, silent=True)
claim("20 batches", batch + 1, 20, silent=True)
claim("6 of them idle", len(device.idle), 6, silent=True)
claim("1,120 computes", statistics.computes, 1120)
claim("1,064 hits", statistics.hits, 1064)
claim("56 separations, one a card", statistics.separations, 56)
claim("95 % hits", 100 * statistics.hit_rate, 95)

# %% [markdown]
"""
1,120 computes, 1,064 of them hits: 95 percent, exactly the report's figures. There is nothing mysterious about them: each of the 56 active cards missed once, at its first use.

## Exercise: count before you run

`cards` cards compute once in each of `batches` batches. A card separates at its first use, keeps the scales for `interval` uses (this one counted), and then separates again; every use without a separation is a hit. Return `(computes, separations, hits)`.
"""


# %% exercise=06.1
def counts(cards, batches, interval):
    ### BEGIN SOLUTION
    raise NotImplementedError  # return (computes, separations, hits)
    ### END SOLUTION


# %% check=06.1
check("06.1", counts)

# %% [markdown]
"""
Now let the device count: a training of twelve batches, with scales kept for five uses. (The goal of this training is silly: make all outputs small. `optim.SGD` moves every weight against its slope.)
"""

# %%
model = three_layers()
device = place(model, "nvfp4", refresh_interval=5)
optimizer = optim.SGD(model.parameters(), lr=0.01)
for _ in range(12):
    optimizer.zero_grad()
    (model(x) ** 2).mean().backward()
    optimizer.step()
real = device.statistics
claim("3 cards, interval 5", [len(device.cards), device.policy.refresh_interval], [3, 5], silent=True)
claim(
    "12 batches: computes, separations, hits",
    [real.computes, real.separations, real.hits],
    [36, 9, 27],
)
claim(
    "while weights change, no decoded one can be used again: decode-cache hits",
    real.decode_hits,
    0,
)

# %% [markdown]
"""
With 3 cards, 12 batches and an interval of 5, the device counts 36, 9 and 27, and so should your function. The decode cache had 0 hits: every step changes every weight.

## Picture: a cache that is one byte too small

When a cache is full, it throws out what was not used for longest. Throwing out is called **eviction**. Our three decoded weights take 16,384 bytes each. Watch four runs with room for all three, and four runs with room for one byte less. From left to right the device asks for one weight after
the other; M is a miss, H a hit.
"""


# %%
def accesses(capacity, runs=4):
    model = three_layers()
    device = place(model, "nvfp4", mode="inference", cache_bytes=capacity)
    with device.trace() as recorder, no_grad():
        for _ in range(runs):
            model(x)
    return [
        (f"card {e.card}", e.kind == "decode hit")
        for e in recorder.in_order()
        if e.kind in ("decode", "decode hit")
    ], device


claim("a decoded weight takes 16,384 bytes", model[0].weight.data.nbytes, 16_384)
enough, _ = accesses(49_152)
viz.access_map(enough, title="Room for three weights: one miss each, then hits")

# %%
short, crowded = accesses(49_151)
viz.access_map(short, title="One byte less: never a hit")

# %%
claim("with room for all: hits of 12", sum(hit for _, hit in enough), 9)
claim("12 accesses", len(enough), 12, silent=True)
claim("one byte less: 0 hits", sum(hit for _, hit in short), 0)
claim("and 10 evictions", crowded.decode_cache.evictions, 10)

# %% [markdown]
"""
9 hits of 12 become 0. Not two thirds of them: none. The weights are asked for in a circle, and the one thrown out is always the one needed next. A cache that
is a little too small can be worth nothing at all.

## Exercise: the smallest cache that helps

Four layers now, of 32 by 32 weights, run again and again. Decoded weights are float32. What is the smallest `cache_bytes` with which every run after the first is all hits?
"""

# %% exercise=06.2
### BEGIN SOLUTION
smallest_cache = None  # a number of bytes
### END SOLUTION

# %% check=06.2
check("06.2", smallest_cache)

# %%
claim("those layers are 32 by 32", list(nn.Linear(32, 32, rng=0).weight.shape), [32, 32], silent=True)

# %% [markdown]
"""
## When a cache lies

A cache must never answer with an old weight. So every weight has a **version number** that moves when, and only when, its values are changed the proper way (by a step of training, or by `assign`); the caches compare version numbers. What if somebody writes past that? With `verify=True` the device looks at the values themselves:
"""

# %%
model = three_layers()
device = place(model, "nvfp4", mode="inference", verify=True)
with no_grad():
    model(x)
    model[0].weight.data *= 2  # not the proper way
    try:
        model(x)
        caught = False
    except StaleWeightError as error:
        caught = True
        print("StaleWeightError:", error)
claim("the stale weight is caught", caught, True)

# %% [markdown]
"""
## Inside the product

The part of a graphics processor that multiplies small matrices is called a **tensor core**. Ours is virtual, and multiplies codes, not numbers. Is that exact? Multiply any two of the sixteen values, and look at what can come out.
"""

# %%
values = np.arange(16, dtype=np.uint8)
products = np.outer(E2M1.decode(values), E2M1.decode(values))
sizes = np.unique(np.abs(products))
print(sizes)
claim("19 different sizes", len(sizes), 19)
claim("all of them multiples of 0.25", float((sizes / 0.25 % 1).max()), 0)
claim("their unit: 0.25", float(sizes[1]), 0.25)
claim("the largest is 36", sizes.max(), 36)
claim("so 16 of them add up to at most 576", 16 * sizes.max(), 576)
claim("which is 2,304 quarters", 4 * 16 * sizes.max(), 2304)
claim("16 is the block", FORMATS[RECIPES["nvfp4"].weight].block, 16, silent=True)

# %% [markdown]
"""
19 sizes, all of them multiples of 0.25, none above 36. So the products of a block of 16 add up to a whole number of quarters: at most 2,304 of them, which is 576. Such a count is a small integer, and a sum of integers is never rounded, in whatever order it is added. Only afterwards,
where blocks are multiplied by their scales and added in float32, does rounding begin.

The numbers that flow through a model, and that weights are multiplied with, are called **activations**. Until now only the weights were quantized (`compute="dequant"`). For the tensor core *both* factors of a product, its **operands**, must be four-bit numbers (`compute="fp4"`). What does each cost?
"""

# %% slow
wide = nn.Sequential(nn.Linear(256, 256, rng=0))
inputs = Tensor(np.random.default_rng(0).normal(size=(32, 256)).astype(np.float32))
with no_grad():
    exact = wide(inputs).data
    outputs = {}
    for compute in ("dequant", "fp4"):
        device = place(wide, "nvfp4", mode="inference", compute=compute)
        outputs[compute] = wide(inputs).data
        device.release()

# %%
error = {
    name: float(np.linalg.norm(y - exact) / np.linalg.norm(exact))
    for name, y in outputs.items()
}
print(error)
claim(
    "weights in four bits: about 10 % error in the output",
    100 * error["dequant"],
    10,
    tol=0.5,
)
claim("both operands in four bits: about 14 %", 100 * error["fp4"], 14, tol=0.5)

# %% [markdown]
"""
About 10 percent of error with weights in four bits, about 14 with both operands. Independent errors add like the sides of a right triangle: ten and ten make the root of two hundred.

## Where the emulator is not the hardware

A real Blackwell has no cards with one matrix each, no handshake, no scale cache; these are the report's. The formats, the codes and the block sums are the hardware's. How real tensor cores add the blocks up
has a notebook of its own; here the order is fixed and written down. And the picture of the trace shows *this* processor's time.

## What you can say now

What a card does for one product, and which steps its two caches save; counts that you can predict to the last one; why a cache needs version numbers; and that sums inside a block are exact.
"""

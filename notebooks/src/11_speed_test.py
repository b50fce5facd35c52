# ---
# title: The speed test, read with a roofline
# needs: 06, 10
# question: What limits the speed of a product: arithmetic, or the bytes it needs?
# ---

# %% [markdown]
"""
Four-bit numbers are not only smaller. They can be *faster*, for two different reasons, and it depends on the product which of the two counts. This notebook separates them, on paper first, and then on your machine.
"""

# %%
import time

import numpy as np

from vbw_np import viz
from vbw_np.bench.floor import flop_by_part, step_products
from vbw_np.formats import FORMATS
from vbw_np.models.claude4 import Claude4
from vbw_np.teach import check, claim, hint, predict, solution

# %% [markdown]
"""
## Predict

One training step of Claude4 on eight pieces of text, as in the report, multiplies matrices: once forward and twice on the way back, as you saw. How many thousand million *operations* (multiplications and additions) is that, and which part takes most: attention, experts, reflection or the output head? The cell counts; it computes nothing.
"""

# %%
guess = None

products = step_products(Claude4(), batch_size=8, seq_len=128)  # the shapes of all products
parts = {part: flop / 1e9 for part, flop in flop_by_part(products).items()}
total = sum(parts.values())
predict(guess, round(total), "thousand million operations")
claim("159 in all", total, 159, tol=0.5)
claim(
    "output head, experts, reflection, attention",
    [parts["head"], parts["experts"], parts["reflection"], parts["attention"]],
    [78, 39, 37, 5],
    tol=0.5,
)
viz.bars(
    {name: {"thousand million operations": value} for name, value in parts.items()},
    ylabel="thousand million",
    title="Where the operations of one training step are",
)

# %% [markdown]
"""
159 thousand million, of which the output head takes 78, the experts 39, the reflection 37, the attention only 5. If you want to make this model faster, you now know where to begin, without having timed anything.

## Operations a byte

A product needs its matrices from memory. The **arithmetic intensity** of a product is how many operations it does for each byte that it must fetch. If it is small, the processor waits for memory; if it is large, memory waits for the processor.

A row times a matrix (one token at a time, as when a model writes text) uses every weight once: one multiplication and one addition. A weight of float32 takes four bytes, so that makes `2 / 4` operations a byte.
"""

# %%
per_weight = {"float32": 2 / 4, "NVFP4": 2 / (FORMATS["nvfp4"].bits / 8)}
print(per_weight)
claim("float32: 0.5 operations a byte", per_weight["float32"], 0.5)
claim("NVFP4, at 4.5 bits a weight: 3.56", per_weight["NVFP4"], 3.56, tol=0.005)
claim("bits a weight", FORMATS["nvfp4"].bits, 4.5)
claim("7.1 times more", per_weight["NVFP4"] / per_weight["float32"], 7.1, tol=0.02)

# %% [markdown]
"""
0.5 operations a byte in float32; 3.56 with 4.5 bits a weight, 7.1 times more.

## Manipulate: intensity of a product

Many rows at once use each weight many times. Change the shape, and watch the intensity. At which shapes does it come near the `0.5` of a single row? (Every entry of the result takes `inner` multiplications and as many additions; the bytes are those of both operands and of the result.)
"""

# %%
rows, inner, columns = 1024, 256, 1024

operations = 2 * rows * inner * columns
moved = 4 * (rows * inner + inner * columns + rows * columns)
print(f"{operations / moved:.1f} operations a byte in float32")

# %% [markdown]
"""
## Exercise: the roof

A processor does at most `peak` operations a second, and fetches at most `bandwidth` bytes a second. (**Bandwidth** is that: bytes a second.) A product has some `intensity` (operations a byte). How many operations a second can it reach at most?
"""


# %% exercise=11.1
def attainable(intensity, peak, bandwidth):
    ### BEGIN SOLUTION
    raise NotImplementedError  # two limits; the lower one counts
    ### END SOLUTION


# %% check=11.1
check("11.1", attainable)

# %% [markdown]
"""
## Measure your machine

Now with a clock. The numbers below are *yours*: of this processor, at this moment, with whatever else it is doing. Nothing in the text depends on them. How many operations a second your processor reaches, it shows with a large product; how many bytes, by copying a large array (each byte of it is read once and written once).
"""


# %%
def best(function, repeats=20):
    """The shortest of a few runs, in seconds: noise only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


n = 512
a, b, c = (np.random.default_rng(i).random((n, n), dtype=np.float32) for i in range(3))
peak = 2 * n**3 / best(lambda: np.matmul(a, b, out=c)) / 1e9
source, sink = np.ones(1 << 22, np.float32), np.empty(1 << 22, np.float32)
bandwidth = 2 * source.nbytes / best(lambda: np.copyto(sink, source)) / 1e9
print(
    f"about {peak:.0f} thousand million operations a second, {bandwidth:.1f} thousand million bytes a second"
)

# %% [markdown]
"""
## Picture

Both limits in one picture, called a **roofline**. To the right: operations a byte. Upward: operations a second (GFLOP/s are thousand million a second; GB/s thousand million bytes). Both axes go in powers, so that the limit of the memory, bandwidth times intensity, is a straight slope; the limit of the arithmetic is the flat top. Two products are drawn as you
measured them: one row times a matrix, and 512 rows at once. (No dot is above a limit. One that lies far *below* both was held up by something else: other programs on the machine, more often than not. Run the two cells again.)
"""

# %%
big = np.random.default_rng(0).random((2048, 2048), dtype=np.float32)
vector, out = np.ones(2048, np.float32), np.empty(2048, np.float32)
single = 2 * big.size / best(lambda: np.matmul(big, vector, out=out)) / 1e9
points = {
    "one row times a matrix": (0.5, single),
    "512 rows at once": (2 * n**3 / (3 * 4 * n * n), peak),
}
claim("512 rows", n, 512)
# a limit is the best that was seen, also where a product beat the copy
roof = max(peak, single)
slope = max(bandwidth, single / 0.5)
viz.roofline(points, peak=roof, bandwidth=slope)

# %% [markdown]
"""
On the slope, memory is the limit, and smaller weights help at once: the same bytes a second carry more weights. On the flat part, arithmetic is the limit, and smaller weights help only if the processor multiplies small numbers faster. Blackwell does. So do many ordinary processors, with instructions for eight-bit integers, and
this project's virtual tensor core uses them where they exist.

Where is the corner? Where both limits are equal: bandwidth times intensity is the peak, so the intensity is the peak divided by the bandwidth.
"""

# %%
corner = roof / slope
print(f"on this machine the corner is near {corner:.1f} operations a byte")
claim(
    "with half the corner's intensity half the peak is reached, with twice as much all of it",
    [min(roof, slope * corner / 2) / roof, min(roof, slope * corner * 2) / roof],
    [0.5, 1],
    tol=1e-9,
)

# %% [markdown]
"""
## Read the speed test

`vbw bench` trains Claude4 on its 62 cards and prints a report: batches a second, what the caches did, and the *floor*: the time that the step's matrix products alone would take in float32 on the same machine. The floor is measured beside the batches, so that the noise of the machine is in both. Divide a batch's time by the floor: the *ratio* says how much everything else costs. It compares
two times of one run, so it means the same on a fast machine and on a slow one; seconds do not.

What to look at, in this order: the floor, the ratio, then the hit rate of the caches, then the single cards.
"""

# %%
from vbw_np.device import place

device = place(Claude4(), "seed-v6")
claim("62 cards", len(device.cards), 62)
largest = max(device.cards.values(), key=lambda card: card.parameter.size)
share = (
    100
    * largest.parameter.size
    / sum(card.parameter.size for card in device.cards.values())
)
print("the largest card is", largest.name, "with", f"{share:.0f} % of all weights on cards")
claim("the output head holds 59 % of the weights on cards", share, 59, tol=0.5)

# %% [markdown]
"""
One of the 62 cards, the output head, holds 59 percent of all weights on cards: it has a row for every word that the model knows.

## Where the emulator is not the hardware

Everywhere, in this notebook. The times are those of your processor; the roofline is your processor's. NVIDIA publishes how many times faster its four-bit products are than its sixteen-bit ones; those figures are about its hardware. Where an *emulated* four-bit product is faster than the product in float32, that is a fact about ordinary processors with instructions for bytes; `vbw bench` shows what yours does.

## What you can say now

How to tell from operations and bytes what limits a product; why small weights help at once when a model writes, one token at a time, and what else is needed when it learns, many rows at once.
"""

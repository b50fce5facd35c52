# ---
# title: Two tiers, and who asks for the second
# optional: yes
# needs: 06
# question: If four bits are not enough for one matrix, must all matrices pay for eight?
# ---

# %% [markdown]
"""
Some matrices survive four bits better than others. So send every matrix in two parts: the coarse tier, which is useful by itself, and a **fine tier**
that repairs it. Whoever can live with the coarse one never fetches the other. This is our own design; no hardware that we know of does this.

*You may skim this one, or leave it out*: no later notebook needs it. Two things to keep: the code of a number already says how wide its bin is, so more bits are best spent inside that bin; and which matrices need more bits can be measured, and paid for only there.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.device import place
from vbw_np.engine import Tensor, nn, no_grad
from vbw_np.formats import E2M1, fake_quantize, quantize, sqnr_db
from vbw_np.formats.packed import nested_edges
from vbw_np.teach import check, claim, hint, predict, solution

# %% [markdown]
"""
## Predict

The plain design: what NVFP4 leaves over, the **residual** (number minus what came back), is stored in four more bits, as evenly spaced steps. How wide is a step? A second scale would have to be stored; it costs nothing if the step is simply an
eighth of the block scale. NVFP4 alone, at four and a half bits, gives about 20.4 dB on normal numbers. With the residual, at eight and a half: how many dB?
"""

# %%
guess = None

x = np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)
quality = {
    name: sqnr_db(x, fake_quantize(x, name))
    for name in ("nvfp4", "nvfp4-tied8", "nvfp4-nested")
}
predict(guess, round(quality["nvfp4-tied8"], 1), "dB, residual in steps of scale / 8")
claim("NVFP4 alone: 20.4", quality["nvfp4"], 20.4, tol=0.1)
claim("with the plain residual: 37.8", quality["nvfp4-tied8"], 37.8, tol=0.1)
claim("with the design below: 44.8", quality["nvfp4-nested"], 44.8, tol=0.1)

# %% [markdown]
"""
The plain residual gives 37.8 dB. The design below gives 44.8 with the same bits. Where does the difference come from?

## Nested cells

The coarse code already says in *which bin* the number lies. In units of the block scale, bins near zero are 0.5 wide, the one around 4 is 1.5 wide. A residual with one step for all must reach across the widest bin, and wastes its bits in the
narrow ones. So cut *each bin* into sixteen equal cells, and let the four fine bits say which cell; what comes back is the middle of the cell. No second scale is needed: the bin is known. (The last bin ends at 6.375: in NVFP4, no number divided by its
block scale is larger, as you saw. Negative numbers are the mirror image.)
"""

# %%
low, width = nested_edges(6.375)
for code in range(8):
    print(
        f"code {code}: bin from {low[code]:6} to {low[code] + width[code]:6}, cell width {width[code] / 16:.5f}"
    )
claim(
    "the narrow bins are 0.5 wide, the one around 4 is 1.5",
    [float(width[1]), float(width[6])],
    [0.5, 1.5],
)
claim("it is the bin of the value", float(E2M1.decode(np.uint8(6))), 4)

# %% [markdown]
"""
## Manipulate: plane by plane

The four fine bits can be sent one at a time, the most important first. All first bits of a matrix together are its first **bit plane**. Each plane halves the cell that is known, and with it the largest error that is possible. Change `value`, and watch it being found.
(Try `1.37`: a single number can be lucky, and lie close to the middle of an early, wide cell.)
"""

# %%
value = 1.26

row = np.zeros((1, 16), np.float32)
row[0, 0], row[0, 1] = value, 6
tensor = quantize(row, "nvfp4-nested")
for planes in range(5):
    back = float(tensor.dequantize(planes=planes)[0, 0])
    print(f"{planes} planes: {back:<9.6f} error {abs(back - value):.6f}")

# %%
whole = quantize(x, "nvfp4-nested", measure=False)
ladder = [sqnr_db(x, whole.dequantize(planes=p)) for p in range(5)]
bits = [whole.with_planes(p).bits_per_value for p in range(5)]
print([round(v, 1) for v in ladder])
claim("dB with 0, 1, 2, 3 and 4 planes", ladder, [20.4, 26.9, 32.8, 38.7, 44.8], tol=0.1)
claim("at 4.5 to 8.5 bits", [bits[0], bits[4]], [4.5, 8.5], tol=0.001)

# %% [markdown]
"""
## Picture

How near a matrix of normal numbers comes back, with none to four of the planes:
"""

# %%
viz.curves(
    {"nested cells, plane by plane": ladder},
    x=bits,
    xlabel="bits a number",
    ylabel="SQNR in dB",
    title="Every plane halves the error: six dB a bit",
)

# %% [markdown]
"""
From 20.4 dB at 4.5 bits to 44.8 at 8.5, six dB for every bit: each plane halves the errors. And whoever stops early has something usable.

## Who asks

Now the protocol, called **BOH** (Binary Optimization Hierarchy). In the handshake the card offers both tiers to the compute unit. The coarse tier travels over the link at once. Of the fine tier only as many planes follow as the receiver's **error budget** asks for: the largest relative error that it will accept (the root of the errors' power over the matrix's power; twenty dB are a relative error of a tenth).

The two layers below differ in their weights: normal numbers in the first, flat (uniform) ones in the second.
"""


# %% slow
def two_layers():
    model = nn.Sequential(nn.Linear(64, 128, rng=0), nn.Linear(128, 64, rng=1))
    normal = np.random.default_rng(2).normal(0, 0.1, size=(128, 64))
    model[0].weight.assign(normal)  # the other layer's weights are flat already
    return model


def transfer(budget):
    model = two_layers()
    device = place(model, "nvfp4-boh", mode="inference", error_budget=budget)
    with no_grad():
        model(Tensor(np.ones((1, 64), np.float32)))
    return device


for budget in (0.11, 0.1, 0.05, 0.02, 0.006):  # try others
    device = transfer(budget)
    asked = {name: card.planes for name, card in device.cards.items()}
    print(
        f"budget {budget:<6} planes {asked}  coarse bytes {device.link.coarse_bytes:,}  fine bytes {device.link.fine_bytes:,}"
    )

# %%
device = transfer(0.1)
planes = [card.planes for card in device.cards.values()]
errors = [card.coarse_error for card in device.cards.values()]
claim("budget 0.1: the normal layer needs 0 planes, the flat one needs 1", planes, [0, 1])
claim("because its coarse error is above 0.1", errors[1], at_least=0.1)
claim("2 handshakes, one a card", device.link.handshakes, 2)
claim("one plane of 128 times 64 weights is 1,024 bytes", device.link.fine_bytes, 1024)
claim("that is", list(device.cards["1"].parameter.shape), [64, 128], silent=True)

# %% [markdown]
"""
With a budget of 0.1, the layer of normal weights is fine with 0 planes; the flat one's error is a hair above 0.1, so it asks for 1 plane: 1,024 bytes, an eighth of a byte for each of its 64 times 128 weights.

## Exercise: find the cell

`q` is a number divided by its block scale, between 0.25 and 6.375. Return `(code, cell)`: the E2M1 code of its bin, and which of the sixteen equal cells of that bin it lies in (0 is the lowest, 15 the highest). `low[code]` and `width[code]`, from the cell above, say where
each bin begins and how wide it is. A number on the border of two cells of a bin belongs to the upper one; the very end of the last bin belongs to cell 15. (The border of two *bins* is a tie, and is not asked.)
"""


# %% exercise=07.1
def find_cell(q):
    ### BEGIN SOLUTION
    raise NotImplementedError  # the last bin whose lower end is below q; then how far into it, in sixteenths
    ### END SOLUTION


# %% check=07.1
check("07.1", find_cell)

# %%
claim("from", [float(low[1]), float(low[7] + width[7])], [0.25, 6.375], silent=True)
cells = sorted({int(v) for v in np.unique(whole.unpacked_fine())})
claim("cells are numbered 0 to 15", cells[::15], [0, 15], silent=True)

# %% [markdown]
"""
## Where the emulator is not the hardware

No processor that we know of stores weights this way. The coarse tier is real NVFP4, byte for byte; the fine tier is ours. The link here is a counter: it counts the bytes that *would* travel, and nothing
more. Real links also cost time per message, which we do not invent.

## What you can say now

A coarse tier that is NVFP4, and a fine tier of bit planes nested in its bins; a handshake; an error budget that decides how much travels.
"""

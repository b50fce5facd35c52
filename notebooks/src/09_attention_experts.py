# ---
# title: Attention, experts and reflection
# needs: 06, 08
# question: Which parts of a real model mind four bits, and which do not?
# ---

# %% [markdown]
"""
A model of text reads **tokens**: pieces of text (words or bytes), each with a number. Every token is turned into a row of numbers (looked up in a table, whose entries are weights), and the layers work on these rows. Three kinds of layers
make up Claude4, and each of them takes rounding differently.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.device import RECIPES, place
from vbw_np.engine import F, Tensor, nn, no_grad
from vbw_np.formats import fake_quantize, sqnr_db
from vbw_np.layers import MixtureOfExperts, Threshold, TriVeinAttention, graph
from vbw_np.models.claude4 import Claude4, Claude4Config
from vbw_np.teach import check, claim, hint, predict, solution

f32 = np.float32

# %% [markdown]
"""
## Attention in one picture

**Attention** lets each token look at others. From the row of every token, weight matrices make three: a *query* (what the token looks for), a *key* (what it can be found by) and a *value* (what it has to say). The score of a pair is the product of one token's query and the other's key, divided by the root of their length, so that long rows do not make large scores. Attention computes the score of every pair, and turns each row of scores into shares that add up to one; that step is called **softmax** (raise *e* to each score, divide by the sum).
The token then takes the mix of the others' values, in these shares. (A layer may do this several times side by side, each time with rows of its own; one such part is called a *head*.)

A model that predicts the next token must not see it. The **causal mask** sets the scores of later tokens to minus infinity *before* the softmax: *e* to the minus infinity is nought, so they get no share.

In the picture every row is a token, and says in which shares it takes from the columns; the upper right is empty, because it lies in the future. Weights and the words' rows are random, for only the mechanism counts here: but the same word has the same row wherever it stands. (`TriVeinAttention` is Claude4's attention layer.)

## Manipulate

Change the seed; switch `causal` off; write another sentence, one with a word in it three times. Where do the shares go?
"""

# %%
seed, causal = 0, True

# rows of 32, one head, scores from 4 numbers a token; the threshold does nothing here
layer = TriVeinAttention(32, 1, 4, Threshold(), causal=causal, rng=seed)
words = "the cat sat on the mat and slept".split()
drawn = {word: np.random.default_rng([seed, *word.encode()]).normal(size=32) for word in words}
rows = Tensor(3 * np.array([[drawn[word] for word in words]], f32))  # each word has its row
with no_grad():
    mixed, shares = layer(rows)
shares = shares.data[0, 0]
claim("every row of shares adds up to 1", shares.sum(axis=1), np.ones(len(words)), tol=1e-6)
viz.heat_map(
    shares,
    rows=words,
    columns=words,
    title="Who looks at whom: rows look at columns",
    label="share",
)

# %% [markdown]
"""
## Exercise: mask, then share

Given a square array of `scores`, return the array of shares with the causal mask: row `i` may use the columns up to and with `i`. Each row must add up to one.
"""


# %% exercise=09.1
def causal_shares(scores):
    ### BEGIN SOLUTION
    raise NotImplementedError  # minus infinity above the diagonal, then softmax along each row
    ### END SOLUTION


# %% check=09.1
check("09.1", causal_shares)

# %% [markdown]
"""
## Predict

The four weight matrices of this attention go on cards with NVFP4, from which weights come back with an error of about a tenth. By how much do the *shares* move, on average, in percent of a whole?
"""

# %%
guess = None

device = place(nn.Sequential(layer), "nvfp4", mode="inference")
claim("four matrices", len(device.cards), 4, silent=True)
with no_grad():
    _, rounded_shares = layer(rows)
device.release()  # takes the layer off its cards again
moved = 100 * np.abs(rounded_shares.data[0, 0] - shares).mean()
predict(guess, round(float(moved), 2), "percent")
claim("less than 5 % of a whole", moved, at_most=5)

# %% [markdown]
"""
The shares move by less than 5 percent of a whole on average: a score adds up many products, and independent errors average out. But there is a trap.

## A scale that tells the future

If the *rows* are quantized as well, how many of them share a tensor scale? If all of them do, then one later token with large numbers, a loud one, changes the scale of everybody before it. The mask is intact, and still the future leaks.
"""

# %%
quiet = np.random.default_rng(1).normal(size=(8, 64)).astype(f32)
loud = quiet.copy()
loud[-1] *= 1000  # only the last token changes
leaks = {
    name: int(
        (fake_quantize(quiet, name)[:-1] != fake_quantize(loud, name)[:-1])
        .any(axis=1)
        .sum()
    )
    for name in ("nvfp4", "nvfp4-row-scaled")
}
print("earlier tokens that changed:", leaks)
claim("one scale for the tensor: all 7 earlier tokens change", leaks["nvfp4"], 7)
claim("one scale a row: 0", leaks["nvfp4-row-scaled"], 0)

# %% [markdown]
"""
With one scale for the tensor all 7 earlier tokens change; with one scale a row, 0 do. That is why the device gives the row of every token a scale of its own. Here is the check for a whole model, both operands of its products in four bits: change the last token, and compare bit for bit.
"""

# %% slow
model = Claude4(
    Claude4Config(vocab_size=97, d_model=32, hidden=64, layers=2, causal=True, dropout=0.0),
    seed=0,
).eval()
device = place(model, "nvfp4-train", mode="inference")
ids = np.random.default_rng(0).integers(0, 97, size=(1, 12))
other = ids.copy()
other[0, -1] = (other[0, -1] + 1) % 97
with no_grad():
    before, after = model(ids).data, model(other).data
device.release()
claim(
    "nothing before the changed token moved, by not one bit", before[:, :-1], after[:, :-1]
)
claim("and the changed one did", bool((before[:, -1] != after[:, -1]).any()), True)

# %% [markdown]
"""
## Experts

An **expert** is a small network; a layer has several. A **gate** (a small weight matrix) looks at the token and gives each expert a score. Many models run only the expert with the best score. There, errors do not average out: the best score wins, and if two are close, a tiny error changes
*which network runs*. Below are random tokens and random gates, whose weights are stored in NVFP4. For how many tokens does the winner change?
"""


# %%
def winners_change(experts, seed=0):
    rng = np.random.default_rng(seed)
    tokens, gate = (
        rng.normal(size=(4096, 256)).astype(f32),
        rng.normal(size=(experts, 256)).astype(f32),
    )
    scores, rounded = tokens @ gate.T, tokens @ fake_quantize(gate, "nvfp4").T
    changed = scores.argmax(axis=1) != rounded.argmax(axis=1)
    ordered = np.sort(scores, axis=1)
    return changed, ordered[:, -1] - ordered[:, -2]


# %%
flips = {
    experts: 100 * np.mean([winners_change(experts, s)[0].mean() for s in range(3)])
    for experts in (4, 8, 64)
}
print({k: round(float(v), 1) for k, v in flips.items()})
claim("4, 8 and 64 experts", list(flips), [4, 8, 64], silent=True)
claim(
    "the winner changes for about 5.5, 7.4 and 12 % of the tokens",
    list(flips.values()),
    [5.5, 7.4, 12],
    tol=0.15,
)

# %% [markdown]
"""
Which tokens are these? Sort them by the distance between their two best scores, and ask in each group how many change. Each bar is a group, from the closest races at the left to the clearest at the right.
"""

# %%
changed, margin = winners_change(8)
bins = np.array([0, 0.5, 1, 2, 4, 8, 100])
viz.bars(
    {
        f"{low:g} to {high:g}": {
            "% of tokens whose winner changes": 100
            * float(changed[(margin >= low) & (margin < high)].mean())
        }
        for low, high in zip(bins, bins[1:])
    },
    xlabel="distance between the two best scores",
    ylabel="% of such tokens",
    title="The closer the two best scores, the more often the winner changes",
)

# %%
claim(
    "in the clearest races hardly any winner changes",
    100 * changed[margin >= 8].mean(),
    at_most=1,
)
claim("in the closest at least 30 %", 100 * changed[margin < 0.5].mean(), at_least=30)

# %% [markdown]
"""
With 4, 8 and 64 experts, the winner changes for about 5.5, 7.4 and 12 percent of the tokens, and nearly always where two scores were close. The cure costs next to nothing: a gate is a tiny matrix. Keep it in **full precision**, that is, in float32.

## Exercise: count the flips

Given two arrays of scores, with a row for each token and a column for each expert, return the share of tokens (between nought and one) whose best expert differs.
"""


# %% exercise=09.2
def flipped(scores, rounded):
    ### BEGIN SOLUTION
    raise NotImplementedError  # compare which column is the largest
    ### END SOLUTION


# %% check=09.2
check("09.2", flipped)

# %% [markdown]
"""
A recipe can say which layers it leaves alone: `keep` holds patterns for their names.
"""

# %%
import dataclasses

careful = dataclasses.replace(RECIPES["nvfp4"], name="gates in full", keep=("*gate*",))
mixture = nn.Sequential(MixtureOfExperts(64, 128, 8, dropout=0.0, rng=0))
device = place(mixture, careful, mode="inference")
held = {
    name: (card.format.name if card.format else "float32")
    for name, card in device.cards.items()
    if "gate" in name
}
print(held)
claim("the gate stays in float32", sorted(held.values())[0], "float32")
device.release()

# %% [markdown]
"""
The experts of our own model are of the gentle kind: *all* of them run, and the gate only says in which shares to mix them. A small error in a score then moves a share a little, and nothing flips.

## Reflection: attention read as a graph

The third layer, called **reflection**, does something unusual: it reads the shares as one-way roads between tokens. A large share is a short road (its length is minus the logarithm of the share, so that lengths add along a path where shares multiply). It finds the shortest paths, and which tokens hang together through
shares above a tenth. What it feeds back into the rows depends on *choices*: which tokens are near. Choices can flip, like winners.

The picture shows the length of the shortest path from each row's token to each column's; light is near. (The share that a token takes from itself is a road as well, so the diagonal is not zero.) The line above it says for every token how many tokens hang together with it, itself included.
"""

# %%
_, open_shares = TriVeinAttention(32, 1, 4, Threshold(), causal=False, rng=0)(rows)
attention = open_shares.data
distances = graph.shortest_paths(-np.log(attention + 1e-10))[0, 0]
print("tokens that hang together with each:", graph.component_sizes(attention, 0.1)[0, 0])
viz.heat_map(
    distances,
    rows=words,
    columns=words,
    title="Shortest paths between tokens",
    label="distance",
    form=".1f",
)

# %%
direct = -np.log(attention[0, 0] + 1e-10)
claim(
    "a path is never longer than the direct road",
    float((distances - direct).max()),
    at_most=1e-6,
)
shorter = 100 * (distances < direct - 1e-6).mean()
claim("and for at least 10 % of the pairs a detour is shorter", shorter, at_least=10)

# %% [markdown]
"""
For at least 10 percent of the pairs a detour is shorter than the direct road.

Now sixty-four sentences instead of one. Put the attention on cards with NVFP4, and ask for the 5 nearest tokens of every token, before and after.
"""

# %%
reader = TriVeinAttention(32, 1, 4, Threshold(), causal=False, rng=0)
sentences = Tensor(3 * np.random.default_rng(0).normal(size=(64, 8, 32)).astype(f32))


def five_nearest():
    with no_grad():
        shares = reader(sentences)[1].data
    roads = graph.shortest_paths(-np.log(shares + 1e-10)).mean(axis=1)
    return shares, graph.nearest_nodes(roads, 5).reshape(-1, 5)


full_shares, full = five_nearest()
device = place(nn.Sequential(reader), "nvfp4", mode="inference")
some_shares, some = five_nearest()
device.release()
kept = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(full, some)])
claim("each token has 5 nearest", full.shape[1], 5, silent=True)
claim(
    "the shares moved by 2 % of a whole",
    100 * np.abs(full_shares - some_shares).mean(),
    2,
    tol=0.3,
)
claim("8 % of the nearest tokens are others", 100 * (1 - kept), 8, tol=1)

# %% [markdown]
"""
The shares moved by only 2 percent of a whole, and yet 8 percent of the 5 nearest tokens are others: reflection is more like a gate than like a sum.

## Where the emulator is not the hardware

Softmax, masks and graph searches run in float32 here, as they do on real processors: hardware multiplies four-bit numbers, it does not take logarithms of them. Claude4's attention and its reflection are this project's, not a published standard; what four bits do to them
says nothing about other models.

## What you can say now

Sums forgive, choices do not. Give every token row its own scale. Keep gates in full precision.
"""

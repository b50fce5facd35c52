# ---
# title: The KV cache in four bits
# needs: 09, 17
# question: A model that writes keeps something of every word it has read, and soon that is more than the model itself. How far can it be rounded?
# ---

# %% [markdown]
"""
A model that writes looks back at every token it has read. It would be a waste to compute their keys and values anew for each new word, so every layer keeps them; that store is the **KV cache**. The key of a token decides how much attention it gets, its value is what it says. You will find that the two do not mind rounding alike, see why, and try two remedies: take away what all keys have in common, and let other numbers share a scale.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.engine import no_grad
from vbw_np.formats import FORMATS, fake_quantize
from vbw_np.models.key_value_cache import KeyValueCache
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.teach import check, claim, hint, predict, solution

# %% [markdown]
"""
## Predict

SmolLM2 is a small language model: 30 layers, each with 3 heads of keys and values of 64 numbers. (A head keeps a key and a value of its own for each token.) Its matrices, all layers together, have 106,168,320 weights; in NVFP4 that is 4.5 bits each. The cache is in float32. After how many tokens does the cache take more room than all matrices?
"""

# %%
guess = None

layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
matrices = 30 * layer * FORMATS["nvfp4"].bits / 8
token = KeyValueCache(layers=30, batch=1, groups=3, capacity=1, head_dim=64).token_nbytes
predict(guess, int(matrices / token), "tokens")
claim("weights", 30 * layer, 106_168_320)
claim("layers, heads, numbers, bits", [30, 3, 64, 4.5], [30, 3, 64, 4.5], silent=True)
claim("bytes of a token", token, 46_080)
claim("tokens", int(matrices / token), 1_296)

# %% [markdown]
"""
After 1,296 tokens, a few pages of text: every token takes 46,080 bytes. And all of it is read again for each new one. In large models with long texts the cache is what fills the memory. So round it, too.

## Keys are not values

Keys have a habit that values do not have: some channels are large for every token, because each layer adds something to all keys alike. Here are 256 keys and values of 64 channels, with two loud channels in the keys, and attention as you know it.
"""

# %%
tokens, width = 256, 64
rng = np.random.default_rng(3)
loud = np.where(np.isin(np.arange(width), (7, 39)), 12.0, 0.0)
keys = (rng.standard_normal((tokens, width)) + loud).astype(np.float32)
values = rng.standard_normal((tokens, width)).astype(np.float32)
queries = (1.5 * rng.standard_normal((tokens, width))).astype(np.float32)


def attention(queries, keys, values):
    scores = queries @ keys.T / np.sqrt(width)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)  # nobody looks ahead
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ values


exact = attention(queries, keys, values)


def wrong(keys, values):
    return float(np.square(attention(queries, keys, values) - exact).sum() / np.square(exact).sum())


# %%
claim("tokens and channels", list(keys.shape), [256, 64], silent=True)
results = {}
for name in ("nvfp4-row-scaled", "mxfp4", "int4-row"):
    rounded = fake_quantize(keys, name), fake_quantize(values, name)
    results[name] = {"keys": wrong(rounded[0], values), "values": wrong(keys, rounded[1])}
claim("NVFP4: keys", results["nvfp4-row-scaled"]["keys"], 0.058, tol=0.0006)
claim("NVFP4: values", results["nvfp4-row-scaled"]["values"], 0.009, tol=0.0006)
claim("INT4 with a scale a row: keys", results["int4-row"]["keys"], 0.33, tol=0.005)
viz.bars(
    results,
    ylabel="share of the output that is wrong",
    form=".3f",
    title="Keys rounded, values rounded",
)

# %% [markdown]
"""
Rounding the values to NVFP4 makes 0.009 of the output wrong, rounding the keys 0.058; with INT4 and one scale a row it is 0.33 for keys. Two reasons: the loud channels make the scale coarse for their neighbors, and an error of a key is not averaged away as that of a value is, but passes through an exponential and moves attention to other tokens. How much is due to which? Take the loud channels away and look again:
"""

# %%
quiet = keys - loud.astype(np.float32)
exact_quiet = attention(queries, quiet, values)
off = attention(queries, fake_quantize(quiet, "nvfp4-row-scaled"), values) - exact_quiet
left = float(np.square(off).sum() / np.square(exact_quiet).sum())
claim("keys without loud channels: wrong", left, 0.014, tol=0.0006)

# %% [markdown]
"""
With quiet keys 0.014 is wrong, not much more than rounding the values costs. So here most of it was the loud channels.

## Exercise: take away what says nothing

In use, nobody knows the keys without their loud channels. But take away from every key the mean key. Then all scores of one query change by the same number, and the attention, whose weights are divided by their sum, does not change at all. What is left has no loud channels. `keys` is (tokens, channels).
"""


# %% exercise=19.1
def centred(keys):
    ### BEGIN SOLUTION
    raise NotImplementedError  # what all tokens have in common, channel by channel, goes
    ### END SOLUTION


# %% check=19.1
check("19.1", centred)

# %%
mean = keys.mean(axis=0)
claim("without rounding nothing changes", wrong(keys - mean, values), 0.0, tol=1e-9)
better = wrong(fake_quantize(keys - mean, "nvfp4-row-scaled"), values)
claim("NVFP4: keys without their mean", better, 0.012, tol=0.0006)
claim("INT4: the same", wrong(fake_quantize(keys - mean, "int4-row"), values), 0.014, tol=0.0006)

# %% [markdown]
"""
From 0.058 to 0.012 in NVFP4, as if the loud channels had never been there, and INT4 comes down to 0.014, by a subtraction that nobody can see in the result.

## Positions spoil it

A real model turns its keys before it keeps them: channels in pairs, by an angle that grows with the position, fast in the first pairs and slowly in the last. That is how attention knows how far away a token is. Two numbers that are large in every key now go round in a circle, and what all keys have in common is gone, or nearly. Keep the keys unturned then, and turn them when they are read?
"""

# %%
half = width // 2
angles = np.arange(tokens)[:, None] * 10_000.0 ** (-np.arange(half) / half)


def turn(x):
    """Pair i of token t is turned by t times the i-th speed."""
    a, b = x[:, :half], x[:, half:]
    turned = [a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)]
    return np.concatenate(turned, axis=1).astype(np.float32)


def round_rows(x):
    return fake_quantize(np.ascontiguousarray(x, np.float32), "nvfp4-row-scaled")


asked, kept = turn(queries), turn(keys)
right = attention(asked, kept, values)


# %%
def loses(stored):
    return float(np.square(attention(asked, stored, values) - right).sum() / np.square(right).sum())


middle = kept.mean(axis=0)
ways = {
    "turned": loses(round_rows(kept)),
    "turned, less the mean": loses(round_rows(kept - middle)),
    "unturned, less the mean": loses(turn(round_rows(keys - mean) + mean)),
}
length = float(np.linalg.norm(middle) / np.linalg.norm(mean))
claim("length of the mean after turning", length, 0.06, tol=0.005)
claim("turned, as they are", ways["turned"], 0.048, tol=0.0006)
claim("turned, less the mean", ways["turned, less the mean"], 0.045, tol=0.0006)
claim("unturned, less the mean", ways["unturned, less the mean"], 0.011, tol=0.0006)
viz.bars(
    {name: {"wrong": value} for name, value in ways.items()},
    ylabel="share of the output that is wrong",
    form=".3f",
    title="Where the mean is taken away",
)

# %% [markdown]
"""
Turning leaves 0.06 of the mean's length, so taking it away helps hardly: 0.048 becomes 0.045. Kept unturned it is 0.011. The price is to turn all keys again each time that they are read. Which of the two a program does is a choice (arXiv 2401.18079 keeps them unturned).

## Another remedy: let tokens share

The loud channel is loud for all tokens. So let the numbers of *one channel* share a scale, over a group of tokens, and not those of one token. Then the loud numbers are among themselves. For values it stays as it was. (arXiv 2402.02750 does this.) There is a catch: a group along tokens is complete only when all of its tokens have come, so the newest ones wait in full precision.

## Exercise: groups along tokens

`round_rows` rounds a matrix, with neighbors *in a row* sharing a scale. It cuts each row into groups of `size` by itself. Use it to round `keys` (tokens, channels) so that neighbors *in a channel* share: of the tokens, all that fill groups of `size`; what remains at the end stays as it is. Return keys of the same shape.
"""


# %% exercise=19.2
def rounded_along_tokens(keys, size, round_rows):
    ### BEGIN SOLUTION
    raise NotImplementedError  # how many tokens fill groups? and .T turns rows into columns
    ### END SOLUTION


# %% check=19.2
check("19.2", rounded_along_tokens)


# %%
def shared(x, name, along):
    rows = x if along == "a token shares" else x.T
    back = fake_quantize(np.ascontiguousarray(rows), name)
    return back if along == "a token shares" else back.T


grid = {}
for name in ("int4-g32", "int4-e4m3", "mxfp4"):
    grid[name] = {}
    for along in ("a token shares", "a channel shares"):
        grid[name][f"keys: {along}"] = wrong(shared(keys, name, along), values)
        grid[name][f"values: {along}"] = wrong(keys, shared(values, name, along))
claim("INT4, 32 share: keys, a token", grid["int4-g32"]["keys: a token shares"], 0.302, tol=0.001)
claim("and a channel", grid["int4-g32"]["keys: a channel shares"], 0.027, tol=0.0006)
claim("32 share", FORMATS["int4-g32"].block, 32, silent=True)
viz.bars(grid, ylabel="share of the output that is wrong", form=".2f", title="Who shares a scale")

# %% [markdown]
"""
With INT4 and 32 numbers to a scale the keys lose 0.302 where a token shares, and 0.027 where a channel does; for values it makes no difference. It is the same lesson as ever: put loud numbers together with loud ones.

## In a model

Here is a small stand-in of a language model with random weights, made eight times larger so that they have something to say, and whose layers add something large to three channels of every key. It reads four texts of 64 tokens with four caches; the measure is the divergence of what it expects next from what it expects with the cache in float32.
"""

# %%
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, attention_bias=True,
)  # fmt: skip
model = Llama(config, seed=0)
for parameter in model.parameters():
    if parameter.ndim == 2:
        parameter.assign(parameter.data * 8)
for layer in model.model.layers:
    bias = layer.self_attn.k_proj.bias
    bias.assign(np.where(np.isin(np.arange(32), (7, 23, 25)), np.float32(12), bias.data))
texts = np.random.default_rng(1).integers(0, 64, (4, 64))


def expects(keys=None, values=None):
    """Logarithms of the probabilities of every next token."""
    with no_grad():
        scores = model(texts, model.cache(4, 64, keys=keys, values=values)).data.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


# %%
claim("tokens of a text", texts.shape[1], 64, silent=True)
plain = expects()
divergence = {}
for name in ("nvfp4", "mxfp4", "int4-row"):
    pair = expects(keys=name), expects(values=name)
    apart = [float((np.exp(plain) * (plain - other)).sum(axis=-1).mean()) for other in pair]
    divergence[name] = {"keys": apart[0], "values": apart[1]}
claim("NVFP4: keys", divergence["nvfp4"]["keys"], 0.21, tol=0.005)
claim("NVFP4: values", divergence["nvfp4"]["values"], 0.027, tol=0.001)
viz.bars(divergence, ylabel="divergence", form=".3f", title="A model with such a cache")

# %% [markdown]
"""
Keys in NVFP4 move what the model expects by 0.21, values by 0.027: the same order as before, through all layers.

## How much room does it save?

The cache of this project keeps keys and values in whatever format you name, apart. With the sizes of SmolLM2:
"""

# %%
room = {}
for name, (k, v) in {"float32": (None, None), "values": (None, "nvfp4"), "both": ("nvfp4", "nvfp4")}.items():
    room[name] = KeyValueCache(30, 1, 3, 1, 64, keys=k, values=v).token_nbytes
    print(f"{name:8} {room[name]:6,} bytes a token")
claim("values in NVFP4: bytes a token", room["values"], 26_640)
claim("both in NVFP4", room["both"], 7_200)

# %% [markdown]
"""
From 46,080 bytes a token to 7,200, and as much less to read for every word. Whoever wants to be careful rounds the values and leaves the keys: 26,640. `vbw generate --kv-values nvfp4` writes with such a cache.

## Where the emulator is not the hardware

A cache on a graphics processor is stored packed and is decoded while attention reads it. Here every vector is rounded and then held decoded, which has the same values and takes more room; the bytes above are those that the packed ones would take.

## What you can say now

Why the cache outgrows the model; that keys mind rounding more than values do, because some channels are loud and because keys decide where attention goes; what the mean is good for and what turning does to it; and who should share a scale in which of the two.
"""

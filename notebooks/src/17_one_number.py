# ---
# title: One number that holds up a model
# minutes: 35
# seconds: 15
# needs: 05, 09, 14
# question: Inside a language model one number is hundreds of times larger than all around it. Who pays for it in four bits, and what does a model keep of what it read?
# ---

# %% [markdown]
"""
Whoever looks into a trained language model finds a few numbers that do not belong there: at the first word of the text, in one channel, a value a thousand times larger than what is usual. They are called **massive activations** (arXiv 2402.17762). You will find one, see in detail who pays when its block is rounded, and take it away. Then you look at what a model keeps of every word that it has read, its keys and values, and find that the two do not mind rounding alike.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import fake_quantize
from vbw_np.models.key_value_cache import KeyValueCache
from vbw_np.models.llama import Llama, LlamaConfig
from vbw_np.ptq import activations_at, explain_activation, massive, without
from vbw_np.teach import check, claim, hint, predict, solution

config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
model = Llama(config, seed=0)
for parameter in model.parameters():
    if parameter.ndim == 2:
        parameter.assign(parameter.data * 8)

# %% [markdown]
"""
This model is a small stand-in with random weights, made like the large ones; it needs no file. What training does in a large model we do by hand: the first token alone puts something into one channel of the stream, and one row of the first feed-forward layer answers to just that channel.
"""

# %%
table = model.model.embed_tokens.weight.data.copy()
table[:, 5] = 0
table[0, 5] = 30
model.model.embed_tokens.weight.assign(table)
for layer in (model.model.layers[0].mlp.gate_proj, model.model.layers[0].mlp.up_proj):
    rows = layer.weight.data.copy()
    rows[77] = 0
    rows[77, 5] = 6
    layer.weight.assign(rows)
ids = np.concatenate([[0], np.random.default_rng(1).integers(1, 64, 47)])

# %% [markdown]
"""
## Predict

The largest of the inputs of that layer's last matrix stands at the first token. How many times the usual size will it be? "Usual" is the median over all tokens of the largest magnitude of each.
"""

# %%
guess = None

found = massive(model, ids)
first = found[0]
predict(guess, round(first.times), "times the usual")
claim("the largest number is 325 times the usual", first.times, 325, tol=1)
for each in found[:5]:
    print(f"{each.value:9.1f}  {each.times:6.1f} times  token {each.token}  {each.place}")

# %% [markdown]
"""
325 times, and two more places that it makes large: the layer writes it into the stream that all later layers read, where it stays. In the list, `model.layers.0` is what leaves the first block.

## Exercise: how unusual

Write the measure yourself: of an array `x` (tokens, channels) the largest magnitude of all, divided by the median over tokens of each token's largest magnitude.
"""


# %% exercise=17.1
def times_usual(x):
    ### BEGIN SOLUTION
    raise NotImplementedError  # np.abs, a maximum over channels, and np.median
    ### END SOLUTION


# %% check=17.1
check("17.1", times_usual)

# %% [markdown]
"""
## Who pays

Now the inputs of that layer are rounded to NVFP4, each token under a scale of its own. Follow the one number from the largest of its block to its bits, and read the last lines: what its block lost.
"""

# %%
inputs = activations_at(model, ids, first.place)
story = explain_activation(inputs, first, "nvfp4-row-scaled")
claim("all 15 others of its block become zero", story.data["became_zero"], 15)
story

# %%
lost = {}
for name in ("nvfp4-row-scaled", "mxfp4", "int4-row"):
    wrong = np.square(fake_quantize(inputs, name) - inputs).sum(axis=1) / np.square(inputs).sum(axis=1)
    zeros = (fake_quantize(inputs, name)[0] == 0).mean()
    lost[name] = {"zeros in the first token": float(zeros)}
    print(f"{name:17} first token: {wrong[0]:.1e} wrong, {zeros:.0%} zeros; median token {np.median(wrong):.4f}")
percent = 100 * lost["int4-row"]["zeros in the first token"]
claim("INT4 with a scale a row: percent of the first token that are zeros", percent, 99, tol=0.5)
viz.bars(lost, ylabel="share", form=".2f", title="What the large number turns into zeros")

# %% [markdown]
"""
The number itself comes through well. Those that share its scale pay: in NVFP4 fifteen neighbors, in MXFP4 more, and in INT4 with a scale a row the whole token, of which 99% become zero. Measured in squares, almost nothing is wrong with the first token, because the one large square drowns everything else. So beware of an average of squares here.

## Take it away

Is the number important, or an accident? Set this one number to zero, change nothing else, and compare what the model expects next at all tokens. The measure is the **divergence** of two distributions (called KL): nothing where they are equal, one and more where they have little in common.
"""

# %%
gone = without(model, ids, first)
claim("without the number the distributions are 3.7 apart", gone.kl, 3.7, tol=0.05)
print(f"divergence {gone.kl:.2f}")

# %% [markdown]
"""
A divergence of 3.7: the model without this number is another model. In a trained one it serves as a fixed point that heads of attention look at when they have nothing to look for, and the same happens, though other places make up for a part of it.

## Keys are not values

A model that writes keeps a key and a value of every token that it has read, in every layer; that store is the **KV cache**. The key decides how much attention a token gets, the value is what it says. Keys have a habit that values do not have: some channels are large for every token. Here are both, with two loud channels in the keys.
"""

# %%
tokens, width = 256, 64
rng = np.random.default_rng(3)
loud = np.where(np.isin(np.arange(width), (7, 39)), 12.0, 0.0)
keys = (rng.standard_normal((tokens, width)) + loud).astype(np.float32)
values = rng.standard_normal((tokens, width)).astype(np.float32)
queries = (1.5 * rng.standard_normal((tokens, width))).astype(np.float32)


def attention(keys, values):
    scores = queries @ keys.T / np.sqrt(width)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)  # nobody looks ahead
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ values


exact = attention(keys, values)


def wrong(keys, values):
    return float(np.square(attention(keys, values) - exact).sum() / np.square(exact).sum())


# %%
results = {}
for name in ("nvfp4-row-scaled", "mxfp4", "int4-row"):
    rounded = fake_quantize(keys, name), fake_quantize(values, name)
    results[name] = {"keys": wrong(rounded[0], values), "values": wrong(keys, rounded[1])}
    print(f"{name:17} keys {results[name]['keys']:.3f}   values {results[name]['values']:.3f}")
claim("NVFP4: keys", results["nvfp4-row-scaled"]["keys"], 0.058, tol=0.0006)
claim("NVFP4: values", results["nvfp4-row-scaled"]["values"], 0.009, tol=0.0006)
claim("INT4 with a scale a row: keys", results["int4-row"]["keys"], 0.33, tol=0.005)
viz.bars(results, ylabel="share of the output that is wrong", form=".3f", title="Keys rounded, values rounded")

# %% [markdown]
"""
Rounding the values to NVFP4 makes 0.009 of the output wrong, rounding the keys 0.058; with INT4 and one scale a row it is 0.33 for keys. Two reasons: the loud channels make the scale coarse for their neighbors, and an error of a key is not averaged away as that of a value is, but passes through an exponential and moves attention to other tokens.

## Exercise: take away what says nothing

Take away from every key the mean key. Then all scores of one query change by the same number, and the attention, whose weights are divided by their sum, does not change at all. What is left has no loud channels. `keys` is (tokens, channels).
"""


# %% exercise=17.2
def centred(keys):
    ### BEGIN SOLUTION
    raise NotImplementedError  # what all tokens have in common, channel by channel, goes
    ### END SOLUTION


# %% check=17.2
check("17.2", centred)

# %%
mean = keys.mean(axis=0)
claim("without rounding nothing changes", wrong(keys - mean, values), 0.0, tol=1e-9)
better = wrong(fake_quantize(keys - mean, "nvfp4-row-scaled"), values)
claim("NVFP4: keys without their mean", better, 0.012, tol=0.0006)
claim("INT4: the same", wrong(fake_quantize(keys - mean, "int4-row"), values), 0.014, tol=0.0006)
print(f"NVFP4 {results['nvfp4-row-scaled']['keys']:.3f}, without the mean {better:.3f}")

# %% [markdown]
"""
From 0.058 to 0.012 in NVFP4, and INT4 comes down to 0.014, by a subtraction that nobody can see in the result. In a real model positions turn the keys, and the mean of what was turned is small in the channels that turn fast; so it helps there less than here.

## The KV cache in four bits

How much room does it save? The next cell asks the cache of this project, with the sizes of SmolLM2: thirty layers with three heads of keys and values, each of sixty-four numbers.
"""

# %%
room = {}
for name, (k, v) in {"float32": (None, None), "values": (None, "nvfp4"), "both": ("nvfp4", "nvfp4")}.items():
    room[name] = KeyValueCache(30, 1, 3, 1, 64, keys=k, values=v).token_nbytes
    print(f"{name:8} {room[name]:6,} bytes a token")
claim("float32: bytes a token", room["float32"], 46_080)
claim("both in NVFP4", room["both"], 7_200)

# %% [markdown]
"""
From 46,080 bytes a token to 7,200, and since writing a word reads the whole cache, also so much less to read. Whoever wants to be careful rounds the values and leaves the keys.

## Real figures

`vbw explain-activation model.gguf --delete` does the first half of this notebook to a real model, and `vbw generate --kv-values nvfp4` writes with such a cache. [docs/language-model.md](../docs/language-model.md) says what was found in SmolLM2. Here are its lines about the number:
"""

# %%
page = None if root is None else root / "docs" / "language-model.md"
if page is not None and page.is_file():
    text = page.read_text("utf-8")
    start = text.index("finds the numbers inside a model")
    print(text[start : text.index("## ", start)].strip())
else:
    print("docs/language-model.md is not here; it is in the checkout of the project")

# %% [markdown]
"""
## Where the emulator is not the hardware

A cache on a graphics processor is stored packed and is decoded while attention reads it. Here every vector is rounded and then held decoded, which has the same values and takes more room; the bytes above are those that the packed ones would take.

## What you can say now

A massive activation comes through four bits unharmed, and its neighbors under the same scale pay; the smaller the block, the fewer they are. Squares hide it. Keys mind rounding more than values do, because they decide where attention goes, and what all keys have in common can be taken away for nothing.
"""

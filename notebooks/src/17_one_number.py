# ---
# title: One number that holds up a model
# needs: 05, 09, 14
# question: Inside a language model one number is hundreds of times larger than all around it. Who pays for it in four bits, and what happens without it?
# ---

# %% [markdown]
"""
Whoever looks into a trained language model finds a few numbers that do not belong there: at the first word of the text, in one channel, a value a thousand times larger than what is usual. They are called **massive activations** (arXiv 2402.17762). You will find one, see in detail who pays when its block is rounded, and take it away.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import fake_quantize
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
This model is a small stand-in with random weights, made like the large ones; it needs no file. (Its weights are made eight times larger, so that its layers have something to say.) What training does in a large model we do by hand: the first token alone puts something into one channel of the *stream*, and one row of the first *feed-forward* layer answers to just that channel. (The stream: a row for every token, to which layer after layer adds its result. A model of this kind is a pile of *blocks*, each of them attention and then a feed-forward layer, which works on every token by itself: two matrices, `gate_proj` and `up_proj`, make many numbers of it, and `down_proj` takes them back.)
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
    zeros = 100 * (fake_quantize(inputs, name) == 0).mean(axis=1)
    lost[name] = {"the first token": float(zeros[0]), "the median token": float(np.median(zeros))}
    print(f"{name:17} wrong in squares: first token {wrong[0]:.1e}, median token {np.median(wrong):.1e}")
first_token, others = ([lost[name][which] for name in lost] for which in lost["mxfp4"])
claim("first token, percent zeros: NVFP4, MXFP4, INT4 with a scale a row", first_token, [36, 51, 99], tol=0.5)
claim("median token", others, [31, 41, 70], tol=0.7)
viz.bars(lost, ylabel="percent that become zero", form=".0f", title="What the large number turns into zeros")

# %% [markdown]
"""
The number itself comes through well. Those that share its scale pay: in NVFP4 fifteen neighbors, in MXFP4 thirty-one, and in INT4 with a scale a row the whole token. Many numbers here are so small that they become zero in any case: 31 percent of a median token in NVFP4, 41 in MXFP4, 70 in INT4. With the large number they are 36, 51 and 99. Measured in squares, almost nothing is wrong with the first token, because the one large square drowns everything else. So beware of an average of squares here.

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

## Real figures

`vbw explain-activation model.gguf --delete` does to a real model what you did here. [docs/language-model.md](../docs/language-model.md) says what was found in SmolLM2. Here are its lines about the number ("it"):
"""

# %%
page = None if root is None else root / "docs" / "language-model.md"
if page is not None and page.is_file():
    text = page.read_text("utf-8")
    start = text.index("In SmolLM2-135M it is made")
    print(" ".join(text[start : text.index("In Python:", start)].split()))
else:
    print("docs/language-model.md is not here; it is in the checkout of the project")

# %% [markdown]
"""
## Where the emulator is not the hardware

What is rounded here is what a graphics processor would round, to the same bits. It would make the scale of each token while it computes, in the same program that makes the inputs; here they are rounded in one go when the layer is done.

## What you can say now

A massive activation comes through four bits unharmed, and its neighbors under the same scale pay; the smaller the block, the fewer they are. Squares hide it. And the number is no accident: without it the model says something else.
"""

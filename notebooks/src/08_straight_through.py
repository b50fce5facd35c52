# ---
# title: Straight through, and by chance
# needs: 01, 05
# question: Rounding has slope zero. How can anything behind it learn?
# ---

# %% [markdown]
"""
Nudge a number that is about to be rounded: almost always, nothing changes. So the honest gradient of rounding is zero, and a model whose weights are rounded would
never learn. There are two ways out, and real training uses both.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.device import place
from vbw_np.engine import F, Tensor, nn, optim
from vbw_np.formats import E2M1, fake_quantize, quantize, random_bits, sqnr_db
from vbw_np.teach import check, claim, float_bits, hint, predict, solution

f32 = np.float32


def nearest(x):
    return E2M1.decode(E2M1.encode(np.asarray(x, f32)))


# %% [markdown]
"""
## Predict

A weight is stored as an E2M1 value and stands at 1. Two thousand times, learning adds 0.01 to it, and the sum is stored again, rounded to the nearest value. Where does it stand in the end?
"""

# %%
guess = None

w = f32(1.0)
for update in range(2000):
    w = nearest([w + f32(0.01)])[0]
predict(guess, float(w), "the weight")
claim("after 2,000 updates", update + 1, 2000)
claim("each of 0.01", float(np.round(f32(0.01), 6)), 0.01, tol=1e-6)
claim("it still stands at 1", float(w), 1)

# %% [markdown]
"""
Still at 1. Every single update of 0.01 was rounded away, 2,000 times. (The sum of all of them is twenty.)

## First way out: keep a master

Keep every weight *also* in float32. That copy is the **master weight**. Updates go to the master, where nothing is too small; for computing, the master is rounded to codes, fresh each time. And the gradient? Pretend that rounding
was not there: hand the gradient of the rounded weight to the master unchanged. That is the **straight-through estimator**. It is a lie, and it works because it lies in the right direction.

## Manipulate

One weight, to be learned: what comes out is the weight times the data, what was wanted is 2.6 times the data, and E2M1 cannot represent 2.6. Watch the master and the stored value in the picture. Change `true_slope` and `lr` (how far each step goes).
"""

# %%
true_slope, lr = 2.6, 0.05


def learn(true_slope, lr, steps=60):
    data = np.random.default_rng(0).normal(size=200).astype(f32)
    target = true_slope * data
    master, masters, stored = f32(0.3), [], []
    for _ in range(steps):
        rounded = nearest([master])[0]
        # the slope of the mean squared error, for the rounded weight ...
        gradient = 2 * np.mean((rounded * data - target) * data)
        # ... is handed straight through to the master
        master = f32(master - lr * gradient)
        masters.append(float(master)), stored.append(float(rounded))
    return masters, stored


masters, stored = learn(true_slope, lr)
viz.curves(
    {"master weight": masters, "stored value": stored},
    xlabel="step",
    ylabel="value",
    title="The master moves smoothly, the stored value jumps",
)

# %%
masters, stored = learn(true_slope=2.6, lr=0.05)  # as they came
last = stored[-20:]
claim(
    "the stored value ends on the neighbors of the true slope, 2 and 3",
    sorted({*last}),
    [2, 3],
)
claim("the master hovers at the edge between them, 2.5", masters[-1], 2.5, tol=0.1)
claim(
    "and the mean of the stored value over the last steps is 2.6",
    np.mean(last),
    2.6,
    tol=0.01,
)

# %% [markdown]
"""
The stored value cannot be 2.6, so it jumps between 2 and 3, and the master hovers at the edge of their bins, 2.5. It spends just so much time on either side that the stored value is 2.6 on average. That is what the lie is good for.

## In the library

The device does the same for whole layers: on the way forward the product is computed with the decoded weight, and on the way back the gradient goes to the master, every entry of it. The cell compares it with the gradient by hand: for rows `x`, a decoded weight `w` and the mean squared
error of `x @ w.T`, that is `2 * (x @ w.T - wanted).T @ x`, divided by the number of outputs.
"""

# %%
rng = np.random.default_rng(0)
layer = nn.Sequential(nn.Linear(256, 64, bias=False, rng=0))
inputs, wanted = (
    rng.normal(size=(32, 256)).astype(f32),
    rng.normal(size=(32, 64)).astype(f32),
)


def weight_gradient(recipe):
    device = place(layer, recipe)
    layer.zero_grad()
    ((layer(Tensor(inputs)) - wanted) ** 2).mean().backward()
    device.release()
    return layer[0].weight.grad


straight = weight_gradient("nvfp4")
decoded = fake_quantize(layer[0].weight.data, "nvfp4")
by_hand = 2 * (inputs @ decoded.T - wanted).T @ inputs / wanted.size
claim("the gradient is that of the decoded weight", straight, by_hand, tol=1e-6)
claim("every weight gets one: 100 %", 100 * (straight != 0).mean(), 100)

# %% [markdown]
"""
## Exercise: straight through, in one line

A linear layer computed `x @ q.T` with the rounded weight `q`; now the gradient `g` of that output has arrived. Return two things: the gradient of `x`, and the gradient that the master weight gets, straight through.
"""


# %% exercise=08.1
def straight_through(g, x, q):
    ### BEGIN SOLUTION
    raise NotImplementedError  # return (gradient of x, gradient of the master)
    ### END SOLUTION


# %% check=08.1
check("08.1", straight_through)

# %% [markdown]
"""
All 100 percent of the weights are told in which direction to move. The program behind the original report did it differently: its gradient reached, in each row, only the one weight that set the row's scale. The library can do that too:
"""

# %%
import dataclasses

from vbw_np.device import RECIPES

original = dataclasses.replace(
    RECIPES["seed-v6"], name="as the original", gradient_rule="row-max"
)
starved = weight_gradient(original)
share = 100 * (starved != 0).mean()
claim("one weight in 256", round(1 / (share / 100)), 256)
claim("that is 0.39 %", share, 0.39, tol=0.005)

# %% [markdown]
"""
0.39 percent: one weight in 256. Nothing crashes when the others stand still; it takes a count to see it. What it does to learning you will measure in the notebook on training.

## Exercise: know when not to

A number beyond the largest value saturates: pushing it further out changes nothing, however far. Many straight-through estimators therefore let the gradient through only where the number lies within reach. Write that rule: given the gradient `g`, the numbers `q` in units of their
scale (two arrays of one shape) and the `limit`, return `g` where the size of `q` is at most `limit`, and zero elsewhere.
"""


# %% exercise=08.2
def clipped_straight_through(g, q, limit):
    ### BEGIN SOLUTION
    raise NotImplementedError  # a mask times g
    ### END SOLUTION


# %% check=08.2
check("08.2", clipped_straight_through)

# %% [markdown]
"""
## Second way out: roll a die

The number 1.1 lies between the values 1 and 1.5, one fifth of the way up. Round it up with probability one fifth, else down. That is **stochastic rounding**: the chance to go up is how far along the way the number lies. Single results are worse than nearest. But the *average* is right, 1.1.
A method whose average is right is called **unbiased**. (`random_bits` makes one random number for every entry, always the same ones for the same `seed` and `stream`.)
"""

# %%
copies = np.full(100_000, 1.1, f32)
rolled = E2M1.decode(
    E2M1.encode(copies, "stochastic", random=random_bits(copies.shape, seed=1))
)
print(np.unique(rolled, return_counts=True))
claim("1.1 goes to 1 or to 1.5", np.unique(rolled), [1, 1.5])
claim("and is 1.1 on average", float(rolled.mean(dtype=np.float64)), 1.1, tol=0.005)

# %% [markdown]
"""
The same experiment as at the beginning, with a die: 4,000 weights start at 1 and get fifty updates of 0.01.
"""

# %%
w = np.ones(4000, f32)
for step in range(50):
    w = E2M1.decode(
        E2M1.encode(
            w + f32(0.01), "stochastic", random=random_bits(w.shape, seed=0, stream=step)
        )
    )
print("mean", w.mean(), "values", np.unique(w))
claim("4,000 weights", len(w), 4000)
claim("their mean moved to 1.5", float(w.mean(dtype=np.float64)), 1.5, tol=0.02)

# %% [markdown]
"""
The mean is at 1.5, where it belongs, though no weight ever moved by 0.01. (Some went far, the luckiest to the very end, and most stayed where they were: only the average is right.)

## Picture

Nearest rounding is one staircase. Stochastic rounding is a different staircase for every random number: when the die shows a quarter, all numbers that are more than a quarter of the way along go up. The average of all these staircases is the diagonal, where nothing is rounded.
"""


# %%
def with_random(word):
    return lambda x: E2M1.decode(
        E2M1.encode(x, "stochastic", random=np.full(np.shape(x), word, np.uint32))
    )


dice = np.linspace(0, 2**32 - 1, 65)


def mean_of_many(x):
    return np.mean([with_random(int(word))(x) for word in dice], axis=0)


viz.staircase(
    {
        "nearest": nearest,
        "die shows one quarter": with_random(2**30),
        "die shows three quarters": with_random(3 * 2**30),
        "mean of 65 dice": mean_of_many,
    },
    0,
    6.2,
    points=401,
    title="Nearest against stochastic",
)

# %%
claim("65 dice", len(dice), 65)

# %% [markdown]
"""
## What it costs, and what it buys

One stochastic rounding is noisier than nearest. But errors that are independent and unbiased average out: four times as many, half the error (six dB). Nearest rounding gives the same every time, so its average is no better. Below, the same matrix is rounded by chance again and again, and the results are averaged.
(`nvfp4-headroom` is NVFP4 with slightly larger scales, so that nothing saturates: what is cut off is lost for the average too.)
"""

# %%
x = np.random.default_rng(0).normal(size=(128, 256)).astype(f32)
total, ladder = np.zeros(x.shape), {}
for n in range(64):
    total += quantize(
        x, "nvfp4-headroom", ties="stochastic", seed=1, stream=n, measure=False
    ).dequantize()
    if n + 1 in (1, 4, 16, 64):
        ladder[n + 1] = sqnr_db(x, (total / (n + 1)).astype(f32))
plain = sqnr_db(x, fake_quantize(x, "nvfp4"))
print({k: round(v, 1) for k, v in ladder.items()}, "nearest", round(plain, 1))
claim("1, 4, 16, 64 draws", list(ladder), [1, 4, 16, 64])
claim("dB", list(ladder.values()), [16.3, 22.4, 28.4, 34.4], tol=0.15)
claim("nearest: 20.5", plain, 20.5, tol=0.1)

# %% [markdown]
"""
One draw gives 16.3 dB, worse than nearest's 20.5. The mean of 64 draws gives 34.4. In training a weight is used as it is in every product: there the single error counts. But it is moved by the sum of thousands of gradients: there the average counts. So recipes round
weights to nearest and *gradients* by chance.

## Exercise: a die with few faces

Real hardware spends few random bits. With `k` bits the die shows a whole number `u` from 0 to `2**k - 1`, every one with the same chance. To round `x` to a whole number, a first idea is `floor(x + u / 2**k)`. But with one bit, `u / 2**k` is nought or a half, a quarter on average, and it should be a half: the results are too low.
(It is the same rule, seen from the other side: the number goes up if what it has beyond the whole and the die reach one together.) Write the version whose average is right: move the die up by half the distance between two faces. (The `u` is given; return the rounded number.)
"""


# %% exercise=08.3
def stochastic_floor(x, u, k):
    ### BEGIN SOLUTION
    raise NotImplementedError  # np.floor of x plus the die that was moved up
    ### END SOLUTION


# %% check=08.3
check("08.3", stochastic_floor)

# %%
grid = np.linspace(0, 1, 4096, endpoint=False)
bias = {
    k: float(np.mean([np.floor(grid + u / 2**k) - grid for u in range(2**k)]))
    for k in (1, 2, 4)
}
shifted = {
    k: float(np.mean([np.floor(grid + (u + 0.5) / 2**k) - grid for u in range(2**k)]))
    for k in (1, 2, 4)
}
print("plain", bias, "\nshifted", shifted)
claim("1, 2 and 4 bits", list(bias), [1, 2, 4])
claim(
    "without the shift, the average is low by 0.25, 0.125, 0.03",
    [-v for v in bias.values()],
    [0.25, 0.125, 0.03],
    tol=0.002,
)
claim("0.0 with it", max(abs(v) for v in shifted.values()), 0, tol=0.001)

# %% [markdown]
"""
With 1, 2 or 4 random bits, the plain die is low by 0.25, 0.125 and 0.03 of a step on average. One such error looks harmless; a thousand in the same direction are not.

## Where the emulator is not the hardware

The processor's instruction uses eight random bits an element; the library has that mode by name (`stochastic-8`), with an average that is a little off, as the hardware's is. By default the library uses twenty-four bits from a counter: the same element gets the same die, however many threads run. No hardware
promises that.

## What you can say now

A master weight collects what rounding would swallow; the straight-through estimator tells it where to go; stochastic rounding is worse once and right on average. That is why weights are rounded to nearest and gradients by chance.
"""

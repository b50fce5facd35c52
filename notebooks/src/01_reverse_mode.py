# ---
# title: Reverse mode, from one value
# needs: 00
# question: How does a model find out in which direction each of its weights should move?
# ---

# %% [markdown]
"""
To learn, a model needs one number that says how wrong it was, and then, for each weight, an answer to: *if I moved this
weight a little, how much would that number change?* The answer for one weight is a slope: the change that comes out, divided
by the change that went in. All the slopes together are the **gradient**. This notebook computes gradients exactly, in one walk
backwards. Everything later in the course stands on it.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.engine import Tensor, autograd
from vbw_np.teach import check, claim, hint, predict, solution

# %% [markdown]
"""
## Predict

`a = 2`, `b = -3`, `c = 10`, and the output is `(a * b + c) * a`. Nudge `a` upward by one thousandth. By how many
thousandths does the output move? Guess before you run: `a` enters twice.
"""

# %%
guess = None


def f(a, b, c):
    return (a * b + c) * a


moved = (f(2.001, -3.0, 10.0) - f(2.0, -3.0, 10.0)) / 0.001
predict(guess, round(moved, 2), "thousandths")
claim("the nudge says: about -2", moved, -2, tol=0.01)

# %% [markdown]
"""
The nudge says about -2: the output moves the other way, and twice as far. One nudge answered for one number. Claude4 has
millions of weights, and nudging each in turn would take millions of runs. **Reverse mode** gets *all* slopes from one run and
one walk back.

## Manipulate

A **tensor** here is a NumPy array that remembers how it was made; `requires_grad=True` says that you want its slope. Compute
with tensors as usual; then call `backward()` on the result and look at `.grad`. Change the numbers, change the formula, and
check one of the slopes with a nudge of your own.
"""

# %%
a = Tensor(np.float64(2.0), requires_grad=True)
b = Tensor(np.float64(-3.0), requires_grad=True)
c = Tensor(np.float64(10.0), requires_grad=True)
out = f(a, b, c)
print("output:", out)
out.backward()
print("slopes: a", a.grad, " b", b.grad, " c", c.grad)

# %%
# the numbers as they came
three = [Tensor(np.float64(v), requires_grad=True) for v in (2, -3, 10)]
f(*three).backward()
claim("slopes of a, b, c", [float(t.grad) for t in three], [-2, 4, 2])

# %% [markdown]
"""
For the numbers as they came, the slopes are -2, 4 and 2: the first is what the nudge said.

## Picture

While you compute, the library writes down every operation. That list is called the **tape**. Each entry knows which tensors
it came from; a tensor that you made yourself, which came from nowhere, is a **leaf**. In the picture leaves have a solid edge
and operations a dashed one; `mul` is a product, `add` a sum; the arrows say what each is made from. Read the values from left
to right, then the gradients (`grad`) from right to left.
"""

# %%
viz.tape(f, a=2.0, b=-3.0, c=10.0)

# %% [markdown]
"""
The walk back starts at the output, whose slope is one: it moves as far as itself. Two rules do the rest.

*Along a path, slopes are multiplied.* The output is the sum (`add`) times `a`, and `a` is 2: so it moves twice as fast as the
sum. The sum moves `b` times as fast as the `a` in the first product. Then through this path the output moves two times `b`
times as fast as `a`. This is called the **chain rule**, and it is all the calculus that you need.

*Where paths meet, they are added.* Follow `a`. It is used twice: once by the first `mul`, once by the last. The last product
sends back 4, the value of its other factor. What comes through the sum and the first product is -6, two times `b`. Their sum
is -2, as the nudge said. Forget the sum, and keep only what came last, and you have the most common bug of home-made gradients.
The cell below makes it on purpose, for `x + x`: there `x` is used twice, and the true slope is two.
"""

# %%
direct = 2.0 * -3.0 + 10.0  # what the last product sends to a: its other factor, a * b + c
around = 2.0 * -3.0  # what comes through the sum and the first product: a, times b
claim("two paths into a", [direct, around, direct + around], [4, -6, -2])


def slope_of_x_plus_x(accumulate):
    """By hand: two uses of x, each of which sends back 1."""
    grad = 0.0
    for use in range(2):
        grad = grad + 1.0 if accumulate else 1.0
    return grad


claim(
    "with = instead of += the gradient of x + x is wrong by a factor of exactly 2",
    slope_of_x_plus_x(accumulate=True) / slope_of_x_plus_x(accumulate=False),
    2,
)

# %% [markdown]
"""
## One operation, one rule

How does an entry of the tape know what to send back? Each operation is declared together with its **vjp**, a function that
takes the gradient of its output (`g`) and returns the gradients of its inputs. (The letters stand for *vector-Jacobian product*;
you can read it as "what to send back".) Here is how the library declares one, word for word: `tanh`, a smooth step that takes
any number into the range from minus one to one. (The line with `@` enters it in the library's list of operations, with inputs to try it on.) First comes the way forward, then, as a `lambda`, the way back: its slope is
`1 - y * y`, and by the chain rule `g` is multiplied by it.
"""

# %%
import inspect

print(inspect.getsource(autograd.ops.tanh.reference))

# %% [markdown]
"""
## Exercise: what a product sends back

`out = x * y`. Given the gradient `g` that arrives at `out`, return what goes on to `x` and to `y`, in this order.
"""


# %% exercise=01.1
def mul_vjp(g, x, y):
    ### BEGIN SOLUTION
    raise NotImplementedError  # return (gradient of x, gradient of y)
    ### END SOLUTION


# %% check=01.1
check("01.1", mul_vjp)

# %% [markdown]
"""
## Exercise: undo the stretching

NumPy lets you add a row to a matrix; the row is silently repeated for every row of the matrix. That is **broadcasting**.
On the way back, each copy sends a gradient, and again they must be added: if a row of shape `(4,)` was repeated for a matrix
of shape `(3, 4)`, the gradient `g` that arrives has shape `(3, 4)`, and its sum over the first axis is the row's. Write
`unbroadcast(g, shape)`: sum `g` until it has the `shape` that the input had before it was repeated. New axes appear in front;
an axis of length one may have been stretched as well, as when a column `(3, 1)` meets a matrix.
"""


# %% exercise=01.2
def unbroadcast(g, shape):
    ### BEGIN SOLUTION
    raise NotImplementedError  # sum over new axes in front, then over axes that were 1
    ### END SOLUTION


# %% check=01.2
check("01.2", unbroadcast)

# %% [markdown]
"""
## Exercise: the walk itself

In which order must the walk go? A number may hand its gradient on only when all of it has arrived: so first the youngest, then
the next younger, and so on. Whoever was made later is done earlier, and then nothing can arrive late.

Write the walk. The numbers of a computation are counted from zero, in the order in which they were made, and the last one is
the output. `tape[n]` is a list of pairs `(source, send)`, one for each use that number `n` made of another: `source` says of which, and
`send(g)` gives what goes to it when the gradient `g` has arrived at `n`. A leaf has the empty list. Return the list of all gradients.
In a later notebook your walk will train a model. (Save the notebook when the check says that you are right.)
"""


# %% exercise=01.3
def walk_back(tape):
    ### BEGIN SOLUTION
    raise NotImplementedError  # start with zeros and a one; go from the last number to the first; add
    ### END SOLUTION


# %% check=01.3
check("01.3", walk_back)

# %% [markdown]
"""
## Never believe a gradient, check it

A **gradient check** compares the gradient with nudges. It does so in **double precision** (NumPy's `float64`: numbers of eight
bytes), since a tiny nudge would drown in float32's rounding. The library does this for every operation it has.
"""

# %%
rng = np.random.default_rng(0)
checked = 0
for primitive in autograd.REGISTRY.values():  # every operation, with inputs to try it on
    if primitive.samples is None or primitive.surrogate:
        continue
    for inputs, static in primitive.samples(rng):
        autograd.gradcheck(primitive, inputs, **static)
    checked += 1
print(checked, "operations checked against nudges")
claim("every operation with a derivative agrees with its nudges", checked, at_least=30)

# %% [markdown]
"""
More than 30 operations, and all of them agree with their nudges. (A few operations of a later notebook have a way back that is
not their slope, on purpose. They are marked as such, and left out here.)

## A model that learns, in ten lines

If the slope of a weight is positive, a smaller weight is less wrong; if it is negative, a larger one. So: move every weight a
little *against* its slope; repeat. That is all of learning. Here the model is a straight line, laid through noisy points. It has
two weights: how much it rises (a slope as well, so mind which one is meant) and how high it begins; the true ones are 3 and -1.
How wrong it is: the **mean squared error**, the mean of the squares of (line minus point). (`@` multiplies matrices; `zero_grad`
forgets the last step's gradient, to which the next would otherwise be added; the factor `0.1` says how little a little is.)
"""

# %%
x = rng.normal(size=(200, 1))
target = 3 * x - 1 + 0.1 * rng.normal(size=(200, 1))
rise = Tensor(np.zeros((1, 1)), requires_grad=True)
height = Tensor(np.zeros(1), requires_grad=True)
errors = []
for step in range(60):
    error = ((Tensor(x) @ rise + height - target) ** 2).mean()
    rise.zero_grad(), height.zero_grad()
    error.backward()
    rise.data -= 0.1 * rise.grad
    height.data -= 0.1 * height.grad
    errors.append(error.item())
print("rise", rise.data.item(), "height", height.data.item())
claim("it finds the rise 3 to a twentieth", rise.data.item(), 3, tol=0.05)
claim("and the height -1", height.data.item(), -1, tol=0.05)

# %% [markdown]
"""
Step by step the error falls, until only the noise of the points is left. (The axis at the left goes in powers of ten.)
"""

# %%
viz.curves(
    {"mean squared error": errors},
    ylabel="mean squared error",
    title="A line that learns",
    logy=True,
)

# %% [markdown]
"""
## Where the emulator is not the hardware

Nothing in this notebook is emulated: gradients are arithmetic. But the arithmetic here ran in double precision. From the next
notebook on, numbers have few bits and are rounded. Nudge a number that is about to be rounded, and nearly always nothing
changes: rounding has slope zero, and a gradient that goes honestly through it vanishes. Keep that in mind; it becomes a
notebook of its own.

## What you can say now

A tape records operations, and a walk from the youngest entry to the oldest hands gradients back; along a path slopes are
multiplied, where paths meet they are added, and an input that was repeated gets the sum over its copies.
"""

# ---
# title: E2M1: sixteen codes
# needs: 00
# question: How much can four bits say?
# ---

# %% [markdown]
"""
Four bits have sixteen patterns, no more. Each pattern is a **code**: a small whole number that stands for a value. Which
values should they stand for? This notebook takes the most used answer apart, bit by bit.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import E2M1
from vbw_np.teach import check, claim, float_bits, hint, nibble_bits, predict, solution

# %% [markdown]
"""
## Predict

Sixteen codes. How many *different* values? (To **decode** is to turn codes into the values that they stand for; to **encode** is to turn numbers into codes.)
"""

# %%
guess = None

values = E2M1.decode(np.arange(16, dtype=np.uint8))
different = len(np.unique(values))
predict(guess, different, "different values")
claim("16 codes", len(values), 16)
claim("15 different values: +0 and -0 are equal", different, 15)

# %% [markdown]
"""
Of the 16 codes two mean zero, so there are 15 values. Here they all are: the code as a number, its bits, its value.
"""

# %%
for code in range(16):
    print(f"{code:2}  {code:04b}  {values[code]:5}")

# %% [markdown]
"""
## Manipulate: three fields

The first bit is the **sign**: nought for plus, one for minus. The next two are the **exponent**: it says how big. The last is the **mantissa**:
it says where between two powers of two. Hence the name **E2M1**: two bits of exponent, one of mantissa. (float32 is built the same way, with more of each:
eight bits of exponent, twenty-three of mantissa.)

The rule: read `e` and `m` as whole numbers; then the size is `2**(e - 1) * (1 + m / 2)`. So the bits `0101` mean plus, `e = 2`, `m = 1`: two times one and a half.
One exception: for `e = 0` the size is `m / 2`. It leaves out the leading one of the rule, and without it there would be no zero at all. Besides zero it makes
only one size, a half; a value that is made in this way is called **subnormal**.

Flip bits in `code` below and predict the value before you run. The letters under the bits name the field: S, E or M. (`^` flips those bits that are one in the number behind it.)
"""

# %%
code = 0b0101

print("code", nibble_bits(code), " means", values[code])
viz.bit_lanes(
    [
        (f"{c:04b} is {values[c]:g}", f"{c:04b}", "SEEM")
        for c in (code, code ^ 0b0001, code ^ 0b0010, code ^ 0b1000)
    ],
    title="One code, then with the mantissa flipped, the low exponent bit flipped, the sign flipped",
)

# %%
claim("the positive values", values[:8], [0, 0.5, 1, 1.5, 2, 3, 4, 6])
claim("the largest value is 6", E2M1.max, 6)
claim("the smallest above zero is 0.5", E2M1.smallest, 0.5)

# %% [markdown]
"""
Largest 6, smallest above zero 0.5: a factor of twelve between them. Steps are fine near zero (a half) and coarse at the end (two).

## Picture: every number has a bin

To store a number you round it to the nearest value. The numbers that round to one value form its **rounding bin**. Below, each colored stretch is
a bin, the dot in it the value, and the bits above it the code. Two numbers are marked, with arrows to where they go.
(Minus zero, the code `1000`, has no bin of its own and is not drawn. Of the bin of zero it gets the negative half: a number keeps its sign even if nothing else is left of it.)
"""

# %%
viz.number_line(E2M1, points={"x": 2.6, "y": -5.2})

# %%
claim("minus a tenth gets the code of minus zero", int(E2M1.encode(np.float32([-0.1]))[0]), 0b1000)

# %% [markdown]
"""
## The tie

What about 2.5, exactly between 2 and 3? That is a **tie**. If ties always went up, sums would creep up. The usual rule is
**round to nearest even**: a tie goes to the neighbor whose last bit is nought, the even code. Codes are even and odd in turn, so every second tie goes up.

Predict for each of the seven ties which way it goes; then look.
"""

# %%
ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
rounded = E2M1.decode(E2M1.encode(ties))
for tie, code, value in zip(ties, E2M1.encode(ties), rounded):
    print(
        f"{tie:5} lies between two values and goes to {value:3}  (code {nibble_bits(code)})"
    )
claim("the ties 0.25 to 5", ties, [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5])
claim("and where they go", rounded, [0, 1, 1, 2, 2, 4, 4])

# %% [markdown]
"""
0.25 goes down to 0, 0.75 goes up to 1, 1.25 down to 1, 1.75 up to 2, 2.5 down to 2, 3.5 up to 4, 5 down to 4.

And beyond the end? Everything above 6 becomes 6. That is called to **saturate**: E2M1 has no code for infinity and none for
"not a number", so the largest value has to serve.
"""

# %%
print(E2M1.decode(E2M1.encode(np.array([6.1, 7.0, 1e30, np.inf], np.float32))))
claim("100 saturates to 6", E2M1.decode(E2M1.encode(np.float32([100.0])))[0], 6)

# %%
viz.staircase(
    {"E2M1": lambda x: E2M1.decode(E2M1.encode(x))},
    -7,
    7,
    title="Sixteen codes as a staircase",
)

# %% [markdown]
"""
The dashed line is what would come out without rounding. The stairs are low in the middle and high at the ends: larger numbers get larger errors, and
measured against the number itself the largest errors stay about the same. Put one hundred in and 6 comes out.
"""

# %%
from_one = np.linspace(1, 6, 5001, dtype=np.float32)
moved = np.abs(E2M1.decode(E2M1.encode(from_one)) - from_one) / from_one
claim(
    "between 1 and 6 no number moves by more than 20 % of itself",
    100 * moved.max(),
    20,
    tol=0.1,
)

# %% [markdown]
"""
Between 1 and 6 no number moves by more than 20 percent of itself.

## Exercise: decode without a table

Use shifts, masks and the rule above: `code >> 1` drops the last bit, `code >> 3` the last three; `& 1` keeps only the last bit of what is left, `& 3` the last two.
One code in, one number out.
"""


# %% exercise=02.1
def decode(code):
    ### BEGIN SOLUTION
    raise NotImplementedError  # sign, exponent, mantissa; mind the exception
    ### END SOLUTION


# %% check=02.1
check("02.1", decode)

# %% [markdown]
"""
## Exercise: encode, ties to even

One number in, one code out (a whole number from nought to fifteen). Saturate above the largest value; negative numbers get the sign bit, which is worth eight.
"""


# %% exercise=02.2
def encode(x):
    ### BEGIN SOLUTION
    raise NotImplementedError  # count how many midpoints lie below abs(x); think about ties last
    ### END SOLUTION


# %% check=02.2
check("02.2", encode)

# %% [markdown]
"""
## Exercise: a whole array at once

A model has too many weights to round them one at a time. Write the same for a float32 array of any shape: return the codes, an array of the type
`uint8` and of the same shape. (A comparison of an array with a number is an array of `True` and `False`, which count as one and nought.) Your rounding
will be used later, to store the weights of a model.
"""


# %% exercise=02.3
def codes_of(x):
    ### BEGIN SOLUTION
    raise NotImplementedError  # the same seven comparisons, each for all numbers at once
    ### END SOLUTION


# %% check=02.3
check("02.3", codes_of)

# %% [markdown]
"""
## Claim: decoding and encoding undo each other
"""

# %%
codes = np.arange(16, dtype=np.uint8)
claim(
    "encode(decode(code)) gives the code back, for all of them, minus zero included",
    E2M1.encode(E2M1.decode(codes)),
    codes,
)
everywhere = np.linspace(-6, 6, 48_001, dtype=np.float32)
worst = np.abs(E2M1.decode(E2M1.encode(everywhere)) - everywhere).max()
claim("no number within the range moves by more than 1", worst, 1)

# %% [markdown]
"""
No number between the ends moves by more than 1 (half the widest step).

## Where the emulator is not the hardware

The sixteen values are fixed by a public standard (Microscaling Formats, of the Open Compute Project, OCP), and this table is exactly theirs. What the programs
and processors that write such numbers do *around* the table differs: what "not a number" becomes, whether minus zero survives, which way ties go. Several
libraries round ties toward zero, and the hardware's instruction turns "not a number" into the largest value. This library knows several of them by name and can write
exactly their bytes; the encoder used here rounds ties to even and refuses "not a number".

## What you can say now

Sign, exponent, mantissa; sixteen codes; a bin around each value; ties to even; saturation at the end.
"""

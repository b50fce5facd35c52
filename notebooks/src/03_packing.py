# ---
# title: Packing: two codes a byte
# needs: 02
# question: A byte has eight bits and a code has four. Which code goes where, and who says so?
# ---

# %% [markdown]
"""
The smallest piece of memory that has an address is a byte. A code of four bits is half a byte, called a **nibble**. To win
anything from four-bit numbers, two nibbles have to share a byte. That is **packing**. It is the simplest step of the whole
course, and real projects have got it wrong again and again.
"""

# %%
import numpy as np

from vbw_np import viz
from vbw_np.formats import E2M1, pack_nibbles, unpack_nibbles
from vbw_np.teach import byte_bits, check, claim, hint, predict, solution

# %% [markdown]
"""
## Predict

The codes `10` and `3` (binary `1010` and `0011`) are packed into one byte, the first code in the **low nibble** (the right-hand four bits).
What number is the byte?
"""

# %%
guess = None

byte = int(pack_nibbles(np.array([10, 3], np.uint8))[0])
predict(guess, byte, "the byte")
print(byte_bits(byte))
claim("10 and 3 make the byte 58", byte, 58)

# %% [markdown]
"""
It is 58, or `0x3a` in hexadecimal, where every digit is one nibble (`a` is ten). Read the byte as written: the *second* code stands on the left, since the first took the low bits. This is the order that almost everybody
uses. It looks backwards on paper for the same reason that the low digit of a number stands on the right.

## Manipulate

The tools are four: `<<` shifts left (by four: times sixteen), `>>` shifts right and drops what falls off, `&` keeps those bits that are one in the number behind it (a *mask*), `|` joins. Change the codes.
"""

# %%
first, second = 10, 3

joined = first | second << 4
print("joined:", byte_bits(joined))
print("first again: ", joined & 0b1111)
print("second again:", joined >> 4)

# %% [markdown]
"""
## Picture

Five numbers as E2M1 codes, packed. Each box is a nibble with its four bits; `element 0`, the first code, stands at the right in the first byte.
"""

# %%
codes = E2M1.encode(np.array([0.5, -1.0, 3.0, 6.0, -0.5], np.float32))
packed = pack_nibbles(codes)
viz.byte_lane(packed, len(codes))

# %% [markdown]
"""
Five codes need three bytes; the last nibble is *padding*, a zero that only fills up. So a packed array alone does not know how long it is: the length must be kept beside it.
"""

# %%
claim("5 codes take 3 bytes", len(packed), 3)
claim("and come back", unpack_nibbles(packed, 5), codes)

# %% [markdown]
"""
## Exercise: pack

`codes` is a NumPy array of any length, of the type `uint8` (whole numbers of one byte), each below sixteen. Return the packed bytes, also `uint8`: the first
code of each pair goes into the low nibble, and an odd length is padded with a zero nibble.
"""


# %% exercise=03.1
def pack(codes):
    ### BEGIN SOLUTION
    raise NotImplementedError  # codes[0::2] are the first ones, codes[1::2] the second
    ### END SOLUTION


# %% check=03.1
check("03.1", pack)

# %% [markdown]
"""
## The bug that hides

Suppose one program writes the first code low, and another reads the first code from the high nibble. Every pair is swapped. Would you notice?
"""

# %%
right = np.array([1, 1, 4, 4, 9, 9], np.uint8)
read_back = unpack_nibbles(pack_nibbles(right), 6, order="high_first")
print("written:", right, " read by the other program:", read_back)
claim("with equal neighbors the bug is invisible", read_back, right)

# %% [markdown]
"""
With equal neighbors nothing is visible. And a program that writes *and* reads in the wrong order agrees with itself perfectly. So a round trip (write, read,
compare) proves nothing about the order; only bytes written by somebody else do.

## Exercise: how many bytes cannot tell?

A byte looks the same in both orders if its two nibbles are equal. Of all the values a byte can have, how many is that?
Put a number in place of `None`.
"""

# %% exercise=03.2
### BEGIN SOLUTION
same_either_way = None  # a number
### END SOLUTION

# %% check=03.2
check("03.2", same_either_way)

# %% [markdown]
"""
## Claim: nothing is lost, for every byte there is
"""

# %%
every_byte = np.arange(256, dtype=np.uint8)
claim("a byte has 256 values", len(every_byte), 256)
claim(
    "all 256 bytes survive unpacking and packing",
    pack_nibbles(unpack_nibbles(every_byte, 512)),
    every_byte,
)
pairs = np.stack(np.meshgrid(every_byte, every_byte, indexing="ij"), -1).reshape(-1, 2)
claim(
    "so do all 65,536 pairs of bytes",
    int((pack_nibbles(unpack_nibbles(pairs, 4)) == pairs).all(axis=1).sum()),
    65_536,
)
wrong = pack_nibbles(unpack_nibbles(every_byte, 512), order="high_first") != every_byte
claim("swapping the nibbles changes 240 of them", int(wrong.sum()), 240)

# %% [markdown]
"""
All 256 bytes survive, and so do all 65,536 pairs of them; swapped nibbles change 240.

## A table for a whole byte

A byte holds two codes, so decoding can look up *both values at once*: in a table with one row for each value of a byte, and two float32 numbers in each row.
It is small enough to stay in the fastest memory of a processor.
"""

# %%
table = E2M1.decode(unpack_nibbles(every_byte[:, None], 2))
print(table.shape, table.dtype, table.nbytes, "bytes; row 0x3a:", table[0x3A])
claim("the table takes 2,048 bytes", table.nbytes, 2048)
numbers = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
claim(
    "and decodes like the long way",
    table[numbers].ravel(),
    E2M1.decode(unpack_nibbles(numbers, 2000)),
)

# %% [markdown]
"""
The table takes 2,048 bytes, and one look-up gives two numbers.

## Where the emulator is not the hardware

The bytes are the real ones. But there is no single real order: the file formats of some well-known projects put the first code in the
*high* nibble, or pair the first number of a group with the first of its second half. This library can read and write these orders (`order=`), and a
test compares each with bytes that the project in question wrote itself. Inside a graphics processor the codes are moved into yet another arrangement before they
are multiplied, which we do not imitate; the values that are multiplied are the same.

## What you can say now

Low nibble first; odd lengths are padded; a round trip cannot see a swapped order.
"""

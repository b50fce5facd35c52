# ---
# title: Open a real checkpoint
# needs: 03, 04
# question: A file on the disk is a long row of bytes. How does one of its bytes become a number, and the numbers a layer's output?
# ---

# %% [markdown]
"""
People hand models around as files. The most common kind is **safetensors**: all matrices of a model, one after the other,
and before them a list of what lies where. In this notebook you read such a file with nothing but its bytes, down to one
weight and up to the output of a layer. The file is small (a model of one layer), but it was written by a real tool,
NVIDIA's ModelOpt, in NVFP4, exactly as it writes large ones.
"""

# %%
import json

import numpy as np

from vbw_np import viz
from vbw_np.checkpoints import find_weights, open_checkpoint
from vbw_np.formats import E2M1, E4M3, relative_mse
from vbw_np.teach import byte_bits, check, claim, hint, predict, solution

if root is None:
    raise FileNotFoundError("this notebook reads a file of the checkout: run it inside one")
DATA = root / "tests" / "checkpoints" / "data"
FILE = DATA / "modelopt-nvfp4" / "model.safetensors"
raw = FILE.read_bytes()

# %% [markdown]
"""
## Predict

The first eight bytes are one whole number, the lowest byte first: the length of the list that follows, its **header**.
Here are these bytes. What is the number? (The second byte counts two hundred and fifty-sixes.)
"""

# %%
print(list(raw[:8]))

# %%
guess = None

length = int.from_bytes(raw[:8], "little")
predict(guess, length, "the length of the header")
claim("the header is 3,296 bytes long", length, 3296)
claim("the second byte of the number is 12", raw[1], 12)

# %% [markdown]
"""
It is 3,296: the second byte, 12, times two hundred and fifty-six, plus the first. The header is text, in a notation called
JSON: for each tensor its element type, its shape, and where its bytes begin and end, counted from the end of the header.
"""

# %%
header = json.loads(raw[8 : 8 + length])
name = "model.layers.0.mlp.up_proj.weight"
for part in (name, f"{name}_scale", f"{name}_scale_2"):
    print(part, header[part])

# %% [markdown]
"""
One matrix became three tensors. `U8` are whole bytes: the packed codes, two in each. `F8_E4M3` are the block scales, one for
sixteen codes. `F32` is one number, the tensor scale. Is that all of it? Count.
"""

# %%
sizes = {p: header[p]["data_offsets"][1] - header[p]["data_offsets"][0] for p in (name, f"{name}_scale", f"{name}_scale_2")}
values = 64 * 128
bits = 8 * sum(sizes.values()) / values
print(sizes, "bytes for", values, "weights:", round(bits, 3), "bits each")
claim("a code takes four bits", 8 * sizes[name] / values, 4.0)
claim("the rest is half a bit, and the tensor scale", round(bits, 3), 4.504)

# %% [markdown]
"""
4.504 bits for each weight: four for the code, half of one for its share of the block scale, and a little for the tensor scale.

## One weight, byte by byte

Row three, column five of that matrix. Each row has sixty-four bytes; column five is the *second* code of the third byte.
"""

# %%
row, column = 3, 5
start = 8 + length + header[name]["data_offsets"][0]
address = start + row * 64 + column // 2
byte = raw[address]
print("byte", address, "of the file:", byte_bits(byte))
claim("the byte lies at 31,970", address, 31_970)
code = byte >> 4 if column % 2 else byte & 15
claim("its high nibble is the code 12, which means -2", (code, float(E2M1.table[code])), (12, -2.0))

# %% [markdown]
"""
The byte at 31,970 holds the code 12, and that is -2 in E2M1. Now the scales: the block scale of that row and of the first
sixteen columns, and the tensor scale.
"""

# %%
scales_at = 8 + length + header[f"{name}_scale"]["data_offsets"][0]
level_at = 8 + length + header[f"{name}_scale_2"]["data_offsets"][0]
scale = E4M3.table[raw[scales_at + row * 8 + column // 16]]
level = np.frombuffer(raw[level_at : level_at + 4], "<f4")[0]
weight = E2M1.table[code] * (scale * level)
print(f"{E2M1.table[code]} * ({scale} * {level:.9g}) = {weight:.9g}")

packed = open_checkpoint(FILE.parent)
claim("the library decodes the same number", weight, find_weights(packed)[name].float32()[row, column])

# %% [markdown]
"""
The command line tells the same story, for any file:

```sh
vbw explain FOLDER model.layers.0.mlp.up_proj.weight 3 5
```

## Picture

The first eight bytes of that row, as they lie in the file.
"""

# %%
viz.byte_lane(np.frombuffer(raw[start + row * 64 : start + row * 64 + 8], np.uint8), 16)

# %% [markdown]
"""
## Exercise: find the byte

Where in the file does the code of row `i`, column `j` lie? You get the length of the header, where the tensor begins (from
the header's `data_offsets`), and the number of columns (an even number). Return the address of the byte and whether the code
is in its high nibble, `True` or `False`.
"""


# %% exercise=13.1
def where(length, begin, columns, i, j):
    ### BEGIN SOLUTION
    raise NotImplementedError  # return address, is_high
    ### END SOLUTION


# %% check=13.1
check("13.1", where)

# %% [markdown]
"""
## Exercise: a whole row

Decode a row. `data` are its packed bytes, first code low; `scales` the block scales as numbers, one for sixteen codes;
`level` the tensor scale. Multiply in the order of ModelOpt: the code's value times (scale times level), in float32.
`np.repeat(scales, 16)` makes one scale for each code of them, and `table` has the value of every code.
"""

# %%
TABLE = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


# %% exercise=13.2
def decode_row(data, scales, level, table=TABLE):
    ### BEGIN SOLUTION
    raise NotImplementedError
    ### END SOLUTION


# %% check=13.2
check("13.2", decode_row)

# %% [markdown]
"""
## A layer's output

The layer multiplies its input by that matrix. The original weights, before ModelOpt rounded them, are in a file beside it, in
bfloat16. How far apart are the two outputs?
"""

# %%
quantized = find_weights(packed)[name].float32()
original = find_weights(open_checkpoint(DATA / "original"))[name].float32()
x = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
lost_in_weights = relative_mse(original, quantized)
lost_in_output = relative_mse(x @ original.T, x @ quantized.T)
print(f"of the weights' squares {lost_in_weights:.4f} is error, of the output's {lost_in_output:.4f}")
claim("about one percent of the weights' squares is error", round(100 * lost_in_weights), 1)
claim("and as much of the output's", round(100 * lost_in_output), 1)

# %% [markdown]
"""
About one percent each: random errors neither grow nor shrink on their way through a product.

## Claim: two readers, one file

ModelOpt's own library decoded the file when it was written; the first two rows of each matrix, as it found them, are kept
beside it. Are they the numbers that we decode?
"""

# %%
weights = {n: w for n, w in find_weights(packed).items() if not w.is_plain}
with np.load(FILE.parent / "decoded.npz") as kept:
    theirs = {n: kept[f"{n}/head"] for n in weights}
equal = [n for n, rows in theirs.items() if np.array_equal(rows, weights[n].as_decoded()[: len(rows)])]
claim("the file has 7 quantized matrices", len(weights), 7)
claim("and 7 of them are decoded to the library's numbers", len(equal), 7)

# %% [markdown]
"""
The file has 7 quantized matrices, and all 7 agree in every bit. A mistake in a file is as easily made as read: a scale that is the reciprocal of the one
meant, nibbles in the other order. `vbw inspect FILE` looks for such things, and `vbw diff A B` says why two files differ.

## A file of yours

Put the name of a file or folder in place of `None`: a `.safetensors` or `.gguf` file.
"""

# %%
path = None

if path is not None:
    weights = find_weights(open_checkpoint(path))
    for which, found in list(weights.items())[:20]:
        print(which, found.shape, found.format, found.producer, round(found.bits, 2))
else:
    print("no file is named; its weights would be listed here")

# %% [markdown]
"""
## Where the emulator is not the hardware

The bytes and the numbers are the real ones, in every bit. What is not here is the way that a graphics processor loads them:
it moves the scales into another arrangement first, and never makes the decoded matrix as a whole; it multiplies the codes.

## What you can say now

A checkpoint is a header and bytes; a weight in NVFP4 is a code, a block scale and a tensor scale from three places of the
file; whoever reads it needs the order of the nibbles and the meaning of the tensor scale from outside, since the bytes do not say.
"""

"""A recorded step computed again from its events alone, with NumPy and nothing of this project.

Every number of an event must come out of earlier events, to the last bit; what may come in from outside is listed in
`GIVEN`. Levels, scales, rounding, hash and rotation are written down here a second time, from their publications.
"""

from __future__ import annotations

from typing import Any

import numpy as np

f32 = np.float32
ONE = f32(1)
FLOAT32_MAX = np.finfo(f32).max
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], f32)
INT4_TO_6 = (np.arange(-7, 8) * 6 / 7).astype(f32)
FLAG = 128
SIGNS = np.array([1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1], f32)
Arrays = dict[str, np.ndarray]

GIVEN = {
    ("forward", "tokens"): {"table", "letter", "target"},
    ("forward", "master"): {"x"},
    ("update", "update"): {"lr"},
}
"""What a step begins with: tokens, weights, the learning rate (and, in a fact, the key of each random draw)."""


def e4m3_table() -> np.ndarray:
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    return np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10)).astype(f32)


def scale_table(name: str) -> np.ndarray:
    """What a byte of a block scale says: E4M3, with or without IF4's flag, or UE5M3."""
    if name != "ue5m3":
        return e4m3_table()
    code = np.arange(255)
    exponent, mantissa = code >> 3, code & 7
    return np.where(exponent == 0, mantissa * 2.0**-17, (8 + mantissa) * 2.0 ** (exponent - 18)).astype(f32)


def nearest(magnitude: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Number of the nearest level; of two as near the even one."""
    away = np.abs(magnitude.astype(np.float64)[..., None] - levels.astype(np.float64))
    odd = np.arange(len(levels)) % 2
    return np.lexsort((np.broadcast_to(odd, away.shape), away), axis=-1)[..., 0].astype(np.uint8)


def nearest_int4(q: np.ndarray) -> np.ndarray:
    """Number of the nearest of IF4's even levels, -7..7 as 0..14; at a middle, as float32 has it, the even one."""
    middle = ((INT4_TO_6[:-1].astype(np.float64) + INT4_TO_6[1:]) / 2).astype(f32)
    upper_is_even = np.arange(-6, 8) % 2 == 0
    return np.where(upper_is_even, q[..., None] >= middle, q[..., None] > middle).sum(axis=-1)


def hashed(key: list[int], size: int) -> np.ndarray:
    """random_bits of the elements 0, 1, ... under (seed, stream): lowbias32 twice."""
    mask = 0xFFFFFFFF

    def mix(h: int) -> int:
        h ^= h >> 16
        h = h * 0x7FEB352D & mask
        h ^= h >> 15
        h = h * 0x846CA68B & mask
        return h ^ h >> 16

    seed, stream = key
    key1 = mix((seed & mask) ^ mix(((seed >> 32) + 0x9E3779B9) & mask))
    key2 = mix((stream + mix((key1 + 0x85EBCA6B) & mask)) & mask)
    return np.array([mix((mix(i ^ key1) + key2) & mask) for i in range(size)], np.uint32)


def rotated(x: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Signs and most of 1 / sqrt(n), butterflies over 1, 2, 4, ..., the rest: n along the rows, filled up with 0."""
    points = len(signs)
    width = -(-x.shape[1] // points) * points
    first = f32(0.5 ** np.ceil(np.log2(points) / 2))
    values = np.pad(x, ((0, 0), (0, width - x.shape[1]))).reshape(-1, points) * (signs * first)
    for distance in 2 ** np.arange(int(np.log2(points))):
        for start in range(points):
            if not start & distance:
                a, b = values[:, start].copy(), values[:, start + distance].copy()
                values[:, start], values[:, start + distance] = a + b, a - b
    return values.reshape(len(x), width) * (f32(points**-0.5) / first)


def blocks_of(facts: dict, columns: int) -> int:
    return columns if facts["block"] is None else facts["block"]


def spread(scale: np.ndarray, facts: dict, columns: int) -> np.ndarray:
    """Block scales (rows, blocks) repeated to the elements (rows, columns)."""
    return np.repeat(scale, blocks_of(facts, columns), axis=1)[:, :columns]


def exponent_of(value: np.ndarray, lowest: int) -> np.ndarray:
    """Of a number as a format stores it: subnormals keep the lowest one."""
    return np.maximum(np.frexp(value)[1] - 1, lowest)


def cut_to_bits(total: np.ndarray, bits: int) -> np.ndarray:
    """Toward zero, to so many bits after the leading one."""
    mantissa, exponent = np.frexp(total)
    return np.ldexp(np.trunc(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)


def column(level: np.ndarray) -> np.ndarray:
    """A second level for elements (rows, columns)."""
    return level if np.ndim(level) == 0 else level.reshape(-1, 1)


def packed(codes: np.ndarray) -> np.ndarray:
    even = codes if codes.shape[1] % 2 == 0 else np.pad(codes, ((0, 0), (0, 1)))
    return (even[:, ::2] | even[:, 1::2] << 4).astype(np.uint8)


class Recomputer:
    """Goes through the events of a step in order."""

    def __init__(self, recorded: dict[str, Any]) -> None:
        self.recorded = recorded
        self.arrays = {name: self.decode(array) for name, array in recorded["arrays"].items()}
        self.operands: dict[str, Arrays] = {}  # by part, the last that was quantized
        self.state: Arrays = {}
        self.checked = 0

    @staticmethod
    def decode(array: dict[str, Any]) -> np.ndarray:
        kind = np.dtype(array["dtype"])
        return np.frombuffer(bytes.fromhex(array["hex"]), kind.newbyteorder(">")).astype(kind).reshape(array["shape"])

    def run(self) -> int:
        """The number of numbers that came out again."""
        for event in self.recorded["events"]:
            told = {name: self.arrays[value["array"]] for name, value in event["values"].items()}
            method = getattr(self, "on_" + event["kind"].replace(" ", "_").replace("-", "_"))
            found = method(event, told)
            given = GIVEN.get((event["phase"], event["kind"]), set())
            missing = set(told) - set(found) - given
            assert not missing, f"{event['order']} {event['kind']}: nothing computes {missing}"
            for name, array in told.items():
                if name in found:
                    again = np.asarray(found[name], array.dtype).reshape(array.shape)
                    same = again.tobytes() == array.tobytes()
                    assert same, f"{event['order']} {event['kind']} of {event['part']} ({event['card']}): {name}"
                    self.checked += array.size
        return self.checked

    # -- the model around the cards

    def on_tokens(self, event: dict, told: Arrays) -> Arrays:
        table = told["table"] if event["phase"] == "forward" else self.state["embedding"]
        letters = told["letter"] if event["phase"] == "forward" else self.state["letter"]
        target = told["target"] if event["phase"] == "forward" else self.state["target"]
        self.state |= {"embedding": table, "letter": letters, "target": target, "into": table[letters]}
        here = {"table": table, "letter": letters, "target": target}
        return {"x": table[letters], "token": np.arange(len(letters)), **here}

    def on_ReLU(self, event: dict, told: Arrays) -> Arrays:
        if event["phase"] == "backward":
            passed = self.state["y"] > 0
            self.state["g"] = self.state["back"] * passed
            arrived, handed_on = self.state["back"], self.state["g"]
            return {"handed_on": handed_on, "arrived": arrived, "y": self.state["y"], "passed": passed}
        y = self.state["out"]
        hidden = np.where(y > 0, y, f32(0))
        if event["phase"] == "forward":
            self.state["y"] = y
        self.state["into"] = hidden
        return {"hidden": hidden, "y": y}

    def on_probabilities(self, event: dict, told: Arrays) -> Arrays:
        logits = self.state["out"]
        top = logits.max(axis=1, keepdims=True)
        shifted = logits.astype(np.float64) - top
        power = np.exp(shifted)
        total = np.zeros((len(logits), 1))
        for letter in range(logits.shape[1]):
            total[:, 0] = total[:, 0] + power[:, letter]
        found = {"logits": logits, "top": top, "shifted": shifted, "power": power, "total": total}
        found["probability"] = power / total
        self.state |= found
        return found

    def on_loss(self, event: dict, told: Arrays) -> Arrays:
        target, rows = self.state["target"], np.arange(len(self.state["target"]))
        losses = np.log(self.state["total"][:, 0]) - self.state["shifted"][rows, target]
        mean = 0.0
        for one in losses:
            mean = mean + one
        self.state["loss"] = f32(mean / len(losses))
        names = ("target", "total", "shifted")
        return {"losses": losses, "loss": self.state["loss"], **{name: self.state[name] for name in names}}

    def on_gradient_of_the_scores(self, event: dict, told: Arrays) -> Arrays:
        one_hot = np.eye(self.state["probability"].shape[1])[self.state["target"]]
        gradient = ((self.state["probability"] - one_hot) / len(one_hot)).astype(f32)
        self.state["g"] = gradient
        return {"gradient": gradient, "probability": self.state["probability"], "target": self.state["target"]}

    def on_gradient_of_the_embedding(self, event: dict, told: Arrays) -> Arrays:
        gradient = np.zeros_like(self.state["embedding"])
        for letter, row in zip(self.state["letter"], self.state["back"]):
            gradient[letter] = gradient[letter] + row
        self.state["gradient of embedding"] = gradient
        return {"gradient": gradient, "arrived": self.state["back"], "letter": self.state["letter"]}

    def on_update(self, event: dict, told: Arrays) -> Arrays:
        name = event["facts"]["name"]
        gradient, before = self.state[f"gradient of {name}"], self.state[name]
        step = told["lr"] * gradient
        self.state[name] = before - step
        return {"after": self.state[name], "before": before, "gradient": gradient, "step": step}

    # -- a card

    def on_master(self, event: dict, told: Arrays) -> Arrays:
        name = f"{event['card']}.weight"
        if event["phase"] == "forward":
            self.state[name] = told["x"]
        self.state["x"] = self.state[name]
        self.state.pop(f"decoded {event['card']}", None)
        self.state[f"into {event['card']}"] = self.state["into"]
        self.operands["weight before"] = self.operands.get(f"weight of {event['card']}", {})
        return {"x": self.state[name]}

    def on_cache(self, event: dict, told: Arrays) -> Arrays:
        return {}

    def on_schedule(self, event: dict, told: Arrays) -> Arrays:
        return {}

    def on_handshake(self, event: dict, told: Arrays) -> Arrays:
        facts, weight = event["facts"], self.operands["weight"]
        assert facts["coarse_bytes"] == weight["coarse_bytes"]
        assert facts["coarse_bytes"] + facts["fine_bytes"] == weight["nbytes"]
        return {}

    def on_transfer(self, event: dict, told: Arrays) -> Arrays:
        assert event["facts"] == {"coarse_bytes": self.operands["weight"]["coarse_bytes"], "fine_bytes": 0}
        return {}

    def on_counts(self, event: dict, told: Arrays) -> Arrays:
        events = [e for e in self.recorded["events"] if e["card"] == event["card"]]
        did = [(e["facts"]["cache"], e["facts"]["did"]) for e in events if e["kind"] == "cache"]
        hands = [e["facts"] for e in events if e["kind"] == "handshake"]
        facts = event["facts"]
        assert facts["computes"] == sum(e["kind"] == "master" for e in events)
        assert facts["separations"] == did.count(("scales", "miss")) and facts["hits"] == did.count(("scales", "hit"))
        assert facts["decodes"] == did.count(("decoded weight", "miss"))
        assert facts["decode_hits"] == did.count(("decoded weight", "hit")) and facts["handshakes"] == len(hands)
        sent = hands + [e["facts"] for e in events if e["kind"] == "transfer"]
        assert facts["coarse_bytes"] == sum(tiers["coarse_bytes"] for tiers in sent)
        assert facts["fine_bytes"] == sum(tiers["fine_bytes"] for tiers in sent)
        return {}

    def on_operand(self, event: dict, told: Arrays) -> Arrays:
        card = event["card"]
        part = event["part"]
        name = {"activation": "into", "input, transposed": f"into {card}", "weight, transposed": f"decoded {card}"}
        name = name.get(part, "g")
        if part in ("gradient", "gradient, transposed"):  # the first of its product, whose signs may be drawn
            self.state.pop("signs", None)
        turned = part.endswith("transposed")
        self.state["x"] = np.ascontiguousarray(self.state[name].T if turned else self.state[name])
        return {"x": self.state["x"]}

    def on_second_time(self, event: dict, told: Arrays) -> Arrays:
        self.state["x"] = np.ascontiguousarray(self.state[f"{event['card']}.weight"].T)
        return {"x": self.state["x"]}

    def on_same_codes(self, event: dict, told: Arrays) -> Arrays:
        weight = self.operands[f"weight of {event['card']}"]
        tile = event["facts"]["block_rows"]
        scale = np.repeat(weight["scale"][::tile].T, tile, axis=0)[: weight["code"].shape[1]]
        turned = {"code": weight["code"].T, "element": weight["element"].T, "scale": scale}
        whole = turned | {"decoded": weight["decoded"].T}
        self.operands["weight, transposed"] = weight | {k: np.ascontiguousarray(v) for k, v in whole.items()}
        return turned

    # -- one operand

    def on_mean(self, event: dict, told: Arrays) -> Arrays:
        before = self.state["x"]
        mean = before.astype(np.float64).mean(axis=1).astype(f32)
        self.state |= {"x": before - mean[:, None], f"mean of {event['part']}": mean}
        return {"mean": mean, "before": before, "after": self.state["x"]}

    def on_signs(self, event: dict, told: Arrays) -> Arrays:
        points = event["facts"]["points"]
        width = -(-self.state["x"].shape[1] // points) * points
        bits = hashed(event["facts"]["key"], points)
        self.state["signs"] = np.where(bits % 2 == 1, -ONE, ONE)
        found = {"bits": bits, "minus": bits % 2, "sign": self.state["signs"]}
        return {name: np.resize(array, width) for name, array in found.items()}

    def on_rotation(self, event: dict, told: Arrays) -> Arrays:
        before, signs = self.state["x"], self.state.get("signs", SIGNS)
        assert event["facts"]["points"] == len(signs)
        self.state["x"] = rotated(before, signs)
        return {"before": before, "after": self.state["x"], "sign": np.resize(signs, self.state["x"].shape[1])}

    def on_quantized_anew(self, event: dict, told: Arrays) -> Arrays:
        return {"x": np.ascontiguousarray(self.state[f"decoded {event['card']}"].T)}

    def on_length(self, event: dict, told: Arrays) -> Arrays:
        operand, x = self.operands[event["part"]], self.state["x"]
        q = self.scaled(operand, operand["facts"])
        groups = [side.astype(np.float64).reshape(len(x), -1, 128) for side in (x, q)]
        square, overlap = ((groups[0] * side).sum(axis=2) for side in groups)
        self.state["factor"] = np.where(overlap > 0, square, 1) / np.where(overlap > 0, overlap, 1)
        return {"x": x, "q": q, "square": square, "overlap": overlap, "factor": self.state["factor"]}

    def on_scale_mended(self, event: dict, told: Arrays) -> Arrays:
        operand, factor, draw = self.operands[event["part"]], self.state["factor"], self.state["draw"]
        levels = e4m3_table()
        found = {"before": operand["scale"], "factor": factor, "draw": draw}
        wanted = (operand["scale"] * np.repeat(factor, 8, axis=1)).astype(f32)
        below = (wanted[..., None] >= levels).sum(axis=-1) - 1
        low, high = levels[below], levels[np.minimum(below + 1, len(levels) - 1)]
        share = (wanted - low) * (ONE / np.where(high > low, high - low, ONE))
        code = (below + ((draw < share) & (high > low))).astype(np.uint8)
        operand |= {"scale": levels[code], "stored": code}
        found |= {"wanted": wanted, "low": low, "high": high, "share": share, "code": code, "scale": levels[code]}
        return found | {"between": (high > low) & (wanted > low), "up": levels[code] > low}

    def on_tensor_scale(self, event: dict, told: Arrays) -> Arrays:
        facts, x = event["facts"], np.abs(self.state["x"])
        amax = x.max() if facts["tensor_level"] == "tensor" else x.max(axis=1, keepdims=True)
        rule = facts["rule"]
        top = f32(rule["cap"] * rule["largest"])
        with np.errstate(divide="ignore"):
            encode = np.where(amax == 0, ONE, np.minimum(top / amax, FLOAT32_MAX)).astype(f32)
        multiplier = np.where(amax > 0, np.maximum(amax / top, f32(rule["least"])), amax / top).astype(f32)
        self.state |= {"encode": encode, "multiplier": multiplier, "amax": amax}
        return {"amax": amax, "encode": encode, "multiplier": multiplier}

    def on_block_amax(self, event: dict, told: Arrays) -> Arrays:
        facts, x = event["facts"], self.state["x"]
        rows, columns = x.shape
        block, tall = blocks_of(facts, columns), facts["block_rows"]
        amax = np.array([[np.abs(x[r // tall * tall : r // tall * tall + tall, c : c + block]).max()
                          for c in range(0, columns, block)] for r in range(rows)])  # fmt: skip
        self.state["block amax"] = amax
        return {"amax": amax, "x": x}

    def on_scale(self, event: dict, told: Arrays) -> Arrays:
        facts, amax = event["facts"], self.state["block amax"]
        rule = facts["rule"]
        found: Arrays = {}
        if rule["family"] == "te":
            inverse = ONE / f32(rule["largest"] * rule["headroom"])
            encode = self.state["encode"] if rule["two_level"] else ONE
            table = scale_table(facts["scale_element"])
            found["wanted"] = np.minimum(amax * (encode * inverse), table[-1])
            if facts["four_over_six"] != "off":
                found["wanted"] = self.state["chosen"]
            found["code"] = nearest(found["wanted"], table)
            found["scale"] = table[found["code"]]
        elif rule["family"] == "mx":
            found["wanted"] = amax / f32(6)
            mantissa, exponent = np.frexp(found["wanted"] if rule["exponent"] == "rceil" else amax)
            above = {"rceil": 3 - (mantissa == 0.5), "floor": 0, "ceil": mantissa > 0.5, "even": mantissa >= 0.875}
            power = exponent - 3 + above[rule["exponent"]]
            found["code"] = np.where(amax == 0, 0, np.clip(power + 127, 0, 252)).astype(np.uint8)
            found["scale"] = np.ldexp(ONE, found["code"].astype(int) - 127)
        else:
            found["scale"] = found["wanted"] = amax / f32(rule["largest"])
        self.state["scale"] = found["scale"]
        self.state["stored"] = found.get("code", found["scale"])
        return found

    def on_four_or_six(self, event: dict, told: Arrays) -> Arrays:
        facts, amax, x = event["facts"], self.state["block amax"], self.state["x"]
        base = (amax / f32(6)) * self.state["encode"]
        found: Arrays = {"x": x}
        for name, times in (("six", f32(1)), ("four", f32(1.5))):
            wanted = np.minimum(base * times, f32(448))
            scale = e4m3_table()[nearest(wanted, e4m3_table())]
            found |= {f"{name}_wanted": wanted, f"{name}_scale": scale}
            found[f"{name}_error"] = self.error_under(scale, E2M1, facts)
        found["took_four"] = found["four_error"] < found["six_error"]
        self.state["chosen"] = np.where(found["took_four"], found["four_wanted"], found["six_wanted"])
        return found

    def on_grid(self, event: dict, told: Arrays) -> Arrays:
        errors = [self.error_under(self.state["scale"], grid, event["facts"]) for grid in (E2M1, INT4_TO_6)]
        second = errors[1] < errors[0]
        self.state["stored"] = (self.state["stored"] + FLAG * second).astype(np.uint8)
        found = {"x": self.state["x"], "first_error": errors[0], "second_error": errors[1]}
        return found | {"took_second": second, "code": self.state["stored"]}

    def error_under(self, scale: np.ndarray, grid: np.ndarray, facts: dict) -> np.ndarray:
        """What decoding errs by, rounded to nearest: added up over a block in order, over a tile's rows in a tree."""
        x, block, tall = self.state["x"], facts["block"], facts["block_rows"]
        q = self.quotients(facts, x, scale)["quotient"]
        if grid is E2M1:
            level = grid[nearest(np.minimum(np.abs(q), grid[-1]), grid)] * np.where(q < 0, -ONE, ONE)
        else:
            level = grid[nearest_int4(q)]
        out = level * spread(scale, facts, x.shape[1])
        if "amax" in self.state and facts["tensor_level"] != "none":
            out = out * self.state["amax"] / f32(facts["rule"]["cap"] * facts["rule"]["largest"])
        off = out - x
        off = np.abs(off) if facts["four_over_six"] == "mae" else off * off
        off = np.pad(off, ((0, -len(x) % tall), (0, -x.shape[1] % block)))
        total = np.zeros((len(off), off.shape[1] // block), f32)
        for place in range(block):
            total = total + off[:, place::block]
        tree = total.reshape(-1, tall, total.shape[1])
        while tree.shape[1] > 1:
            tree = tree[:, : tree.shape[1] // 2] + tree[:, tree.shape[1] // 2 :]
        return np.repeat(tree[:, 0], tall, axis=0)[: len(x)]

    def on_scales_kept(self, event: dict, told: Arrays) -> Arrays:
        old = self.operands["weight before"]
        for name in ("scale", "stored", "multiplier", "encode"):
            if name in old:
                self.state[name] = old[name]
        return {name: old[name] for name in ("scale", "multiplier") if name in told}

    def on_codebook(self, event: dict, told: Arrays) -> Arrays:
        x = self.state["x"]
        if event["facts"]["kept"]:
            old = self.operands["weight before"]
            self.state |= {"codebook": old["codebook"], "scale": old["scale"]}
        else:
            ordered = np.sort(np.abs(x).ravel())
            codebook = ordered[np.arange(16) * ordered.size // 16]
            coarse = codebook[np.searchsorted(codebook, np.abs(x), side="right") - 1]
            scale = np.abs(np.abs(x) - coarse).max(axis=1, keepdims=True) / f32(7.5)
            self.state |= {"codebook": codebook, "scale": scale}
        return {"codebook": self.state["codebook"], "scale": self.state["scale"], "x": x}

    def on_random_bits(self, event: dict, told: Arrays) -> Arrays:
        like = self.state["scale" if event["facts"].get("of") == "scales" else "x"]
        bits = hashed(event["facts"]["key"], like.size).reshape(like.shape)
        self.state["draw"] = (bits >> np.uint32(8)).astype(f32) * f32(2.0**-24)
        return {"bits": bits, "draw": self.state["draw"]}

    def on_codes(self, event: dict, told: Arrays) -> Arrays:
        facts, x = event["facts"], self.state["x"]
        found: Arrays = {"x": x}
        if facts["element"] == "quantiles":
            book = self.state["codebook"]
            found["code"] = np.maximum(np.searchsorted(book, np.abs(x), side="right") - 1, 0).astype(np.uint8)
            found["sign"] = (x < 0).astype(np.uint8)
            found["element"] = np.where(x < 0, -book[found["code"]], book[found["code"]])
        else:
            found |= self.quotients(facts, x, self.state["scale"])
            found |= self.rounded(facts, found["quotient"], "draw" in told)
            if facts["second"]:
                self.in_second_grid(facts, found)
        names = [name for name in ("scale", "stored", "multiplier", "encode", "codebook") if name in self.state]
        if facts["tensor_level"] == "none":
            names = [name for name in names if name not in ("multiplier", "encode")]
        operand = {name: self.state[name] for name in names} | found | {"facts": facts}
        self.operands[event["part"]] = operand
        if event["part"] == "weight":
            self.operands[f"weight of {event['card']}"] = operand
        return found

    def quotients(self, facts: dict, x: np.ndarray, scale: np.ndarray) -> Arrays:
        scale = spread(scale, facts, x.shape[1])
        if facts["rule"]["family"] == "te":
            encode = column(self.state["encode"]) if facts["tensor_level"] != "none" else ONE
            with np.errstate(divide="ignore"):
                inverse = np.minimum(ONE / (scale * (ONE / encode)), FLOAT32_MAX)
            return {"quotient": x * inverse}
        return {"quotient": x / np.where(scale == 0, ONE, scale)}

    def rounded(self, facts: dict, q: np.ndarray, by_chance: bool) -> Arrays:
        magnitude = np.abs(q)
        levels = e4m3_table() if facts["bits"] == 8 else E2M1
        most = len(levels) - 1
        below = np.clip((magnitude[..., None] >= levels).sum(axis=-1) - 1, 0, most)
        low, high = levels[below], levels[np.minimum(below + 1, most)]
        found: Arrays = {"low": low, "high": high, "between": (high > low) & (magnitude > low)}
        if by_chance:
            share = (magnitude - low) * (ONE / np.where(high > low, high - low, ONE))
            found |= {"share": share, "draw": self.state["draw"]}
            number = below + ((self.state["draw"] < share) & (below < most))
        else:
            number = nearest(np.minimum(magnitude, levels[-1]), levels)
        negative = {"keep": np.signbit(q), "drop": q < 0, "never": (q < 0) & (number != 0)}[facts["signed_zero"]]
        sign = 1 << facts["bits"] - 1
        found["code"] = (number + sign * negative).astype(np.uint8)
        found["element"] = np.where(negative, -levels[number], levels[number])
        found["up"] = np.abs(found["element"]) > low
        return found

    def in_second_grid(self, facts: dict, found: Arrays) -> None:
        """Replace what was rounded in the first grid where a block is of the second, whose levels have signs."""
        q = found["quotient"]
        second = spread(self.state["stored"] >= FLAG, facts, q.shape[1])
        most = len(INT4_TO_6) - 1
        below = np.clip((q[..., None] >= INT4_TO_6).sum(axis=-1) - 1, 0, most)
        low, high = INT4_TO_6[below], INT4_TO_6[np.minimum(below + 1, most)]
        number = nearest_int4(q)
        there = {"low": low, "high": high, "between": (high > low) & (q > low)}
        if "draw" in found:
            there["share"] = (q - low) / np.where(high > low, high - low, ONE)
            number = below + ((found["draw"] < there["share"]) & (below < most))
        there |= {"code": (number - 7) & 15, "element": INT4_TO_6[number], "up": INT4_TO_6[number] > low}
        found |= {name: np.where(second, array, found[name]).astype(found[name].dtype) for name, array in there.items()}
        found["second"] = second

    # -- the fine tier, bytes, numbers

    def on_fine_tier(self, event: dict, told: Arrays) -> Arrays:
        operand, facts, x = self.operands[event["part"]], event["facts"], self.state["x"]
        found: Arrays = {"x": x}
        planes = facts["planes"]
        if facts["fine"]["kind"] == "nested":
            edges = np.array([-0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, facts["fine"]["top"]], f32)
            level = operand["code"] & 7
            start, width = edges[:-1][level], np.diff(edges)[level]
            q = operand["quotient"]
            cell = np.clip(np.floor((np.where(level == 0, q, np.abs(q)) - start) / (width / f32(16))), 0, 15)
            cell = cell.astype(np.uint8)
            kept = cell >> (4 - planes)
            inside = start + (kept.astype(f32) + f32(0.5)) * (width / f32(1 << planes))
            signed = np.where((operand["code"] >= 8) & (level > 0), -inside, inside)
            found |= {"start": start, "width": width, "fine": kept << (4 - planes)}
            found |= {"coarse": self.scaled(operand, facts), "both": self.scaled(operand | {"element": signed}, facts)}
        else:
            assert facts["fine"]["kind"] == "row"
            scale = np.where(operand["scale"] == 0, ONE, operand["scale"])
            steps = np.clip(np.rint((x - operand["element"]) / scale), -7, 7).astype(np.int8)
            found |= {"fine": steps.view(np.uint8) & 15, "coarse": operand["element"]}
            found["both"] = operand["element"] + steps.astype(f32) * operand["scale"]
        operand |= {"fine": found["fine"], "decoded": found["both"], "planes": planes}
        return found

    @staticmethod
    def scaled(operand: Arrays, facts: dict) -> np.ndarray:
        if facts["element"] == "quantiles":
            return operand["element"]
        out = operand["element"] * spread(operand["scale"], facts, operand["element"].shape[1])
        return out * column(operand["multiplier"]) if "multiplier" in operand else out

    def on_bytes(self, event: dict, told: Arrays) -> Arrays:
        operand, facts = self.operands[event["part"]], event["facts"]
        code = operand["code"]
        found: Arrays = {"byte": packed(code) if facts["bits"] == 4 else code, "code": code}
        total = found["byte"].nbytes
        if "sign" in operand:
            found["sign_byte"] = np.packbits(operand["sign"], axis=1, bitorder="little")
            total += found["sign_byte"].nbytes + operand["codebook"].nbytes
        else:
            found["scale"] = operand["stored"]
            total += operand["stored"].nbytes
        total += operand["multiplier"].nbytes if "multiplier" in operand else 0
        if facts["format"] == "fp8-128x128":  # what lies in memory repeats a tile's scale for each of its rows
            total = -(-int(code.size * (8 + 32 / 128**2)) // 8)
        operand["coarse_bytes"] = total
        if "fine" in operand:
            found["fine_byte"] = packed(operand["fine"])
            rows, columns = code.shape
            total += found["fine_byte"].nbytes if facts["planes"] == 4 else facts["planes"] * rows * (columns // 8)
            total += operand["scale"].nbytes if "sign" in operand else 0
        operand["nbytes"] = total
        assert (facts["nbytes"], facts["full"]) == (total, 4 * code.size)
        assert facts["bits_per_value"] == 8 * total / code.size
        return found

    def on_decoding(self, event: dict, told: Arrays) -> Arrays:
        operand = self.operands[event["part"]]
        x = self.state["x"]
        out = operand["decoded"] if "fine" in operand else self.scaled(operand, operand["facts"])
        operand["decoded"] = out
        if event["part"] == "weight":
            self.state[f"decoded {event['card']}"] = out
        found = {"decoded": out, "x": x, "error": out - x, "scale": operand["scale"], "element": operand["element"]}
        return found | ({"multiplier": operand["multiplier"]} if "multiplier" in operand else {})

    def on_error(self, event: dict, told: Arrays) -> Arrays:
        operand, x = self.operands["weight"], self.state["x"].astype(np.float64)
        coarse = self.scaled(operand, operand["facts"])
        whole = operand["decoded"] if "fine" in operand else coarse

        def relative(y: np.ndarray) -> float:
            noise = np.mean((y.astype(np.float64) - x) ** 2)
            return float(np.sqrt(noise / np.mean(x**2))) if noise else 0.0

        found = {"coarse": coarse, "decoded": whole, "weight": self.state["x"]}
        for name, y in (("coarse_error", coarse), ("error", whole)):  # the sums may run in another order
            again, here = relative(y), float(told[name])
            assert again == here or abs(again - here) <= 1e-14 * here
            found[name] = told[name]
        if event["facts"]["fine"] == "budget":
            assert float(told["error"]) <= event["facts"]["budget"]
        return found

    def on_codes_that_changed(self, event: dict, told: Arrays) -> Arrays:
        before, after = self.operands["weight before"]["code"], self.operands["weight"]["code"]
        assert event["facts"]["count"] == (before != after).sum()
        return {"changed": before != after, "before": before, "after": after}

    def on_row_max(self, event: dict, told: Arrays) -> Arrays:
        name = f"gradient of {event['card']}.weight"
        weight = self.operands[f"weight of {event['card']}"]
        rest = np.abs(self.state[f"{event['card']}.weight"] - self.scaled(weight, weight["facts"]))
        kept = np.zeros(rest.shape, np.uint8)
        kept[np.arange(len(rest)), rest.argmax(axis=1)] = 1
        before = self.state[name]
        self.state[name] = before * kept
        return {"kept": kept, "before": before, "result": self.state[name]}

    # -- products

    def on_product(self, event: dict, told: Arrays) -> Arrays:
        if event["facts"]["way"] == "tensor core":
            found = self.on_tensor_core(event["facts"], *self.operands_of(event["part"]))
        else:
            found = self.in_float32(event, told)
        result = found["result"]
        if event["part"] == "product":
            self.state["out"] = result
        elif event["part"] == "gradient of the input":
            self.state["back"] = result
        else:
            self.state[f"gradient of {event['card']}.weight"] = result
        return found

    def on_product_of_the_means(self, event: dict, told: Arrays) -> Arrays:
        sides = {"gradient of the input": ("gradient", "weight, transposed")}
        parts = sides.get(event["part"], ("gradient, transposed", "input, transposed"))
        left, right = (self.state[f"mean of {part}"] for part in parts)
        whole = left * f32(event["facts"]["terms"])
        self.state["means' part"] = whole[:, None] * right
        return {"left_mean": left, "right_mean": right, "whole": whole, "part": self.state["means' part"]}

    def on_both_parts(self, event: dict, told: Arrays) -> Arrays:
        name = "back" if event["part"] == "gradient of the input" else f"gradient of {event['card']}.weight"
        part, rest = self.state["means' part"], self.state[name]
        self.state[name] = part + rest
        return {"part": part, "rest": rest, "result": self.state[name]}

    def operands_of(self, part: str) -> tuple[Arrays, Arrays]:
        parts = {
            "product": ("activation", "weight"),
            "gradient of the input": ("gradient", "weight, transposed"),
            "gradient of the weight": ("gradient, transposed", "input, transposed"),
        }[part]
        return self.operands[parts[0]], self.operands[parts[1]]

    def on_sum_in_the_core(self, event: dict, told: Arrays) -> Arrays:
        """Cut off to a grid and added, in double precision, which holds all of it (arXiv:2512.07004, MMA-Sim 2.1.1)."""
        facts, (left, right) = event["facts"], self.operands_of(event["part"])
        bits, block = facts["fraction_bits"], facts["block"]
        length = left["element"].shape[1]
        if facts["unit"] == "blackwell-mxf4nvf4":
            factors = [self.groups(side, block) for side in (left, right)]
            lowest = {"e4m3": -6, "e8m0": -127}[left["facts"]["scale_element"]]
            exponents = [exponent_of(scale, lowest) for _, scale in factors]
            terms = np.einsum("mgk,ngk->gmn", factors[0][0], factors[1][0])
            empty = np.einsum("mgk,ngk->gmn", np.abs(factors[0][0]), np.abs(factors[1][0])) == 0
            terms = terms * factors[0][1].T[:, :, None] * factors[1][1].T[:, None, :]
            empty |= factors[0][1].T[:, :, None] * factors[1][1].T[:, None, :] == 0
            zero, step = -139, facts["terms"] // block
        else:
            a, b = left["element"].astype(np.float64), right["element"].astype(np.float64)
            exponents = [exponent_of(side, -6) for side in (a, b)]
            terms = a.T[:, :, None] * b.T[:, None, :]
            empty, zero, step = terms == 0, -133, facts["terms"]
        exponent = exponents[0].T[:, :, None] + exponents[1].T[:, None, :]
        exponent = np.where(empty | (terms == 0) & (block == 1), zero, exponent)
        assert length <= facts["promote"] or not facts["promote"]  # one partial sum in so small a model
        total, found = np.zeros(terms.shape[1:]), {"largest": [], "lost": [], "held": []}
        for start in range(0, len(terms), step):
            part = slice(start, start + step)
            at = np.where(total == 0, zero, exponent_of(total, -126))
            largest = np.maximum(exponent[part].max(axis=0), at)
            grid = 2.0 ** (largest - bits)
            held = np.trunc(terms[part] / grid) * grid
            carried = np.trunc(total / grid) * grid
            found["lost"].append((terms[part] - held).sum(axis=0) + (total - carried))
            total = cut_to_bits(held.sum(axis=0) + carried, facts["output_bits"])
            found["largest"].append(largest)
            found["held"].append(held)
        self.state["core sum"] = total.astype(f32)
        return {
            "largest": np.stack(found["largest"]), "lost": np.stack(found["lost"]), "sum": self.state["core sum"],
            "term": terms.astype(f32) + f32(0), "held": np.concatenate(found["held"]).astype(f32) + f32(0),
        }  # fmt: skip

    @staticmethod
    def groups(side: Arrays, block: int) -> tuple[np.ndarray, np.ndarray]:
        rows, length = side["element"].shape
        whole = np.zeros((rows, -(-length // block) * block))
        whole[:, :length] = side["element"]
        each = side["facts"]["block"] // block  # two groups of 16 under one scale of MXFP4
        scales = np.repeat(side["scale"].astype(np.float64), each, axis=1)[:, : whole.shape[1] // block]
        return whole.reshape(rows, -1, block), scales

    def of_fp8(self, facts: dict, left: Arrays, right: Arrays) -> Arrays:
        added = self.state["core sum"]
        scales = left["scale"], right["scale"]
        if facts["blocked"]:
            added = f32(0) + (scales[0] * scales[1][:, 0]) * added
            return {"result": added, "added": added, "left_scale": scales[0], "right_scale": scales[1]}
        result = scales[0] * (scales[1][:, 0] * added)
        return {"result": result, "added": added, "left_scale": scales[0], "right_scale": scales[1]}

    def on_tensor_core(self, facts: dict, left: Arrays, right: Arrays) -> Arrays:
        if "blocked" in facts:
            return self.of_fp8(facts, left, right)
        if facts["sums"] == "blackwell":
            return self.blocks_of_codes(facts, left, right) | self.after_the_core(facts, left, right)
        assert facts["sums"] == "float32"
        found = self.blocks_of_codes(facts, left, right)
        running = [found["scaled"][0] + f32(0)]
        for scaled in found["scaled"][1:]:
            running.append(running[-1] + scaled)
        self.state["core sum"] = running[-1]
        return found | self.after_the_core(facts, left, right) | {"running": np.stack(running)}

    @staticmethod
    def blocks_of_codes(facts: dict, left: Arrays, right: Arrays) -> Arrays:
        """Exact sums of blocks, and those times both scales."""
        block, dots, scaled = facts["block"], [], []
        for number, start in enumerate(range(0, left["element"].shape[1], block)):
            a, b = (side["element"][:, start : start + block].astype(np.float64) for side in (left, right))
            dots.append((a @ b.T).astype(f32))
            scaled.append((left["scale"][:, number, None] * right["scale"][None, :, number]) * dots[-1])
        return {"dots": np.stack(dots), "scaled": np.stack(scaled)}

    def after_the_core(self, facts: dict, left: Arrays, right: Arrays) -> Arrays:
        """The second-level factors."""

        def factor(operand: Arrays) -> np.ndarray:
            level = operand.get("multiplier", ONE)
            return np.broadcast_to(np.reshape(level, -1), len(operand["element"])).astype(f32)

        found = {"left_factor": factor(left), "right_factor": factor(right), "running": self.state["core sum"]}
        left_factor, right_factor = found["left_factor"][:, None], found["right_factor"]
        if facts["right_level"] == "row":
            found["result"] = self.state["core sum"] * left_factor * right_factor
        else:
            found["result"] = self.state["core sum"] * (left_factor * right_factor[0])
        return found | {"left_element": left["element"], "right_element": right["element"]}

    def in_float32(self, event: dict, told: Arrays) -> Arrays:
        card = event["card"]
        if event["facts"]["rounded"]:
            left, right = (operand["decoded"] for operand in self.operands_of(event["part"]))
            return self.added_in_float32(left, right, event["facts"])
        computing = self.state.get(f"decoded {card}", self.state[f"{card}.weight"])
        if event["part"] == "product":
            left, right = self.state["into"], computing
        elif event["part"] == "gradient of the input":
            left, right = self.state["g"], np.ascontiguousarray(computing.T)
        else:
            left, right = (np.ascontiguousarray(x.T) for x in (self.state["g"], self.state[f"into {card}"]))
        return self.added_in_float32(left, right, event["facts"])

    @staticmethod
    def added_in_float32(left: np.ndarray, right: np.ndarray, facts: dict) -> Arrays:
        turned = facts["turned"]
        a = np.ascontiguousarray(left.T).T if turned[0] else left
        b = right.T if turned[1] else np.ascontiguousarray(right.T)
        exact = np.full((len(left), len(right)), -0.0)  # which adds nothing, not even a sign
        for k in range(left.shape[1]):
            exact = exact + np.multiply.outer(left[:, k].astype(np.float64), right[:, k].astype(np.float64))
        return {"result": np.matmul(a, b), "exact": exact, "left": left, "right": right}

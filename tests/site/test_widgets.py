"""Every widget of the pages, driven over a grid in a headless Chromium: what it shows is what `vbw_np` computes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mistune", reason='the docs extra is not installed: pip install --editable ".[docs]"')

from tests.site.looking import complaints, small_targets, wide
from tools.notebooks import pages, widgets
from tools.notebooks.widgets import tables
from vbw_np.device import place
from vbw_np.engine import Tensor, autograd, nn, no_grad
from vbw_np.formats import E2M1, ELEMENTS, FORMATS, fake_quantize, quantize, sqnr_db
from vbw_np.formats.packing import NIBBLE_ORDERS, pack_nibbles
from vbw_np.models.key_value_cache import KeyValueCache
from vbw_np.steps.values import number

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every widget."""
    kinds = list(widgets.TITLES)
    body = "<h1>Widgets</h1><h2>All of them</h2>" + "".join(map(widgets.markup, kinds))
    path = tmp_path_factory.mktemp("widgets") / "all.html"
    path.write_text(pages.page("Widgets", widgets.dressed(body, kinds)), "utf-8")
    return path


@pytest.fixture(scope="module")
def page(browser: Any, sheet: Path) -> Iterator[Any]:
    page = browser.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto(sheet.as_uri())
    yield page
    assert not page.said, page.said
    page.close()


def shown_numbers(rows: list[list[str]], column: int) -> np.ndarray:
    return np.array([row[column] for row in rows])


# ---- bits

ARITHMETIC = r"(plus|minus)?;? ?exponent (\d+).*2 to the power (-?\d+)(?: times ([01]) and (\d+)/(\d+))?"

GRAY = """(name) => {
  const root = document.querySelector('[data-widget=bits]'), list = root.querySelector('select');
  list.value = name; list.dispatchEvent(new Event('change'));
  for (const bit of root.querySelectorAll('[aria-pressed=true]'))
    root.querySelector(`[data-bit="${bit.dataset.bit}"]`).click();
  const width = root.querySelectorAll('.bit').length, seen = [];
  for (let n = 0; n < 1 << width; n++) {
    if (n) root.querySelector(`[data-bit="${Math.log2(n & -n)}"]`).click();
    const digits = [...root.querySelectorAll('.bit')].map(bit => bit.textContent).join('');
    seen.push([digits, root.querySelector('.value').textContent, root.querySelector('.says').textContent]);
  }
  return seen; }"""


@pytest.mark.parametrize("name", [name for name, element in ELEMENTS.items() if element.bits <= 8])
def test_bits_say_what_every_code_of_every_format_means(name: str, page: Any) -> None:
    element = ELEMENTS[name]
    seen = page.evaluate(GRAY, name)
    codes = [int(digits, 2) for digits, _, _ in seen]
    assert sorted(codes) == list(range(1 << element.bits))  # by toggling one bit at a time
    values = element.decode(np.array(codes, np.uint8))
    assert [value for _, value, _ in seen] == [number(v) for v in values]
    for (digits, value, says), code in zip(seen, codes):
        assert says.startswith(f"Code {code} of {name.upper()}, bits {digits}: ") and f" {value}." in says
        parts = re.search(ARITHMETIC, says)
        if parts:  # the sentence's own arithmetic
            sign, power = -1 if parts[1] == "minus" else 1, int(parts[3])
            whole = int(parts[4]) + int(parts[5]) / int(parts[6]) if parts[4] else 1
            assert np.float32(sign * whole * 2.0**power) == np.float32(float(value))


def test_bits_by_keyboard(page: Any) -> None:
    page.locator("[data-widget=bits] select").select_option("e2m1")
    before = page.locator("[data-widget=bits] .value").inner_text()
    page.locator("[data-widget=bits] [data-bit='3']").focus()
    page.keyboard.press("Space")
    after = page.locator("[data-widget=bits] .value").inner_text()
    assert float(after) == -float(before)
    assert page.evaluate("document.activeElement.dataset.bit") == "3"  # the toggled bit keeps the focus


# ---- the tape

TAPE = """() => {
  const root = document.querySelector('[data-widget=tape]'), seen = [];
  const next = [...root.querySelectorAll('button')].find(b => b.textContent === 'Next');
  for (let n = 0; n < 99; n++) {
    seen.push([root.querySelector('b').textContent, root.querySelector('.says').textContent,
      [...root.querySelectorAll('svg text')].map(text => text.textContent)]);
    if (next.disabled) return seen;
    next.click();
  } }"""


def test_the_tape_is_walked_as_the_library_walks_it(page: Any) -> None:
    walk = tables.tape_walk()
    seen = page.evaluate(TAPE)
    assert [says for _, says, _ in seen] == [event.say() for event in walk]
    assert [where.split(": ", 1) for where, _, _ in seen] == [
        [f"Event {n} of {len(walk)}, {event.phase}", event.card] for n, event in enumerate(walk, 1)
    ]
    leaves = {name: Tensor(np.float64(v), requires_grad=True) for name, v in (("a", 2), ("b", -3), ("c", 10))}
    ((leaves["a"] * leaves["b"] + leaves["c"]) * leaves["a"]).backward()
    texts = seen[-1][2]
    for name, leaf in leaves.items():
        assert texts[texts.index(name) + 2] == f"grad {number(leaf.grad)}"


# ---- outlier

OUTLIER = """() => {
  const root = document.querySelector('[data-widget=outlier]'), input = root.querySelector('input'), seen = [];
  for (let n = +input.min; n <= +input.max; n++) {
    input.value = n; input.dispatchEvent(new Event('input'));
    seen.push({ says: root.querySelector('.says').textContent, output: root.querySelector('output').textContent,
      rows: [...root.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.textContent)) });
  }
  return seen; }"""


def test_the_outlier_does_to_its_block_what_it_does_in_the_library(page: Any) -> None:
    seen = page.evaluate(OUTLIER)
    assert len(seen) == tables.STEPS
    for position, now in enumerate(seen):
        x = tables.outlier_block(position)
        assert now["output"] == number(x[tables.OUTLIER]) and shown_numbers(now["rows"], 1).tolist() == tables.texts(x)
        for column, fmt in ((2, "nvfp4"), (3, "mxfp4")):
            packed = quantize(x[None], fmt)
            became = packed.dequantize()[0]
            assert shown_numbers(now["rows"], column).tolist() == [number(v) for v in became]
            others = np.delete(np.arange(32), tables.OUTLIER)
            zeros = int(((became == 0) & (x != 0))[others].sum())
            whole = np.float32(1 if packed.tensor_scale is None else packed.tensor_scale)
            scales = " and ".join(number(np.float32(s) * whole) for s in np.ravel(packed.decoded_scales()))
            told = f"{scales}; the outlier became {number(became[tables.OUTLIER])}, and {zeros} of the 31 others"
            assert f"{told} became zero." in now["says"]


# ---- stairs

STAIRS = """() => {
  const root = document.querySelector('[data-widget=stairs]'), [x, die] = root.querySelectorAll('input');
  const put = (input, value) => { input.value = value; input.dispatchEvent(new Event('input')); };
  const seen = [];
  for (let n = +x.min; n <= +x.max; n++) {
    put(x, n);
    for (let face = 1; face <= 16; face++) { put(die, face); seen.push(root.querySelector('.says').textContent); }
  }
  return seen; }"""


def test_the_staircase_and_the_die_round_as_the_library_does(page: Any) -> None:
    seen = iter(page.evaluate(STAIRS))
    x = tables.stair_inputs()
    nearest = E2M1.decode(E2M1.encode(x))
    faces = np.tile(np.array([tables.face_bits(face) for face in range(1, 17)], np.uint32), (x.size, 1))
    thrown = E2M1.decode(E2M1.encode(np.repeat(x[:, None], 16, axis=1), ties="stochastic", random=faces))
    for n in range(x.size):
        for face in range(1, 17):
            says = next(seen)
            begin = f"{number(x[n])} rounds to nearest as {number(nearest[n])}. "
            assert says.startswith(f"{begin}The die shows {face}: {number(thrown[n, face - 1])}. "), says
        mean = re.search(r"their mean is (-?[\d.]+)\.$", says)
        if mean:
            assert float(mean[1]) == pytest.approx(float(thrown[n].mean()), rel=1e-5)
        else:
            assert len(set(thrown[n])) == 1


# ---- nibbles, cache, histogram, roofline


def put(page: Any, kind: str, which: int, value: int) -> str:
    """Set a slider of a widget; what the widget says then."""
    return page.evaluate(
        """([kind, which, value]) => {
        const root = document.querySelector(`[data-widget=${kind}]`), input = root.querySelectorAll('input')[which];
        input.value = value; input.dispatchEvent(new Event('input'));
        return root.querySelector('.says').textContent; }""",
        [kind, which, value],
    )


@pytest.mark.parametrize("order", NIBBLE_ORDERS)
def test_codes_are_packed_as_the_library_packs_them_wherever_they_are_moved(order: str, page: Any) -> None:
    root = page.locator("[data-widget=nibbles]")
    root.locator("select").select_option(order)
    rng = np.random.default_rng(0)
    for _ in range(12):
        tile = int(rng.integers(8))
        root.locator("button.tile").nth(tile).focus()
        page.keyboard.press(["ArrowLeft", "ArrowRight"][int(rng.integers(2))])
        codes = np.array([int(text, 16) for text in root.locator("button.tile b").all_inner_texts()], np.uint8)
        packed = pack_nibbles(codes, order, group=8)
        said = root.locator(".says").inner_text()
        assert said.startswith(f"Order {order}: the bytes are {' '.join(f'{byte:02x}' for byte in packed)}. ")
    assert sorted(codes) == sorted(tables.nibbles()["codes"])


def test_a_code_is_dragged_with_the_pointer(page: Any) -> None:
    root = page.locator("[data-widget=nibbles]")
    before = root.locator("button.tile b").all_inner_texts()
    root.scroll_into_view_if_needed()
    first, third = (root.locator("button.tile").nth(n).bounding_box() for n in (0, 2))
    page.mouse.move(first["x"] + 10, first["y"] + 10)
    page.mouse.down()
    page.mouse.move(third["x"] + 10, third["y"] + 10)
    page.mouse.up()
    assert root.locator("button.tile b").all_inner_texts() == [before[1], before[2], before[0], *before[3:]]


def test_every_two_codes_make_the_byte_that_the_library_makes() -> None:
    made = tables.nibbles()["bytes"]
    for low in range(16):
        for high in range(16):
            assert int(made[16 * high + low], 16) == pack_nibbles(np.array([low, high], np.uint8))[0]


def test_the_cache_hits_as_a_devices_cache_does(page: Any) -> None:
    """The widget's accesses against those of three cards of a real device."""
    x = Tensor(np.ones((1, 64), np.float32))
    for position, capacity in enumerate(tables.capacities()):
        said = put(page, "cache", 0, position)
        model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
        with autograd.use_twins(False), no_grad():
            device = place(model, "nvfp4", mode="inference", cache_bytes=capacity)
            with device.trace() as recorder:
                for _ in range(tables.RUNS):
                    model(x)
        kinds = [e.kind for e in recorder.in_order() if e.kind in ("decode", "decode hit")]
        found = " ".join("H" if kind == "decode hit" else "M" for kind in kinds)
        hits, thrown = found.count("H"), device.decode_cache.evictions
        assert said.endswith(f"{hits} of 12 accesses hit, {thrown} evictions. In order: {found}."), said


HISTOGRAM = """([kind, format]) => {
  const root = document.querySelector('[data-widget=histogram]');
  for (const [n, value] of [kind, format].entries()) {
    const list = root.querySelectorAll('select')[n]; list.value = value; list.dispatchEvent(new Event('change')); }
  return [root.querySelector('.says').textContent,
    [...root.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))]; }"""


@pytest.mark.parametrize("fmt", tables.HISTOGRAM_FORMATS)
def test_the_histogram_counts_what_the_format_made(fmt: str, page: Any) -> None:
    for kind, x in tables.samples().items():
        said, rows = page.evaluate(HISTOGRAM, [kind, fmt])
        packed = quantize(x, fmt)
        became = packed.dequantize()
        error = ((became - x).astype(np.float64) ** 2).sum()
        decibels = 10 * np.log10((x.astype(np.float64) ** 2).sum() / error)
        assert f"signal to noise {decibels:.2f} dB; {int((became == 0).sum())} of 4096 became zero" in said
        for values, column in ((x, 1), (became, 2)):
            inner = [int(row[column]) for row in rows[1:-1]]
            edges = tables.EDGES[1:-1]
            assert inner == [int(((values >= a) & (values < b)).sum()) for a, b in itertools.pairwise(edges)]
            assert sum(int(row[column]) for row in rows) == x.size


LIMITED = r" does (\S+) operations a byte and reaches (\S+)e9, limited by (\w+)"


def test_the_roofline_is_the_smaller_of_two_roofs(page: Any) -> None:
    bits = {"float32": 32, "nvfp4": 4.5, "mxfp4": 4.25}
    for b, bandwidth in enumerate(tables.BANDWIDTHS):
        put(page, "roofline", 1, b)
        for p, peak in enumerate(tables.PEAKS):
            put(page, "roofline", 2, p)
            for n in range(13):
                said, rows = put(page, "roofline", 0, n), 1 << n
                for fmt in tables.ROOF_FORMATS:
                    moved = bits[fmt] / 8 * 1024**2 + 8 * rows * 1024
                    per_byte = 2 * rows * 1024**2 / moved
                    limit = "memory" if per_byte < peak / bandwidth else "arithmetic"
                    found = re.search(fmt + LIMITED, said)
                    assert float(found[1]) == pytest.approx(per_byte, rel=1e-3) and found[3] == limit
                    assert float(found[2]) == pytest.approx(min(peak, bandwidth * per_byte), rel=1e-3)


# ---- clip, kv


def test_the_clip_cuts_as_whole_numbers_under_one_scale_do(page: Any) -> None:
    """Every position, against divide, clip, round and multiply."""
    x = tables.activations()
    largest = np.abs(x).max()
    errors: dict[str, list[float]] = {"INT8": [], "INT4": []}
    said = [put(page, "clip", 0, n) for n in range(tables.CLIPS)]
    for n in range(tables.CLIPS):
        top = np.float32((n + 1) / 20) * largest
        beyond = np.abs(x) > top
        for name, steps in (("INT8", 127), ("INT4", 7)):
            scale = top / np.float32(steps)
            back = np.clip(np.round(np.clip(x, -top, top) / scale), -steps, steps) * scale
            squares = (back.astype(np.float64) - x) ** 2
            errors[name].append(float(squares.mean()))
            cut, decibels = squares[beyond].sum() / x.size, sqnr_db(x, back)
            told = f"{name}: mean squared error {squares.mean():.3g}, of which {cut:.3g} by cutting off"
            assert f"{told}; {decibels:.1f} dB" in said[n], said[n]
        assert f"{beyond.sum()} of {x.size} numbers are beyond it" in said[n]
    for name, found in errors.items():
        rounded = [float(f"{error:.3g}") for error in found]
        assert f"least at {(1 + rounded.index(min(rounded))) / 20:g}." in said[0].split(f"{name}: ")[1]
    rows = page.locator("[data-widget=clip] tbody tr")
    assert rows.count() == tables.CLIPS and rows.last.locator("td").last.text_content() == f"{errors['INT4'][-1]:.3g}"


KV = """([what, who]) => {
  const root = document.querySelector('[data-widget=kv]'), [bits, group] = root.querySelectorAll('input');
  for (const [n, value] of [what, who].entries()) {
    const list = root.querySelectorAll('select')[n]; list.value = value; list.dispatchEvent(new Event('change')); }
  const put = (input, value) => { input.value = value; input.dispatchEvent(new Event('input')); };
  const seen = [];
  for (let b = 0; b <= +bits.max; b++)
    for (let g = 0; g <= +group.max; g++) {
      put(bits, b); put(group, g); seen.push(root.querySelector('.says').textContent); }
  const rows = [...root.querySelectorAll('tbody tr')];
  return [seen, rows.map(row => [...row.cells].slice(1).map(cell => cell.textContent))]; }"""


@pytest.mark.parametrize("who", ["a token", "a channel"])
@pytest.mark.parametrize("what", ["keys", "values"])
def test_the_rounded_cache_is_as_wrong_and_as_large_as_it_says(what: str, who: str, page: Any) -> None:
    queries, keys, values = tables.kv_cache()

    def output(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        scores = np.where(np.tri(256, dtype=bool), queries @ keys.T / np.sqrt(64), -np.inf)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True)) @ values

    seen, rows = page.evaluate(KV, [what, who])
    exact, told = output(keys, values), iter(seen)
    for b, bits in enumerate((2, 3, 4, 6, 8)):
        for g, group in enumerate((8, 16, 32, 64)):
            x = keys if what == "keys" else values
            x = np.ascontiguousarray(x if who == "a token" else x.T)
            parts = x.reshape(len(x), -1, group)
            scale = np.abs(parts).max(axis=2, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
            back = (np.round(parts / scale) * scale).reshape(x.shape)
            if bits == 4 and f"int4-g{group}" in FORMATS:
                assert np.array_equal(back, fake_quantize(x, f"int4-g{group}"))
            back = back if who == "a token" else back.T
            off = output(back, values) if what == "keys" else output(keys, back)
            wrong = f"{((off - exact) ** 2).sum() / (exact**2).sum():.2g}"
            token = 30 * 3 * 64 * 2 * (bits + 32 / group) / 8
            says = next(told)
            assert f"{what} rounded, to {bits} bits, {group} numbers of {who} to a scale: {wrong} of the output" in says
            stored = f"{bits + 32 / group:g} bits a number with the scales, {token:,.0f} bytes a token"
            assert f"{stored}; in float32 46,080." in says
            assert rows[b][g] == wrong
    room = KeyValueCache(30, 1, 3, 1, 64, keys="int4-g32", values="int4-g32").token_nbytes
    assert room == tables.kv()["bytes"][2][2] and KeyValueCache(30, 1, 3, 1, 64).token_nbytes == tables.kv()["float32"]


@pytest.mark.parametrize("kind", ["clip", "kv"])
def test_sliders_move_by_keyboard_and_say_their_value(kind: str, page: Any) -> None:
    slider = page.locator(f"[data-widget={kind}] input").first
    put(page, kind, 0, 1)
    before = page.locator(f"[data-widget={kind}] .says").inner_text()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(f"[data-widget={kind}] .says").inner_text() != before
    assert slider.get_attribute("aria-valuetext") == page.locator(f"[data-widget={kind}] output").first.inner_text()


# ---- all


def test_the_die_rolls(page: Any) -> None:
    page.evaluate("Math.random = () => 0.999")
    page.locator("[data-widget=stairs] button", has_text="Roll").first.click()
    assert "The die shows 16: " in page.locator("[data-widget=stairs] .says").inner_text()
    assert "You rolled 1 time;" in page.locator("[data-widget=stairs] .says").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_widgets_fit_and_can_be_used_by_anybody(browser: Any, sheet: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(sheet.as_uri())
    assert not wide(page) and not small_targets(page), (wide(page), small_targets(page))
    assert not (found := complaints(page)), "\n".join(found)
    assert page.locator(".widget .says").count() == len(widgets.TITLES)  # each has its text twin
    context.close()


def test_without_script_nothing_of_them_is_seen(browser: Any, sheet: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(sheet.as_uri())
    assert page.locator("main").inner_text().split() == ["Widgets", "All", "of", "them"]
    context.close()

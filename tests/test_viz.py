"""Every picture has a description, a table and, where matplotlib is installed, a drawing."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from vbw_np import viz
from vbw_np.device import place
from vbw_np.engine import Tensor, nn, no_grad
from vbw_np.formats import E2M1, E4M3, INT4, quantize

drawing = pytest.mark.skipif(not viz.have_matplotlib(), reason="matplotlib is not installed: pip install matplotlib")


def _events():
    model = nn.Sequential(nn.Linear(32, 32, rng=0))
    device = place(model, "nvfp4", mode="inference")
    with device.trace() as recorder, no_grad():
        model(Tensor(np.zeros((1, 32), np.float32)))
    return recorder.in_order()


def _strip():
    x = np.linspace(-3, 3, 32, dtype=np.float32)
    packed = quantize(x[None], "nvfp4")
    return viz.block_strip(x, packed.dequantize(), packed.decoded_scales(), 16)


PICTURES = {
    "number line": lambda: viz.number_line(E2M1, points={"x": 2.6, "y": -5.1}),
    "number line of INT4": lambda: viz.number_line(INT4),
    "part of E4M3": lambda: viz.number_line(E4M3, low=0.9, high=2.1),
    "staircase": lambda: viz.staircase({"E2M1": lambda x: E2M1.decode(E2M1.encode(x)), "floor": np.floor}, -2, 2),
    "bit lanes": lambda: viz.bit_lanes([("three", "0101", "SEEM"), ("minus three", "1101", "SEEM")]),
    "byte lane": lambda: viz.byte_lane(np.array([0x3A, 0x01], np.uint8), 3),
    "byte lane, high first": lambda: viz.byte_lane(np.array([0x3A], np.uint8), order="high_first"),
    "images": lambda: viz.images({"photo": viz.photograph(32, 48), "flat": np.zeros((32, 48))}),
    "block strip": _strip,
    "heat map": lambda: viz.heat_map(np.eye(4), label="identity"),
    "large heat map": lambda: viz.heat_map(np.random.default_rng(0).random((40, 40))),
    "curves": lambda: viz.curves({"a": [3.0, 2.0, 1.0], "b": [3.0, 2.5, 2.0]}),
    "bars": lambda: viz.bars({"x": {"a": 1.0, "b": 2.0}, "y": {"a": 3.0, "b": 4.0}}),
    "tape": lambda: viz.tape(lambda a, b: (a * b).tanh() + a, a=0.5, b=-3.0),
    "access map": lambda: viz.access_map([("w0", False), ("w1", False), ("w0", True)]),
    "timeline": lambda: viz.timeline(_events()),
    "roofline": lambda: viz.roofline({"vector": (0.5, 10.0), "matrix": (64.0, 300.0)}, peak=400, bandwidth=40),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_speaks_without_being_seen(name):
    picture = PICTURES[name]()
    assert len(picture.alt) > 40 and picture.title
    assert picture.rows and all(len(row) == len(picture.columns) for row in picture.rows)
    text = repr(picture)
    assert picture.alt in text and picture.columns[-1] in text
    assert len(picture.table.splitlines()) == 1 + len(picture.rows)


@drawing
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn(name, tmp_path):
    picture = PICTURES[name]()
    picture.save(tmp_path / "p.png", dpi=40)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    html = picture._repr_html_()
    assert 'src="data:image/png;base64,' in html and 'alt="' in html and "<details>" in html


@drawing
@pytest.mark.parametrize("name", PICTURES)
def test_every_letter_lies_inside_and_can_be_read_on_a_telephone(name):
    from matplotlib.text import Text

    figure = PICTURES[name]().figure()
    figure.canvas.draw()
    sheet = figure.bbox.padded(2)
    for part in (*figure.axes, *figure.legends):
        box = part.get_tightbbox()
        assert sheet.contains(box.x0, box.y0) and sheet.contains(box.x1, box.y1), part
    assert figure.get_figwidth() <= 5.2
    for text in figure.findobj(Text):
        assert text.get_fontsize() / 72 / figure.get_figwidth() * 371 > 7, text  # pixels of 400, less the margins


@drawing
def test_the_same_picture_gives_the_same_bytes():
    assert PICTURES["number line"]().png() == PICTURES["number line"]().png()


@drawing
def test_drawing_leaves_no_figure_in_pyplots_state():
    import sys

    PICTURES["bars"]().png()
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


@pytest.fixture
def without_matplotlib(monkeypatch):
    real = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)


def test_without_matplotlib_words_remain_and_the_way_to_get_it(without_matplotlib):
    picture = PICTURES["curves"]()
    html = picture._repr_html_()
    assert "<img" not in html and "pip install matplotlib" in html and "<table>" in html and picture.alt in html
    with pytest.raises(ImportError, match="pip install matplotlib"):
        picture.figure()


def test_html_is_escaped():
    picture = viz.bars({"<script>": {"a & b": 1.0}}, title='"quoted" <b>')
    html = picture._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "<b>" not in html


def test_the_palette_is_okabe_and_itos():
    assert set(viz.PALETTE) == {
        "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
    }  # fmt: skip


def test_a_bar_of_nought_has_no_minus():
    assert "a 0.0," in viz.bars({"x": {"a": -0.001, "b": -1.0}}).alt


# ---- what pictures say


def test_the_number_line_knows_bins_and_marks():
    picture = viz.number_line(E2M1, points={"x": 2.6})
    rows = {row[1]: row for row in picture.rows}
    assert rows[2.0][0] == "0100" and rows[2.0][2:] == (1.75, 2.5)
    assert "x at 2.6 goes to 3" in picture.alt


def test_the_tape_has_values_and_gradients_of_inner_results():
    picture = viz.tape(lambda a, b, c: (a * b + c) * a, a=2.0, b=-3.0, c=10.0)
    rows = {row[0]: row for row in picture.rows}
    assert rows["a"][1:3] == ("2", "-2") and rows["b"][2] == "4" and rows["c"][2] == "2"
    assert rows["mul (#0)"][1:3] == ("-6", "2") and rows["mul (#2)"][1:3] == ("8", "1")


def test_drawing_a_tape_leaves_the_engine_as_it_was():
    from vbw_np.engine import autograd

    before = autograd.Primitive.__call__
    with pytest.raises(ValueError, match="wrong"):
        viz.tape(lambda a: (_ for _ in ()).throw(ValueError("wrong")), a=1.0)
    assert autograd.Primitive.__call__ is before


def test_the_byte_lane_says_which_code_is_first():
    low = viz.byte_lane(np.array([0x3A], np.uint8))
    high = viz.byte_lane(np.array([0x3A], np.uint8), order="high_first")
    assert low.rows[0][4] == "10 (element 0)" and high.rows[0][4] == "3 (element 0)"


def test_the_access_map_counts():
    picture = PICTURES["access map"]()
    assert picture.rows == (("w0", 2, 1, "M.H"), ("w1", 1, 0, ".M."))


def test_the_roofline_knows_what_limits():
    limits = [row[-1] for row in PICTURES["roofline"]().rows]
    assert limits == ["memory", "arithmetic"]


def test_the_photograph_is_ours_and_reproducible():
    photo = viz.photograph()
    assert photo.shape == (192, 288) and photo.dtype == np.float32 and 0 <= photo.min() < photo.max() <= 1
    np.testing.assert_array_equal(photo, viz.photograph())
    assert len(np.unique(photo)) > 1000


def test_the_timeline_counts_milliseconds():
    class Event:
        def __init__(self, kind, start, end):
            self.kind, self.start, self.end = kind, start, end

    picture = viz.timeline([Event("decode", 1_000_000, 3_000_000), Event("matmul", 3_000_000, 3_500_000)])
    assert picture.rows == (("decode", 1, 2.0), ("matmul", 1, 0.5))

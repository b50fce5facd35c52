"""Pictures for the notebooks, drawn with matplotlib if it is installed.

    from vbw_np import viz

    viz.number_line(E2M1)                      # in a notebook the picture, its description and its table
    print(viz.number_line(E2M1))               # anywhere: description and table as text
    viz.number_line(E2M1).save("e2m1.png")

Every function returns a `Picture`: lazily drawn, with a description (`.alt`) and the plotted numbers (`.table`).
Colors are Okabe and Ito's, told apart by the color-blind, and never the only sign: hatches, markers, line styles and
letters say the same. Without matplotlib a picture shows its description, its table and how to install it.
"""

from __future__ import annotations

from .blocks import block_strip, heat_map, images, photograph
from .numbers import bit_lanes, byte_lane, number_line, staircase
from .picture import PALETTE, Picture, have_matplotlib
from .tape_walk import TapeSteps, walk_tape
from .timelines import access_map, bars, curves, roofline, tape, timeline

__all__ = [
    "PALETTE",
    "Picture",
    "TapeSteps",
    "access_map",
    "bars",
    "bit_lanes",
    "block_strip",
    "byte_lane",
    "curves",
    "have_matplotlib",
    "heat_map",
    "images",
    "number_line",
    "photograph",
    "roofline",
    "staircase",
    "tape",
    "timeline",
    "walk_tape",
]

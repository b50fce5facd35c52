"""What kernels call the scale rules, roundings and rules for zeros: their numbers."""

from __future__ import annotations

FLOOR, EVEN, CEIL, RCEIL, TE, ABSMAX = range(6)
"""Scale rules that kernels know; those of MX come first."""

HIGHEST = 252
"""The E8M0 code above which the largest element would leave float32's range (`formats.scales`)."""

NEAREST, STOCHASTIC, STOCHASTIC_8 = range(3)
KEEP, DROP, NEVER = range(3)
"""Rules for the sign of zero."""

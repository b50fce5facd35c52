"""All exercises of the curriculum, in its order."""

from __future__ import annotations

from ..errors import UserError
from .exercise import Exercise
from .lessons import (
    block_scales,
    cards,
    codes_and_bytes,
    files,
    kv_cache,
    one_number,
    own_parts,
    post_training,
    roofline_and_museum,
    sums,
    training_steps,
    whole_numbers,
)

_LESSONS = (codes_and_bytes, block_scales, cards, training_steps, roofline_and_museum, own_parts, files, post_training,
            sums, one_number, whole_numbers, kv_cache)  # fmt: skip
EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in sorted((e for lesson in _LESSONS for e in lesson.EXERCISES), key=lambda e: e.name)
}


def exercises() -> dict[str, Exercise]:
    """All exercises by name, in the order of the curriculum."""
    return EXERCISES


def get_exercise(name: str) -> Exercise:
    """An exercise by name, or an error that lists those of the same notebook."""
    if name not in EXERCISES:
        near = [other for other in EXERCISES if other[:2] == str(name)[:2]] or list(EXERCISES)
        raise UserError(f"there is no exercise {name!r}; try {', '.join(near)}")
    return EXERCISES[name]

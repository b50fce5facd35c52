"""Profiles: a producer's exact behaviour as a frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from .blocks import BlockFormat
from .errors import FormatError, unknown_name


@dataclass(frozen=True)
class Profile:
    """What one release of one library does.

    Parameters
    ----------
    name : str
    producer, version : str
    format : BlockFormat
        The record with the producer's arithmetic, tie and zero rules, and container.
    family : str
        The plain format that it is a variant of.
    checked : str
        How our bytes are known to be the library's.
    """

    name: str
    producer: str
    version: str
    format: BlockFormat
    family: str
    checked: str

    def for_format(self, fmt: BlockFormat) -> BlockFormat:
        """This profile's record, if it is a variant of `fmt`."""
        if fmt.name != self.family:
            raise FormatError(f"profile {self.name} is a variant of {self.family}, not of {fmt.name}")
        return self.format


PROFILES: dict[str, Profile] = {}


def get_profile(name: str | Profile) -> Profile:
    """A profile by name."""
    if isinstance(name, Profile):
        return name
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]

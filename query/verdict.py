"""What the gate found in an accepted statement. Pure values; they travel from the child to the parent as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from trace_ray.contracts import BlockRange

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

LAST: Final = 2**63 - 1  # block numbers are signed 64-bit; a range ends before this
EVERYTHING: Final = (BlockRange(0, LAST),)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accepted statement: the granted relations and the functions in it.

    `block_ranges` says for each of `relations` which blocks can matter, sorted and disjoint; empty means none.
    """

    relations: frozenset[str]
    functions: frozenset[str]
    block_ranges: Mapping[str, tuple[BlockRange, ...]]

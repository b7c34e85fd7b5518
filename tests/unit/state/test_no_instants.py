"""The database's clock is the only clock: no instant travels between the Dispatcher and its workers, only durations."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from typing import get_args, get_type_hints

import pytest

from actors.dispatcher import HeadAnswer
from actors.worker import Held
from trace_ray.contracts import Failure, HeadRequest, LeaseGroup, Publication


def parts(kind: object, seen: set[object]) -> Iterator[object]:
    """Yield every type that a value of a type can hold."""
    if kind in seen:
        return
    seen.add(kind)
    yield kind
    for inner in get_args(kind):
        yield from parts(inner, seen)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        for field in fields(kind):
            yield from parts(hints[field.name], seen)


@pytest.mark.parametrize("travels", [LeaseGroup, HeadRequest, Publication, Failure, HeadAnswer, Held])
def test_a_workers_clock_is_never_told_and_never_read(travels: type) -> None:
    found = list(parts(travels, set()))
    assert not {datetime, date, time} & {one for one in found if isinstance(one, type)}
    names = {field.name for kind in found if isinstance(kind, type) and is_dataclass(kind) for field in fields(kind)}
    assert not {name for name in names if name.endswith(("_at", "_until", "deadline"))}

"""Leases, outcomes and acknowledgements between the Dispatcher and a worker, each message one piece of bytes.

Ray hands bytes over as they are; anything else goes through a pickler that asks Python about every value, which for a
short range costs more than all the rest. Both sides run the same code: workers of another build get no leases.
"""

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from io import BytesIO
from operator import attrgetter
from typing import Any, Final, TypeVar, cast
from uuid import UUID, SafeUUID

from actors.orders import Group, Result
from trace_ray.contracts import (
    AttemptKey,
    BlockRange,
    Certificate,
    DataFile,
    Failure,
    Lease,
    LeaseGroup,
    Publication,
    Task,
)

G = TypeVar("G", bound=Group)

Reduced = tuple[Callable[..., object], tuple[object, ...]]


def _by_fields(cls: type[Any]) -> Callable[[object], Reduced]:
    values = attrgetter(*(one.name for one in fields(cls)))
    return lambda one: (cls, values(one))


def _by_bytes(one: UUID) -> Reduced:
    return _uuid, (one.bytes,)


def _uuid(value: bytes) -> UUID:
    """Make what `UUID(bytes=value)` makes; its constructor, which asks for six kinds of input, takes twice as long."""
    made = UUID.__new__(UUID)
    object.__setattr__(made, "int", int.from_bytes(value))
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made


VALUES: Final = (LeaseGroup, Lease, Task, BlockRange, AttemptKey, Publication, Certificate, DataFile, Failure)
TABLE: Final[dict[type, Callable[[Any], Reduced]]] = {**{cls: _by_fields(cls) for cls in VALUES}, UUID: _by_bytes}


def pack(values: Iterable[Group] | Iterable[Result] | Iterable[AttemptKey]) -> bytes:
    """Return the message that carries these values."""
    written = BytesIO()
    pickler = pickle.Pickler(written, protocol=5)
    pickler.dispatch_table = TABLE
    pickler.dump(tuple(values))
    return written.getvalue()


def keys(message: bytes | Sequence[AttemptKey]) -> Sequence[AttemptKey]:
    """Return what a Dispatcher acknowledged. One of another build sends the keys themselves."""
    return cast(tuple[AttemptKey, ...], _unpack(message)) if isinstance(message, bytes) else message


def groups(message: bytes, kind: type[G]) -> tuple[G, ...]:
    """Return what a Dispatcher packed.

    Args:
        kind: What its worker runs; the Dispatcher sends it nothing else.
    """
    return cast(tuple[G, ...], _unpack(message))


def outcomes(message: bytes) -> tuple[Result, ...]:
    """Return what a worker packed."""
    return cast(tuple[Result, ...], _unpack(message))


def _unpack(message: bytes) -> object:
    return pickle.loads(message)  # noqa: S301 - from an actor of our own; Ray unpickles whatever actors send anyway

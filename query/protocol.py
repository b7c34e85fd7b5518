"""Frames between the service and its child: one byte of kind, four of length, then JSON or Arrow bytes. No pickle.

Either side takes the other's bytes for hostile: a frame has a size cap, its JSON exactly the known keys with the known
types. What does not fit raises `ProtocolBroken`, and the child is killed.
"""

import socket
import time
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

import orjson
import pyarrow as pa

from query.verdict import Json

HEADER_BYTES: Final = 5
JSON_BYTES: Final = 8 * 1024**2  # BIND of 10,000 signed URLs is about 5 MiB
BATCH_BYTES: Final = 64 * 1024**2  # the largest row that may pass, and what Arrow adds to it
JOINED_BYTES: Final = 64 * 1024  # below this one copy is cheaper than a second call of the kernel


class Kind(IntEnum):
    """Service to zygote: FORK, REAP; to worker: JUDGE, BIND, RUN. The others are their answers, FAIL of both."""

    FORK = 1
    JUDGE = 2
    BIND = 3
    RUN = 4
    REAP = 5
    HELLO = 16
    VERDICT = 17
    BOUND = 18
    HEADER = 19
    BATCH = 20
    DONE = 21
    REFUSED = 22
    FAIL = 23
    FORKED = 24
    REAPED = 25


class ProtocolBroken(Exception):
    """The other side sent what the protocol does not know, or ended in the middle of it."""


class OutOfTime(Exception):
    """No whole frame came before the deadline."""


class Channel:
    """One end of the conversation."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, kind: Kind, payload: bytes | memoryview, *, deadline: float | None = None) -> None:
        """Send a frame; raises like `receive`."""
        header = bytes([kind]) + len(payload).to_bytes(4, "big")
        try:
            self._socket.settimeout(_seconds_to(deadline))
            if len(payload) <= JOINED_BYTES:
                self._socket.sendall(header + payload)
            else:
                self._socket.sendall(header)
                self._socket.sendall(payload)
        except TimeoutError:
            raise OutOfTime from None
        except OSError:
            raise ProtocolBroken("the other side is gone") from None

    def send_json(self, kind: Kind, message: Mapping[str, object], *, deadline: float | None = None) -> None:
        self.send(kind, orjson.dumps(message), deadline=deadline)

    def receive(self, *, deadline: float | None = None) -> tuple[Kind, bytes | memoryview]:
        """Return the next frame.

        Args:
            deadline: On the clock of `time.monotonic`; None waits for ever.

        Raises:
            OutOfTime: the deadline passed first.
            ProtocolBroken: the other side is gone, or the frame is unknown or too large.
        """
        header = bytearray(HEADER_BYTES)
        self._fill(memoryview(header), deadline)
        size = int.from_bytes(header[1:], "big")
        try:
            kind = Kind(header[0])
        except ValueError:
            raise ProtocolBroken("unknown kind of frame") from None
        if size > (BATCH_BYTES if kind is Kind.BATCH else JSON_BYTES):
            raise ProtocolBroken("frame above its cap")
        memory = memoryview(pa.allocate_buffer(size)).cast("B")  # not cleared first, as a bytearray would be
        self._fill(memory, deadline)
        return kind, memory if kind is Kind.BATCH else memory.tobytes()

    def _fill(self, rest: memoryview, deadline: float | None) -> None:
        while rest:
            try:
                self._socket.settimeout(_seconds_to(deadline))
                received = self._socket.recv_into(rest)
            except TimeoutError:
                raise OutOfTime from None
            except OSError:
                raise ProtocolBroken("the other side is gone") from None
            if not received:
                raise ProtocolBroken("the other side is gone")
            rest = rest[received:]


def _seconds_to(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.001, deadline - time.monotonic())  # 0 would mean: do not wait


def fields(payload: bytes | memoryview, known: Mapping[str, type | tuple[type, ...]]) -> dict[str, Json]:
    """Return the JSON object of a frame, which has exactly the `known` keys, each with a value of its type."""
    try:
        message: Json = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise ProtocolBroken("not JSON") from None
    if not isinstance(message, dict) or set(message) != set(known):
        raise ProtocolBroken("unknown or missing keys")
    for key, wanted in known.items():
        value = message[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ProtocolBroken(f"{key} has another type")
    return message


def integer(value: Json) -> int:
    """Return a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolBroken("not a number")
    return value


def texts(value: Json) -> list[str]:
    """Return a list of strings."""
    if not isinstance(value, list):
        raise ProtocolBroken("not a list")
    strings = [item for item in value if isinstance(item, str)]
    if len(strings) != len(value):
        raise ProtocolBroken("not a list of strings")
    return strings

"""Frames from a hostile side break the conversation; they never pass as something else."""

import socket
import time
from collections.abc import Iterator

import pytest

from query.protocol import BATCH_BYTES, JSON_BYTES, Channel, Kind, OutOfTime, ProtocolBroken, fields, integer, texts


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), theirs


def test_frame_arrives_whole_however_it_is_cut(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    for byte in bytes([Kind.VERDICT]) + (3).to_bytes(4, "big") + b"abc":
        theirs.sendall(bytes([byte]))
    assert channel.receive() == (Kind.VERDICT, b"abc")


@pytest.mark.parametrize(
    "frame",
    [
        bytes([99]) + (0).to_bytes(4, "big"),
        bytes([Kind.DONE]) + (JSON_BYTES + 1).to_bytes(4, "big"),
        bytes([Kind.BATCH]) + (BATCH_BYTES + 1).to_bytes(4, "big"),
        bytes([Kind.DONE]) + (0xFFFFFFFF).to_bytes(4, "big"),
    ],
)
def test_unknown_or_oversized_frame_breaks_the_conversation(ends: tuple[Channel, socket.socket], frame: bytes) -> None:
    channel, theirs = ends
    theirs.sendall(frame)
    with pytest.raises(ProtocolBroken):
        channel.receive(deadline=time.monotonic() + 1)


def test_other_side_that_died_breaks_the_conversation(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    channel.send(Kind.JUDGE, b"unread")
    theirs.close()
    with pytest.raises(ProtocolBroken):
        channel.receive()
    with pytest.raises(ProtocolBroken):
        channel.send(Kind.JUDGE, b"too late")


@pytest.mark.parametrize("sent", [b"", b"\x12", bytes([Kind.DONE]) + (9).to_bytes(4, "big") + b"half"])
def test_end_in_the_middle_breaks_the_conversation(ends: tuple[Channel, socket.socket], sent: bytes) -> None:
    channel, theirs = ends
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ProtocolBroken):
        channel.receive()


def test_deadline_holds_even_when_bytes_drip(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    theirs.sendall(bytes([Kind.DONE]) + (9).to_bytes(4, "big") + b"half")
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        channel.receive(deadline=started + 0.05)
    assert time.monotonic() - started < 1


def test_deadline_holds_when_the_other_side_reads_nothing(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        channel.send(Kind.BIND, bytes(JSON_BYTES), deadline=started + 0.05)
    assert time.monotonic() - started < 1


def test_json_arrives_with_its_keys_and_types(ends: tuple[Channel, socket.socket]) -> None:
    channel, theirs = ends
    Channel(theirs).send_json(Kind.DONE, {"rows": 1, "truncated": False}, deadline=time.monotonic() + 1)
    kind, payload = channel.receive(deadline=time.monotonic() + 1)
    assert (kind, fields(payload, {"rows": int, "truncated": bool})) == (Kind.DONE, {"rows": 1, "truncated": False})


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{", b'{"rows": 1}', b'{"rows": 1, "truncated": false, "more": 1}',
     b'{"rows": "1", "truncated": false}', b'{"rows": true, "truncated": false}',
     b'{"rows": 1, "truncated": 0}', b"\xff", b"[" * 5_000],
)  # fmt: skip
def test_json_with_other_keys_or_types_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolBroken):
        fields(payload, {"rows": int, "truncated": bool})


def test_lists_and_numbers_are_checked() -> None:
    assert texts(["a"]) == ["a"]
    assert integer(3) == 3
    for wrong in ("a", ["a", 1], None, {"a": 1}):
        with pytest.raises(ProtocolBroken):
            texts(wrong)  # pyright: ignore[reportArgumentType] - hostile on purpose
    for wrong in (True, 1.5, "1", None):
        with pytest.raises(ProtocolBroken):
            integer(wrong)

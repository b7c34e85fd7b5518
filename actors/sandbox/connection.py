"""One HTTP/1.1 connection from inside a sandbox: whole requests in, answers out. Everything that comes is hostile.

Non-blocking; h11 parses. Headers, body and the time for a body are bounded; what breaks the protocol is answered 400
once, and closed.
"""

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import h11

from actors.sandbox import limits

READ: Final = 1 << 18

BodyCap = Callable[[str], int]
"""Path of a request -> the most bytes that its body may have."""


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request. `trailers`: lower case names of a chunked body's trailing fields, with their values."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str]


class BodyTooLarge(Exception):
    """A body is larger than the cap of its route. `path`: that route."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(path)


class Connection:
    """`closed` is true when nothing more can come or go; whoever sees that closes the socket with `close`."""

    def __init__(self, sock: socket.socket, cap: BodyCap) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._cap = cap
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.HEADERS)
        self._head: h11.Request | None = None
        self._pieces: list[bytes] = []
        self._out = bytearray()
        self._last = False
        self.held = 0  # bytes of an incomplete body
        self.body_since: float | None = None
        self.answering = False  # a request was handed out and has no answer yet
        self.closed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    @property
    def wants_to_read(self) -> bool:
        return not self._last and not self.answering

    @property
    def path(self) -> str:
        """Route of the request whose body is still coming."""
        return "" if self._head is None else _path(self._head)

    def read(self, now: float) -> list[Request]:
        """Take what is there; return the requests that are complete with it: none or one, the next waits its turn.

        Raises:
            BodyTooLarge: kill, or answer 413, as the route asks for.
        """
        try:
            data = self._socket.recv(READ)
        except BlockingIOError:
            return []
        except OSError:
            self.closed = True
            return []
        try:
            self._parser.receive_data(data)
            found = self._parse(now)
        except h11.RemoteProtocolError:
            self._refuse()
            return []
        if not data and found is None:
            self.closed = True
        return [] if found is None else [found]

    def _parse(self, now: float) -> Request | None:
        while True:
            event = self._parser.next_event()
            if event is h11.NEED_DATA:
                if self._parser.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                return None
            if isinstance(event, h11.Request):
                self._head, self._pieces, self.held, self.body_since = event, [], 0, now
                self._check_size(_declared(event))
            elif isinstance(event, h11.Data):
                self._pieces.append(bytes(event.data))
                self.held += len(event.data)
                self._check_size(self.held)
            elif isinstance(event, h11.EndOfMessage):
                return self._complete(event)
            else:  # closed, or paused until the answer is out
                return None

    def _complete(self, end: h11.EndOfMessage) -> Request | None:
        head, body = self._head, b"".join(self._pieces)
        self._head, self._pieces, self.held, self.body_since = None, [], 0, None
        if head is None:
            return None
        self.answering = True
        return Request(_text(head.method), _path(head), _fields(head.headers), body, _fields(end.headers))

    def _check_size(self, size: int) -> None:
        path = self.path
        if size > self._cap(path):
            raise BodyTooLarge(path)

    def answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
        last: bool = False,
    ) -> None:
        """Queue the answer to the request that was handed out. `last`: close after it."""
        self.answering = False
        self._last = self._last or last
        fields = [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers]
        if last:
            fields.append(("Connection", "close"))
        try:
            self._send(h11.Response(status_code=status, headers=fields, reason=HTTPStatus(status).phrase.encode()))
            self._send(h11.Data(data=body))
            self._send(h11.EndOfMessage())
            if self._parser.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                self._parser.start_next_cycle()
            else:
                self._last = True
        except h11.LocalProtocolError:
            self._last = True
        self.write()

    def next_request(self, now: float) -> list[Request]:
        """Return a request that came together with the one before it."""
        if self.answering or self._last:
            return []
        try:
            found = self._parse(now)
        except h11.RemoteProtocolError:
            self._refuse()
            return []
        return [] if found is None else [found]

    def write(self) -> None:
        try:
            while self._out:
                sent = self._socket.send(memoryview(self._out)[:READ])
                del self._out[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.closed = True
        if self._last and not self._out:
            self.closed = True

    def close(self) -> None:
        self.closed = True
        self._socket.close()

    def _send(self, event: h11.Event) -> None:
        data = self._parser.send(event)
        if data:
            self._out += data

    def _refuse(self) -> None:
        """Answer what is no HTTP, when an answer may still be given."""
        if self._parser.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self.answer(400, b'{"error": "this is no HTTP/1.1 request that is taken here"}', last=True)
        else:
            self.closed = True


def _text(value: bytes | bytearray) -> str:
    return bytes(value).decode("latin-1")


def _path(head: h11.Request) -> str:
    return _text(head.target).partition("?")[0]


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {_text(name).lower(): _text(value) for name, value in headers}


def _declared(head: h11.Request) -> int:
    """Return the length that a request announces; h11 has checked that it is a number."""
    return int(_fields(head.headers).get("content-length", "0"))

"""Real receivers of deliveries: an HTTP(S) server that behaves as badly as a path tells it, and a mail server."""

import base64
import contextlib
import random
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DRIP_S = 0.05
FLOOD = 256 * 1024**2  # bytes: far more than anybody should read


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]


@dataclass
class Heard:
    """What reached a receiver. `free` lets go of requests to `/hang`."""

    requests: list[Request] = field(default_factory=list[Request])
    connections: int = 0
    server_names: list[str | None] = field(default_factory=list["str | None"])
    flooded: list[int] = field(default_factory=list[int])
    free: threading.Event = field(default_factory=threading.Event)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def keys(self, path: str | None = None) -> list[str]:
        return [one.key for one in self.requests if path in (None, one.path)]


class Receiver(ThreadingHTTPServer):
    """Listens on a port of this machine until it is left."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard = Heard()
        self.scheme = "https" if tls else "http"
        self._tls = tls
        if tls:
            tls.sni_callback = lambda _, name, __: self.heard.server_names.append(name)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self.heard.connections += 1
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is none of our errors."""

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heard.free.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = 30

    @property
    def heard(self) -> Heard:
        assert isinstance(self.server, Receiver)
        return self.server.heard

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.heard.requests.append(Request(self.path, headers, body))
        BEHAVIOURS.get(self.path.split("?")[0], _Handler.answer)(self)

    def answer(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "13")
        self.end_headers()
        self.wfile.write(b"private words")

    def drop(self) -> None:
        """Go away without a word, as one that dies after it has read."""
        self.connection.shutdown(socket.SHUT_RDWR)

    def moody(self) -> None:
        """Fail 30 of 100 times, in one of several ways."""
        if self.heard.chance.random() < 0.7:
            self.answer()
        else:
            self.heard.chance.choice(
                (self.drop, lambda: self.answer(503), lambda: self.answer(429), lambda: self.answer(404))
            )()

    def hang(self) -> None:
        self.heard.free.wait(60)
        self.answer()

    def drip_head(self) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nX-Long: ")

    def drip_body(self) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")

    def _drip(self, start: bytes) -> None:
        self.wfile.write(start)
        with contextlib.suppress(OSError):
            while not self.heard.free.wait(DRIP_S):
                self.wfile.write(b"x")

    def flood(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        self._flood()

    def flood_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        self._flood()

    def _flood(self) -> None:
        written, chunk = 0, b"x" * 65536
        with contextlib.suppress(OSError):
            while written < FLOOD:
                self.wfile.write(chunk)
                written += len(chunk)
        self.heard.flooded.append(written)

    def garble(self) -> None:
        self.wfile.write(b"220 mail.example ready, private words\r\n")

    def redirect(self) -> None:
        self.answer(307, Location="/ok")

    def busy(self) -> None:
        self.answer(429, Retry_After="77")

    def gone(self) -> None:
        self.answer(410)

    def broken(self) -> None:
        self.answer(500)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Say nothing."""


BEHAVIOURS = {
    "/ok": _Handler.answer,
    "/moody": _Handler.moody,
    "/drop": _Handler.drop,
    "/hang": _Handler.hang,
    "/drip-head": _Handler.drip_head,
    "/drip-body": _Handler.drip_body,
    "/flood": _Handler.flood,
    "/flood-head": _Handler.flood_head,
    "/garble": _Handler.garble,
    "/redirect": _Handler.redirect,
    "/busy": _Handler.busy,
    "/gone": _Handler.gone,
    "/broken": _Handler.broken,
}


# --- mail ---------------------------------------------------------------------------------------------------------


@dataclass
class Mailbox:
    """What a mail server was handed, and how it behaves."""

    messages: list[bytes] = field(default_factory=list[bytes])
    logins: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    in_tls: list[bool] = field(default_factory=list[bool])
    offers_starttls: bool = True
    greeting: str = "220 mail.test ready"
    answers: dict[str, str] = field(default_factory=dict[str, str])  # by verb, or by recipient in lower case
    drips: bool = False
    drops_data: bool = False


class MailServer(socketserver.ThreadingTCPServer):
    """Speaks as much SMTP as a client needs to hand over a message; with `implicit` TLS from the first byte."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, tls: ssl.SSLContext, *, implicit: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _MailHandler)
        self.box = Mailbox()
        self.tls = tls
        self.implicit = implicit

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is none of our errors."""

    def __enter__(self) -> "MailServer":
        threading.Thread(target=self.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _MailHandler(socketserver.BaseRequestHandler):
    @property
    def host(self) -> MailServer:
        assert isinstance(self.server, MailServer)
        return self.server

    def handle(self) -> None:
        self.line: socket.socket = self.request
        self.line.settimeout(30)
        if self.host.implicit:
            self.wrap()
        self.reader = self.line.makefile("rb")
        if self.host.box.drips:
            self.drip()
            return
        self.say(self.host.box.greeting)
        for text in self.lines():
            if not self.obey(text):
                return

    def wrap(self) -> None:
        self.line = self.host.tls.wrap_socket(self.line, server_side=True)

    def lines(self) -> Iterator[str]:
        while line := self.reader.readline():
            yield line.decode().rstrip("\r\n")

    def say(self, text: str) -> None:
        self.line.sendall(f"{text}\r\n".encode())

    def drip(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.line.sendall(b"2")
                time.sleep(DRIP_S)

    def obey(self, text: str) -> bool:
        """Do what a line says; False ends the conversation."""
        box, verb = self.host.box, text.split(maxsplit=1)[0].upper()
        told = box.answers.get(verb) or box.answers.get(text.partition(":")[2].strip("<>").lower())
        if told is not None and verb != "DATA":
            self.say(told)
        elif verb == "EHLO":
            extensions = ["mail.test", "AUTH PLAIN LOGIN", "8BITMIME"] + ["STARTTLS"] * box.offers_starttls
            self.say("\r\n".join([*(f"250-{one}" for one in extensions), "250 SIZE 1000000"]))
        elif verb == "STARTTLS":
            self.say("220 go on")
            self.wrap()
            self.reader = self.line.makefile("rb")
        elif verb == "AUTH":
            _, user, password = base64.b64decode(text.split()[2]).decode().split("\0")
            box.logins.append((user, password))
            self.say("235 welcome")
        elif verb == "DATA":
            return self.take()
        elif verb == "QUIT":
            self.say("221 bye")
            return False
        else:
            self.say("250 fine")
        return True

    def take(self) -> bool:
        box = self.host.box
        self.say("354 go on")
        content = b""
        while not content.endswith(b"\r\n.\r\n"):
            content += self.reader.readline()
        if box.drops_data:
            self.line.shutdown(socket.SHUT_RDWR)
            return False
        box.messages.append(content[:-5])
        box.in_tls.append(isinstance(self.line, ssl.SSLSocket))
        self.say(box.answers.get("DATA", "250 taken"))
        return True

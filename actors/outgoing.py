"""Requests and messages to receivers, over connections that go nowhere else: each address is judged, and then used.

A host is resolved once for a connection. Every address that it has is judged, and the connection is made to one of
these very addresses, so that a second answer of its DNS server changes nothing; TLS and the Host header still know the
host's name. No redirect is followed, no proxy is asked, nothing of an answer is kept but its status and its headers,
and all of it together has one deadline, which a receiver that drips cannot stretch. Errors name no host and quote no
answer.
"""

import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Final

import httpcore
import httpx

from trace_ray import destination
from trace_ray.channels import Sending, Sent, Unsent
from trace_ray.destination import Destination
from trace_ray.errors import DestinationRefused

SEND_S: Final = 15.0  # from the first byte to the last; a receiver puts work aside and answers
CONNECT_S: Final = 5.0  # to one address; a host may have several
MAX_ANSWER: Final = 64 * 1024  # bytes of a body that are read, for the receiver's sake, and dropped
PERMANENT: Final = 500  # SMTP: from here on the same message gets the same answer

Resolver = Callable[[str, int], Sequence[str]]


class Unresolved(Exception):
    """A host has no address now."""


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as this machine's resolver knows them. Raises Unresolved."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise Unresolved from error


def tls_context() -> ssl.SSLContext:
    """Return what trusts the public authorities, whatever the environment says."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class Network:
    """How receivers are reached. `limit_s`: for one sending as a whole; the resolver's own limit comes on top."""

    allow_loopback: bool = False
    resolver: Resolver = resolve
    tls: ssl.SSLContext = field(default_factory=tls_context)
    limit_s: float = SEND_S

    def addresses(self, place: Destination) -> list[str]:
        """Return the judged addresses of a place. Raises DestinationRefused, Unresolved."""
        return destination.checked(self.resolver(place.host, place.port), allow_loopback=self.allow_loopback)


# --- HTTP ---------------------------------------------------------------------------------------------------------


def post(
    network: Network,
    place: Destination,
    headers: Mapping[str, str],
    content: bytes,
    judge: Callable[[int, Mapping[str, str]], Sending],
) -> Sending:
    """Send one POST request.

    Args:
        judge: Says what status and headers (names in lower case) of an answer mean.
    """
    line = _Line(network, place)
    url = httpcore.URL(  # not parsed a second time: two parsers may see two hosts in one text
        scheme=place.scheme.encode(), host=place.host.encode(), port=place.port, target=place.target.encode()
    )
    sent = {**headers, "Host": place.authority, "Accept": "*/*", "Connection": "close"}
    try:
        with (
            httpcore.ConnectionPool(network_backend=line, ssl_context=network.tls, retries=0) as pool,
            pool.stream("POST", url, headers=list(sent.items()), content=content) as answer,
        ):
            verdict = judge(answer.status, _names(answer.headers))
            with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
                _drop(answer.iter_stream())
            return verdict
    except (DestinationRefused, Unresolved, httpcore.TimeoutException, httpcore.NetworkError) as error:
        return Unsent(_problem(error, connected=line.connected), in_doubt=line.connected)
    except httpcore.ProtocolError:
        return Unsent("the receiver gave no HTTP answer", in_doubt=True)


def _names(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _drop(chunks: Iterable[bytes]) -> None:
    """Read a short answer to its end, so that the receiver does not see its connection break."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_ANSWER:
            return


class _Line(httpcore.NetworkBackend):
    """Makes the one connection of a request. `connected`: bytes of the request may have reached the receiver."""

    def __init__(self, network: Network, place: Destination) -> None:
        self._network = network
        self._place = place
        self._give_up = time.monotonic() + network.limit_s
        self.connected = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        if (host, port) != (self._place.host, self._place.port):
            raise httpcore.ConnectError("not the place that was judged")
        last: Exception = httpcore.ConnectError()
        for address in self._network.addresses(self._place):
            try:
                stream = httpcore.SyncBackend().connect_tcp(
                    address, port, min(CONNECT_S, self.left(httpcore.ConnectTimeout))
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
                continue
            self.connected = not self._place.secure
            return _Stream(stream, self)
        raise last

    def left(self, late: type[httpcore.TimeoutException]) -> float:
        """Return how many seconds are left. Raises `late` when none is."""
        left = self._give_up - time.monotonic()
        if left <= 0:
            raise late()
        return left


class _Stream(httpcore.NetworkStream):
    """A stream whose reads and writes end together with the sending's time."""

    def __init__(self, stream: httpcore.NetworkStream, line: _Line) -> None:
        self._stream = stream
        self._line = line

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._line.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._line.left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._line.left(httpcore.ConnectTimeout))
        self._line.connected = True
        return _Stream(stream, self._line)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


# --- e-mail -------------------------------------------------------------------------------------------------------


def mail(
    network: Network, place: Destination, message: EmailMessage, *, user: str | None, password: str | None
) -> Sending:
    """Hand one message to a mail server, over TLS; without it only on this machine."""
    sender = str(message["From"])
    server: _MailServer | None = None
    try:
        server = _MailServer(network, place, name=sender.rpartition("@")[2])
        with server.hurried():
            server.dial()
            server.secure_line()
            if user is not None and password is not None:
                server.login(user, password)
            refused = server.send_message(message)
            with suppress(smtplib.SMTPException, OSError):  # it has the message: how we part changes nothing
                server.quit()
        return Sent(f"{len(refused)} of the recipients were refused" if refused else None)
    except smtplib.SMTPAuthenticationError as error:
        return Unsent(f"the mail server refused user and password with {error.smtp_code}")
    except (smtplib.SMTPConnectError, smtplib.SMTPHeloError) as error:
        return Unsent(f"the mail server greeted us with {error.smtp_code}")
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        return _answered(min(codes, default=0))
    except smtplib.SMTPResponseException as error:
        return _answered(error.smtp_code)
    except smtplib.SMTPNotSupportedError:
        return Unsent("the mail server offers no STARTTLS or no login: take another, or its smtps:// port")
    except (DestinationRefused, Unresolved, smtplib.SMTPException, OSError) as error:
        in_data = server is not None and server.in_data
        return Unsent(_problem(error, connected=in_data), in_doubt=in_data)
    finally:
        if server is not None:
            server.close()


def _answered(code: int) -> Unsent:
    return Unsent(f"the mail server answered {code}", retryable=code < PERMANENT)


class _MailServer(smtplib.SMTP):
    """A client over a connection that we made. `in_data`: the message itself is on its way."""

    def __init__(self, network: Network, place: Destination, *, name: str) -> None:
        super().__init__(local_hostname=name, timeout=network.limit_s)  # a name, so that nobody resolves ours
        self._network = network
        self._place = place
        self._give_up = time.monotonic() + network.limit_s
        self._line: socket.socket | None = None
        self._is_late = False
        self.in_data = False

    @contextmanager
    def hurried(self) -> Generator[None]:
        """End the connection when the time is up, whatever the other side drips meanwhile."""
        timer = threading.Timer(self._network.limit_s, self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, smtplib.SMTPException) as error:
            if self._is_late:
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()

    def _hang_up(self) -> None:
        self._is_late = True
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def dial(self) -> None:
        self._host = self._place.host  # what `starttls` looks for in the certificate
        code, _ = self.connect(self._place.host, self._place.port)
        if code != 220:  # noqa: PLR2004 - SMTP's word of welcome
            raise smtplib.SMTPConnectError(code, "")

    def secure_line(self) -> None:
        if self._place.secure:
            return
        self.ehlo_or_helo_if_needed()
        if self.has_extn("starttls") or not destination.is_loopback(self._place.host):
            self.starttls(context=self._network.tls)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        last: OSError = ConnectionRefusedError()
        for address in self._network.addresses(self._place):
            left = self._give_up - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                plain = socket.create_connection((address, port), min(CONNECT_S, left))
            except OSError as error:
                last = error
                continue
            self._line = plain.dup()  # the same connection, whatever is wrapped around it
            plain.settimeout(timeout)
            return self._network.tls.wrap_socket(plain, server_hostname=host) if self._place.secure else plain
        raise last

    def data(self, msg: Any) -> Any:
        self.in_data = True
        return super().data(msg)

    def close(self) -> None:
        super().close()
        if self._line is not None:
            self._line.close()
            self._line = None


# --- words --------------------------------------------------------------------------------------------------------


def _problem(error: BaseException, *, connected: bool) -> str:
    """Say what went wrong without the texts of others, which may quote a URL or an answer."""
    if isinstance(error, DestinationRefused):
        return str(error)
    if isinstance(error, Unresolved):
        return "the host's name cannot be resolved"
    cause = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "the receiver's certificate does not hold for its host"
    if isinstance(error, (httpcore.TimeoutException, TimeoutError)):
        return "the receiver did not answer in time" if connected else "the receiver cannot be reached in time"
    if isinstance(cause, ssl.SSLError):
        return "no TLS connection to the receiver can be made"
    return "the receiver broke the connection off" if connected else "the receiver cannot be reached"

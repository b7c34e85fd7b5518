"""The supervisor of one sandbox: serves it, watches clocks, counters, log and lease, ends it, and says how it ended.

One thread, one poll loop. Only `ask` runs elsewhere. Every limit is looked at here, from outside.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from actors.sandbox import limits as caps
from actors.sandbox import outcome
from actors.sandbox.connection import BodyTooLarge, Connection
from actors.sandbox.launch import LOG_READ, TASK_ROOT, Launched
from actors.sandbox.outcome import Cause, Evidence
from actors.sandbox.runtime_api import End, Phase, RuntimeApi, Work
from trace_ray.alerts import Invoked, OutcomeKind, SandboxLimits

READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR
LOG_KEEP: Final = 2 * caps.LOG_TAIL  # escapes that are cut off must not shorten the tail


class Session:
    """Close it, whatever happens. `boot` and `run` are called once each, by one thread at a time."""

    def __init__(self, launched: Launched, limits: SandboxLimits) -> None:
        self._launched = launched
        self._limits = limits
        self._api = RuntimeApi()
        self._connections: list[Connection] = []
        self._log = bytearray()
        self._logged = 0
        self._log_open = True
        self._work: Work | None = None
        self._next_look = 0.0
        self._cpu_s = 0.0
        self._memory_peak = 0
        if launched.connection is not None:
            self._connections.append(Connection(launched.connection, self._api.cap))

    @property
    def alive(self) -> bool:
        """It was started ahead and still waits for its handler."""
        return self._api.waiting is not None and not _readable(self._launched.ended)

    def boot(self) -> bool:
        """Serve until the interpreter waits for its handler; False when it does not come to that."""
        deadline = time.monotonic() + caps.LAUNCH_S
        while self._api.waiting is None:
            if time.monotonic() > deadline or self._api.end is not None:
                return False
            if self._turn() and self._api.waiting is None:
                return False
        self._launched.start_counting()
        return True

    def run(self, work: Work, cancelled: Callable[[], bool]) -> Invoked:
        """Hand out the invocation and serve until it is over, one way or another; the sandbox is dead after that."""
        self._work = work
        self._limits = work.invocation.limits
        self._api.give(work)
        began = time.monotonic()
        self._next_look = began + caps.POLL_S
        end: End | None = None
        while end is None:
            ended = self._turn()
            end = self._api.end or self._over_limit(time.monotonic(), cancelled)
            if end is None and ended:
                end = End(Cause.ENDED, "")
        return self._close_book(end, work, time.monotonic() - began)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._launched.close()

    # --- one turn -------------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Serve what is ready, or wait a moment. True when the process has ended and has nothing more to say."""
        by_number = {connection.fileno(): connection for connection in self._connections}
        ready = dict(self._poll().poll(self._patience_ms()))
        ended = ready.pop(self._launched.ended, 0)
        if ready.pop(self._launched.log, 0):
            self._log_open = self._read_log()
        if self._launched.listener is not None and ready.pop(self._launched.listener.fileno(), 0):
            self._accept(self._launched.listener)
        if self._work is not None and ready.pop(self._work.queries.fileno(), 0):
            self._answer_queries(self._work)
        for number, event in ready.items():
            self._serve(by_number[number], event)
        self._forget_closed()
        return bool(ended) and not ready

    def _poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._launched.ended, select.POLLIN)
        if self._log_open:
            poll.register(self._launched.log, select.POLLIN)
        if self._launched.listener is not None and len(self._connections) < caps.CONNECTIONS:
            poll.register(self._launched.listener, select.POLLIN)
        if self._work is not None:
            poll.register(self._work.queries, select.POLLIN)
        for connection in self._connections:
            mask = select.POLLIN * connection.wants_to_read | select.POLLOUT * connection.wants_to_write
            if mask:
                poll.register(connection, mask)
        return poll

    def _patience_ms(self) -> float:
        """Return how long to wait at the most: to the next look, or to the end of a limit."""
        now = time.monotonic()
        limit = self._limits.init_s if self._api.phase is Phase.INIT else self._limits.wall_s
        until = self._api.phase_since + limit - now
        return max(0.0, min(until, caps.POLL_S)) * 1000

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(Connection(sock, self._api.cap))

    def _answer_queries(self, work: Work) -> None:
        for connection, reply in work.queries.finished():
            if not connection.closed:
                connection.answer(reply.status, reply.body, content_type=reply.content_type)
                self._serve_more(connection)

    def _serve(self, connection: Connection, event: int) -> None:
        if event & select.POLLOUT:
            connection.write()
        if not event & READABLE or connection.closed:
            return
        try:
            requests = connection.read(time.monotonic())
        except BodyTooLarge as error:
            self._api.too_large(error.path, connection)
            return
        for request in requests:
            self._api.serve(request, connection)
        self._serve_more(connection)

    def _serve_more(self, connection: Connection) -> None:
        """Serve requests that came in one piece with the one before."""
        try:
            while requests := connection.next_request(time.monotonic()):
                self._api.serve(requests[0], connection)
        except BodyTooLarge as error:
            self._api.too_large(error.path, connection)

    def _forget_closed(self) -> None:
        for connection in [each for each in self._connections if each.closed]:
            self._connections.remove(connection)
            connection.close()

    def _read_log(self) -> bool:
        """Take what was printed; False at the end of the output."""
        try:
            piece = os.read(self._launched.log, LOG_READ)
        except BlockingIOError:
            return True
        self._logged += len(piece)
        self._log += piece
        del self._log[:-LOG_KEEP]
        return bool(piece)

    # --- limits ---------------------------------------------------------------------------------------------------

    def _over_limit(self, now: float, cancelled: Callable[[], bool]) -> End | None:
        limits = self._limits
        if self._api.phase is Phase.INIT and now - self._api.phase_since > limits.init_s:
            return End(Cause.INIT_WALL, "")
        if self._api.phase is Phase.ACTIVE and now - self._api.phase_since > limits.wall_s:
            return End(Cause.WALL, "")
        if self._logged > limits.output:
            return End(Cause.OUTPUT, f"it printed more than {limits.output >> 10} KiB")
        if now < self._next_look:
            return None
        self._next_look = now + caps.POLL_S
        return End(Cause.CANCELLED, "") if cancelled() else self._overuse() or self._slow_body(now)

    def _overuse(self) -> End | None:
        counts, tasks = self._launched.counts()
        self._cpu_s, self._memory_peak = counts.cpu_s, max(self._memory_peak, counts.memory_peak)
        if counts.cpu_s > self._limits.cpu_s:
            return End(Cause.CPU, "")
        if self._launched.counted:
            return None
        if counts.memory_peak > self._limits.memory:
            return End(Cause.MEMORY, "")
        return End(Cause.PIDS, "") if tasks > self._limits.pids + caps.OWN_PIDS else None

    def _slow_body(self, now: float) -> End | None:
        """Answer 408 to a body that takes too long; when it is the result, no other can come."""
        for connection in self._connections:
            if connection.body_since is None or now - connection.body_since < caps.BODY_S:
                continue
            result = connection.path.endswith(("/response", "/error"))
            connection.answer(408, b'{"error": "the body took too long"}', last=True)
            if result:
                return End(Cause.PROTOCOL, f"the body of its result was not complete after {caps.BODY_S:g} s")
        held = sum(connection.held for connection in self._connections)
        most = max(self._limits.response, self._limits.event_bytes) + (1 << 20)
        return End(Cause.OUTPUT, "it sends too much at once") if held > most else None

    # --- the end --------------------------------------------------------------------------------------------------

    def _close_book(self, end: End, work: Work, wall_s: float) -> Invoked:
        status = self._launched.kill()
        while self._log_has_more():
            pass
        counts, _ = self._launched.counts()
        kind, detail = outcome.classify(
            Evidence(
                end.cause,
                self._shown(end.said),
                status,
                self._limits,
                oom_kills=counts.oom_kills,
                memory_hits=counts.memory_hits,
                pids_hits=counts.pids_hits,
                denied=work.queries.denied,
                unavailable=work.queries.unavailable,
            )
        )
        ok = kind is OutcomeKind.OK
        usage: dict[str, float | None] = {
            "wall_s": wall_s,
            "cpu_s": max(self._cpu_s, counts.cpu_s),
            "memory": float(counts.memory_peak) if self._launched.counted else None,
            "queries": float(work.queries.calls),
            "events": float(len(work.events.lines)),
        }
        return Invoked(
            kind,
            detail,
            end.response if ok else b"",
            tuple(work.events.lines) if ok else (),
            self._shown(outcome.tail(bytes(self._log), caps.LOG_TAIL)),
            usage,
        )

    def _shown(self, text: str) -> str:
        """Return text from inside without paths of this machine."""
        return text.replace(self._launched.real_task, TASK_ROOT)

    def _log_has_more(self) -> bool:
        """Read one more piece of a log that nobody writes any more, up to its limit."""
        before = self._logged
        return self._logged <= self._limits.output and self._read_log() and self._logged > before


def _readable(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))

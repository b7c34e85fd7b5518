"""A proxy before an S3 server that fails as told: refuses, cuts uploads in half, hangs, or loses answers.

One exchange per connection, so that each fault hits exactly one request. Faults hit the requests that arrive while they
are set; what hangs is dropped when they end.
"""

import asyncio
import random
import re
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

MODES = ("503", "half", "hang", "lost")
REFUSAL = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
HEAD_LIMIT = 64 * 1024
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HOP = re.compile(rb"\r\n(?:connection|expect): *[^\r\n]*", re.IGNORECASE)  # neither is signed
WAITS = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)


class FaultyS3:
    """The proxy, in a thread of its own, until `stop`."""

    def __init__(self, upstream: str, seed: int) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self._mode: str | None = None
        self._rate = 0.0
        self._rng = random.Random(seed)
        self._healed = asyncio.Event()
        self.hits: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    @contextmanager
    def failing(self, mode: str, rate: float) -> Generator[None]:
        """Hit this share of the requests while the block runs."""
        assert mode in MODES
        self._loop.call_soon_threadsafe(self._healed.clear)
        self._mode, self._rate = mode, rate
        try:
            yield
        finally:
            self._mode = None
            self._loop.call_soon_threadsafe(self._healed.set)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_LIMIT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # either side went away: that is its business
            head = await reader.readuntil(b"\r\n\r\n")
            if WAITS.search(head):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            size = LENGTH.search(head)
            body = await reader.readexactly(int(size[1])) if size else b""
            await self._exchange(head, body, writer)
        writer.close()

    async def _exchange(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        mode = self._fault(has_body=bool(body))
        if mode == "503":
            refusal = b"HTTP/1.1 503 Slow Down\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(REFUSAL)
            writer.write(refusal + REFUSAL)
            await writer.drain()
            return
        if mode == "hang":
            await self._healed.wait()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        try:
            far_writer.write(HOP.sub(b"", head[:-4]) + b"\r\nConnection: close\r\n\r\n")
            far_writer.write(body[: len(body) // 2] if mode == "half" else body)
            await far_writer.drain()
            if mode == "half":
                return
            answer = await far_reader.read()
            if mode != "lost":
                writer.write(answer)
                await writer.drain()
        finally:
            far_writer.close()

    def _fault(self, *, has_body: bool) -> str | None:
        mode = self._mode
        if mode is None or self._rng.random() >= self._rate or (mode == "half" and not has_body):
            return None
        self.hits[mode] += 1
        return mode

"""The verdicts that the service holds, so that a repeated statement is not judged again. Pure.

A statement runs only as `Judged`, and only this module makes one. An entry belongs to one organisation: a process that
was taken over can spoil the answers of nobody else. The SQL itself is not kept, only a digest of it.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from query.verdict import Verdict
from trace_ray.contracts import OrgId

MAX_HELD: Final = 2048  # at most a few KiB each


@dataclass(frozen=True, slots=True)
class Judged:
    """A statement and the verdict that accepts it."""

    sql: str = field(repr=False)
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement as one organisation asks it, over the relations of its grant."""

    org_id: OrgId
    sql: str = field(repr=False)
    relations: tuple[str, ...]

    def digest(self) -> bytes:
        """Return the key of its verdict. The function list is that of the installation, one for all workers."""
        found = hashlib.blake2b(digest_size=32)
        for part in (str(self.org_id), self.sql, *sorted(self.relations)):
            encoded = part.encode(errors="surrogatepass")
            found.update(len(encoded).to_bytes(8, "big") + encoded)
        return found.digest()


class Verdicts:
    """The verdicts used last; safe to share between threads."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self._limit = limit
        self._held: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, asked: Asked) -> Judged | None:
        with self._lock:
            verdict = self._held.get(asked.digest())
            if verdict is None:
                return None
            self._held.move_to_end(asked.digest())
        return Judged(asked.sql, verdict)

    def put(self, asked: Asked, verdict: Verdict) -> Judged:
        """Hold the verdict of a worker, whose relations the caller has compared with the grant."""
        with self._lock:
            self._held[asked.digest()] = verdict
            self._held.move_to_end(asked.digest())
            while len(self._held) > self._limit:
                self._held.popitem(last=False)
        return Judged(asked.sql, verdict)

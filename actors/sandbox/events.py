"""Events that a handler emits, held outside the sandbox until it has succeeded: JSON Lines, not yet validated. Pure."""

from typing import Final

import orjson

from trace_ray.alerts import SandboxLimits

FIELD: Final = "events"


class TooManyEvents(Exception):
    """The limit of events or of their bytes is passed. One sentence."""


class NotAnAnswer(Exception):
    """What the handler returned is not JSON, or its `events` are no list of objects. One sentence."""


class NotAskedFor(Exception):
    """There are events, and the statement of the bundle asks for none. One sentence."""


class Events:
    """The events of one invocation, in the order in which they came."""

    def __init__(self, limits: SandboxLimits, *, allowed: bool) -> None:
        """Args: allowed: False refuses the first event."""
        self._limits = limits
        self._allowed = allowed
        self._bytes = 0
        self.lines: list[bytes] = []

    @property
    def room(self) -> int:
        """Bytes that may still come."""
        return self._limits.event_bytes - self._bytes

    def take(self, body: bytes) -> None:
        """Add the lines of a body. Raises: TooManyEvents, NotAskedFor."""
        self._add([line for line in body.split(b"\n") if line.strip()])

    def take_response(self, body: bytes) -> None:
        """Add the `events` of what the handler returned, if there are some.

        Raises:
            NotAnAnswer, TooManyEvents, NotAskedFor
        """
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise NotAnAnswer("what the handler returned is not JSON that can be read") from None
        if not isinstance(document, dict) or FIELD not in document:
            return
        events: object = document[FIELD]  # pyright: ignore[reportUnknownVariableType]  JSON of a stranger has no type
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):  # pyright: ignore[reportUnknownVariableType]  JSON of a stranger has no type
            raise NotAnAnswer("`events` of what the handler returned is no list of objects")
        self._add([orjson.dumps(event) for event in events])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  JSON of a stranger has no type

    def _add(self, lines: list[bytes]) -> None:
        if lines and not self._allowed:
            raise NotAskedFor("it emits events, and its statement asks for none: set requests.events, sign it anew")
        self._bytes += sum(map(len, lines))
        if self._bytes > self._limits.event_bytes:
            raise TooManyEvents(f"it emitted more than {self._limits.event_bytes >> 20} MiB of events")
        if len(self.lines) + len(lines) > self._limits.events:
            raise TooManyEvents(f"it emitted more than {self._limits.events:,} events")
        self.lines += lines

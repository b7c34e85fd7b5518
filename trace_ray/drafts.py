"""JSON Lines that a bundle emitted -> drafts, or one reason why all of them are refused. Pure.

The text comes from code that nobody trusts. Whatever the bytes are, the answer is a list of drafts or `BadBatch`: never
another error, never a part of the batch. What is accepted can be stored: no NUL, no half surrogate pair, no NaN.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

import orjson

from trace_ray.alerts import Draft, RuleId
from trace_ray.contracts import BlockRange
from trace_ray.errors import FatalError

MAX_BATCH: Final = 16 * 1024**2  # bytes
MAX_KEY: Final = 512  # bytes of a dedupe_key in UTF-8
MAX_PAYLOAD: Final = 64 * 1024  # bytes of the payload as compact JSON in UTF-8
MAX_DEPTH: Final = 32  # levels of a payload
MAX_SHOWN: Final = 40  # characters of a name in a reason

FIELDS: Final = frozenset(
    ("alert_definition_id", "dedupe_key", "event_time", "chain_id", "block_number", "block_hash", "tx_hash", "payload")
)
TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})", re.IGNORECASE
)
HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")


class BadBatch(FatalError):
    """A batch is refused as a whole; trying again cannot help. `reason` is for people, without values of events."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class _BadLine(ValueError):
    """What is wrong with one line."""


def read(data: bytes, *, rule_id: RuleId, chain_id: int, blocks: BlockRange) -> list[Draft]:
    """Return the drafts of a batch in order; equal lines with one dedupe_key are one draft.

    Args:
        data: One JSON object per line; the last line may end without a newline. No bytes are no drafts.
        rule_id, chain_id, blocks: What the ledger knows of the evaluation; every draft must be of it.

    Raises:
        BadBatch: a line is refused, or two lines have one dedupe_key and different content.
    """
    if len(data) > MAX_BATCH:
        raise BadBatch(f"the batch has {len(data)} bytes: at most {MAX_BATCH} are accepted")
    found: dict[str, Draft] = {}
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            fields = _fields(line)
            if b"\\u0000" in line or line.count(b"{") + line.count(b"[") > MAX_DEPTH:  # rare, so only then
                _look_closely(fields["payload"])
            draft = _draft(fields, rule_id, chain_id, blocks)
            first = found.setdefault(draft.dedupe_key, draft)
            if first is not draft and digest(first) != digest(draft):
                raise _BadLine("its dedupe_key stands on an earlier line with other content")
        except _BadLine as error:
            raise BadBatch(f"line {number}: {error}") from None
    return list(found.values())


def digest(draft: Draft) -> bytes:
    """Return the SHA-256 of all that a draft says, whatever the order of its keys and the zone of its time."""
    content = (
        str(draft.alert_definition_id),
        draft.dedupe_key,
        draft.event_time.astimezone(UTC).isoformat(),
        draft.chain_id,
        draft.block_number,
        draft.block_hash,
        draft.tx_hash,
        draft.payload,
    )
    return hashlib.sha256(canonical(content).encode()).digest()


def canonical(value: object) -> str:
    """Return the one compact JSON text of a value that `read` accepted."""
    return ENCODER.encode(value)


def compact(value: object) -> bytes:
    """Return compact JSON of a value that `read` accepted, ten times faster than `canonical`."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # integers of more than 64 bits
        return canonical(value).encode()


# --- one line -----------------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _BadLine("an object has a key twice")
    return found


def _constant(_text: str) -> object:
    raise _BadLine("NaN and Infinity are no JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _BadLine("a number is too large")
    return number


DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


def _fields(line: bytes) -> Mapping[str, Any]:
    try:
        found: object = DECODER.decode(line.decode())
    except _BadLine:
        raise
    except RecursionError:
        raise _BadLine("its values are nested too deeply") from None
    except ValueError:  # no UTF-8, no JSON, or a number with thousands of digits
        raise _BadLine("it is not one JSON object") from None
    if not isinstance(found, dict):
        raise _BadLine("it is not one JSON object")
    fields = cast(dict[str, Any], found)
    if fields.keys() != FIELDS:
        unknown, missing = sorted(fields.keys() - FIELDS), sorted(FIELDS - fields.keys())
        what, name = ("is no field of an event", unknown[0]) if unknown else ("is missing", missing[0])
        raise _BadLine(f"{name[:MAX_SHOWN]!a} {what}")
    return fields


def _draft(fields: Mapping[str, Any], rule_id: RuleId, chain_id: int, blocks: BlockRange) -> Draft:
    if fields["alert_definition_id"] != str(rule_id):
        raise _BadLine("alert_definition_id is not the id of its rule")
    if type(fields["chain_id"]) is not int or fields["chain_id"] != chain_id:
        raise _BadLine(f"chain_id is not {chain_id}")
    block = fields["block_number"]
    if type(block) is not int or block not in blocks:
        raise _BadLine(f"block_number is not in the evaluated blocks {blocks}")
    return Draft(
        alert_definition_id=rule_id,
        dedupe_key=_key(fields["dedupe_key"]),
        event_time=_time(fields["event_time"]),
        chain_id=chain_id,
        block_number=block,
        block_hash=_hash("block_hash", fields["block_hash"]),
        tx_hash=None if fields["tx_hash"] is None else _hash("tx_hash", fields["tx_hash"]),
        payload=_payload(fields["payload"]),
    )


def _key(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY:
        raise _BadLine(f"dedupe_key is not a text of 1 to {MAX_KEY} bytes")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise _BadLine("dedupe_key holds half a surrogate pair") from None
    if size > MAX_KEY:
        raise _BadLine(f"dedupe_key is not a text of 1 to {MAX_KEY} bytes")
    if "\0" in value:
        raise _BadLine("dedupe_key holds NUL")
    return value


def _time(value: object) -> datetime:
    if isinstance(value, str) and TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):  # no such day, or not in the years 1 to 9999
            pass
    raise _BadLine("event_time is not a time of RFC 3339 with its zone, such as 2026-01-31T12:00:00Z")


def _hash(name: str, value: object) -> str:
    if not isinstance(value, str) or not HASH.fullmatch(value):
        raise _BadLine(f"{name} is not 0x and 64 hex digits")
    return value.lower()


def _payload(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _BadLine("payload is not an object")
    payload = cast(dict[str, Any], value)
    try:
        text = compact(payload)
    except UnicodeEncodeError:
        raise _BadLine("payload holds half a surrogate pair") from None
    if len(text) > MAX_PAYLOAD:
        raise _BadLine(f"payload has {len(text)} bytes as JSON: at most {MAX_PAYLOAD} are accepted")
    return payload


def _look_closely(payload: object) -> None:
    """Refuse what is nested too deeply, before anything follows it down, and what no ledger keeps."""
    left: list[tuple[int, object]] = [(1, payload)]
    while left:
        depth, value = left.pop()
        if depth > MAX_DEPTH:
            raise _BadLine(f"payload has more than {MAX_DEPTH} levels")
        if isinstance(value, str) and "\0" in value:
            raise _BadLine("payload holds NUL")
        if isinstance(value, dict):
            inner = cast(dict[str, object], value)
            left += [(depth, key) for key in inner]
            left += [(depth + 1, item) for item in inner.values()]
        elif isinstance(value, list):
            left += [(depth + 1, item) for item in cast(list[object], value)]

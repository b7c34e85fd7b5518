"""JSON that strangers wrote, read without mercy. Pure: bytes in, values or a rejection out, never another error.

Refused are duplicate and unknown keys, NaN and Infinity, any encoding but UTF-8, and nesting that Python cannot hold.
"""

import json
import re
from collections.abc import Collection
from typing import Any, NoReturn, cast

from trace_ray.errors import BundleFault, BundleRejected


def load(raw: bytes, code: BundleFault) -> object:
    """Return the document. Raises BundleRejected with `code`."""
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BundleRejected(code, "it is no strict JSON: write UTF-8 with each key once and no NaN") from None


def members(
    value: object, where: str, names: Collection[str], code: BundleFault, *, optional: Collection[str] = ()
) -> dict[str, Any]:
    """Return an object that has exactly these keys, and perhaps the optional ones."""
    found = cast(dict[str, Any], value) if isinstance(value, dict) else None
    if found is None or found.keys() - set(optional) != set(names):
        raise BundleRejected(code, f"{where} must be an object with the keys {', '.join(names)} and no others")
    return found


def items(value: object, where: str, low: int, high: int, code: BundleFault) -> list[Any]:
    """Return a list with `low` to `high` entries."""
    found = cast(list[Any], value) if isinstance(value, list) else None
    if found is None or not low <= len(found) <= high:
        raise BundleRejected(code, f"{where} must be a list with {low} to {high} entries")
    return found


def text(value: object, where: str, pattern: re.Pattern[str], rule: str, code: BundleFault) -> str:
    """Return a text that matches the whole pattern; `rule` says it in words."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BundleRejected(code, f"{where} must be {rule}")
    return value


def whole(value: object, where: str, low: int, high: int, code: BundleFault) -> int:
    """Return a whole number; JSON's `true` and `1.0` are none."""
    if type(value) is not int or not low <= value <= high:
        raise BundleRejected(code, f"{where} must be a whole number from {low:,} to {high:,}")
    return value


def flag(value: object, where: str, code: BundleFault) -> bool:
    if not isinstance(value, bool):
        raise BundleRejected(code, f"{where} must be true or false")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")

"""What a job file may not say although each of its values is right alone. Pure.

These rules look at what is there, however wrong the rest is, so that all mistakes are told at once.
"""

from collections.abc import Iterator
from typing import Final, cast

from trace_ray.catalog import CATALOG
from trace_ray.jobyaml import Document, Problem, path_text, shown

MAINNET: Final = 1
BYZANTIUM: Final = 4_370_000  # first block of mainnet whose receipts have a status (EIP-658)
OFFERED: Final = frozenset(entry.name for entry in CATALOG.values() if entry.refusal is None)


def repeated_names(document: Document) -> Iterator[Problem]:
    """Tell streams whose published name an earlier stream has. Works on what is there, however wrong the rest is."""
    root = _mapping(document.value)
    prefix = root.get("chain_name") or f"chain_{root.get('chain_id')}"
    seen: dict[str, str] = {}
    for key, stream in _mapping(root.get("streams")).items():
        chosen = _mapping(stream).get("publish_as")
        name = chosen if isinstance(chosen, str) else f"{prefix}_{key}"
        if name in seen:
            path = ("streams", key, "publish_as") if chosen else ("streams", key)
            sentence = (
                f"{shown(name)} is the published name of stream {shown(seen[name])} too: write another publish_as"
            )
            yield Problem(document.line(path), path_text(path), sentence)
        seen.setdefault(name, key)


def unreadable_blocks(document: Document) -> Iterator[Problem]:
    """Tell a first block that no provider can give to one of the streams, however wrong the rest is."""
    root = _mapping(document.value)
    path = ("mode", "from_block")
    start = _mapping(root.get("mode")).get("from_block")
    names = {key: _mapping(stream).get("cryo_dataset_name") for key, stream in _mapping(root.get("streams")).items()}
    if not isinstance(start, int) or start < 0:
        return
    for key, name in names.items():
        entry = CATALOG.get(name) if isinstance(name, str) else None
        if start == 0 and entry is not None and entry.method is not None and entry.refusal is None:
            sentence = (
                f"block 0 has no traces, and stream {shown(key)} needs them: write 1, or give it a job of its own"
            )
            yield Problem(document.line(path), path_text(path), sentence)
            break
    needs_status = OFFERED.intersection(map(str, names.values())) - {"blocks"}
    if root.get("chain_id") == MAINNET and start < BYZANTIUM and needs_status and root.get("receipts") != "none":
        sentence = (
            f"receipts before block {BYZANTIUM} have no status: write {BYZANTIUM}, and sync the blocks below it by a "
            f"job of its own with receipts: none and to_block: {BYZANTIUM}"
        )
        yield Problem(document.line(path), path_text(path), f"{start} is too low, {sentence}")


def _mapping(value: object) -> dict[str, object]:
    return cast(dict[str, object], value) if isinstance(value, dict) else {}

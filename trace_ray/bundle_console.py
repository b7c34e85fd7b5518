"""How people see bundles and keys: tables on a terminal, one JSON document for scripts."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from trace_ray.bundle.keys import TrustedKey
from trace_ray.bundle.manifest import Language
from trace_ray.bundle.pushed import KeyEntry, PushedBundle
from trace_ray.bundle.verify import Verified
from trace_ray.console import out, print_json, say, table


def print_built(path: Path, data: bytes, files: int) -> None:
    say(f"{path} holds {files} file{'' if files == 1 else 's'}, {len(data):,} bytes")
    say(f"SHA-256 {hashlib.sha256(data).hexdigest()}; `trace-ray bundle sign {path} --key KEY` comes next")


def print_verified(found: Verified) -> None:
    """Tell what a bundle is that passed every check."""
    said = found.manifest
    asks = [word for word, wanted in (("query", said.query), ("events", said.events)) if wanted]
    rows = (
        ("bundle", f"{said.name}@{said.version}"),
        ("sha256", found.digest),
        ("language", said.language),
        ("entrypoint", said.entrypoint),
        ("asks for", ", ".join(asks) or "nothing"),
        ("files", f"{len(said.files):,}, {said.total:,} bytes"),
        ("signed by", ", ".join(key.keyid for key in found.signers)),
    )
    out.print(table(("verified", ""), rows))


def print_list(keys: Sequence[KeyEntry], bundles: Sequence[PushedBundle], *, as_json: bool) -> None:
    """List keys and bundles."""
    if as_json:
        print_json({"keys": [_key(one) for one in keys], "bundles": [_bundle(one) for one in bundles]})
        return
    if keys:
        rows = (
            (one.key.keyid, languages_of(one.key), until(one.key), _day(one.trusted_at), _day(one.revoked_at))
            for one in keys
        )
        out.print(table(("key", "signs", "how long", "trusted", "revoked"), rows))
    else:
        say("No key is trusted yet: `trace-ray bundle trust KEY.pub`")
    if bundles:
        pushed = (
            (
                f"{one.name}@{one.version}",
                one.language,
                f"{one.size:,}",
                _day(one.pushed_at),
                _day(one.revoked_at),
                one.digest,
            )
            for one in bundles
        )
        out.print(table(("bundle", "language", "bytes", "pushed", "revoked", "sha256"), pushed))
    else:
        say("No bundle is pushed yet: `trace-ray bundle push ZIP`")


def languages_of(key: TrustedKey) -> str:
    return "all languages" if key.languages == frozenset(Language) else ", ".join(sorted(key.languages))


def until(key: TrustedKey) -> str:
    return f"until {key.not_after:%Y-%m-%d %H:%M:%S} UTC" if key.not_after else "for ever"


def _key(one: KeyEntry) -> dict[str, object]:
    return {
        "keyid": one.key.keyid,
        "algorithm": one.key.algorithm,
        "public_key": one.key.public.hex(),
        "languages": sorted(one.key.languages),
        "not_after": _instant(one.key.not_after),
        "trusted_at": _instant(one.trusted_at),
        "revoked_at": _instant(one.revoked_at),
    }


def _bundle(one: PushedBundle) -> dict[str, object]:
    return {
        "name": one.name,
        "version": one.version,
        "sha256": one.digest,
        "language": one.language,
        "entrypoint": one.entrypoint,
        "bytes": one.size,
        "pushed_at": _instant(one.pushed_at),
        "revoked_at": _instant(one.revoked_at),
    }


def _instant(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else ""

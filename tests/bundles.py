"""Bundles for tests: honest ones, and zips whose every field a test may set."""

import hashlib
import stat
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trace_ray.bundle import archive, manifest, signing
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.keys import Keyring, TrustedKey, keyid_of, public_bytes
from trace_ray.bundle.manifest import BundleFile, Language, Manifest

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
ALL = frozenset(Language)
FILES = {
    "handler.py": Packed(b"def handler(event, context):\n    return {'events': []}\n" * 40, False),
    "pkg/__init__.py": Packed(b"", False),
    "pkg/data.bin": Packed(bytes(range(256)), True),
}


def key(seed: int = 1) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def trusted(private: Ed25519PrivateKey, languages: frozenset[Language] = ALL, **rest: object) -> TrustedKey:
    public = public_bytes(private)
    return replace(TrustedKey(keyid_of(public), public, languages), **rest)  # pyright: ignore[reportArgumentType]


def ring(*keys: TrustedKey) -> Keyring:
    return Keyring(keys or (trusted(key()),), NOW)


def describe(files: dict[str, Packed], **changes: object) -> Manifest:
    listed = tuple(
        BundleFile(path, hashlib.sha256(file.content).hexdigest(), len(file.content), file.executable)
        for path, file in files.items()
    )
    made = Manifest("alarm", "1.0", Language.PYTHON, "handler.handler", 1, "2026-11-29T12:00:00Z", True, True, listed)
    return replace(made, **changes)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Made:
    """A zip, its statement, and an envelope signed by `key()`."""

    zip: bytes
    manifest: Manifest
    digest: str
    payload: bytes
    envelope: bytes


def make(files: dict[str, Packed] | None = None, data: bytes | None = None, **changes: object) -> Made:
    """Build and sign a bundle of these files; `data` is another zip to say the same of."""
    files = FILES if files is None else files
    data = archive.pack(files) if data is None else data
    said = describe(files, **{"size": len(data), **changes})
    digest = hashlib.sha256(data).hexdigest()
    payload = manifest.render(said, artefact="alarm.zip", digest=digest)
    return Made(data, said, digest, payload, signing.render_envelope(signing.sign(payload, key())))


# --- zips by hand -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """An entry of a hand-made zip. What is None is what an honest tool would write."""

    name: bytes
    content: bytes = b""
    method: int = 8
    flags: int = 0x800
    mode: int = stat.S_IFREG | 0o644
    dos: int = 0
    packed: bytes | None = None
    size: int | None = None
    claim: int | None = None  # what is said of the packed bytes
    crc: int | None = None
    extra: bytes = b""
    local_extra: bytes = b""
    comment: bytes = b""
    described: bytes | None = None  # the data descriptor; None writes the honest one when flag 3 is set
    local: dict[str, object] = field(default_factory=dict[str, object])  # fields in which the local header differs
    offset: int | None = None
    gap: bytes = b""  # before the entry
    disk: int = 0
    mark: bytes = b"PK\x01\x02"

    @property
    def body(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method != 8:
            return self.content
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflater.compress(self.content) + deflater.flush()

    @property
    def facts(self) -> tuple[int, int, int]:
        crc = zlib.crc32(self.content) if self.crc is None else self.crc
        return (
            crc,
            len(self.body) if self.claim is None else self.claim,
            len(self.content) if self.size is None else self.size,
        )


def zip_of(
    entries: Sequence[Raw], *, prefix: bytes = b"", suffix: bytes = b"", behind: bytes = b"", **end: int | bytes
) -> bytes:
    """Lay out a zip. `behind` stands between the last entry and the directory; `end` sets fields of the end record."""
    out = prefix
    directory = b""
    for one in entries:
        out += one.gap
        begin = len(out) if one.offset is None else one.offset
        crc, packed, size = one.facts
        streamed = bool(one.flags & 8)
        told = {"flags": one.flags, "method": one.method, "crc": crc, "packed": packed, "size": size, "name": one.name}
        told |= {"mark": b"PK\x03\x04"} | ({"crc": 0, "packed": 0, "size": 0} if streamed else {}) | one.local
        name = told["name"]
        assert isinstance(name, bytes)
        out += struct.pack(
            "<4s5H3L2H", told["mark"], 20, told["flags"], told["method"], 0, 33, told["crc"], told["packed"],
            told["size"], len(name), len(one.local_extra),
        ) + name + one.local_extra + one.body  # fmt: skip
        if streamed:
            out += b"PK\x07\x08" + struct.pack("<3L", crc, packed, size) if one.described is None else one.described
        directory += struct.pack(
            "<4s6H3L5H2L", one.mark, (3 << 8) | 20, 20, one.flags, one.method, 0, 33, crc, packed, size, len(one.name),
            len(one.extra), len(one.comment), one.disk, 0, one.mode << 16 | one.dos, begin,
        ) + one.name + one.extra + one.comment  # fmt: skip
    out += behind
    fields = {"disk": 0, "other": 0, "here": len(entries), "count": len(entries), "size": len(directory)}
    fields |= {"begin": len(out), "comment": b""} | end
    comment = fields["comment"]
    assert isinstance(comment, bytes)
    record = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", fields["disk"], fields["other"], fields["here"], fields["count"], fields["size"],
        fields["begin"], len(comment),
    )  # fmt: skip
    return out + directory + record + comment + suffix

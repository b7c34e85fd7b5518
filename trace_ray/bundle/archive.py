"""Zip files that hide nothing: read by stricter rules than any zip tool has, and built always the same. Pure.

Our own reader, since a library takes what two readers may understand in two ways. Every byte of a zip belongs to
exactly one entry, to the directory or to the end record; each fact that is written twice is the same both times.
Nothing is unpacked before all of that holds; what is unpacked is counted while it grows.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from trace_ray.bundle.manifest import MAX_FILE, MAX_FILES, MAX_TOTAL
from trace_ray.bundle.paths import check_distinct, check_path
from trace_ray.errors import BundleFault, BundleRejected

END: Final = struct.Struct("<4s4H2LH")
CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
LOCAL: Final = struct.Struct("<4s5H3L2H")
DESCRIPTOR: Final = struct.Struct("<3L")
EXTRA: Final = struct.Struct("<2H")
END_MARK, CENTRAL_MARK, LOCAL_MARK, DESCRIPTOR_MARK = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08"

ENCRYPTED: Final = 0x2041  # bits 0, 6 and 13: encrypted, strongly, directory masked
DESCRIBED: Final = 0x0008  # sizes and CRC follow the data
UTF8: Final = 0x0800
KNOWN_FLAGS: Final = 0x0006 | DESCRIBED | UTF8  # and how hard the packer tried
STORED, DEFLATED = 0, 8
EMPTY_STREAM: Final = 2  # bytes into which nothing is deflated; a directory has no more
REFUSED_EXTRAS: Final = {0x0001: "zip64", 0x0017: "encryption", 0x7075: "a second name", 0x9901: "encryption"}
DOS_SPECIAL: Final = 0x0408  # volume label, reparse point
DOS_DIRECTORY: Final = 0x0010
ODD_BITS: Final = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

MAX_RATIO: Final = 200
RATIO_FLOOR: Final = 4096  # bytes: a short text that repeats itself is no bomb
CHUNK: Final = 256 * 1024
EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
UNIX: Final = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file of a zip: `packed` bytes from `start` on unpack to `size` bytes."""

    path: str
    method: int
    crc: int
    packed: int
    size: int
    start: int
    executable: bool


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip that keeps the rules; `entries` are its files in the order of its directory."""

    data: bytes
    entries: tuple[Entry, ...]


class _Header(NamedTuple):
    """An entry of the directory, in the order of its fields."""

    mark: bytes
    made_by: int
    needed: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name_bytes: int
    extra_bytes: int
    comment_bytes: int
    disk: int
    internal: int
    attributes: int
    offset: int


def read(data: bytes) -> Archive:
    """Return a zip's files. Nothing is unpacked.

    Raises:
        BundleRejected: a code `zip_...`.
    """
    count, begin = _end(data)
    headers = list(_headers(data, count, begin))
    named = [(_name(raw, header), header) for header, raw in headers]
    files = [(name, header) for name, header in named if not name.endswith("/")]
    folders = [name[:-1] for name, _ in named if name.endswith("/")]
    for name, header in named:
        _check_kind(name, header)
    for name, _ in named:
        check_path(name.removesuffix("/"))
    check_distinct([name for name, _ in files])
    _check_folders(folders, [name for name, _ in files])
    _check_sizes([header for _, header in files], len(data))
    starts = _places(data, headers, begin)
    return Archive(
        data,
        tuple(
            Entry(
                name, one.method, one.crc, one.packed, one.size, starts[one.offset], bool(one.attributes >> 16 & 0o111)
            )
            for name, one in files
        ),
    )


def unpack(archive: Archive, entry: Entry) -> Iterator[bytes]:
    """Yield a file's content in parts of at most 256 KiB, and no byte more than its size.

    Raises:
        BundleRejected: `zip_bomb` when it goes on, `zip_malformed`, `file_sha_mismatch` when its CRC is another.
    """
    produced = crc = 0
    for part in _stored(archive, entry) if entry.method == STORED else _inflated(archive, entry):
        produced += len(part)
        if produced > entry.size:
            raise BundleRejected(BundleFault.ZIP_BOMB, f"{entry.path!a} unpacks to more than it says: build it again")
        crc = zlib.crc32(part, crc)
        yield part
    if produced != entry.size:
        raise _malformed(f"{entry.path!a} unpacks to less than it says")
    if crc != entry.crc:
        raise BundleRejected(BundleFault.FILE_SHA_MISMATCH, f"{entry.path!a} is not what was packed: build it again")


@dataclass(frozen=True, slots=True)
class Packed:
    """A file to be packed."""

    content: bytes
    executable: bool


def pack(files: Mapping[str, Packed]) -> bytes:
    """Return a zip of the files: sorted by path, dated 1980, so that equal files give equal bytes (with one zlib)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for path, file in sorted(files.items()):
            info = zipfile.ZipInfo(path, EARLIEST)
            info.create_system = UNIX
            info.external_attr = (stat.S_IFREG | (0o755 if file.executable else 0o644)) << 16
            small = len(zlib.compress(file.content, 9)) < len(file.content)
            target.writestr(info, file.content, zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED, compresslevel=9)
    return out.getvalue()


# --- structure ----------------------------------------------------------------------------------------------------


def _end(data: bytes) -> tuple[int, int]:
    """Return how many entries the directory has, and where it begins."""
    at = len(data) - END.size
    if at < 0 or not data.startswith(LOCAL_MARK) or data[at : at + 4] != END_MARK:
        raise _polyglot("it does not begin with an entry and end with the end record")
    _, disk, other, here, count, size, begin, comment = END.unpack_from(data, at)
    if disk or other or here != count or comment or begin + size != at:
        raise _polyglot("its end record does not fit")
    if count > MAX_FILES:
        raise BundleRejected(BundleFault.ZIP_BOMB, f"it has more than {MAX_FILES:,} entries: put fewer files into it")
    return count, begin


def _headers(data: bytes, count: int, begin: int) -> Iterator[tuple[_Header, bytes]]:
    """Yield the entries of the directory with their names; the directory has nothing beside them."""
    at, end = begin, len(data) - END.size
    for _ in range(count):
        if at + CENTRAL.size > end:
            raise _malformed("its directory is cut short")
        header = _Header._make(CENTRAL.unpack_from(data, at))
        name_end = at + CENTRAL.size + header.name_bytes
        at = name_end + header.extra_bytes + header.comment_bytes
        if header.mark != CENTRAL_MARK or at > end or header.comment_bytes or header.disk:
            raise _malformed("an entry of its directory is damaged, or has a comment")
        _check_extra(data[name_end:at])
        yield header, data[name_end - header.name_bytes : name_end]
    if at != end:
        raise _polyglot("its directory has more than its entries")


def _check_extra(extra: bytes) -> None:
    at = 0
    while at < len(extra):
        if at + EXTRA.size > len(extra):
            raise _malformed("an extra field is cut short")
        kind, size = EXTRA.unpack_from(extra, at)
        at += EXTRA.size + size
        if at > len(extra):
            raise _malformed("an extra field is cut short")
        if REFUSED_EXTRAS.get(kind) == "encryption":
            raise _encrypted()
        if kind in REFUSED_EXTRAS:
            raise _malformed(f"an entry has an extra field for {REFUSED_EXTRAS[kind]}")


def _name(raw: bytes, header: _Header) -> str:
    try:
        return raw.decode("utf-8" if header.flags & UTF8 else "ascii")
    except UnicodeDecodeError:
        raise BundleRejected(
            BundleFault.ZIP_PATH, f"the name {raw[:80]!a} is not marked as UTF-8: build it again"
        ) from None


def _check_kind(name: str, header: _Header) -> None:
    """Let pass regular files, stored or deflated, and empty directories."""
    if header.flags & ENCRYPTED:
        raise _encrypted()
    if header.flags & ~KNOWN_FLAGS or header.method not in (STORED, DEFLATED):
        raise _malformed(f"{name!a} is packed in a way that is not deflate")
    if header.method == STORED and header.packed != header.size:
        raise _malformed(f"{name!a} has two sizes")
    mode, folder = header.attributes >> 16, name.endswith("/")
    expected = stat.S_IFDIR if folder else stat.S_IFREG
    as_dos = header.attributes & (DOS_SPECIAL if folder else DOS_SPECIAL | DOS_DIRECTORY)
    if stat.S_IFMT(mode) not in (0, expected) or mode & ODD_BITS or as_dos:
        raise BundleRejected(
            BundleFault.ZIP_SPECIAL,
            f"{name!a} is no plain file: put neither links nor devices nor setuid files into it",
        )
    if folder and (header.size or header.crc or header.packed > EMPTY_STREAM):
        raise BundleRejected(BundleFault.ZIP_SPECIAL, f"the directory {name!a} has content: build it again")


def _check_folders(folders: list[str], files: list[str]) -> None:
    """Let pass directory entries that hold a file, each once. Names that only their case tells apart hold none."""
    if len(set(folders)) != len(folders):
        raise BundleRejected(BundleFault.ZIP_DUP, "a directory is in it twice: build it again")
    needed = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    if idle := sorted(set(folders) - needed):
        raise BundleRejected(
            BundleFault.ZIP_MANIFEST_MISMATCH, f"the directory {idle[0]!a} holds no file: take it out of the zip"
        )


def _check_sizes(headers: list[_Header], zip_bytes: int) -> None:
    total = sum(header.size for header in headers)
    too_large = total > MAX_TOTAL or any(header.size > MAX_FILE for header in headers)
    tight = any(header.size > MAX_RATIO * max(header.packed, RATIO_FLOOR) for header in headers)
    if too_large or tight or total > MAX_RATIO * max(zip_bytes, RATIO_FLOOR):
        raise BundleRejected(
            BundleFault.ZIP_BOMB,
            f"it unpacks to more than {MAX_FILE:,} bytes a file, {MAX_TOTAL:,} in all, or {MAX_RATIO} times its size",
        )


def _places(data: bytes, headers: list[tuple[_Header, bytes]], begin: int) -> dict[int, int]:
    """Return where each entry's data start, by the entry's offset; entries follow each other without a byte between."""
    starts: dict[int, int] = {}
    at = 0
    for header, name in sorted(headers, key=lambda one: one[0].offset):
        if header.offset < at:
            raise _overlap()
        if header.offset > at:
            raise _polyglot("bytes between its entries belong to none")
        starts[header.offset] = start = _data_start(data, header, name)
        at = start + header.packed
        if header.flags & DESCRIBED:
            at += _descriptor_bytes(data, at, header)
    if at > begin:
        raise _overlap()
    if at < begin:
        raise _polyglot("bytes behind its entries belong to none")
    return starts


def _data_start(data: bytes, header: _Header, name: bytes) -> int:
    """Check an entry's local header against the directory; return where it ends."""
    mark, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = LOCAL.unpack_from(data, header.offset)
    name_end = header.offset + LOCAL.size + name_bytes
    written = (crc, packed, size)
    expected = [(header.crc, header.packed, header.size)] + [(0, 0, 0)] * bool(header.flags & DESCRIBED)
    if mark != LOCAL_MARK or (flags, method) != (header.flags, header.method) or written not in expected:
        raise _malformed("an entry says other things of itself than the directory does")
    if data[header.offset + LOCAL.size : name_end] != name:
        raise _malformed("an entry has another name than in the directory")
    _check_extra(data[name_end : name_end + extra_bytes])
    return name_end + extra_bytes


def _descriptor_bytes(data: bytes, at: int, header: _Header) -> int:
    """Return the length of the data descriptor, with or without its mark."""
    facts = DESCRIPTOR.pack(header.crc, header.packed, header.size)
    for form in (DESCRIPTOR_MARK + facts, facts):
        if data.startswith(form, at):
            return len(form)
    raise _malformed("what follows an entry's data says other things than the directory")


# --- content ------------------------------------------------------------------------------------------------------


def _stored(archive: Archive, entry: Entry) -> Iterator[bytes]:
    for at in range(entry.start, entry.start + entry.packed, CHUNK):
        yield archive.data[at : min(at + CHUNK, entry.start + entry.packed)]


def _inflated(archive: Archive, entry: Entry) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    at, end = entry.start, entry.start + entry.packed
    while not inflater.eof:
        source = inflater.unconsumed_tail
        if not source:
            source = archive.data[at : min(at + CHUNK, end)]
            at += len(source)
        try:
            part = inflater.decompress(source, CHUNK)
        except zlib.error:
            raise _malformed(f"{entry.path!a} is damaged") from None
        if not part and not source:
            raise _malformed(f"{entry.path!a} is cut short")
        if part:
            yield part
    if at != end or inflater.unused_data:
        raise _malformed(f"{entry.path!a} hides bytes behind its end")


def _malformed(what: str) -> BundleRejected:
    return BundleRejected(BundleFault.ZIP_MALFORMED, f"{what}: build it with `trace-ray bundle build`")


def _polyglot(what: str) -> BundleRejected:
    return BundleRejected(BundleFault.ZIP_POLYGLOT, f"{what}: it must be one whole zip and nothing else")


def _overlap() -> BundleRejected:
    return BundleRejected(BundleFault.ZIP_OVERLAP, "its entries overlap: build it again")


def _encrypted() -> BundleRejected:
    return BundleRejected(BundleFault.ZIP_ENCRYPTED, "it is encrypted: pack it without a password")

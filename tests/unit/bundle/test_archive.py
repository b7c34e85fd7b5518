"""The structure of zips: what honest tools write passes, and each rule refuses with its code."""

import io
import os
import stat
import struct
import zipfile
import zlib

import pytest

from tests.bundles import FILES, Raw, zip_of
from trace_ray.bundle import archive
from trace_ray.bundle.archive import Packed
from trace_ray.errors import BundleFault, BundleRejected

TEXT = b"print('hello')\n" * 20
ONE = Raw(b"main.py", TEXT)
TWO = Raw(b"lib/other.py", TEXT[::-1], method=0)


def content(data: bytes) -> dict[str, bytes]:
    read = archive.read(data)
    return {entry.path: b"".join(archive.unpack(read, entry)) for entry in read.entries}


def extra(kind: int, body: bytes = b"\0" * 4) -> bytes:
    return struct.pack("<2H", kind, len(body)) + body


# --- what passes --------------------------------------------------------------------------------------------------


def test_what_is_packed_is_read() -> None:
    data = archive.pack(FILES)
    assert content(data) == {path: file.content for path, file in FILES.items()}
    assert {entry.path for entry in archive.read(data).entries if entry.executable} == {"pkg/data.bin"}


def test_equal_files_give_equal_bytes_in_any_order() -> None:
    assert archive.pack(dict(reversed(FILES.items()))) == archive.pack(FILES)
    with zipfile.ZipFile(io.BytesIO(archive.pack(FILES))) as opened:
        assert opened.namelist() == sorted(FILES)
        assert {info.date_time for info in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert opened.testzip() is None


@pytest.mark.parametrize(
    "entries",
    [
        [ONE, TWO],
        [Raw(b"lib/", mode=stat.S_IFDIR | 0o755, method=0), TWO],
        [Raw(b"lib/", mode=0, method=0, dos=0x10), TWO],
        [Raw(b"lib/", mode=stat.S_IFDIR), TWO],
        [Raw(b"main.py", TEXT, flags=0x808)],
        [Raw(b"main.py", TEXT, flags=0x808, described=struct.pack("<3L", *ONE.facts))],
        [Raw(b"main.py", TEXT, flags=8, local=dict(zip(("crc", "packed", "size"), ONE.facts, strict=True)))],
        [Raw(b"main.py", TEXT, extra=extra(0x5455, b"12345"), local_extra=extra(0x5455, b"123456789"))],
        [Raw(b"main.py", b""), TWO],
        [Raw(b"main.py", bytes(700_000), method=8)],
        [Raw("müller.py".encode(), TEXT)],
        [Raw(b"main.py", os.urandom(700_000))],
    ],
)
def test_what_honest_tools_write_passes(entries: list[Raw]) -> None:
    wanted = {one.name.decode(): one.content for one in entries if not one.name.endswith(b"/")}
    assert content(zip_of(entries)) == wanted


def test_what_python_writes_passes() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.mkdir("lib")
        out.writestr("lib/one.py", TEXT)
    assert content(file.getvalue()) == {"lib/one.py": TEXT}


def test_what_python_writes_to_a_pipe_passes() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("one.py", TEXT)
    assert content(pipe.getvalue()) == {"one.py": TEXT}


# --- what is refused ----------------------------------------------------------------------------------------------

LINK = stat.S_IFLNK | 0o777
DEEP = b"/".join([b"d"] * 17)
CASES: dict[str, tuple[BundleFault, bytes]] = {
    "empty": (BundleFault.ZIP_POLYGLOT, b""),
    "no entry": (BundleFault.ZIP_POLYGLOT, zip_of([])),
    "script before": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], prefix=b"#!/bin/sh\n")),
    "entry hidden before": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], prefix=b"PK\x03\x04 hidden")),
    "cut end": (BundleFault.ZIP_POLYGLOT, zip_of([ONE])[:-1]),
    "cut in the middle": (BundleFault.ZIP_POLYGLOT, zip_of([ONE])[:60]),
    "bytes behind": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], suffix=b"x")),
    "comment": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], comment=b"hi")),
    "comment that ends like an end": (
        BundleFault.ZIP_POLYGLOT,
        zip_of([ONE], comment=b"PK\x05\x06" + bytes(18)),
    ),
    "disks": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], disk=1)),
    "directory on another disk": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], other=1)),
    "counts differ": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], here=2)),
    "count too small": (BundleFault.ZIP_POLYGLOT, zip_of([ONE, TWO], here=1, count=1)),
    "count too large": (BundleFault.ZIP_MALFORMED, zip_of([ONE], here=2, count=2)),
    "directory elsewhere": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], begin=3)),
    "zip64 end": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], begin=0xFFFFFFFF)),
    "gap between": (BundleFault.ZIP_POLYGLOT, zip_of([ONE, Raw(b"b.py", TEXT, gap=b"hidden")])),
    "gap at the end": (BundleFault.ZIP_POLYGLOT, zip_of([ONE], behind=b"hidden")),
    "bytes after a descriptor": (BundleFault.ZIP_POLYGLOT, zip_of([Raw(b"a", TEXT, flags=8)], behind=b"x")),
    "entry that nobody lists": (
        BundleFault.ZIP_POLYGLOT,
        zip_of([ONE], behind=zip_of([TWO])[: -22 - 46 - len(TWO.name)]),
    ),
    "no mark in the directory": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, mark=b"PK\x01\x00")])),
    "comment of an entry": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, comment=b"hi")])),
    "entry on another disk": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, disk=1)])),
    "extra cut in its head": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, extra=b"abc")])),
    "extra cut": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, extra=b"UT\x09\x00ab")])),
    "local extra cut": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, local_extra=b"abc")])),
    "zip64": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, extra=extra(0x0001))])),
    "second name": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, extra=extra(0x7075))])),
    "second name, local": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, local_extra=extra(0x7075))])),
    "AES": (BundleFault.ZIP_ENCRYPTED, zip_of([Raw(b"main.py", TEXT, extra=extra(0x9901))])),
    "encrypted": (BundleFault.ZIP_ENCRYPTED, zip_of([Raw(b"main.py", TEXT, flags=0x801)])),
    "strongly encrypted": (BundleFault.ZIP_ENCRYPTED, zip_of([Raw(b"main.py", TEXT, flags=0x840)])),
    "masked": (BundleFault.ZIP_ENCRYPTED, zip_of([Raw(b"main.py", TEXT, flags=0x2800)])),
    "patch": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, flags=0x820)])),
    "bzip2": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, method=12)])),
    "stored in two sizes": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, method=0, size=5)])),
    "other flags inside": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, local={"flags": 0})])),
    "other method inside": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, local={"method": 0})])),
    "other size inside": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, local={"size": 1})])),
    "other CRC inside": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, local={"crc": 1})])),
    "other name inside": (BundleFault.ZIP_MALFORMED, zip_of([Raw(b"main.py", TEXT, local={"name": b"evil.py"})])),
    "no mark inside": (BundleFault.ZIP_MALFORMED, zip_of([ONE, Raw(b"b.py", TEXT, local={"mark": b"PK\x03\x00"})])),
    "other size in a stream": (
        BundleFault.ZIP_MALFORMED,
        zip_of([Raw(b"main.py", TEXT, flags=8, local={"size": 1})]),
    ),
    "other descriptor": (
        BundleFault.ZIP_MALFORMED,
        zip_of([Raw(b"main.py", TEXT, flags=8, described=b"PK\x07\x08" + bytes(12))]),
    ),
    "overlap: two entries, one body": (BundleFault.ZIP_OVERLAP, zip_of([ONE, Raw(b"b.py", TEXT, offset=0)])),
    "overlap: an entry inside another's extra field": (
        BundleFault.ZIP_OVERLAP,
        zip_of(
            [
                Raw(b"a", TEXT, method=0, local_extra=extra(0x5455, zip_of([TWO])[: -22 - 46 - len(TWO.name)])),
                Raw(TWO.name, TWO.content, method=0, offset=35),
            ]
        ),
    ),
    "overlap: runs into the directory": (
        BundleFault.ZIP_OVERLAP,
        zip_of([Raw(b"a", b"four", method=0, claim=9, size=9)]),
    ),
    "overlap: descriptor in the directory": (
        BundleFault.ZIP_OVERLAP,
        zip_of([Raw(b"a", flags=0x808, crc=0x02014B50, packed=bytes(0x140314), size=0x80808, described=b"")]),
    ),
    "entry behind the end": (BundleFault.ZIP_POLYGLOT, zip_of([Raw(b"a", TEXT, offset=100_000)])),
    "path up": (BundleFault.ZIP_PATH, zip_of([Raw(b"../evil.py", TEXT)])),
    "path up inside": (BundleFault.ZIP_PATH, zip_of([Raw(b"a/../../evil.py", TEXT)])),
    "absolute": (BundleFault.ZIP_PATH, zip_of([Raw(b"/etc/passwd", TEXT)])),
    "backslash": (BundleFault.ZIP_PATH, zip_of([Raw(b"a\\b.py", TEXT)])),
    "drive": (BundleFault.ZIP_PATH, zip_of([Raw(b"C:b.py", TEXT)])),
    "NUL": (BundleFault.ZIP_PATH, zip_of([Raw(b"a.py\0.txt", TEXT)])),
    "escape": (BundleFault.ZIP_PATH, zip_of([Raw(b"a\x1b[2J.py", TEXT)])),
    "right to left": (BundleFault.ZIP_PATH, zip_of([Raw("a\u202eyp.txt".encode(), TEXT)])),
    "not NFC": (BundleFault.ZIP_PATH, zip_of([Raw("u\u0308.py".encode(), TEXT)])),
    "too long": (BundleFault.ZIP_PATH, zip_of([Raw(b"a" * 241, TEXT)])),
    "too deep": (BundleFault.ZIP_PATH, zip_of([Raw(DEEP, TEXT)])),
    "dot": (BundleFault.ZIP_PATH, zip_of([Raw(b"./a.py", TEXT)])),
    "double slash": (BundleFault.ZIP_PATH, zip_of([Raw(b"a//b.py", TEXT)])),
    "no name": (BundleFault.ZIP_PATH, zip_of([Raw(b"", TEXT)])),
    "not ASCII and not marked": (BundleFault.ZIP_PATH, zip_of([Raw("ü.py".encode(), TEXT, flags=0)])),
    "no UTF-8": (BundleFault.ZIP_PATH, zip_of([Raw(b"\xff.py", TEXT)])),
    "directory up": (BundleFault.ZIP_PATH, zip_of([ONE, Raw(b"../up/", mode=stat.S_IFDIR, method=0)])),
    "root directory": (BundleFault.ZIP_PATH, zip_of([ONE, Raw(b"/", mode=stat.S_IFDIR, method=0)])),
    "link": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", b"/etc/passwd", mode=LINK)])),
    "device": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", b"", mode=stat.S_IFCHR | 0o666)])),
    "fifo": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", b"", mode=stat.S_IFIFO | 0o666)])),
    "setuid": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", TEXT, mode=stat.S_IFREG | 0o4755)])),
    "sticky": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", TEXT, mode=stat.S_IFREG | 0o1755)])),
    "directory without a slash": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", b"", mode=stat.S_IFDIR | 0o755)])),
    "directory of DOS": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", b"", mode=0, dos=0x10)])),
    "volume label": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", b"", mode=0, dos=0x08)])),
    "reparse point": (BundleFault.ZIP_SPECIAL, zip_of([Raw(b"a", b"", mode=0, dos=0x400)])),
    "file with a slash": (BundleFault.ZIP_SPECIAL, zip_of([ONE, Raw(b"a/", b"")])),
    "directory with content": (BundleFault.ZIP_SPECIAL, zip_of([TWO, Raw(b"lib/", TEXT, mode=stat.S_IFDIR)])),
    "directory that hides bytes": (
        BundleFault.ZIP_SPECIAL,
        zip_of([TWO, Raw(b"lib/", packed=b"hidden", mode=stat.S_IFDIR)]),
    ),
    "directory with a CRC": (BundleFault.ZIP_SPECIAL, zip_of([TWO, Raw(b"lib/", method=0, crc=7, mode=stat.S_IFDIR)])),
    "twice": (BundleFault.ZIP_DUP, zip_of([ONE, Raw(b"main.py", b"other")])),
    "directory twice": (BundleFault.ZIP_DUP, zip_of([TWO, *[Raw(b"lib/", mode=stat.S_IFDIR, method=0)] * 2])),
    "case": (BundleFault.ZIP_CASE_COLLISION, zip_of([ONE, Raw(b"MAIN.py", b"other")])),
    "case of other alphabets": (
        BundleFault.ZIP_CASE_COLLISION,
        zip_of([Raw("straße".encode()), Raw(b"STRASSE")]),
    ),
    "case of directories": (BundleFault.ZIP_CASE_COLLISION, zip_of([TWO, Raw(b"LIB/b.py", TEXT)])),
    "file and directory": (BundleFault.ZIP_CASE_COLLISION, zip_of([TWO, Raw(b"lib", TEXT)])),
    "empty directory": (
        BundleFault.ZIP_MANIFEST_MISMATCH,
        zip_of([ONE, Raw(b"idle/", mode=stat.S_IFDIR | 0o755, method=0)]),
    ),
    "4,097 entries": (BundleFault.ZIP_BOMB, zip_of([ONE], here=4097, count=4097)),
    "file too large": (BundleFault.ZIP_BOMB, zip_of([Raw(b"a", TEXT, size=129 << 20)])),
    "all too large": (BundleFault.ZIP_BOMB, zip_of([Raw(b"a%d" % n, TEXT, size=65 << 20) for n in range(3)])),
    "ratio": (BundleFault.ZIP_BOMB, zip_of([Raw(b"a", bytes(4 << 20))])),
    "ratio of many": (BundleFault.ZIP_BOMB, zip_of([Raw(b"a%d" % n, bytes(800_000)) for n in range(20)])),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_refuses_with_its_code(case: str) -> None:
    code, data = CASES[case]
    with pytest.raises(BundleRejected) as caught:
        archive.read(data)
    assert caught.value.code is code


SPLIT = zlib.compressobj(9, zlib.DEFLATED, -15)
HALF = SPLIT.compress(TEXT) + SPLIT.flush(zlib.Z_SYNC_FLUSH)  # a stream without an end


def deflated(content: bytes) -> bytes:
    deflater = zlib.compressobj(0, zlib.DEFLATED, -15)
    return deflater.compress(content) + deflater.flush()


FULL = next(bytes(n) for n in range(archive.CHUNK - 60, archive.CHUNK) if len(deflated(bytes(n))) == archive.CHUNK)
CONTENT: dict[str, tuple[BundleFault, Raw]] = {
    "more than it says": (BundleFault.ZIP_BOMB, Raw(b"a", TEXT, size=10)),
    "much more than it says": (BundleFault.ZIP_BOMB, Raw(b"a", bytes(3_000_000), size=600_000)),
    "less than it says": (BundleFault.ZIP_MALFORMED, Raw(b"a", TEXT, size=len(TEXT) + 1)),
    "no deflate": (BundleFault.ZIP_MALFORMED, Raw(b"a", TEXT, packed=b"\xff" * 40)),
    "cut short": (BundleFault.ZIP_MALFORMED, Raw(b"a", TEXT, packed=HALF)),
    "nothing at all": (BundleFault.ZIP_MALFORMED, Raw(b"a", TEXT, packed=b"")),
    "hides bytes behind its end": (BundleFault.ZIP_MALFORMED, Raw(b"a", TEXT, packed=ONE.body + b"hidden")),
    "hides bytes behind a full part": (BundleFault.ZIP_MALFORMED, Raw(b"a", FULL, packed=deflated(FULL) + b"hidden")),
    "hides many bytes": (BundleFault.ZIP_MALFORMED, Raw(b"a", TEXT, packed=ONE.body + bytes(300_000))),
    "other content": (BundleFault.FILE_SHA_MISMATCH, Raw(b"a", TEXT, method=0, crc=7)),
}


@pytest.mark.parametrize("case", CONTENT)
def test_content_is_counted_and_checked_while_it_is_unpacked(case: str) -> None:
    code, entry = CONTENT[case]
    read = archive.read(zip_of([entry]))
    produced: list[int] = []
    with pytest.raises(BundleRejected) as caught:
        produced.extend(map(len, archive.unpack(read, read.entries[0])))
    assert caught.value.code is code
    assert sum(produced) <= read.entries[0].size


def test_small_files_are_stored_where_deflate_gains_nothing() -> None:
    (entry,) = archive.read(archive.pack({"a": Packed(b"x", False)})).entries
    assert (entry.method, entry.packed) == (archive.STORED, 1)

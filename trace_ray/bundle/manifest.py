"""What a bundle says of itself: an in-toto statement about one zip, whose predicate lists every file. Pure.

The statement is read twice as strictly as any client writes it: `parse_statement` is total, and every text that is not
exactly of this form is rejected.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, assert_never

from trace_ray.bundle import strict
from trace_ray.bundle.paths import check_distinct, check_path
from trace_ray.errors import BundleFault, BundleRejected

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://trace-ray.dev/udf-bundle/v1"
SCHEMA: Final = 1
ARCH: Final = "linux/amd64"
MAX_ZIP: Final = 50 * 1024**2
MAX_FILES: Final = 4096
MAX_FILE: Final = 128 * 1024**2
MAX_TOTAL: Final = 192 * 1024**2

DIGEST: Final = re.compile(r"[0-9a-f]{64}")
NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
CREATED: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})", re.ASCII)
ARTEFACT: Final = re.compile(r"[ -~]{1,255}")
ANY: Final = re.compile(r".{1,4096}", re.DOTALL)
PREDICATE: Final = (
    "schema", "name", "version", "language", "entrypoint", "arch", "size", "created", "requests", "files",
)  # fmt: skip
NAME_RULE: Final = "1 to 64 small letters, digits, _ and -, a letter first"
VERSION_RULE: Final = "1 to 64 letters, digits and . + _ -, a letter or digit first"


class Language(StrEnum):
    PYTHON = "python"
    NODE = "node"
    BOOTSTRAP = "bootstrap"  # a Linux program, such as one of Rust
    WASM = "wasm"


ENTRYPOINTS: Final = {
    Language.PYTHON: (re.compile(r"[A-Za-z_]\w{0,63}(\.[A-Za-z_]\w{0,63}){1,16}", re.ASCII), "module.function"),
    Language.NODE: (re.compile(r"[A-Za-z0-9_/-]{1,200}\.[A-Za-z_$][\w$]{0,63}", re.ASCII), "module.function"),
    Language.BOOTSTRAP: (re.compile(r"bootstrap"), "bootstrap"),
    Language.WASM: (re.compile(r"[A-Za-z0-9_/-]{1,200}\.wasm"), "file.wasm"),
}


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One regular file. `digest` is its SHA-256 in hex."""

    path: str
    digest: str
    size: int
    executable: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked predicate. `size` is that of the zip in bytes; `created` decides nothing.

    `query` and `events` say what the handler asks for: to ask SQL, to emit events.
    """

    name: str
    version: str
    language: Language
    entrypoint: str
    size: int
    created: str
    query: bool
    events: bool
    files: tuple[BundleFile, ...]

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of our form about the zip with SHA-256 `digest`; its predicate is not looked at yet."""

    digest: str
    predicate: object


def parse_statement(payload: bytes) -> Statement:
    """Return the statement. Raises BundleRejected: `manifest_fields`."""
    whole = strict.load(payload, BundleFault.MANIFEST_FIELDS)
    found = _members(whole, "the statement", ("_type", "subject", "predicateType", "predicate"))
    if found["_type"] != STATEMENT_TYPE or found["predicateType"] != PREDICATE_TYPE:
        raise _fault(f"_type must be {STATEMENT_TYPE} and predicateType {PREDICATE_TYPE}")
    (one,) = strict.items(found["subject"], "subject", 1, 1, BundleFault.MANIFEST_FIELDS)
    subject = _members(one, "subject", ("name", "digest"))
    _text(subject["name"], "the subject's name", ARTEFACT, "1 to 255 visible ASCII characters")
    digest = _members(subject["digest"], "the subject's digest", ("sha256",))
    return Statement(_digest(digest["sha256"], "the subject's sha256"), found["predicate"])


def parse_predicate(predicate: object) -> Manifest:
    """Return the manifest.

    Raises:
        BundleRejected: `manifest_fields`; for the names of files `zip_path`, `zip_dup`, `zip_case_collision`; for sizes
            above the caps `zip_bomb`.
    """
    found = _members(predicate, "the predicate", PREDICATE)
    if type(found["schema"]) is not int or found["schema"] != SCHEMA or found["arch"] != ARCH:
        raise _fault(f"schema must be {SCHEMA} and arch {ARCH}")
    if found["language"] not in tuple(Language):
        raise _fault(f"language must be one of {', '.join(Language)}")
    language = Language(found["language"])
    requests = _members(found["requests"], "requests", ("query", "events"))
    manifest = Manifest(
        name=_text(found["name"], "name", NAME, NAME_RULE),
        version=_text(found["version"], "version", VERSION, VERSION_RULE),
        language=language,
        entrypoint=check_entrypoint(language, found["entrypoint"]),
        size=strict.whole(found["size"], "size", 1, MAX_ZIP, BundleFault.MANIFEST_FIELDS),
        created=_text(found["created"], "created", CREATED, "an instant such as 2026-01-31T12:00:00Z"),
        query=strict.flag(requests["query"], "requests.query", BundleFault.MANIFEST_FIELDS),
        events=strict.flag(requests["events"], "requests.events", BundleFault.MANIFEST_FIELDS),
        files=_files(found["files"]),
    )
    if entry_file(language, manifest.entrypoint, manifest.files) is None:
        raise _fault("no file holds the entrypoint: mend it, and make bootstrap executable")
    return manifest


def check_entrypoint(language: Language, entrypoint: object) -> str:
    """Return the entrypoint. Raises BundleRejected: `manifest_fields`."""
    pattern, form = ENTRYPOINTS[language]
    return _text(entrypoint, "entrypoint", pattern, f"of the form {form}")


def entry_candidates(language: Language, entrypoint: str) -> tuple[str, ...]:
    """Return the paths of which one must be a file of the bundle."""
    module, _, _ = entrypoint.rpartition(".")
    match language:
        case Language.PYTHON:
            place = module.replace(".", "/")
            return (f"{place}.py", f"{place}/__init__.py")
        case Language.NODE:
            return (f"{module}.js", f"{module}.mjs", f"{module}.cjs")
        case Language.BOOTSTRAP | Language.WASM:
            return (entrypoint,)
        case _:
            assert_never(language)


def entry_file(language: Language, entrypoint: str, files: Sequence[BundleFile]) -> BundleFile | None:
    """Return the file that holds the entrypoint, or None."""
    wanted = entry_candidates(language, entrypoint)
    runnable = (file for file in files if file.executable or language is not Language.BOOTSTRAP)
    return next((file for file in runnable if file.path in wanted), None)


def render(manifest: Manifest, *, artefact: str, digest: str) -> bytes:
    """Return the statement about a zip of this name and SHA-256, always in the same bytes."""
    predicate: dict[str, Any] = {
        "schema": SCHEMA,
        "name": manifest.name,
        "version": manifest.version,
        "language": manifest.language,
        "entrypoint": manifest.entrypoint,
        "arch": ARCH,
        "size": manifest.size,
        "created": manifest.created,
        "requests": {"query": manifest.query, "events": manifest.events},
        "files": [
            {"path": file.path, "sha256": file.digest, "size": file.size, "exec": file.executable}
            for file in manifest.files
        ],
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": artefact, "digest": {"sha256": digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def _files(value: object) -> tuple[BundleFile, ...]:
    listed = strict.items(value, "files", 1, MAX_FILES, BundleFault.MANIFEST_FIELDS)
    files = tuple(_file(one) for one in listed)
    check_distinct([file.path for file in files])
    if any(file.size > MAX_FILE for file in files) or sum(file.size for file in files) > MAX_TOTAL:
        raise BundleRejected(
            BundleFault.ZIP_BOMB, f"it unpacks to more than {MAX_FILE:,} bytes a file or {MAX_TOTAL:,} in all"
        )
    return files


def _file(value: object) -> BundleFile:
    found = _members(value, "a file", ("path", "sha256", "size", "exec"))
    return BundleFile(
        path=check_path(_text(found["path"], "a path", ANY, "a name of 1 to 240 bytes")),
        digest=_digest(found["sha256"], "a file's sha256"),
        size=strict.whole(found["size"], "a file's size", 0, 1 << 62, BundleFault.MANIFEST_FIELDS),
        executable=strict.flag(found["exec"], "a file's exec", BundleFault.MANIFEST_FIELDS),
    )


def _members(value: object, where: str, names: Sequence[str]) -> dict[str, Any]:
    return strict.members(value, where, names, BundleFault.MANIFEST_FIELDS)


def _text(value: object, where: str, pattern: re.Pattern[str], rule: str) -> str:
    return strict.text(value, where, pattern, rule, BundleFault.MANIFEST_FIELDS)


def _digest(value: object, where: str) -> str:
    return _text(value, where, DIGEST, "64 small hexadecimal digits")


def _fault(message: str) -> BundleRejected:
    return BundleRejected(BundleFault.MANIFEST_FIELDS, message)

"""An author's directory: `bundle.toml` says what the handler is, the other files are the bundle.

What is built here always passes verification, or is refused with a sentence that says what to change.
"""

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.resources import files as package_files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, cast

from trace_ray.bundle import archive, manifest
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.manifest import MAX_FILES, MAX_TOTAL, BundleFile, Language, Manifest
from trace_ray.bundle.verify import check_size
from trace_ray.errors import BundleRejected, RefusedInput

SETTINGS: Final = "bundle.toml"
RUST: Final = "rust"  # a language of authors; the bundle holds the program alone
BOOTSTRAP: Final = "bootstrap"
LANGUAGES: Final = (*Language, RUST)
TEMPLATES: Final = ("python", "node", RUST)
KEYS: Final = ("name", "version", "language", "entrypoint", "requests", "exclude")
LEFT_OUT: Final = (
    SETTINGS,
    ".*",
    "__pycache__",
    "*.pyc",
    "*.key",
    "*.zip",
    "*.zip.statement.json",
    "*.zip.intoto.json",
)
NAMED: Final = re.compile(r'^name = ".*"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Project:
    """A checked `bundle.toml`. `rust`: the program is compiled first. `exclude`: patterns of paths to leave out."""

    name: str
    version: str
    language: Language
    entrypoint: str
    query: bool
    events: bool
    exclude: tuple[str, ...]
    rust: bool

    @property
    def zip_name(self) -> str:
        return f"{self.name}-{self.version}.zip"


def start(directory: Path, template: str) -> None:
    """Write a working handler into a directory, which is made; its name becomes the bundle's where it can.

    Raises:
        RefusedInput: there is something in the directory, or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise RefusedInput(f"{directory} is not empty: name a new directory")
        _copy(package_files("trace_ray").joinpath("bundle/templates", template), directory)
        settings = directory / SETTINGS
        if manifest.NAME.fullmatch(directory.resolve().name):
            settings.write_text(NAMED.sub(f'name = "{directory.resolve().name}"', settings.read_text()))
    except OSError:
        raise RefusedInput(f"{directory} cannot be written: name a directory of yours") from None


def read(directory: Path) -> Project:
    """Return the settings of a directory.

    Raises:
        RefusedInput: one sentence for each mistake.
    """
    path = directory / SETTINGS
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise RefusedInput(f"{path} cannot be read: make one with `trace-ray bundle init`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RefusedInput(f"{path} is no TOML ({error}): mend it") from None
    problems = [f"{path}: there is no key {key}: take it out" for key in found if key not in KEYS]
    problems += [f"{path}: {problem}" for problem in _problems(found)]
    if problems:
        raise RefusedInput(problems)
    rust = found["language"] == RUST
    language = Language.BOOTSTRAP if rust else Language(found["language"])
    requests = found.get("requests", {})
    return Project(
        name=found["name"],
        version=found["version"],
        language=language,
        entrypoint=found.get("entrypoint", BOOTSTRAP if language is Language.BOOTSTRAP else ""),
        query=requests.get("query", False),
        events=requests.get("events", False),
        exclude=tuple(found.get("exclude", ())),
        rust=rust,
    )


def collect(directory: Path, project: Project) -> dict[str, Packed]:
    """Return the files of a directory by path, without what is hidden, made by tools, excluded or a key.

    Raises:
        RefusedInput: a link, a device, too much, or no file that holds the entrypoint.
    """
    found: dict[str, Packed] = {}
    total = 0
    for path, state in _walk(directory, directory, project.exclude):
        total += state.st_size
        if total > MAX_TOTAL or len(found) == MAX_FILES:
            raise RefusedInput(f"{directory} has more than {MAX_FILES:,} files or {MAX_TOTAL:,} bytes: exclude some")
        name = path.relative_to(directory).as_posix()
        try:
            found[name] = Packed(path.read_bytes(), bool(state.st_mode & stat.S_IXUSR))
        except OSError:
            raise RefusedInput(f"{path} cannot be read: give yourself the right to") from None
    return found


def build(files: Mapping[str, Packed], project: Project) -> bytes:
    """Return the zip of these files; it passes verification once it is signed.

    Raises:
        RefusedInput: the entrypoint's file is missing.
        BundleRejected: a rule for zips or names is broken.
    """
    listed = [BundleFile(path, "", 0, file.executable) for path, file in files.items()]
    if manifest.entry_file(project.language, project.entrypoint, listed) is None:
        wanted = " or ".join(manifest.entry_candidates(project.language, project.entrypoint))
        executable = ", executable" if project.language is Language.BOOTSTRAP else ""
        raise RefusedInput(f"there is no {wanted}{executable}: the entrypoint is {project.entrypoint}")
    data = archive.pack(files)
    check_size(len(data))
    return data


def describe(data: bytes, project: Project, *, artefact: str, created: str) -> bytes:
    """Return the statement about a zip, ours or one of another tool.

    Raises:
        BundleRejected: it breaks a rule; what is returned keeps all of them.
    """
    check_size(len(data))
    zipped = archive.read(data)
    files: list[BundleFile] = []
    for entry in zipped.entries:
        hashed = hashlib.sha256()
        for part in archive.unpack(zipped, entry):
            hashed.update(part)
        executable = entry.executable or (project.language is Language.BOOTSTRAP and entry.path == BOOTSTRAP)
        files.append(BundleFile(entry.path, hashed.hexdigest(), entry.size, executable))
    said = Manifest(
        project.name,
        project.version,
        project.language,
        project.entrypoint,
        len(data),
        created,
        project.query,
        project.events,
        tuple(sorted(files, key=lambda file: file.path)),
    )
    payload = manifest.render(said, artefact=artefact, digest=hashlib.sha256(data).hexdigest())
    manifest.parse_predicate(manifest.parse_statement(payload).predicate)
    return payload


# --- bundle.toml --------------------------------------------------------------------------------------------------


def _problems(found: Mapping[str, Any]) -> Iterator[str]:
    for key, pattern, rule in (
        ("name", manifest.NAME, manifest.NAME_RULE),
        ("version", manifest.VERSION, manifest.VERSION_RULE),
    ):
        if not isinstance(found.get(key), str) or not pattern.fullmatch(found[key]):
            yield f"{key} must have {rule}"
    language = found.get("language")
    if language not in LANGUAGES:
        yield f"language must be one of {', '.join(LANGUAGES)}"
    elif language != RUST and (language != Language.BOOTSTRAP or "entrypoint" in found):
        try:
            manifest.check_entrypoint(Language(language), found.get("entrypoint"))
        except BundleRejected:
            yield f"entrypoint must be of the form {manifest.ENTRYPOINTS[Language(language)][1]}"
    elif found.get("entrypoint", BOOTSTRAP) != BOOTSTRAP:
        yield "entrypoint must be bootstrap, or left out"
    requests = found.get("requests", {})
    if not isinstance(requests, dict) or not cast(dict[str, object], requests).keys() <= {"query", "events"}:
        yield "requests must be a table with the keys query and events"
    elif not all(isinstance(one, bool) for one in cast(dict[str, object], requests).values()):
        yield "query and events must be true or false"
    exclude = found.get("exclude", [])
    if not isinstance(exclude, list) or not all(isinstance(one, str) for one in cast(list[object], exclude)):
        yield 'exclude must be a list of patterns such as "tests/*"'


# --- files --------------------------------------------------------------------------------------------------------


def _walk(top: Path, directory: Path, exclude: tuple[str, ...]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the regular files below a directory in the order of their names."""
    try:
        inside = sorted(directory.iterdir())
    except OSError:
        raise RefusedInput(f"{directory} cannot be read: name a directory of yours") from None
    for path in inside:
        name = path.relative_to(top).as_posix()
        if any(fnmatch(path.name, one) for one in LEFT_OUT) or any(fnmatch(name, one) for one in exclude):
            continue
        state = path.lstat()
        if stat.S_ISDIR(state.st_mode):
            yield from _walk(top, path, exclude)
        elif stat.S_ISREG(state.st_mode):
            yield path, state
        else:
            raise RefusedInput(f"{path} is a link or a device: put a copy of the file there, or exclude it")


def _copy(source: Traversable, target: Path) -> None:
    for one in source.iterdir():
        if one.name == "__pycache__":
            continue
        if one.is_dir():
            (target / one.name).mkdir()
            _copy(one, target / one.name)
        else:
            (target / one.name).write_bytes(one.read_bytes())

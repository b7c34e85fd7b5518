"""YAML text -> plain values, each with its line. Knows YAML and what must not be in it; of its keys it knows `Form`.

A small part of YAML is read: mappings, lists, text, whole and decimal numbers, `true` and `false`. What different YAML
readers read differently (`yes`, `1_000`, `0x10`, repeated keys, merged mappings) stays text or is refused, so that a
file means the same to everybody. Aliases are refused: nine lines of them can fill a machine's memory.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import yaml

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 10  # a job file needs 3
MAX_DIGITS: Final = 30
MAX_SHOWN: Final = 60  # characters of a value in a sentence

Path = tuple[str | int, ...]

POOL_ADVICE: Final = "write the name of a pool, and set its URL in TRACE_RPC_POOL_<NAME>_URLS"
WORD: Final = re.compile(r"[\w-]{1,19}|[a-z_]{1,64}")
WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]*)")
DECIMAL: Final = re.compile(r"-?[0-9]+\.[0-9]+")
URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://|\b(localhost|[0-9]{1,3}(\.[0-9]{1,3}){3}):[0-9]+|\bwww\.", re.IGNORECASE)
KEYED_URL: Final = re.compile(r"://(?P<user>[^\s/@]+@)?(?P<rest>\S*)")
SECRET_VALUE: Final = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{12}|\b(ghp|gho|ghs|github_pat|glpat|xox[abpr]|sk|pk|rk)[-_][A-Za-z0-9_-]{12}"
    r"|\b(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{32,}\b|\bAIza[\w-]{20}|\beyJ[\w-]{8,}\.|-----BEGIN|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\bbearer\s+\S{8}",
    re.IGNORECASE,
)
RUN: Final = re.compile(r"[A-Za-z0-9]{20,}")
KIND: Final = re.compile(r"(?P<digit>[0-9])|(?P<lower>[a-z])|(?P<upper>[A-Z])")
CHANGES: Final = 6  # a random run of 20 changes its kind of character about 10 times, a name that people chose hardly


@dataclass(frozen=True, slots=True)
class Form:
    """What kind of file is read. `advice` is what to write instead of a URL or a secret.

    `hashes`: by top-level key, what looks like a secret there and is none: digests, addresses.
    """

    noun: str
    advice: str
    hashes: Mapping[str, re.Pattern[str]] = field(default_factory=dict[str, re.Pattern[str]])

    def is_hash(self, path: Path, text: str) -> bool:
        allowed = self.hashes.get(str(path[0])) if path else None
        return allowed is not None and allowed.fullmatch(text) is not None


JOB: Final = Form("job", POOL_ADVICE)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake: `sentence` continues after the file, the line and the path."""

    line: int
    path: str
    sentence: str


@dataclass(slots=True)
class Document:
    """The values of a file and their lines. What is `spoilt`, and all below it, was told already: do not judge it."""

    value: object = None
    lines: dict[Path, int] = field(default_factory=dict[Path, int])
    spoilt: set[Path] = field(default_factory=set[Path])
    problems: list[Problem] = field(default_factory=list[Problem])

    def line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest mapping around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def is_spoilt(self, path: Path) -> bool:
        return any(path[:length] in self.spoilt for length in range(len(path) + 1))

    def refuse(self, path: Path, sentence: str) -> None:
        self.spoilt.add(path)
        self.problems.append(Problem(self.line(path), path_text(path), sentence))


def read_document(text: str, form: Form = JOB) -> Document:
    """Read one YAML document. What is wrong is in `problems`; nothing is raised."""
    document = Document()
    try:
        _Builder(document, form, yaml.parse(text, Loader=yaml.SafeLoader)).build()
    except _TooDeep as error:
        document.spoilt.add(())
        sentence = f"more than {MAX_DEPTH} levels are refused: write a {form.noun} file as in the reference"
        document.problems.append(Problem(error.line, "(file)", sentence))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _not_yaml(document, mark.line + 1 if mark else 1, error.problem or error.context)
    except yaml.YAMLError:
        _not_yaml(document, _strange_line(text), "a character that YAML forbids")
    document.problems += _keyed_urls(text, {problem.line for problem in document.problems}, form)
    return document


def holds_url(text: str) -> bool:
    return URL.search(text) is not None


def looks_secret(text: str) -> bool:
    """Return whether a text looks like a key: by a known form, or by how often its characters change their kind."""
    if SECRET_VALUE.search(text):
        return True
    for run in RUN.findall(text):
        kinds = [match.lastgroup for match in KIND.finditer(run)]
        if kinds.count("digit") > 1 and sum(one != other for one, other in pairwise(kinds)) >= CHANGES:
            return True
    return False


def shown(value: object) -> str:
    """Return a value for a sentence, cut to a line; what may hold a secret is not shown."""
    match value:
        case None:
            return "an empty value"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return str(value).lower()
        case str() if holds_url(value) or looks_secret(value):
            return "(hidden)"
        case str():
            return repr(value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "...")
        case _:
            return str(value)


def path_text(path: Path) -> str:
    """Return `streams.blocks.rpc_pool`; a part that may be a secret is not shown."""
    parts = [str(part) for part in path]
    return ".".join(part if WORD.fullmatch(part) else shown(part) for part in parts) or "(file)"


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _not_yaml(document: Document, line: int, problem: str | None) -> None:
    document.spoilt.add(())
    reason = f" ({problem})" if problem and not holds_url(problem) and not looks_secret(problem) else ""
    document.problems.append(Problem(line, "(file)", f"the text is not YAML{reason}: write `key: value` lines"))


def _strange_line(text: str) -> int:
    """Return the line of the first character that YAML's reader refuses."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _keyed_urls(text: str, told: set[int], form: Form) -> Iterator[Problem]:
    """Find URLs with keys wherever they are, also in comments, on lines of which nothing was told yet."""
    for number, line in enumerate(text.splitlines(), start=1):
        found = KEYED_URL.search(line)
        if found and number not in told and (found["user"] or looks_secret(found["rest"])):
            yield Problem(number, "(comment)", f"a URL with a key is in the text (not shown): {form.advice}")


class _TooDeep(Exception):
    """The text has too many levels. Reading ends there: with each level that is open, PyYAML reads more slowly."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Builder:
    """Turns YAML's events into values."""

    def __init__(self, document: Document, form: Form, events: Iterator[yaml.Event]) -> None:
        self._document = document
        self._form = form
        self._events = events

    def build(self) -> None:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if () in self._document.lines:
                    self._document.lines[()] = _line(event)
                    self._document.refuse((), f"the file holds several documents: write one {self._form.noun} per file")
                    return
                first = next(self._events)
                self._document.lines[()] = _line(first)
                self._document.value = self._value(first, ())

    def _value(self, event: yaml.Event, path: Path) -> object:
        document = self._document
        if isinstance(event, yaml.AliasEvent):
            document.refuse(path, "an alias (*) is refused: write the value itself")
            return None
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            document.refuse(path, "an anchor (&) is refused: write the value at each place")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag:
            document.refuse(path, "a tag (!) is refused: write the plain value")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            raise _TooDeep(_line(event))
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._list(path)

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        text = event.value
        if holds_url(text):
            self._document.refuse(path, f"a URL is refused (not shown, it may hold a key): {self._form.advice}")
            return None
        if looks_secret(text) and not self._form.is_hash(path, text):
            self._document.refuse(path, f"the value looks like a secret (not shown): {self._form.advice}")
            return None
        if event.style is not None:
            return text
        if text in ("", "~", "null", "Null", "NULL"):
            self._document.refuse(path, "the value is empty: write one, or remove the key")
            return None
        if text in ("true", "false"):
            return text == "true"
        if WHOLE.fullmatch(text) and len(text) <= MAX_DIGITS:
            return int(text)
        if DECIMAL.fullmatch(text) and len(text) <= MAX_DIGITS:
            return float(text)
        return text

    def _mapping(self, path: Path) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            key = self._key(event, path, line)
            value_event = next(self._events)
            place = (*path, key)
            if key in values:
                first = self._document.lines[place]
                sentence = f"the key is on line {first} already: remove one of the two"
                self._document.problems.append(Problem(line, path_text(place), sentence))
                _Builder(Document(), self._form, self._events)._value(value_event, path)
                continue
            self._document.lines[place] = line
            values[key] = self._value(value_event, place)
            self._screen_key(place, key)
        return values

    def _key(self, event: yaml.Event, path: Path, line: int) -> str:
        if isinstance(event, yaml.ScalarEvent):
            return event.value
        if not isinstance(event, yaml.AliasEvent):
            self._skip()
        key = f"line {line}"
        self._document.lines[*path, key] = line
        self._document.refuse((*path, key), "a key must be text: write `key: value`")
        return key

    def _screen_key(self, place: Path, key: str) -> None:
        if holds_url(key):
            self._document.refuse(place, f"a URL is refused (not shown, it may hold a key): {self._form.advice}")
        elif looks_secret(key) and not self._form.is_hash(place, key):
            self._document.refuse(place, f"the key looks like a secret (not shown): {self._form.advice}")

    def _list(self, path: Path) -> list[object]:
        values: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            place = (*path, len(values))
            self._document.lines[place] = _line(event)
            values.append(self._value(event, place))
        return values

    def _skip(self) -> None:
        """Pass over the rest of a collection whose start was read."""
        depth = 1
        while depth:
            event = next(self._events)
            if depth > MAX_DEPTH:
                raise _TooDeep(_line(event))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)

"""A locked DuckDB connection: its settings, the parse tree of a statement, and a run with caps.

Nothing here is trusted alone: DuckDB's own lock lets writes, secrets and settings through (docs/adr/0004), which is
why the gate judges before and Landlock and the rlimits hold around it.
"""

import json
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from query import attach, exact, macros, wire
from query.attach import Sources
from query.cut import fitting
from query.functions import reviewed
from query.verdict import Json

Config = dict[str, str | bool | int | float | list[str]]

SERIALIZE: Final = "select json_serialize_sql($1::varchar, skip_null := true, skip_empty := true)"
LOCKED: Final[Config] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,  # else an HTTP path makes it look into the home directory
    "python_enable_replacements": False,  # else FROM reads this process's variables
}
ARROW_ERROR: Final = re.compile(r"([A-Za-z ]+) Error: ")
KINDS: Final = {
    "Out of Memory": "OutOfMemoryException",
    "INTERRUPT": "InterruptException",
    "IO": "IOException",
    "HTTP": "HTTPException",
    "INTERNAL": "InternalException",
    "FATAL": "FatalException",
}
BATCH_ROWS: Final = 2048
MAX_ROW_BYTES: Final = 32 * 1024**2  # half a frame: Arrow pads its buffers and describes them
LOST_IN_ARROW: Final = frozenset({"uhugeint", "bignum", "bit", "variant", "time with time zone", "lambda", "unknown"})


class EngineMismatch(Exception):
    """The installed DuckDB is not the version whose functions were reviewed."""


class TypeUnsupported(Exception):
    """A column's type would lose its value on the way to Arrow; it must be cast to VARCHAR."""


class SourceUnreadable(Exception):
    """An object of a bound relation is missing, damaged or out of reach."""


class RowTooLarge(Exception):
    """One row alone is above the byte cap."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine may use; memory and spill in MiB."""

    threads: int
    memory_mb: int
    spill_mb: int


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer; `type` is DuckDB's name of the type."""

    name: str
    type: str


def check_version() -> None:
    if duckdb.__version__ != reviewed.VERSION:
        raise EngineMismatch(f"DuckDB {duckdb.__version__} is installed, {reviewed.VERSION} was reviewed")


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    config: Config = {**LOCKED, "threads": 1, "enable_external_access": False, "lock_configuration": True}
    return duckdb.connect(":memory:", config=config)


def parse_tree(sql: str) -> str:
    """Return the engine's parse tree as JSON, or the JSON of its error. Nothing is bound or run.

    Only `json_serialize_sql` is safe on ungated text: `extract_statements` evaluates PRAGMA arguments.
    """
    row = _parser().execute(SERIALIZE, [sql]).fetchone()
    return str(row[0]) if row else ""


def httpfs() -> Path:
    """Return the signed extension for http(s) objects, from the wheel; nothing is downloaded at run time."""
    return Path(str(files("duckdb_extension_httpfs"))) / f"extensions/v{reviewed.VERSION}/httpfs.duckdb_extension"


def is_remote(sources: Sources) -> bool:
    return any(location.startswith(("http://", "https://")) for paths in sources.values() for location in paths)


class Engine:
    """One connection: opened on one thread, then bound and locked, for good. It never serves another grant."""

    def __init__(
        self, sources: Sources | None = None, *, limits: EngineLimits, spill: Path, remote: bool | None = None
    ) -> None:
        """Open the connection.

        Args:
            sources: Where given, the connection is bound to them and shows them at once.
            remote: Whether signed URLs will be read; without it the sources say so.
        """
        check_version()
        self._limits = limits
        self._shown: dict[str, Sequence[str]] = {}
        config: Config = {
            **LOCKED,
            "threads": 1,  # until Landlock has shrunk for the last time: it does not reach threads that run already
            "memory_limit": f"{limits.memory_mb}MiB",
            "temp_directory": str(spill),
            "max_temp_directory_size": f"{limits.spill_mb}MiB",
        }
        self.connection = duckdb.connect(":memory:", config=config)
        if is_remote(sources or {}) if remote is None else remote:
            self.connection.load_extension(str(httpfs()))
        self.connection.execute("set errors_as_json = true")
        self.connection.execute("set timezone = 'UTC'")
        self.connection.execute("set parquet_metadata_cache = true")
        self.connection.execute("set validate_external_file_cache = 'NO_VALIDATION'")  # objects never change
        macros.install(self.connection)
        if sources is not None:
            self.bind([location for locations in sources.values() for location in locations])
            self.show(sources)

    def bind(self, locations: Sequence[str]) -> None:
        """Tie the connection to these objects and let it start its threads."""
        self.connection.execute(f"set threads = {self._limits.threads}")
        attach.bind(self.connection, locations)

    def show(self, sources: Sources) -> None:
        """Have exactly these relations as views over bound objects.

        Raises:
            SourceUnreadable: an object is missing, damaged or out of reach.
        """
        stale = [relation for relation in self._shown if relation not in sources]
        fresh = {name: paths for name, paths in sources.items() if self._shown.get(name) != paths}
        try:
            attach.hide(self.connection, stale)
            attach.show(self.connection, fresh)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise SourceUnreadable from error
        self._shown = dict(sources)

    @contextmanager
    def interrupted_after(self, seconds: float) -> Generator[None]:
        """Interrupt what runs in the block once `seconds` have passed. Some functions do not listen."""
        timer = threading.Timer(seconds, self.connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def run(self, sql: str) -> "Rows":
        """Start an accepted statement.

        Raises:
            TypeUnsupported: before any row is read.
            duckdb.Error: with the message as JSON.
        """
        result = self.connection.execute(sql)
        described = result.description
        columns = [Column(str(entry[0]), str(entry[1])) for entry in described]
        for entry in described:
            if _loses(entry[1]):
                raise TypeUnsupported
        return Rows(tuple(columns), result.to_arrow_reader(BATCH_ROWS))


class Rows:
    """The rows of a running statement, read up to caps."""

    def __init__(self, columns: tuple[Column, ...], reader: pa.RecordBatchReader) -> None:
        self.columns = columns
        self.schema = wire.flat_schema(reader.schema)
        self.truncated = False
        self._reader = reader
        kinds: list[pa.DataType] = reader.schema.types
        self._inexact = [index for index, kind in enumerate(kinds) if exact.may_overflow(kind)]

    def batches(self, *, limit: int, max_bytes: int, piece_bytes: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most `limit` rows and `max_bytes` bytes in all; `truncated` says if rows were cut.

        Args:
            piece_bytes: One batch is cut into pieces of at most so many bytes, or of one row.

        Raises:
            RowTooLarge: the first row is above `max_bytes`, or a row above the cap of a frame.
            TypeUnsupported: a value has no exact place in its column's Arrow type.
        """
        rows, room = limit, max_bytes
        for raw in self._reader:
            batch = self._flat(raw)
            kept = batch.slice(0, rows)
            kept = kept.slice(0, fitting(kept, room))
            if batch.num_rows and not kept.num_rows and rows == limit and room == max_bytes:
                raise RowTooLarge
            self._check_values(kept)
            if kept.num_rows:
                rows, room = rows - kept.num_rows, room - kept.nbytes
                yield from _pieces(kept, piece_bytes)
            if kept.num_rows < batch.num_rows:
                self.truncated = True
                return

    def close(self) -> None:
        """Let go of what the engine still holds for the statement."""
        self._reader.close()

    def _flat(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            return wire.flatten(batch, self.schema)
        except pa.ArrowNotImplementedError:
            raise TypeUnsupported from None

    def _check_values(self, batch: pa.RecordBatch) -> None:
        try:
            for index in self._inexact:
                exact.validate(batch.column(index))
        except pa.ArrowInvalid:
            raise TypeUnsupported from None  # the service would take it for a broken stream


def _pieces(batch: pa.RecordBatch, piece_bytes: int) -> Iterator[pa.RecordBatch]:
    while batch.num_rows:
        fits = max(1, fitting(batch, piece_bytes))
        piece = batch.slice(0, fits)
        if piece.nbytes > MAX_ROW_BYTES and fits == 1:
            raise RowTooLarge
        yield piece
        batch = batch.slice(fits)


def _loses(kind: object) -> bool:
    """Say whether a type, or one inside it, does not survive Arrow (UHUGEINT arrives as a negative number)."""
    name = getattr(kind, "id", None)
    if name in LOST_IN_ARROW:
        return True
    if name not in {"list", "array", "struct", "map", "union"}:
        return False
    children = getattr(kind, "children", ())
    return any(_loses(child[1]) for child in children)


def error_kind(error: Exception) -> str:
    """Return the engine's name of an error. While rows stream it comes through Arrow, with its name in the text."""
    if isinstance(error, duckdb.Error):
        return type(error).__name__
    named = ARROW_ERROR.match(str(error))
    kind = named.group(1) if named else error_details(error).get("exception_type", "")
    return KINDS.get(kind, "Error") if kind else type(error).__name__


def error_details(error: Exception) -> dict[str, str]:
    """Return the parts of an engine error: `exception_message`, and `position` and others where it has them."""
    text = str(error)
    try:
        details: Json = json.loads(text[text.index("{") :])
    except ValueError:
        return {"exception_message": text}
    return {key: str(value) for key, value in details.items()} if isinstance(details, dict) else {}

"""Takes in the rows of one answer: those that fit, and where asked for a file with all of them once they do not."""

import contextlib
import hashlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from query.cut import fitting
from query.failures import Code, Failure
from query.process import Failed
from query.protocol import BATCH_BYTES, OutOfTime, ProtocolBroken
from query.question import MAX_LIMIT, Export, Limits
from query.results import for_parquet

if TYPE_CHECKING:
    from typing_extensions import Buffer

GROUP_ROWS: Final = 122_880  # the engine's own size of a row group
GROUP_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Taken:
    """The rows of the answer, whether more were there, and the file with all of them."""

    table: pa.Table
    truncated: bool
    export: Export | None


class Intake:
    """Use as a context manager; an error inside removes the file."""

    def __init__(self, *, limit: int, limits: Limits, path: Path | None, deadline: float) -> None:
        """Take in nothing yet.

        Args:
            limit: Rows that the answer may have.
            path: Where the file goes; None cuts instead.
            deadline: On the clock of `time.monotonic`; no row is taken in later.
        """
        self._limit = limit
        self._limits = limits
        self._path = path
        self._deadline = deadline
        self._kept: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._file: ParquetFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._file is not None:
            self._file.discard()

    def add(self, piece: pa.Table) -> None:
        """Take in a piece.

        Raises:
            Failed: there is more than a file may hold.
            OutOfTime
        """
        before_rows, before_bytes = self._rows, self._bytes
        self._rows += piece.num_rows
        self._bytes += piece.nbytes
        if time.monotonic() > self._deadline:
            raise OutOfTime
        if self._path is None:
            if self._rows > self._limit or self._bytes > BATCH_BYTES:
                raise ProtocolBroken("more rows than asked for")
            self._kept.append(piece)
        elif self._file is not None:
            self._write(piece)
        else:
            self._fill(piece, self._limit - before_rows, self._limits.bytes - before_bytes, self._path)

    def _fill(self, piece: pa.Table, rows: int, room: int, path: Path) -> None:
        """Keep what fits into the answer; begin the file once something does not."""
        kept = piece.slice(0, rows)
        kept = kept.slice(0, fitting(kept, room))
        if piece.num_rows and not kept.num_rows and room == self._limits.bytes:
            raise Failed(Failure(Code.RESULT_TOO_LARGE))  # not one row fits into an answer
        if kept.num_rows < piece.num_rows:
            self._file = ParquetFile(path)
            for earlier in self._kept:
                self._write(earlier)
            self._write(piece)
        self._kept.append(kept)

    def _write(self, piece: pa.Table) -> None:
        if self._bytes > self._limits.export_bytes or self._file is None:
            raise Failed(Failure(Code.EXPORT_TOO_LARGE))
        self._file.write(piece)

    def finish(self, *, cut: bool) -> Taken:
        """Return all; `cut` says that the worker stopped early."""
        table = pa.concat_tables(self._kept)
        if self._path is None:
            return Taken(table, cut, None)
        if cut and (self._rows < self._limit or self._limit == MAX_LIMIT):
            raise Failed(Failure(Code.EXPORT_TOO_LARGE))  # not the rows, the bytes were too many
        if self._file is None:
            return Taken(table, cut, None)
        return Taken(table, truncated=True, export=self._file.close())


class ParquetFile:
    """A Parquet file that grows by pieces, and its digest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sink = HashedFile(path)
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._rows = 0

    def write(self, piece: pa.Table) -> None:
        self._held.append(piece)
        self._rows += piece.num_rows
        rows, size = sum(held.num_rows for held in self._held), sum(held.nbytes for held in self._held)
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = for_parquet(pa.concat_tables(self._held))
        self._held = []
        if self._writer is None:
            self._writer = pq.ParquetWriter(pa.PythonFile(self._sink, mode="w"), table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=GROUP_ROWS)

    def close(self) -> Export:
        if self._held:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        self._sink.close()
        return Export(self._path, self._rows, self._sink.size, self._sink.digest.hexdigest())

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
        self._sink.close()
        self._path.unlink(missing_ok=True)


class HashedFile(io.RawIOBase):
    """A new file, written once from its beginning to its end, and the hash of what was written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self.size = 0
        self._file = path.open("xb")

    def writable(self) -> bool:
        return True

    def write(self, data: "Buffer", /) -> int:
        self.digest.update(data)
        written = self._file.write(data)
        self.size += written
        return written

    def close(self) -> None:
        self._file.close()
        super().close()

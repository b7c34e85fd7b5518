"""The bodies of HTTP requests and answers, as a stranger reads them in /docs. pydantic, like `app`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from query.question import DEFAULT_LIMIT, MAX_LIMIT, DryRun
from trace_ray import columns
from trace_ray.access import AuditRow, StoredResult
from trace_ray.extract.schema import sql_columns
from trace_ray.reports import Coverage

TAGS: Final = [
    {"name": "query", "description": "Questions in DuckDB's SQL over the datasets that you may read."},
    {"name": "datasets", "description": "What is published, what its columns mean, and which blocks are missing."},
    {"name": "service", "description": "Whether the service lives and is ready."},
]
MAX_SNAPSHOT: Final = 2**53 - 1  # the largest number that every reader of JSON, and of our schema, has exactly
MAX_TOLD: Final = 20  # mistakes of a body that are listed


class Format(StrEnum):
    """What an answer is written as. Beside JSON, the facts of the answer are in headers `X-Trace-...`."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    ARROW = "arrow"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class QuestionBody(Body):
    """What every question has."""

    sql: str = Field(description="One SELECT in DuckDB's SQL, at most 64 KiB.", min_length=1, repr=False)
    limit: int = Field(DEFAULT_LIMIT, description=f"Rows at the most; values outside 1..{MAX_LIMIT} are clamped.")
    format: Format = Format.JSON
    as_of: Annotated[int, Field(ge=0, le=MAX_SNAPSHOT)] | None = Field(
        None, description="A snapshot that an earlier answer named: the same question gives the same rows."
    )
    dataset_id: str | None = Field(
        None, description="A dataset (name or UUID) that is then also the relation `dataset`.", max_length=128
    )


class QueryRequest(QuestionBody):
    """One question of a person."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"sql": "select count(*) as blocks from devnet_blocks"},
                {"sql": "from dataset limit 5", "dataset_id": "devnet_logs", "format": "csv"},
            ]
        }
    )

    dry_run: bool = Field(False, description="Only tell which files the question would read.")


class TaskQueryRequest(QuestionBody):
    """One question of a task; `task_id` and `attempt` must be those of its token."""

    task_id: UUID
    attempt: int = Field(ge=1, le=2**31 - 1)


class ColumnBody(Body):
    name: str
    type: str = Field(description="DuckDB's name of the type.")


class SnapshotBody(Body):
    name: str
    snapshot: int
    from_block: int
    to_block: int = Field(description="End-exclusive.")
    gaps: list[tuple[int, int]] = Field(description="Ranges between them that are not published, end-exclusive.")


class QueryAnswer(Body):
    """Rows, and what they were read from. BLOBs are `0x...`; integers of 128 bits and more are strings."""

    columns: list[ColumnBody]
    rows: list[list[Any]]
    truncated: bool = Field(description="There are more rows than here.")
    query_id: UUID
    snapshot: list[SnapshotBody]
    location: str | None = Field(None, description="Where all rows are as Parquet, when they are too many to send.")
    result: str | None = Field(None, description="The route that hands out that file.")


class DatasetPlanBody(Body):
    name: str
    snapshot: int
    files_read: int
    files_total: int
    bytes_read: int
    bytes_total: int
    rows: int = Field(description="Rows of the files read: an upper bound.")
    blocks: list[tuple[int, int]]


class DryRunAnswer(Body):
    """What a question would read."""

    dry_run: bool = True
    datasets: list[DatasetPlanBody]


class DatasetSummary(Body):
    name: str
    dataset_id: UUID
    kind: str = Field(description="Which Cryo dataset it holds; it fixes the columns.")
    snapshot: int
    from_block: int
    to_block: int
    blocks: int
    rows: int
    bytes: int
    gaps: list[tuple[int, int]]


class DatasetsAnswer(Body):
    datasets: list[DatasetSummary]


class ColumnMeaning(ColumnBody):
    nullable: bool
    meaning: str


class DatasetAnswer(DatasetSummary):
    columns: list[ColumnMeaning]
    examples: list[str] = Field(description="Questions to begin with.")
    certificates: dict[str, int] = Field(description="Published versions by how strongly they were proven.")


class DatasetRead(Body):
    name: str
    snapshot: int


class QueryEntry(Body):
    query_id: UUID
    at: datetime | None
    outcome: str = Field(description="`OK`, or the code of its error.")
    reason: str | None
    datasets: list[DatasetRead]
    rows: int
    bytes: int
    seconds: float
    result: str | None = Field(description="The route that hands out the stored answer.")


class ReadyAnswer(Body):
    status: str = Field(description="`ready`, or `not ready`.")
    missing: dict[str, str]


class Problem(Body):
    code: str
    message: str
    detail: dict[str, str | int] = Field(description="`query_id`, and where it helps `reason` and `position`.")


class ErrorAnswer(Body):
    error: Problem


def _documented(said: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": text} for status, text in said.items()}


ERRORS: Final = _documented(
    {
        400: "The body, or the SQL (SQL_REJECTED, SQL_ERROR, with its position), or the snapshot is refused",
        401: "No token, or one that does not hold",
        403: "The dataset is not granted, or the body and the token differ",
        404: "There is no such thing that you may see",
        413: "The body, or one row of the answer, is too large",
        422: "Out of memory",
        429: "All query processes are busy",
        500: "The query process died, or the service failed",
        502: "The object store failed",
        503: "The ledger or the query processes are not available",
        504: "Out of time",
    }
)


# --- values -> bodies ---------------------------------------------------------------------------------------------


def problems(errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one sentence per mistake of a body; none quotes what was sent, beyond plain names of fields."""
    found: list[str] = []
    for error in errors[:MAX_TOLD]:
        if error["type"] == "json_invalid":
            return ["the body is not JSON: send an object with `sql`"]
        place = [str(part) for part in error["loc"] if part != "body"]
        plain = all(part.isidentifier() and len(part) <= 40 for part in place)  # noqa: PLR2004 - a name of a field
        where = ".".join(place) if place and plain else "the request"
        said = str(error["msg"])
        said = said.partition(",")[0] if error["type"] == "uuid_parsing" else said  # what follows quotes a character
        found.append(f"{where}: {said[0].lower()}{said[1:]}")
    return found


def dry_run(found: DryRun) -> dict[str, Any]:
    plans = [
        DatasetPlanBody(
            name=plan.name,
            snapshot=plan.snapshot,
            files_read=plan.files_read,
            files_total=plan.files_total,
            bytes_read=plan.bytes_read,
            bytes_total=plan.bytes_total,
            rows=plan.rows,
            blocks=[(blocks.start, blocks.end) for blocks in plan.blocks],
        )
        for plan in found.datasets
    ]
    return DryRunAnswer(datasets=plans).model_dump(mode="json")


def datasets(found: Sequence[Coverage]) -> DatasetsAnswer:
    return DatasetsAnswer(datasets=[DatasetSummary(**_summary(one)) for one in found])


def dataset(found: Coverage) -> DatasetAnswer:
    meanings = columns.MEANINGS[found.cryo_dataset_name]
    levels = [str(version.certificate.level) for version in found.versions]
    return DatasetAnswer(
        **_summary(found),
        columns=[
            ColumnMeaning(name=name, type=kind, nullable=nullable, meaning=meanings[name])
            for name, kind, nullable in sql_columns(found.cryo_dataset_name)
        ],
        examples=list(columns.examples(found.cryo_dataset_name, found.dataset)),
        certificates={level: levels.count(level) for level in sorted(set(levels))},
    )


def _summary(found: Coverage) -> dict[str, Any]:
    return {
        "name": found.dataset,
        "dataset_id": found.dataset_uuid,
        "kind": found.cryo_dataset_name,
        "snapshot": found.snapshot,
        "from_block": found.from_block,
        "to_block": found.to_block,
        "blocks": found.blocks,
        "rows": found.rows,
        "bytes": found.bytes,
        "gaps": [(gap.start, gap.end) for gap in found.gaps],
    }


def entry(row: AuditRow, stored: StoredResult | None) -> QueryEntry:
    return QueryEntry(
        query_id=row.query_id,
        at=row.at,
        outcome=row.outcome,
        reason=row.reason,
        datasets=[DatasetRead(name=one.name, snapshot=one.snapshot) for one in row.datasets],
        rows=row.rows,
        bytes=row.bytes,
        seconds=row.seconds,
        result=None if stored is None else f"/v1/queries/{row.query_id}/result",
    )

"""Every row of every dataset against the chain: objects straight from the store, the chain from the node's own answers.

Neither the query service nor an engine takes part.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from eth_hash.auto import keccak

from state import datasets
from tests import truth
from tests.chaos.stack_world import BLOCKS, World
from trace_ray.contracts import DEFAULT_ORG, GrantedFile
from trace_ray.errors import FatalError
from trace_ray.extract.schema import SCHEMAS
from trace_ray.storage import ObjectStore, open_store

TRANSFER = keccak(b"Transfer(address,address,uint256)")
KEPT = ("block_number", "block_hash", "transaction_index", "log_index", "transaction_hash", "chain_id")
BATCH = 50  # blocks that the node is asked for at once

Keys = Counter[tuple[object, ...]]


@dataclass(frozen=True)
class Found:
    """One dataset against the chain. `lost` and `doubled` count rows by their place, `wrong` those of other content."""

    dataset: str
    rows: int
    lost: int
    doubled: int
    wrong: int

    @property
    def exact(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


def compare(world: World, scratch: Path) -> list[Found]:
    """Compare every dataset of every job of the run."""
    wanted = expected(world.replay.url)
    settings = world.settings()
    store = open_store(
        settings.object_store, data_dir=settings.data_dir, s3_endpoint=settings.s3_endpoint, s3=settings.s3
    )
    database = world.database("rows")
    found: list[Found] = []
    for job in world.jobs:
        for kind in world.shape.kinds:
            with database.transaction() as conn:
                (granted,) = datasets.pin(conn, DEFAULT_ORG, [f"{job}_{kind}"], None).datasets
            found.append(_against(wanted[kind], _read(granted.files, store, scratch, kind), granted.name, kind))
    database.close()
    store.close()
    return found


def expected(url: str) -> dict[str, pa.Table]:
    """Return what the chain holds, by kind of dataset, in the stable schema and order."""
    rows: dict[str, truth.Rows] = {}
    for start in range(0, BLOCKS, BATCH):
        for kind, more in truth.rows(url, start, min(BLOCKS, start + BATCH)).items():
            rows.setdefault(kind, []).extend(more)
    sent = [log for log in rows["logs"] if log["topic0"] == TRANSFER]
    rows["erc20_transfers"] = [_transfer(log, "value", log["data"]) for log in sent if log["topic3"] is None]
    rows["erc721_transfers"] = [_transfer(log, "token_id", log["topic3"]) for log in sent if log["topic3"] is not None]
    return {kind: pa.Table.from_pylist(found, schema=SCHEMAS[kind].columns) for kind, found in rows.items()}


def _transfer(log: dict[str, object], name: str, word: bytes) -> dict[str, object]:
    parties = {side: _address(log[topic]) for side, topic in (("from_address", "topic1"), ("to_address", "topic2"))}
    value = {f"{name}_binary": word, f"{name}_string": str(int.from_bytes(word, "big"))}
    return {**{key: log[key] for key in KEPT}, "erc20": log["address"], **parties, **value}


def _address(topic: object) -> bytes:
    assert isinstance(topic, bytes)
    return topic[12:]


def _read(files: Sequence[GrantedFile], store: ObjectStore, scratch: Path, kind: str) -> pa.Table:
    tables: list[pa.Table] = []
    path = scratch / "object.parquet"
    for file in sorted(files, key=lambda one: one.min_block):
        try:
            store.get(file.key, path)
        except FatalError:  # its rows are lost; the checker names the object
            continue
        tables.append(pq.ParquetFile(path).read())
    return pa.concat_tables([SCHEMAS[kind].columns.empty_table(), *tables])


def _against(wanted: pa.Table, found: pa.Table, name: str, kind: str) -> Found:
    if found.equals(wanted):
        return Found(name, found.num_rows, 0, 0, 0)
    has, should = _keys(found, kind), _keys(wanted, kind)
    lost, doubled = sum((should - has).values()), sum((has - should).values())
    ours = {tuple(row.items()) for row in wanted.to_pylist()}
    wrong = sum(tuple(row.items()) not in ours for row in found.to_pylist())
    return Found(name, found.num_rows, lost, doubled, wrong or not (lost or doubled))  # the same rows in another order


def _keys(table: pa.Table, kind: str) -> Keys:
    return Counter(zip(*(table.column(name).to_pylist() for name in SCHEMAS[kind].sort), strict=True))

"""A small chain in real Parquet files, and questions about it in real child processes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from query import run
from query.pool import Pool
from query.process import Reach
from query.question import Answer, Limits, Question
from tests.integration.query.desk import Desk
from tests.integration.query.prey import Prey, roaming
from trace_ray.contracts import DEFAULT_ORG, BlockRange, DatasetUuid, Grant, GrantedDataset, GrantedFile
from trace_ray.extract.schema import SCHEMAS

BLOCKS, CHUNK, TXS = 60, 10, 3
SENDER = bytes.fromhex("f39fd6e51aad88f6f4ce6ab8827279cfffb92266")
TRANSFER = bytes.fromhex("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef")
CONTRACT = bytes.fromhex("5fbdb2315678afecb367f032d93f642f64180aa3")


def hash_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def block(number: int) -> dict[str, object]:
    blank = dict.fromkeys(("transactions_root", "receipts_root", "extra_data", "logs_bloom"), b"")
    return {**blank, "block_number": number, "block_hash": hash_of(number), "parent_hash": hash_of(max(0, number - 1)),
            "author": bytes(20), "gas_used": 21_000 * TXS, "timestamp": 1_700_000_000 + 12 * number,
            "base_fee_per_gas": 7, "chain_id": 31337}  # fmt: skip


def transaction(number: int, index: int) -> dict[str, object]:
    wei = 10**18 + index
    return {"block_number": number, "block_hash": hash_of(number), "transaction_index": index,
            "transaction_hash": hash_of(number * 100 + index), "nonce": number, "from_address": SENDER,
            "to_address": CONTRACT if index else None, "value_binary": wei.to_bytes(32, "big"),
            "value_string": str(wei), "input": bytes.fromhex("a9059cbb") + bytes(64), "gas_limit": 90_000,
            "gas_used": 21_000, "gas_price": 10**9 + number,
            "transaction_type": 2 * (index % 2), "max_priority_fee_per_gas": 1, "max_fee_per_gas": 2 * 10**9,
            "success": index != 2, "chain_id": 31337}  # fmt: skip


def log(number: int, index: int) -> dict[str, object]:
    """The second log of a block is a transfer of an ERC-20 token, the first one nothing known."""
    return {"block_number": number, "block_hash": hash_of(number), "transaction_index": index, "log_index": index,
            "transaction_hash": hash_of(number * 100 + index), "address": CONTRACT,
            "topic0": TRANSFER if index else hash_of(7), "topic1": bytes(12) + SENDER if index else None,
            "topic2": bytes(12) + CONTRACT if index else None, "topic3": None,
            "data": hash_of(number if index else 0), "chain_id": 31337}  # fmt: skip


ROWS: Mapping[str, Callable[[int], list[dict[str, object]]]] = {
    "blocks": lambda number: [block(number)],
    "transactions": lambda number: [transaction(number, index) for index in range(TXS)],
    "logs": lambda number: [log(number, index) for index in range(2)],
}


@dataclass(frozen=True)
class Store:
    """Published files under a root, the grant that reads them, and a directory to spill into."""

    root: Path
    grant: Grant
    scratch: Path

    def locate(self, key: str) -> str:
        return str(self.root / key)

    @property
    def sources(self) -> dict[str, list[str]]:
        """Relation -> paths of its objects."""
        return {dataset.name: [self.locate(file.key) for file in dataset.files] for dataset in self.grant.datasets}

    def ask(self, sql: str, *, limit: int = 1000, limits: Limits = Limits()) -> Answer:  # noqa: B008 - frozen
        return run.once(Question(sql, limit), self.grant, locate=self.locate, scratch=self.scratch, limits=limits)


def publish(root: Path, name: str) -> GrantedDataset:
    files: list[GrantedFile] = []
    for start in range(0, BLOCKS, CHUNK):
        key = f"cryo/31337/{name}/{start}_{start + CHUNK}/{name}.parquet"
        rows = [row for number in range(start, start + CHUNK) for row in ROWS[name](number)]
        (root / key).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMAS[name].columns), root / key, compression="zstd")
        files.append(GrantedFile(key, start, start + CHUNK - 1, (root / key).stat().st_size, len(rows)))
    return GrantedDataset(
        f"devnet_{name}", DatasetUuid(UUID(int=len(name))), name, 6, 0, BLOCKS, (BlockRange(60, 70),), tuple(files)
    )


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Grant]:
    root = tmp_path_factory.mktemp("objects")
    return root, Grant(DEFAULT_ORG, tuple(publish(root, name) for name in ROWS))


@pytest.fixture
def store(chain: tuple[Path, Grant], tmp_path: Path) -> Store:
    return Store(*chain, tmp_path / "scratch")


@pytest.fixture
def prey(tmp_path: Path) -> Iterator[Prey]:
    with roaming(tmp_path) as laid_out:
        yield laid_out


@pytest.fixture
def opened(store: Store) -> Iterator[Callable[..., Desk]]:
    with contextlib.ExitStack() as stack:

        def make(*, size: int = 2, waiting: int = 64, standby: bool = True, limits: Limits | None = None) -> Desk:
            pool = Pool(scratch=store.scratch, reach=Reach(read=(store.root,)), size=size, waiting=waiting,
                        standby=standby, limits=limits or Limits())  # fmt: skip
            return Desk(store, stack.enter_context(pool))

        yield make


@pytest.fixture
def desk(opened: Callable[..., Desk]) -> Desk:
    return opened()

"""The SQL of the documentation runs, and gives what its text says."""

import re
from pathlib import Path

import pytest

from query.functions.ours import OURS
from tests.integration.query.conftest import BLOCKS, CONTRACT, SENDER, TXS, Store

ROOT = Path(__file__).parents[3]
FENCE = re.compile(r"^```sql\n(.*?)^```", re.MULTILINE | re.DOTALL)
SQL = ROOT / "docs" / "reference" / "sql.md"


def blocks() -> list[tuple[str, str]]:
    """Every SQL example, with the document and the place where it stands."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        (f"{path.relative_to(ROOT)}:{place}", sql)
        for path in documents
        for place, sql in enumerate(FENCE.findall(path.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize("sql", [pytest.param(sql, id=name) for name, sql in blocks()])
def test_example_runs(store: Store, sql: str) -> None:
    store.ask(sql)


def example(beginning: str) -> str:
    (found,) = [sql for _, sql in blocks() if sql.startswith(beginning)]
    return found


def test_examples_find_what_they_look_for(store: Store) -> None:
    transfers = store.ask(example("SELECT block_number, event->>'from'")).table.to_pylist()
    assert transfers[3] == {
        "block_number": 3, "sender": f"0x{SENDER.hex()}", "receiver": f"0x{CONTRACT.hex()}", "amount": 3,
    }  # fmt: skip
    assert store.ask(example("SELECT block_number, log_index, to_checksum_address")).table.num_rows == 11
    assert store.ask(example("SELECT block_number, blob_to_hex(transaction_hash)")).table.num_rows == BLOCKS
    assert store.ask(example("SELECT call->>'to'")).table.to_pylist() == [
        {"receiver": "0x" + "00" * 20, "calls": BLOCKS * TXS}
    ]


def test_every_function_of_ours_is_documented() -> None:
    text = SQL.read_text(encoding="utf-8")
    assert [name for name in sorted(OURS) if f"`{name}(" not in text] == []

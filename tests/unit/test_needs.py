"""Which datasets are extracted beside the wanted ones, so that these can be proven."""

import pytest

from trace_ray.catalog import CATALOG
from trace_ray.contracts import Receipts
from trace_ray.extract.needs import WITNESSES, with_witnesses
from trace_ray.extract.schema import SCHEMAS


@pytest.mark.parametrize(
    ("wanted", "receipts", "extracted"),
    [
        ({"blocks"}, Receipts.ETHEREUM, ("blocks",)),
        ({"transactions"}, Receipts.ETHEREUM, ("blocks", "transactions", "logs")),
        ({"transactions"}, Receipts.NONSTANDARD, ("blocks", "transactions")),
        ({"logs"}, Receipts.ETHEREUM, ("blocks", "transactions", "logs")),
        ({"logs"}, Receipts.NONSTANDARD, ("blocks", "logs")),
        ({"logs"}, Receipts.NONE, ("blocks", "logs")),
        ({"erc20_transfers"}, Receipts.ETHEREUM, ("blocks", "transactions", "logs", "erc20_transfers")),
        ({"erc20_transfers"}, Receipts.NONSTANDARD, ("blocks", "logs", "erc20_transfers")),
        ({"erc721_transfers"}, Receipts.NONE, ("blocks", "logs", "erc721_transfers")),
        ({"traces"}, Receipts.ETHEREUM, ("blocks", "transactions", "traces")),
        ({"traces"}, Receipts.NONE, ("blocks", "transactions", "traces")),
        ({"contracts"}, Receipts.NONE, ("blocks", "transactions", "contracts", "traces")),
        ({"native_transfers"}, Receipts.ETHEREUM, ("blocks", "transactions", "native_transfers", "traces")),
        ({"geth_calls"}, Receipts.NONE, ("blocks", "transactions", "geth_calls")),
        ({"four_byte_counts"}, Receipts.NONE, ("blocks", "transactions", "four_byte_counts")),
        ({"traces", "erc20_transfers"}, Receipts.NONE, ("blocks", "transactions", "logs", "erc20_transfers", "traces")),
    ],
)
def test_headers_always_and_what_else_proves_the_wanted_rows(
    wanted: set[str], receipts: Receipts, extracted: tuple[str, ...]
) -> None:
    assert with_witnesses(frozenset(wanted), receipts) == extracted


def test_every_offered_dataset_has_its_witnesses_named() -> None:
    assert WITNESSES.keys() == SCHEMAS.keys() >= {name for name, entry in CATALOG.items() if entry.refusal is None}

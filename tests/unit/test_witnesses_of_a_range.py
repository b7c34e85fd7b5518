"""Which datasets are extracted beside the wanted ones, so that these can be proven."""

import pytest

from actors.ingest import with_witnesses
from trace_ray.contracts import Receipts


@pytest.mark.parametrize(
    ("wanted", "receipts", "extracted"),
    [
        ({"blocks"}, Receipts.ETHEREUM, ("blocks",)),
        ({"transactions"}, Receipts.ETHEREUM, ("blocks", "transactions", "logs")),
        ({"logs"}, Receipts.ETHEREUM, ("blocks", "transactions", "logs")),
        ({"logs"}, Receipts.NONSTANDARD, ("blocks", "logs")),
        ({"logs"}, Receipts.NONE, ("blocks", "logs")),
        ({"erc20_transfers"}, Receipts.ETHEREUM, ("blocks", "transactions", "logs", "erc20_transfers")),
        ({"erc721_transfers"}, Receipts.NONE, ("blocks", "logs", "erc721_transfers")),
        ({"traces"}, Receipts.NONE, ("blocks", "transactions", "traces")),
        ({"traces", "erc20_transfers"}, Receipts.NONE, ("blocks", "transactions", "logs", "erc20_transfers", "traces")),
    ],
)
def test_headers_always_and_what_else_proves_the_wanted_rows(
    wanted: set[str], receipts: Receipts, extracted: tuple[str, ...]
) -> None:
    assert with_witnesses(frozenset(wanted), receipts) == extracted

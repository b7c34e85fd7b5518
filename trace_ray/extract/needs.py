"""Which datasets are extracted beside the wanted ones, so that these can be proven. Pure."""

from collections.abc import Mapping
from typing import Final

from trace_ray.contracts import Receipts

CORE: Final = ("blocks", "transactions", "logs")
# In every receipts mode. A bloom does not tell how many transfers there are, and a silent tracer looks like a quiet
# chain: traces, calls and call data are held against the transactions, creations and transfers against the traces.
WITNESSES: Final[Mapping[str, frozenset[str]]] = {
    "blocks": frozenset(),
    "transactions": frozenset(),
    "logs": frozenset(),
    "erc20_transfers": frozenset({"logs"}),
    "erc721_transfers": frozenset({"logs"}),
    "traces": frozenset({"transactions"}),
    "native_transfers": frozenset({"transactions", "traces"}),
    "contracts": frozenset({"transactions", "traces"}),
    "geth_calls": frozenset({"transactions"}),
    "four_byte_counts": frozenset({"transactions"}),
}
UNDER_RECEIPTS_ROOT: Final = frozenset({"transactions", "logs", "erc20_transfers", "erc721_transfers"})


def with_witnesses(wanted: frozenset[str], receipts: Receipts) -> tuple[str, ...]:
    """Return the datasets to extract so that `wanted` can be proven as strongly as the chain allows.

    Headers are always needed. The receipts root needs transactions and logs together. The core datasets come first.
    """
    needed = wanted.union({"blocks"}, *(WITNESSES[name] for name in wanted))
    if receipts is Receipts.ETHEREUM and wanted & UNDER_RECEIPTS_ROOT:
        needed |= {"transactions", "logs"}
    return tuple(name for name in CORE if name in needed) + tuple(sorted(needed.difference(CORE)))

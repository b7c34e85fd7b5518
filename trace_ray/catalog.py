"""Which Cryo datasets a stream may name, and why the others are refused. Pure."""

from dataclasses import dataclass
from typing import Final

STATE_DIFFS = "nodes without the state answer an empty list, which nothing can tell from truth"
GETH_DIFFS = "Cryo 0.3.2 lists unchanged values and wrong new ones (its issue 245)"
NEEDS_ARGUMENT = "it needs contract addresses or slots, which a job file cannot carry"
STATE_READS = "its rows cannot be checked against anything"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One Cryo dataset. `refusal` is None when a stream may use it; `method` is the RPC method beyond the core ones."""

    name: str
    refusal: str | None = None
    method: str | None = None
    native: bool = False


def _entries() -> list[CatalogEntry]:
    offered = [
        CatalogEntry("blocks", native=True),
        CatalogEntry("transactions", native=True),
        CatalogEntry("logs", native=True),
        CatalogEntry("erc20_transfers"),
        CatalogEntry("erc721_transfers"),
        *(CatalogEntry(name, method="trace_block") for name in ("traces", "native_transfers", "contracts")),
        CatalogEntry("geth_calls", method="debug_traceBlockByNumber"),
    ]
    refused = {
        STATE_DIFFS: ["balance_diffs", "code_diffs", "nonce_diffs", "storage_diffs", "vm_traces"],
        GETH_DIFFS: ["geth_balance_diffs", "geth_code_diffs", "geth_nonce_diffs", "geth_storage_diffs"],
        STATE_READS: ["balance_reads", "code_reads", "nonce_reads", "storage_reads", "address_appearances"],
        NEEDS_ARGUMENT: ["balances", "codes", "nonces", "slots", "erc20_balances", "erc20_metadata", "erc20_supplies",
                         "erc721_metadata", "eth_calls", "javascript_traces", "trace_calls", "transaction_addresses"],
        "every opcode of every transaction is a row: no range fits the caps": ["geth_opcodes"],
        "Cryo 0.3.2 gives counts to the wrong transactions of a block": ["four_byte_counts"],
        "Cryo 0.3.2 does not have it": ["erc20_approvals"],
    }  # fmt: skip
    return offered + [CatalogEntry(name, refusal=reason) for reason, names in refused.items() for name in names]


CATALOG: Final = {entry.name: entry for entry in _entries()}

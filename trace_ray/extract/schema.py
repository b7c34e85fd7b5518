"""The stable schema of each dataset: the same columns, types and order of rows, whichever engine made them.

Names are Cryo's. Hashes, addresses and data are binary; a 256-bit value is `<name>_binary` (32 bytes, big-endian, so
that it compares and sorts right) and `<name>_string` (decimal); numbers are signed and wide enough for every chain.
A `trace_address` is the path to a call in its transaction, `""` for the root and `0_2` for the third call of the first;
its order is that of the numbers.
"""

from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class DatasetSchema:
    """Columns of a dataset, and the columns that its rows are sorted by; the first is always `block_number`."""

    columns: pa.Schema
    sort: tuple[str, ...]


def _int32(name: str, *, nullable: bool = False) -> "pa.Field[Any]":
    return pa.field(name, pa.int32(), nullable)


def _int64(name: str, *, nullable: bool = False) -> "pa.Field[Any]":
    return pa.field(name, pa.int64(), nullable)


def _bytes(name: str, *, nullable: bool = False) -> "pa.Field[Any]":
    return pa.field(name, pa.binary(), nullable)


def _text(name: str, *, nullable: bool = False) -> "pa.Field[Any]":
    return pa.field(name, pa.string(), nullable)


def _u256(name: str, *, nullable: bool = False) -> "list[pa.Field[Any]]":
    return [_bytes(f"{name}_binary", nullable=nullable), _text(f"{name}_string", nullable=nullable)]


BLOCKS: Final = DatasetSchema(
    pa.schema(
        [
            _int64("block_number"),
            _bytes("block_hash"),
            _bytes("parent_hash"),
            _bytes("author"),
            _bytes("transactions_root"),
            _bytes("receipts_root"),
            _int64("gas_used"),
            _bytes("extra_data"),
            _bytes("logs_bloom"),
            _int64("timestamp"),
            _int64("base_fee_per_gas", nullable=True),  # before London
            _int64("chain_id"),
        ]
    ),
    ("block_number",),
)

TRANSACTIONS: Final = DatasetSchema(
    pa.schema(
        [
            _int64("block_number"),
            _bytes("block_hash"),
            _int32("transaction_index"),
            _bytes("transaction_hash"),
            _int64("nonce"),
            _bytes("from_address"),
            _bytes("to_address", nullable=True),  # a creation
            *_u256("value"),
            _bytes("input"),
            _int64("gas_limit"),
            _int64("gas_used", nullable=True),  # receipts: none
            _int64("gas_price", nullable=True),
            _int32("transaction_type"),
            _int64("max_priority_fee_per_gas", nullable=True),
            _int64("max_fee_per_gas", nullable=True),
            pa.field("success", pa.bool_(), nullable=True),  # receipts: none
            _int64("chain_id"),
        ]
    ),
    ("block_number", "transaction_index"),
)

LOGS: Final = DatasetSchema(
    pa.schema(
        [
            _int64("block_number"),
            _bytes("block_hash"),
            _int32("transaction_index"),
            _int32("log_index"),
            _bytes("transaction_hash"),
            _bytes("address"),
            *(_bytes(f"topic{n}", nullable=True) for n in range(4)),
            _bytes("data"),
            _int64("chain_id"),
        ]
    ),
    ("block_number", "log_index"),
)

# --- token transfers, from logs -----------------------------------------------------------------------------------


def _transfers(*value: "pa.Field[Any]") -> DatasetSchema:
    return DatasetSchema(
        pa.schema(
            [
                _int64("block_number"),
                _bytes("block_hash"),
                _int32("transaction_index"),
                _int32("log_index"),
                _bytes("transaction_hash"),
                _bytes("erc20"),  # the token contract; Cryo names it so for ERC-721 too
                _bytes("from_address"),
                _bytes("to_address"),
                *value,
                _int64("chain_id"),
            ]
        ),
        ("block_number", "log_index"),
    )


ERC20_TRANSFERS: Final = _transfers(*_u256("value"))
ERC721_TRANSFERS: Final = _transfers(*_u256("token_id"))

# --- traces, from trace_block -------------------------------------------------------------------------------------

# One row per call, creation, self-destruct and reward, also of reverted ones: then `error` says why.
TRACES: Final = DatasetSchema(
    pa.schema(
        [
            _int64("block_number"),
            _bytes("block_hash"),
            _int32("transaction_index", nullable=True),  # a reward
            _bytes("transaction_hash", nullable=True),
            _text("trace_address"),
            _int32("subtraces"),
            _text("action_type"),
            _text("action_call_type", nullable=True),
            _text("action_reward_type", nullable=True),
            _bytes("action_from", nullable=True),
            _bytes("action_to", nullable=True),
            *_u256("action_value"),
            _int64("action_gas", nullable=True),
            _bytes("action_input", nullable=True),
            _bytes("action_init", nullable=True),
            _int64("result_gas_used", nullable=True),
            _bytes("result_output", nullable=True),
            _bytes("result_code", nullable=True),
            _bytes("result_address", nullable=True),
            _text("error", nullable=True),
            _int64("chain_id"),
        ]
    ),
    ("block_number", "transaction_index", "trace_address"),
)

# Cryo's rows as they are: one per trace, so calls without value, delegate calls and reverted ones are among them.
NATIVE_TRANSFERS: Final = DatasetSchema(
    pa.schema(
        [
            _int64("block_number"),
            _bytes("block_hash"),
            _int32("transaction_index", nullable=True),  # a reward
            _int32("transfer_index"),
            _bytes("transaction_hash", nullable=True),
            _bytes("from_address"),
            _bytes("to_address", nullable=True),  # a creation that failed
            *_u256("value"),
            _int64("chain_id"),
        ]
    ),
    ("block_number", "transfer_index"),
)

# Cryo's rows as they are: creations that were undone later in their transaction are among them.
CONTRACTS: Final = DatasetSchema(
    pa.schema(
        [
            _int64("block_number"),
            _bytes("block_hash"),
            _int32("create_index"),
            _bytes("transaction_hash"),
            _bytes("contract_address"),
            _bytes("deployer"),
            _bytes("factory"),
            _bytes("init_code"),
            _bytes("code"),
            _bytes("init_code_hash"),
            _bytes("code_hash"),
            _int64("chain_id"),
        ]
    ),
    ("block_number", "create_index"),
)

# --- traces, from debug_traceBlockByNumber: no block hash in the answer, rows join on transaction_hash ------------

GETH_CALLS: Final = DatasetSchema(
    pa.schema(
        [
            _int64("block_number"),
            _int32("transaction_index"),
            _bytes("transaction_hash"),
            _text("trace_address"),
            _text("typ"),
            _bytes("from_address"),
            _bytes("to_address", nullable=True),  # a creation that failed
            *_u256("value", nullable=True),  # a static call
            _int64("gas"),
            _int64("gas_used"),
            _bytes("input"),
            _bytes("output", nullable=True),
            _text("error", nullable=True),
            _int64("chain_id"),
        ]
    ),
    ("block_number", "transaction_index", "trace_address"),
)

FOUR_BYTE_COUNTS: Final = DatasetSchema(
    pa.schema(
        [
            _int64("block_number"),
            _int32("transaction_index"),
            _bytes("transaction_hash"),
            _bytes("signature"),
            _int64("size"),
            _int64("count"),
            _int64("chain_id"),
        ]
    ),
    ("block_number", "transaction_index", "signature", "size"),
)

SCHEMAS: Final = {
    "blocks": BLOCKS,
    "transactions": TRANSACTIONS,
    "logs": LOGS,
    "erc20_transfers": ERC20_TRANSFERS,
    "erc721_transfers": ERC721_TRANSFERS,
    "traces": TRACES,
    "native_transfers": NATIVE_TRANSFERS,
    "contracts": CONTRACTS,
    "geth_calls": GETH_CALLS,
    "four_byte_counts": FOUR_BYTE_COUNTS,
}


SQL_TYPES: Final = {
    "int32": "INTEGER",
    "int64": "BIGINT",
    "binary": "BLOB",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "double": "DOUBLE",
}


def sql_columns(cryo_dataset_name: str) -> list[tuple[str, str, bool]]:
    """Return the columns of a dataset as (name, DuckDB's name of the type, whether it can be NULL)."""
    fields: list[pa.Field[Any]] = list(SCHEMAS[cryo_dataset_name].columns)
    return [(field.name, SQL_TYPES[str(field.type)], field.nullable) for field in fields]

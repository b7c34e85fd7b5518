"""Tables as Cryo 0.3.2 writes them: its columns and Arrow types, read off real files, with values of a test's wish."""

from typing import Any

import pyarrow as pa

U32, U64, RAW, TEXT = pa.uint32(), pa.uint64(), pa.large_binary(), pa.large_string()

COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "blocks": {
        "block_hash": RAW,
        "parent_hash": RAW,
        "author": RAW,
        "transactions_root": RAW,
        "receipts_root": RAW,
        "block_number": U32,
        "gas_used": U64,
        "extra_data": RAW,
        "logs_bloom": RAW,
        "timestamp": U32,
        "base_fee_per_gas": U64,
        "chain_id": U64,
    },
    "transactions": {
        "block_number": U32,
        "transaction_index": U64,
        "transaction_hash": RAW,
        "nonce": U64,
        "from_address": RAW,
        "to_address": RAW,
        "value_binary": RAW,
        "value_string": TEXT,
        "input": RAW,
        "gas_limit": U64,
        "gas_used": U64,
        "gas_price": U64,
        "transaction_type": U32,
        "max_priority_fee_per_gas": U64,
        "max_fee_per_gas": U64,
        "success": pa.bool_(),
        "block_hash": RAW,
        "chain_id": U64,
    },
    "logs": {
        "block_number": U32,
        "block_hash": RAW,
        "transaction_index": U32,
        "log_index": U32,
        "transaction_hash": RAW,
        "address": RAW,
        "topic0": RAW,
        "topic1": RAW,
        "topic2": RAW,
        "topic3": RAW,
        "data": RAW,
        "chain_id": U64,
    },
    "erc20_transfers": {
        "block_number": U32,
        "block_hash": RAW,
        "transaction_index": U32,
        "log_index": U32,
        "transaction_hash": RAW,
        "erc20": RAW,
        "from_address": RAW,
        "to_address": RAW,
        "value_binary": RAW,
        "value_string": TEXT,
        "chain_id": U64,
    },
    "erc721_transfers": {
        "block_number": U32,
        "block_hash": RAW,
        "transaction_index": U32,
        "log_index": U32,
        "transaction_hash": RAW,
        "erc20": RAW,
        "from_address": RAW,
        "to_address": RAW,
        "token_id_binary": RAW,
        "token_id_string": TEXT,
        "chain_id": U64,
    },
    "traces": {
        "action_from": RAW,
        "action_to": RAW,
        "action_value": TEXT,
        "action_gas": U32,
        "action_input": RAW,
        "action_call_type": TEXT,
        "action_init": RAW,
        "action_reward_type": TEXT,
        "action_type": TEXT,
        "result_gas_used": U32,
        "result_output": RAW,
        "result_code": RAW,
        "result_address": RAW,
        "trace_address": TEXT,
        "subtraces": U32,
        "transaction_index": U32,
        "transaction_hash": RAW,
        "block_number": U32,
        "block_hash": RAW,
        "error": TEXT,
        "chain_id": U64,
    },
    "native_transfers": {
        "block_number": U32,
        "block_hash": RAW,
        "transaction_index": U32,
        "transfer_index": U32,
        "transaction_hash": RAW,
        "from_address": RAW,
        "to_address": RAW,
        "value_binary": RAW,
        "value_string": TEXT,
        "chain_id": U64,
    },
    "contracts": {
        "block_number": U32,
        "block_hash": RAW,
        "create_index": U32,
        "transaction_hash": RAW,
        "contract_address": RAW,
        "deployer": RAW,
        "factory": RAW,
        "init_code": RAW,
        "code": RAW,
        "init_code_hash": RAW,
        "code_hash": RAW,
        "chain_id": U64,
    },
    "geth_calls": {
        "typ": TEXT,
        "from_address": RAW,
        "to_address": RAW,
        "value_binary": RAW,
        "value_string": TEXT,
        "gas_binary": RAW,
        "gas_string": TEXT,
        "gas_used_binary": RAW,
        "gas_used_string": TEXT,
        "input": RAW,
        "output": RAW,
        "error": TEXT,
        "block_number": U32,
        "transaction_hash": RAW,
        "transaction_index": U32,
        "trace_address": TEXT,
        "chain_id": U64,
    },
    "four_byte_counts": {
        "block_number": U32,
        "transaction_index": U32,
        "transaction_hash": RAW,
        "signature": RAW,
        "size": U64,
        "count": U64,
        "chain_id": U64,
    },
}

CHAIN_ID = 1
ADDRESS = bytes.fromhex("a0b86991c6218b36c1d19d4a2e9eb0ce3606eb48")
HASH = bytes.fromhex("7453d57207ad4e4ec99ffbc2e6c0be14457032418bfa322d46f720f9ba9ace0a")
LENGTHS = {"logs_bloom": 256, "signature": 4, "input": 68, "data": 64, "code": 90, "init_code": 120, "extra_data": 3}
ADDRESSES = {"author", "address", "erc20", "deployer", "factory", "action_from", "action_to", "result_address"}


def cryo_table(name: str, *rows: dict[str, Any]) -> pa.Table:
    """Return rows of a dataset; what a row does not name has an ordinary value."""
    schema = pa.schema(list(COLUMNS[name].items()))
    return pa.Table.from_pylist([{**_ordinary(schema), **row} for row in rows], schema)


def _ordinary(schema: pa.Schema) -> dict[str, Any]:
    return {field.name: _value(field.name, field.type) for field in schema}


def _value(name: str, kind: pa.DataType) -> object:
    if name == "trace_address":
        return ""
    if kind == RAW:
        if name in ADDRESSES or name.endswith("_address"):
            return ADDRESS
        return HASH if name not in LENGTHS else HASH.ljust(LENGTHS[name], b"\1")[: LENGTHS[name]]
    if kind == TEXT:
        return "7"
    return kind == pa.bool_() if name == "success" else 1

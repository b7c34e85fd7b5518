"""What a node says, fetched over plain JSON-RPC and written down independently of both engines: the tests' truth."""

from typing import Any

import httpx

Rows = list[dict[str, Any]]


def call(url: str, *calls: tuple[str, list[Any]]) -> list[Any]:
    """Send calls as one batch; results in order."""
    body = [{"jsonrpc": "2.0", "id": i, "method": method, "params": params} for i, (method, params) in enumerate(calls)]
    answers = sorted(httpx.post(url, json=body, timeout=60).json(), key=lambda answer: answer["id"])
    return [answer["result"] for answer in answers]


def rows(url: str, start: int, end: int) -> dict[str, Rows]:
    """Return the rows of blocks, transactions and logs of `[start, end)` in order, in the stable schema's terms."""
    numbers = range(start, end)
    blocks = call(url, *(("eth_getBlockByNumber", [hex(n), True]) for n in numbers))
    receipts = call(url, *(("eth_getBlockReceipts", [hex(n)]) for n in numbers))
    chain_id = _int(call(url, ("eth_chainId", []))[0])
    found: dict[str, Rows] = {"blocks": [], "transactions": [], "logs": []}
    for block, block_receipts in zip(blocks, receipts, strict=True):
        found["blocks"].append(_block(block, chain_id))
        for transaction, receipt in zip(block["transactions"], block_receipts, strict=True):
            assert transaction["hash"] == receipt["transactionHash"]
            found["transactions"].append(_transaction(transaction, receipt, chain_id))
            found["logs"] += [_log(log, chain_id) for log in receipt["logs"]]
    return found


def _block(block: dict[str, Any], chain_id: int) -> dict[str, Any]:
    return {
        "block_number": _int(block["number"]),
        "block_hash": _raw(block["hash"]),
        "parent_hash": _raw(block["parentHash"]),
        "author": _raw(block["miner"]),
        "transactions_root": _raw(block["transactionsRoot"]),
        "receipts_root": _raw(block["receiptsRoot"]),
        "gas_used": _int(block["gasUsed"]),
        "extra_data": _raw(block["extraData"]),
        "logs_bloom": _raw(block["logsBloom"]),
        "timestamp": _int(block["timestamp"]),
        "base_fee_per_gas": _maybe(block.get("baseFeePerGas")),
        "chain_id": chain_id,
    }


def _transaction(transaction: dict[str, Any], receipt: dict[str, Any], chain_id: int) -> dict[str, Any]:
    value = _int(transaction["value"])
    return {
        "block_number": _int(transaction["blockNumber"]),
        "block_hash": _raw(transaction["blockHash"]),
        "transaction_index": _int(transaction["transactionIndex"]),
        "transaction_hash": _raw(transaction["hash"]),
        "nonce": _int(transaction["nonce"]),
        "from_address": _raw(transaction["from"]),
        "to_address": _raw(transaction["to"]) if transaction["to"] else None,
        "value_binary": value.to_bytes(32, "big"),
        "value_string": str(value),
        "input": _raw(transaction["input"]),
        "gas_limit": _int(transaction["gas"]),
        "gas_used": _int(receipt["gasUsed"]),
        "gas_price": _int(receipt["effectiveGasPrice"]),
        "transaction_type": _int(transaction["type"]),
        "max_priority_fee_per_gas": _maybe(transaction.get("maxPriorityFeePerGas")),
        "max_fee_per_gas": _maybe(transaction.get("maxFeePerGas")),
        "success": receipt["status"] == "0x1",
        "chain_id": chain_id,
    }


def _log(log: dict[str, Any], chain_id: int) -> dict[str, Any]:
    topics = [_raw(topic) for topic in log["topics"]] + [None] * 4
    return {
        "block_number": _int(log["blockNumber"]),
        "block_hash": _raw(log["blockHash"]),
        "transaction_index": _int(log["transactionIndex"]),
        "log_index": _int(log["logIndex"]),
        "transaction_hash": _raw(log["transactionHash"]),
        "address": _raw(log["address"]),
        **{f"topic{n}": topics[n] for n in range(4)},
        "data": _raw(log["data"]),
        "chain_id": chain_id,
    }


def _int(text: str) -> int:
    return int(text, 16)


def _maybe(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def _raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])

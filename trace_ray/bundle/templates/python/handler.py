"""Raises an alert for each large transfer of ETH. A plain AWS Lambda handler, with `context.trace` to ask and to tell.

The rule gives the parameter `min_ether` (100 unless it does). Blocks of a range are end-exclusive.
"""

from datetime import UTC, datetime
from decimal import Decimal

WEI = 10**18


def handler(event, context):
    wei = int(Decimal(str(event["parameters"].get("min_ether", 100))) * WEI)
    rows = context.trace.query(statement(event, wei), limit=10_000)
    if rows.truncated:
        raise RuntimeError("more than 10,000 large transfers in one range: raise min_ether")
    context.trace.emit([alert(event, row) for row in rows])
    return {"alerts": len(rows)}


def statement(event, wei):
    blocks = event["range"]
    return f"""
        SELECT t.block_number, t.block_hash, t.transaction_hash, t.from_address, t.to_address, t.value_string,
          b.timestamp
        FROM {dataset(event, "transactions")} t JOIN {dataset(event, "blocks")} b USING (block_number)
        WHERE t.block_number >= {int(blocks["from_block"])} AND t.block_number < {int(blocks["to_block"])}
          AND t.value_binary >= to_u256({wei}::HUGEINT) AND t.success IS NOT FALSE
        ORDER BY t.block_number, t.transaction_index
    """


def dataset(event, kind):
    """Return the name of the rule's dataset of this kind, such as mainnet_blocks."""
    return next(name for name in event["datasets"] if name.endswith(f"_{kind}"))


def alert(event, row):
    return {
        "alert_definition_id": event["alert_definition_id"],
        # made from the cause alone: the same transfer gives the same key, however often it is looked at
        "dedupe_key": f"{event['alert_definition_id']}:{row['block_hash']}:{row['transaction_hash']}",
        "event_time": datetime.fromtimestamp(row["timestamp"], UTC).isoformat(),
        "chain_id": event["chain_id"],
        "block_number": row["block_number"],
        "block_hash": row["block_hash"],
        "tx_hash": row["transaction_hash"],
        "payload": {"from": row["from_address"], "to": row["to_address"], "wei": row["value_string"]},
    }

// Raises an alert for each large transfer of ETH. A plain AWS Lambda handler, with `context.trace` to ask and to tell.
// The rule gives the parameter `min_ether` (100 unless it does). Blocks of a range are end-exclusive.
"use strict";

exports.handler = async (event, context) => {
  const micro = BigInt(Math.round(Number(event.parameters.min_ether ?? 100) * 1e6));
  const rows = await context.trace.query(statement(event, micro * 10n ** 12n), { limit: 10000 });
  if (rows.truncated) throw new Error("more than 10,000 large transfers in one range: raise min_ether");
  await context.trace.emit(rows.map((row) => alert(event, row)));
  return { alerts: rows.length };
};

function statement(event, wei) {
  const { from_block, to_block } = event.range;
  return `
    SELECT t.block_number, t.block_hash, t.transaction_hash, t.from_address, t.to_address, t.value_string, b.timestamp
    FROM ${dataset(event, "transactions")} t JOIN ${dataset(event, "blocks")} b USING (block_number)
    WHERE t.block_number >= ${Number(from_block)} AND t.block_number < ${Number(to_block)}
      AND t.value_binary >= to_u256(${wei}::HUGEINT) AND t.success IS NOT FALSE
    ORDER BY t.block_number, t.transaction_index`;
}

// The name of the rule's dataset of this kind, such as mainnet_blocks.
function dataset(event, kind) {
  return Object.keys(event.datasets).find((name) => name.endsWith(`_${kind}`));
}

function alert(event, row) {
  return {
    alert_definition_id: event.alert_definition_id,
    // made from the cause alone: the same transfer gives the same key, however often it is looked at
    dedupe_key: `${event.alert_definition_id}:${row.block_hash}:${row.transaction_hash}`,
    event_time: new Date(row.timestamp * 1000).toISOString(),
    chain_id: event.chain_id,
    block_number: row.block_number,
    block_hash: row.block_hash,
    tx_hash: row.transaction_hash,
    payload: { from: row.from_address, to: row.to_address, wei: row.value_string },
  };
}

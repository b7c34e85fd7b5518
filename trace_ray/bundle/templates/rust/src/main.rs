//! Raises an alert for each large transfer of ETH: a program for `lambda_runtime`, as `cargo lambda` builds them.
//! The rule gives the parameter `min_ether` (100 unless it does). Blocks of a range are end-exclusive.

mod trace;

use lambda_runtime::{run, service_fn, Error, LambdaEvent};
use serde_json::{json, Value};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(handler)).await
}

async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    let answer = trace::query(&statement(&event)?, 10_000)?;
    if answer["truncated"] == json!(true) {
        return Err("more than 10,000 large transfers in one range: raise min_ether".into());
    }
    let rows = answer["rows"].as_array().ok_or("an answer without rows")?;
    let events: Vec<Value> = rows.iter().map(|row| alert(&event, row)).collect();
    trace::emit(&events)?;
    Ok(json!({ "alerts": events.len() }))
}

fn statement(event: &Value) -> Result<String, Error> {
    let ether = event["parameters"]["min_ether"].as_f64().unwrap_or(100.0);
    let wei = (ether * 1e6).round() as u128 * 1_000_000_000_000;
    let from = event["range"]["from_block"].as_u64().ok_or("no from_block")?;
    let to = event["range"]["to_block"].as_u64().ok_or("no to_block")?;
    Ok(format!(
        "SELECT t.block_number, t.block_hash, t.transaction_hash, t.from_address, t.to_address, t.value_string, \
           strftime(make_timestamp(b.timestamp * 1000000), '%Y-%m-%dT%H:%M:%SZ') AS event_time \
         FROM {} t JOIN {} b USING (block_number) \
         WHERE t.block_number >= {from} AND t.block_number < {to} \
           AND t.value_binary >= to_u256({wei}::HUGEINT) AND t.success IS NOT FALSE \
         ORDER BY t.block_number, t.transaction_index",
        dataset(event, "_transactions")?,
        dataset(event, "_blocks")?
    ))
}

/// The name of the rule's dataset of this kind, such as mainnet_blocks.
fn dataset<'a>(event: &'a Value, ending: &str) -> Result<&'a str, Error> {
    let named = event["datasets"].as_object().ok_or("no datasets")?;
    let found = named.keys().find(|name| name.ends_with(ending));
    Ok(found.ok_or("the rule lacks a dataset of blocks or transactions")?)
}

/// A row has its values in the order of the statement's columns.
fn alert(event: &Value, row: &Value) -> Value {
    let id = &event["alert_definition_id"];
    let (block, transaction) = (&row[1], &row[2]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    json!({
        "alert_definition_id": id,
        // made from the cause alone: the same transfer gives the same key, however often it is looked at
        "dedupe_key": format!("{}:{}:{}", text(id), text(block), text(transaction)),
        "event_time": row[6],
        "chain_id": event["chain_id"],
        "block_number": row[0],
        "block_hash": block,
        "tx_hash": transaction,
        "payload": { "from": row[3], "to": row[4], "wei": row[5] },
    })
}

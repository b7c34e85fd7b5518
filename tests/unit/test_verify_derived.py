"""The checks of token transfers against their logs, and of traces against their transactions, each broken once."""

from collections.abc import Callable
from typing import Any

import pytest
from eth_hash.auto import keccak

from tests.chain_rows import (
    ALICE,
    SAMPLE,
    TRANSFER,
    Log,
    Rows,
    Transaction,
    build,
    native_transfers,
    table,
    traces,
    transfers,
    word,
)
from tests.verdicts import judge, problem, proof
from trace_ray.contracts import BlockRange, Level
from trace_ray.extract.verify import Problem, Proof

FIRST, THIRD, LAST = 1200, 1202, 1203
FORK = keccak(b"another fork")
SELECTOR = bytes.fromhex("a9059cbb")

# --- transfers ----------------------------------------------------------------------------------------------------

LOOK_ALIKES = (
    Log(ALICE, (TRANSFER, word(1), word(2)), b"short"),
    Log(ALICE, (TRANSFER, word(1), word(2), word(3)), word(4)),
    Log(ALICE, (TRANSFER,), word(4)),
)
WITH_LOOK_ALIKES = (*SAMPLE, (Transaction(90_000, logs=LOOK_ALIKES),))


@pytest.mark.parametrize("name", ["erc20_transfers", "erc721_transfers"])
def test_transfers_that_equal_their_logs_are_as_strong_as_the_logs(name: str) -> None:
    made = build()
    tables = {**made.tables(), name: table(transfers(made, name), name)}
    verdict = proof(judge(tables, [name])[name])
    assert verdict.level is Level.RECEIPTS_ROOT
    assert verdict.checks == ("block_count", "parent_hash", "block_number", "block_hash", "transfer_logs")
    weaker = judge({key: tables[key] for key in ("blocks", "logs", name)}, [name])[name]
    assert proof(weaker).level is Level.LOGS_BLOOM


def test_logs_that_only_look_like_transfers_are_none() -> None:
    made = build(WITH_LOOK_ALIKES)
    rows = transfers(build(), "erc20_transfers")
    hashes = {block["block_number"]: block["block_hash"] for block in made.rows["blocks"]}
    rows = [{**row, "block_hash": hashes[row["block_number"]]} for row in rows]
    tables = {**made.tables(), "erc20_transfers": table(rows, "erc20_transfers")}
    verdict = judge(tables, ["erc20_transfers"], blocks=BlockRange(FIRST, FIRST + 5))["erc20_transfers"]
    assert proof(verdict).level is Level.RECEIPTS_ROOT


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("log_index", 1),
        ("transaction_index", 1),
        ("transaction_hash", FORK),
        ("erc20", ALICE),
        ("from_address", bytes(20)),
        ("to_address", bytes(20)),
        ("value_binary", word(1)),
    ],
)
def test_transfer_that_differs_from_its_log_is_refused(column: str, value: Any) -> None:
    made = build()
    rows = transfers(made, "erc20_transfers")
    assert rows[0][column] != value
    rows[0][column] = value
    tables = {**made.tables(), "erc20_transfers": table(rows, "erc20_transfers")}
    verdict = problem(judge(tables, ["erc20_transfers"])["erc20_transfers"])
    log_index = value if column == "log_index" else 0
    assert verdict.check == "transfer_logs"
    assert verdict.message == f"block 1200 has transfers that differ from its Transfer logs at log {log_index}"


@pytest.mark.parametrize("harm", ["first", "last", "all", "twice"])
def test_missing_and_repeated_transfers_are_refused(harm: str) -> None:
    made = build()
    rows = transfers(made, "erc20_transfers")
    kept = {"first": rows[1:], "last": rows[:-1], "all": [], "twice": [*rows, rows[-1]]}[harm]
    tables = {**made.tables(), "erc20_transfers": table(kept, "erc20_transfers")}
    assert problem(judge(tables, ["erc20_transfers"])["erc20_transfers"]).check == "transfer_logs"


def test_transfers_fall_with_their_logs() -> None:
    made = build()
    rows = transfers(made, "erc20_transfers")
    made.rows["logs"][0]["data"] = word(1)
    tables = {**made.tables(), "erc20_transfers": table(rows, "erc20_transfers")}
    verdicts = judge(tables, ["blocks", "logs", "erc20_transfers"])
    assert proof(verdicts["blocks"])
    assert verdicts["erc20_transfers"] == verdicts["logs"] != verdicts["blocks"]


@pytest.mark.parametrize("name", ["erc20_transfers", "erc721_transfers"])
def test_transfers_without_logs_must_at_least_be_announced(name: str) -> None:
    made = build()
    rows = transfers(made, name)
    tables = {**made.tables("blocks"), name: table(rows, name)}
    verdict = proof(judge(tables, [name])[name])
    assert verdict.level is Level.HEADER_CHAIN
    assert verdict.checks[-1] == "bloom_has_transfers"
    tables[name] = table([{**rows[0], "to_address": bytes(20)}, *rows[1:]], name)
    unannounced = problem(judge(tables, [name])[name])
    assert unannounced == Problem("bloom_has_transfers", "block 1200 has a transfer that the header does not announce")


def test_transfers_of_another_fork_are_refused() -> None:
    made = build()
    rows = transfers(made, "erc20_transfers")
    rows[1]["block_hash"] = FORK
    tables = {**made.tables(), "erc20_transfers": table(rows, "erc20_transfers")}
    verdict = judge(tables, ["erc20_transfers"])["erc20_transfers"]
    assert verdict == Problem("block_hash", "block 1203 has rows of another fork")


def test_rows_behind_a_later_block_are_refused() -> None:
    made = build()
    rows = transfers(made, "erc20_transfers")[::-1]
    tables = {**made.tables(), "erc20_transfers": table(rows, "erc20_transfers")}
    assert problem(judge(tables, ["erc20_transfers"])["erc20_transfers"]).check == "block_number"


# --- traces -------------------------------------------------------------------------------------------------------


def _geth_calls(made: Rows) -> list[dict[str, Any]]:
    call = {"typ": "CALL", "from_address": ALICE, "gas": 1, "gas_used": 1, "input": b""}
    return [{**call, **row} for row in traces(made)]


def _contracts(made: Rows) -> list[dict[str, Any]]:
    row = made.rows["transactions"][0]
    names = ("contract_address", "deployer", "factory", "init_code", "code", "init_code_hash", "code_hash")
    origin = {key: row[key] for key in ("block_number", "block_hash", "transaction_hash", "chain_id")}
    return [{**origin, "create_index": 0, **dict.fromkeys(names, ALICE)}]


def _four_byte_counts(made: Rows) -> list[dict[str, Any]]:
    origin = ("block_number", "transaction_index", "transaction_hash", "chain_id")
    for row in made.rows["transactions"]:
        row["input"] = SELECTOR + word(7)
    count = {"signature": SELECTOR, "size": 32, "count": 1}
    return [{**{key: row[key] for key in origin}, **count} for row in made.rows["transactions"]]


TRACED: dict[str, Callable[[Rows], list[dict[str, Any]]]] = {
    "traces": traces,
    "native_transfers": native_transfers,
    "geth_calls": _geth_calls,
    "contracts": _contracts,
    "four_byte_counts": _four_byte_counts,
}


def traced(made: Rows, name: str, rows: list[dict[str, Any]], *witnesses: str) -> Proof | Problem:
    return judge({**made.tables("blocks", *witnesses), name: table(rows, name)}, [name])[name]


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("traces", ("block_number", "block_hash", "transaction_hash", "root_trace", "trace_tree")),
        ("native_transfers", ("transfer_index", "block_hash", "transaction_hash", "root_trace")),
        ("geth_calls", ("block_number", "transaction_hash", "root_trace", "trace_tree")),
        ("contracts", ("create_index", "block_hash", "transaction_hash")),
        ("four_byte_counts", ("block_number", "transaction_hash", "call_data")),
    ],
)
def test_traces_of_every_transaction_are_accepted_by_the_header_chain(name: str, checks: tuple[str, ...]) -> None:
    made = build()
    verdict = proof(traced(made, name, TRACED[name](made), "transactions"))
    assert verdict.level is Level.HEADER_CHAIN
    assert verdict.checks == ("block_count", "parent_hash", *checks)


@pytest.mark.parametrize("name", ["traces", "native_transfers", "geth_calls"])
@pytest.mark.parametrize("number", [FIRST, THIRD, LAST])
def test_untraced_transaction_is_refused(name: str, number: int) -> None:
    made = build()
    rows = TRACED[name](made)
    last = max(row["transaction_index"] for row in rows if row["block_number"] == number)
    rows = [row for row in rows if (row["block_number"], row["transaction_index"]) != (number, last)]
    verdict = problem(traced(made, name, rows, "transactions"))
    assert verdict == Problem("root_trace", f"block {number} has a transaction without its root trace")


def test_inner_call_is_no_root_trace() -> None:
    made = build()
    rows = [row for row in traces(made) if row["trace_address"] or row["block_number"] != THIRD]
    assert problem(traced(made, "traces", rows, "transactions")).check == "root_trace"


@pytest.mark.parametrize("name", ["traces", "native_transfers", "geth_calls"])
def test_silent_node_is_found_without_transactions(name: str) -> None:
    made = build()
    rows = [row for row in TRACED[name](made) if row["block_number"] != THIRD]
    assert traced(made, name, rows) == Problem("empty_blocks", "block 1202 has transactions and no rows")
    assert "empty_blocks" in proof(traced(made, name, TRACED[name](made))).checks


def test_trace_of_an_unknown_transaction_is_refused() -> None:
    made = build()
    rows = traces(made)
    rows[0]["transaction_hash"] = FORK
    verdict = problem(traced(made, "traces", rows, "transactions"))
    assert verdict.message == "block 1200 has a trace of a transaction that is not in the block"


def test_reward_belongs_to_no_transaction() -> None:
    made = build()
    reward = {**traces(made)[-1], "transaction_hash": None, "transaction_index": None, "action_type": "reward"}
    assert proof(traced(made, "traces", [*traces(made), reward], "transactions"))


def test_hole_in_the_transfers_of_a_block_is_refused() -> None:
    made = build()
    rows = native_transfers(made)
    del rows[1]
    verdict = problem(traced(made, "native_transfers", rows, "transactions"))
    assert verdict.message == "block 1200 does not count transfer_index from 0 without gap or repeat"


def test_traces_fall_with_their_transactions() -> None:
    made = build()
    rows = traces(made)
    del made.rows["transactions"][-1]
    tables = {**made.tables(), "traces": table(rows, "traces")}
    verdicts = judge(tables, ["transactions", "traces"])
    assert verdicts["traces"] == verdicts["transactions"]
    assert problem(verdicts["traces"]).check == "empty_blocks"


# --- whole trees --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["traces", "geth_calls"])
def test_doubled_traces_are_refused(name: str) -> None:
    made = build()
    rows = TRACED[name](made)
    doubled = [row for row in rows for _ in range(2)]
    assert traced(made, name, doubled, "transactions") == Problem("trace_tree", "block 1200 has a trace twice")
    one = [*rows, rows[-1]]
    assert traced(made, name, one) == Problem("trace_tree", "block 1203 has a trace twice")


@pytest.mark.parametrize("name", ["traces", "geth_calls"])
def test_trace_without_its_parent_is_refused(name: str) -> None:
    made = build()
    rows = TRACED[name](made)
    rows[-1] = {**rows[-1], "trace_address": "0_2_1"}
    verdict = traced(made, name, rows, "transactions")
    assert verdict == Problem("trace_tree", "block 1203 has a trace without its parent")


def test_roots_whose_inner_traces_are_missing_are_refused() -> None:
    made = build()
    rows = [row for row in traces(made) if row["trace_address"] == "" or row["block_number"] != THIRD]
    verdict = traced(made, "traces", rows, "transactions")
    assert verdict == Problem("trace_tree", "block 1202 has a trace that lacks some of its inner traces")


def test_gap_among_the_inner_calls_is_refused() -> None:
    made = build()
    rows = _geth_calls(made)
    rows[-1] = {**rows[-1], "trace_address": "1"}
    verdict = problem(traced(made, "geth_calls", rows, "transactions"))
    assert verdict.message == "block 1203 has a trace that lacks some of its inner traces"
    assert proof(traced(made, "geth_calls", [*rows, {**rows[-1], "trace_address": "0"}], "transactions"))


def test_deep_and_wide_trees_are_whole() -> None:
    made = build()
    rows = traces(made)
    root, call = rows[-2:]
    rows[-2:] = [
        {**root, "subtraces": 12},
        *({**call, "trace_address": str(place), "subtraces": 2 * (place == 10)} for place in range(12)),
        *({**call, "trace_address": f"10_{place}"} for place in range(2)),
    ]
    assert proof(traced(made, "traces", rows, "transactions"))


# --- what is made from traces -------------------------------------------------------------------------------------


def _created(made: Rows) -> list[dict[str, Any]]:
    """Traces whose last one of the first transaction creates what `_contracts` names."""
    rows = traces(made)
    rows[1] |= {"action_type": "create", "action_init": ALICE, "result_address": ALICE, "result_code": ALICE}
    rows[3] |= {"action_type": "create", "action_init": ALICE, "error": "out of gas"}
    return rows


def against_traces(made: Rows, name: str, rows: list[dict[str, Any]], witness: list[dict[str, Any]]) -> Proof | Problem:
    tables = {**made.tables("blocks", "transactions"), "traces": table(witness, "traces"), name: table(rows, name)}
    return judge(tables, [name])[name]


def test_contracts_that_equal_the_creations_are_accepted() -> None:
    made = build()
    verdict = proof(against_traces(made, "contracts", _contracts(made), _created(made)))
    assert verdict.checks[-1] == "same_traces"


@pytest.mark.parametrize("count", [0, 2])
def test_lost_and_doubled_contracts_are_refused(count: int) -> None:
    made = build()
    rows = [{**row, "create_index": index} for index in range(count) for row in _contracts(made)]
    expected = Problem("same_traces", "block 1200 has contracts that differ from its traces")
    assert against_traces(made, "contracts", rows, _created(made)) == expected


def test_contract_with_other_code_is_refused() -> None:
    made = build()
    rows = [{**row, "code": b"other"} for row in _contracts(made)]
    assert problem(against_traces(made, "contracts", rows, _created(made))).check == "same_traces"


def test_native_transfers_are_one_for_each_trace() -> None:
    made = build()
    witness = [{**row, "subtraces": 0} for row in traces(made) if row["trace_address"] == ""]
    rows = native_transfers(made)
    assert proof(against_traces(made, "native_transfers", rows, witness)).checks[-1] == "same_traces"
    doubled = [*rows, {**rows[-1], "transfer_index": 1}]
    expected = Problem("same_traces", "block 1203 has native_transfers that differ from its traces")
    assert against_traces(made, "native_transfers", doubled, witness) == expected
    assert problem(against_traces(made, "native_transfers", rows, traces(made))).check == "same_traces"  # two each


@pytest.mark.parametrize("name", ["contracts", "native_transfers"])
def test_what_is_made_from_traces_falls_with_them(name: str) -> None:
    made = build()
    witness = [*_created(made), _created(made)[-1]]
    expected = Problem("trace_tree", "block 1203 has a trace twice")
    assert against_traces(made, name, TRACED[name](made), witness) == expected


def test_call_data_that_nobody_counted_is_refused() -> None:
    made = build()
    rows = _four_byte_counts(made)
    expected = Problem("call_data", "block 1200 has a transaction whose call data is not counted")
    assert traced(made, "four_byte_counts", [], "transactions") == expected
    assert traced(made, "four_byte_counts", rows[1:], "transactions") == expected
    other = [{**rows[0], "size": 31}, *rows[1:]]
    assert traced(made, "four_byte_counts", other, "transactions") == expected


def test_doubled_counts_are_refused() -> None:
    made = build()
    rows = [row for row in _four_byte_counts(made) for _ in range(2)]
    expected = Problem("call_data", "block 1200 counts a signature of one transaction twice")
    assert traced(made, "four_byte_counts", rows, "transactions") == expected


@pytest.mark.parametrize(
    "change",
    [{"to_address": None}, {"to_address": bytes(19) + b"\x01"}, {"input": b"abc"}, {"transaction_type": 0x6A}],
)
def test_creations_precompiles_short_data_and_system_transactions_need_no_count(change: dict[str, Any]) -> None:
    made = build()
    rows = _four_byte_counts(made)
    made.rows["transactions"][0] |= change
    assert proof(traced(made, "four_byte_counts", rows[1:], "transactions"))

"""Each acceptance check, broken once on rows that are right otherwise."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from eth_hash.auto import keccak

from tests.chain_rows import (
    ALICE,
    SAMPLE,
    TOKEN_SENT,
    Rows,
    bloom_of,
    build,
    word,
)
from tests.verdicts import judge, problem, proof
from trace_ray.contracts import BlockRange, Level, Receipts
from trace_ray.extract.verify import Neighbours, Problem

FIRST, EMPTY, THIRD, LAST = 1200, 1201, 1202, 1203
FORK = keccak(b"another fork")

Break = Callable[[Rows], None]


# --- what is right is accepted ------------------------------------------------------------------------------------


def test_right_rows_are_proven_by_the_receipts_root() -> None:
    made = build()
    verdicts = judge(made)
    assert proof(verdicts["blocks"]).level is Level.HEADER_CHAIN
    assert proof(verdicts["blocks"]).checks == ("block_count", "parent_hash", "gas_used")
    transactions, logs = proof(verdicts["transactions"]), proof(verdicts["logs"])
    assert transactions.level is logs.level is Level.RECEIPTS_ROOT
    assert transactions.checks == (
        "block_count", "parent_hash", "transaction_index", "empty_blocks", "block_hash", "transaction_hash",
        "receipt_fields", "receipts_root", "gas_used",
    )  # fmt: skip
    assert logs.checks == (
        "block_count", "parent_hash", "log_index", "topics", "logs_bloom", "block_hash", "log_transaction",
        "receipts_root",
    )  # fmt: skip


def test_proof_carries_the_hashes_at_both_ends() -> None:
    made = build()
    for verdict in judge(made).values():
        assert proof(verdict).parent_hash == made.rows["blocks"][0]["parent_hash"]
        assert proof(verdict).end_hash == made.rows["blocks"][-1]["block_hash"]


def test_engine_s_own_checks_open_the_list() -> None:
    verdicts = judge(build(), proofs=("header_hash", "transactions_root"))
    assert all(proof(one).checks[:2] == ("header_hash", "transactions_root") for one in verdicts.values())


def test_range_of_one_empty_block_is_accepted() -> None:
    made = build([()], start=0)
    verdicts = judge(made, blocks=BlockRange(0, 1))
    assert [proof(one).level for one in verdicts.values()] == ["header_chain", "receipts_root", "receipts_root"]


@pytest.mark.parametrize("receipts", list(Receipts))
def test_logs_without_transactions_are_proven_by_their_bloom(receipts: Receipts) -> None:
    verdict = proof(judge(build().tables("blocks", "logs"), ["logs"], receipts=receipts)["logs"])
    assert verdict.level is Level.LOGS_BLOOM
    assert verdict.checks[-2:] == ("logs_bloom", "block_hash")


def test_blocks_alone_are_not_held_against_their_gas() -> None:
    assert proof(judge(build().tables("blocks"), ["blocks"])["blocks"]).checks == ("block_count", "parent_hash")


@pytest.mark.parametrize("receipts", [Receipts.NONSTANDARD, Receipts.NONE])
def test_gas_of_other_receipts_is_not_summed(receipts: Receipts) -> None:
    made = build()
    made.rows["blocks"][2]["gas_used"] += 1  # such chains charge gas that is in no receipt
    assert "gas_used" not in proof(judge(made, receipts=receipts)["blocks"]).checks


def test_header_whose_gas_contradicts_its_receipts_root_proves_nothing() -> None:
    made = build()
    made.rows["blocks"][2]["gas_used"] += 1
    expected = Problem("gas_used", "block 1202 used 70001 gas, its transactions 70000")
    assert judge(made) == dict.fromkeys(("blocks", "transactions", "logs"), expected)


def test_transactions_without_logs_are_held_against_the_block_s_gas() -> None:
    verdict = proof(judge(build().tables("blocks", "transactions"), ["transactions"])["transactions"])
    assert verdict.level is Level.HEADER_CHAIN
    assert verdict.checks[-1] == "gas_used"


def test_other_receipts_stop_at_the_bloom() -> None:
    made = build()
    for block in made.rows["blocks"]:
        block["receipts_root"] = FORK  # another encoding gives another root
    verdicts = judge(made, receipts=Receipts.NONSTANDARD)
    assert proof(verdicts["transactions"]).level is Level.HEADER_CHAIN
    assert proof(verdicts["logs"]).level is Level.LOGS_BLOOM
    assert problem(judge(made)["logs"]).check == "receipts_root"


def test_rows_without_receipts_are_accepted_where_the_job_says_so() -> None:
    made = build()
    for row in made.rows["transactions"]:
        row["gas_used"] = row["success"] = None
    tables = made.tables("blocks", "transactions")
    assert proof(judge(tables, ["transactions"], receipts=Receipts.NONE)["transactions"]).level is Level.HEADER_CHAIN
    assert problem(judge(tables, ["transactions"])["transactions"]).check == "receipt_fields"


# --- headers ------------------------------------------------------------------------------------------------------


def _drop_block(made: Rows) -> None:
    del made.rows["blocks"][1]


def _drop_last_block(made: Rows) -> None:
    del made.rows["blocks"][-1]


def _repeat_block(made: Rows) -> None:
    made.rows["blocks"].insert(1, made.rows["blocks"][0])


def _extra_block(made: Rows) -> None:
    made.rows["blocks"].append({**made.rows["blocks"][-1], "block_number": LAST + 1})


def _swap_blocks(made: Rows) -> None:
    made.rows["blocks"].reverse()


def _reorg(made: Rows) -> None:
    made.rows["blocks"][2]["parent_hash"] = FORK


@pytest.mark.parametrize(
    ("harm", "check", "message"),
    [
        (_drop_block, "block_count", "block 1202 stands where block 1201 belongs"),
        (_drop_last_block, "block_count", "[1200, 1204) has 4 blocks, 3 came"),
        (_repeat_block, "block_count", "block 1200 stands where block 1201 belongs"),
        (_extra_block, "block_count", "[1200, 1204) has 4 blocks, 5 came"),
        (_swap_blocks, "block_count", "block 1203 stands where block 1200 belongs"),
        (_reorg, "parent_hash", "block 1202 does not follow block 1201"),
    ],
)
def test_broken_headers_refuse_every_dataset(harm: Break, check: str, message: str) -> None:
    made = build()
    harm(made)
    assert set(judge(made).values()) == {Problem(check, message)}


def test_no_headers_refuse_every_dataset() -> None:
    verdicts = judge(build().tables("transactions", "logs"), ["transactions", "logs"])
    assert {problem(one).check for one in verdicts.values()} == {"block_count"}


def test_published_neighbours_bind_only_their_own_dataset() -> None:
    made = build()
    before, after = made.rows["blocks"][0]["parent_hash"], made.rows["blocks"][-1]["block_hash"]
    bound = {
        "blocks": Neighbours(FORK, None),
        "transactions": Neighbours(before, FORK),
        "logs": Neighbours(before, after),
    }
    verdicts = judge(made, neighbours=bound)
    assert verdicts["blocks"] == Problem("neighbours", "block 1200 does not follow the published block 1199")
    assert verdicts["transactions"] == Problem(
        "neighbours", "block 1203 is not the parent that the published block 1204 names"
    )
    assert proof(verdicts["logs"]).checks[-1] == "neighbours"


# --- transactions and logs ----------------------------------------------------------------------------------------


def _drop(name: str, at: int) -> Break:
    def harm(made: Rows) -> None:
        del made.rows[name][at]

    return harm


def _change(name: str, at: int, column: str, value: Any) -> Break:
    def harm(made: Rows) -> None:
        assert made.rows[name][at][column] != value
        made.rows[name][at][column] = value

    return harm


def _swap(name: str, first: int, second: int, column: str) -> Break:
    def harm(made: Rows) -> None:
        rows = made.rows[name]
        rows[first][column], rows[second][column] = rows[second][column], rows[first][column]

    return harm


def _drop_rows_of(name: str, number: int) -> Break:
    def harm(made: Rows) -> None:
        made.rows[name] = [row for row in made.rows[name] if row["block_number"] != number]

    return harm


def _move_to_empty_block(made: Rows) -> None:
    blocks = made.rows["blocks"]
    row = made.rows["transactions"][3]
    row["block_number"], row["block_hash"], row["transaction_index"] = EMPTY, blocks[1]["block_hash"], 0
    made.rows["transactions"][4]["transaction_index"] = 0


def _repeat_transaction(made: Rows) -> None:
    made.rows["transactions"][1]["transaction_hash"] = made.rows["transactions"][0]["transaction_hash"]


def _repeat_in_another_block(made: Rows) -> None:
    made.rows["transactions"][-1]["transaction_hash"] = made.rows["transactions"][0]["transaction_hash"]


def _log_changes_its_transaction(made: Rows) -> None:
    other = made.rows["transactions"][1]
    made.rows["logs"][1] |= {"transaction_index": 1, "transaction_hash": other["transaction_hash"]}


HARMS: list[tuple[Break, str, int]] = [
    (_drop("transactions", 0), "transaction_index", FIRST),
    (_drop("transactions", 1), "transaction_index", FIRST),
    (_drop_rows_of("transactions", THIRD), "empty_blocks", THIRD),
    (_move_to_empty_block, "empty_blocks", EMPTY),
    (_swap("transactions", 0, 1, "transaction_index"), "transaction_index", FIRST),
    (_change("transactions", 0, "block_number", LAST + 1), "transaction_index", LAST + 1),
    (_change("transactions", 0, "block_number", 0), "transaction_index", 0),
    (_change("transactions", 0, "block_number", LAST), "transaction_index", FIRST),
    (_change("transactions", 2, "block_hash", FORK), "block_hash", FIRST),
    (_repeat_transaction, "transaction_hash", FIRST),
    (_repeat_in_another_block, "transaction_hash", LAST),
    (_change("transactions", 3, "gas_used", None), "receipt_fields", THIRD),
    (_change("transactions", 3, "success", None), "receipt_fields", THIRD),
    (_drop("transactions", 4), "receipts_root", THIRD),  # the tail: no index is missing
    (_change("transactions", 0, "gas_used", 64_999), "receipts_root", FIRST),
    (_change("transactions", 3, "success", True), "receipts_root", THIRD),
    (_change("transactions", 4, "transaction_type", 2), "receipts_root", THIRD),
    (_drop("logs", 0), "log_index", FIRST),
    (_drop_rows_of("logs", LAST), "logs_bloom", LAST),
    (_drop("logs", -1), "receipts_root", LAST),  # its twin sets the same bits
    (_change("logs", 0, "log_index", 1), "log_index", FIRST),
    (_change("logs", 5, "block_hash", FORK), "block_hash", LAST),
    (_change("logs", 0, "address", ALICE), "logs_bloom", FIRST),
    (_change("logs", 2, "topic3", word(8818)), "logs_bloom", FIRST),
    (_change("logs", 2, "topic3", None), "logs_bloom", FIRST),
    (_change("logs", 0, "data", word(250_000_001)), "receipts_root", FIRST),
    (_change("logs", 3, "data", b""), "receipts_root", FIRST),
    (_change("logs", 0, "transaction_hash", FORK), "log_transaction", FIRST),
    (_change("logs", 0, "transaction_index", 1), "log_transaction", FIRST),
    (_change("logs", 0, "transaction_index", 3), "log_transaction", FIRST),
    (_change("logs", 0, "transaction_index", -1), "log_transaction", FIRST),
    (_log_changes_its_transaction, "receipts_root", FIRST),
    (_change("blocks", 0, "logs_bloom", b"\xff" * 256), "logs_bloom", FIRST),
    (_change("blocks", 0, "logs_bloom", b"\0" * 256), "logs_bloom", FIRST),
    (_change("blocks", 1, "receipts_root", FORK), "receipts_root", EMPTY),
    (_change("blocks", 1, "transactions_root", FORK), "empty_blocks", EMPTY),
]


@pytest.mark.parametrize(("harm", "check", "number"), HARMS)
def test_wrong_rows_refuse_transactions_and_logs_together_and_spare_the_blocks(
    harm: Break, check: str, number: int
) -> None:
    made = build()
    harm(made)
    verdicts = judge(made)
    assert proof(verdicts["blocks"]).level is Level.HEADER_CHAIN
    assert verdicts["transactions"] == verdicts["logs"]
    assert problem(verdicts["logs"]).check == check
    assert f"block {number} " in problem(verdicts["logs"]).message


def test_a_log_behind_those_of_all_transactions_is_refused_though_the_root_and_the_bloom_agree() -> None:
    made = build()
    logs = made.rows["logs"]
    logs.insert(5, {**logs[0], "log_index": 5, "data": b"forged"})  # of the first transaction, behind those of the last
    verdicts = judge(made)
    assert problem(verdicts["logs"]).check == "receipts_root"
    assert "not in the order of its transactions" in problem(verdicts["logs"]).message
    assert verdicts["transactions"] == verdicts["logs"]


def test_a_hole_among_the_topics_is_refused() -> None:
    made = build()
    row = made.rows["logs"][2]
    row["topic2"], row["topic3"] = None, row["topic2"]
    number = row["block_number"]
    assert judge(made)["logs"] == Problem("topics", f"block {number} has a log whose topics have a hole")


def test_logs_that_the_header_does_not_announce_are_named() -> None:
    made = build()
    made.rows["logs"].append({**made.rows["logs"][-1], "address": ALICE, "log_index": 2})
    expected = Problem("logs_bloom", "block 1203 has logs that the header does not announce")
    assert judge(made)["logs"] == expected


def test_chain_with_other_receipts_refuses_only_the_dataset_that_is_wrong() -> None:
    bad_logs, bad_transactions = build(), build()
    bad_logs.rows["logs"][0]["address"] = ALICE
    del bad_transactions.rows["transactions"][1]
    verdicts = judge(bad_logs, receipts=Receipts.NONSTANDARD)
    assert problem(verdicts["logs"]).check == "logs_bloom"
    assert proof(verdicts["transactions"]).level is Level.HEADER_CHAIN
    verdicts = judge(bad_transactions, receipts=Receipts.NONSTANDARD)
    assert problem(verdicts["transactions"]).check == "transaction_index"
    assert proof(verdicts["logs"]).checks[-1] == "block_hash"  # no transactions to point at


def test_missing_tail_is_found_by_the_block_s_gas_when_there_are_no_logs() -> None:
    made = build()
    del made.rows["transactions"][4]
    verdict = judge(made.tables("blocks", "transactions"), ["transactions"])["transactions"]
    assert verdict == Problem("gas_used", "block 1202 used 70000 gas, its transactions 30000")


def test_block_whose_transactions_all_vanished_is_found_without_receipts() -> None:
    made = build()
    _drop_rows_of("transactions", THIRD)(made)
    tables = made.tables("blocks", "transactions")
    verdict = judge(tables, ["transactions"], receipts=Receipts.NONE)["transactions"]
    assert verdict == Problem("empty_blocks", "block 1202 lacks the transactions that the header announces")


@pytest.mark.parametrize("at", range(7))
def test_every_single_dropped_log_is_found(at: int) -> None:
    made = build()
    del made.rows["logs"][at]
    _count_again(made)
    assert problem(judge(made)["logs"]).check in ("logs_bloom", "receipts_root")


def _count_again(made: Rows) -> None:
    """Close the gap that a dropped log leaves in log_index, as a lying node would."""
    seen: dict[int, int] = {}
    for row in made.rows["logs"]:
        row["log_index"] = seen.get(row["block_number"], 0)
        seen[row["block_number"]] = row["log_index"] + 1


def test_rows_out_of_the_stable_schema_are_refused() -> None:
    tables = build().tables()
    logs = tables["logs"].drop_columns(["data"])
    verdict = judge({**tables, "logs": logs})["logs"]
    assert verdict == Problem("schema", "the columns of logs are not those of the stable schema")
    headers = tables["blocks"].set_column(0, "block_number", pa.array([1, 2, 3, 4], pa.int32()))
    assert problem(judge({**tables, "blocks": headers})["blocks"]).check == "schema"


def test_missing_values_are_refused() -> None:
    made = build()
    made.rows["logs"][3]["data"] = None
    assert problem(judge(made)["logs"]) == Problem("schema", "logs has rows without data")


def test_dataset_without_a_table_is_refused() -> None:
    verdicts = judge(build().tables("blocks"), ["blocks", "logs", "traces"])
    assert proof(verdicts["blocks"])
    assert verdicts["logs"] == Problem("rows", "the engine brought no table of logs")
    assert problem(verdicts["traces"]).check == "rows"


def test_bloom_of_two_equal_logs_cannot_tell_that_one_is_missing() -> None:
    """Why the bloom is not the certificate of logs: the receipts root finds what it does not."""
    twice = replace(SAMPLE[3][0], logs=(TOKEN_SENT, TOKEN_SENT))
    assert bloom_of(twice.logs) == bloom_of(twice.logs[:1])
    made = build([(twice,)])
    del made.rows["logs"][1]
    one = BlockRange(FIRST, FIRST + 1)
    assert proof(judge(made.tables("blocks", "logs"), ["logs"], blocks=one)["logs"]).level is Level.LOGS_BLOOM
    assert problem(judge(made, blocks=one)["logs"]).check == "receipts_root"

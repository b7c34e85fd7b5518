"""Job files: applied once in effect, changed only where that is safe, refused with every problem at once."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from state import jobs
from state.db import Connection
from tests.integration.state.ledger import CHAIN, Ledger, job, publication, stream
from trace_ray.contracts import DEFAULT_ORG, FixedTarget, FollowHead, Job, OrgId, Receipts
from trace_ray.errors import NotFound, RefusedInput
from trace_ray.reports import Applied

FOLLOW = FollowHead(0, tail_lag=5, head_poll_interval_s=2, max_head_age_s=30)


def apply(ledger: Ledger, one: Job) -> Applied:
    with ledger.conn.transaction():
        return jobs.apply(ledger.conn, one)


def refusal(ledger: Ledger, one: Job) -> list[str]:
    with pytest.raises(RefusedInput) as refused, ledger.conn.transaction():
        jobs.apply(ledger.conn, one)
    return refused.value.problems


def test_a_new_job_is_created_with_a_sentence_per_stream(ledger: Ledger) -> None:
    applied = apply(ledger, job("blocks", "logs"))
    assert applied.created
    assert applied.changes == (
        "job devnet created: chain 31337, blocks 0 to 1000",
        "stream blocks added: blocks as devnet_blocks",
        "stream logs added: logs as devnet_logs",
    )


def test_the_same_file_again_changes_nothing(ledger: Ledger) -> None:
    first = apply(ledger, job("blocks", "logs"))
    before = ledger.rows(b"SELECT * FROM state.streams ORDER BY stream_id")
    again = apply(ledger, job("blocks", "logs"))
    assert (again.job_id, again.created, again.changes) == (first.job_id, False, ())
    assert ledger.rows(b"SELECT * FROM state.streams ORDER BY stream_id") == before


def test_only_the_hash_of_the_file_changes_with_its_comments(ledger: Ledger) -> None:
    apply(ledger, job())
    assert apply(ledger, replace(job(), yaml_hash="1")).changes == ()
    assert ledger.one(b"SELECT yaml_hash FROM state.jobs") == "1"


def test_allowed_changes_of_a_live_job_are_named(ledger: Ledger) -> None:
    ledger.sync(job("blocks", "logs"))
    blocks = replace(stream("blocks", chunk_size=50, max_inflight=9), rpc_pool="archive", dataset="devnet_b")
    changed = replace(
        job(blocks, "transactions", to_block=2000), enabled=False, receipts=Receipts.NONE, chain_name="dev"
    )
    assert apply(ledger, changed).changes == (
        "job paused",
        "to_block raised from 1000 to 2000",
        "receipts changed from ethereum to none",
        "chain_name changed from devnet to dev",
        "stream blocks: dataset devnet_blocks is now named devnet_b",
        "stream blocks: rpc_pool changed from standard to archive",
        "stream blocks: chunk_size changed from 100 to 50",
        "stream blocks: max_inflight changed from 4 to 9",
        "stream transactions added: transactions as devnet_transactions",
        "stream logs stopped: it left the job file, its data stays",
    )
    assert apply(ledger, changed).changes == ()


def test_a_following_job_may_change_its_pace(ledger: Ledger) -> None:
    apply(ledger, job(mode=FOLLOW))
    faster = FollowHead(0, tail_lag=3, head_poll_interval_s=1, max_head_age_s=20.5)
    assert apply(ledger, job(mode=faster)).changes == (
        "tail_lag changed from 5 to 3",
        "head_poll_interval_seconds changed from 2 to 1",
        "max_head_age_seconds changed from 30 to 20.5",
    )


def test_to_block_may_be_lowered_to_what_is_planned_and_no_further(ledger: Ledger) -> None:
    ledger.sync(job())  # plans blocks 0 to 400
    assert apply(ledger, job(to_block=400)).changes == ("to_block lowered from 1000 to 400",)
    assert refusal(ledger, job(to_block=399)) == [
        "to_block: blocks below 400 are planned already: set it to 400 or more"
    ]


def test_every_forbidden_change_is_told_at_once_and_nothing_is_written(ledger: Ledger) -> None:
    ledger.sync(job())
    before = ledger.rows(b"SELECT * FROM state.jobs, state.streams, state.cursors")
    other = replace(stream("blocks"), cryo_dataset_name="logs")
    problems = refusal(ledger, replace(job(other, mode=replace(FOLLOW, from_block=7)), chain_id=1))
    assert [problem.split(":")[0] for problem in problems] == ["chain_id", "mode", "from_block", "streams.blocks"]
    assert ledger.rows(b"SELECT * FROM state.jobs, state.streams, state.cursors") == before


def test_a_stream_that_left_and_comes_back_goes_on_where_it_was(ledger: Ledger) -> None:
    known = ledger.sync(job("blocks", "logs"))
    apply(ledger, replace(known, streams=(stream("blocks"),)))
    assert {lease.task.dataset_key for group in ledger.claim(slots=9) for lease in group.leases} == {"blocks"}
    assert apply(ledger, known).changes == ("stream logs resumed from block 400",)
    assert {lease.task.dataset_key for group in ledger.claim(slots=9) for lease in group.leases} == {"logs"}


# --- several jobs -------------------------------------------------------------------------------------------------


def test_jobs_whose_blocks_overlap_on_one_dataset_are_refused(ledger: Ledger) -> None:
    apply(ledger, job(mode=FixedTarget(100, 200)))
    for start, end in ((0, 101), (150, 160), (199, 300), (0, 1000)):
        (problem,) = refusal(ledger, job(name="second", mode=FixedTarget(start, end)))
        assert "job devnet syncs this dataset from block 100 to 200" in problem
    apply(ledger, job(name="before", mode=FixedTarget(0, 100)))
    apply(ledger, job(name="after", mode=replace(FOLLOW, from_block=200)))
    (problem,) = refusal(ledger, job(name="later", mode=FixedTarget(5000, 6000)))
    assert "job after syncs this dataset from block 200:" in problem


def test_raising_to_block_into_the_blocks_of_another_job_is_refused(ledger: Ledger) -> None:
    apply(ledger, job(to_block=100))
    apply(ledger, job(name="second", mode=FixedTarget(100, 200)))
    assert "job second" in refusal(ledger, job(to_block=101))[0]


def test_a_stream_that_left_its_file_keeps_the_blocks_it_planned(ledger: Ledger) -> None:
    known = ledger.sync(job("blocks", "logs"))  # plans blocks 0 to 400 of both
    apply(ledger, replace(known, streams=(stream("blocks"),)))
    assert "from block 0 to 400" in refusal(ledger, job("logs", name="second"))[0]
    apply(ledger, job("logs", name="second", mode=FixedTarget(400, 1000)))
    assert "job second" in refusal(ledger, known)[0]


def test_a_name_of_another_dataset_is_refused(ledger: Ledger) -> None:
    apply(ledger, job())
    thief = replace(job(name="second"), chain_id=CHAIN + 1)
    assert refusal(ledger, thief) == [
        "streams.blocks: the name devnet_blocks belongs to another dataset: set publish_as to a free name"
    ]


def test_one_dataset_has_one_name(ledger: Ledger) -> None:
    apply(ledger, job(to_block=100))
    renamed = replace(stream("blocks"), dataset="mine")
    (problem,) = refusal(ledger, job(renamed, name="second", mode=FixedTarget(100, 200)))
    assert (
        problem == "streams.blocks: job devnet publishes this dataset as devnet_blocks: set publish_as: devnet_blocks"
    )


def test_two_datasets_of_a_file_may_exchange_their_names(ledger: Ledger) -> None:
    apply(ledger, job("blocks", "logs"))
    swapped = job(replace(stream("blocks"), dataset="devnet_logs"), replace(stream("logs"), dataset="devnet_blocks"))
    apply(ledger, swapped)
    names = ledger.rows(b"SELECT dataset_key, name FROM state.datasets ORDER BY dataset_key")
    assert [tuple(row.values()) for row in names] == [("blocks", "devnet_logs"), ("logs", "devnet_blocks")]


def test_another_organisation_is_apart(ledger: Ledger) -> None:
    apply(ledger, job())
    assert apply(ledger, replace(job(), org_id=OrgId(UUID(int=7)))).created


def test_files_of_one_organisation_are_applied_one_after_another(
    ledger: Ledger, connection: Callable[[], Connection]
) -> None:
    second = connection()
    second.execute(b"SET lock_timeout = '200ms'")
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, job())
        with pytest.raises(Exception, match="lock timeout"), second.transaction():
            jobs.apply(second, job(name="second"))
    assert "job devnet" in refusal(ledger, job(name="second"))[0]


# --- pause and resume ---------------------------------------------------------------------------------------------


def test_pausing_an_unknown_job_names_the_known_ones(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="there is no job devnet: apply a job file first"):
        jobs.pause(ledger.conn, DEFAULT_ORG, "devnet")
    apply(ledger, job())
    with pytest.raises(NotFound, match="there is no job typo: choose one of devnet"):
        jobs.resume(ledger.conn, DEFAULT_ORG, "typo")


def test_running_ranges_of_a_paused_job_finish(ledger: Ledger) -> None:
    known = ledger.sync(job())
    lease = ledger.lease()
    jobs.pause(ledger.conn, known.org_id, known.name)
    assert ledger.complete(publication(lease))[0].accepted

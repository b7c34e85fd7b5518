"""What a changed job file may change, and how that is told. No database."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from state.changes import KnownJob, KnownStream, OtherClaim, describe, problems, sentences
from tests.integration.state.ledger import CHAIN, job, stream
from trace_ray.contracts import DEFAULT_ORG, DatasetUuid, FixedTarget, FollowHead, Job, Receipts, dataset_uuid

FOLLOW = FollowHead(0, tail_lag=5, head_poll_interval_s=2.0, max_head_age_s=30.0)
BLOCKS = dataset_uuid(DEFAULT_ORG, CHAIN, "blocks")
LOGS = dataset_uuid(DEFAULT_ORG, CHAIN, "logs")


def known(one: Job, *, next_block: int = 0, left: Sequence[str] = ()) -> KnownJob:
    """The ledger after it took this file; the streams in `left` were in an earlier file only."""
    streams = {each.dataset_key: KnownStream(each, True, next_block) for each in one.streams}
    streams |= {key: KnownStream(stream(key), False, next_block) for key in left}
    return KnownJob(one.chain_id, one.chain_name, one.enabled, one.mode, one.receipts, streams)


def refused(
    one: Job, before: KnownJob | None = None, *claims: OtherClaim, names: dict[str, DatasetUuid] | None = None
) -> list[str]:
    return problems(one, before, claims, names or {})


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [job("blocks", "logs"), job(mode=FOLLOW)])
def test_a_new_file_and_the_same_file_are_never_refused(one: Job) -> None:
    assert refused(one) == []
    assert refused(one, known(one, next_block=400)) == []


@pytest.mark.parametrize(
    ("one", "before", "problem"),
    [
        (
            replace(job(), chain_id=1),
            job(),
            "chain_id: the job syncs chain 31337 and keeps it: give a job for another chain another name",
        ),
        (job(mode=FOLLOW), job(), "mode: the job is fixed_target and stays so: give the new job another name"),
        (job(), job(mode=FOLLOW), "mode: the job is follow_head and stays so: give the new job another name"),
        (
            job(mode=FixedTarget(1, 1000)),
            job(),
            "from_block: the job began at 0 and keeps it: add a second job for earlier blocks",
        ),
        (
            job(replace(stream("blocks"), cryo_dataset_name="logs")),
            job(),
            "streams.blocks: it holds blocks and cannot become logs: add a stream with another key",
        ),
    ],
)
def test_what_the_published_data_rests_on_cannot_change(one: Job, before: Job, problem: str) -> None:
    assert refused(one, known(before)) == [problem]


def test_to_block_never_falls_below_what_is_planned() -> None:
    before = known(job(), next_block=400)
    assert refused(job(to_block=400), before) == []
    assert refused(job(to_block=399), before) == [
        "to_block: blocks below 400 are planned already: set it to 400 or more"
    ]
    assert refused(job("logs", to_block=399), before) == [], "only streams that stay hold it back"


def test_a_name_is_free_or_exchanged_within_the_file() -> None:
    taken = ["streams.blocks: the name devnet_blocks belongs to another dataset: set publish_as to a free name"]
    assert refused(job(), names={"devnet_blocks": BLOCKS}) == []
    assert refused(job(), names={"devnet_blocks": LOGS}) == taken
    assert refused(job("blocks", "logs"), names={"devnet_blocks": LOGS, "devnet_logs": BLOCKS}) == []


@pytest.mark.parametrize(
    ("mode", "start", "end", "free"),
    [
        (FixedTarget(100, 200), 200, 300, True),
        (FixedTarget(100, 200), 0, 100, True),
        (FixedTarget(100, 200), 199, 300, False),
        (FixedTarget(100, 200), 0, 101, False),
        (FixedTarget(100, 200), 120, 130, False),
        (FixedTarget(100, 200), 0, None, False),
        (FixedTarget(100, 200), 200, None, True),
        (replace(FOLLOW, from_block=100), 0, 100, True),
        (replace(FOLLOW, from_block=100), 0, 101, False),
        (replace(FOLLOW, from_block=100), 500, None, False),
    ],
)
def test_two_jobs_never_own_the_same_blocks_of_a_dataset(
    mode: FixedTarget | FollowHead, start: int, end: int | None, free: bool
) -> None:
    told = refused(job(mode=mode), None, OtherClaim("other", BLOCKS, "devnet_blocks", start, end))
    until = "" if end is None else f" to {end}"
    owned = f"streams.blocks: job other syncs this dataset from block {start}{until}: choose blocks outside of it, "
    assert told == ([] if free else [f"{owned}or change that job"])


def test_blocks_of_another_dataset_are_free() -> None:
    assert refused(job(), None, OtherClaim("other", LOGS, "devnet_logs", 0, None)) == []


def test_a_dataset_keeps_the_name_under_which_another_job_publishes_it() -> None:
    assert refused(job(), None, OtherClaim("other", BLOCKS, "mine", 5000, None)) == [
        "streams.blocks: job other publishes this dataset as mine: set publish_as: mine"
    ]


def test_datasets_of_a_job_that_changes_its_chain_are_not_judged() -> None:
    one = replace(job(), chain_id=1)
    claim = OtherClaim("other", dataset_uuid(DEFAULT_ORG, 1, "blocks"), "mine", 0, None)
    assert len(refused(one, None, claim)) == 2
    assert len(refused(one, known(job()), claim, names={"devnet_blocks": LOGS})) == 1


# --- what is told -------------------------------------------------------------------------------------------------


def test_a_new_job_is_told_with_its_blocks_and_streams() -> None:
    assert sentences(job("blocks", "logs"), None) == [
        "job devnet created: chain 31337, blocks 0 to 1000",
        "stream blocks added: blocks as devnet_blocks",
        "stream logs added: logs as devnet_logs",
    ]
    assert describe(FOLLOW) == "blocks from 0 on, 5 behind the head"


@pytest.mark.parametrize("one", [job("blocks", "logs"), job(mode=FOLLOW)])
def test_the_same_file_changes_nothing(one: Job) -> None:
    assert sentences(one, known(one, next_block=400)) == []
    assert sentences(one, known(one, next_block=400, left=("traces",))) == [], "a stream that left is told once"


@pytest.mark.parametrize(
    ("one", "before", "sentence"),
    [
        (replace(job(), enabled=False), job(), "job paused"),
        (job(), replace(job(), enabled=False), "job resumed"),
        (job(to_block=2000), job(), "to_block raised from 1000 to 2000"),
        (job(to_block=400), job(), "to_block lowered from 1000 to 400"),
        (job(mode=replace(FOLLOW, tail_lag=3)), job(mode=FOLLOW), "tail_lag changed from 5 to 3"),
        (
            job(mode=replace(FOLLOW, head_poll_interval_s=3.0)),
            job(mode=FOLLOW),
            "head_poll_interval_seconds changed from 2 to 3",
        ),
        (
            job(mode=replace(FOLLOW, max_head_age_s=60.0)),
            job(mode=FOLLOW),
            "max_head_age_seconds changed from 30 to 60",
        ),
        (replace(job(), receipts=Receipts.NONE), job(), "receipts changed from ethereum to none"),
        (replace(job(), chain_name="dev"), job(), "chain_name changed from devnet to dev"),
        (
            job(replace(stream("blocks"), dataset="mine")),
            job(),
            "stream blocks: dataset devnet_blocks is now named mine",
        ),
        (
            job(replace(stream("blocks"), rpc_pool="archive")),
            job(),
            "stream blocks: rpc_pool changed from standard to archive",
        ),
        (job(stream("blocks", chunk_size=50)), job(), "stream blocks: chunk_size changed from 100 to 50"),
        (job(stream("blocks", max_inflight=9)), job(), "stream blocks: max_inflight changed from 4 to 9"),
        (job("blocks", "logs"), job(), "stream logs added: logs as devnet_logs"),
        (job(), job("blocks", "logs"), "stream logs stopped: it left the job file, its data stays"),
    ],
)
def test_each_change_is_one_sentence(one: Job, before: Job, sentence: str) -> None:
    assert sentences(one, known(before)) == [sentence]


def test_a_stream_that_comes_back_goes_on_where_it_was() -> None:
    before = known(job(), next_block=400, left=("logs",))
    assert sentences(job("blocks", "logs"), before) == ["stream logs resumed from block 400"]

"""Planning: ranges tile without a gap, repeat without effect, and never exceed what may be in flight."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from state import jobs
from state.db import Connection
from tests.integration.state.ledger import CHAIN, POOL, Ledger, failure, job, publication, stream
from trace_ray.contracts import FollowHead
from trace_ray.errors import LedgerConflict


def ranges(ledger: Ledger, key: str = "blocks") -> list[tuple[object, object]]:
    rows = ledger.rows(
        b"SELECT range_start, range_end FROM state.ranges JOIN state.streams USING (stream_id)"
        b" WHERE dataset_key = %s::text ORDER BY range_start",
        key,
    )
    return [(row["range_start"], row["range_end"]) for row in rows]


def test_ranges_tile_the_target_exactly(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", chunk_size=300)))
    assert ranges(ledger) == [(0, 300), (300, 600), (600, 900), (900, 1000)]
    assert ledger.one(b"SELECT next_block FROM state.cursors") == 1000


def test_a_known_range_cut_elsewhere_stops_planning(ledger: Ledger) -> None:
    known = ledger.sync(job())
    ledger.conn.execute(b"UPDATE state.cursors SET next_block = 0")
    ledger.conn.execute(b"UPDATE state.ranges SET done = true")
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, replace(known, streams=(stream("blocks", chunk_size=50),)))
    with pytest.raises(LedgerConflict):
        ledger.plan()


def test_open_ranges_never_exceed_max_inflight(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=3)))
    assert len(ranges(ledger)) == 3
    assert ledger.plan() == 0
    ledger.complete(publication(ledger.lease()))
    assert ledger.plan() == 1


def test_a_planner_waits_for_another_one_and_goes_on_from_its_cursor(
    ledger: Ledger, connection: Callable[[], Connection]
) -> None:
    ledger.sync(job(), head=-1)
    jobs.record_head(ledger.conn, ledger.epoch, POOL, CHAIN, 149)
    other, third = Ledger(connection(), ledger.epoch), connection()
    late = threading.Thread(target=other.plan)
    with ledger.conn.transaction():
        jobs.plan(ledger.conn, ledger.epoch)
        jobs.record_head(third, ledger.epoch, POOL, CHAIN, 299)
        late.start()
        late.join(0.3)
        assert late.is_alive()
    late.join()
    assert ranges(ledger) == [(0, 100), (100, 150), (150, 250), (250, 300)]


def test_a_dead_range_does_not_stall_its_stream(ledger: Ledger) -> None:
    ledger.sync(job(stream("blocks", max_inflight=1)))
    ledger.fail(failure(ledger.lease(), retryable=False))
    assert ledger.plan() == 1
    assert ranges(ledger) == [(0, 100), (100, 200)]


def test_another_chunk_size_keeps_ranges_without_gap(ledger: Ledger) -> None:
    known = ledger.sync(job(stream("blocks", chunk_size=100, max_inflight=2)))
    ledger.drain_once()
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, replace(known, streams=(stream("blocks", chunk_size=70, max_inflight=3),)))
    ledger.plan()
    assert ranges(ledger) == [(0, 100), (100, 200), (200, 270), (270, 340), (340, 410)]


def test_blocks_that_do_not_exist_are_not_planned(ledger: Ledger) -> None:
    ledger.sync(job(), head=149)
    assert ranges(ledger) == [(0, 100), (100, 150)]
    jobs.record_head(ledger.conn, ledger.epoch, POOL, CHAIN, 299)
    ledger.plan()
    assert ranges(ledger) == [(0, 100), (100, 150), (150, 250), (250, 300)]


def test_nothing_is_planned_before_the_head_is_known(ledger: Ledger) -> None:
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, job())
    assert ledger.plan() == 0
    jobs.record_head_error(ledger.conn, ledger.epoch, POOL, CHAIN, "no answer")
    assert ledger.plan() == 0


def test_a_following_job_stays_behind_the_head_and_stops_when_it_is_old(ledger: Ledger) -> None:
    ledger.sync(job(mode=FollowHead(50, tail_lag=10, head_poll_interval_s=5, max_head_age_s=30)), head=259)
    assert ranges(ledger) == [(50, 150), (150, 250)]
    jobs.record_head(ledger.conn, ledger.epoch, POOL, CHAIN, 400)
    late = datetime.now(UTC) + timedelta(seconds=31)
    assert jobs.plan(ledger.conn, ledger.epoch, now=late) == 0
    assert jobs.plan(ledger.conn, ledger.epoch) == 2


def test_a_paused_job_is_not_planned(ledger: Ledger) -> None:
    known = ledger.sync(job(stream("blocks", max_inflight=1)))
    ledger.complete(publication(ledger.lease()))
    jobs.pause(ledger.conn, known.org_id, known.name)
    assert ledger.plan() == 0
    jobs.resume(ledger.conn, known.org_id, known.name)
    assert ledger.plan() == 1


def test_heads_are_asked_for_at_their_pace_and_sooner_after_an_error(ledger: Ledger) -> None:
    with ledger.conn.transaction():
        jobs.apply(ledger.conn, job("blocks", "logs"))
    (request,) = jobs.heads_wanted(ledger.conn)
    assert (request.rpc_pool, request.chain_id) == (POOL, CHAIN)
    jobs.record_head(ledger.conn, ledger.epoch, POOL, CHAIN, 5)
    now = datetime.now(UTC)
    assert jobs.heads_wanted(ledger.conn, now=now + timedelta(seconds=jobs.HEAD_POLL_S - 1)) == []
    assert jobs.heads_wanted(ledger.conn, now=now + timedelta(seconds=jobs.HEAD_POLL_S + 1)) == [request]
    jobs.record_head_error(ledger.conn, ledger.epoch, POOL, CHAIN, "no answer")
    assert jobs.heads_wanted(ledger.conn, now=datetime.now(UTC) + timedelta(seconds=jobs.HEAD_RETRY_S + 1)) == [request]


def test_no_head_is_wanted_of_a_complete_job(ledger: Ledger) -> None:
    ledger.sync(job())
    ledger.drain()
    assert jobs.heads_wanted(ledger.conn, now=datetime.now(UTC) + timedelta(days=1)) == []

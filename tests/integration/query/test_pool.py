"""The pool: who shares a worker and who never does, and how a worker ends."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from query import pool as pools
from query.process import Child
from query.question import Limits
from query.refusals import (
    QueryFailed,
    QueryTimeout,
    SqlRejected,
    WorkerCrashed,
)
from tests.integration.query.desk import (
    DEAF,
    LATE,
    OTHER_ORG,
    POINT,
    SLOW,
    Desk,
    busiest,
    cpu_seconds,
    is_dead,
    until,
    zygotes,
)
from trace_ray.contracts import Grant, OrgId

# --- who shares a worker ------------------------------------------------------------------------------------------


def test_second_question_over_the_same_objects_finds_a_bound_worker(desk: Desk) -> None:
    first, second = desk.ask(POINT.format(3)), desk.ask(POINT.format(59))
    assert (first.warm, second.warm) == (False, True)
    assert first.table.to_pylist() == second.table.to_pylist() == [{"n": 1}]
    assert second.files_read == 1
    assert desk.pool.stats().recycled == 0


def test_one_worker_serves_every_question_of_a_grant(desk: Desk) -> None:
    desk.ask("select count(*) from devnet_blocks")
    assert desk.ask("select count(*) from devnet_logs").warm
    assert desk.ask("select count(*) from devnet_logs l join devnet_blocks b using (block_number)").warm
    assert desk.ask("select 1").warm
    assert desk.pool.stats().recycled == 0


def test_other_objects_get_another_worker(desk: Desk) -> None:
    """Who may read less never gets a worker that can read more, nor the other way round."""
    less = Grant(desk.store.grant.org_id, desk.store.grant.datasets[:1])
    desk.ask("select count(*) from devnet_blocks")
    assert not desk.ask("select count(*) from devnet_blocks", grant=less).warm
    assert desk.ask("select max(block_number) from devnet_blocks", grant=less).warm
    assert desk.ask("select max(block_number) from devnet_blocks").warm


def test_grant_of_many_objects_binds_those_of_the_question(desk: Desk) -> None:
    desk.pool.whole = 6  # each dataset has as many
    desk.ask("select count(*) from devnet_blocks")
    assert not desk.ask("select count(*) from devnet_logs").warm
    assert desk.ask("select max(block_number) from devnet_blocks").warm


def test_two_organisations_never_share_a_worker(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to run nor to judge, not even over the same objects."""
    served: dict[int, set[OrgId]] = {}
    asked = Child.receive

    def seen(child: Child, **relations: list[str]) -> object:
        if child.greeted and child.org_id is not None:
            served.setdefault(child.pid, set()).add(child.org_id)
        return asked(child, **relations)

    monkeypatch.setattr(Child, "receive", seen)
    foreign = Grant(OTHER_ORG, desk.store.grant.datasets)
    for number in range(6):
        assert desk.ask(POINT.format(number)).table.to_pylist() == [{"n": 1}]
        assert desk.ask(POINT.format(number), grant=foreign).table.to_pylist() == [{"n": 1}]
        with pytest.raises(SqlRejected):
            desk.ask(f"select {number} from nosuch", grant=foreign)
    assert {org for orgs in served.values() for org in orgs} == {OTHER_ORG, desk.store.grant.org_id}
    assert all(len(orgs) == 1 for orgs in served.values())


def test_views_of_an_earlier_question_are_gone(desk: Desk) -> None:
    """The same objects under another name: the worker is shared, the old name is not there."""
    blocks = desk.store.grant.datasets[0]
    renamed = Grant(desk.store.grant.org_id, (type(blocks)(
        "renamed", blocks.dataset_uuid, "blocks", 6, 0, 60, (), blocks.files[:2]),))  # fmt: skip
    whole = Grant(desk.store.grant.org_id, (type(blocks)(
        "devnet_blocks", blocks.dataset_uuid, "blocks", 6, 0, 60, (), blocks.files[:2]),))  # fmt: skip
    assert desk.ask("select count(*) as n from devnet_blocks", grant=whole).table.to_pylist() == [{"n": 20}]
    again = desk.ask("select count(*) as n from renamed", grant=renamed)
    assert (again.warm, again.table.to_pylist()) == (True, [{"n": 20}])
    with pytest.raises(SqlRejected):
        desk.ask("select count(*) as n from devnet_blocks", grant=renamed)


def test_repeated_statement_is_judged_once_per_organisation(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    judge = Child.judge

    def counted(child: Child, sql: str, relations: list[str]) -> object:
        judged.append(sql)
        return judge(child, sql, relations)

    monkeypatch.setattr(Child, "judge", counted)
    for _ in range(3):
        desk.ask(POINT.format(1))
    assert len(judged) == 1
    desk.ask(POINT.format(1), grant=Grant(OTHER_ORG, desk.store.grant.datasets))
    desk.ask(POINT.format(1), grant=Grant(desk.store.grant.org_id, desk.store.grant.datasets[:1]))
    assert len(judged) == 3


# --- how a worker ends --------------------------------------------------------------------------------------------


def test_worker_ends_after_its_uses(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_USES", 3)
    warm = [desk.ask(POINT.format(1)).warm for _ in range(7)]
    assert warm == [False, True, True, False, True, True, False]
    assert desk.pool.stats().recycled == 2


def test_worker_ends_at_its_age_also_when_nobody_asks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_AGE_S", 0.3)
    desk.ask(POINT.format(1))
    assert until(lambda: desk.pool.stats().idle == 0)
    assert not desk.ask(POINT.format(1)).warm


def test_worker_that_keeps_too_much_memory_ends(opened: Callable[..., Desk]) -> None:
    desk = opened(limits=Limits(rss_mb=1))
    assert not desk.ask(POINT.format(1)).warm
    assert not desk.ask(POINT.format(1)).warm


def test_worker_ends_after_a_timeout_and_the_next_question_works(desk: Desk) -> None:
    desk.ask("select 1")
    with pytest.raises(QueryTimeout) as caught:
        desk.ask(SLOW, limits=Limits(timeout_s=0.5))
    assert not caught.value.killed
    assert desk.pool.stats().recycled >= 1
    assert desk.ask("select 1").table.num_rows == 1


def test_worker_goes_on_after_a_refusal_and_a_failed_statement(desk: Desk) -> None:
    desk.ask(POINT.format(1))
    for sql in ("selec", "select nosuch from devnet_blocks", "select error('x') from devnet_blocks"):
        with pytest.raises((SqlRejected, QueryFailed)):
            desk.ask(sql)
    assert desk.ask(POINT.format(1)).warm
    assert desk.pool.stats().recycled == 0


def test_function_that_does_not_listen_is_killed_in_time(desk: Desk) -> None:
    desk.ask("select 1")
    started = time.monotonic()
    with pytest.raises(QueryTimeout) as caught:
        desk.ask(DEAF, limits=Limits(timeout_s=1))
    assert caught.value.killed
    assert time.monotonic() - started < 1 + Limits().grace_s + LATE
    assert until(lambda: desk.pool.stats().fresh >= 1)


def test_worker_that_died_while_idle_costs_no_question(desk: Desk) -> None:
    for _ in range(3):
        assert until(lambda: desk.pool.stats().fresh > 0)
        doomed = desk.workers()
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        assert until(lambda doomed=doomed: all(is_dead(pid) for pid in doomed))
        assert desk.ask(POINT.format(1)).table.num_rows == 1


def test_zygote_that_died_is_replaced(desk: Desk) -> None:
    desk.ask(POINT.format(1))
    workers = desk.workers()
    for pid in zygotes():
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: all(is_dead(pid) for pid in workers))
    assert desk.ask(POINT.format(1)).table.num_rows == 1


def test_dead_worker_is_a_crash_of_its_question_only(desk: Desk) -> None:
    with ThreadPoolExecutor(2) as threads:
        asked = threads.submit(desk.ask, SLOW)
        assert until(lambda: desk.pool.stats().busy == 1)
        other = threads.submit(desk.ask, POINT.format(1))
        assert other.result(20).table.num_rows == 1
        assert until(lambda: busiest(desk.workers()) > 0.2)
        os.kill(max(desk.workers(), key=cpu_seconds), signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            asked.result(20)
    assert desk.ask(POINT.format(1)).table.num_rows == 1

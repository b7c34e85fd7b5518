"""Terms of the Dispatcher: one leads, an older one can write nothing, and a new one loses no work."""

import threading
from collections.abc import Callable

import pytest

from state import tasks
from state.db import Connection, Database
from tests.integration.state.ledger import NO_WAIT, POLICY, Ledger, job, publication
from trace_ray.contracts import AttemptKey, WorkerId
from trace_ray.errors import DatabaseUnavailable


def test_another_cluster_waits_until_the_term_ends(ledger: Ledger, conn: Connection) -> None:
    assert tasks.take_over(conn, holder="other/space/1", ttl_s=60) is None
    tasks.release(conn, ledger.epoch)
    assert tasks.take_over(conn, holder="other/space/1", ttl_s=60) == ledger.epoch + 1


def test_the_same_cluster_takes_over_at_once(ledger: Ledger, conn: Connection) -> None:
    assert tasks.take_over(conn, holder="cluster/space/2", ttl_s=60) == ledger.epoch + 1


def test_an_expired_term_can_be_taken_over(conn: Connection) -> None:
    assert tasks.take_over(conn, holder="cluster/space/1", ttl_s=-1) == 1
    assert tasks.take_over(conn, holder="other/space/1", ttl_s=60) == 2


def test_a_take_over_waits_for_a_running_tick(ledger: Ledger, connection: Callable[[], Connection]) -> None:
    ledger.sync(job())
    offer = publication(ledger.lease())
    rival, order = connection(), list[str]()

    def take_over() -> None:
        tasks.take_over(rival, holder="cluster/space/2", ttl_s=60)
        order.append("taken over")

    with ledger.conn.transaction():
        tasks.fence(ledger.conn, ledger.epoch, 60)
        thread = threading.Thread(target=take_over)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        tasks.complete(ledger.conn, ledger.epoch, [offer], policy=POLICY)
        order.append("completed")
    thread.join()
    assert order == ["completed", "taken over"]


def test_leases_that_have_not_expired_are_not_reaped(ledger: Ledger) -> None:
    ledger.sync(job())
    ledger.lease()
    assert tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT) == 0


def test_leases_of_dead_workers_are_free_at_once_and_their_tokens_dead(ledger: Ledger) -> None:
    ledger.sync(job(to_block=200))
    lost, kept = ledger.lease(worker="w/0.0"), ledger.lease(worker="w/1.0")
    assert tasks.free(ledger.conn, ledger.epoch, [WorkerId("w/0.0")], policy=POLICY) == 1
    assert ledger.complete(publication(lost))[0].reason == "stale_attempt"
    again = ledger.lease()
    assert (again.task.task_id, again.attempt) == (lost.task.task_id, 2)
    assert ledger.complete(publication(kept))[0].accepted


def test_a_new_term_adopts_what_lives_and_frees_the_rest(ledger: Ledger) -> None:
    ledger.sync(job())
    held, lost, silent = (ledger.lease(worker=f"w/{place}.0") for place in range(3))
    newer = Ledger.lead(ledger.conn, holder="cluster/space/2")
    adopted = tasks.adopt(newer.conn, newer.epoch, {WorkerId("w/0.0"): [held.key]}, ttl_s=60)
    assert adopted == [held.key]
    freed = tasks.free_older(newer.conn, newer.epoch, except_workers=[WorkerId("w/2.0")], policy=POLICY)
    assert freed == 1
    assert newer.complete(publication(held))[0].accepted
    assert newer.complete(publication(lost))[0].reason == "stale_attempt"
    assert newer.complete(publication(silent))[0].accepted


def test_an_expired_lease_is_adopted_unless_it_moved(ledger: Ledger) -> None:
    ledger.sync(job(to_block=200))
    expired, moved = ledger.lease(ttl_s=-1), ledger.lease(ttl_s=-1)
    tasks.reap(ledger.conn, ledger.epoch, policy=NO_WAIT)
    ledger.conn.execute(b"UPDATE state.tasks SET run_at = 'infinity' WHERE task_id = %s::uuid", (expired.task.task_id,))
    assert ledger.lease().task == moved.task
    newer = Ledger.lead(ledger.conn, holder="cluster/space/2")
    held: dict[WorkerId, list[AttemptKey]] = {WorkerId("w/0.0"): [expired.key, moved.key]}
    assert tasks.adopt(newer.conn, newer.epoch, held, ttl_s=60) == [expired.key]
    assert newer.complete(publication(expired))[0].accepted
    assert (
        ledger.one(b"SELECT outcome FROM state.attempts WHERE task_id = %s::uuid", expired.task.task_id) == "succeeded"
    )


def test_a_time_limit_is_told_apart_from_a_lost_server(ledger: Ledger, state_url: str) -> None:
    database = Database(state_url, application_name="trace-test")
    with ledger.conn.transaction():
        tasks.fence(ledger.conn, ledger.epoch, 60)
        with pytest.raises(DatabaseUnavailable, match="too busy"), database.transaction() as conn:
            tasks.fence(conn, ledger.epoch, 60)
    with database.transaction() as conn:
        tasks.fence(conn, ledger.epoch, 60)
    database.close()

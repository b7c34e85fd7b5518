"""A Dispatcher that was frozen lets its workers be heard before it takes their leases back, and only once."""

import time

from actors.dispatcher import Dispatcher, HeadAnswer, Inbox, Timing
from state import jobs
from state.db import Database
from tests.integration.state.ledger import CHAIN, NO_WAIT, POOL, job, publication
from trace_ray.contracts import WorkerId

LEASE_S = 0.4
SLOT = WorkerId("w/0.0")


def frozen(url: str) -> tuple[Dispatcher, Inbox]:
    """Return a Dispatcher that leased one range, and what its worker has to say; the lease has expired."""
    database = Database(url, application_name="test")
    with database.transaction() as conn:
        jobs.apply(conn, job(to_block=100))
    core = Dispatcher(database, holder="c/n/1", timing=Timing(lease_s=LEASE_S, leader_s=60.0, policy=NO_WAIT))
    assert core.lead()
    core.tick(Inbox(heads=(HeadAnswer(POOL, CHAIN, 10_000),)), now=0.0)
    orders = core.tick(Inbox(slots=(SLOT,)), now=0.01)
    (group,) = orders.groups
    time.sleep(LEASE_S * 1.5)
    return core, Inbox(outcomes=tuple(publication(lease) for lease in group.leases))


def test_what_a_worker_held_through_the_freeze_is_renewed_and_not_run_twice(state_url: str) -> None:
    core, answers = frozen(state_url)
    assert core.tick(Inbox(), now=10.0).reaped == 0  # no worker was heard yet
    alive = tuple(outcome.attempt for outcome in answers.outcomes)
    assert core.tick(Inbox(alive=alive), now=10.0 + LEASE_S / 8).reaped == 0
    assert core.tick(Inbox(alive=alive), now=10.0 + LEASE_S / 2).reaped == 0
    assert len(core.tick(answers, now=10.0 + LEASE_S).published) == 1


def test_leases_of_the_dead_are_reaped_even_when_every_tick_is_slow(state_url: str) -> None:
    core, _ = frozen(state_url)
    assert [core.tick(Inbox(), now=now).reaped for now in (10.0, 20.0)] == [0, 1]


def test_an_outcome_that_came_twice_is_published_and_told_once(state_url: str) -> None:
    core, answers = frozen(state_url)
    assert len(core.tick(Inbox(outcomes=answers.outcomes * 2), now=0.02).published) == 1

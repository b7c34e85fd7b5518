"""The pool: who shares a worker and who never does, how a worker ends, and what a question's end leaves behind."""

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from query import pool as pools
from query import run
from query.cancel import Cancel
from query.pool import Pool
from query.process import Child, Reach
from query.question import Answer, Limits, Question
from query.refusals import (
    QueryCancelled,
    QueryFailed,
    QueryTimeout,
    QueueFull,
    SqlRejected,
    WorkerCrashed,
    WorkerUnavailable,
)
from query.spawn import BOOT
from tests.integration.query.conftest import Store
from trace_ray.contracts import Grant, OrgId
from trace_ray.errors import TraceError

OTHER_ORG = OrgId(UUID(int=77))
SLOW = "select count(*) from range(100000) a, range(100000) b, range(1000) c"
DEAF = "select levenshtein(repeat('a', 100000), repeat('b', 100000))"
POINT = "select count(*) as n from devnet_blocks where block_number = {}"
LATE = 1.5  # seconds that a loaded machine may need beyond what is promised


class Desk:
    """Asks one pool."""

    def __init__(self, store: Store, pool: Pool) -> None:
        self.store, self.pool = store, pool

    def ask(
        self,
        sql: str,
        *,
        limit: int = 1000,
        limits: Limits | None = None,
        cancel: Cancel | None = None,
        export: bool = False,
        grant: Grant | None = None,
    ) -> Answer:
        return run.run(
            Question(sql, limit), grant or self.store.grant, pool=self.pool, locate=self.store.locate, limits=limits,
            cancel=cancel, export=export,
        )  # fmt: skip

    def workers(self) -> set[int]:
        """The process ids of all workers."""
        return {pid for zygote in zygotes() for pid in children(zygote)}


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def zygotes() -> set[int]:
    """The processes of ours that fork workers: this process may also have started nodes and databases."""
    return {pid for pid in children(os.getpid()) if BOOT.encode() in command(pid)}


def command(pid: int) -> list[bytes]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(holds: Callable[[], bool], *, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def opened(store: Store) -> Iterator[Callable[..., Desk]]:
    with contextlib.ExitStack() as stack:

        def make(*, size: int = 2, waiting: int = 64, standby: bool = True, limits: Limits | None = None) -> Desk:
            pool = Pool(scratch=store.scratch, reach=Reach(read=(store.root,)), size=size, waiting=waiting,
                        standby=standby, limits=limits or Limits())  # fmt: skip
            return Desk(store, stack.enter_context(pool))

        yield make


@pytest.fixture
def desk(opened: Callable[..., Desk]) -> Desk:
    return opened()


# --- who shares a worker ------------------------------------------------------------------------------------------


def test_second_question_over_the_same_objects_finds_a_bound_worker(desk: Desk) -> None:
    first, second = desk.ask(POINT.format(3)), desk.ask(POINT.format(59))
    assert (first.warm, second.warm) == (False, True)
    assert first.table.to_pylist() == second.table.to_pylist() == [{"n": 1}]
    assert second.files_read == 1
    assert desk.pool.stats().recycled == 0


def test_other_objects_get_another_worker(desk: Desk) -> None:
    desk.ask("select count(*) from devnet_blocks")
    assert not desk.ask("select count(*) from devnet_logs").warm
    assert desk.ask("select max(block_number) from devnet_blocks").warm
    assert not desk.ask("select count(*) from devnet_logs l join devnet_blocks b using (block_number)").warm


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


def cpu_seconds(pid: int) -> float:
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def busiest(pids: set[int]) -> float:
    return max((cpu_seconds(pid) for pid in pids), default=0)


# --- who waits ----------------------------------------------------------------------------------------------------


def test_question_waits_for_a_worker_and_then_gets_it(opened: Callable[..., Desk]) -> None:
    desk = opened(size=1)
    desk.ask("select 1")
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(desk.ask, POINT.format(number)) for number in range(8)]
        assert [done.result(20).table.to_pylist() for done in asked] == [[{"n": 1}]] * 8


def test_question_that_waits_too_long_is_told_to_come_back(opened: Callable[..., Desk]) -> None:
    desk = opened(size=1)
    cancel = Cancel()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(desk.ask, SLOW, cancel=cancel)
        assert until(lambda: desk.pool.stats().busy == 1)
        started = time.monotonic()
        with pytest.raises(QueueFull):
            desk.ask(POINT.format(1))
        assert pools.WAIT_S <= time.monotonic() - started < pools.WAIT_S + LATE
        cancel.set()
        with pytest.raises(QueryCancelled):
            asked.result(10)
    assert desk.pool.stats().refused == 1


def test_queue_has_an_end_and_no_organisation_takes_it_all(
    opened: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "WAIT_S", 30.0)
    desk = opened(size=1, waiting=4)
    cancel, foreign = Cancel(), Grant(OTHER_ORG, desk.store.grant.datasets)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(desk.ask, SLOW, cancel=cancel)
        assert until(lambda: desk.pool.stats().busy == 1)
        queued = [threads.submit(desk.ask, POINT.format(number)) for number in range(2)]
        assert until(lambda: desk.pool.stats().waiting == 2)
        with pytest.raises(QueueFull):
            desk.ask(POINT.format(5))
        queued += [threads.submit(desk.ask, POINT.format(number), grant=foreign) for number in range(2)]
        assert until(lambda: desk.pool.stats().waiting == 4)
        with pytest.raises(QueueFull):
            desk.ask(POINT.format(5), grant=Grant(OrgId(UUID(int=5)), desk.store.grant.datasets))
        cancel.set()
        with pytest.raises(QueryCancelled):
            first.result(10)
        assert all(done.result(20).table.num_rows == 1 for done in queued)


def test_organisation_with_nothing_running_is_served_before_a_busy_one(
    opened: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One organisation keeps a worker and queues first; the other is served first when the second worker is free."""
    monkeypatch.setattr(pools, "WAIT_S", 30.0)
    desk = opened(size=2)
    foreign = Grant(OTHER_ORG, desk.store.grant.datasets)
    order: list[str] = []
    kept, freed = Cancel(), Cancel()

    def ask(name: str, grant: Grant) -> None:
        desk.ask("select sum(range) from range(3000000)", grant=grant)
        order.append(name)

    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(desk.ask, SLOW, cancel=cancel) for cancel in (kept, freed)]
        assert until(lambda: desk.pool.stats().busy == 2)
        greedy = [threads.submit(ask, "greedy", desk.store.grant) for _ in range(2)]
        assert until(lambda: desk.pool.stats().waiting == 2)
        modest = threads.submit(ask, "modest", foreign)
        assert until(lambda: desk.pool.stats().waiting == 3)
        freed.set()
        for done in (modest, *greedy):
            done.result(20)
        kept.set()
        for done in running:
            with pytest.raises(QueryCancelled):
                done.result(10)
    assert order[0] == "modest"


# --- cancellation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [SLOW, DEAF])
def test_cancelled_question_ends_at_once(desk: Desk, sql: str) -> None:
    desk.ask("select 1")
    cancel = Cancel()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(desk.ask, sql, cancel=cancel)
        assert until(lambda: busiest(desk.workers()) > 0.1)
        ends_at_once(desk, asked, cancel)


def test_question_is_cancelled_while_it_is_judged(opened: Callable[..., Desk]) -> None:
    """A worker that stands still has not even begun to judge."""
    desk = opened(size=1)
    desk.ask("select 1")
    assert until(lambda: desk.pool.stats().fresh > 0)
    cancel = Cancel()
    with ThreadPoolExecutor(1) as threads:
        for pid in desk.workers():
            os.kill(pid, signal.SIGSTOP)
        asked = threads.submit(desk.ask, POINT.format(1), cancel=cancel)
        assert until(lambda: desk.pool.stats().busy == 1)
        ends_at_once(desk, asked, cancel)


def ends_at_once(desk: Desk, asked: "Future[Answer]", cancel: Cancel) -> None:
    at = time.monotonic()
    cancel.set()
    with pytest.raises(QueryCancelled):
        asked.result(10)
    assert time.monotonic() - at < 0.1 + LATE
    assert until(lambda: desk.pool.stats().busy == 0)
    assert desk.ask(POINT.format(1)).table.num_rows == 1


def test_question_that_was_cancelled_before_does_not_run(desk: Desk) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(QueryCancelled):
        desk.ask(POINT.format(1), cancel=cancel)
    assert desk.pool.stats().busy == 0


def test_question_is_cancelled_while_it_waits(opened: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WAIT_S", 30.0)
    desk = opened(size=1)
    running, waiting = Cancel(), Cancel()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(desk.ask, SLOW, cancel=running)
        assert until(lambda: desk.pool.stats().busy == 1)
        second = threads.submit(desk.ask, POINT.format(1), cancel=waiting)
        assert until(lambda: desk.pool.stats().waiting == 1)
        waiting.set()
        with pytest.raises(QueryCancelled):
            second.result(5)
        running.set()
        with pytest.raises(QueryCancelled):
            first.result(5)
    assert desk.ask(POINT.format(1)).table.num_rows == 1


# --- what is left behind ------------------------------------------------------------------------------------------


def test_two_hundred_questions_with_faults_leave_nothing(opened: Callable[..., Desk], store: Store) -> None:
    """Good, refused, failing, slow, deaf and cancelled questions at once, while workers are killed under them."""
    desk = opened(size=3, limits=Limits(timeout_s=0.4, grace_s=0.2))
    desk.ask("select 1")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    stop, wrong = threading.Event(), []
    kinds = [
        POINT.format(7), POINT.format(42), "select nosuch from devnet_blocks", "drop table x", SLOW, DEAF,
        "select count(*) as n from devnet_logs where block_number = 3", "select repeat('x', 20000000)",
    ]  # fmt: skip

    def ask(number: int) -> None:
        sql, cancel = kinds[number % len(kinds)], Cancel()
        if number % 13 == 0:
            threading.Timer(0.05, cancel.set).start()
        try:
            rows = desk.ask(sql, cancel=cancel).table.to_pylist()
        except TraceError:
            return
        if sql.startswith("select count") and rows not in ([{"n": 1}], [{"n": 2}]):
            wrong.append((sql, rows))

    def kill() -> None:
        while not stop.wait(0.5):
            for pid in list(desk.workers())[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, range(200)))
    stop.set()
    killer.join()
    assert wrong == []
    assert desk.ask(POINT.format(1)).table.to_pylist() == [{"n": 1}]
    assert until(lambda: len(desk.workers()) <= 4 and desk.pool.stats().busy == 0)
    assert until(lambda: not any(is_dead(pid) for pid in desk.workers()))
    alive = desk.workers()
    assert until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 4)
    desk.pool.close()
    assert list(store.scratch.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in alive)


def test_directories_of_a_killed_service_are_swept(store: Store, opened: Callable[..., Desk]) -> None:
    left = store.scratch / "query-left"
    (left / "spill").mkdir(parents=True)
    live = opened()
    assert not left.exists()
    opened()
    assert live.ask("select 1").table.num_rows == 1


def test_pool_that_is_closed_says_so(opened: Callable[..., Desk]) -> None:
    desk = opened()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(desk.ask, SLOW)
        assert until(lambda: desk.pool.stats().busy == 1)
        desk.pool.close()
        with pytest.raises((WorkerCrashed, WorkerUnavailable)):
            asked.result(10)
    with pytest.raises(WorkerUnavailable):
        desk.ask("select 1")
    assert not desk.workers()


# --- results beyond an answer -------------------------------------------------------------------------------------


def test_result_beyond_the_rows_of_an_answer_is_exported_whole(desk: Desk) -> None:
    answer = desk.ask("select range as n, 'row ' || range as t from range(250000)", limit=10_000, export=True)
    assert (answer.table.num_rows, answer.truncated) == (10_000, True)
    assert answer.export is not None
    content = answer.export.path.read_bytes()
    assert (answer.export.rows, answer.export.bytes) == (250_000, len(content))
    assert answer.export.sha256 == hashlib.sha256(content).hexdigest()
    assert numbers(answer.export.path) == list(range(250_000))


def numbers(path: Path) -> Sequence[object]:
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    return pq.read_table(path).column("n").to_pylist()


def test_result_beyond_the_bytes_of_an_answer_is_exported_whole(desk: Desk) -> None:
    answer = desk.ask("select range as n, repeat('x', 100000) as t from range(300)", limit=200, export=True)
    assert 50 <= answer.table.num_rows <= 105
    assert answer.table.nbytes <= Limits().bytes
    assert answer.export is not None
    assert numbers(answer.export.path) == list(range(200))


@pytest.mark.parametrize(("limit", "rows", "truncated"), [(9_999, 9_999, True), (10_000, 10_000, False)])
def test_result_that_fits_is_not_exported(desk: Desk, limit: int, rows: int, truncated: bool) -> None:
    answer = desk.ask("select range as n from range(10000)", limit=limit, export=True)
    assert (answer.table.num_rows, answer.truncated, answer.export) == (rows, truncated, None)


def test_export_has_its_own_cap_and_leaves_no_file(desk: Desk) -> None:
    limits = Limits(export_bytes=20 * 1024**2)
    with pytest.raises(QueryFailed) as caught:
        desk.ask("select range as n from range(10000000)", limit=10_000, export=True, limits=limits)
    assert caught.value.code == "RESULT_TOO_LARGE"
    assert list(desk.store.scratch.glob("*/*.parquet")) == []
    assert desk.ask("select 1").table.num_rows == 1


def test_export_ends_at_the_deadline(desk: Desk) -> None:
    desk.ask("select 1")
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        desk.ask("select range as n, sha256(range::varchar) from range(100000000)", limit=10_000, export=True,
                 limits=Limits(timeout_s=1, export_bytes=1 << 40))  # fmt: skip
    assert time.monotonic() - started < 1 + Limits().grace_s + LATE
    assert list(desk.store.scratch.glob("*/*.parquet")) == []


# --- dry run ------------------------------------------------------------------------------------------------------


def test_plan_says_what_would_be_read_and_runs_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Child, "run", None)
    question = Question("select error('it ran') from devnet_transactions where block_number between 12 and 27")
    planned = run.plan(question, desk.store.grant, pool=desk.pool)
    [read] = planned.datasets
    files = desk.store.grant.datasets[1].files
    assert (read.name, read.snapshot) == ("devnet_transactions", 6)
    assert (read.files_read, read.files_total, read.rows) == (2, 6, 60)
    assert read.bytes_read == sum(file.bytes for file in files[1:3])
    assert read.bytes_total == sum(file.bytes for file in files)
    assert [str(blocks) for blocks in read.blocks] == ["[12, 28)"]
    with pytest.raises(SqlRejected):
        run.plan(Question("select * from nosuch"), desk.store.grant, pool=desk.pool)

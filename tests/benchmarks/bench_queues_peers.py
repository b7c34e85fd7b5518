"""The other queues of the comparison, in their own environment: `bench_queues` starts this file there as a child.

Imports nothing of trace_ray. Prints one JSON document: jobs a second through the queue's own worker with a no-op job,
or what it does with a stale completion.
"""

# pyright: reportMissingImports=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownLambdaType=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportFunctionMemberAccess=false
# (the queues are no dependencies of the project, so its environment has no types of them)

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import asyncpg
import procrastinate
import psycopg
import uvloop
from pgqueuer.core.qm import QueueManager
from pgqueuer.db import AsyncpgDriver, Driver, PsycopgDriver
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode
from procrastinate.jobs import Status

INSERTED = 1000  # jobs per statement while the queue is filled, which is not timed
PROCRASTINATE_CONCURRENCY = 10
POLL_S = 0.05


async def measure(url: str, jobs: int, work: Awaitable[object], finished: str) -> float:
    """Jobs a second from here to the commit of the last completion, both by the database's clock.

    What a worker does to stop is not counted: some wait for seconds. `finished` selects how many jobs are done, and
    since when.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("ANALYZE")
        began = (await (await conn.execute("SELECT clock_timestamp()")).fetchall())[0][0]
        running = asyncio.ensure_future(work)
        while True:
            await asyncio.sleep(POLL_S)
            (count, last), *_ = await (await conn.execute(finished)).fetchall()
            if count == jobs:
                return jobs / (last - began).total_seconds()
            if running.done() and (error := running.exception()):
                raise error


# --- procrastinate ------------------------------------------------------------------------------------------------


async def procrastinate_rate(url: str, jobs: int) -> float:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

    @app.task(name="noop")
    async def noop(n: int) -> None:
        pass

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, jobs, INSERTED):
            await noop.batch_defer_async(*({"n": n} for n in range(start, min(start + INSERTED, jobs))))
        work = app.run_worker_async(
            wait=False, concurrency=PROCRASTINATE_CONCURRENCY, install_signal_handlers=False, delete_jobs="never"
        )
        return await measure(
            url, jobs, work, "SELECT count(*), max(at) FROM procrastinate_events WHERE type = 'succeeded'"
        )


async def procrastinate_stale(url: str) -> dict[str, str]:
    """Worker A goes silent, its job is rescued the documented way and fetched by B; then A finishes, and B twice."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

    @app.task(name="noop")
    async def noop() -> None:
        pass

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await noop.defer_async()
        manager = app.job_manager
        first = await manager.register_worker()
        by_a = await manager.fetch_job(None, first)
        await asyncio.sleep(0.2)
        (stalled,) = await manager.get_stalled_jobs(seconds_since_heartbeat=0.1)
        await manager.retry_job(stalled)
        by_b = await manager.fetch_job(None, await manager.register_worker())
        assert by_a is not None
        assert by_b is not None
        assert by_a.id == by_b.id

        async def finish(job: procrastinate.jobs.Job) -> None:
            await manager.finish_job(job, Status.SUCCEEDED, delete_job=False)

        return {
            "A, stale": await verdict(lambda: finish(by_a)),
            "B, the owner": await verdict(lambda: finish(by_b)),
            "B again": await verdict(lambda: finish(by_b)),
        }


# --- pgqueuer -----------------------------------------------------------------------------------------------------


async def pgqueuer_driver(url: str, library: str, stack: AsyncExitStack) -> Driver:
    if library == "asyncpg":
        connection = await asyncpg.connect(url)
        stack.push_async_callback(connection.close)
        return AsyncpgDriver(connection)
    return PsycopgDriver(await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True)))


async def pgqueuer_rate(url: str, jobs: int, library: str, workers: int, batch: int) -> float:
    """Jobs a second of some workers with a connection each, which take out so many jobs at once."""
    async with AsyncExitStack() as stack:
        queries = Queries(await pgqueuer_driver(url, library, stack))
        await queries.install()
        for start in range(0, jobs, INSERTED):
            count = min(INSERTED, jobs - start)
            await queries.enqueue(["noop"] * count, [None] * count, [0] * count)
        managers = [QueueManager(Queries(await pgqueuer_driver(url, library, stack))) for _ in range(workers)]
        for manager in managers:

            @manager.entrypoint("noop")
            async def noop(job: object) -> None:
                pass

        pause = timedelta(seconds=1)
        work = asyncio.gather(
            *(one.run(dequeue_timeout=pause, batch_size=batch, mode=QueueExecutionMode.drain) for one in managers)
        )
        finished = "SELECT count(*), max(created) FROM pgqueuer_log WHERE status = 'successful'"
        per_second = await measure(url, jobs, work, finished)
        tell(per_second)
        os._exit(0)  # its psycopg driver needs seconds to stop


async def pgqueuer_stale(url: str) -> dict[str, str]:
    """Worker A goes silent, B takes its job out as stale; then A logs its success, and B logs its own twice."""
    async with AsyncExitStack() as stack:
        queries = Queries(await pgqueuer_driver(url, "asyncpg", stack))
        await queries.install()
        await queries.enqueue("noop", None)

        async def take() -> object:
            limits = {"noop": EntrypointExecutionParameter(concurrency_limit=0)}
            silence = timedelta(seconds=0.1)
            (job,) = await queries.dequeue(10, limits, uuid4(), None, silence)
            return job

        async def logged() -> int:
            return sum(row.status == "successful" for row in await queries.queue_log())

        async def finish(job: object) -> None:
            before = await logged()
            await queries.log_jobs([(job, "successful", None)])
            if await logged() == before:
                raise LookupError

        by_a = await take()
        await asyncio.sleep(0.2)
        by_b = await take()
        return {
            "A, stale": await verdict(lambda: finish(by_a)),
            "B, the owner": await verdict(lambda: finish(by_b), dropped=LookupError),
            "B again": await verdict(lambda: finish(by_b), dropped=LookupError),
        }


async def verdict(finish: Callable[[], Awaitable[None]], dropped: type[Exception] | None = None) -> str:
    """Say what became of a completion: an error of the queue is a refusal; silence without effect is no answer."""
    try:
        await finish()
    except Exception as error:  # noqa: BLE001 - whatever the queue raises is its answer
        return "dropped without a word" if dropped and isinstance(error, dropped) else "refused"
    return "accepted"


def main() -> None:
    what, url, *rest = sys.argv[1:]
    match what:
        case "procrastinate":
            answer: object = asyncio.run(procrastinate_rate(url, int(rest[0])))
        case "pgqueuer":
            jobs, library, workers, batch = int(rest[0]), rest[1], int(rest[2]), int(rest[3])
            answer = uvloop.run(pgqueuer_rate(url, jobs, library, workers, batch))
        case "procrastinate-stale":
            answer = uvloop.run(procrastinate_stale(url))
        case "pgqueuer-stale":
            answer = uvloop.run(pgqueuer_stale(url))
        case _:
            raise SystemExit(f"{what} is not part of the comparison")
    tell(answer)


def tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""Questions by the whole path: judged and run in the workers of a pool, as the service asks them."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from query import run
from query.pool import Pool
from query.process import Reach
from query.question import Answer, Limits, Question
from tests.integration.query.conftest import Store

LIMITS = Limits(threads=1, bytes=40 * 1024**2)  # one thread: the sum of fractions depends on their order


@dataclass(frozen=True)
class Asker:
    """One who may read all of a store."""

    store: Store
    pool: Pool

    def ask(self, sql: str, *, limit: int = 1000, limits: Limits = LIMITS) -> Answer:
        return run.run(Question(sql, limit), self.store.grant, pool=self.pool, locate=self.store.locate, limits=limits)

    def ask_within(self, seconds: float, sql: str) -> Answer:
        return self.ask(sql, limits=replace(LIMITS, timeout_s=seconds))


@contextmanager
def asking(store: Store) -> Generator[Asker]:
    """Start a pool for the objects of a store. At most two threads may ask, so that none waits for a worker."""
    reach = Reach.of([path for paths in store.sources.values() for path in paths])
    with Pool(scratch=store.scratch, reach=reach, limits=LIMITS, size=4) as pool:
        yield Asker(store, pool)

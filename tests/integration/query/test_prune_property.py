"""Pruning never changes an answer, and it does prune: random statements over real files, and plain ones.

By hand: `python -m tests.integration.query.random_queries 5000 SEED`.
"""

import random
from collections.abc import Iterator

import pytest

from tests.integration.query.random_queries import Court
from tests.integration.query.random_relations import Store
from tests.integration.query.random_statements import Writer

STATEMENTS = 600
SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    court = Court(Store.write(tmp_path_factory.mktemp("relations")))
    yield court
    court.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_pruned_answer_equals_the_full_one(court: Court, seed: int) -> None:
    """The floors tell that the statements do run and are pruned; the answer from exact rows is the sharper test."""
    share = STATEMENTS // len(SEEDS)
    verdicts = [court.judge(Writer(random.Random(seed * 7919 + place)).statement()) for place in range(share)]
    assert [verdict.sql for verdict in verdicts if verdict.wrong] == []
    assert sum(verdict.ran for verdict in verdicts) > share * 0.4
    assert sum(bool(verdict.narrowed) for verdict in verdicts) > share * 0.15
    assert sum(verdict.dropped_files > 0 for verdict in verdicts) > share * 0.15


CERTAIN = {
    "join carries a range": (
        "select count(*), sum(l.v) from blocks b join logs l on l.block_number = b.block_number where "
        "b.block_number between 12 and 14"
    ),
    "left join keeps unmatched rows": (
        "select b.block_number, l.i from blocks b left join logs l on l.block_number = b.block_number and "
        "b.block_number = 12"
    ),
    "NULLs of an outer join stay": (
        "select count(*) from blocks b left join logs l on l.block_number = b.block_number and l.block_number "
        "= 12 where l.block_number is null"
    ),
    "anti join": (
        "select block_number from blocks b anti join (from logs where block_number < 30) l using (block_number)"
    ),
    "not in": (
        "select block_number from blocks where block_number not in (select block_number from logs where "
        "block_number between 10 and 19)"
    ),
    "filter on a CTE": (
        "with a as (select block_number as bn, count(*) as n from logs group by bn) from a where bn = 14"
    ),
    "CTE read twice": (
        "with a as (from blocks) select count(*) from a x, a y where x.block_number = 3 and y.block_number in (40, 41)"
    ),
    "union under a filter": (
        "select * from (from logs where v > 3 union all from logs where v <= 3) where block_number = 22"
    ),
    "rollup under a filter": (
        "select * from (select block_number, g, count(*) from logs group by rollup(block_number, g)) where "
        "block_number = 22"
    ),
    "window per block": (
        "select * from (select *, count(*) over (partition by block_number) as n from logs) where block_number = 23"
    ),
    "correlated subquery": (
        "select block_number, (select count(*) from logs l where l.block_number = b.block_number) from blocks "
        "b where block_number in (7, 8)"
    ),
    "lateral join": (
        "select b.block_number, s.n from blocks b, lateral (select count(*) as n from transactions t where "
        "t.block_number = b.block_number) s where b.block_number = 44"
    ),
    "IN of another relation": (
        "select sum(v) from logs where block_number in (select block_number from blocks where block_number < 9)"
    ),
    "overlapping files": "select count(*), sum(i) from logs where block_number = 25",
    "gap": "select count(*) from logs where block_number between 31 and 33",
    "beyond the end": "select count(*) from transactions where block_number > 65",
    "other name of a relation": (
        "select count(*) from dataset d join blocks b using (block_number) where block_number = 41"
    ),
}
UNTOUCHED = {
    "limit under a filter": "select * from (from logs order by all limit 20) where block_number > 10",
    "window over all": (
        "select * from (select *, rank() over (order by block_number) as n from blocks) where block_number = 41"
    ),
    "distinct on": (
        "select * from (select distinct on (g) * from blocks order by g, block_number) where block_number = 1"
    ),
    "full join": "select * from blocks b full join logs l on l.block_number = b.block_number and b.block_number = 4",
    "sample": (
        "select count(*) from (from blocks where block_number < 50) using sample reservoir(7 rows) repeatable (1)"
    ),
    "positional join": (
        "select * from (select block_number from blocks where block_number > 40) a positional join (select v "
        "from logs) l"
    ),
    "alias of an outer query": (
        "select count(*) from logs as blocks where exists (select 1 from transactions t where t.g = blocks.g "
        "and (blocks.block_number = 14 or t.v = 3))"
    ),
    "except": (
        "select * from (select block_number from blocks except select block_number from logs) where block_number = 14"
    ),
    "columns of unlike relations": (
        "select * from (select * from blocks union all select g, i, v, block_number from logs) where block_number = 3"
    ),
}


@pytest.mark.parametrize("sql", CERTAIN.values(), ids=CERTAIN.keys())
def test_certain_range_drops_files_and_keeps_the_answer(court: Court, sql: str) -> None:
    verdict = court.judge(sql)
    assert (verdict.ran, verdict.wrong) == (True, "")
    assert verdict.dropped_files > 0


@pytest.mark.parametrize("sql", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_doubtful_range_drops_nothing(court: Court, sql: str) -> None:
    verdict = court.judge(sql)
    assert (verdict.ran, verdict.wrong) == (True, "")
    assert verdict.narrowed == frozenset()

"""Which blocks a statement can need. Pruning may only cost time when it errs, never rows."""

import json
from itertools import pairwise
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from query import engine, gate, prune
from query.engine import Engine, EngineLimits
from query.verdict import EVERYTHING
from tests.query_corpus.readers import nodes
from trace_ray.contracts import BlockRange, GrantedFile

BLOCKS = 60
ALL = "everything"


def ranges(sql: str) -> list[str] | str:
    """What the statement can need of devnet_blocks, in words."""
    found = gate.validate_sql(sql, ("devnet_blocks", "devnet_logs")).block_ranges["devnet_blocks"]
    return ALL if found == EVERYTHING else [str(blocks) for blocks in found]


@pytest.mark.parametrize(
    ("predicate", "wanted"),
    [
        ("block_number = 5", ["[5, 6)"]),
        ("5 = block_number", ["[5, 6)"]),
        ("block_number < 5", ["[0, 5)"]),
        ("block_number <= 5", ["[0, 6)"]),
        ("5 >= block_number", ["[0, 6)"]),
        ("block_number > 5 and block_number <= 9", ["[6, 10)"]),
        ("block_number between 5 and 9", ["[5, 10)"]),
        ("block_number in (1, 2, 3, 9)", ["[1, 4)", "[9, 10)"]),
        ("block_number = 1 or block_number = 9", ["[1, 2)", "[9, 10)"]),
        ("block_number = 1 and block_number = 9", []),
        ("block_number < 0", []),
        ("block_number = -1", []),
        ("BLOCK_NUMBER = 5", ["[5, 6)"]),
        ("devnet_blocks.block_number = 5", ["[5, 6)"]),
        ("block_number::bigint = 5::int", ["[5, 6)"]),
        ("block_number = 5 and gas_used > 100", ["[5, 6)"]),
        ("block_number = 5 or gas_used > 100", ALL),
        ("gas_used > 100", ALL),
        ("not block_number = 5", ALL),
        ("block_number not in (1, 2)", ALL),
        ("block_number not between 1 and 2", ALL),
        ("block_number <> 5", ALL),
        ("block_number = 5.0", ALL),
        ("block_number = '5'", ALL),
        ("block_number::varchar = '5'", ALL),
        ("block_number::tinyint = 5", ALL),
        ("try_cast(block_number as bigint) = 5", ALL),
        ("block_number + 1 = 5", ALL),
        ("block_number = (select 5)", ALL),
        ("block_number is not distinct from 5", ALL),
        ("block_number in (1, (select 2))", ALL),
        ("block_number between 5 and (select 9)", [f"[5, {2**63 - 1})"]),
        ("gas_used.block_number = 5", ALL),
        ("block_number in (" + ", ".join(str(n * 2) for n in range(100)) + ")", ["[0, 199)"]),
    ],
)
def test_predicate_narrows_only_when_it_is_certain(predicate: str, wanted: list[str] | str) -> None:
    assert ranges(f"select * from devnet_blocks where {predicate}") == wanted


@pytest.mark.parametrize(
    ("predicate", "part"),
    [
        ("block_number = 5", "left"),
        ("block_number = 5", "right"),
        ("block_number between 5 and 9", "input"),
        ("block_number in (5)", "children"),
        ("block_number::bigint = 5", "child"),
        ("block_number = 5", "column_names"),
        ("block_number = 5", "value"),
    ],
)
def test_predicate_that_lacks_a_part_narrows_nothing(predicate: str, part: str) -> None:
    """The gate's walk knows each field of a node, but demands none."""
    answer = json.loads(engine.parse_tree(f"select * from devnet_blocks where {predicate}"))
    statement = answer["statements"][0]["node"]
    relations = {"devnet_blocks": "devnet_blocks"}
    assert prune.block_ranges(statement, relations)["devnet_blocks"] != EVERYTHING
    for node in [node for node in nodes(statement["where_clause"]) if part in node]:
        del node[part]
    assert prune.block_ranges(statement, relations)["devnet_blocks"] == EVERYTHING


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("select * from devnet_blocks", ALL),
        ("from devnet_blocks select gas_used where block_number < 5", ["[0, 5)"]),
        ("select * from devnet_blocks b where b.block_number = 5", ["[5, 6)"]),
        ("select * from (select * from devnet_blocks where block_number = 5)", ["[5, 6)"]),
        ("with a as (select * from devnet_blocks where block_number = 5) select * from a", ["[5, 6)"]),
        ("select * from (select * from devnet_blocks) where block_number = 5", ALL),
        ("with a as (from devnet_blocks) select * from a where block_number = 5", ALL),
        ("select * from devnet_blocks as t(gas_used, block_number) where block_number = 5", ALL),
        ("select * from devnet_blocks tablesample 50% where block_number = 5", ALL),
        ("select * from devnet_blocks where block_number = 5 using sample 5", ALL),
        ("select * from devnet_blocks a join devnet_logs b using (block_number) where block_number = 5", ALL),
        ("select * from devnet_blocks where block_number = 5 union all from devnet_blocks where block_number = 9",
         ["[5, 6)", "[9, 10)"]),
        ("select (select count(*) from devnet_blocks) from devnet_blocks where block_number = 5", ALL),
        ("select 1 from devnet_blocks where block_number = 5 having 1 > (select count(*) from devnet_blocks)", ALL),
        ("pivot devnet_blocks on block_number in (5) using count(*)", ALL),
        ("with devnet_blocks as (from devnet_logs) select * from devnet_blocks where block_number = 5 "
         "union all select * from (with x as (select 1) select * from x), devnet_logs", ALL),
    ],
)  # fmt: skip
def test_only_the_sole_relation_of_a_select_is_narrowed(sql: str, wanted: list[str] | str) -> None:
    found = gate.validate_sql(sql, ("devnet_blocks", "devnet_logs"))
    if "devnet_blocks" not in found.relations:  # a CTE took the name: nothing is read of the relation
        return
    assert ranges(sql) == wanted


def file(first: int, last: int) -> GrantedFile:
    return GrantedFile(f"{first}_{last}", first, last, 1, 1)


def test_files_are_kept_when_any_of_their_blocks_is_needed() -> None:
    files = [file(0, 9), file(10, 19), file(20, 29)]
    selected = prune.select_files(files, (BlockRange(9, 10), BlockRange(25, 26)))
    assert [kept.key for kept in selected] == ["0_9", "20_29"]
    assert prune.select_files(files, (BlockRange(10, 20),)) == [files[1]]
    assert prune.select_files(files, EVERYTHING) == files


def test_one_file_stays_when_none_is_needed() -> None:
    files = [file(0, 9), file(10, 19)]
    assert prune.select_files(files, ()) == [files[0]]
    assert prune.select_files(files, (BlockRange(90, 99),)) == [files[0]]


# --- pruned equals full -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[GrantedFile]]:
    """Real Parquet files, three rows per block, split unevenly, one block missing."""
    root = tmp_path_factory.mktemp("files")
    bounds = [0, 7, 8, 20, 33, 50, BLOCKS]
    files: list[GrantedFile] = []
    for first, end in pairwise(bounds):
        blocks = [block for block in range(first, end) if block != 25 for _ in range(3)]
        table = pa.table(
            {"block_number": pa.array(blocks, pa.int64()), "v": pa.array([b * 7 % 11 for b in blocks], pa.int64())}
        )
        pq.write_table(table, root / f"{first}.parquet", row_group_size=4)
        files.append(GrantedFile(f"{first}.parquet", first, end - 1, 1, len(blocks)))
    return root, files


def compared(column: str, operator: str, number: int, mirrored: bool) -> str:
    return f"{number} {operator} {column}" if mirrored else f"{column} {operator} {number}"


def between(column: str, lower: int, upper: int, negation: str) -> str:
    return f"{column} {negation} between {lower} and {upper}"


def listed(column: str, items: list[int], negation: str) -> str:
    return f"{column} {negation} in ({', '.join(map(str, items))})"


def joined(left: str, conjunction: str, right: str) -> str:
    return f"({left} {conjunction} {right})"


def negated(inner: str) -> str:
    return f"(not {inner})"


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(joined, inner, st.sampled_from(["and", "or"]), inner) | st.builds(negated, inner)


numbers = st.integers(-3, BLOCKS + 3)
numbered = ["block_number", "t.block_number", "block_number::bigint", "BLOCK_NUMBER"]
columns = st.sampled_from([*numbered, *numbered, "v"])
operators = st.sampled_from(["=", "<", "<=", ">", ">=", "<>"])
negations = st.sampled_from(["", "not"])
predicates = st.recursive(
    st.builds(compared, columns, operators, numbers, st.booleans())
    | st.builds(between, columns, numbers, numbers, negations)
    | st.builds(listed, columns, st.lists(numbers, min_size=1, max_size=5), negations),
    nested,
    max_leaves=6,
)
shapes = st.sampled_from(
    [
        "select block_number, v from t where {p} order by all",
        "select count(*), sum(v), min(block_number) from t where {p}",
        "select v, count(*) from t where {p} group by v order by all",
        "select * from (select * from t where {p}) where {q} order by all",
        "with a as (select * from t where {p}) select count(*) from a where {q}",
        "with a as (select * from t where {p}), b as (select * from t where {q}) select count(*) from a, b",
        "select * from t where {p} union all select * from t where {q} order by all",
        "select count(*) from t where {p} and exists (select 1 from t as u where u.block_number = t.block_number + 1)",
        "select block_number, (select count(*) from t where {p}) from t where {q} order by all",
        "select a.block_number, b.v from t a join t b on a.block_number = b.block_number where a.{x} = 3 order by all",
        "select count(*) from t as t(v, block_number) where {p}",
        "select row_number() over (order by block_number, v) as n, v from t where {p} order by all",
        "select block_number from t where {p} except select block_number from t where {q} order by all",
    ]
)


@pytest.fixture(scope="module")
def table() -> duckdb.DuckDBPyConnection:
    """The same rows as `granted`, in memory."""
    connection = duckdb.connect()
    connection.execute(
        f"create table t as select b as block_number, b * 7 % 11 as v from range({BLOCKS}) blocks(b) where b <> 25"
    )
    return connection


@settings(max_examples=800, deadline=None)
@given(predicate=predicates)
def test_every_block_that_a_predicate_keeps_is_in_its_ranges(
    *, table: duckdb.DuckDBPyConnection, predicate: str
) -> None:
    sql = f"select block_number from t where {predicate}"
    ranges = gate.validate_sql(sql, ("t",)).block_ranges["t"]
    kept = [int(row[0]) for row in table.execute(sql).fetchall()]
    assert [block for block in kept if not any(block in blocks for blocks in ranges)] == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes, p=predicates, q=predicates, x=st.sampled_from(["block_number", "v"]))
def test_pruned_answer_equals_the_full_one(
    *, granted: tuple[Path, list[GrantedFile]], tmp_path: Path, shape: str, p: str, q: str, x: str
) -> None:
    root, files = granted
    sql = shape.replace("{p}", p).replace("{q}", q).replace("{x}", x)
    verdict = gate.validate_sql(sql, ("t",))
    kept = prune.select_files(files, verdict.block_ranges["t"])
    assert rows(sql, root, kept, tmp_path) == rows(sql, root, files, tmp_path)


def rows(sql: str, root: Path, files: list[GrantedFile], spill: Path) -> list[tuple[object, ...]] | str:
    bound = Engine({"t": [str(root / file.key) for file in files]}, limits=EngineLimits(1, 256, 64), spill=spill)
    try:
        return bound.connection.execute(sql).fetchall()
    except duckdb.Error as error:  # a statement that cannot be bound fails alike, pruned or not
        return json.dumps(engine.error_details(error))
    finally:
        bound.connection.close()


def test_random_predicates_do_prune(granted: tuple[Path, list[GrantedFile]]) -> None:
    """The property above would hold for a pruner that does nothing."""
    verdict = gate.validate_sql("select * from t where block_number in (3, 40)", ("t",))
    assert len(prune.select_files(granted[1], verdict.block_ranges["t"])) == 2

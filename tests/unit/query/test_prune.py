"""Which blocks a statement can need. Pruning may only cost time when it errs, never rows."""

import json

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from query import engine, gate, prune
from query.verdict import EVERYTHING, Json
from tests.query_corpus.readers import nodes
from trace_ray.contracts import BlockRange, GrantedFile, by_range

BLOCKS = 60
ALL = "everything"
RELATIONS = {"devnet_blocks": "devnet_blocks", "devnet_logs": "devnet_logs"}


def ranges(sql: str, *, of: str = "devnet_blocks") -> list[str] | str:
    """What the statement can need of a relation, in words."""
    answer = json.loads(engine.parse_tree(sql))
    assert not answer["error"], answer
    found = prune.block_ranges(answer["statements"][0]["node"], RELATIONS)[of]
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
        ("select * from devnet_blocks b where exists (from devnet_logs l where l.x = b.x) and block_number = 5",
         ["[5, 6)"]),
        ("select 1 as block_number from devnet_blocks where block_number = 5", ["[5, 6)"]),  # the column wins
        ("select gas_used as n from devnet_blocks where n = 5", ALL),
        ("select * from devnet_blocks as t(gas_used, block_number) where block_number = 5", ALL),
        ("select * from devnet_blocks where main.devnet_blocks.block_number = 5", ALL),
        ("select * from devnet_blocks where block_number = 5 union all from devnet_blocks where block_number = 9",
         ["[5, 6)", "[9, 10)"]),
        ("select (select count(*) from devnet_blocks) from devnet_blocks where block_number = 5", ALL),
        ("select 1 from devnet_blocks where block_number = 5 having 1 > (select count(*) from devnet_blocks)", ALL),
        ("pivot devnet_blocks on block_number in (5) using count(*)", ALL),
        ("pivot (from devnet_blocks where block_number = 5) on gas_used in (1) using count(*)", ["[5, 6)"]),
        ("with a as (from devnet_blocks) from (pivot a on gas_used in (1) using count(*)), a where a.block_number = 5",
         ALL),
        ("from (pivot nosuch on x in (1) using count(*)), devnet_blocks b where b.block_number = 5", ["[5, 6)"]),
        ("select 1 from unnest((select list(gas_used) from devnet_blocks where block_number = 5))", ["[5, 6)"]),
        ("select 1 from (values ((select max(gas_used) from devnet_blocks where block_number = 5))) v", ["[5, 6)"]),
    ],
)  # fmt: skip
def test_where_narrows_the_relation_of_its_select(sql: str, wanted: list[str] | str) -> None:
    assert ranges(sql) == wanted


@pytest.mark.parametrize(
    "sql",
    [
        "select * from devnet_blocks tablesample 50% where block_number = 5",
        "select * from devnet_blocks where block_number = 5 using sample 5",
        "select * from (select * from devnet_blocks where block_number = 5) using sample 5",
        "select * from (from devnet_blocks where block_number = 5) a positional join devnet_logs b",
        "with devnet_blocks as (from devnet_blocks where block_number = 5) select * from devnet_blocks",
        "select * from (with devnet_blocks as (select 1) select * from devnet_blocks), devnet_blocks d "
        "where d.block_number = 5",
    ],
)
def test_statement_that_counts_rows_or_takes_a_relations_name_reads_all_of_it(sql: str) -> None:
    assert ranges(sql) == ALL


@pytest.mark.parametrize(
    ("join", "condition", "wanted", "other"),
    [
        ("join", "on a.block_number = 5", ["[5, 6)"], ALL),
        ("join", "on a.block_number = b.block_number and b.block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        ("join", "on a.block_number = b.block_number where a.block_number < 5", ["[0, 5)"], ["[0, 5)"]),
        ("join", "on a.block_number > b.block_number where a.block_number < 5", ["[0, 5)"], ALL),
        ("join", "using (block_number) where block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        ("join", "using (x) where block_number = 5", ALL, ALL),  # ambiguous: the engine refuses it
        ("natural join", "where block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        (",", "where a.block_number = b.block_number and a.block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        (",", "where a.block_number = 5 or b.block_number = 6", ALL, ALL),
        (",", "where (a.block_number = 5 and b.block_number = 1) or a.block_number = 6", ["[5, 7)"], ALL),
        ("cross join", "where b.block_number = 5", ALL, ["[5, 6)"]),
        ("left join", "on a.block_number = 5", ALL, ALL),
        ("left join", "on a.block_number = b.block_number and a.block_number = 5", ALL, ["[5, 6)"]),
        ("left join", "on b.block_number = 5", ALL, ["[5, 6)"]),
        ("left join", "on true where a.block_number = 5", ["[5, 6)"], ALL),
        ("left join", "on true where b.block_number = 5", ALL, ["[5, 6)"]),
        ("left join", "on a.block_number = 4 where b.block_number = 5", ["[4, 5)"], ["[5, 6)"]),
        ("left join", "on true where b.block_number is null", ALL, ALL),
        ("left join", "using (block_number) where block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        ("natural left join", "where block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        ("right join", "on a.block_number = 5", ["[5, 6)"], ALL),
        ("right join", "on b.block_number = 5", ALL, ALL),
        ("right join", "on b.block_number = 4 where a.block_number = 5", ["[5, 6)"], ["[4, 5)"]),
        ("right join", "using (block_number) where block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        ("full join", "on a.block_number = 5 and b.block_number = 5", ALL, ALL),
        ("full join", "using (block_number) where block_number = 5", ALL, ALL),
        ("full join", "on b.block_number = 4 where a.block_number = 5", ["[5, 6)"], ["[4, 5)"]),
        ("full join", "on a.block_number = 4 where b.block_number = 5", ["[4, 5)"], ["[5, 6)"]),
        ("full join", "on a.block_number = 4 where a.block_number < 5 and b.block_number = 5",
         ["[4, 5)"], ["[5, 6)"]),
        ("semi join", "on a.block_number = b.block_number and b.block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        ("semi join", "on a.block_number = 5 where block_number < 9", ["[5, 6)"], ALL),
        ("semi join", "on true where b.block_number = 5", ALL, ALL),  # not seen: a `b` further out is meant
        ("anti join", "on a.block_number = b.block_number and b.block_number = 5", ALL, ["[5, 6)"]),
        ("anti join", "on a.block_number = b.block_number where a.block_number = 5", ["[5, 6)"], ["[5, 6)"]),
        ("asof join", "on a.block_number >= b.block_number where a.block_number = 5 and b.block_number < 5",
         ["[5, 6)"], ALL),
        ("asof left join", "on a.x >= b.x where a.block_number = 5", ["[5, 6)"], ALL),
        ("asof right join", "on a.x >= b.x where a.block_number = 5", ALL, ALL),
        ("asof join", "using (x, block_number) where block_number = 5", ALL, ALL),
    ],
)  # fmt: skip
def test_join_narrows_only_the_rows_that_it_can_drop(
    join: str, condition: str, wanted: list[str] | str, other: list[str] | str
) -> None:
    sql = f"select 1 from devnet_blocks a {join} devnet_logs b {condition}"
    assert (ranges(sql), ranges(sql, of="devnet_logs")) == (wanted, other)


def test_equal_columns_carry_a_range_over_several_joins() -> None:
    sql = ("select 1 from devnet_blocks a join devnet_logs b on a.block_number = b.block_number "
           "left join devnet_logs c on c.block_number = b.block_number where a.block_number = 5")  # fmt: skip
    assert ranges(sql) == ranges(sql, of="devnet_logs") == ["[5, 6)"]
    assert ranges(sql.replace("a, ", "a, a").replace("devnet_logs c", "devnet_logs a")) == ALL  # `a` twice


@pytest.mark.parametrize(
    ("inner", "column", "wanted"),
    [
        ("from devnet_blocks", "block_number", ["[5, 6)"]),
        ("select block_number as bn, x from devnet_blocks", "bn", ["[5, 6)"]),
        ("select block_number as bn, x from devnet_blocks", "block_number", ALL),
        ("select x as block_number from devnet_blocks", "block_number", ALL),
        ("select block_number + 1 as block_number from devnet_blocks", "block_number", ALL),
        ("select *, x + 1 as y, 7, count(*) over (partition by block_number) from devnet_blocks", "block_number",
         ["[5, 6)"]),
        ("select *, x as block_number from devnet_blocks", "block_number", ALL),
        ("select *, block_number as bn from devnet_blocks", "bn", ALL),  # the relation may have a bn itself
        ("select b.* from devnet_blocks b", "block_number", ["[5, 6)"]),
        ("select nosuch.* from devnet_blocks b", "block_number", ALL),
        ("select * exclude (x) from devnet_blocks", "block_number", ["[5, 6)"]),
        ("select * exclude (block_number), 5 as block_number from devnet_blocks", "block_number", ALL),
        ("select * replace (5 as block_number) from devnet_blocks", "block_number", ALL),
        ("select * replace (5 as x) from devnet_blocks", "block_number", ["[5, 6)"]),
        ("select * rename (x as block_number, block_number as x) from devnet_blocks", "block_number", ALL),
        ("select columns('.*') from devnet_blocks", "block_number", ALL),
        ("select block_number, max(columns('x')) from devnet_blocks group by all", "block_number", ALL),
        ("select block_number, unnest(x) from devnet_blocks", "block_number", ALL),
        ("select #1 from devnet_blocks", "block_number", ALL),
        ("select distinct block_number from devnet_blocks order by 1", "block_number", ["[5, 6)"]),
        ("select distinct on (x) * from devnet_blocks", "block_number", ALL),
        ("from devnet_blocks limit 9", "block_number", ALL),
        ("from devnet_blocks offset 9", "block_number", ALL),
        ("from devnet_blocks limit 9%", "block_number", ALL),
        ("select block_number, row_number() over (order by x) as n from devnet_blocks", "block_number", ALL),
        ("select * from devnet_blocks qualify row_number() over (order by x) = 1", "block_number", ALL),
        ("select * from devnet_blocks qualify row_number() over (partition by x, block_number) = 1", "block_number",
         ["[5, 6)"]),
        ("select * from devnet_blocks order by rank() over (order by x)", "block_number", ALL),
        ("select block_number, count(*) from devnet_blocks group by block_number", "block_number", ["[5, 6)"]),
        ("select block_number, x, count(*) from devnet_blocks group by rollup(block_number, x)", "block_number",
         ["[5, 6)"]),
        ("select max(block_number) as block_number from devnet_blocks", "block_number", ALL),
        ("select block_number from devnet_blocks where block_number < 9", "block_number", ["[5, 6)"]),
        ("from devnet_blocks union all from devnet_blocks", "block_number", ["[5, 6)"]),
        ("select x, block_number from devnet_blocks union select 1, block_number as n from devnet_logs",
         "block_number", ["[5, 6)"]),
        ("from devnet_blocks union all from devnet_logs", "block_number", ALL),  # places of columns are unknown
        ("select block_number from devnet_blocks union select 1.5", "block_number", ALL),
        ("select block_number from devnet_blocks union select block_number, x from devnet_blocks", "block_number", ALL),
        ("from devnet_blocks union all by name from devnet_blocks", "block_number", ALL),
        ("from devnet_blocks except from devnet_blocks", "block_number", ALL),
        ("(from devnet_blocks union all from devnet_blocks) limit 9", "block_number", ALL),
        ("(from devnet_blocks union all (from devnet_blocks limit 9)) order by x", "block_number", ALL),
        ("from devnet_blocks b join devnet_logs l using (block_number)", "block_number", ["[5, 6)"]),
        ("from devnet_blocks b left join devnet_logs l on b.x = l.x", "block_number", ALL),
        ("from devnet_blocks b, unnest([1]) u", "block_number", ALL),
        ("from devnet_blocks b, (select 1 as x) u", "block_number", ["[5, 6)"]),
        ("from devnet_blocks b, (select x as block_number from devnet_logs) u", "block_number", ALL),
        ("from (from devnet_blocks) union all from (from devnet_blocks)", "block_number", ["[5, 6)"]),
        ("from (from devnet_blocks) a union all from unnest([1])", "block_number", ALL),
        ("with recursive r as (select block_number from devnet_blocks union all select r.block_number + 1 from r "
         "join devnet_blocks b on true where r.block_number < 9) from r", "block_number", ALL),
    ],
)  # fmt: skip
def test_filter_from_outside_reaches_in_only_where_it_keeps_the_answer(
    inner: str, column: str, wanted: list[str] | str
) -> None:
    assert ranges(f"select 1 from ({inner}) s where s.{column} = 5") == wanted
    assert ranges(f"with s as ({inner}) select 1 from s where {column} = 5") == wanted


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("with a as (from devnet_blocks) from a as x, a as y where x.block_number = 5 and y.block_number = 7",
         ["[5, 6)", "[7, 8)"]),
        ("with a as (from devnet_blocks) from a as x, a as y where x.block_number = 5", ALL),
        ("with a as (from devnet_blocks) select 1", ALL),
        ("with a as (from devnet_blocks), b as (from a where block_number < 9) from b where block_number > 5",
         ["[6, 9)"]),
        ("with a(block_number, y) as (select x, block_number from devnet_blocks) from a where block_number = 5", ALL),
        ("select 1 from (select x, block_number from devnet_blocks) as s(block_number, x) where s.block_number = 5",
         ALL),
        ("with a as (from devnet_blocks) select (with a as (select 5 as block_number) select max(block_number) from a) "
         "from a where block_number = 5", ["[5, 6)"]),
        ("with recursive r as (select block_number from devnet_logs union all select b.block_number from devnet_blocks "
         "b, r where b.block_number = 5) from r", ["[5, 6)"]),
    ],
)  # fmt: skip
def test_cte_is_read_as_far_as_all_references_together_need(sql: str, wanted: list[str] | str) -> None:
    assert ranges(sql) == wanted


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("from devnet_logs l where l.block_number = 5 and exists (from devnet_blocks b where b.block_number = "
         "l.block_number)", ["[5, 6)"]),
        ("from devnet_logs l where l.block_number = 5 and not exists (from devnet_blocks b where b.block_number = "
         "l.block_number)", ["[5, 6)"]),
        ("from devnet_logs l where l.block_number = 5 and exists (from devnet_blocks l where l.block_number = 6)",
         ["[6, 7)"]),
        ("from devnet_logs l, (from devnet_blocks b where b.block_number = l.block_number) s "
         "where l.block_number = 5", ["[5, 6)"]),
        ("from devnet_logs l where l.block_number = 5 and exists (from (from devnet_blocks b where b.block_number = "
         "l.block_number) s, devnet_logs l)", ["[5, 6)"]),
        ("from devnet_logs l where l.block_number = 5 and exists (from devnet_blocks b, unnest([1]) u "
         "where b.block_number = l.block_number)", ALL),  # a column `l` of u would be meant
        ("from devnet_logs as devnet_blocks where exists (from devnet_blocks b where devnet_blocks.block_number = 5)",
         ALL),  # the outer alias: this once narrowed b
        ("from devnet_logs l join devnet_logs m on exists (from devnet_blocks b where b.block_number = m.block_number) "
         "and m.block_number = 5", ["[5, 6)"]),
        ("from devnet_blocks where block_number in (select block_number from devnet_logs where block_number < 5)",
         ["[0, 5)"]),
        ("from devnet_blocks where block_number in (select x from devnet_logs where block_number < 5)", ALL),
        ("from devnet_blocks where block_number in (from devnet_logs where block_number < 5)", ALL),
        ("from devnet_blocks where x in (select block_number from devnet_logs where block_number < 5)", ALL),
        ("from devnet_blocks where block_number not in (select block_number from devnet_logs where block_number < 5)",
         ALL),
        ("from devnet_blocks where block_number < any (select block_number from devnet_logs where block_number < 5)",
         ALL),
        ("from devnet_blocks b join (select block_number from devnet_logs where block_number < 5) s using "
         "(block_number)", ["[0, 5)"]),
        ("from devnet_blocks b join (select l.block_number from devnet_logs l left join devnet_logs m on l.x = m.x "
         "where m.block_number < 5) s using (block_number)", ALL),
    ],
)  # fmt: skip
def test_range_goes_into_and_comes_out_of_nested_queries(sql: str, wanted: list[str] | str) -> None:
    assert ranges(sql) == wanted


def test_column_may_be_null_where_nothing_says_that_it_is_not() -> None:
    """The subquery's own range is no reason to drop what the outer join filled with NULL."""
    sql = ("select 1 from (select b.block_number from devnet_logs l left join devnet_blocks b "
           "on b.block_number = 5 and l.block_number = 6) s left join devnet_logs m on m.block_number = 9")  # fmt: skip
    assert ranges(sql) == ["[5, 6)"]
    assert ranges(sql, of="devnet_logs") == ALL


def test_tree_without_a_query_narrows_nothing() -> None:
    assert prune.block_ranges(None, {}) == {}
    strange: Json = {"type": "NEW_NODE", "from_table": {"type": "BASE_TABLE", "table_name": "devnet_blocks"}}
    assert prune.block_ranges(strange, {"devnet_blocks": "devnet_blocks"}) == {"devnet_blocks": EVERYTHING}


def file(first: int, last: int) -> GrantedFile:
    return GrantedFile(f"{first}_{last}", first, last, 1, 1)


def test_files_are_kept_when_any_of_their_blocks_is_needed() -> None:
    files = [file(0, 9), file(10, 19), file(20, 29)]
    selected = prune.select_files(files, (BlockRange(9, 10), BlockRange(25, 26)))
    assert [kept.key for kept in selected] == ["0_9", "20_29"]
    assert prune.select_files(files, (BlockRange(10, 20),)) == [files[1]]
    assert prune.select_files(files, EVERYTHING) == files


def test_files_out_of_order_or_overlapping_are_kept_alike() -> None:
    files = [file(0, 50), file(10, 19), file(30, 39), file(20, 29)]
    selected = prune.select_files(files, (BlockRange(15, 16), BlockRange(25, 26), BlockRange(60, 70)))
    assert [kept.key for kept in selected] == ["0_50", "10_19", "20_29"]
    assert prune.select_files(files, (BlockRange(90, 99),)) == [files[0]]


@given(
    spans=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=9),
    wanted=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=4),
    ordered=st.booleans(),
)
def test_every_file_that_meets_a_range_is_selected_once_and_in_order(
    spans: list[tuple[int, int]], wanted: list[tuple[int, int]], *, ordered: bool
) -> None:
    files = [file(first, first + more) for first, more in (sorted(spans) if ordered else spans)]
    ranges = by_range([BlockRange(start, start + more) for start, more in wanted])
    met = [
        one for one in files if any(one.min_block < blocks.end and blocks.start <= one.max_block for blocks in ranges)
    ]
    assert prune.select_files(files, ranges) == (met or files[:1])


def test_one_file_stays_when_none_is_needed() -> None:
    files = [file(0, 9), file(10, 19)]
    assert prune.select_files(files, ()) == [files[0]]
    assert prune.select_files(files, (BlockRange(90, 99),)) == [files[0]]


# --- predicates against the engine ---------------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def table() -> duckdb.DuckDBPyConnection:
    """The same rows as `granted`, in memory."""
    connection = duckdb.connect()
    connection.execute(
        f"create table t as select b as block_number, b * 7 % 11 as v from range({BLOCKS}) blocks(b) where b <> 25"
    )
    return connection


@settings(max_examples=800)
@given(predicate=predicates)
def test_every_block_that_a_predicate_keeps_is_in_its_ranges(
    *, table: duckdb.DuckDBPyConnection, predicate: str
) -> None:
    sql = f"select block_number from t where {predicate}"
    ranges = gate.validate_sql(sql, ("t",)).block_ranges["t"]
    kept = [int(row[0]) for row in table.execute(sql).fetchall()]
    assert [block for block in kept if not any(block in blocks for blocks in ranges)] == []

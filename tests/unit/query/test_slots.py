"""No place in a statement escapes the walk over the engine's tree: each is probed, and each token is replaced."""

import json
import re
from collections.abc import Iterator

import pytest

from query import engine, tree
from query.refusals import Reason, SqlRejected
from query.verdict import Json
from tests.query_corpus.corpus import RELATIONS, benign
from tests.query_corpus.readers import FUNCTIONS, covering, first_reader_refuses, nodes, reason

Tree = dict[str, Json]
Path = tuple[tuple[str, str], ...]

EXPRESSION_SLOTS = """
select {e}
select {e} as a, 1
select distinct {e}
select distinct on ({e}) 1 from devnet_blocks
select 1 from devnet_blocks where {e} = '1'
select 1 from devnet_blocks where block_number = 1 and {e} = '1'
select 1 from devnet_blocks where not ({e} = '1' or true)
select 1 from devnet_blocks group by {e}
select 1 from devnet_blocks group by grouping sets (({e}), ())
select 1 from devnet_blocks group by cube ({e})
select count(*) from devnet_blocks having max({e}) = '1'
select 1 from devnet_blocks qualify row_number() over () = length({e})
select 1 from devnet_blocks order by {e}
select 1 from devnet_blocks order by 1, {e} desc nulls last
select 1 from devnet_blocks limit {n}
select 1 from devnet_blocks limit {n} offset {n}
select 1 from devnet_blocks limit 1 offset {n}
select lower({e})
select lower(upper({e}))
select count({e})
select count(distinct {e})
select count(*) filter ({e} = '1') from devnet_blocks
select string_agg('a', ',' order by {e}) from devnet_blocks
select string_agg({e}, ',') from devnet_blocks
select percentile_cont(0.5) within group (order by length({e}))
select row_number() over (partition by {e}) from devnet_blocks
select row_number() over (order by {e}) from devnet_blocks
select sum(1) over (order by block_number rows between {n} preceding and current row) from devnet_blocks
select sum(1) over (order by block_number rows between current row and {n} following) from devnet_blocks
select sum(1) filter ({e} = '1') over () from devnet_blocks
select lag({e}) over () from devnet_blocks
select lag(block_number, {n}) over () from devnet_blocks
select lag(block_number::varchar, 1, {e}) over () from devnet_blocks
select first_value({e} ignore nulls) over () from devnet_blocks
select first_value(block_number order by {e}) over () from devnet_blocks
select sum(1) over w from devnet_blocks window w as (order by {e})
select case when {e} = '1' then 1 end
select case when true then {e} end
select case when true then '1' else {e} end
select case {e} when '1' then 1 end
select {e}::varchar
select try_cast({e} as int)
select {e} collate nocase
select {e} between '1' and '2'
select '1' between {e} and '2'
select '1' between '0' and {e}
select {e} in ('1', '2')
select '1' in ({e}, '2')
select {e} in (select '1')
select '1' = any (select {e})
select {e} > all (select '1')
select '1' is distinct from {e}
select {e} is null
select coalesce(null, {e})
select nullif({e}, '1')
select try({e})
select [{e}]
select [{e} for x in [1]]
select [x for x in [{e}]]
select [x for x in ['1'] if x = {e}]
select {'a': {e}}
select {'a': 1}[{e}]
select map {'a': {e}}
select map {{e}: 1}
select row({e}, 1)
select ['a'][{n}]
select ['a'][{n}:2]
select ['a'][1:{n}]
select list_transform([1], lambda x: {e})
select list_transform([1], x -> {e})
select list_filter([{e}], lambda x: true)
select '{}'::json -> {e}
select '{}'::json ->> {e}
select {e} like 'a'
select 'a' like {e}
select 'a' similar to {e}
select 'a' glob {e}
select -length({e})
select length({e}) + 1
select {e} || 'a'
select extract(year from {e}::date)
select position({e} in 'a')
select substring('abc' from {n} for 1)
select trim(both {e} from 'a')
select timestamp '2024-01-01' at time zone {e}
select interval ({n}) day
select * replace ({e} as author) from devnet_blocks
select * replace (lower({e}) as author) from devnet_blocks
select columns(c -> c = {e}) from devnet_blocks
select max(columns(* replace ({e} as author))) from devnet_blocks
select array(select {e})
select (select {e})
select exists (select {e})
select 1 where exists (select 1 where {e} = '1')
select * from (select {e})
select * from (values ({e}))
select * from (values (1), (length({e})))
values ({e})
select * from range({n})
select * from generate_series(1, {n})
select * from unnest([{e}])
select unnest([{e}])
select * from json_each({e})
select * from devnet_blocks a join devnet_logs b on {e} = '1'
select * from devnet_blocks a left join devnet_logs b on a.block_number = b.block_number and {e} = '1'
select * from devnet_blocks a asof join devnet_logs b on a.block_number >= b.block_number and {e} = '1'
select * from devnet_blocks, lateral (select {e}) l
with a as (select {e}) select * from a
with recursive r as (select {e} as n union all select n from r where false) select * from r
with recursive r as (select '1' as n union all select {e} from r where false) select * from r
with recursive r(n) using key (n) as (select 1 as n union all select length({e}) from r where false) select * from r
select 1 union all select length({e})
select {e} union all select '1'
(select 1) union (select 2) order by {e}
(select 1) union (select 2) limit {n}
pivot devnet_blocks on chain_id in (1) using max({e})
select * from devnet_blocks pivot (max({e}) for chain_id in (1))
select count(*) from devnet_blocks where block_number in (select length({e}))
from devnet_blocks select {e}
select 1 from devnet_blocks limit ({n})%
select 1 from devnet_blocks limit 10% offset {n}
select {e} -> 'a'
select list_transform([1], ({e}) -> 1)
pivot devnet_blocks on ({e} || chain_id) in ('1') using count(*)
unpivot devnet_blocks on columns(c -> c = {e}) into name n value v
unpivot devnet_blocks on ({e}) as a into name n value v
""".strip().splitlines()

RELATION_SLOTS = """
select * from {r}
from {r}
table {r}
select * from {r} as a
select * from {r} as a(b)
select * from devnet_logs, {r}
select * from {r}, devnet_logs
select * from devnet_logs a join {r} b on true
select * from {r} a left join devnet_logs b on true
select * from devnet_logs natural join {r}
select * from devnet_logs cross join {r}
select * from devnet_logs positional join {r}
select * from devnet_logs semi join {r} using (block_number)
select * from devnet_logs anti join {r} using (block_number)
select * from devnet_logs a asof join {r} b on a.block_number >= b.block_number
select * from (select * from {r})
select * from (from {r})
select (select count(*) from {r})
select exists (from {r})
select 1 in (select block_number from {r})
select array(select block_number from {r})
select 1 where 1 = any (select block_number from {r})
select 1 order by (select max(block_number) from {r})
select 1 limit (select 1 from {r})
select 1 union select block_number from {r}
select block_number from {r} except select 1
with a as (select * from {r}) select * from a
with a as (select 1) select * from a, {r}
with recursive r as (select block_number as n from {r} union all select n from r where false) select * from r
with recursive r as (select 1 as n union all select r.n from r, {r} where false) select * from r
select * from {r} tablesample 10%
select * from {r} using sample 5
pivot {r} on chain_id in (1) using count(*)
select * from {r} pivot (count(*) for chain_id in (1))
select * from (select block_number from {r}) unpivot (v for n in (block_number))
select * from devnet_logs, lateral (from {r}) l
select * from range((select count(*) from {r}))
select lower((select max(block_number)::varchar from {r}))
select row_number() over (order by (select max(block_number) from {r}))
select * replace ((select 1 from {r}) as author) from devnet_blocks
select columns(c -> c = (select 'a' from {r})) from devnet_blocks
select list_transform([1], lambda x: (select max(block_number) from {r}))
select count(*) filter ((select true from {r})) from devnet_blocks
values ((select max(block_number) from {r}))
(from {r})
from {r} select block_number
""".strip().splitlines()

HOSTILE_EXPRESSIONS = {
    "{e}": ("getvariable('x')", "(select content from read_text('/etc/passwd'))", "(from '/etc/passwd')", "?"),
    "{n}": ("length(getvariable('x'))", "(select count(*) from '/etc/passwd')"),
}
HOSTILE_RELATIONS = (
    "'/etc/passwd'", '"/etc/passwd"', "read_text('/etc/passwd')", "secret_blocks", "main.devnet_blocks",
    "memory.main.devnet_blocks", "duckdb_settings()", "query('select 1')",
)  # fmt: skip


@pytest.mark.parametrize("slot", EXPRESSION_SLOTS)
def test_no_expression_slot_hides_a_probe(slot: str) -> None:
    """The slot is real (it takes a harmless filling), and no hostile filling passes."""
    assert reason(slot.replace("{e}", "'1'").replace("{n}", "1")) == "accepted"
    place = "{e}" if "{e}" in slot else "{n}"
    for probe in HOSTILE_EXPRESSIONS[place]:
        assert first_reader_refuses(slot.replace(place, probe)), probe
        assert reason(slot.replace(place, probe)) != "accepted", probe


@pytest.mark.parametrize("slot", RELATION_SLOTS)
def test_no_relation_slot_hides_a_probe(slot: str) -> None:
    assert reason(slot.replace("{r}", "devnet_blocks")) == "accepted"
    for probe in HOSTILE_RELATIONS:
        assert first_reader_refuses(slot.replace("{r}", probe)), probe
        assert reason(slot.replace("{r}", probe)) != "accepted", probe


# --- the probes cover every slot that the walk knows --------------------------------------------------------------


CALL: Tree = {"class": "FUNCTION", "type": "FUNCTION", "function_name": "getenv"}
READ: Tree = {"type": "TABLE_FUNCTION", "function": {"class": "FUNCTION", "function_name": "read_text"}}
FILE: Tree = {"type": "BASE_TABLE", "table_name": "/etc/passwd"}
QUERY: Tree = {"type": "SELECT_NODE", "select_list": [CALL], "from_table": {"type": "EMPTY"}}
FILLINGS: tuple[Tree, ...] = (CALL, READ, FILE, QUERY, {"node": QUERY})
NAMED = {*tree.REFS, *tree.MODIFIERS, *tree.NODES, "RECURSIVE_CTE_NODE"}
WITHOUT_TEXT = {  # slots that no text reaches; they are filled in the tree alone
    *((kind, key) for kind in ("FUNCTION", "WINDOW") for key in ("function_name", "schema")),
    ("BASE_TABLE", "table_name"), ("RECURSIVE_CTE_NODE", "cte_name"),  # names
    ("RECURSIVE_CTE_NODE", "key_targets"), (".cte_map.map.value", "key_targets"),  # the grammar has columns only
}  # fmt: skip
ENTERED = {Reason.FUNCTION, Reason.TABLE_FUNCTION, Reason.RELATION}


class Recorder(tree.Walk):
    """A walk that remembers which fields each node may have."""

    def __init__(self, sql: str) -> None:
        super().__init__(sql.encode(), {name: name for name in RELATIONS}, FUNCTIONS)
        self.shapes: dict[int, tree.Shape] = {}

    def shape(self, value: Json, shape: tree.Shape, scope: tree.Scope) -> None:
        self.shapes[id(value)] = shape
        super().shape(value, shape, scope)


def kinds(node: object, kind: str = "", path: tuple[tuple[str, str], ...] = ()) -> Iterator[tuple[str, Tree, Path]]:
    """Every node with its kind and the slots (kind, key) above it. A node without a class is named by its keys."""
    if isinstance(node, list):
        for item in node:
            yield from kinds(item, kind, path)
    elif isinstance(node, dict):
        tag = node.get("class", node.get("type"))
        named = isinstance(tag, str) and ("class" in node or tag in NAMED)
        mine = str(tag) if named else kind
        yield mine, node, path
        for key, content in node.items():
            yield from kinds(content, f".{key}" if named else f"{mine}.{key}", (*path, (mine, key)))


def statement_of(sql: str) -> Json:
    return json.loads(engine.parse_tree(sql))["statements"][0]["node"]


def entered_slots() -> set[tuple[str, str]]:
    """The slots into which the walk goes, found by filling every field that it knows; none may be let through."""
    entered: set[tuple[str, str]] = set()
    tried: set[tuple[str, str]] = set()
    for sql in covering([*benign(), *filled_harmlessly()]):
        statement = statement_of(sql)
        recorder = Recorder(sql)
        tree.query_node(recorder, statement, frozenset())
        for kind, node, _ in kinds(statement):
            for key in sorted(
                {*recorder.shapes.get(id(node), node), *node} - {place[1] for place in tried if place[0] == kind}
            ):
                tried.add((kind, key))
                if any(fill(sql, statement, node, key, filling) in ENTERED for filling in wrapped()):
                    entered.add((kind, key))
    return entered


def wrapped() -> Iterator[Json]:
    for filling in FILLINGS:
        yield filling
        yield [filling]
        yield [[filling]]


def fill(sql: str, statement: Json, node: Tree, key: str, filling: Json) -> Reason:
    """Put hostile text into a field; return why the walk refuses."""
    before = dict(node)
    node[key] = filling
    try:
        tree.query_node(Recorder(sql), statement, frozenset())
    except SqlRejected as refusal:
        return refusal.reason
    finally:
        node.clear()
        node.update(before)
    raise AssertionError(f"a hostile {key} passes in: {sql}")


def filled_harmlessly() -> list[str]:
    return [slot.replace("{e}", "'1'").replace("{n}", "1") for slot in EXPRESSION_SLOTS] + [
        slot.replace("{r}", "devnet_blocks") for slot in RELATION_SLOTS
    ]


def probed_slots() -> set[tuple[str, str]]:
    """The slots below which the probes above put their hostile text."""
    probed: set[tuple[str, str]] = set()
    probes = [slot.replace("{e}", "getenv('x')").replace("{n}", "length(getenv('x'))") for slot in EXPRESSION_SLOTS]
    probes += [
        slot.replace("{e}", "(from '/etc/passwd')").replace("{n}", "(from '/etc/passwd')") for slot in EXPRESSION_SLOTS
    ]
    probes += [slot.replace("{r}", relation) for slot in RELATION_SLOTS for relation in HOSTILE_RELATIONS]
    for sql in probes:
        answer = json.loads(engine.parse_tree(sql))
        for _, node, path in kinds(answer["statements"][0]["node"] if not answer["error"] else []):
            if node.get("function_name") in {"getenv", "read_text"} or node.get("table_name") == "/etc/passwd":
                probed.update(path)
    return probed


def test_every_slot_that_the_walk_enters_has_a_probe() -> None:
    """A shape that gets a new field for an expression or a relation needs a probe above."""
    entered = entered_slots()
    assert len(entered) > 60
    assert entered - probed_slots() == WITHOUT_TEXT


def test_every_shape_of_the_walk_is_met() -> None:
    """Else its slots were not tried."""
    met = {kind for sql in [*benign(), *filled_harmlessly()] for kind, _, _ in kinds(statement_of(sql))}
    assert {*tree.EXPRESSIONS, *tree.REFS, *tree.MODIFIERS, *tree.NODES} - met == set()


# --- hostile text in place of any token ---------------------------------------------------------------------------


def test_a_probe_spliced_into_any_benign_statement_is_refused() -> None:
    """Every literal, column and relation of the benign corpus is replaced by hostile text, one at a time."""
    tried = 0
    for sql in benign():
        for spliced in splices(sql):
            if json.loads(engine.parse_tree(spliced))["error"] is False:
                assert first_reader_refuses(spliced), spliced
                tried += 1
    assert tried > 1_000


def splices(sql: str) -> Iterator[str]:
    """Replace the token at each place that the engine's tree names."""
    text = sql.encode()
    for node in nodes(json.loads(engine.parse_tree(sql))):
        at = node.get("query_location")
        if not isinstance(at, int) or at >= len(text):
            continue
        token = re.match(rb"[eE]?'(?:[^']|'')*'|\"[^\"]+\"|[\w.]+", text[at:])
        if token is None:
            continue
        before, after = text[:at].decode(), text[at + token.end() :].decode()
        if node.get("class") in {"CONSTANT", "COLUMN_REF"}:
            yield before + "(select content from read_text('/etc/passwd'))" + after
            yield before + "getvariable('x')" + after
        elif node.get("type") == "BASE_TABLE":
            yield before + "'/etc/passwd'" + after
            yield before + "read_text('/etc/passwd')" + after

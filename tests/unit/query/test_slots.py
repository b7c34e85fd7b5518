"""No place in a statement escapes the walk over the engine's tree: each is probed, and each token is replaced."""

import json
import re
from collections.abc import Iterator

import pytest

from query import engine
from tests.query_corpus.corpus import benign
from tests.query_corpus.readers import first_reader_refuses, nodes, reason

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
        token = re.match(rb"'(?:[^']|'')*'|\"[^\"]+\"|[\w.]+", text[at:])
        if token is None:
            continue
        before, after = text[:at].decode(), text[at + token.end() :].decode()
        if node.get("class") in {"CONSTANT", "COLUMN_REF"}:
            yield before + "(select content from read_text('/etc/passwd'))" + after
            yield before + "getvariable('x')" + after
        elif node.get("type") == "BASE_TABLE":
            yield before + "'/etc/passwd'" + after
            yield before + "read_text('/etc/passwd')" + after

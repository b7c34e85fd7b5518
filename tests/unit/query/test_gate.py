"""The gate's verdicts: corpora, scopes, text checks, and that no place in a statement escapes the walk."""

import json

import pytest

from query import dialect, engine, gate
from query.refusals import Reason, SqlRejected
from tests.query_corpus.corpus import RELATIONS, Hostile, benign, hostile
from tests.query_corpus.readers import FUNCTIONS, covering, first_reader_refuses, nodes, reason, second_reader_refuses

HOSTILE = hostile()
BENIGN = benign()
COVERING = covering(BENIGN)
LONG = 2_000  # characters; sqlglot alone takes seconds for the longest, which the walk refuses before it is asked


def test_the_corpora_are_as_large_as_promised() -> None:
    assert len(HOSTILE) == len({statement.sql for statement in HOSTILE}) > 900
    assert len({statement.category for statement in HOSTILE}) >= 25
    assert len(BENIGN) > 200


@pytest.mark.parametrize("statement", HOSTILE, ids=lambda statement: f"{statement.category}-{statement.sql[:40]}")
def test_hostile_statement_gets_its_verdict(statement: Hostile) -> None:
    assert reason(statement.sql) == statement.verdict


@pytest.mark.parametrize("sql", BENIGN, ids=lambda sql: str(sql)[:60])
def test_benign_statement_is_accepted(sql: str) -> None:
    gate.validate_sql(sql, RELATIONS)


# --- what a verdict says ------------------------------------------------------------------------------------------


def test_verdict_names_relations_functions_and_blocks() -> None:
    verdict = gate.validate_sql(
        "select max(gas_used) from DEVNET_BLOCKS where block_number in (3, 4, 9) and exists (from devnet_logs)",
        RELATIONS,
    )
    assert verdict.relations == {"devnet_blocks", "devnet_logs"}
    assert "max" in verdict.functions
    assert [str(blocks) for blocks in verdict.block_ranges["devnet_blocks"]] == ["[3, 5)", "[9, 10)"]
    assert len(verdict.block_ranges["devnet_logs"]) == 1


def test_position_counts_characters_from_one() -> None:
    with pytest.raises(SqlRejected) as caught:
        gate.validate_sql("select 'äöü', getenv('HOME')", RELATIONS)
    assert caught.value.position == 15
    assert caught.value.name == "getenv"


def test_unknown_and_ungranted_relation_read_the_same() -> None:
    """The message must not tell which of two names exists."""
    messages: list[str] = []
    for name in ("tenant_b_secrets", "tenant_q_secrets"):
        with pytest.raises(SqlRejected) as caught:
            gate.validate_sql(f"select * from {name}", ("devnet_blocks",))
        messages.append(str(caught.value).replace(name, "NAME"))
    assert messages[0] == messages[1]
    assert "devnet_blocks" in messages[0]


def test_message_repeats_no_path() -> None:
    with pytest.raises(SqlRejected) as caught:
        gate.validate_sql("select * from '/etc/passwd'", RELATIONS)
    assert "/etc" not in str(caught.value)


def test_without_a_grant_each_plain_name_counts_and_the_verdict_names_them() -> None:
    verdict = gate.validate_sql("with a as (from b) select * from a, Foo where exists (from pg_tables)")
    assert verdict.relations == {"b", "Foo", "pg_tables"}
    assert set(verdict.block_ranges) == verdict.relations
    for refused in (
        "from '/etc/passwd'",
        "from main.b",
        "from read_text('a')",
        "with a as (select 1), a.b as (from c)",
    ):
        with pytest.raises(SqlRejected):
            gate.validate_sql(refused)


# --- the text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("", "parse"),
        ("   -- nothing", "parse"),
        ("selec 1", "parse"),
        ("select 1\x00; drop view devnet_blocks", "parse"),
        ("select '\x07'", "parse"),
        ("select '\x85'", "parse"),
        ("select '\ud800'", "parse"),
        ("select '" + "a" * 70_000 + "'", "too_long"),
        ("select " + "(" * 300 + "1" + ")" * 300, "accepted"),  # brackets leave no node
        ("select " + "-" * 1 + "abs(" * 250 + "1" + ")" * 250, "too_complex"),
        ("select " + "+".join(["1"] * 400), "too_complex"),
        ("select [" + ",".join(["1"] * 21_000) + "]", "too_complex"),
        ("select 'tab\tand\nnewline'", "accepted"),
        ("select '" + "=" * 999 + "' -- " + "-" * 900, "accepted"),
        ("select '" + "=" * 1_000 + "'", "too_complex"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_text_is_checked_before_its_meaning(sql: str, wanted: str) -> None:
    assert reason(sql) == wanted


# --- scopes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("with a as (select 1), b as (select * from a) select * from b", "accepted"),
        ("with a as (select * from b), b as (select 1) select * from a", "relation"),
        ("with a as (select * from a) select * from a", "relation"),
        ("with recursive a as (select 1 as n union all select n + 1 from a where n < 3) select * from a", "accepted"),
        ("with recursive a as (select n from a union all select 1 as n) select * from a", "relation"),
        ("select * from (with a as (select 1) select * from a) x", "accepted"),
        ("select * from (with a as (select 1) select * from a) x join a on true", "relation"),
        ("with a as (select 1) select (select * from a), exists (from a) order by (select * from a)", "accepted"),
        ("with a as (select 1) (select * from a) union (select * from a)", "accepted"),
        ("(with a as (select 1) select * from a) union (select * from a)", "relation"),
        ("with A as (select 1) select * from a", "accepted"),
        ('with "/etc/passwd" as (select 1) select 1', "relation"),
        ("with devnet_blocks as (select 1 as x) select x from devnet_blocks", "accepted"),
    ],
)
def test_scope_of_a_cte_is_exact(sql: str, wanted: str) -> None:
    assert reason(sql) == wanted


# --- each wall of the gate alone ----------------------------------------------------------------------------------


def refused_as(sql: str, parsed: str) -> bool:
    """Whether the gate refuses a statement when the engine parses it to this."""
    try:
        gate.validate_sql(sql, RELATIONS, parse_tree=lambda _: parsed)
    except SqlRejected:
        return True
    return False


def test_an_unknown_key_anywhere_in_a_tree_refuses() -> None:
    """A field that a later engine may add is not skipped: it refuses, whatever node it is in."""
    tried: set[tuple[str, ...]] = set()
    for sql in COVERING:
        pristine = engine.parse_tree(sql)
        for index, node in enumerate(nodes(json.loads(pristine))):
            shape = (str(node.get("class")), str(node.get("type")), *sorted(node))
            if shape in tried:
                continue
            tried.add(shape)
            changed = json.loads(pristine)
            list(nodes(changed))[index]["unheard_of"] = {"class": "FUNCTION", "function_name": "getenv"}
            assert refused_as(sql, json.dumps(changed))
    assert len(tried) > 120


def test_an_unknown_class_anywhere_in_a_tree_refuses() -> None:
    for sql in COVERING:
        pristine = engine.parse_tree(sql)
        for index, node in enumerate(nodes(json.loads(pristine))):
            if "class" not in node:
                continue
            changed = json.loads(pristine)
            list(nodes(changed))[index]["class"] = "UNHEARD_OF"
            assert refused_as(sql, json.dumps(changed))


def test_a_value_of_another_kind_anywhere_in_a_tree_refuses() -> None:
    """Whatever a later engine may write where we know a text, a number, a list or a node."""
    tried = 0
    for sql in COVERING:
        answer = json.loads(engine.parse_tree(sql))
        places = [(node, key) for node in nodes(answer) for key in node]
        for node, key in places:
            known = node[key]
            node[key] = {} if isinstance(known, list) else []
            assert refused_as(sql, json.dumps(answer)), (sql, key)
            node[key] = known
            tried += 1
    assert tried > 5_000


def test_a_recursive_query_cannot_give_itself_the_name_of_a_file() -> None:
    """The list of CTEs and the recursive node both hold the name; an engine that lets them differ opens nothing."""
    sql = "with recursive a as (select 1 as n union all select n + 1 from a where n < 3) select 1"
    answer = json.loads(engine.parse_tree(sql))
    assert not refused_as(sql, json.dumps(answer))
    for node in nodes(answer):
        for key in ("cte_name", "table_name"):
            if key in node:
                node[key] = "/etc/passwd"
    assert refused_as(sql, json.dumps(answer))


def test_a_reader_that_runs_out_of_stack_refuses() -> None:
    def bottomless(_: str) -> str:
        raise RecursionError

    with pytest.raises(SqlRejected) as caught:
        gate.validate_sql("select 1", RELATIONS, parse_tree=bottomless)
    assert caught.value.reason is Reason.TOO_COMPLEX


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("select " + "(" * 30_000 + "1" + ")" * 30_000, Reason.TOO_COMPLEX),
        ("select * from ?", Reason.RELATION),
    ],
    ids=["too deep", "neither a name nor a function"],
)
def test_the_second_reader_names_its_reason(sql: str, wanted: Reason) -> None:
    with pytest.raises(SqlRejected) as caught:
        dialect.check(sql, set(RELATIONS), FUNCTIONS)
    assert caught.value.reason is wanted


@pytest.mark.parametrize(
    "answer", ["", "{", "[]", "1", "{}", '{"error": false}', '{"error": false, "statements": []}',
               '{"error": false, "statements": [1]}', '{"error": false, "statements": [{"node": 1}]}',
               '{"error": false, "statements": [{"node": {"type": "SELECT_NODE"}}], "more": 1}',
               '{"error": 0, "statements": [{"node": {}}]}', "[" * 100_000]
)  # fmt: skip
def test_a_strange_answer_of_the_engine_refuses(answer: str) -> None:
    assert refused_as("select 1", answer)


def test_the_second_reader_alone_refuses_most_hostile_statements() -> None:
    """It shares no code with the first; what it accepts is legal for both or refused by the function list alone."""
    wanted = [one for one in HOSTILE if one.verdict != "accepted" and len(one.sql) < LONG]
    refused = [statement for statement in wanted if second_reader_refuses(statement.sql)]
    assert len(refused) / len(wanted) > 0.95
    missed = {statement.category for statement in wanted} - {statement.category for statement in refused}
    assert missed <= {"crash and harm"}


def test_the_gate_refuses_what_only_the_second_reader_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """sqlglot cannot read this form; the engine can."""
    sql = "select 3 > all ([1, 2])"
    assert reason(sql) != "accepted"

    def content(sql: str, relations: object, functions: object) -> None:
        """A second reader that refuses nothing."""

    monkeypatch.setattr(dialect, "check", content)
    assert reason(sql) == "accepted"


def test_a_hidden_read_in_replace_is_refused_by_both_readers() -> None:
    """The hole of the first walker (design note, section 2): it skipped the key `value`."""
    sql = "select * replace ((select content from read_text('/etc/passwd')) as author) from devnet_blocks"
    assert second_reader_refuses(sql)
    assert first_reader_refuses(sql)


def test_sql_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    for statement in HOSTILE:
        reason(statement.sql)
    assert caplog.records == []

"""Every hostile statement against the walls behind the gate, and against the whole path of a question.

Nothing outside the grant is read, no object changes, nothing is written outside the spill directory, nobody is reached;
and the next benign question is answered. The gate alone: tests/unit/query/test_gate.py.
"""

import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from query import confine
from query.refusals import QueryFailed, QueryMemory, QueryTimeout, SqlRejected, WorkerCrashed
from tests.integration.query.asking import Asker, asking
from tests.integration.query.conftest import Store
from tests.integration.query.prey import REPOSITORY, Prey, fingerprint, unguarded
from tests.query_corpus.corpus import Hostile, benign, hostile
from trace_ray.errors import TraceError

pytestmark = pytest.mark.skipif(
    confine.landlock_abi() < 4, reason="this kernel has no Landlock with TCP rules (Linux 6.7)"
)

TOUCHING = {"file read", "file read by function", "other tenants", "scope tricks", "server-side request", "attach",
            "extensions", "file write", "file write by function", "write-through", "secret swap", "secrets", "settings",
            "comment and quoting tricks", "definition and change", "dynamic SQL"}  # fmt: skip
BOMBS = {"CPU bomb", "memory bomb", "output bomb", "parser bomb", "crash through the gate's denials"}


@contextmanager
def nothing_touched(store: Store, prey: Prey) -> Generator[None]:
    """No byte of an object or outside changes, and nobody calls."""
    before = fingerprint(store.root, prey.outside)
    yield
    assert fingerprint(store.root, prey.outside) == before
    assert prey.connections == []


def attacks(store: Store, prey: Prey) -> list[Hostile]:
    return hostile(**prey.places(store.sources["devnet_blocks"][0]))


def outcomes(
    store: Store, prey: Prey, statements: Sequence[str], walls: Sequence[str], *, seconds: float = 3.0
) -> list[object]:
    """What the statements come to without the gate; two halves run beside each other."""
    halves = [statements[: len(statements) // 2], statements[len(statements) // 2 :]]

    def half(index: int) -> list[object]:
        spill = store.scratch / f"unguarded-{index}"
        return unguarded(
            halves[index], walls, sources=store.sources, spill=spill, marker=prey.marker, seconds=seconds
        )  # fmt: skip

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(half, (0, 1))
    return first + second


def test_no_statement_gets_through_the_lock_and_landlock(store: Store, prey: Prey) -> None:
    statements = [statement.sql for statement in attacks(store, prey) if statement.category not in BOMBS]
    with nothing_touched(store, prey):
        found = outcomes(store, prey, statements, ["lock", "landlock"])
    assert len(found) == len(statements) > 700
    for sql, outcome in zip(statements, found, strict=True):
        assert not prey.shown_in(outcome), sql


def test_no_bomb_gets_through_the_lock_and_landlock(store: Store, prey: Prey) -> None:
    """They end alone: killed, out of memory, refused, or with an answer."""
    statements = [statement.sql for statement in attacks(store, prey) if statement.category in BOMBS]
    with nothing_touched(store, prey):
        found = outcomes(store, prey, statements, ["lock", "landlock"], seconds=0.25)
    assert len(found) == len(statements) > 120
    assert not prey.shown_in(found)
    killed = [outcome for outcome in found if isinstance(outcome, dict) and outcome.get("signal") == 9]
    assert len(killed) > 20


def test_no_statement_gets_through_landlock_alone(store: Store, prey: Prey) -> None:
    statements = [statement.sql for statement in attacks(store, prey) if statement.category in TOUCHING]
    with nothing_touched(store, prey):
        found = outcomes(store, prey, statements, ["landlock"])
    assert len(found) == len(statements) > 500
    for sql, outcome in zip(statements, found, strict=True):
        assert not prey.shown_in(outcome), sql


def test_the_lock_alone_stops_foreign_reads(store: Store, prey: Prey) -> None:
    statements = [
        statement.sql
        for statement in attacks(store, prey)
        if str(prey.secret) in statement.sql or str(prey.foreign) in statement.sql
    ]
    found = outcomes(store, prey, statements, ["lock"])
    assert len(found) == len(statements) > 150
    assert not prey.shown_in(found)


def test_the_attacks_would_work_without_walls(store: Store, prey: Prey) -> None:
    """Else the tests above prove nothing."""
    before = fingerprint(prey.outside)
    wanted = {"file read", "file read by function", "file write", "server-side request"}
    statements = [statement.sql for statement in attacks(store, prey) if statement.category in wanted]
    statements = [sql for sql in statements if str(store.root) not in sql and "/proc/" not in sql]  # others need it
    statements = [sql for sql in statements if "://" not in sql or f"127.0.0.1:{prey.port}/" in sql]  # nobody else
    found = outcomes(store, prey, statements, [])
    assert json.dumps(found).count(prey.marker) >= 50
    assert fingerprint(prey.outside) != before
    assert prey.connections


def test_benign_corpus_runs_behind_all_walls(store: Store, prey: Prey) -> None:
    """The walls cost no statement that an analyst writes."""
    statements = benign()
    found = outcomes(store, prey, statements, ["lock", "landlock"])
    failed = [(sql, outcome) for sql, outcome in zip(statements, found, strict=True) if isinstance(outcome, dict)]
    assert failed == []


def test_write_through_to_a_granted_object_is_stopped(store: Store, prey: Prey) -> None:
    """`allowed_paths` means read and write; Landlock makes it read."""
    target = store.sources["devnet_blocks"][0]
    statements = [statement.sql for statement in attacks(store, prey) if statement.category == "write-through"]
    with nothing_touched(store, prey):
        found = outcomes(store, prey, statements, ["lock", "landlock"])
    writes = [outcome for sql, outcome in zip(statements, found, strict=True) if sql.startswith("copy")]
    assert len(writes) >= 4
    assert all(isinstance(outcome, dict) for outcome in writes)
    assert Path(target).read_bytes()[:4] == b"PAR1"


def test_judging_imports_nothing_late() -> None:
    """A confined process cannot read modules: what a reader loads late would refuse an honest statement."""
    script = """
import sys
from query import gate
from tests.query_corpus import corpus, readers
gate.validate_sql("select 1", ())
late = []
sys.addaudithook(lambda event, facts: late.append(facts[0]) if event == "import" else None)
for sql in [statement.sql for statement in corpus.hostile()] + corpus.benign():
    readers.reason(sql)
print(sorted(set(late)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "[]\n"


# --- the whole path of a question ---------------------------------------------------------------------------------


REFUSALS = {"engine": (QueryFailed,), "limits": (QueryTimeout, QueryMemory, QueryFailed, WorkerCrashed), "nothing": (),
            "crash": (WorkerCrashed, QueryTimeout, QueryMemory)}  # fmt: skip
ANSWERED = {"limits", "nothing"}  # may also end with rows
SHORT = {"limits", "crash"}  # need not be waited for


def end_of(asker: Asker, statement: Hostile) -> object:
    """What a question comes to: its error, or its number of rows."""
    try:
        return asker.ask_within(0.3 if statement.wall in SHORT else 20.0, statement.sql).table.num_rows
    except TraceError as error:
        return error


def ends_wrongly(asker: Asker, statement: Hostile) -> object:
    """How a statement ends, where the corpus says otherwise or the next benign question is not answered; else None."""
    end = end_of(asker, statement)
    benign_rows = asker.ask("select count(*) as n from devnet_blocks where block_number < 7").table.to_pylist()
    if benign_rows != [{"n": 7}]:
        return benign_rows
    if statement.verdict != "accepted":
        fine = isinstance(end, SqlRejected) and end.reason.value == statement.verdict
    elif isinstance(end, int):
        fine = statement.wall in ANSWERED
    else:
        fine = isinstance(end, REFUSALS[statement.wall])
    return None if fine else end


def test_every_hostile_question_ends_as_the_corpus_says(store: Store, prey: Prey) -> None:
    """Two at a time; after each, the next benign question is answered."""
    statements = attacks(store, prey)
    with nothing_touched(store, prey), asking(store) as asker, ThreadPoolExecutor(2) as threads:
        ends = list(threads.map(partial(ends_wrongly, asker), statements))
    wrong = [(repr(end), statement) for end, statement in zip(ends, statements, strict=True) if end is not None]
    assert wrong == []
    assert len(ends) > 900

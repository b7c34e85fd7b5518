"""Breaks the ledger on purpose, one rule at a time: the schedules, and on demand chaos, must notice each.

A rule stands at several places, its walls. A mutant loses all of them and must be caught; with `--walls` each wall also
falls alone, which shows where the others hold. The packages under test are copies in a directory of their own; a wall
whose text is no longer there is an error. `python -m tests.chaos.mutants [--chaos SECONDS] [--walls] [NAME ...]`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests import pg
from tests.conftest import REPOSITORY
from trace_ray.lite.postgres import LocalPostgres

UNTOUCHED: Final = ("actors", "query", "tests", "trace_ray")
LIMIT_S: Final = 120.0


class TextMoved(Exception):
    """A mutant no longer applies: the text that it replaces is not where it was."""


@dataclass(frozen=True)
class Edit:
    """One replacement in `state/<file>`, in SQL inside one statement. `times`: how often the text stands there."""

    file: str
    pattern: str
    replacement: str
    statement: str | None = None
    times: int = 1


@dataclass(frozen=True)
class Wall:
    """One place of a rule."""

    name: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Mutant:
    """A rule, and the schedules that are enough to show that it is missing."""

    name: str
    walls: tuple[Wall, ...]
    schedules: tuple[str, ...]


def _in_sql(pattern: str, statement: str, *, times: int = 1) -> Edit:
    return Edit("sql/tasks.sql", pattern, "", statement, times)


ATTEMPT: Final = r"t\.attempt = i\.attempt AND "
TOKEN: Final = r" AND t\.lease_token = i\.lease_token"
EVENT: Final = r",\s*o AS \(\s*INSERT INTO state\.outbox.*\)(\s*SELECT [^;]*;\s*)\Z"
ONE_EVENT: Final = r"(INSERT INTO state\.outbox.*?FROM e)(?:\s*ON CONFLICT \(idempotency_key\) DO NOTHING)?\)"
LATE_EVENT: Final = """

_completed = complete


def complete(conn, epoch, publications, **options):
    from state import outbox

    settlements = _completed(conn, epoch, publications, **options)
    conn.execute(b"COMMIT")
    conn.execute(b"BEGIN")
    for one, done in zip(publications, settlements, strict=True):
        if done.accepted:
            payload = {"dataset_version": str(one.dataset_version)}
            outbox.append(conn, outbox.Event("dataset.published", f"published/{one.dataset_version}", payload))
    return settlements
"""
EARLY_CURSOR: Final = r"""
\1conn.execute(
\1    b"UPDATE state.cursors x SET next_block = m.next_block FROM"
\1    b" (SELECT stream_id, max(range_end) AS next_block FROM unnest(%(streams)b::uuid[], %(ends)b::bigint[])"
\1    b"  AS i(stream_id, range_end) GROUP BY stream_id) m WHERE x.stream_id = m.stream_id",
\1    {"streams": parameters["streams"], "ends": parameters["ends"]},
\1)
\1conn.execute(b"COMMIT")
\1conn.execute(b"BEGIN")
\1\2"""
UNLESS_FOUND: Final = r"(FUNCTION state\.{}\(.*?)IF NOT FOUND THEN.*?END IF;"

MUTANTS: Final = (
    Mutant(
        "no attempt check",
        (
            Wall("complete", (_in_sql(ATTEMPT, "complete"),)),
            Wall("fail", (_in_sql(ATTEMPT, "fail"),)),
            Wall("heartbeat", (_in_sql(ATTEMPT, "heartbeat", times=2),)),
            Wall("adopt", (_in_sql(ATTEMPT, "adopt"),)),
            Wall(
                "judge",
                (
                    Edit("judge.py", r"if known\.attempt != key\.attempt:", "if False:"),
                    Edit("sql/tasks.sql", r"a\.attempt = i\.attempt", "a.attempt = t.attempt", "judge"),
                    Edit("sql/tasks.sql", r"a\.attempt = i\.attempt", "a.attempt = t.attempt", "known"),
                ),
            ),
        ),
        ("forged completions", "forged failures", "forged renewals"),
    ),
    Mutant(
        "no token check",
        (
            Wall("complete", (_in_sql(TOKEN, "complete"),)),
            Wall("fail", (_in_sql(TOKEN, "fail"),)),
            Wall("heartbeat", (_in_sql(TOKEN, "heartbeat", times=2),)),
            Wall("adopt", (_in_sql(TOKEN, "adopt"),)),
            Wall(
                "judge",
                (
                    Edit("judge.py", r"genuine = known\.attempt_token == key\.lease_token", "genuine = True"),
                    Edit("judge.py", r"if known\.lease_token != key\.lease_token:", "if False:"),
                ),
            ),
        ),
        ("forged completions", "forged failures", "forged renewals"),
    ),
    Mutant(
        "no epoch fence",
        (
            Wall("fence", (Edit("migrations/0001_ledgers.sql", UNLESS_FOUND.format("fence"), r"\1"),)),
            Wall("leads", (Edit("migrations/0001_ledgers.sql", UNLESS_FOUND.format("leads"), r"\1"),)),
        ),
        ("zombie dispatcher", "zombie without fence"),
    ),
    Mutant(
        "reap without state recheck",
        (
            Wall(
                "recheck",
                (_in_sql(r" AND t\.state = 'running' AND t\.lease_expires_at < clock_timestamp\(\)", "reap"),),
            ),
            Wall("lock", (_in_sql(r" FOR UPDATE SKIP LOCKED", "reap"),)),
        ),
        ("cancelled meanwhile",),
    ),
    Mutant(
        "outbox insert outside the transaction",
        (
            Wall(
                "transaction",
                (
                    Edit("sql/tasks.sql", EVENT, r"\1", "complete"),
                    Edit("tasks.py", r"\Z", LATE_EVENT),
                ),
            ),
        ),
        ("death at every statement",),
    ),
    Mutant(
        "versions may double",
        (
            Wall(
                "keys",
                (
                    Edit(
                        "migrations/0001_ledgers.sql",
                        r"dataset_version uuid PRIMARY KEY",
                        "dataset_version uuid NOT NULL",
                    ),
                    Edit(
                        "migrations/0001_ledgers.sql",
                        r",\s*UNIQUE \(dataset_uuid, config_hash, range_start, range_end, generation\)",
                        "",
                    ),
                    Edit("migrations/0001_ledgers.sql", r",\s*PRIMARY KEY \(dataset_version, position\)", ""),
                    Edit("sql/tasks.sql", ONE_EVENT, r"\1 ON CONFLICT (idempotency_key) DO NOTHING)", "complete"),
                ),
            ),
            Wall("judge", (Edit("judge.py", r"return Reason\.OVERLAP", "pass", times=2),)),
        ),
        ("covered twice",),
    ),
    Mutant(
        "cursor moved in another transaction",
        (
            Wall(
                "transaction",
                (
                    Edit("sql/jobs.sql", r",\s*c AS \(\s*UPDATE state\.cursors.*?\)\s*(?=SELECT)", "\n", "add_ranges"),
                    Edit("jobs.py", r"\n( +)(return conn\.execute\(SQL\[\"add_ranges\"\])", EARLY_CURSOR),
                ),
            ),
        ),
        ("death at every statement",),
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What became of one broken copy. `by` names the violations; empty when nobody noticed."""

    mutant: str
    walls: tuple[str, ...]
    way: str
    by: tuple[str, ...]
    seconds: float

    @property
    def killed(self) -> bool:
        return bool(self.by)


def edited(text: str, edit: Edit) -> str:
    """Return the text with a wall taken down.

    Raises:
        TextMoved: the wall does not stand there, or not as often as it should.
    """
    head, part, tail = "", text, ""
    if edit.statement is not None:
        found = re.search(rf"-- name: {edit.statement}\n.*?(?=-- name: |\Z)", text, re.DOTALL)
        if found is None:
            raise TextMoved(f"state/{edit.file} has no statement {edit.statement}")
        head, part, tail = text[: found.start()], found[0], text[found.end() :]
    changed, times = re.subn(edit.pattern, edit.replacement, part, flags=re.DOTALL)
    if times != edit.times:
        where = f"state/{edit.file}" + (f", statement {edit.statement}" if edit.statement else "")
        raise TextMoved(f"{where}: the text of a mutant stands {times} times, not {edit.times}: {edit.pattern}")
    return head + changed + tail


@contextmanager
def copy(walls: Sequence[Wall]) -> Generator[Path]:
    """A directory with the packages as they are, but without some walls of the ledger."""
    with tempfile.TemporaryDirectory(prefix="trace-ray-mutant-") as name:
        root = Path(name)
        shutil.copytree(REPOSITORY / "state", root / "state", ignore=shutil.ignore_patterns("__pycache__"))
        for package in UNTOUCHED:
            (root / package).symlink_to(REPOSITORY / package)
        for edit in (edit for wall in walls for edit in wall.edits):
            file = root / "state" / edit.file
            file.write_text(edited(file.read_text(), edit))
        yield root


def by_schedules(name: str, walls: Sequence[Wall], schedules: Sequence[str], server: LocalPostgres) -> Verdict:
    """Play schedules against a copy; no walls is the control."""
    began = time.monotonic()
    with copy(walls) as root:
        command = [sys.executable, "-m", "tests.chaos.schedules", server.url("postgres"), *schedules]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"the schedules could not be played on {name}: {done.stderr}")
    by = tuple(f"{one['schedule']}: {violation}" for one in json.loads(done.stdout) for violation in one["violations"])
    return Verdict(name, tuple(wall.name for wall in walls), "schedules", by, time.monotonic() - began)


def by_chaos(name: str, walls: Sequence[Wall], seconds: float, seed: int) -> Verdict:
    """Run chaos on a copy, with a server of its own."""
    began = time.monotonic()
    with copy(walls) as root:
        report = root / "report.json"
        command = [sys.executable, "-m", "tests.chaos.ledger_run", "--seconds", str(seconds), "--seed", str(seed)]
        done = subprocess.run(
            [*command, "--drain", "5", "--json", str(report)],
            cwd=root, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        if not report.exists():
            raise RuntimeError(f"chaos could not be run on {name}: {done.stderr}")
        by = tuple(text.partition(":")[0] for text in json.loads(report.read_text())["violations"])
    return Verdict(name, tuple(wall.name for wall in walls), "chaos", by, time.monotonic() - began)


@contextmanager
def server() -> Generator[LocalPostgres]:
    """A Postgres of this run."""
    directory = Path(tempfile.mkdtemp(prefix="trace-ray-mutants-"))
    directory.chmod(0o755)  # as root, Postgres runs as a user of its own
    started = pg.server(directory / "postgres", durable=False)
    try:
        yield started
    finally:
        started.stop()
        shutil.rmtree(directory, ignore_errors=True)


def run(names: Sequence[str] = (), *, walls: bool = False, chaos_s: float = 0.0, seed: int = 1) -> list[Verdict]:
    """Judge the control and every mutant, or those named."""
    verdicts: list[Verdict] = []
    with server() as postgres:
        verdicts.append(by_schedules("control", (), (), postgres))
        for mutant in MUTANTS:
            if names and mutant.name not in names:
                continue
            verdicts.append(by_schedules(mutant.name, mutant.walls, mutant.schedules, postgres))
            if walls and len(mutant.walls) > 1:
                verdicts += [by_schedules(mutant.name, [one], mutant.schedules, postgres) for one in mutant.walls]
    if chaos_s:
        verdicts.append(by_chaos("control", (), chaos_s, seed))
        verdicts += [by_chaos(one.name, one.walls, chaos_s, seed) for one in MUTANTS if not names or one.name in names]
    return verdicts


def problems(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what is wrong: a control that is red, a mutant that nobody noticed."""
    found = [f"the control is red by {one.way}: {', '.join(one.by)}" for one in verdicts if _control(one) and one.by]
    caught = {one.mutant for one in verdicts if one.killed and _whole(one)}
    missed = dict.fromkeys(one.mutant for one in verdicts if _whole(one) and one.mutant not in caught)
    return found + [f"nobody noticed the mutant: {name}" for name in missed]


def _control(verdict: Verdict) -> bool:
    return verdict.mutant == "control"


def _whole(verdict: Verdict) -> bool:
    """Whether every wall of the rule was down."""
    return any(one.name == verdict.mutant and len(one.walls) == len(verdict.walls) for one in MUTANTS)


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as Markdown."""
    lines = ["| mutant | without | tried by | killed by | s |", "|---|---|---|---|---|"]
    for one in verdicts:
        without = "all of it" if _whole(one) else ", ".join(one.walls) or "-"
        by = "; ".join(one.by) or ("green" if _control(one) else "survives" if _whole(one) else "the other walls hold")
        lines.append(f"| {one.mutant} | {without} | {one.way} | {by} | {one.seconds:.1f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants to try instead of all")
    parser.add_argument("--walls", action="store_true", help="take down each wall alone, too")
    parser.add_argument("--chaos", type=float, default=0.0, help="seconds of chaos on each mutant, too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything here")
    asked = parser.parse_args()
    verdicts = run(asked.names, walls=asked.walls, chaos_s=asked.chaos, seed=asked.seed)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in verdicts], indent=2))
    print(table(verdicts))
    wrong = problems(verdicts)
    for sentence in wrong:
        print(sentence)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

"""Reads the corpora: hostile statements with what must become of each, benign ones that must pass.

In `hostile/*.sql` a line `-- category: NAME [VERDICT]` opens statements, one per line. VERDICT is the reason for which
the gate refuses, or `accepted, then WALL` where the statement is legal for the gate and another wall contains it:

- `engine`: the engine refuses it, since what it asks for does not exist behind the views and the lock;
- `limits`: it ends at its deadline, at a cap of memory or of the answer, whichever comes first on a machine;
- `crash`: it ends its own process, and nothing else;
- `nothing`: it runs, and gets only what any SELECT may have.

Places: {secret} is a file outside the grant, {object} a granted Parquet object, {foreign} one that is not granted,
{outside} a directory outside the grant, {port} a TCP port that must see no connection.
"""

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

HERE = Path(__file__).parent
OPENS = re.compile(r"-- category: (.+) \[(\w+)(?:, then (\w+))?\]")
EXCEPTION = re.compile(r"-- (\w+): (.+)")
RELATIONS = ("devnet_blocks", "devnet_transactions", "devnet_logs")
PLACES = {"secret": "/srv/o/s.csv", "object": "/srv/a.parquet", "foreign": "/srv/o/f.parquet", "outside": "/srv/o",
          "port": 7777}  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """`verdict` is a reason of the gate or `accepted`; `wall` is what contains an accepted one, else empty."""

    category: str
    verdict: str
    wall: str
    sql: str


@dataclass(frozen=True)
class Exempt:
    """What DuckDB runs and the gate refuses for `reason` on purpose; `why` may end with what to write instead."""

    reason: str
    why: str
    sql: str


def hostile(**places: object) -> list[Hostile]:
    """The hostile statements with their places filled in; those not named become places that do not exist."""
    found: list[Hostile] = []
    for path in sorted((HERE / "hostile").glob("*.sql")):
        category, verdict, wall = "", "", ""
        for line in path.read_text().splitlines():
            opened = OPENS.fullmatch(line)
            if opened:
                category, verdict, wall = opened.group(1), opened.group(2), opened.group(3) or ""
            elif category:
                found.append(Hostile(category, verdict, wall, _filled(line, {**PLACES, **places})))
    return found + parser_bombs()


def parser_bombs() -> list[Hostile]:
    """Texts made to be hard to parse, near the largest size that a statement may have."""
    shapes = {
        "parse": (
            "select " + "(" * 30_000 + "1" + ")" * 30_000,
            "select " + "- " * 30_000 + "1",
            "select " + "not " * 15_000 + "true",
            "select " + "[" * 30_000 + "]" * 30_000,
            "select " + "{'a': " * 9_000 + "1" + "}" * 9_000,
            "select 1" + "::int" * 12_000,
            "select a" + "[1]" * 20_000,
            "select " + "abs(" * 12_000 + "1" + ")" * 12_000,
            "select * from " + "(select * from " * 4_000 + "devnet_blocks" + ")" * 4_000,
            "select * from devnet_blocks" + ", devnet_blocks" * 4_000,
            "with recursive " + "a as (with recursive " * 2_000 + "select 1",
            "$a$" * 20_001,
            "select '" + "''" * 32_000,
            ";" * 65_000,
            "select 1" + "+1" * 32_000,
            "select " + "'a' || " * 9_000 + "'b'",
            "select " + "a -> " * 12_000 + "1",
            "select " + "lambda x: " * 6_000 + "1",
        ),
        "too_complex": (
            "/*" * 32_000,
            "select " + "/**/" * 16_000 + "1",
            "*/" * 32_000,
            "select " + "-" * 60_000 + "1",
            "select " + "+" * 65_000,
            "select 1" + " union all select 1" * 3_400,
            "select 1 where " + "a=1 and " * 8_000 + "true",
            "select 1 where 1 in (" + "1," * 32_000 + "1)",
            "with " + ", ".join(f"a{n} as (select 1)" for n in range(3_000)) + " select 1",
            "select " + ", ".join(["*"] * 20_000),
        ),
        "too_long": ("select '" + "a" * 70_000 + "'", "select 1" + " " * 65_536, "/*" + " " * 65_536 + "*/ select 1"),
    }
    refused = [Hostile("parser bomb", verdict, "", sql) for verdict, texts in shapes.items() for sql in texts]
    return [*refused, Hostile("parser bomb", "accepted", "engine", "select a" + ".a" * 30_000)]


def _filled(line: str, places: dict[str, object]) -> str:
    for name, value in places.items():
        line = line.replace("{" + name + "}", str(value))
    return line


def analyst() -> list[str]:
    """Questions about a chain."""
    return _statements("analyst.sql")


def features() -> list[str]:
    """What DuckDB can do in one SELECT."""
    return _statements("features.sql")


def drawn() -> list[str]:
    """Statements whose answer differs each time."""
    return _statements("features.sql", after="-- each answer is a draw")


def benign() -> list[str]:
    """All statements written here that must pass."""
    return [*analyst(), *features(), *drawn(), "-- a comment before\n/* inside */ select /* and here */ 1 -- after"]


def exceptions() -> list[Exempt]:
    """What DuckDB runs and the gate refuses on purpose."""
    found: list[Exempt] = []
    opened = None
    for line in (HERE / "exceptions.sql").read_text().splitlines()[2:]:
        opens = EXCEPTION.fullmatch(line)
        if opens:
            opened = opens
        elif opened:
            found.append(Exempt(opened.group(1), opened.group(2), line))
    return found


def _statements(name: str, *, after: str = "") -> list[str]:
    """The lines of a file up to its next comment, from the first or from the comment that starts with `after`."""
    lines = (HERE / name).read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(after or "--")) + 1
    rest = lines[start:]
    return list(takewhile(lambda line: not line.startswith("-- each"), rest))

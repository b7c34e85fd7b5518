"""Reads the corpora: hostile statements with what the gate must say, benign ones that must pass."""

import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
OPENS = re.compile(r"-- category: (.+) \[(\w+)\]")
RELATIONS = ("devnet_blocks", "devnet_transactions", "devnet_logs")


@dataclass(frozen=True)
class Hostile:
    """`verdict` is a reason of the gate, `refused` for any reason, or `accepted`."""

    category: str
    verdict: str
    sql: str


def hostile(**places: object) -> list[Hostile]:
    """The hostile statements with their places ({secret}, {object}, ...) filled in."""
    category, verdict = "", ""
    found: list[Hostile] = []
    for line in (HERE / "hostile.sql").read_text().splitlines():
        opened = OPENS.match(line)
        if opened:
            category, verdict = opened.groups()
        elif category and line:
            found.append(Hostile(category, verdict, _filled(line, places)))
    return found


def _filled(line: str, places: dict[str, object]) -> str:
    for name, value in places.items():
        line = line.replace("{" + name + "}", str(value))
    return line


def benign() -> list[str]:
    """The benign statements; the comment line stands before, inside and after the statement that follows it."""
    lines = (HERE / "benign.sql").read_text().splitlines()[1:]
    return [line for line in lines if line and not line.startswith("-- a comment")] + [
        "-- a comment before\n/* inside */ select /* and here */ 1 -- after"
    ]

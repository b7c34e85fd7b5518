"""Hurts the ledger, hurts the whole stack, and breaks rules of the ledger on purpose: `make chaos SECONDS=60 SEED=1`.

`python -m tests.chaos --seconds 60 --seed 1 [--only ledger|stack|mutants] [--json FILE]`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos import ledger_run, mutants


@dataclass(frozen=True)
class Result:
    """What a part found: its table, everything for the docs, and what is wrong."""

    table: str
    facts: Any
    problems: list[str]


def ledger(seconds: float, seed: int) -> Result:
    report = ledger_run.run(seconds, seed)
    return Result(ledger_run.table(report), report.json(), report.problems)


def stack(seconds: float, seed: int) -> Result:
    from tests.chaos import stack_run  # Ray takes seconds to import, and only this part needs it

    report = stack_run.run(seconds, seed, loud=True)
    return Result(stack_run.table(report), asdict(report), report.problems)


def broken(_seconds: float, seed: int) -> Result:
    verdicts = mutants.run(walls=True, seed=seed)
    return Result(mutants.table(verdicts), [asdict(one) for one in verdicts], mutants.problems(verdicts))


PARTS: Final[dict[str, Callable[[float, int], Result]]] = {"ledger": ledger, "stack": stack, "mutants": broken}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of chaos, for each part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=tuple(PARTS))
    parser.add_argument("--json", type=Path, help="write everything here")
    asked = parser.parse_args()
    results: dict[str, Result] = {}
    for name in (asked.only,) if asked.only else PARTS:
        results[name] = PARTS[name](asked.seconds, asked.seed)
        print(f"\n## {name}\n\n{results[name].table}\n", flush=True)
        for problem in results[name].problems:
            print(problem, flush=True)
    if asked.json:
        facts = {name: {"facts": one.facts, "problems": one.problems} for name, one in results.items()}
        asked.json.write_text(json.dumps(facts, indent=2, default=str))
    return int(any(one.problems for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())

"""Which modules decide from values alone, and are therefore covered by unit tests alone (`make coverage`)."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [path for package in ("trace_ray", "actors", "query", "state") for path in (ROOT / package).rglob("*.py")]


def covered() -> set[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(settings["tool"]["coverage"]["run"]["include"])


def calls_itself_pure(source: Path) -> bool:
    opening = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return re.search(r"\bPure\b", opening) is not None


def test_every_module_that_calls_itself_pure_is_covered() -> None:
    pure = {str(source.relative_to(ROOT)) for source in SOURCES if calls_itself_pure(source)}
    assert len(pure) > 20  # fewer would mean that the word is not found
    assert pure - covered() == set()


def test_every_covered_module_exists() -> None:
    """A module that is renamed would drop out of the report unnoticed."""
    assert covered() - {str(source.relative_to(ROOT)) for source in SOURCES} == set()

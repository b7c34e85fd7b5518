"""The documentation says what is so: its links lead somewhere, its commands, columns and SQL exist.

Documents are read where they lie. Words in running text are not judged, only what stands in code.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pyarrow as pa
import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CLI = ROOT / "docs" / "reference" / "cli.md"
DATASETS = ROOT / "docs" / "reference" / "datasets.md"

FENCE = re.compile(r"^[ \t]*```(\w*)\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|[\s/(])(?:trace-ray|python -m trace_ray) ([a-z][a-z-]*)")
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)`(, null)? \| \S", re.MULTILINE)
TYPES = {"int64": pa.int64(), "int32": pa.int32(), "binary": pa.binary(), "string": pa.string(), "bool": pa.bool_()}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    return SPAN.sub("", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        shown = LINK.sub(lambda link: link[0][1:].partition("](")[0], heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        number = 0
        while (slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(slug if not number else f"{slug}-{number}")
    return found


def code(text: str) -> Iterator[str]:
    """Yield every line of code blocks and every inline code."""
    for block in FENCE.finditer(text):
        yield from block[2].splitlines()
    yield from SPAN.findall(FENCE.sub("", text))


def broken_links(text: str, document: Path) -> list[str]:
    """Return the relative links of a document with this text that lead nowhere, or out of the project."""
    broken: list[str] = []
    for link in LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = unquote(link).partition("#")
        target = (document.parent / place).resolve() if place else document
        is_there = target.exists() and target.is_relative_to(ROOT)
        if is_there and anchor:
            is_there = target.suffix == ".md" and anchor in anchors(
                text if target == document else target.read_text(encoding="utf-8")
            )
        if not is_there:
            broken.append(link)
    return broken


def sections(document: Path) -> dict[str, str]:
    """Return the text under each second-level heading, by the heading's first inline code."""
    parts = re.split(r"^## ", document.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    named = ((SPAN.search(part.partition("\n")[0]), part) for part in parts)
    return {found[1]: part for found, part in named if found}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_relative_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    assert broken_links(document.read_text(encoding="utf-8"), document) == []


def test_a_link_to_nothing_is_found() -> None:
    text = "# Here\n[a](#here) [b](#there) [c](no.md) [d](https://example.com) [e](docs/#x) [f](../..) `[g](no.md)`\n"
    assert broken_links(text, ROOT / "README.md") == ["#there", "no.md", "docs/#x", "../.."]


def test_anchors_are_those_of_github() -> None:
    text = "# Wall 1: the gate\n## `query`\n## A `b_c`, d-e\n## Twice\n## Twice\n```\n# no heading\n```\n"
    assert anchors(text) == {"wall-1-the-gate", "query", "a-b_c-d-e", "twice", "twice-1"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_command_that_is_named_is_a_command(document: Path) -> None:
    from trace_ray.cli import cli

    named = {found for line in code(document.read_text(encoding="utf-8")) for found in COMMAND.findall(line)}
    assert named <= set(cli.commands)


def test_the_commands_of_the_readme_are_seen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {found for line in code(text) for found in COMMAND.findall(line)}
    assert {"status", "query", "sync", "down"} <= named
    assert COMMAND.findall("$ .venv/bin/trace-ray nonsense") == ["nonsense"]


def test_every_command_and_option_is_in_the_reference() -> None:
    from trace_ray.cli import cli

    described = sections(CLI)
    assert set(described) == set(cli.commands)
    for command_name, command in cli.commands.items():
        parts = [command, *command.commands.values()] if isinstance(command, click.Group) else [command]
        parameters = [parameter for part in parts for parameter in part.params]
        options = {option for parameter in parameters for option in parameter.opts if option.startswith("-")}
        spans = {word for span in SPAN.findall(described[command_name]) for word in span.replace(",", " ").split()}
        assert options <= spans, command_name


def test_every_column_is_described_with_its_type_and_whether_it_can_be_null() -> None:
    from trace_ray.extract.schema import SCHEMAS

    described = sections(DATASETS)
    assert set(described) == set(SCHEMAS)
    for dataset, schema in SCHEMAS.items():
        written = [(column, TYPES[kind], bool(null)) for column, kind, null in ROW.findall(described[dataset])]
        assert written == [(field.name, field.type, field.nullable) for field in schema.columns], dataset


def test_sql_of_the_documentation_passes_the_gate() -> None:
    from query.gate import validate_sql

    blocks = [
        block[2]
        for path in DOCUMENTS
        for block in FENCE.finditer(path.read_text(encoding="utf-8"))
        if block[1] == "sql"
    ]
    assert len(blocks) > 10  # fewer would mean that none was found
    for sql in blocks:
        assert validate_sql(sql, ["devnet_blocks", "devnet_transactions", "devnet_logs"])

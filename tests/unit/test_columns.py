"""The meanings of columns are those of the reference, and every column of every dataset has one."""

import re
from pathlib import Path

import pytest

from trace_ray import columns
from trace_ray.extract.schema import SCHEMAS, sql_columns

REFERENCE = Path(__file__).parents[2] / "docs/reference/datasets.md"


def told(dataset: str) -> dict[str, str]:
    """Return the rows of a dataset's table in the reference: name of the column -> its meaning."""
    section = REFERENCE.read_text().split(f"\n## `{dataset}`\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", section, re.MULTILINE)
    return {name: meaning.replace("`", "") for name, meaning in rows}


@pytest.mark.parametrize("dataset", sorted(columns.MEANINGS))
def test_meanings_are_those_of_the_reference(dataset: str) -> None:
    assert columns.MEANINGS[dataset] == told(dataset)


@pytest.mark.parametrize("dataset", sorted(SCHEMAS))
def test_every_column_has_a_type_and_a_meaning(dataset: str) -> None:
    names = [name for name, _, _ in sql_columns(dataset)]

    assert names == list(columns.MEANINGS[dataset])


def test_examples_name_the_dataset() -> None:
    for dataset in SCHEMAS:
        assert all("eth_things" in text for text in columns.examples(dataset, "eth_things"))

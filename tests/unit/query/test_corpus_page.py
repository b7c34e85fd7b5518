"""docs/reference/query-corpus.md says what is in the corpora."""

from collections import Counter
from pathlib import Path

from tests.query_corpus.corpus import analyst, exceptions, features, hostile

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "query-corpus.md").read_text()


def test_page_counts_the_statements_of_each_category() -> None:
    all_of = Counter(statement.category for statement in hostile())
    refused = Counter(statement.category for statement in hostile() if statement.verdict != "accepted")
    for category, count in all_of.items():
        assert f"| {category} | {count} | {refused[category]} |" in PAGE
    assert f"{all_of.total()} statements in {len(all_of)} categories" in PAGE
    assert f": {refused.total()} are refused" in PAGE


def test_page_counts_the_benign_statements() -> None:
    assert f"| what DuckDB can do | {len(features())} |" in PAGE
    assert f"| questions about a chain | {len(analyst())} |" in PAGE


def test_page_lists_every_exception_with_its_reason() -> None:
    for exempt in exceptions():
        assert f"`{exempt.sql}`" in PAGE
        assert f"| {exempt.reason} | {exempt.why} |" in PAGE

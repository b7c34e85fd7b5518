"""Strategies for texts that look like SQL: spliced and mutated statements of the corpora, tokens in a row, noise."""

import re

from hypothesis import strategies as st

from tests.query_corpus.corpus import RELATIONS, benign, exceptions, hostile

TOKEN = re.compile(
    r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|\$\w*\$|\w+|\s+|::|->>|->|:=|<=|>=|<>|\|\||.", re.DOTALL
)
LONGEST = 2_000  # longer ones are parser bombs, which the corpus has
STATEMENTS = sorted(
    {
        sql
        for sql in (
            *benign(),
            *(statement.sql for statement in hostile()),
            *(exempt.sql for exempt in exceptions()),
        )
        if len(sql) <= LONGEST
    }
)
SPLIT = [TOKEN.findall(sql) for sql in STATEMENTS]
HOSTILE_FRAGMENTS = (
    "getvariable('x')", "getenv('HOME')", "(from '/etc/passwd')", "read_text('/etc/passwd')", "'/etc/passwd'",
    '"/etc/passwd"', "current_schema", "(select content from read_text('/etc/passwd'))", "duckdb_settings()",
    "secret_blocks", "main.devnet_blocks", "query('select 1')", "?", "$1", "; drop view devnet_blocks", "--", "/*",
    "*/", "$$", "'", '"', "\x00", "\u00a0", "\u200b", "\ufeff", "\U0001f600", "\ud800", "\\", "e'\\x27'", "x'00'", "0x",
    "at (version => 1)",
)  # fmt: skip
TOKENS = sorted({token for tokens in SPLIT for token in tokens} | set(HOSTILE_FRAGMENTS) | set(RELATIONS))

tokens = st.sampled_from(TOKENS)
fragments = st.sampled_from(HOSTILE_FRAGMENTS)
places = st.integers(min_value=0, max_value=2**16)


def groups(split: list[str]) -> list[tuple[int, int]]:
    """Where brackets open and close again."""
    opened: list[int] = []
    found: list[tuple[int, int]] = []
    for at, token in enumerate(split):
        if token == "(":
            opened.append(at)
        elif token == ")" and opened:
            found.append((opened.pop(), at + 1))
    return found


GROUPED = [(split, groups(split)) for split in SPLIT if groups(split)]


@st.composite
def spliced(draw: st.DrawFn) -> str:
    """A statement with what stands in brackets taken from another; or one's head and the other's tail."""
    (one, mine), (other, theirs) = draw(st.sampled_from(GROUPED)), draw(st.sampled_from(GROUPED))
    (start, end), (first, last) = mine[draw(places) % len(mine)], theirs[draw(places) % len(theirs)]
    if draw(st.integers(min_value=0, max_value=4)) == 0:
        return "".join(one[:start] + other[first:])
    return "".join(one[:start] + other[first:last] + one[end:])


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A statement with some tokens taken out, doubled, swapped, or replaced."""
    changed = list(draw(st.sampled_from(SPLIT)))
    for _ in range(draw(st.integers(min_value=1, max_value=3))):
        at, other = draw(places) % (len(changed) + 1), draw(places) % (len(changed) + 1)
        match draw(st.sampled_from(("drop", "double", "swap", "put", "replace", "wrap"))):
            case "drop":
                del changed[at : at + 1]
            case "double":
                changed[at:at] = changed[min(at, other) : max(at, other)]
            case "swap" if at < len(changed) and other < len(changed):
                changed[at], changed[other] = changed[other], changed[at]
            case "put":
                changed.insert(at, draw(tokens))
            case "wrap":
                changed[at : at + 1] = ["(select ", *changed[at : at + 1], ")"]
            case _:
                changed[at : at + 1] = [draw(fragments)]
    return "".join(changed)


MEANING = re.compile(r"'.*'|\"\w+\"|\w+", re.DOTALL)  # what may stand alone: a literal or a name
KEYWORDS = re.compile(
    r"select|from|where|group|order|by|limit|join|with|as|and|or|on|using|over|case|when|then|end|in|not|is"
)
GRAFTED = [
    (
        split,
        [at for at, token in enumerate(split) if MEANING.fullmatch(token) and not KEYWORDS.fullmatch(token.lower())],
    )
    for split in map(TOKEN.findall, benign())
]


@st.composite
def grafted(draw: st.DrawFn) -> str:
    """A benign statement with one name or literal replaced by hostile text, or by one of another statement."""
    split, names = draw(st.sampled_from(GRAFTED))
    if not names:
        return "".join(split)
    changed = list(split)
    other, theirs = draw(st.sampled_from(GRAFTED))
    mine = other[theirs[draw(places) % len(theirs)]] if theirs else "1"
    changed[names[draw(places) % len(names)]] = draw(st.one_of(fragments, st.just(mine)))
    return "".join(changed)


noise = st.one_of(
    st.text(max_size=80),
    st.binary(max_size=80).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.lists(tokens, max_size=25).map(" ".join),
    st.lists(tokens, max_size=25).map("".join),
)
statements = st.one_of(spliced(), spliced(), mutated(), grafted(), grafted(), noise)

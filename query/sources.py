"""What stands in a FROM, and which names reach it. Pure. A name that is not certain is not resolved.

Granted relations are known by name only: each certainly has `block_number`, an integer, has no struct columns, and may
have any other column. So a name that such a source might hold is left alone wherever another source could be meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from query.predicates import NOTHING, Facts, Ranges, Term
from query.verdict import EVERYTHING, Json

COLUMN: Final = "block_number"
ONE_SIDED: Final = frozenset({"SEMI", "ANTI"})  # the right side decides and is not seen


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a source, as far as they are certain.

    `known` are those that hold a relation's block_number, with the blocks that they can have where they are not NULL.
    `named` are all whose names are certain. `wide` says that columns of granted relations come on top, `open` that
    any others may.
    """

    known: Mapping[str, Ranges] = field(default_factory=dict[str, Ranges])
    named: frozenset[str] = frozenset()
    wide: bool = False
    open: bool = False

    def may_have(self, name: str) -> bool:
        return self.open or self.wide or name in self.named


RELATION: Final = Columns({COLUMN: EVERYTHING}, frozenset({COLUMN}), wide=True)
UNKNOWN: Final = Columns(open=True)


@dataclass(frozen=True, slots=True)
class Source:
    """One place of a FROM: a granted relation, or a query or a CTE, or something else; `node` is its tree."""

    number: int
    alias: str
    columns: Columns
    node: Mapping[str, Json]
    relation: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a part of a FROM shows. None stands for a name without a certain meaning."""

    sources: tuple[Source, ...]
    aliases: Mapping[str, Source | None]
    plain: Mapping[str, Term | None]

    def may_hide(self, alias: str) -> bool:
        """Say whether an alias of an outer query may be a column here instead: one with fields, so of no relation."""
        return any(source.columns.open or alias in source.columns.named for source in self.sources)

    def all_shown(self) -> Columns:
        """Return the columns of `*`. One that two sources may have, and that no USING joined, is not certain."""
        known: dict[str, Ranges] = {}
        for name, term in self.plain.items():
            others = [source.columns for source in self.sources if name not in source.columns.known]
            if term is not None and not any(columns.may_have(name) for columns in others):
                known[name] = next(one.columns.known[name] for one in self.sources if one.number == term[0])
        return Columns(
            known,
            frozenset[str]().union(*(source.columns.named for source in self.sources)),
            wide=any(source.columns.wide for source in self.sources),
            open=any(source.columns.open for source in self.sources),
        )


@dataclass(frozen=True, slots=True)
class Join:
    """Two parts of a FROM. `equal` are the columns that USING or NATURAL makes equal; `holds` is true of each row."""

    kind: str
    form: str
    condition: Json
    left: "Part"
    right: "Part"
    equal: tuple[tuple[Term, Term], ...]
    names: Names
    holds: Facts = NOTHING


Part: TypeAlias = Source | Join


def names_of(part: Part) -> Names:
    if isinstance(part, Join):
        return part.names
    plain: dict[str, Term | None] = dict.fromkeys(part.columns.named)
    plain.update({name: (part.number, name) for name in part.columns.known})
    return Names((part,), {part.alias: part} if part.alias else {}, plain)


def all_sources(part: Part) -> tuple[Source, ...]:
    """Return every source of a part, seen or not."""
    return (*all_sources(part.left), *all_sources(part.right)) if isinstance(part, Join) else (part,)


def join(node: Mapping[str, Json], left: Part, right: Part) -> Join:
    """Return two parts as the tree's JOIN node combines them."""
    kind, form, using = str(node.get("join_type")), str(node.get("ref_type")), node.get("using_columns")
    one, other = names_of(left), names_of(right)
    listed = [str(name).lower() for name in using] if isinstance(using, list) else []
    shared = [name for name in one.plain if name in other.plain] if form == "NATURAL" else listed
    equal: list[tuple[Term, Term]] = []
    names = beside(one, other)
    # a column of a NATURAL join may be shared although no one knows
    plain: dict[str, Term | None] = dict.fromkeys(names.plain) if form == "NATURAL" else dict(names.plain)
    for name in shared:
        plain[name], pair = None, (one.plain.get(name), other.plain.get(name))
        if pair[0] is not None and pair[1] is not None:
            equal.append((pair[0], pair[1]))
            if form != "ASOF":  # its last shared column is compared, not equal
                plain[name] = {"INNER": pair[0], "LEFT": pair[0], "RIGHT": pair[1]}.get(kind)
    seen = one if kind in ONE_SIDED else Names(names.sources, names.aliases, plain)
    return Join(kind, form, node.get("condition"), left, right, tuple(equal), seen)


def beside(left: Names, right: Names) -> Names:
    """Return the names of two parts next to each other; what both have is ambiguous."""
    aliases, plain = {**left.aliases, **right.aliases}, {**left.plain, **right.plain}
    aliases.update(dict.fromkeys(left.aliases.keys() & right.aliases.keys()))
    plain.update(dict.fromkeys(left.plain.keys() & right.plain.keys()))
    return Names(left.sources + right.sources, aliases, plain)


@dataclass(frozen=True, slots=True)
class Outer:
    """What a nested query sees around it: aliases, and the blocks that columns can have for rows that matter."""

    aliases: Mapping[str, Source | None] = field(default_factory=dict[str, Source | None])
    known: Mapping[Term, Ranges] = field(default_factory=dict[Term, Ranges])

    def below(self, names: Names) -> "Outer":
        """Return what is seen from inside a query, or from a part of one, that has these names."""
        aliases = {alias: source for alias, source in self.aliases.items() if not names.may_hide(alias)}
        return Outer({**aliases, **names.aliases}, self.known)


def term(parts: tuple[str, ...], names: Names, outer: Outer) -> Term | None:
    """Return the column that a reference means: without an alias one of `names`, else also one around them."""
    match parts:
        case (name,):
            return names.plain.get(name)
        case (alias, name):
            source = names.aliases[alias] if alias in names.aliases else outer.below(names).aliases.get(alias)
            return (source.number, name) if source is not None and name in source.columns.known else None
        case _:
            return None

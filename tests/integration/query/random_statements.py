"""Random statements over the relations of `random_relations`, of every shape that the pruner looks into."""

import random
from dataclasses import dataclass, field
from typing import Final

from tests.integration.query.random_relations import BLOCKS, COLUMNS, FILES

JOINS: Final = ["join", "join", "left join", "left join", "right join", "full join", "semi join", "anti join"]
NUMBERED: Final = ["block_number", "block_number", "block_number", "bn"]


@dataclass
class Scope:
    """The columns that a predicate may name: alias and column. `outer` are those of the queries around."""

    columns: list[tuple[str, str]]
    outer: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


class Writer:
    """Writes one statement; most can be bound, those that cannot fail alike."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self._aliases = 0
        self._ctes: list[tuple[str, list[str]]] = []

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def alias(self) -> str:
        if self._aliases > 1 and self.chance(0.06):  # the same alias again, inside or beside another query
            return f"a{self.dice.randint(1, self._aliases)}"
        self._aliases += 1
        return f"a{self._aliases}"

    def statement(self) -> str:
        return self.query(3, [])[0]

    def query(self, depth: int, outer: list[tuple[str, str]]) -> tuple[str, list[str]]:
        """Return a query and the names of its columns."""
        known, ctes = len(self._ctes), ""
        if depth > 1 and self.chance(0.35):
            ctes = self.ctes(depth, outer)
        if depth > 1 and self.chance(0.2):
            text, names = self.set_operation(depth, outer)
        else:
            text, names = self.select(depth, outer)
        del self._ctes[known:]
        return ctes + text, names

    def ctes(self, depth: int, outer: list[tuple[str, str]]) -> str:
        parts: list[str] = []
        taken: set[str] = set()
        for _ in range(self.dice.randint(1, 2)):
            body, names = self.query(depth - 1, outer)
            name = self.dice.choice(["c", "d", "e", "blocks"] if self.chance(0.1) else ["c", "d", "e"])
            if name in taken:
                continue
            taken.add(name)
            renamed = ""
            if self.chance(0.1):
                names = [f"r{place}" if self.chance(0.5) else name for place, name in enumerate(names)]
                renamed = f"({', '.join(names)})"
            parts.append(f"{name}{renamed} as {self.dice.choice(['', '', 'materialized '])}({body})")
            self._ctes.append((name, names))
        if self.chance(0.1):
            recursive = "r(block_number, n) as (select block_number, 0 from blocks where " + (
                self.comparison(Scope([("", "block_number")]))
                + " union all select r.block_number + 1, n + 1 from r join logs l on l.block_number = r.block_number"
                + f" where n < 3 and {self.comparison(Scope([('l', 'block_number')]))})"
            )
            parts.append(recursive)
            self._ctes.append(("r", ["block_number", "n"]))
            return f"with recursive {', '.join(parts)} "
        return f"with {', '.join(parts)} "

    def set_operation(self, depth: int, outer: list[tuple[str, str]]) -> tuple[str, list[str]]:
        kind = self.dice.choice(["union all", "union all", "union", "except", "intersect all", "union all by name"])
        if self.chance(0.4):  # sides of one shape, so that columns can be matched
            table, columns = (
                self.dice.choice([*FILES]),
                self.dice.choice(["*", "block_number as bn, v", "v, block_number"]),
            )
            sides = [
                f"select {columns} from {table} {self.where(Scope([('', 'block_number'), ('', 'v')], outer), depth)}"
                for _ in range(2)
            ]
            names = {"*": [*COLUMNS], "v, block_number": ["v", "block_number"]}
            return f"{sides[0]} {kind} {sides[1]}", names.get(columns, ["bn", "v"])
        left, names = self.select(depth - 1, outer, plain=True)
        right, other = self.select(depth - 1, outer, plain=True)
        width = min(len(names), len(other))
        left = f"select {', '.join(names[:width])} from ({left})" if len(names) > width else left
        right = f"select {', '.join(other[:width])} from ({right})" if len(other) > width else right
        return f"{left} {kind} {right}", names[:width]

    def source(self, depth: int, outer: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
        """Return one source of a FROM and its columns."""
        alias = self.alias()
        if self._ctes and self.chance(0.5):
            name, names = self.dice.choice(self._ctes)
            text = f"{name} {alias}"
        elif depth > 1 and self.chance(0.35):
            body, names = self.query(depth - 1, outer)
            text = f"({body}) {alias}"
        else:
            table = self.dice.choice([*FILES, "dataset"])
            names = [*COLUMNS]
            text = f"{table} {alias}"
            if self.chance(0.3):
                text, alias = table, table
        if self.chance(0.04):
            names = [self.dice.choice(["block_number", f"z{place}"]) for place in range(len(names))]
            text += f"({', '.join(names)})" if text.split()[-1] == alias else f" {alias}({', '.join(names)})"
        return text, [(alias, name) for name in names]

    def from_clause(self, depth: int, outer: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
        text, columns = self.source(depth, outer)
        for _ in range(self.dice.choice([0, 0, 0, 1, 1, 1, 2])):
            seen = [*outer, *columns] if self.chance(0.3) else outer
            right, more = self.source(depth, seen)
            both = Scope(columns + more, outer)
            kind, form = self.dice.choice(JOINS), self.dice.random()
            if form < 0.1:
                text = f"{text}{self.dice.choice([', ', ' cross join '])}{right}"
            elif form < 0.3:
                text = f"{text} {kind} {right} using ({self.dice.choice(NUMBERED)})"
            elif form < 0.35:
                text = f"{text} natural {kind} {right}"
            elif form < 0.42:
                a, alias = self.dice.choice(columns), self.alias()
                more = [(alias, name) for name in COLUMNS]
                right = f"{self.dice.choice(['blocks', 'dataset'])} {alias}"  # one row a block: the nearest is certain
                kind = self.dice.choice(
                    ["asof join", "asof left join"]
                )  # two of "asof right" in a row hang DuckDB 1.5.5
                sign = self.dice.choice([">=", "<", ">"])
                text = f"{text} {kind} {right} on {a[0]}.{a[1]} {sign} {alias}.block_number"
            elif form < 0.44:
                text = f"{text} positional join {right}"
            else:
                text = f"{text} {kind} {right} on {self.on(columns, more, both, depth)}"
            hidden = kind in {"semi join", "anti join"} and not self.chance(0.1)
            columns = columns if hidden else columns + more
        return text, columns

    def on(self, left: list[tuple[str, str]], right: list[tuple[str, str]], both: Scope, depth: int) -> str:
        parts: list[str] = []
        if self.chance(0.85):
            a, b = self.numbered(left), self.numbered(right)
            parts.append(f"{a[0]}.{a[1]} = {b[0]}.{b[1]}")
        if self.chance(0.5) or not parts:
            parts.append(self.predicate(both, depth))
        return " and ".join(parts)

    def numbered(self, columns: list[tuple[str, str]]) -> tuple[str, str]:
        likely = [column for column in columns if column[1] in {"block_number", "bn"}]
        return self.dice.choice(likely if likely and self.chance(0.9) else columns)

    def name(self, scope: Scope) -> str:
        alias, column = self.numbered(scope.columns)
        if scope.outer and self.chance(0.08):
            alias, column = self.numbered(scope.outer)
        shared = [name for _, name in scope.columns].count(column) > 1  # mostly ambiguous, but for USING
        alone = not alias or self.chance(0.03 if shared else 0.3)
        return self.dice.choice([column, column.upper()]) if alone else f"{alias}.{column}"

    def comparison(self, scope: Scope) -> str:
        name, number, form = self.name(scope), self.dice.randint(-2, BLOCKS + 2), self.dice.random()
        if form < 0.55:
            sign = self.dice.choice(["=", "=", "<", "<=", ">", ">=", "<>"])
            if self.chance(0.1):
                name = f"{name}::bigint"
            return f"{number} {sign} {name}" if self.chance(0.2) else f"{name} {sign} {number}"
        if form < 0.7:
            return f"{name} between {number} and {number + self.dice.randint(-1, 12)}"
        if form < 0.8:
            return f"{name} in ({number}, {number + 1}, {self.dice.randint(0, BLOCKS)})"
        if form < 0.93:
            return f"{name} = {self.name(scope)}"
        other = [f"{name} is null", f"{name} is not null", f"not {name} = {number}"]
        return self.dice.choice([*other, f"coalesce({name}, {number}) = {number}", f"{name} is distinct from {number}"])

    def predicate(self, scope: Scope, depth: int) -> str:
        form = self.dice.random()
        if form < 0.55:
            return self.comparison(scope)
        if form < 0.75:
            return f"{self.comparison(scope)} and {self.predicate(scope, depth)}"
        if form < 0.87:
            return f"({self.comparison(scope)} or {self.predicate(scope, depth)})"
        if form < 0.9:
            return f"not ({self.comparison(scope)})"
        if depth < 2:
            return self.comparison(scope)
        seen = [*scope.outer, *scope.columns]
        body, names = self.select(depth - 2, seen, plain=True)
        if self.chance(0.5):
            return f"{self.dice.choice(['', 'not '])}exists ({body})"
        column = self.dice.choice([name for name in names if name in NUMBERED] or names)
        body = f"select {column} from ({body})" if len(names) > 1 else body
        return f"{self.name(scope)} {self.dice.choice(['in', 'in', 'not in'])} ({body})"

    def where(self, scope: Scope, depth: int) -> str:
        return f"where {self.predicate(scope, depth)}" if self.chance(0.75) else ""

    def select(self, depth: int, outer: list[tuple[str, str]], *, plain: bool = False) -> tuple[str, list[str]]:
        """Return a SELECT; `plain` leaves out what must stand at the end of a statement."""
        source, columns = self.from_clause(depth, outer)
        scope = Scope(columns, outer)
        where, form = self.where(scope, depth), self.dice.random()
        if form < 0.2:
            return self.grouped(source, where, scope, plain=plain)
        names: list[str] = []
        items: list[str] = []
        if self.chance(0.25):
            first = columns[0][0]
            star = f"{first}.*" if self.chance(0.4) else "*"
            extra = self.dice.choice(["", "", "", " exclude (v)", " replace (7 as block_number)", " replace (i as v)"])
            items.append(star + extra)
            names += [column for alias, column in columns if alias == first]
        for _ in range(self.dice.randint(0 if items else 1, 3)):
            name = self.name(Scope(columns))
            label = self.dice.choice(["block_number", "bn", "bn", "v", "x"]) if self.chance(0.3) else ""
            items.append(f"{name} as {label}" if label else name)
            names.append(label or name.rpartition(".")[2].lower())
        if self.chance(0.12):
            part = (
                self.name(scope)
                if self.chance(0.7)
                else self.dice.choice([f"{a}.{c}" for a, c in columns if a] or ["1"])
            )
            function = self.dice.choice(
                ["count(*)", f"sum({self.name(scope)})", f"rank() over (partition by {part} order by"]
            )
            items.append(
                f"{function} {self.name(scope)}) as w"
                if "rank" in function
                else f"{function} over (partition by {part}) as w"
            )
            names.append("w")
        if depth > 1 and self.chance(0.08):
            body, inner = self.select(depth - 2, [*outer, *columns], plain=True)
            items.append(f"(select {self.dice.choice(['count(*)', f'max({inner[0]})'])} from ({body})) as s")
            names.append("s")
        unique = list(dict.fromkeys(names))
        distinct = ""
        if self.chance(0.12):
            distinct = "distinct "
        text = f"select {distinct}{', '.join(items)} from {source} {where}"
        if any(item.endswith(" as w") for item in items) and self.chance(0.3):
            text += f" qualify w < {self.dice.randint(1, 9)}"
        return text if plain else self.ended(text, unique), unique

    def ended(self, text: str, names: list[str]) -> str:
        """Add an order with a limit, a DISTINCT ON or a sample."""
        form = self.dice.random()
        if form < 0.12:
            limit = f"limit {self.dice.randint(1, 20)}" if self.chance(0.8) else f"limit {self.dice.randint(5, 90)}%"
            return f"{text} order by all {limit} offset {self.dice.randint(0, 3)}"
        if form < 0.16:
            return f"select distinct on ({names[0]}) * from ({text}) order by all"
        if form < 0.18:
            return f"select * from ({text} order by all) using sample reservoir(5 rows) repeatable (3)"
        if form < 0.22:
            return f"{text} order by all"
        return text

    def grouped(self, source: str, where: str, scope: Scope, *, plain: bool) -> tuple[str, list[str]]:
        key, form = self.name(Scope(scope.columns)), self.dice.random()
        label = self.dice.choice(["bn", "block_number", "v"]) if self.chance(0.3) else ""
        shown = f"{key} as {label}" if label else key
        names = [label or key.rpartition(".")[2].lower(), "n"]
        other = self.name(Scope(scope.columns))
        how = self.dice.choice([key, key, "1", "all", f"rollup({key})", f"cube({key}, {other})",
                                f"grouping sets (({key}), ({other}), ())"])  # fmt: skip
        total = self.dice.choice(["count(*)", f"sum({other})", f"count(*) filter (where {self.comparison(scope)})"])
        having = f"having {self.dice.choice(['count(*) > 1', f'{key} > 20'])}" if self.chance(0.2) else ""
        if form < 0.15:
            return f"select {total} as n, max({key}) as block_number from {source} {where}", ["n", "block_number"]
        text = f"select {shown}, {total} as n from {source} {where} group by {how} {having}"
        return text if plain else self.ended(text, names), names

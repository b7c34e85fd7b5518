"""Engine errors -> codes and sentences. Pure. An engine's text may quote paths, URLs, rows and foreign names, so it
never passes; a sentence is composed here, with at most plain identifiers and types taken out of the text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

IDENTIFIER: Final = "([A-Za-z_][A-Za-z0-9_]{0,127})"
TYPES: Final = r"([A-Za-z0-9_]{1,40}\([A-Z0-9_ ,()\[\]]{0,200}\))"
MAX_NAMES: Final = 12


class Code(StrEnum):
    """What a child may report; the parent maps it to an error."""

    SQL_ERROR = "SQL_ERROR"
    RESULT_TOO_LARGE = "RESULT_TOO_LARGE"
    EXPORT_TOO_LARGE = "EXPORT_TOO_LARGE"
    MEMORY = "QUERY_MEMORY"
    TIMEOUT = "QUERY_TIMEOUT"
    STORE = "OBJECT_STORE_ERROR"
    CRASH = "WORKER_CRASH"
    CONFINEMENT = "WORKER_UNAVAILABLE"


class Help(StrEnum):
    """Which sentence explains a SQL error; the parent composes it, so that a child cannot speak through it."""

    NONE = "none"
    COLUMN = "column"
    RELATION_COLUMN = "relation_column"
    TABLE = "table"
    AMBIGUOUS = "ambiguous"
    GROUP = "group"
    ARGUMENTS = "arguments"
    CONVERSION = "conversion"
    OVERFLOW = "overflow"
    ONE_ROW = "one_row"
    TYPE = "type"
    HEX = "hex"
    SIGNATURE = "signature"
    NUMBER = "number"
    HASHED = "hashed"
    OURS = "ours"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed statement. `names` are plain identifiers or types that fill the sentence; `position` counts bytes."""

    code: Code
    help: Help = Help.NONE
    names: tuple[str, ...] = ()
    position: int | None = None


SPILL: Final = re.compile("Could not write|No space left|File too large|failed to offload")
RAISED: Final = "occurred while executing the UDF: "  # what follows is the name of the class in Python
NO_MEMORY: Final = re.compile(f"{RAISED}(?:pyarrow.lib.)?(?:Arrow)?MemoryError")
PATTERNS: Final = (
    (Help.SIGNATURE, re.compile(f"{RAISED}BadSignature")),
    (Help.NUMBER, re.compile(f"{RAISED}BadText")),
    (Help.HASHED, re.compile(f"{RAISED}TooLong")),
    (Help.HEX, re.compile("Invalid input for hex digit")),
    (Help.OURS, re.compile(rf'Macro "?{IDENTIFIER}"?(?:\(\))? does not support the supplied arguments')),
    (Help.COLUMN, re.compile(f'Referenced column "{IDENTIFIER}" not found')),
    (Help.COLUMN, re.compile(f'Column "{IDENTIFIER}" (?:does not exist on|in EXCLUDE list not found)')),
    (Help.RELATION_COLUMN, re.compile(f'(?:Table|Values list) "{IDENTIFIER}" does not have a column '
                                      f'named "{IDENTIFIER}"')),
    (Help.TABLE, re.compile(f'Referenced table "{IDENTIFIER}" not found')),
    (Help.AMBIGUOUS, re.compile(f'Ambiguous reference to column name "{IDENTIFIER}"')),
    (Help.GROUP, re.compile(f'column "?{IDENTIFIER}"? must appear in the GROUP BY')),
    (Help.ARGUMENTS, re.compile(f"No function matches the given name and argument types '{TYPES}'")),
    (Help.CONVERSION, re.compile("(?:Could not convert|Unimplemented type for cast|Could not choose a best candidate|"
                                 "Cannot compare values|field value out of range|Failed to cast|could not be cast)")),
    (Help.OVERFLOW, re.compile("(?:Overflow in|out of range|Out of Range)")),
    (Help.ONE_ROW, re.compile("More than one row returned by a subquery")),
)  # fmt: skip

SENTENCES: Final = {
    Help.NONE: "the engine refuses the statement: check its names, types and grouping",
    Help.COLUMN: 'there is no column "{0}" here',
    Help.RELATION_COLUMN: '"{0}" has no column "{1}"',
    Help.TABLE: 'nothing in FROM is called "{0}": use its alias',
    Help.AMBIGUOUS: 'the column "{0}" is in more than one relation: write relation.{0}',
    Help.GROUP: 'the column "{0}" must be in GROUP BY, or wrapped: any_value({0})',
    Help.ARGUMENTS: "no form of this function takes {0}: cast its arguments",
    Help.CONVERSION: "a value has the wrong type: cast it, use try_cast, or hex_to_blob('0x...') for bytes",
    Help.OVERFLOW: "a number is out of its type's range: cast to HUGEINT, DECIMAL or DOUBLE",
    Help.ONE_ROW: "a subquery used as a value returns more than one row: add LIMIT 1 or an aggregate",
    Help.HEX: "a text is no hexadecimal: write pairs of the digits 0-9 and a-f, as in hex_to_blob('0x00ff')",
    Help.SIGNATURE: "a signature is not understood: write it as in 'Transfer(address indexed from, address indexed to, "
    "uint256 value)', with address for a contract and uint8 for an enum",
    Help.NUMBER: "a text is no number, or the number does not fit: give whole numbers of up to 256 bits, and amounts "
    "with no more digits behind the point than they have decimals",
    Help.HASHED: "keccak256() takes at most 4 MiB",
    Help.OURS: "{0}() has no form for these arguments: give it BLOB columns as they are, and texts of bytes as "
    "hex_to_blob('0x...')",
    Help.TYPE: "a result column has a type that JSON and Arrow cannot carry exactly: cast it to VARCHAR",
}
PLACES: Final = {
    Help.COLUMN: 1,
    Help.RELATION_COLUMN: 2,
    Help.TABLE: 1,
    Help.AMBIGUOUS: 1,
    Help.GROUP: 1,
    Help.ARGUMENTS: 1,
    Help.OURS: 1,
}


def classify(kind: str, details: Mapping[str, str]) -> Failure:
    """Turn an engine error into a failure.

    Args:
        kind: The class name of the error.
        details: Its parts, `exception_message` among them.
    """
    message, at = details.get("exception_message", ""), details.get("position", "")
    position = int(at) if at.isdecimal() else None
    match kind:
        case "OutOfMemoryException" | "MemoryError" | "ArrowMemoryError":
            return Failure(Code.MEMORY)
        case "InterruptException":
            return Failure(Code.TIMEOUT)
        case _ if NO_MEMORY.search(message):
            return Failure(Code.MEMORY)
        case "IOException" if SPILL.search(message):
            return Failure(Code.MEMORY)
        case "IOException" | "HTTPException":
            return Failure(Code.STORE)
        case "InternalException" | "FatalException" | "SerializationException":
            return Failure(Code.CRASH)
        case _:
            pass
    for explanation, pattern in PATTERNS:
        found = pattern.search(message)
        if found:
            names = tuple(name for name in found.groups() if name)
            return Failure(Code.SQL_ERROR, explanation, names + _candidates(explanation, message), position)
    return Failure(Code.SQL_ERROR, Help.NONE, (), position)


def _candidates(explanation: Help, message: str) -> tuple[str, ...]:
    if explanation not in {Help.COLUMN, Help.RELATION_COLUMN}:
        return ()
    listed = message.partition("Candidate bindings")[2]
    return tuple(re.findall(f'"{IDENTIFIER}"', listed))[:MAX_NAMES]


def sentence(failure: Failure) -> str:
    """Compose the sentence for people. Names that are not plain make it fall back to the general one."""
    places = PLACES.get(failure.help, 0)
    names = failure.names
    plain = all(re.fullmatch(f"{IDENTIFIER}|{TYPES}", name) for name in names)
    if not plain or len(names) < places:
        return SENTENCES[Help.NONE]
    text = SENTENCES[failure.help].format(*names[:places])
    return f"{text}: did you mean {', '.join(names[places:])}?" if len(names) > places else text

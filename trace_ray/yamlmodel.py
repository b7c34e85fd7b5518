"""What the files that users write share: their text, the strict model, and the plain form of what was meant."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic_core import ErrorDetails, PydanticCustomError

from trace_ray import jobyaml
from trace_ray.errors import RefusedInput

MAX_ZEROS: Final = 16  # a number with more digits is none that a file may hold

NAME: Final = r"^[a-z][a-z0-9_]{0,63}$"
NAME_ADVICE: Final = "write lower-case letters, digits and _, beginning with a letter, at most {} characters"
MEANT: Final[Mapping[str, str]] = {
    "yes": "true",
    "on": "true",
    "y": "true",
    "no": "false",
    "off": "false",
    "n": "false",
}


class Model(BaseModel):
    """A mapping of a file: unknown keys and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def said(sentence: str) -> PydanticCustomError:
    """Return an error of a value whose sentence is ready."""
    return PydanticCustomError("said", "{sentence}", {"sentence": sentence})


def read_text(path: Path, noun: str) -> str:
    """Return the text of a file. `noun` is what it holds: a job, a rule.

    Raises:
        RefusedInput: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(jobyaml.MAX_BYTES + 1)
    except FileNotFoundError:
        raise RefusedInput(f"{path}: there is no such file: write the path of a {noun} file") from None
    except (OSError, ValueError) as error:
        raise RefusedInput(f"{path}: the file cannot be read: write the path of a readable {noun} file") from error
    if len(content) > jobyaml.MAX_BYTES:
        size = f"{jobyaml.MAX_BYTES // 1024} KiB"
        raise RefusedInput(f"{path}: the file is larger than {size}: write one {noun} per file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RefusedInput(f"{path}:{line}: (file): the text is not UTF-8: write it as UTF-8") from None


def mistyped(detail: ErrorDetails) -> tuple[str, str | None]:
    """Return what was wanted, and the plain form of what was probably meant."""
    text = str(detail["input"])
    match detail["type"]:
        case "bool_type":
            return "true or false", MEANT.get(text.lower())
        case "float_type":
            return "a number", None if text.endswith(("m", "M")) else _number_meant(text)  # minutes, perhaps
        case _:
            return "a whole number", _number_meant(text)


def _number_meant(text: str) -> str | None:
    """Return the plain form of a number that was written in another one."""
    plain = text.replace("_", "").replace(",", "")
    if re.fullmatch(r"0[xob][0-9a-fA-F]{1,16}", plain):
        try:
            return str(int(plain, 0))
        except ValueError:
            return None
    if re.fullmatch(r"\+?[0-9]{1,30}", plain):
        return str(int(plain))
    if found := re.fullmatch(r"([0-9]{1,9})(?:\.0+)?(?:[eE]\+?([0-9]{1,2})|([kKmM]))?", plain):
        zeros = int(found[2] or 0) if not found[3] else 3 if found[3] in "kK" else 6
        return str(int(found[1]) * 10**zeros) if zeros <= MAX_ZEROS else None
    return None


def nearest(name: str, names: list[str]) -> str | None:
    """Return the name that was probably meant."""
    found = get_close_matches(name.lower().replace("-", "_"), names, n=1, cutoff=0.6)
    return found[0] if found else None

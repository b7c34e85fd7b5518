"""The text of a statement, before anyone parses it. Pure; checked by the service as by the gate in the child."""

import re
from typing import Final

from query.refusals import Reason, SqlRejected

MAX_SQL_BYTES: Final = 64 * 1024
OPERATORS: Final = re.compile(r"[-~!@#^&|`?+*/%<>=]{1000}")  # the engine's lexer is quadratic in them: 64 KiB take 20 s
CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # the engine cuts its input at NUL


def check_text(sql: str) -> None:
    """Refuse a text that is too long, takes long to parse, or could be read otherwise by the engine than by us.

    Raises:
        SqlRejected: with a position in bytes, as the engine counts.
    """
    try:
        size = len(sql.encode())
    except UnicodeEncodeError:
        raise SqlRejected(Reason.PARSE) from None  # a lone surrogate
    if size > MAX_SQL_BYTES:
        raise SqlRejected(Reason.TOO_LONG)
    operators = OPERATORS.search(sql)
    if operators is not None:
        raise SqlRejected(Reason.TOO_COMPLEX, len(sql[: operators.start()].encode()))
    control = CONTROL.search(sql)
    if control is not None:
        raise SqlRejected(Reason.PARSE, len(sql[: control.start()].encode()))

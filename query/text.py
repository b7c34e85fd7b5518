"""The text of a statement, before anyone parses it. Pure; checked by the service as by the gate in the child."""

import re
from typing import Final

from query.refusals import Reason, SqlRejected

MAX_SQL_BYTES: Final = 64 * 1024
CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # the engine cuts its input at NUL


def check_text(sql: str) -> None:
    """Refuse a text that is too long, or that the engine could read otherwise than we do.

    Raises:
        SqlRejected: with a position in bytes, as the engine counts.
    """
    try:
        size = len(sql.encode())
    except UnicodeEncodeError:
        raise SqlRejected(Reason.PARSE) from None  # a lone surrogate
    if size > MAX_SQL_BYTES:
        raise SqlRejected(Reason.TOO_LONG)
    control = CONTROL.search(sql)
    if control is not None:
        raise SqlRejected(Reason.PARSE, len(sql[: control.start()].encode()))

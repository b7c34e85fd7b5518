"""What receivers get: the JSON body, its signature, and the words for Slack and e-mail. Pure.

The body of a delivery is the same in all attempts, and so is its `Idempotency-Key`, the delivery's id: a receiver that
has seen it drops it. Only the signature is made anew, since it holds the instant of sending.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final

import orjson

from trace_ray import routing
from trace_ray.alerts import DeliveryId, DeliveryKind
from trace_ray.channels import Sending, Sent, Unsent
from trace_ray.notices import Notice

AGENT: Final = "trace_ray"
SIGNATURE: Final = "Trace-Signature"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
TOLERANCE_S: Final = 300  # clocks differ, and a copied request must not live for long
MAX_SIGNATURES: Final = 8  # of one header: two are sent, and nobody else decides how much we compute
MAX_SHOWN: Final = 1500  # characters of a payload that people read
SIGNATURE_FORM: Final = re.compile(r"t=([0-9]{1,12})((?:,v1=[0-9a-f]{64})+)")


# --- webhooks -----------------------------------------------------------------------------------------------------


def body(notice: Notice) -> bytes:
    """Return the JSON document of a delivery, as docs/reference/deliveries.md describes it."""
    document = {
        "delivery_id": notice.delivery_id,
        "event_id": notice.event_id,
        "kind": notice.kind,
        "test": notice.test,
        "retracts": notice.retracts,
        "rule": {"rule_id": notice.rule_id, "name": notice.rule},
        "severity": notice.severity,
        "created_at": notice.created_at,
        "event": {
            "dedupe_key": notice.dedupe_key,
            "event_time": notice.event_time,
            "chain_id": notice.chain_id,
            "block_number": notice.block_number,
            "block_hash": notice.block_hash,
            "tx_hash": notice.tx_hash,
            "payload": orjson.Fragment(notice.payload),
        },
    }
    return orjson.dumps(document)


def headers(notice: Notice, content: bytes, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """Return the headers of a request; with secrets also the signature of its content."""
    found = {
        "Content-Type": "application/json",
        "User-Agent": AGENT,
        IDEMPOTENCY_KEY: str(notice.delivery_id),
    }
    if secrets:
        found[SIGNATURE] = signature(content, secrets, int(now.timestamp()))
    return found


def signature(content: bytes, secrets: Sequence[str], at: int) -> str:
    """Return `t=<at>,v1=<hex>`, with one `v1` per secret, so that a receiver which knows either of two can check it.

    Args:
        at: When it is signed, in seconds since 1970.
    """
    return ",".join([f"t={at}", *(f"v1={_mac(content, secret, at)}" for secret in secrets)])


def verify(
    header: str, content: bytes, secrets: Sequence[str], *, now: datetime, tolerance_s: float = TOLERANCE_S
) -> bool:
    """Whether a receiver may believe a request: signed with one of the secrets, and not long ago.

    Args:
        header: The value of `Trace-Signature`.
        content: The bytes of the body as they came, before anything parses them.
    """
    found = SIGNATURE_FORM.fullmatch(header)
    if found is None or not secrets:
        return False
    at, given = int(found[1]), found[2].split(",v1=")[1:]
    if len(given) > MAX_SIGNATURES or abs(now.timestamp() - at) > tolerance_s:
        return False
    known = [_mac(content, secret, at) for secret in secrets]
    return any(hmac.compare_digest(one, other) for one in given for other in known)


def _mac(content: bytes, secret: str, at: int) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + content, hashlib.sha256).hexdigest()


def judge(status: int, answered: Mapping[str, str], now: datetime) -> Sending:
    """Return what an HTTP answer means. `answered`: its headers, with names in lower case."""
    if status in routing.OK:
        return Sent()
    if status in routing.REDIRECTS:
        return Unsent(f"the receiver answered {status}, a redirect, which is not followed: set its final URL")
    error = f"the receiver answered {status}"
    if routing.is_permanent(status):
        return Unsent(f"{error}, which trying again does not change", retryable=False)
    wait = retry_after_s(answered.get("retry-after"), now)
    return Unsent(error, retry_after_s=wait, in_doubt=status in routing.SERVER_ERRORS)


def retry_after_s(text: str | None, now: datetime) -> float | None:
    """Return how long a receiver asks us to wait, from seconds or a date; None when it does not or writes nonsense."""
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (at - now).total_seconds()) if at.tzinfo else None


# --- people -------------------------------------------------------------------------------------------------------


def headline(notice: Notice) -> str:
    """Return one line that says what happened."""
    if notice.test:
        return "Test message of trace_ray: nothing happened on a chain"
    word = "Retracted" if notice.kind is DeliveryKind.RETRACTION else notice.severity.upper()
    return f"{word}: {notice.rule}, chain {notice.chain_id}, block {notice.block_number}"


def words(notice: Notice) -> str:
    """Return the text that a person reads, several lines."""
    lines = [headline(notice), ""]
    if notice.kind is DeliveryKind.RETRACTION:
        lines += [
            f"The block of an earlier alert is gone from the chain. It takes back delivery {notice.retracts}.",
            "",
        ]
    lines += [
        f"rule         {notice.rule} ({notice.severity})",
        f"chain        {notice.chain_id}",
        f"block        {notice.block_number} {notice.block_hash}",
        *([f"transaction  {notice.tx_hash}"] if notice.tx_hash else []),
        f"time         {notice.event_time:%Y-%m-%d %H:%M:%S} UTC",
        f"event        {notice.event_id}",
        f"delivery     {notice.delivery_id}",
        "",
        notice.payload if len(notice.payload) <= MAX_SHOWN else f"{notice.payload[:MAX_SHOWN]} ...",
    ]
    return "\n".join(lines) + "\n"


def slack_body(notice: Notice) -> bytes:
    """Return the body for an incoming webhook of Slack, or of what speaks its language."""
    text = words(notice).rstrip().replace("```", "'''")
    for character, form in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, form)
    first, _, rest = text.partition("\n\n")
    return orjson.dumps({"text": f"*{first}*\n```{rest}```"})


def email(notice: Notice, *, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """Return a message whose id is that of the delivery; a retraction answers the alert that it takes back."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = headline(notice)
    message["Date"] = format_datetime(notice.created_at)
    message["Message-ID"] = message_id(notice.delivery_id, sender)
    message[IDEMPOTENCY_KEY] = str(notice.delivery_id)
    message["Auto-Submitted"] = "auto-generated"
    if notice.retracts is not None:
        message["In-Reply-To"] = message["References"] = message_id(notice.retracts, sender)
    message.set_content(words(notice), cte="quoted-printable")
    return message


def message_id(delivery: DeliveryId, sender: str) -> str:
    return f"<{delivery}@{sender.rpartition('@')[2]}>"

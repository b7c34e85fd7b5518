"""Every refusal: its status, its code, its audit row, and nothing in it that was sent or that must stay inside."""

import base64
import json
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
import jwt
import pytest

from actors.questions import FRESH_S
from tests.integration.state.ledger import failure
from tests.served import Served
from trace_ray import tokens
from trace_ray.contracts import OrgId
from trace_ray.key_files import FileKeys, rotate

MARK = "c0ffee_marker_of_this_statement"


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, str | int]:
    """Check a refusal and return its detail."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert MARK not in answer.text
    return error["detail"]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (f"select '{MARK}' from", "parse"),
        (f"select 1; select '{MARK}'", "multi_statement"),
        (f"drop table x /* {MARK} */", "not_select"),
        (f"select getenv('{MARK}')", "function"),
        (f"select * from read_csv('{MARK}')", "table_function"),
        (f"select '{MARK}' from nosuch", "relation"),
        ("select ?", "parameters"),
        (f"select '{MARK}', " + "1, " * 40_000 + "1", "too_long"),
    ],
)
def test_gate_refuses_with_reason_and_audit(service: Served, sql: str, reason: str) -> None:
    detail = refused(service.ask(sql), 400, "SQL_REJECTED")

    row = service.audited(str(detail["query_id"]))
    assert detail["reason"] == row.reason == reason
    assert (row.outcome, row.user, row.rows) == ("SQL_REJECTED", "ann", 0)


def test_engine_error_has_its_position(service: Served) -> None:
    detail = refused(service.ask(f"select '{MARK}', nosuch from devnet_blocks"), 400, "SQL_ERROR")

    assert detail["position"] == len(f"select '{MARK}', ") + 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"nope", b"[]", b'{"sql": 1}', b'{"sql": ""}', b'{"sql": "select 1", "format": "xml"}',
        b'{"sql": "select 1", "as_of": -1}', b'{"sql": "select 1", "limit": "many"}',
        b'{"sql": "select 1", "' + MARK.encode() + b'": 1}', b"\xff\xfe", b'{"sql": "\\ud800"}',
    ],
)  # fmt: skip
def test_bad_body_is_a_bad_request(service: Served, body: bytes) -> None:
    answer = service.client.post(
        f"{service.url}/v1/query",
        content=body,
        headers={"Authorization": f"Bearer {service.token()}", "Content-Type": "application/json"},
    )

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in {"BAD_REQUEST", "SQL_REJECTED"}


def test_body_above_the_cap_is_not_read(service: Served) -> None:
    def endless() -> "list[bytes]":
        return [b"x" * 65_536] * 32

    told = service.client.post(f"{service.url}/v1/query", content=b"x" * 600_000)
    untold = service.client.post(f"{service.url}/v1/query", content=iter(endless()))

    refused(told, 413, "BODY_TOO_LARGE")
    refused(untold, 413, "BODY_TOO_LARGE")


UNREADABLE = (b"[" * 100_000, b'{"sql":' * 20_000, b'{"sql": "select 1", "limit": ' + b"9" * 5_000 + b"}", b"\xff\xfe")


@pytest.mark.parametrize("body", UNREADABLE, ids=["lists", "objects", "number", "encoding"])
def test_body_that_its_reader_gives_up_on_is_refused_like_others(service: Served, body: bytes) -> None:
    url, known = f"{service.url}/v1/query", {"Authorization": f"Bearer {service.token()}"}
    json_body = {"Content-Type": "application/json"}

    detail = refused(service.client.post(url, content=body, headers=json_body | known), 400, "BAD_REQUEST")

    assert service.audited(str(detail["query_id"])).outcome == "BAD_REQUEST"
    refused(service.client.post(url, content=body, headers=json_body), 401, "UNAUTHENTICATED")


def test_unknown_routes_and_methods(service: Served) -> None:
    refused(service.client.get(f"{service.url}/v2/{MARK}"), 404, "NOT_FOUND")
    for path in ("/v1/datasets/", "/v1/query/"):  # a redirect would name the host that the request claims
        refused(service.client.get(f"{service.url}{path}", headers={"Host": f"{MARK}.example"}), 404, "NOT_FOUND")
    answer = service.client.get(f"{service.url}/v1/query")
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize("name", ["%00", "devnet_blocks%00", "%ff", "%F0%9F%98%80", "x" * 5_000])
def test_name_that_no_dataset_can_have_is_not_found(service: Served, name: str) -> None:
    refused(service.get(f"/v1/datasets/{name}"), 404, "NOT_FOUND")


def test_refused_id_is_not_quoted(service: Served) -> None:
    answer = service.get("/v1/queries/%3Cscript%3E")

    refused(answer, 400, "BAD_REQUEST")
    assert answer.json()["error"]["message"] == "path.query_id: input should be a valid UUID"


# --- tokens -------------------------------------------------------------------------------------------------------


def forged(service: Served, **changes: object) -> str:
    """Sign our own claims with our own key, but changed."""
    ring = FileKeys(service.settings.data_dir).ring()
    claims = jwt.decode(service.token(), options={"verify_signature": False}) | changes
    kept = {name: value for name, value in claims.items() if value is not None}
    key = ring.current
    assert key.signing is not None
    return jwt.encode(kept, key.signing, algorithm=key.algorithm, headers={"kid": key.kid})


FROM_NOW = {"exp": -100, "nbf": 1000, "iat": 1000}  # seconds that make a time of a token wrong


@pytest.mark.parametrize("claim", list(FROM_NOW))
def test_token_outside_its_time_is_refused(service: Served, claim: str) -> None:
    wrong = int(datetime.now(UTC).timestamp()) + FROM_NOW[claim]

    refused(service.ask("select 1", forged(service, **{claim: wrong})), 401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "trace.task"}, {"iss": "somebody"}, {"sub": "user:nobody"},
        {"exp": None}, {"aud": None}, {"sub": None}, {"iss": None},
    ],
    ids=str,
)  # fmt: skip
def test_token_with_a_wrong_claim_is_refused(service: Served, changes: dict[str, object]) -> None:
    detail = refused(service.ask("select 1", forged(service, **changes)), 401, "UNAUTHENTICATED")

    assert service.audited_stranger(str(detail["query_id"])).outcome == "UNAUTHENTICATED"


def test_unchanged_token_of_the_forger_is_accepted(service: Served) -> None:
    assert service.ask("select 1", forged(service)).status_code == 200


@pytest.mark.parametrize("kind", ["none", "other key", "unknown kid", "cut", "swapped payload", "empty", "text"])
def test_token_that_is_not_ours_is_refused(service: Served, kind: str) -> None:
    good = service.token()
    header, _, signature = good.split(".")
    other = jwt.decode(good, options={"verify_signature": False}) | {"sub": "user:other"}
    bad = {
        "none": jwt.encode(other, "", algorithm="none"),
        "other key": jwt.encode(other, "x" * 32, algorithm="HS256", headers=jwt.get_unverified_header(good)),
        "unknown kid": jwt.encode(other, "x" * 32, algorithm="HS256", headers={"kid": "nosuch"}),
        "cut": good[:-5],
        "swapped payload": ".".join(
            (header, base64.urlsafe_b64encode(json.dumps(other).encode()).decode().rstrip("="), signature)
        ),
        "empty": "..",
        "text": "let me in",
    }[kind]

    answer = service.ask("select 1", bad)

    refused(answer, 401, "UNAUTHENTICATED")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert bad not in answer.text


def test_no_header_and_bad_body_is_first_of_all_unauthenticated(service: Served) -> None:
    answer = service.client.post(f"{service.url}/v1/query", content=b"nope")

    refused(answer, 401, "UNAUTHENTICATED")


def test_rotated_keys_are_accepted_until_the_rotation_after(service: Served) -> None:
    old = service.token()
    rotate(service.settings.data_dir)
    assert service.ask("select 1", old).status_code == 200
    assert service.ask("select 1").status_code == 200
    rotate(service.settings.data_dir)

    refused(service.ask("select 1", old), 401, "UNAUTHENTICATED")


# --- organisations and roles --------------------------------------------------------------------------------------


def test_other_organisation_sees_nothing(service: Served) -> None:
    stranger = service.token("eve", org_id=OrgId(uuid4()))

    assert service.get("/v1/datasets", stranger).json() == {"datasets": []}
    known = refused(service.ask("select 1 from devnet_blocks", stranger), 400, "SQL_REJECTED")
    unknown = refused(service.ask("select 1 from nosuch_blocks", stranger), 400, "SQL_REJECTED")
    assert known["reason"] == unknown["reason"] == "relation"
    refused(service.ask("from dataset", stranger, dataset_id="devnet_blocks"), 403, "DATASET_NOT_GRANTED")
    refused(service.get("/v1/datasets/devnet_blocks", stranger), 404, "NOT_FOUND")


def test_dataset_id_that_is_unknown_is_refused(service: Served) -> None:
    refused(service.ask("from dataset", dataset_id="nosuch"), 403, "DATASET_NOT_GRANTED")


def test_snapshot_that_does_not_exist_is_refused(service: Served) -> None:
    refused(service.ask("select 1", as_of=10**9), 400, "SNAPSHOT_UNKNOWN")


# --- tasks --------------------------------------------------------------------------------------------------------


def test_task_reads_exactly_what_it_was_granted(service: Served) -> None:
    lease = service.running("granted")
    token = service.capability(lease, "devnet_blocks")

    answer = service.ask_task("select count(*) from devnet_blocks", token, lease)
    assert answer.json()["rows"] == [[60]]
    row = service.audited(answer.json()["query_id"])
    assert (row.task_id, row.attempt, row.user) == (lease.task.task_id, lease.attempt, None)
    refused(service.ask_task("select 1 from devnet_logs", token, lease), 400, "SQL_REJECTED")
    refused(service.ask_task("select 1", token, lease, dataset_id="devnet_logs"), 403, "DATASET_NOT_GRANTED")


def test_body_that_names_another_attempt_is_refused(service: Served) -> None:
    lease = service.running("mismatch")
    token = service.capability(lease, "devnet_blocks")

    refused(service.ask_task("select 1", token, lease, attempt=lease.attempt + 1), 403, "TOKEN_MISMATCH")
    refused(service.ask_task("select 1", token, lease, task_id=str(UUID(int=7))), 403, "TOKEN_MISMATCH")


def test_task_that_asks_for_a_dry_run_is_refused_and_not_run(service: Served) -> None:
    lease = service.running("dry")
    token = service.capability(lease, "devnet_blocks")

    refused(service.ask_task("select 1", token, lease, dry_run=True), 400, "BAD_REQUEST")


def test_tokens_of_people_and_tasks_are_not_swapped(service: Served) -> None:
    lease = service.running("swapped")
    token = service.capability(lease, "devnet_blocks")

    refused(service.ask("select 1", token), 401, "UNAUTHENTICATED")
    refused(service.ask_task("select 1", service.token(), lease), 401, "UNAUTHENTICATED")


def test_attempt_that_ended_asks_no_more(service: Served) -> None:
    lease = service.running("ended")
    token = service.capability(lease, "devnet_blocks")
    service.ledger.fail(failure(lease))

    assert refused(service.ask_task("select 1", token, lease), 401, "UNAUTHENTICATED")["reason"] == "ended"


def test_object_outside_the_prefixes_of_the_token_is_refused(service: Served) -> None:
    lease = service.running("outside")
    ring = FileKeys(service.settings.data_dir).ring()
    key = ring.current
    assert key.signing is not None
    claims = jwt.decode(service.capability(lease, "devnet_blocks"), options={"verify_signature": False})
    claims["s3"]["read"] = ["cryo/31337/other/"]
    moved = jwt.encode(claims, key.signing, algorithm=key.algorithm, headers={"kid": key.kid})

    refused(service.ask_task("select 1 from devnet_blocks", moved, lease), 403, "STORAGE_OUT_OF_GRANT")


def test_user_who_is_disabled_asks_no_more_after_a_second(service: Served) -> None:
    from state import readers

    token = service.token("carl")
    assert service.ask("select 1", token).status_code == 200
    with service.conn.transaction():
        readers.enable_user(service.conn, service.settings.org_id, "carl", enabled=False)

    time.sleep(FRESH_S)
    refused(service.ask("select 1", token), 401, "UNAUTHENTICATED")


def test_verification_of_tokens_is_what_refuses_here(service: Served) -> None:
    ring = FileKeys(service.settings.data_dir).ring()

    assert tokens.verify_user(ring, service.token(), now=datetime.now(UTC)).subject.startswith("user:")

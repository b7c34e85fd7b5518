"""Tokens, users, roles and the audit as they are typed: what goes where, refusals, exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import pytest

from state import audit, readers
from state.db import Connection, connect
from tests import pg
from tests.grants import private_pem
from tests.integration.state.ledger import Ledger, job
from trace_ray import key_files, tokens
from trace_ray.access import AuditedDataset, AuditRow, Reader
from trace_ray.contracts import DEFAULT_ORG, TaskId
from trace_ray.errors import TokenFault, TokenRefused
from trace_ray.lite.postgres import LocalPostgres


@dataclass
class Shell:
    """A shell that knows two databases, one per ledger, and a data directory. No stack runs."""

    conn: Connection
    data: Connection
    home: Path
    environment: dict[str, str]

    def run(
        self, *arguments: str, code: int = 0, more: Mapping[str, str] = MappingProxyType({})
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "trace_ray", *arguments],
            env={**self.environment, **more}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def token(self, *arguments: str, **more: str) -> str:
        done = self.run("token", *arguments, more=more)
        assert done.stdout.count("\n") == 1
        return done.stdout.strip()

    def json(self, *arguments: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.stderr == ""
        return dict(json.loads(done.stdout))

    def refused(self, *arguments: str, **more: str) -> str:
        done = self.run(*arguments, code=2, more=more)
        assert done.stdout == ""
        return done.stderr.strip().splitlines()[-1]

    def reader(self, token: str) -> Reader:
        ring = key_files.load_ring(self.home)
        return readers.reader(self.conn, tokens.verify_user(ring, token, now=datetime.now(UTC)).subject)


@pytest.fixture
def shell(postgres: LocalPostgres, tmp_path: Path) -> Iterator[Shell]:
    state_url, data_url = pg.fresh_database(postgres), pg.fresh_database(postgres)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACE_", "RAY_"))}
    environment |= {
        "TRACE_STATE_DATABASE_URL": state_url,
        "TRACE_DATA_DATABASE_URL": data_url,
        "TRACE_DATA_DIR": str(tmp_path),
    }
    with connect(state_url, application_name="test") as conn, connect(data_url, application_name="test") as data:
        yield Shell(conn, data, tmp_path, environment)


def test_a_token_stands_alone_on_standard_output_and_names_a_user_of_the_ledger(shell: Shell) -> None:
    done = shell.run("token", "--user", "alice", "--role", "analyst", "--role", "admin", "--hours", "2")
    assert done.stderr == ""
    token = done.stdout.strip()
    assert shell.reader(token) == Reader(DEFAULT_ORG, "alice", frozenset({"analyst", "admin"}))
    again = shell.token("--user", "alice")
    assert shell.reader(again).roles == {"analyst", "admin"}
    shell.token("--user", "alice", "--role", "guest")
    assert shell.reader(token).roles == {"guest"}, "the ledger decides, not the token"
    with pytest.raises(TokenRefused) as caught:
        tokens.verify_user(
            key_files.load_ring(shell.home),
            token,
            now=datetime.fromtimestamp(datetime.now(UTC).timestamp() + 7300, UTC),
        )
    assert caught.value.reason is TokenFault.EXPIRED


def test_rotating_twice_refuses_what_was_given_out_before(shell: Shell) -> None:
    token = shell.token("--user", "alice")
    done = shell.run("token", "--rotate")
    assert done.stdout == ""
    assert shell.reader(token)
    newer = shell.token("--rotate", "--user", "alice")
    with pytest.raises(TokenRefused) as caught:
        shell.reader(token)
    assert caught.value.reason is TokenFault.UNKNOWN_KEY
    assert shell.reader(newer)


def test_a_disabled_user_gets_no_token_and_its_old_ones_are_refused(shell: Shell) -> None:
    token = shell.token("--user", "alice")
    shell.run("users", "disable", "alice")
    with pytest.raises(TokenRefused):
        shell.reader(token)
    assert shell.refused("token", "--user", "alice") == (
        "user alice is disabled: run `trace-ray users enable alice` first"
    )
    shell.run("users", "enable", "alice")
    assert shell.reader(token)
    assert shell.refused("users", "disable", "nobody") == "there is no user nobody: `trace-ray users` lists them"


def test_wrong_use_is_refused_and_leaves_no_user(shell: Shell) -> None:
    assert "name a user with --user NAME" in shell.refused("token")
    assert "is no role" in shell.refused("token", "--user", "alice", "--role", "Bad Role")
    assert "choose another" in shell.refused("token", "--user", "al ice")
    assert "--hours" in shell.refused("token", "--user", "alice", "--hours", "0")
    assert shell.json("users") == {"users": []}
    assert "No user yet" in shell.run("users").stderr


def test_users_are_listed_with_their_roles(shell: Shell) -> None:
    shell.run("users", "add", "bob", "--role", "analyst", "--subject", "idp|7")
    shell.token("--user", "alice")
    shell.run("users", "disable", "alice")
    alice, bob = shell.json("users")["users"]
    assert (alice["user"], alice["roles"], alice["enabled"]) == ("alice", [], False)
    assert (bob["user"], bob["subject"], bob["roles"], bob["enabled"]) == ("bob", "idp|7", ["analyst"], True)
    table = shell.run("users").stdout
    assert "role analyst" in table
    assert "no role" in table


def test_roles_of_a_dataset_are_set_and_shown(shell: Shell) -> None:
    assert shell.json("roles") == {"datasets": []}
    Ledger.lead(shell.conn).sync(job("blocks", "logs"))
    done = shell.run("roles", "devnet_logs", "--read", "analyst", "--read", "admin")
    assert done.stderr.strip() == "devnet_logs can be read by users with role admin or analyst"
    assert shell.json("roles")["datasets"] == [
        {"dataset": "devnet_blocks", "read_roles": []},
        {"dataset": "devnet_logs", "read_roles": ["admin", "analyst"]},
    ]
    assert "every user" in shell.run("roles").stdout
    assert shell.run("roles", "devnet_logs", "--anyone").stderr.strip() == "devnet_logs can be read by every user"
    assert readers.read_roles(shell.conn, DEFAULT_ORG)["devnet_logs"] == frozenset()
    assert "there is no dataset typo" in shell.refused("roles", "typo", "--anyone")
    assert "say either" in shell.refused("roles", "devnet_logs")
    assert "say either" in shell.refused("roles", "devnet_logs", "--read", "admin", "--anyone")
    assert "name the DATASET" in shell.refused("roles", "--anyone")


def test_production_keys_sign_and_are_not_rotated_here(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "keys.pem"
    path.write_bytes(private_pem())
    token = shell.token("--user", "alice", TRACE_TOKEN_KEYS=str(path))
    ring = key_files.read_pem(path)
    assert tokens.verify_user(ring, token, now=datetime.now(UTC))
    assert not (shell.home / key_files.SECRETS).exists()
    assert "rotate them in that file" in shell.refused("token", "--rotate", TRACE_TOKEN_KEYS=str(path))


def test_people_of_an_identity_provider_get_no_token_here(shell: Shell) -> None:
    told = shell.refused("token", "--user", "alice", TRACE_JWKS_URL="https://idp.example/jwks")
    assert told == "people's tokens come from TRACE_JWKS_URL: run `trace-ray users add alice --subject SUB`"
    assert shell.json("users") == {"users": []}


def test_the_audit_is_read_from_its_own_database(shell: Shell) -> None:
    assert shell.json("audit") == {"queries": []}
    assert "Nobody has asked" in shell.run("audit").stderr
    task = TaskId(uuid4())
    rows = [
        AuditRow(uuid4(), "OK", org_id=DEFAULT_ORG, user="alice", datasets=(AuditedDataset("devnet_blocks", 7),),
                 rows=1234, bytes=99, bytes_read=5000, seconds=0.5, sql_hash="ab" * 32),
        AuditRow(uuid4(), "WORKER_CRASH", org_id=DEFAULT_ORG, task_id=task, attempt=2, hostile=True, killed=True),
        AuditRow(uuid4(), "UNAUTHENTICATED", reason="expired"),
    ]  # fmt: skip
    for row in rows:
        audit.record(shell.data, row)
    refused, crashed, answered = shell.json("audit")["queries"]
    assert (refused["outcome"], refused["reason"], refused["user"]) == ("UNAUTHENTICATED", "expired", None)
    assert (crashed["task_id"], crashed["attempt"], crashed["hostile"]) == (str(task), 2, True)
    assert answered == {
        "query_id": str(rows[0].query_id), "at": answered["at"], "user": "alice", "task_id": None, "attempt": None,
        "datasets": [{"name": "devnet_blocks", "snapshot": 7}], "outcome": "OK", "reason": None, "rows": 1234,
        "bytes": 99, "bytes_read": 5000, "seconds": 0.5, "sql_hash": "ab" * 32, "hostile": False, "killed": False,
    }  # fmt: skip
    table = shell.run("audit").stdout
    for text in ("alice", "devnet_blocks at 7", "1,234", f"task {task}, attempt 2", "hostile", "(token refused)"):
        assert text in table
    assert len(shell.json("audit", "--user", "alice")["queries"]) == 1
    assert len(shell.json("audit", "--outcome", "WORKER_CRASH")["queries"]) == 1
    assert len(shell.json("audit", "--limit", "2")["queries"]) == 2

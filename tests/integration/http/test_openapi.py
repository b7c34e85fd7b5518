"""schemathesis draws requests from the OpenAPI document of the app, with and without tokens, right and wrong ones.

No response is a failure of the service; each has a status, a type and a body that the document declares.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import pytest

from tests.served import Served

pytestmark = pytest.mark.timeout(300)
OPEN = {"GET /healthz", "GET /readyz", "GET /.well-known/jwks.json"}
CONFIG = Template("""
color = false
continue-on-failure = true
max-failures = 50
workers = 2

[dictionaries]
statements = { values = ["select 1", "select * from devnet_blocks", "from dataset", "select 1 from nosuch", "select",
  "select 1::hugeint, [1.5], {'a': unhex('00')}, null", "select * from devnet_logs limit 0"] }
names = { values = ["devnet_blocks", "devnet_logs"] }
questions = { values = $questions }
tasks = { values = ["$task"] }
attempts = { values = [$attempt] }

[parameters]
"body.sql" = { dictionary = "statements", probability = 0.7 }
"body.dataset_id" = { dictionary = "names", probability = 0.5 }
"body.task_id" = { dictionary = "tasks", probability = 0.8 }
"body.attempt" = { dictionary = "attempts", probability = 0.8 }
"path.name" = { dictionary = "names", probability = 0.5 }
"path.query_id" = { dictionary = "questions", probability = 0.5 }

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 307, 400, 401, 403, 404]  # no schema says which SQL is right and which id exists

[generation]
max-examples = $examples
""")
TOKENS = """
[auth.openapi]
HTTPBearer = { bearer = "${TOKEN}" }
APIKeyHeader = { api_key = "${CAPABILITY}" }
"""


def report(service: Served, directory: Path, *, examples: int, with_tokens: bool) -> dict[str, Any]:
    """Run schemathesis against the service, with so many examples per operation and phase; return its report."""
    lease = service.running("contracts" if with_tokens else "traces", ttl_s=600)
    questions = [
        service.ask(sql, limit=10_000).json()["query_id"] for sql in ("select 1", "select range from range(20000)")
    ]
    config = CONFIG.substitute(
        questions=json.dumps(questions), task=lease.task.task_id, attempt=lease.attempt, examples=examples
    )
    (directory / "schemathesis.toml").write_text(config + (TOKENS if with_tokens else ""))
    told = directory / "report.json"
    tokens = {"TOKEN": service.token(), "CAPABILITY": service.capability(lease, "devnet_blocks", "devnet_logs")}
    done = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), "run", f"{service.url}/openapi.json", "--seed", "1",
         "--phases", "examples,coverage,fuzzing,stateful", "--report", "json", "--report-json-path", told],
        capture_output=True, text=True, timeout=280, check=False, cwd=directory, env={**os.environ, **tokens},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(told.read_text())


def accepted(found: dict[str, Any]) -> dict[str, int]:
    """Operation -> requests that got what they asked for."""
    rates = found["valid_rates"]
    return {operation: sum(phase["accepted"] for phase in phases.values()) for operation, phases in rates.items()}


def test_responses_are_as_the_document_says(service: Served, tmp_path: Path) -> None:
    found = report(service, tmp_path, examples=15, with_tokens=True)

    answered = accepted(found)
    assert found["test_cases"]["generated"] > 200
    assert found["operations"]["tested"] == len(answered) == 9
    assert [operation for operation, times in answered.items() if not times] == []


def test_without_tokens_nothing_is_answered_but_health_and_keys(service: Served, tmp_path: Path) -> None:
    found = report(service, tmp_path, examples=5, with_tokens=False)

    assert {operation for operation, times in accepted(found).items() if times} == OPEN
    assert found["operations"]["tested"] == 9

"""Query services with something to steal around them, and how to tell whether anything was.

Two replicas serve one stack: `brisk_with_people` stops people's questions after a moment, `brisk_with_tasks` those of
tasks; who is not hurried on a replica may take a minute.
"""

import base64
import hashlib
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest

from query.pool import SIZE
from state import readers
from state.db import connect
from tests.conftest import wait_until
from tests.integration.query.prey import Prey, roaming
from tests.served import Served, publish, served, settings_for
from trace_ray.config import Settings
from trace_ray.contracts import Lease, OrgId
from trace_ray.key_files import AUDIT_KEY, SECRETS

MOMENT_S = 0.3  # enough to see that a bomb goes off
MINUTE_S = 60.0
DATASETS = ("devnet_blocks", "devnet_transactions", "devnet_logs")
SECRET = re.compile(r"[A-Za-z0-9+/_=-]{40,}")  # a key as its file holds it


@dataclass(frozen=True)
class Besieged:
    """The replicas, what lies around them, and tokens to ask with. `secrets` may be in no response in any form."""

    brisk_with_people: Served
    brisk_with_tasks: Served
    prey: Prey
    secrets: tuple[str, ...]
    token: str
    lease: Lease
    capability: str

    @property
    def settings(self) -> Settings:
        return self.brisk_with_people.settings

    def granted(self) -> Path:
        """A published object that may be read."""
        return next(path for path in (self.settings.data_dir / "objects" / "cryo").rglob("blocks_*.parquet"))

    def as_person(self, service: Served, sql: str) -> httpx.Response:
        return service.ask(sql, self.token)

    def as_task(self, service: Served, sql: str) -> httpx.Response:
        return service.ask_task(sql, self.capability, self.lease)

    def leaks(self, response: httpx.Response) -> list[str]:
        """What of the secrets stands in a response, and in a refusal also where things are."""
        text = "\n".join([response.text, *(f"{name}: {value}" for name, value in response.headers.items())])
        places = [] if response.status_code == 200 else [str(self.settings.data_dir), "cryo/31337/", ".parquet"]
        return [form for secret in self.secrets for form in forms(secret) if form in text] + [
            place for place in places if place in text
        ]

    def ends(self) -> dict[str, str]:
        """Query id -> outcome, as the audit has them."""
        rows = self.brisk_with_people.ledger.rows(b"SELECT query_id, outcome FROM data.query_audit")
        return {str(row["query_id"]): str(row["outcome"]) for row in rows}


@contextmanager
def besieged(directory: Path, database: str, *, moment_s: float = MOMENT_S) -> Generator[Besieged]:
    """Serve a stack in `directory` until the block ends. The prey lies in the object store, beside what is granted.

    The environment of this process, the keys and the ledger hold secrets too. `moment_s` are the seconds that a
    question may take where it is hurried.
    """
    settings = settings_for(directory, database)
    with connect(database, application_name="trace-test") as conn, pytest.MonkeyPatch.context() as patch:
        ledger = publish(settings, conn)
        with roaming(settings.data_dir / "objects") as prey:
            patch.setenv("TRACE_BESIEGED", prey.marker)
            with conn.transaction():
                readers.add_user(conn, OrgId(uuid4()), prey.marker, [])
            with (
                served(settings, ledger, query_s=moment_s, task_query_s=MINUTE_S) as hurrying_people,
                served(settings, ledger, query_s=MINUTE_S, task_query_s=moment_s) as hurrying_tasks,
            ):
                lease = hurrying_people.running("errand", ttl_s=1800)
                token, capability = hurrying_people.token(), hurrying_people.capability(lease, *DATASETS)
                secrets = (prey.marker, database.rsplit("/", 1)[1].partition("?")[0], *keys(settings))
                yield Besieged(
                    hurrying_people, hurrying_tasks, prey, (*secrets, token, capability), token, lease, capability
                )


def keys(settings: Settings) -> list[str]:
    """The keys of tokens and of the audit, as their files hold them."""
    found = [key for name in (SECRETS, AUDIT_KEY) for key in SECRET.findall((settings.data_dir / name).read_text())]
    assert len(found) >= 3
    return found


def forms(secret: str) -> set[str]:
    """A secret as it is, in hexadecimal, backwards, and in base64 wherever in a text it stands."""
    raw = secret.encode()
    encoded = {base64.b64encode(b" " * shift + raw)[4:-4].decode() for shift in range(3)}
    return {secret, raw.hex(), raw.hex().upper(), secret[::-1], *encoded}


def lasting(settings: Settings) -> dict[Path, str]:
    """The digest of each file of a stack but scratch files and stored answers, which come and go."""
    passing = (settings.data_dir / "scratch", settings.data_dir / "objects" / "results")
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in settings.data_dir.rglob("*")
        if path.is_file() and not any(path.is_relative_to(folder) for folder in passing)
    }


# --- processes ----------------------------------------------------------------------------------------------------


def query_processes() -> list[psutil.Process]:
    """The zygotes of the services that run in this process, and all that came of them."""
    zygotes = [child for child in psutil.Process().children() if is_zygote(child)]
    return [process for zygote in zygotes for process in (zygote, *zygote.children(recursive=True))]


def is_zygote(process: psutil.Process) -> bool:
    try:
        return any("query.zygote" in part for part in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def wait_for_rest(services: int) -> list[psutil.Process]:
    """Wait until nothing runs on after its answer; return what is left: for each service a zygote and idle workers."""
    most = services * (1 + SIZE + 1)

    def resting() -> bool:
        found = [status(process) for process in query_processes()]
        return len(found) <= most and set(found) <= {psutil.STATUS_SLEEPING}

    wait_until(resting, what="the end of all that ran")
    return query_processes()


def status(process: psutil.Process) -> str:
    """What a process does; `dead` when it is gone."""
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD

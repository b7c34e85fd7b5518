"""Settings and defaults. The only reader of the environment, and the door through which job files enter.

Every default of SPEC section 10 has its one name here. What a running stack was started with is kept in a private file
of its data directory, so that Ray actors, which do not share the shell's environment, read the same settings.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from trace_ray import channel_settings, drafts, jobfile, s3_settings, sandbox_settings, variables
from trace_ray.channel_settings import CHANNEL_VARIABLE, LOOPBACK_VARIABLE
from trace_ray.channels import Channel, ChannelKind
from trace_ray.contracts import DEFAULT_ORG, Job, OrgId, S3Credentials
from trace_ray.errors import RefusedInput, StackUnavailable
from trace_ray.pool_settings import POOL_VARIABLE, RpcPool, rpc_pools
from trace_ray.retry import RetryPolicy
from trace_ray.variables import Reader

# --- work ---------------------------------------------------------------------------------------------------------

LEASE_S: Final = 120.0  # far above the 15 s in which Ray declares a lost node dead
HEARTBEAT_S: Final = 30.0  # three beats may be lost before a lease expires
LEADER_S: Final = 20.0  # a new Dispatcher waits so long when the old one's cluster is gone; `up` allows 60 s
MAX_ATTEMPTS: Final = 3
MAX_INFRA_FAILURES: Final = 20  # lost workers do not use up a range's attempts, but not for ever
RETRIES: Final = RetryPolicy(30.0, 600.0, MAX_ATTEMPTS, MAX_INFRA_FAILURES)
LOCAL_RETRIES: Final = RetryPolicy(1.0, 30.0, MAX_ATTEMPTS, MAX_INFRA_FAILURES)  # a person waits at the laptop
RANGE_TIMEOUT_S: Final = 600.0  # a range of 500 full mainnet blocks on a slow provider takes about 5 minutes
WORKER_SLOTS: Final = 3  # far providers are waited for, and one verifies while others extract
MAX_DEFAULT_WORKERS: Final = 8  # more is a decision about the provider's limits: TRACE_WORKERS
STAGING_KEPT_S: Final = 24 * 3600.0  # staging directories and uncommitted objects older than this are swept

# --- what must follow ---------------------------------------------------------------------------------------------

OUTBOX_RETRIES: Final = RetryPolicy(1.0, 300.0, 20, 20)
BUFFER_MAX_DELIVERIES: Final = 10
BATCH_MAX_BYTES: Final = drafts.MAX_BATCH
DELIVERY_RETRIES: Final = RetryPolicy(5.0, 1800.0, 12, 12)

# --- alerts ------------------------------------------------------------------------------------------------------

MAX_EVALUATORS: Final = 32  # one for each node; more would ask more of the query service than its replicas answer
EVALUATOR_SLOTS: Final = 4  # sandboxes at once in an evaluator: they wait for answers more than they compute

# --- queries ------------------------------------------------------------------------------------------------------

QUERY_S: Final = 60.0
TASK_QUERY_S: Final = 300.0
INLINE_ROWS: Final = 10_000
INLINE_BYTES: Final = 10 * 1024**2
DEFAULT_ROWS: Final = 1_000
RESULTS_KEPT_S: Final = 7 * 24 * 3600.0
AUDIT_KEPT_DAYS: Final = 400.0  # a year and the time to look back at it
CAPABILITY_EXTRA_S: Final = 300.0  # a capability token outlives its task's timeout by this

# --- settings -----------------------------------------------------------------------------------------------------

HTTP_PORT: Final = 8000
ENGINES: Final = ("cryo", "native")
STACK_FILE: Final = "stack.json"
STACK_VERSION: Final = 1
PATHS: Final = ("token_keys", "audit_key", "sandbox_cgroup_parent", "sandbox_dir")  # settings that may be unset

VARIABLES: Final = (
    "TRACE_DATA_DIR", "TRACE_STATE_DATABASE_URL", "TRACE_DATA_DATABASE_URL", "TRACE_OBJECT_STORE", "TRACE_S3_ENDPOINT",
    "TRACE_ORG_ID", "TRACE_WORKERS", "TRACE_HTTP_PORT", "TRACE_ENGINE", "TRACE_RANGE_TIMEOUT_SECONDS",
    "TRACE_LEASE_SECONDS", "TRACE_TOKEN_KEYS", "TRACE_JWKS_URL", "TRACE_TOKEN_ISSUER", "TRACE_AUDIT_KEY",
    "TRACE_AUDIT_KEPT_DAYS", "TRACE_URL", "TRACE_TOKEN", LOOPBACK_VARIABLE,
    *sandbox_settings.VARIABLES,
)  # fmt: skip
NAMED: Final = {"TRACE_RPC_POOL_": "TRACE_RPC_POOL_<NAME>_URLS", "TRACE_CHANNEL_": "TRACE_CHANNEL_<NAME>_KIND"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the environment decides.

    `sources` says for each setting where it came from, `warnings` what looks like a mistake; both are for people and
    hold no values. Database URLs are None while the embedded Postgres has not been started.
    """

    data_dir: Path
    embedded_postgres: bool
    state_database_url: str | None = field(repr=False)
    data_database_url: str | None = field(repr=False)
    object_store: str
    s3_endpoint: str | None
    rpc_pools: Mapping[str, RpcPool]
    org_id: OrgId
    workers: int
    http_port: int
    engine: str
    ray_address: str | None
    range_timeout_s: float
    sources: Mapping[str, str]
    s3: S3Credentials | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    lease_s: float = LEASE_S
    token_keys: Path | None = None
    jwks_url: str | None = field(default=None, repr=False)
    token_issuer: str | None = None
    audit_key: Path | None = None
    channels: Mapping[str, Channel] = field(default_factory=dict[str, Channel])
    alerts_allow_loopback: bool = False
    audit_kept_days: float = AUDIT_KEPT_DAYS
    sandbox_backends: tuple[str, ...] = sandbox_settings.DEFAULT_BACKENDS
    sandbox_cgroups: bool = True
    sandbox_cgroup_parent: Path | None = None
    sandbox_dir: Path | None = None

    @property
    def leader_s(self) -> float:
        """How long a Dispatcher leads without a word: shorter with shorter leases."""
        return LEADER_S * self.lease_s / LEASE_S


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the environment; an empty variable counts as unset.

    Raises:
        RefusedInput: with one sentence for each variable that is wrong; no sentence shows a secret.
    """
    reader = Reader(os.environ if environ is None else environ)
    data_dir = reader.value("data_dir", "TRACE_DATA_DIR", variables.directory, Path.home() / ".trace-ray")
    state, data = _databases(reader)
    store = reader.value("object_store", "TRACE_OBJECT_STORE", variables.store_url, (data_dir / "objects").as_uri())
    on_s3 = store.startswith("s3://")
    engine = "cryo" if find_spec("cryo") else "native"
    loopback = channel_settings.loopback_allowed(reader)
    cgroups = sandbox_settings.cgroups(reader)
    settings = Settings(
        data_dir=data_dir,
        embedded_postgres=state is None,
        state_database_url=state,
        data_database_url=data,
        object_store=store,
        s3_endpoint=s3_settings.endpoint(reader) if on_s3 else None,
        s3=s3_settings.credentials(reader) if on_s3 else None,
        rpc_pools=rpc_pools(reader),
        org_id=reader.value("org_id", "TRACE_ORG_ID", variables.org_id, DEFAULT_ORG),
        workers=reader.value("workers", "TRACE_WORKERS", variables.whole(1, 1024), _default_workers()),
        http_port=reader.value("http_port", "TRACE_HTTP_PORT", variables.whole(0, 65_535), HTTP_PORT),
        engine=reader.value("engine", "TRACE_ENGINE", variables.one_of(*ENGINES), engine),
        ray_address=reader.optional("ray_address", "RAY_ADDRESS", variables.plain),
        range_timeout_s=reader.value(
            "range_timeout_s", "TRACE_RANGE_TIMEOUT_SECONDS", variables.number(1, 24 * 3600), RANGE_TIMEOUT_S
        ),
        lease_s=reader.value("lease_s", "TRACE_LEASE_SECONDS", variables.number(5, 3600), LEASE_S),
        token_keys=reader.optional("token_keys", "TRACE_TOKEN_KEYS", variables.existing_file),
        jwks_url=reader.optional("jwks_url", "TRACE_JWKS_URL", variables.jwks_url),
        token_issuer=reader.optional("token_issuer", "TRACE_TOKEN_ISSUER", variables.plain),
        audit_key=reader.optional("audit_key", "TRACE_AUDIT_KEY", variables.file),
        channels=channel_settings.channels(reader, allow_loopback=loopback),
        alerts_allow_loopback=loopback,
        audit_kept_days=reader.value(
            "audit_kept_days", "TRACE_AUDIT_KEPT_DAYS", variables.number(8, 36_500), AUDIT_KEPT_DAYS
        ),
        sandbox_backends=sandbox_settings.backends(reader),
        sandbox_cgroups=cgroups,
        sandbox_cgroup_parent=sandbox_settings.cgroup_parent(reader, wanted=cgroups),
        sandbox_dir=sandbox_settings.directory(reader),
        sources=reader.sources,
        warnings=_unknown_variables(reader.environ),
    )
    if reader.problems:
        raise RefusedInput(reader.problems)
    return settings


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where a query service is, and the token to ask it with."""

    url: str
    token: str = field(repr=False)


def read_client_settings(environ: Mapping[str, str] | None = None) -> ClientSettings:
    """Read what `trace_ray.client` needs, which is all that a user elsewhere has to set.

    Raises:
        RefusedInput: with one sentence for each variable that is missing or wrong; none shows the token.
    """
    reader = Reader(os.environ if environ is None else environ)
    port = reader.value("http_port", "TRACE_HTTP_PORT", variables.whole(1, 65_535), HTTP_PORT)
    url = reader.value("url", "TRACE_URL", variables.service_url, f"http://127.0.0.1:{port}")
    token = reader.optional("token", "TRACE_TOKEN", variables.plain)
    if token is None:
        reader.problems.append("TRACE_TOKEN is not set: put there what `trace-ray token` prints")
    if reader.problems:
        raise RefusedInput(reader.problems)
    return ClientSettings(url, token or "")


def read_job(path: Path, org_id: OrgId = DEFAULT_ORG) -> Job:
    """Read a job file.

    Raises:
        RefusedInput: with one sentence for each mistake of the file, in the order of its lines.
    """
    return jobfile.read(path, org_id)


def job_schema() -> dict[str, object]:
    """Return the JSON Schema of a job file, for editors; it lives in docs/reference/job-file.schema.json."""
    return jobfile.schema()


def state_url(settings: Settings) -> str:
    """Return the URL of database `state`.

    Raises:
        StackUnavailable: the embedded Postgres has not been started.
    """
    return _url(settings.state_database_url)


def data_url(settings: Settings) -> str:
    """Return the URL of database `data`.

    Raises:
        StackUnavailable: the embedded Postgres has not been started.
    """
    return _url(settings.data_database_url)


def _url(url: str | None) -> str:
    if url is None:
        raise StackUnavailable("the embedded Postgres is not running: run `trace-ray up`")
    return url


def secrets(settings: Settings) -> tuple[str, ...]:
    """Return what must never be shown: parts of the settings' URLs that can hold a key, S3 keys, channels' secrets."""
    urls = [url for pool in settings.rpc_pools.values() for url in pool.urls]
    urls += [url for url in (settings.state_database_url, settings.data_database_url, settings.jwks_url) if url]
    found = {secret for url in urls for secret in variables.secrets(url)}
    if settings.s3:
        found |= {key for key in (settings.s3.access_key, settings.s3.secret_key, settings.s3.session_token) if key}
    return tuple(sorted(found.union(*map(channel_settings.secrets, settings.channels.values()))))


# --- the running stack --------------------------------------------------------------------------------------------


def save_stack(settings: Settings) -> None:
    """Write the settings of the running stack into its data directory, readable by its owner alone.

    Raises:
        RefusedInput: the directory cannot be written.
    """
    content = {"version": STACK_VERSION, **asdict(settings)}
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        _replace_file(settings.data_dir / STACK_FILE, json.dumps(content, default=str))
    except OSError as error:
        raise RefusedInput("TRACE_DATA_DIR cannot be written: name a directory that is yours, with space") from error


def _replace_file(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_stack(data_dir: Path) -> Settings:
    """Read the settings that the running stack of a data directory was started with.

    Where none was written (a node of a cluster) and the environment names a database, the environment is read.

    Raises:
        StackUnavailable: no stack was started here.
        RefusedInput: the environment is read and wrong.
    """
    try:
        content = json.loads((data_dir / STACK_FILE).read_text(encoding="utf-8"))
        if content.pop("version") != STACK_VERSION:
            raise StackUnavailable("another version of trace_ray started this stack: run `trace-ray up`")
        return _from_stack(content)
    except FileNotFoundError:
        if os.environ.get("TRACE_STATE_DATABASE_URL"):
            return replace(read_settings(), data_dir=data_dir)
        raise StackUnavailable("no stack was started in this data directory: run `trace-ray up`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackUnavailable("the settings of the stack cannot be read: run `trace-ray up` again") from error


def _from_stack(content: dict[str, Any]) -> Settings:
    """Rebuild what `save_stack` wrote; our own file, so its shape is checked by the constructor alone."""
    s3 = content["s3"]
    pools = {name: RpcPool(tuple(pool["urls"]), pool["requests_per_s"]) for name, pool in content["rpc_pools"].items()}
    restored: dict[str, Any] = {
        **content,
        "data_dir": Path(content["data_dir"]),
        "rpc_pools": pools,
        "channels": {name: _channel(channel) for name, channel in content.get("channels", {}).items()},
        "org_id": OrgId(UUID(content["org_id"])),
        "s3": S3Credentials(**s3) if s3 else None,
        "warnings": tuple(content["warnings"]),
        "sandbox_backends": tuple(content.get("sandbox_backends", sandbox_settings.DEFAULT_BACKENDS)),
        **{name: Path(content[name]) if content.get(name) else None for name in PATHS},
    }
    return Settings(**restored)


def _channel(content: dict[str, Any]) -> Channel:
    restored: dict[str, Any] = {
        **content,
        "kind": ChannelKind(content["kind"]),
        **{name: tuple(content[name]) for name in ("secrets", "recipients")},
    }
    return Channel(**restored)


# --- reading the environment --------------------------------------------------------------------------------------


def _databases(reader: Reader) -> tuple[str | None, str | None]:
    """Return the URLs of `state` and `data`; one server can hold both, in schemas of their own."""
    state = reader.optional("state_database_url", "TRACE_STATE_DATABASE_URL", variables.database_url)
    data = reader.optional("data_database_url", "TRACE_DATA_DATABASE_URL", variables.database_url)
    if "TRACE_STATE_DATABASE_URL" not in reader.environ:
        reader.sources["state_database_url"] = reader.sources["data_database_url"] = "embedded Postgres"
        if "TRACE_DATA_DATABASE_URL" in reader.environ:
            reader.problems.append(
                "TRACE_DATA_DATABASE_URL is set without TRACE_STATE_DATABASE_URL: "
                "set both, or neither for the embedded Postgres"
            )
    elif "TRACE_DATA_DATABASE_URL" not in reader.environ:
        reader.sources["data_database_url"] = "TRACE_STATE_DATABASE_URL"
        return state, state
    return state, data


def _unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a sentence for each TRACE_ variable that nothing reads: told, not refused, since a newer release may."""
    warnings: list[str] = []
    for variable in sorted(environ):
        if not variable.startswith("TRACE_") or variable in VARIABLES:
            continue
        if POOL_VARIABLE.fullmatch(variable) or CHANNEL_VARIABLE.fullmatch(variable):
            continue
        known = next((form for start, form in NAMED.items() if variable.startswith(start)), None)
        close = [known] if known else get_close_matches(variable, VARIABLES, n=1, cutoff=0.7)
        warnings.append(
            f"{variable} is not a setting and is ignored" + (f": did you mean {close[0]}?" if close else "")
        )
    return tuple(warnings)


def _default_workers() -> int:
    return min(MAX_DEFAULT_WORKERS, max(2, os.cpu_count() or 1))


# --- Ray's environment --------------------------------------------------------------------------------------------

RAY_QUIET: Final = {"RAY_USAGE_STATS_ENABLED": "0"}


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a Ray that we start: ours, without usage reports, and with `extra`."""
    return {**os.environ, **RAY_QUIET, **extra}


def enter_ray(variables: Mapping[str, str]) -> None:
    """Make this process a client of a cluster; must run before Ray is imported, which reads its variables only then."""
    os.environ.update({**RAY_QUIET, **variables})

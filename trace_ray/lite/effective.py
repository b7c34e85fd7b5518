"""Which settings count: what the environment names, else what the last `up` was started with, else the default.

So a stack that was started with an S3 bucket is queried there from a shell that knows nothing of it, and `up` after
`down` goes on as before. A running devnet serves the pool `standard` when nothing else does.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from trace_ray import config
from trace_ray.config import Settings
from trace_ray.contracts import Job
from trace_ray.errors import RefusedInput, StackUnavailable
from trace_ray.lite import devnet
from trace_ray.pool_settings import RpcPool

KEPT: Final = (
    "object_store", "s3_endpoint", "s3", "workers", "http_port", "engine", "range_timeout_s", "lease_s",
    "token_keys", "jwks_url", "token_issuer", "audit_key", "alerts_allow_loopback", "audit_kept_days",
    "sandbox_backends", "sandbox_cgroups", "sandbox_cgroup_parent", "sandbox_dir",
)  # fmt: skip
DEVNET_POOL: Final = "standard"
LAST_UP: Final = "last `up`"


def effective(settings: Settings) -> Settings:
    """Fill in what the environment leaves open; `sources` says what came from where."""
    named = settings.rpc_pools.keys()
    settings = _with_saved(settings, _saved(settings.data_dir))
    net = devnet.running(settings.data_dir)
    if net is None or DEVNET_POOL in named:  # a devnet's port is new each time: what was saved of one is old
        return settings
    pools = {**settings.rpc_pools, DEVNET_POOL: RpcPool((net.url,))}
    return replace(settings, rpc_pools=pools, sources={**settings.sources, f"rpc_pools.{DEVNET_POOL}": "the devnet"})


def need_pools(job: Job, settings: Settings) -> None:
    """Refuse a job whose pools have no provider here.

    Raises:
        RefusedInput: one sentence per pool.
    """
    missing = sorted({stream.rpc_pool for stream in job.streams} - settings.rpc_pools.keys())
    if missing:
        raise RefusedInput(
            [f"rpc pool {name} has no provider: set TRACE_RPC_POOL_{name.upper()}_URLS" for name in missing]
        )


def missing_channels(names: Iterable[str], settings: Settings) -> list[str]:
    """Return a sentence for each of these channels that is not set where deliveries are sent: in the running stack."""
    saved = _saved(settings.data_dir)
    found: list[str] = []
    for name in names:
        if name not in settings.channels:
            variable = f"TRACE_CHANNEL_{name.upper()}_KIND"
            found.append(f"channel {name} is not set: set {variable} and its other parts, then run `trace-ray up`")
        elif saved is not None and saved.channels.get(name) != settings.channels[name]:
            found.append(f"the stack does not know channel {name} as this shell does: run `trace-ray up`")
    return found


def share_pools(settings: Settings) -> None:
    """Tell the workers of the running stack about pools that this shell knows; they read them anew for each range."""
    saved = _saved(settings.data_dir)
    if saved is not None and saved.rpc_pools != settings.rpc_pools:
        config.save_stack(replace(saved, rpc_pools=settings.rpc_pools))


def _saved(data_dir: Path) -> Settings | None:
    if not (data_dir / config.STACK_FILE).exists():
        return None
    try:
        return config.load_stack(data_dir)
    except StackUnavailable:  # written by another version: `up` writes it anew
        return None


def _with_saved(settings: Settings, saved: Settings | None) -> Settings:
    if saved is None:
        return settings
    kept = {name: getattr(saved, name) for name in KEPT if settings.sources.get(name, "default") == "default"}
    sources = {**settings.sources, **dict.fromkeys(kept, LAST_UP)}
    sources |= {f"rpc_pools.{name}": LAST_UP for name in saved.rpc_pools if name not in settings.rpc_pools}
    sources |= {f"channels.{name}": LAST_UP for name in saved.channels if name not in settings.channels}
    pools, channels = {**saved.rpc_pools, **settings.rpc_pools}, {**saved.channels, **settings.channels}
    settings = replace(settings, rpc_pools=pools, channels=channels, sources=sources, **kept)
    if not settings.embedded_postgres:
        return settings
    return replace(
        settings,
        embedded_postgres=saved.embedded_postgres,
        state_database_url=saved.state_database_url,
        data_database_url=saved.data_database_url,
    )

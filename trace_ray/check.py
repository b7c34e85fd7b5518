"""What `trace-ray check` learns of a job beyond its file: does each pool serve this chain, how far, and can it answer.

Asks every provider of the pools that the job names; changes nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from trace_ray import plan
from trace_ray.catalog import CATALOG
from trace_ray.config import Settings
from trace_ray.contracts import FixedTarget, Job, Receipts, Stream
from trace_ray.errors import RefusedInput
from trace_ray.extract.engine import Provider
from trace_ray.extract.rpc import JsonRpc
from trace_ray.pool_settings import RpcPool

CALLS: Final = {"blocks": 1, "transactions": 2, "logs": 1}  # per block; blocks and transactions share one
TRACE_CALLS: Final = 1


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """One provider: its head, and the RPC methods of the job that it lacks."""

    provider: str
    head: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StreamReport:
    """How much work a stream is; both None while the head of a following job is unknown."""

    dataset: str
    ranges: int | None
    calls: int | None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is known of a job before it runs. `unknown_pools` have no provider here, so nothing was asked."""

    job: str
    chain_id: int
    streams: tuple[StreamReport, ...]
    providers: tuple[ProviderReport, ...]
    unknown_pools: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as sentences."""
        lines = [f"Job {self.job} of chain {self.chain_id} is valid"]
        for stream in self.streams:
            work = "" if stream.ranges is None else f": {stream.ranges:,} ranges, about {stream.calls:,} RPC calls"
            lines.append(f"  {stream.dataset}{work}")
        for provider in self.providers:
            lack = f", lacks {', '.join(provider.missing)}" if provider.missing else ", answers all that the job needs"
            lines.append(f"Provider {provider.provider}: head {provider.head:,}{lack}")
        lines += [
            f"Pool {pool} has no provider here, so no node was asked: set TRACE_RPC_POOL_{pool.upper()}_URLS"
            for pool in self.unknown_pools
        ]
        return lines


def examine(job: Job, settings: Settings) -> CheckReport:
    """Ask the providers of a job.

    Raises:
        RefusedInput: a provider serves another chain, or lacks a method without which a dataset cannot be made.
        SourceUnavailable: a provider gives no answer.
    """
    names = sorted({stream.rpc_pool for stream in job.streams})
    known = {name: settings.rpc_pools[name] for name in names if name in settings.rpc_pools}
    providers = [_ask(provider, job) for name, pool in known.items() for provider in _providers(name, pool)]
    head = min((provider.head for provider in providers), default=None)
    _refuse_unable(job, providers)
    return CheckReport(
        job=job.name,
        chain_id=job.chain_id,
        streams=tuple(_work(job, stream, head) for stream in job.streams),
        providers=tuple(providers),
        unknown_pools=tuple(name for name in names if name not in known),
    )


def needed_methods(job: Job) -> dict[str, str]:
    """Return the RPC methods that a job cannot do without, and the dataset that needs each."""
    needed: dict[str, str] = {}
    for stream in job.streams:
        method = CATALOG[stream.cryo_dataset_name].method
        if method is not None:
            needed.setdefault(method, stream.dataset)
        if stream.cryo_dataset_name == "transactions" and job.receipts is not Receipts.NONE:
            needed.setdefault("eth_getBlockReceipts", stream.dataset)
    return needed


def _providers(name: str, pool: RpcPool) -> list[Provider]:
    return [Provider(name, index, url) for index, url in enumerate(pool.urls)]


def _ask(provider: Provider, job: Job) -> ProviderReport:
    rpc = JsonRpc(provider)
    chain_id = rpc.chain_id()
    if chain_id != job.chain_id:
        raise RefusedInput(
            f"provider {provider.name} serves chain {chain_id}, the job wants {job.chain_id}: "
            "mend chain_id in the job file or the URL of the pool"
        )
    missing = tuple(method for method in needed_methods(job) if not rpc.supports(method))
    return ProviderReport(provider.name, rpc.head(), missing)


def _refuse_unable(job: Job, providers: Sequence[ProviderReport]) -> None:
    needed = needed_methods(job)
    problems = [
        f"provider {provider.provider} has no {method}, which {needed[method]} needs: take another provider, or leave "
        "the stream out"
        for provider in providers
        for method in provider.missing
        if method != "eth_getBlockReceipts"  # receipts one by one do as well, only slower
    ]
    if problems:
        raise RefusedInput(problems)


def _work(job: Job, stream: Stream, head: int | None) -> StreamReport:
    end = job.mode.to_block if isinstance(job.mode, FixedTarget) else plan.target_end(job.mode, head)
    if end is None:
        return StreamReport(stream.dataset, None, None)
    blocks = max(0, end - job.mode.from_block)
    calls = CALLS.get(stream.cryo_dataset_name, TRACE_CALLS)
    return StreamReport(stream.dataset, -(-blocks // stream.chunk_size), blocks * calls)

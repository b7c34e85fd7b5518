"""The ingest operator: leases of one range -> extract -> verify -> rewrite -> upload -> one outcome per lease.

Everything happens in a fresh private staging directory that is gone afterwards. Nothing here can publish: an object
becomes visible only when the ledger accepts the publication.
"""

import errno
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from actors.dispatcher import HeadAnswer
from trace_ray import manifest, retry
from trace_ray.contracts import (
    AttemptKey,
    Certificate,
    DataFile,
    Failure,
    HeadRequest,
    Lease,
    LeaseGroup,
    Outcome,
    Publication,
)
from trace_ray.errors import (
    DeadlineExceeded,
    DiskFull,
    FatalError,
    InfraError,
    SourceLied,
    SourceUnavailable,
    TraceError,
)
from trace_ray.extract.engine import Engine, Extraction, Provider, Request
from trace_ray.extract.needs import with_witnesses
from trace_ray.extract.rewrite import write
from trace_ray.extract.rpc import JsonRpc
from trace_ray.extract.verify import Neighbours, Problem, Proof, verify
from trace_ray.pool_settings import RpcPool
from trace_ray.storage import ObjectStore

logger = logging.getLogger(__name__)

CHAIN_ID_MAX_AGE_S = 300.0  # a provider that changes its chain is rare; the rows carry the chain id as well

DISK_FLOOR = 16 * 1024**2  # bytes; an attempt that fails with less left has most likely failed for that
HEAD_S = 5.0  # a head is one small answer; a provider that hangs must not hold up the others of its pool
WITNESS_METHODS = {
    "transactions": ("eth_getBlockReceipts", "eth_getTransactionReceipt"),
    "logs": ("eth_getLogs",),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """`range_s`: an attempt is killed after so long. `share`: this slot's part of a pool's requests per second."""

    range_s: float
    share: float


@dataclass(frozen=True, slots=True)
class _Made:
    """What one extraction brought, from whom, and where and until when its files are made."""

    extraction: Extraction
    provider: Provider
    directory: Path
    deadline: float


class Ingester:
    """Turns a group of leases into outcomes. Thread-safe: each call has its own directory and child process."""

    def __init__(
        self,
        engine: Engine,
        store: ObjectStore,
        pools: Callable[[], Mapping[str, RpcPool]],
        staging: Path,
        limits: Limits,
    ) -> None:
        self._engine = engine
        self._store = store
        self._pools = pools
        self._staging = staging
        self._limits = limits
        self._chain_seen: dict[tuple[str, int], float] = {}

    def run(self, group: LeaseGroup) -> list[Outcome]:
        """Return one outcome per lease, in order. An error of the range is an outcome, never an exception."""
        provider: Provider | None = None
        try:
            provider = self._provider(group)
            self._check_chain(provider, group.chain_id)
            with self._directory() as directory:
                return self._ingest(group, provider, directory)
        except Exception as error:  # noqa: BLE001 - the pool must survive a bug in one range; the ledger counts it
            if isinstance(error, FatalError) and len(group.leases) > 1:  # one dataset must not end the others
                return [done for lease in group.leases for done in self.run(replace(group, leases=(lease,)))]
            return [self._failed(lease, error, provider) for lease in group.leases]

    def _failed(self, lease: Lease, error: Exception, provider: Provider | None) -> Failure:
        if not isinstance(error, InfraError) and (is_full(error) or self._disk_is_full()):  # the range is not to blame
            error = DiskFull("the disk of the staging directory is full: free some space, or move TRACE_DATA_DIR")
        if not isinstance(error, TraceError):
            logger.exception("attempt failed unexpectedly")
        return retry.failure(lease.key, error, provider=provider.name if provider else None)

    def answer_head(self, request: HeadRequest) -> HeadAnswer:
        """Return the newest block of the pool's first provider that answers, or a sentence that says why none does."""
        message = f"rpc pool {request.rpc_pool} has no provider"
        try:
            for provider in self._providers(request.rpc_pool):
                try:
                    self._check_chain(provider, request.chain_id)
                    head = JsonRpc(provider, timeout_s=HEAD_S).head()
                except SourceUnavailable as error:
                    message = str(error)
                else:
                    return HeadAnswer(request.rpc_pool, request.chain_id, head)
        except TraceError as error:  # also settings that cannot be read at this moment: who asked waits for an answer
            message = str(error)
        return HeadAnswer(request.rpc_pool, request.chain_id, None, message)

    # --- one range ------------------------------------------------------------------------------------------------

    def _ingest(self, group: LeaseGroup, provider: Provider, directory: Path) -> list[Outcome]:
        deadline = time.monotonic() + self._limits.range_s
        extraction = self._extract(group, provider, directory, deadline)
        made = _Made(extraction, provider, directory, deadline)
        outcomes: dict[AttemptKey, Outcome] = {}
        waiting: list[Lease] = list(group.leases)
        while waiting:  # two streams may hold the same kind of data: each has neighbours of its own
            leases: dict[str, Lease] = {lease.task.cryo_dataset_name: lease for lease in reversed(waiting)}
            verdicts = verify(
                extraction.tables,
                blocks=group.blocks,
                receipts=group.leases[0].receipts,
                datasets=leases.keys(),
                neighbours={
                    name: Neighbours(lease.parent_hash, lease.child_parent_hash) for name, lease in leases.items()
                },
                proofs=extraction.proofs,
            )
            for name, lease in leases.items():
                outcomes[lease.key] = self._settle(lease, verdicts[name], made)
            waiting = [lease for lease in waiting if lease.key not in outcomes]
        return [outcomes[lease.key] for lease in group.leases]

    def _extract(self, group: LeaseGroup, provider: Provider, directory: Path, deadline: float) -> Extraction:
        receipts = group.leases[0].receipts
        wanted = frozenset(lease.task.cryo_dataset_name for lease in group.leases)
        request = Request(group.chain_id, with_witnesses(wanted, receipts), group.blocks, receipts)
        try:
            return self._engine.extract(request, provider, directory, deadline=deadline)
        except SourceUnavailable:
            allowed = tuple(name for name in request.datasets if name in wanted or _answers(provider, name))
            if len(group.leases) > 1 or allowed == request.datasets:
                raise
            # the pool does not allow the witnesses: the certificate then names the weaker proof
            smaller = Request(group.chain_id, allowed, group.blocks, receipts)
            return self._engine.extract(smaller, provider, _fresh(directory, "again"), deadline=deadline)

    def _settle(self, lease: Lease, verdict: Proof | Problem, made: _Made) -> Outcome:
        if isinstance(verdict, Problem):
            return self._failed(lease, SourceLied(f"{verdict.check}: {verdict.message}"), made.provider)
        try:
            return self._publish(lease, verdict, made)
        except Exception as error:  # noqa: BLE001 - one dataset must not hold up another; the ledger counts it
            return self._failed(lease, error, made.provider)

    def _publish(self, lease: Lease, proof: Proof, made: _Made) -> Publication:
        task = lease.task
        build = made.extraction.build
        started = time.monotonic()
        table: pa.Table = made.extraction.tables[task.cryo_dataset_name]
        written = write(
            table, task.cryo_dataset_name, _fresh(made.directory, f"out-{task.dataset_key}"), blocks=task.blocks
        )
        rewritten = time.monotonic()
        manifest.check_caps([file.bytes for file in written], task.blocks)
        files: list[DataFile] = []
        for file in written:
            if time.monotonic() > made.deadline:
                raise DeadlineExceeded(f"blocks {task.blocks} were not uploaded in time: is the object store slow?")
            key = manifest.object_key(lease, digest=file.digest)
            self._store.put(file.path, key)
            files.append(DataFile(key, file.bytes, file.rows, file.digest, file.min_block, file.max_block))
        certificate = Certificate(
            level=proof.level,
            checks=proof.checks,
            parent_hash=proof.parent_hash,
            end_hash=proof.end_hash,
            receipts=lease.receipts,
            engine=build.name,
            engine_version=build.version,
            engine_digest=build.digest,
            provider=made.provider.name,
            engine_arguments=made.extraction.arguments,
        )
        seconds = {
            **made.extraction.seconds,
            "rewrite": rewritten - started,
            "upload": time.monotonic() - rewritten,
        }
        return manifest.publication(lease, files=files, certificate=certificate, seconds=seconds)

    # --- providers ------------------------------------------------------------------------------------------------

    def _providers(self, name: str) -> list[Provider]:
        pools = self._pools()
        if name not in pools:
            variable = f"TRACE_RPC_POOL_{name.upper()}_URLS"
            raise SourceUnavailable(f"rpc pool {name} is not known here: set {variable} and run `trace-ray up`")
        pool = pools[name]
        rate = pool.requests_per_s * self._limits.share if pool.requests_per_s else None
        return [Provider(name, index, url, rate) for index, url in enumerate(pool.urls)]

    def _provider(self, group: LeaseGroup) -> Provider:
        """Spread ranges over a pool, and take another provider for each further attempt."""
        providers = self._providers(group.rpc_pool)
        place = group.blocks.start // len(group.blocks) + group.leases[0].attempt - 1
        return providers[place % len(providers)]

    def _check_chain(self, provider: Provider, chain_id: int) -> None:
        key = (provider.url, chain_id)
        if time.monotonic() - self._chain_seen.get(key, -CHAIN_ID_MAX_AGE_S) < CHAIN_ID_MAX_AGE_S:
            return
        found = JsonRpc(provider, timeout_s=HEAD_S).chain_id()
        if found != chain_id:
            raise SourceUnavailable(
                f"provider {provider.name} serves chain {found}, the job wants {chain_id}: "
                "mend chain_id in the job file or the URL of the pool"
            )
        self._chain_seen[key] = time.monotonic()

    def _disk_is_full(self) -> bool:
        try:
            return shutil.disk_usage(self._staging).free < DISK_FLOOR
        except OSError:
            return False  # there is no such directory yet: nothing was written

    @contextmanager
    def _directory(self) -> Generator[Path]:
        self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="attempt-", dir=self._staging))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def is_full(error: Exception) -> bool:
    """Say whether an error itself tells of a full disk, which may have room again by now."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _answers(provider: Provider, name: str) -> bool:
    """Say whether a provider has a method from which a witness can be made."""
    methods = WITNESS_METHODS.get(name)
    return methods is None or any(JsonRpc(provider).supports(method) for method in methods)


def _fresh(directory: Path, name: str) -> Path:
    path = directory / name
    path.mkdir(mode=0o700)
    return path

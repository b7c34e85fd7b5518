"""A real EVM node (anvil) with a filled chain, for people and for tests: chain 31337, Prague rules, loopback only.

The same anvil build and the same arguments give the same block hashes. A longer chain begins with the blocks of a
shorter one. What happens on the chain is `traffic`'s, the process is `node`'s.

A `Devnet` lives in its `with` block. `running_here` and `start_detached` also write it down in the data directory, one
per directory, so that others find it (`running`) and end it (`stop`).
"""

import fcntl
import json
import random
import shutil
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import httpx
import psutil

from trace_ray.errors import RefusedInput, SourceUnavailable, StackUnavailable
from trace_ray.lite.node import Call, Node, end
from trace_ray.lite.traffic import CHAIN_ID, COINBASE, SETUP_BLOCKS, Traffic, Transaction

BLOCK_INTERVAL_S: Final = 12
MIN_BLOCKS: Final = SETUP_BLOCKS + 1
MAX_TRANSACTIONS: Final = 1000  # in a block
ASK_S: Final = 5.0
ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)  # the latter when the terminal is closed

Progress = Callable[[int], None]


class Devnet:
    """A node and the traffic that is put on it.

    Args:
        anvil: A native binary, from `anvil.find` or `anvil.install`.
        port: None takes a free one.
        log: What the node says; written anew at each start.
        state_dir: Where the node keeps old states while it runs.
    """

    chain_id: Final = CHAIN_ID

    def __init__(self, anvil: Path, *, port: int | None, log: Path, state_dir: Path) -> None:
        self._node = Node(anvil, port=port, log=log, state_dir=state_dir)
        self._traffic: Traffic | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Return when the node answers; its chain is the genesis block.

        Raises:
            RefusedInput: the port is taken.
            StackUnavailable: the node died, with its last word, or did not answer in time.
        """
        self._node.start()
        self._node.call("anvil_setBlockTimestampInterval", BLOCK_INTERVAL_S)
        self._node.call("anvil_setCoinbase", COINBASE)

    def stop(self) -> None:
        """End the node; its chain is gone. Harmless when it does not run."""
        self._node.stop()

    def wait(self) -> None:
        """Return when the node was ended by somebody, or on Ctrl-C; StackUnavailable when it died."""
        self._node.wait()

    @property
    def url(self) -> str:
        return self._node.url

    @property
    def node(self) -> Node:
        """Return the node, for calls of one's own."""
        return self._node

    def head(self) -> int:
        """Return the number of the newest block."""
        return _quantity(self._node.call("eth_blockNumber"))

    def fill(self, *, blocks: int, transactions: int, seed: int = 1, progress: Progress | None = None) -> int:
        """Mine until the head is block `blocks`, and return it: the chain is then [0, blocks + 1).

        Blocks 1 to 3 set up (contracts, tokens, allowances), every fiftieth is empty, each other one has `transactions`
        transactions. A filled chain can be filled further. `progress` is told the head after each block.

        Raises:
            RefusedInput: too few blocks, or a number of transactions that no block can hold.
            SourceUnavailable: the node refused, or stopped answering.
        """
        first = self.head() + 1
        _check_wish(first=first, blocks=blocks, transactions=transactions)
        traffic = self._resume()
        rng = random.Random(seed)  # noqa: S311 - repeatable traffic, no secrets
        for height in range(self.head() + 1, blocks + 1):
            self._mine(traffic.block(rng, height=height, transactions=transactions))
            if progress is not None:
                progress(height)
        left = cast(dict[str, str], self._node.call("txpool_status"))
        if self.head() != blocks or int(left["pending"], 16) + int(left["queued"], 16) > 0:
            raise SourceUnavailable(
                f"the devnet did not mine all that it was sent up to block {blocks}: start it again"
            )
        return blocks

    def _resume(self) -> Traffic:
        """Return the traffic, its nonces those of the chain; the set-up blocks are mined."""
        fresh = self._traffic is None
        traffic = self._traffic or Traffic(cast(list[str], self._node.call("eth_accounts")))
        asked = [("eth_getTransactionCount", cast(list[object], [sender, "latest"])) for sender in traffic.senders]
        counts = map(_quantity, self._node.batch(asked))
        traffic.resume(dict(zip(traffic.senders, counts, strict=True)))
        if fresh:
            self._node.call("anvil_impersonateAccount", traffic.blob_sender.address)
            for transactions in traffic.setup():
                self._mine(transactions)
                self._check_success()
            self._traffic = traffic
        return traffic

    def _mine(self, transactions: Sequence[Transaction]) -> None:
        self._node.batch([_sending(transaction) for transaction in transactions])
        self._node.call("evm_mine")  # a call of its own: a batch is not worked off in order

    def _check_success(self) -> None:
        receipts = cast(list[dict[str, object]], self._node.call("eth_getBlockReceipts", "latest"))
        if any(receipt["status"] != "0x1" for receipt in receipts):
            raise SourceUnavailable("the devnet could not set up its contracts: this anvil is too old or too new")


def _check_wish(*, first: int, blocks: int, transactions: int) -> None:
    problems: list[str] = []
    least = first if first > 1 else MIN_BLOCKS
    if blocks < least:
        why = "the chain has them already" if first > 1 else f"the first {SETUP_BLOCKS} set up its contracts"
        problems.append(f"{blocks} blocks are too few, {why}: ask for {least} or more")
    if not 0 <= transactions <= MAX_TRANSACTIONS:
        problems.append(f"a block cannot have {transactions} transactions: ask for 0 to {MAX_TRANSACTIONS}")
    if problems:
        raise RefusedInput(problems)


def _sending(transaction: Transaction) -> Call:
    method = "eth_sendRawTransaction" if isinstance(transaction, str) else "eth_sendTransaction"
    return method, [transaction]


def _quantity(answer: object) -> int:
    return int(cast(str, answer), 16)


# --- devnets that others find -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DevnetProcess:
    """A running devnet of a data directory. `head` was its newest block when it was asked."""

    pid: int
    url: str
    head: int


@dataclass(frozen=True, slots=True)
class _Record:
    """What devnet.json keeps. `states` stands in the command line of this very process, so no pid is believed.

    `complete` is False while `start_detached` fills the chain; `detached` says that nobody waits in front of it.
    """

    pid: int
    url: str
    states: str
    complete: bool
    detached: bool


@contextmanager
def running_here(data_dir: Path, anvil: Path, *, port: int | None) -> Generator[Devnet]:
    """Run a devnet as long as the `with` block lasts. SIGTERM and SIGHUP end it like Ctrl-C; main thread only.

    Raises:
        RefusedInput: the port is taken, or a devnet of this data directory runs.
        StackUnavailable: the node did not start.
    """
    net = _prepare(data_dir, anvil, port=port)
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDINGS}
    try:
        with _alone(data_dir):
            _refuse_second(data_dir)
            net.start()
            _write(data_dir, _record_of(net, complete=True, detached=False))
        yield net
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        net.stop()
        _forget_dead(data_dir)


def start_detached(
    data_dir: Path,
    anvil: Path,
    *,
    port: int | None = None,
    blocks: int,
    transactions: int,
    seed: int = 1,
    progress: Progress | None = None,
) -> DevnetProcess:
    """Start and fill a devnet that outlives this process. One that runs and is long enough is returned as it is.

    Raises:
        RefusedInput: a shorter one runs, the port is taken, or the wish of `fill` is refused.
        StackUnavailable, SourceUnavailable: the node did not start, or stopped answering.
    """
    _check_wish(first=1, blocks=blocks, transactions=transactions)
    with _alone(data_dir):
        found = running(data_dir)
        if found is not None and found.head >= blocks:
            return found
        _refuse_second(data_dir)
        net = _prepare(data_dir, anvil, port=port)
        try:
            net.start()
            _write(data_dir, _record_of(net, complete=False, detached=True))
            head = net.fill(blocks=blocks, transactions=transactions, seed=seed, progress=progress)
        except BaseException:
            net.stop()
            raise
        record = _record_of(net, complete=True, detached=True)
        _write(data_dir, record)
    return DevnetProcess(record.pid, record.url, head)


def running(data_dir: Path) -> DevnetProcess | None:
    """Return the devnet of a data directory; None when none runs and answers, or while one is being made."""
    record = _read(data_dir)
    if record is None or not record.complete or _process(record) is None:
        return None
    body = {"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": cast(list[object], [])}
    try:
        answer = httpx.post(record.url, json=body, timeout=ASK_S, trust_env=False).json()
        return DevnetProcess(record.pid, record.url, _quantity(answer["result"]))
    except (httpx.TransportError, ValueError, KeyError):  # it hangs or is ending: nobody can use it
        return None


def stop(data_dir: Path) -> bool:
    """End the devnet of a data directory; its chain is gone. False when none runs."""
    with _alone(data_dir):
        return _end_recorded(data_dir)


def stop_detached(data_dir: Path) -> bool:
    """End the devnet that `start_detached` left behind; one that somebody runs in a terminal is theirs."""
    record = _read(data_dir)
    return record is not None and record.detached and stop(data_dir)


def _end_recorded(data_dir: Path) -> bool:
    record = _read(data_dir)
    process = None if record is None else _process(record)
    if process is not None:
        end(process)
    _file(data_dir).unlink(missing_ok=True)
    shutil.rmtree(_state_dir(data_dir), ignore_errors=True)  # also what a killed one left: only one runs here at a time
    return process is not None


def _refuse_second(data_dir: Path) -> None:
    """Make way for a devnet. Call it alone: then an incomplete one is what a killed `start_detached` left."""
    record = _read(data_dir)
    if record is not None and record.complete and _process(record) is not None:
        port = record.url.rpartition(":")[2]
        raise RefusedInput(f"a devnet runs here already (port {port}, pid {record.pid}): use it, or stop it first")
    _end_recorded(data_dir)


def _prepare(data_dir: Path, anvil: Path, *, port: int | None) -> Devnet:
    return Devnet(anvil, port=port, log=data_dir / "devnet.log", state_dir=_state_dir(data_dir))


def _record_of(net: Devnet, *, complete: bool, detached: bool) -> _Record:
    return _Record(net.node.pid, net.url, str(net.node.states), complete, detached)


def _process(record: _Record) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        ours = record.states in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if ours else None


def _forget_dead(data_dir: Path) -> None:
    with _alone(data_dir):
        record = _read(data_dir)
        if record is not None and _process(record) is None:
            _end_recorded(data_dir)


@contextmanager
def _alone(data_dir: Path) -> Generator[None]:
    """One starter or stopper at a time. The lock ends with its process, however that ends."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (data_dir / "devnet.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(data_dir: Path) -> _Record | None:
    try:
        text = _file(data_dir).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        return _Record(found["pid"], found["url"], found["states"], found["complete"], found.get("detached", False))
    except (ValueError, KeyError, TypeError) as error:
        raise StackUnavailable(f"{_file(data_dir)} is damaged: stop the devnet by hand and delete the file") from error


def _write(data_dir: Path, record: _Record) -> None:
    text = json.dumps(asdict(record))
    making = data_dir / "devnet.json.making"  # renamed when complete: readers take no lock
    making.write_text(text, encoding="utf-8")
    making.rename(_file(data_dir))


def _file(data_dir: Path) -> Path:
    return data_dir / "devnet.json"


def _state_dir(data_dir: Path) -> Path:
    return data_dir / "devnet"

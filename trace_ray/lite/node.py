"""One anvil process: its command line, its port, start and stop, and JSON-RPC to it. Loopback only.

Genesis time, accounts, fees and the order of the pool are fixed, and blocks come only when asked for, so that a chain
depends on nothing but what is sent to it.
"""

import errno
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import httpx
import orjson
import psutil

from trace_ray.errors import RefusedInput, SourceUnavailable, StackUnavailable
from trace_ray.lite.traffic import CHAIN_ID, GWEI

GENESIS_TIME: Final = 1_700_000_000
GAS_LIMIT: Final = 300_000_000  # the most transactions that `fill` takes need a third of it
OPTIONS: Final = {
    "--host": "127.0.0.1",
    "--chain-id": str(CHAIN_ID),
    "--hardfork": "prague",
    "--timestamp": str(GENESIS_TIME),
    "--accounts": "20",
    "--balance": "1000000000",
    "--mnemonic-seed-unsafe": "7",  # the keys are public: nothing of worth may ever be sent to them
    "--order": "fifo",
    "--gas-limit": str(GAS_LIMIT),
    "--block-base-fee-per-gas": str(GWEI),
}
SWITCHES: Final = ("--no-mining", "--no-request-size-limit", "--quiet")  # quiet still tells why it dies

START_S: Final = 30.0  # 0.1 s on an idle machine
STOP_S: Final = 10.0
CALL_S: Final = 60.0
PROBE_PAUSE_S: Final = 0.02

Call = tuple[str, list[object]]


class Node:
    """An anvil process, started once. `port` None takes a free one; `log` is written anew at each start.

    Old states go to a directory of the node's own below `state_dir` and are deleted with it: 0.4 MB per block.
    """

    def __init__(self, anvil: Path, *, port: int | None, log: Path, state_dir: Path) -> None:
        self._anvil = anvil
        self._port = port
        self._log = log
        self._state_dir = state_dir
        self._states: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(timeout=CALL_S, trust_env=False)  # a proxy cannot reach our loopback

    # --- the process ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Return when the node answers.

        Raises:
            RefusedInput: the port is taken.
            StackUnavailable: the node died, with its last word, or did not answer in time.
        """
        if self._port is not None:
            check_port(self._port)
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._states = Path(tempfile.mkdtemp(prefix="states-", dir=self._state_dir))
        try:
            self._launch(self._states)
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the node and delete its old states. Harmless when it does not run."""
        self._http.close()
        if self._process is not None and self._process.poll() is None:
            end(psutil.Process(self._process.pid))
            self._process.wait()
        if self._states is not None:
            shutil.rmtree(self._states, ignore_errors=True)

    def wait(self) -> None:
        """Return when the node was ended by somebody, or on Ctrl-C.

        Raises:
            StackUnavailable: the node died.
        """
        try:
            code = self._running.wait()
        except KeyboardInterrupt:
            return
        if code != 0:
            raise StackUnavailable(f"anvil died (exit code {code}): {self._last_word()}")

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def url(self) -> str:
        if self._port is None:
            raise StackUnavailable("the devnet has no address yet: start it first")
        return f"http://127.0.0.1:{self._port}"

    @property
    def states(self) -> Path:
        """Return the directory of old states; it stands in the command line and is this process's alone."""
        if self._states is None:
            raise StackUnavailable("the devnet does not run: start it first")
        return self._states

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise StackUnavailable("the devnet does not run: start it first")
        return self._process

    def _launch(self, states: Path) -> None:
        options = {**OPTIONS, "--port": str(self._port or 0), "--cache-path": str(states)}
        command = [str(self._anvil), *(part for option in options.items() for part in option), *SWITCHES]
        with self._log.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is ours to handle
                )
            except OSError as error:
                raise StackUnavailable(
                    f"anvil cannot be run here ({error.strerror}): put an anvil for this machine on PATH"
                ) from error

    def _wait_until_it_answers(self) -> None:
        give_up = time.monotonic() + START_S
        while True:
            if self._running.poll() is not None:
                self._tell_why_it_died()
            port = _listening_port(self._running.pid)  # its own socket: another node may answer on a contested port
            if port is not None:
                self._port = port
                self.call("eth_chainId")
                return
            if time.monotonic() > give_up:
                raise StackUnavailable(f"anvil did not answer within {START_S:.0f} s: its log {self._log} may say why")
            time.sleep(PROBE_PAUSE_S)

    def _tell_why_it_died(self) -> None:
        word = self._last_word()
        if self._port is not None and "in use" in word:  # taken between our check and its start
            raise RefusedInput(f"port {self._port} is in use: choose another --port")
        raise StackUnavailable(f"anvil ended at its start (exit code {self._running.poll()}): {word}")

    def _last_word(self) -> str:
        lines = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()]
        told = [line for line in lines if line]
        return told[-1].removeprefix("Error: ") if told else "it left no word in its log"

    # --- JSON-RPC -------------------------------------------------------------------------------------------------

    def call(self, method: str, *params: object) -> object:
        """Return the result of one call.

        Raises:
            SourceUnavailable: the node does not answer, or refuses.
        """
        return self.batch([(method, list(params))])[0]

    def batch(self, calls: Sequence[Call]) -> list[object]:
        """Return the results of several calls, in their order; one refusal fails them all."""
        if not calls:
            return []
        body = [
            {"jsonrpc": "2.0", "id": index, "method": method, "params": params}
            for index, (method, params) in enumerate(calls)
        ]
        try:
            response = self._http.post(
                self.url, content=orjson.dumps(body), headers={"content-type": "application/json"}
            )
        except httpx.TransportError as error:
            raise SourceUnavailable("the devnet does not answer: start it again") from error
        answers = cast(list[dict[str, object]], orjson.loads(response.content))
        by_id = {answer["id"]: answer for answer in answers}
        return [_result(by_id[index], method) for index, (method, _) in enumerate(calls)]


def _result(answer: dict[str, object], method: str) -> object:
    if "error" in answer:
        error = cast(dict[str, object], answer["error"])
        raise SourceUnavailable(f"the devnet refused {method}: {error.get('message')}")
    return answer["result"]


def end(process: psutil.Process) -> None:
    """End a node politely, after a while by force."""
    try:
        process.terminate()
        process.wait(STOP_S)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)
    except psutil.NoSuchProcess:
        return


# --- ports --------------------------------------------------------------------------------------------------------


def check_port(port: int) -> None:
    """Refuse a port that cannot be listened on.

    Raises:
        RefusedInput: with the program that holds it, where the system tells.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            raise RefusedInput(f"{port} is not a port: choose a --port from 1 to 65535") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise RefusedInput(f"port {port} is in use by {_holder(port)}, or choose another --port") from None
            raise RefusedInput(f"port {port} cannot be used ({error.strerror}): choose another --port") from None


def _holder(port: int) -> str:
    try:
        pids = [one.pid for one in psutil.net_connections("tcp") if _listening(one.status, one.laddr) == port]
        if pids and pids[0] is not None:
            return f"{psutil.Process(pids[0]).name()} (pid {pids[0]}): stop it"
    except psutil.Error:  # macOS tells this to root alone; or it has just ended
        pass
    return f"another program: ask `lsof -i :{port}` which and stop it"


def _listening_port(pid: int) -> int | None:
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:  # it has just ended; the caller sees that
        return None
    ports = (_listening(one.status, one.laddr) for one in found)
    return next((port for port in ports if port is not None), None)


def _listening(status: str, address: tuple[str, int] | tuple[()]) -> int | None:
    """Return the port of a listening socket; any other socket has none for us."""
    return address[1] if status == psutil.CONN_LISTEN and address else None

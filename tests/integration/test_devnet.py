"""The devnet on a real node: what its chain holds, that it repeats, and what it refuses."""

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from eth_hash.auto import keccak

from trace_ray.errors import RefusedInput, SourceUnavailable, StackUnavailable
from trace_ray.extract import consensus, receipts, roots
from trace_ray.extract.rlp import Rlp
from trace_ray.lite import devnet
from trace_ray.lite.devnet import Devnet

HEAD = 60
TRANSACTIONS = 10
TRANSFER = "0x" + keccak(b"Transfer(address,address,uint256)").hex()
APPROVAL = "0x" + keccak(b"Approval(address,address,uint256)").hex()


@dataclass(frozen=True)
class Chain:
    """Every block with its transactions, and every receipt, as the node answers."""

    blocks: list[dict[str, Any]]
    receipts: list[list[dict[str, Any]]]

    @property
    def logs(self) -> list[dict[str, Any]]:
        return [log for block in self.receipts for receipt in block for log in receipt["logs"]]


def start(anvil_binary: Path, directory: Path, *, port: int | None = None) -> Devnet:
    return Devnet(anvil_binary, port=port, log=directory / "anvil.log", state_dir=directory / "anvil")


def head_hash(net: Devnet) -> str:
    block: Any = net.node.call("eth_getBlockByNumber", "latest", False)
    return str(block["hash"])


@pytest.fixture(scope="module")
def net(anvil_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    with start(anvil_binary, tmp_path_factory.mktemp("devnet")) as running:
        assert running.fill(blocks=HEAD, transactions=TRANSACTIONS) == HEAD
        yield running


@pytest.fixture(scope="module")
def chain(net: Devnet) -> Chain:
    heights = [hex(height) for height in range(HEAD + 1)]
    blocks: Any = net.node.batch([("eth_getBlockByNumber", [height, True]) for height in heights])
    found: Any = net.node.batch([("eth_getBlockReceipts", [height]) for height in heights])
    return Chain(blocks, found)


# --- the chain ----------------------------------------------------------------------------------------------------


def test_the_head_is_the_block_that_was_asked_for(net: Devnet) -> None:
    assert net.head() == HEAD
    assert net.node.call("eth_chainId") == hex(devnet.CHAIN_ID)


def test_blocks_hold_the_transactions_asked_for_and_every_fiftieth_none(chain: Chain) -> None:
    sizes = [len(block["transactions"]) for block in chain.blocks]
    assert sizes[0] == sizes[50] == 0
    assert {size for height, size in enumerate(sizes) if height > 3 and height != 50} == {TRANSACTIONS}


def test_blocks_are_twelve_seconds_apart(chain: Chain) -> None:
    times = [int(block["timestamp"], 16) for block in chain.blocks]
    assert {after - before for before, after in pairwise(times[1:])} == {12}


def test_every_transaction_type_is_there_with_its_receipt(chain: Chain) -> None:
    types: Counter[str] = Counter()
    for block, found in zip(chain.blocks, chain.receipts, strict=True):
        sent = block["transactions"]
        assert [one["transactionHash"] for one in found] == [one["hash"] for one in sent]
        assert [one["type"] for one in found] == [one["type"] for one in sent]
        types.update(one["type"] for one in sent)
    assert types.keys() == {"0x0", "0x1", "0x2", "0x3", "0x4"}


def test_headers_commit_to_their_transactions(chain: Chain) -> None:
    for height, block in enumerate(chain.blocks):
        proofs = consensus.prove(block, height, is_strict=True)
        assert {consensus.HEADER_HASH, consensus.TRANSACTIONS_ROOT} <= proofs


def test_headers_commit_to_their_receipts(chain: Chain) -> None:
    for block, found in zip(chain.blocks, chain.receipts, strict=True):
        assert roots.ordered_root([encoded(receipt) for receipt in found]).hex() == block["receiptsRoot"][2:]


def encoded(receipt: dict[str, Any]) -> bytes:
    logs: list[Rlp] = [
        [raw(log["address"]), [raw(topic) for topic in log["topics"]], raw(log["data"])] for log in receipt["logs"]
    ]
    return receipts.encode_receipt(
        transaction_type=int(receipt["type"], 16),
        success=receipt["status"] == "0x1",
        cumulative_gas=int(receipt["cumulativeGasUsed"], 16),
        bloom=int(receipt["logsBloom"], 16),
        logs=logs,
    )


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def test_calls_revert_and_run_out_of_gas(chain: Chain) -> None:
    failed = {
        int(sent["gas"], 16) == int(receipt["gasUsed"], 16)
        for block, found in zip(chain.blocks, chain.receipts, strict=True)
        for sent, receipt in zip(block["transactions"], found, strict=True)
        if receipt["status"] == "0x0" and sent["to"] is not None
    }
    assert failed == {False, True}  # a revert gives the rest of its gas back, running out of gas takes all


def test_creations_succeed_and_fail_at_the_top(chain: Chain) -> None:
    created = [one["status"] for found in chain.receipts[4:] for one in found if one["contractAddress"] is not None]
    assert set(created) == {"0x0", "0x1"}


def test_value_moves_and_contracts_are_created_inside_calls(net: Devnet) -> None:
    answers: Any = net.node.batch([("trace_block", [hex(height)]) for height in range(4, 10)])
    inner = [trace for traces in answers for trace in traces if trace["traceAddress"]]
    assert any(trace["type"] == "create" for trace in inner)
    assert any(int(trace["action"].get("value", "0x0"), 16) > 0 for trace in inner if trace["type"] == "call")


def test_tokens_are_moved_minted_and_approved(chain: Chain) -> None:
    events = Counter((log["topics"][0], len(log["topics"])) for log in chain.logs if log["topics"])
    assert events[TRANSFER, 3] > 100
    assert events[TRANSFER, 4] > 0  # of an NFT: the token id is indexed
    assert events[APPROVAL, 3] > len(chain.blocks[3]["transactions"])  # more than the allowances of the set-up


def test_there_are_logs_without_topics(chain: Chain) -> None:
    assert any(log["topics"] == [] for log in chain.logs)


def test_a_delegated_account_has_code_and_emits_logs(net: Devnet, chain: Chain) -> None:
    emitters = sorted({log["address"] for log in chain.logs})
    codes: Any = net.node.batch([("eth_getCode", [emitter, "latest"]) for emitter in emitters])
    assert any(code.startswith("0xef0100") for code in codes)


# --- repeatable ---------------------------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_hashes_and_another_seed_others(
    anvil_binary: Path, tmp_path: Path, chain: Chain
) -> None:
    with start(anvil_binary, tmp_path / "same") as same:
        same.fill(blocks=HEAD, transactions=TRANSACTIONS)
        assert head_hash(same) == chain.blocks[HEAD]["hash"]
    with start(anvil_binary, tmp_path / "shorter") as shorter:
        shorter.fill(blocks=20, transactions=TRANSACTIONS)
        assert head_hash(shorter) == chain.blocks[20]["hash"]
    with start(anvil_binary, tmp_path / "other") as other:
        other.fill(blocks=20, transactions=TRANSACTIONS, seed=2)
        assert head_hash(other) != chain.blocks[20]["hash"]


def test_a_chain_grows_after_others_sent_transactions(anvil_binary: Path, tmp_path: Path) -> None:
    with start(anvil_binary, tmp_path) as net:
        net.fill(blocks=6, transactions=5)
        accounts: Any = net.node.call("eth_accounts")
        net.node.call("eth_sendTransaction", {"from": accounts[0], "to": accounts[1], "value": "0x1"})
        net.node.call("evm_mine")
        assert net.fill(blocks=12, transactions=5) == 12
        block: Any = net.node.call("eth_getBlockByNumber", hex(12), False)
        assert len(block["transactions"]) == 5


def test_progress_is_told_for_each_block(anvil_binary: Path, tmp_path: Path) -> None:
    told: list[int] = []
    with start(anvil_binary, tmp_path) as net:
        net.fill(blocks=7, transactions=0, progress=told.append)
    assert told == [4, 5, 6, 7]


# --- refused ------------------------------------------------------------------------------------------------------


def test_a_wish_that_no_chain_can_fulfil_is_refused_with_every_reason(anvil_binary: Path, tmp_path: Path) -> None:
    with start(anvil_binary, tmp_path) as net:
        with pytest.raises(RefusedInput) as refused:
            net.fill(blocks=3, transactions=-1)
        assert len(refused.value.problems) == 2
        assert "ask for 4 or more" in refused.value.problems[0]
        assert net.head() == 0
        with pytest.raises(RefusedInput, match="ask for 0 to 1000"):
            net.fill(blocks=4, transactions=1001)


def test_a_chain_does_not_shrink(net: Devnet) -> None:
    with pytest.raises(RefusedInput, match=f"ask for {HEAD + 1} or more"):
        net.fill(blocks=HEAD, transactions=1)


def test_a_taken_port_is_named_with_its_holder(anvil_binary: Path, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(RefusedInput, match=rf"port {port} is in use by .*{os.getpid()}"):
            start(anvil_binary, tmp_path, port=port).start()


def test_a_wanted_port_is_taken(anvil_binary: Path, tmp_path: Path, net: Devnet) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with start(anvil_binary, tmp_path, port=port) as other:
        assert other.url == f"http://127.0.0.1:{port}" != net.url


def test_a_node_that_dies_at_its_start_leaves_its_last_word(tmp_path: Path) -> None:
    program = start(Path(sys.executable), tmp_path)  # knows none of anvil's options
    with pytest.raises(StackUnavailable, match=r"ended at its start \(exit code 2\): .*python"):
        program.start()
    assert list((tmp_path / "anvil").iterdir()) == []


def test_a_program_of_another_machine_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "anvil"
    program.write_bytes(b"\x7fELF nonsense")
    program.chmod(0o755)
    with pytest.raises(StackUnavailable, match="cannot be run here"):
        start(program, tmp_path / "devnet").start()


def test_the_node_and_its_old_states_go_with_the_block(anvil_binary: Path, tmp_path: Path) -> None:
    with start(anvil_binary, tmp_path) as net:
        process = psutil.Process(net.node.pid)
        assert list((tmp_path / "anvil").iterdir()) == [net.node.states]
    assert not process.is_running()
    assert list((tmp_path / "anvil").iterdir()) == []
    with pytest.raises(StackUnavailable, match="start it first"):
        Devnet(anvil_binary, port=None, log=tmp_path / "log", state_dir=tmp_path).head()


def test_a_killed_node_is_told_and_not_waited_for(anvil_binary: Path, tmp_path: Path) -> None:
    with start(anvil_binary, tmp_path) as net:
        psutil.Process(net.node.pid).kill()
        with pytest.raises(StackUnavailable, match=r"anvil died \(exit code -9\)"):
            net.wait()
        with pytest.raises(SourceUnavailable, match="does not answer"):
            net.fill(blocks=5, transactions=1)

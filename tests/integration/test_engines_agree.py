"""Cryo and the built-in engine bring the same rows of the same range, so that neither's name matters to a reader."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Chain, Replay
from trace_ray.catalog import CATALOG
from trace_ray.contracts import BlockRange, Level, Receipts
from trace_ray.extract.cryo import CryoEngine
from trace_ray.extract.engine import Engine, Extraction, Provider, Request
from trace_ray.extract.native import NativeEngine
from trace_ray.extract.needs import with_witnesses
from trace_ray.extract.verify import Problem, Proof, verify

MAINNET = BlockRange(22_431_080, 22_431_091)


def extract(engine: Engine, url: str, request: Request, directory: Path) -> Extraction:
    directory.mkdir()
    provider = Provider("standard", 0, url)
    return engine.extract(request, provider, directory, deadline=time.monotonic() + 60)


def differing_rows(first: Extraction, second: Extraction) -> dict[str, list[str]]:
    """By dataset, the first rows that are not the same in both; tables of other columns differ as a whole."""
    differing: dict[str, list[str]] = {}
    for name in first.tables:
        one, other = first.tables[name], second.tables[name]
        if one.schema != other.schema or one.num_rows != other.num_rows:
            differing[name] = [f"{one.schema} x {one.num_rows}", f"{other.schema} x {other.num_rows}"]
            continue
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        if found := [f"{left}\n{right}" for left, right in pairs if left != right]:
            differing[name] = found[:3]
    return differing


@pytest.mark.parametrize("receipts", list(Receipts))
def test_both_engines_bring_the_same_rows_of_a_devnet(anvil_chain: Chain, tmp_path: Path, receipts: Receipts) -> None:
    blocks = BlockRange(0, anvil_chain.head + 1)
    datasets = ("blocks", "transactions", "logs")
    request = Request(anvil_chain.chain_id, datasets, blocks, receipts)
    cryo = extract(CryoEngine(), anvil_chain.url, request, tmp_path / "cryo")
    native = extract(NativeEngine(), anvil_chain.url, request, tmp_path / "native")
    assert differing_rows(cryo, native) == {}
    assert cryo.tables["logs"].num_rows > 100
    for found in (cryo, native):
        verdicts = verify(
            found.tables, blocks=blocks, receipts=receipts, datasets=datasets, neighbours={}, proofs=found.proofs
        )
        levels = [one.level for one in verdicts.values() if isinstance(one, Proof)]
        proven = receipts is Receipts.ETHEREUM
        assert levels == [
            Level.HEADER_CHAIN,
            Level.RECEIPTS_ROOT if proven else Level.HEADER_CHAIN,
            Level.RECEIPTS_ROOT if proven else Level.LOGS_BLOOM,
        ]


DERIVED = ("erc20_transfers", "erc721_transfers", "traces", "native_transfers", "contracts", "geth_calls")

LAST_CHECK = {
    "traces": "trace_tree",
    "native_transfers": "same_traces",
    "contracts": "same_traces",
    "geth_calls": "trace_tree",
}


@pytest.mark.parametrize("name", DERIVED)
def test_rows_that_cryo_derives_from_a_real_node_pass_their_checks(
    anvil_chain: Chain, tmp_path: Path, name: str
) -> None:
    blocks = BlockRange(1, anvil_chain.head + 1)
    datasets = with_witnesses(frozenset({name}), Receipts.ETHEREUM)
    request = Request(anvil_chain.chain_id, datasets, blocks, Receipts.ETHEREUM)
    found = extract(CryoEngine(), anvil_chain.url, request, tmp_path / "cryo")
    verdict = verify(
        found.tables, blocks=blocks, receipts=Receipts.ETHEREUM, datasets=[name], neighbours={}, proofs=()
    )[name]
    assert isinstance(verdict, Proof), verdict
    assert verdict.level is (
        Level.RECEIPTS_ROOT if name.endswith("transfers") and "erc" in name else Level.HEADER_CHAIN
    )
    assert found.tables[name].num_rows > 0
    assert verdict.checks[-1] == LAST_CHECK.get(name, "transfer_logs")


def test_counts_that_cryo_gives_to_the_wrong_transactions_are_refused(anvil_chain: Chain, tmp_path: Path) -> None:
    """Cryo skips transactions without counts, and names the following ones by their hashes: not offered for that."""
    blocks = BlockRange(1, anvil_chain.head + 1)
    datasets = with_witnesses(frozenset({"four_byte_counts"}), Receipts.ETHEREUM)
    found = extract(
        CryoEngine(), anvil_chain.url, Request(31337, datasets, blocks, Receipts.ETHEREUM), tmp_path / "cryo"
    )
    (verdict,) = verify(
        found.tables, blocks=blocks, receipts=Receipts.ETHEREUM, datasets=["four_byte_counts"], neighbours={}, proofs=()
    ).values()
    assert isinstance(verdict, Problem)
    assert verdict.check == "call_data"
    assert CATALOG["four_byte_counts"].refusal is not None


def test_both_engines_bring_the_same_rows_of_mainnet(
    mainnet_recording: Path, serve_recording: Callable[..., Replay], tmp_path: Path
) -> None:
    server = serve_recording([mainnet_recording])
    request = Request(1, ("blocks", "transactions"), MAINNET, Receipts.NONE)
    cryo = extract(CryoEngine(), server.url, request, tmp_path / "cryo")
    native = extract(NativeEngine(), server.url, request, tmp_path / "native")
    assert native.tables["transactions"].num_rows == 1_479
    assert differing_rows(cryo, native) == {}

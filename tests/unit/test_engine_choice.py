"""An engine is chosen by name, and says how to go on where its program is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trace_ray.contracts import BlockRange, Receipts
from trace_ray.errors import UnsupportedExtraction
from trace_ray.extract import cryo
from trace_ray.extract.choice import make_engine
from trace_ray.extract.cryo import CryoEngine
from trace_ray.extract.engine import Provider, Request
from trace_ray.extract.native import NativeEngine


@pytest.fixture(autouse=True)
def found_anew() -> Iterator[None]:
    cryo.installed.cache_clear()
    yield
    cryo.installed.cache_clear()


def test_each_name_gives_its_engine() -> None:
    assert isinstance(make_engine("cryo"), CryoEngine)
    assert isinstance(make_engine("native"), NativeEngine)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnsupportedExtraction, match="no engine reth: set TRACE_ENGINE to cryo or native"):
        make_engine("reth")


def test_a_missing_wheel_advises_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cryo, "find_spec", _found_nothing)
    with pytest.raises(UnsupportedExtraction, match=r"not installed: .*set TRACE_ENGINE=native"):
        make_engine("cryo")


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cryo, "version", _version_of_the_alloy_builds)
    with pytest.raises(UnsupportedExtraction, match=r"the installed cryo is 0\.4\.0, 0\.3\.2 is needed"):
        make_engine("cryo")


def test_the_build_names_the_program_that_runs() -> None:
    build = cryo.installed().build
    assert (build.name, build.version) == ("cryo", "0.3.2")
    assert len(bytes.fromhex(build.digest)) == 32
    assert cryo.installed() is cryo.installed()


@pytest.mark.parametrize(
    ("dataset", "url", "message"),
    [
        ("geth_opcodes", "http://localhost:1", "no dataset geth_opcodes"),
        ("blocks", "ws://localhost:1/SECRETKEY", "http and https only: give pool/0"),
    ],
)
def test_what_cryo_cannot_do_is_refused_before_it_starts(dataset: str, url: str, message: str, tmp_path: Path) -> None:
    request = Request(1, (dataset,), BlockRange(0, 1), Receipts.ETHEREUM)
    with pytest.raises(UnsupportedExtraction, match=message) as caught:
        CryoEngine().extract(request, Provider("pool", 0, url), tmp_path, deadline=0.0)
    assert "SECRETKEY" not in str(caught.value)


def _found_nothing(name: str) -> Any:
    return None


def _version_of_the_alloy_builds(name: str) -> str:
    return "0.4.0"

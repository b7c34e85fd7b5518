"""Bundles as they are typed: from an empty directory to verified files on a worker, and every refusal on the way."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors.sandbox.store import BundleStore
from state import bundles
from state.db import Connection, connect
from tests import pg
from trace_ray import cargo
from trace_ray.bundle import keys
from trace_ray.cli import cli
from trace_ray.contracts import DEFAULT_ORG
from trace_ray.errors import BundleFault, BundleRejected, FatalError, RefusedInput
from trace_ray.lite.postgres import LocalPostgres
from trace_ray.storage import FileStore


@dataclass
class Shell:
    """A shell in an empty directory that knows a ledger and an object store. No stack runs."""

    conn: Connection
    home: Path
    environment: dict[str, str]

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "trace_ray", "bundle", *arguments],
            env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def refused(self, *arguments: str) -> str:
        done = self.run(*arguments, code=2)
        assert done.stdout == ""
        return done.stderr.strip()


@pytest.fixture
def shell(postgres: LocalPostgres, tmp_path: Path) -> Iterator[Shell]:
    url = pg.fresh_database(postgres)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACE_", "RAY_"))}
    environment |= {
        "TRACE_STATE_DATABASE_URL": url,
        "TRACE_DATA_DATABASE_URL": url,
        "TRACE_DATA_DIR": str(tmp_path / "data"),
        "TRACE_OBJECT_STORE": f"file://{tmp_path}/data/objects",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")))),
    }
    home = tmp_path / "home"
    home.mkdir()
    with connect(url, application_name="test") as conn:
        yield Shell(conn, home, environment)


def test_a_bundle_goes_from_an_empty_directory_to_a_worker(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shell.home)
    bundle("init", "big-moves", "--lang", "python")
    bundle("build", "big-moves", "-o", "big.zip")
    bundle("keygen", "-o", "my.key")
    keyid = capsys.readouterr().out.strip()
    bundle("sign", "big.zip", "--key", "my.key")
    assert "(sig_untrusted_key)" in shell.refused("push", "big.zip")
    assert f"{keyid} may sign python until 2100-01-01 00:00:00 UTC" in (
        shell.run("trust", "my.key.pub", "--lang", "python", "--until", "2100-01-01").stderr
    )
    digest = shell.run("push", "big.zip").stdout.strip()
    assert digest == hashlib.sha256((shell.home / "big.zip").read_bytes()).hexdigest()

    found = bundles.usable(shell.conn, DEFAULT_ORG, bundles.pin(shell.conn, DEFAULT_ORG, "big-moves").digest)
    store = BundleStore(tmp_path / "worker", FileStore(tmp_path / "data/objects"))
    with store.use(found.bundle, found.keyring) as stored:
        assert [path.name for path in stored.directory.iterdir()] == ["handler.py"]
        assert (stored.directory / "handler.py").read_bytes() == (shell.home / "big-moves/handler.py").read_bytes()

    listed = shell.run("list", "--json")
    document = json.loads(listed.stdout)
    assert listed.stderr == ""
    assert (document["bundles"][0]["sha256"], document["keys"][0]["keyid"]) == (digest, keyid)
    assert document["keys"][0]["languages"] == ["python"]
    (shell.home / "big-moves/more.py").touch()
    bundle("build", "big-moves", "-o", "big.zip")
    bundle("sign", "big.zip", "--key", "my.key")
    assert "give this one another version" in shell.refused("push", "big.zip")
    assert len(list((tmp_path / "data/objects/bundles").rglob("*.zip"))) == 1, "a refused zip is not uploaded"

    assert shell.run("revoke", digest).stderr.strip() == "bundle big-moves@0.1.0 is revoked for good"
    assert shell.run("revoke", keyid).stderr.strip() == f"key {keyid} is revoked for good"
    table = shell.run("list").stdout
    for text in (keyid, "big-moves@0.1.0", digest):
        assert text in "".join(table.split())
    assert "(sig_revoked)" in shell.refused("verify", "big.zip")


def test_an_empty_ledger_says_what_comes_first(shell: Shell) -> None:
    told = shell.run("list").stderr
    assert "bundle trust KEY.pub" in told
    assert "bundle push ZIP" in told


# --- authors, who need no ledger ----------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bundle(*arguments: str) -> None:
    cli.main(["bundle", *arguments], standalone_mode=False)


def refused(*arguments: str) -> str:
    with pytest.raises(RefusedInput) as caught:
        bundle(*arguments)
    return str(caught.value)


def fault(run: Callable[[], object]) -> BundleFault:
    with pytest.raises(BundleRejected) as caught:
        run()
    return caught.value.code


def settings(home: Path, **changes: str | None) -> None:
    """Write a bundle.toml of these TOML values beside a handler."""
    values = {"name": '"a"', "version": '"1"', "language": '"python"', "entrypoint": '"handler.handler"', **changes}
    (home / "d").mkdir(exist_ok=True)
    (home / "d/handler.py").write_text("def handler(event, context): ...\n")
    (home / "d/bundle.toml").write_text("".join(f"{key} = {value}\n" for key, value in values.items() if value))


@pytest.mark.parametrize("lang", ["python", "node"])
def test_each_template_builds_signs_and_verifies(home: Path, lang: str) -> None:
    bundle("init", "d", "--lang", lang)
    bundle("build", "d")
    bundle("keygen")
    bundle("sign", "d-0.1.0.zip", "--key", "bundle.key")
    bundle("verify", "d-0.1.0.zip", "--key", "bundle.key.pub")
    assert "not empty" in refused("init", "d", "--lang", lang)


def test_a_build_is_repeatable_and_leaves_out_what_is_not_the_bundles(home: Path) -> None:
    settings(home, exclude='["tests/*"]')
    for path in (
        ".git/config",
        "__pycache__/x.pyc",
        "tests/t.py",
        "old.zip",
        "old.zip.intoto.json",
        "my.key",
        "lib/l.py",
    ):
        (home / "d" / path).parent.mkdir(exist_ok=True)
        (home / "d" / path).touch()
    (home / "d/run.sh").touch(mode=0o755)
    bundle("build", "d", "-o", "d/one.zip")
    bundle("build", "d", "-o", "two.zip")
    assert (home / "d/one.zip").read_bytes() == (home / "two.zip").read_bytes()
    with zipfile.ZipFile("two.zip") as opened:
        assert opened.namelist() == ["handler.py", "lib/l.py", "run.sh"]
    said = json.loads(Path("two.zip.statement.json").read_bytes())["predicate"]
    assert {one["path"]: one["exec"] for one in said["files"]}["run.sh"]
    assert said["requests"] == {"query": False, "events": False}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": '"A"'}, "name must have"), ({"name": None}, "name must have"), ({"name": "1"}, "name must have"),
        ({"version": '"1@2"'}, "version must have"), ({"language": '"perl"'}, "language must be one of"),
        ({"language": '["python"]'}, "language must be one of"), ({"entrypoint": '"handler"'}, "module.function"),
        ({"entrypoint": None}, "module.function"),
        ({"entrypoint": '"other.run"'}, "there is no other.py or other/__init__.py"),
        ({"requests": "1"}, "requests must be"), ({"requests": "{more = true}"}, "requests must be"),
        ({"requests": "{query = 1}"}, "true or false"), ({"exclude": "1"}, "exclude must be"),
        ({"exclude": "[1]"}, "exclude must be"), ({"more": "1"}, "no key more"), ({"name": "="}, "is no TOML"),
        ({"language": '"bootstrap"', "entrypoint": None}, "there is no bootstrap, executable"),
        ({"language": '"rust"', "entrypoint": '"main"'}, "entrypoint must be bootstrap"),
    ],
)  # fmt: skip
def test_a_wrong_bundle_toml_is_told_in_a_sentence(home: Path, changes: dict[str, str | None], told: str) -> None:
    settings(home, **changes)
    assert told in refused("build", "d")
    assert not list(home.glob("*.zip*"))


def test_all_mistakes_are_told_at_once(home: Path) -> None:
    settings(home, name='"A"', version="1", more="1")
    assert len(refused("build", "d").splitlines()) == 3
    (home / "d/bundle.toml").unlink()
    assert "bundle init" in refused("build", "d")


def test_links_and_odd_names_are_not_packed(home: Path) -> None:
    settings(home)
    (home / "d/link").symlink_to("handler.py")
    assert "is a link" in refused("build", "d")
    (home / "d/link").unlink()
    (home / "d/a:b").touch()
    assert fault(lambda: bundle("build", "d")) is BundleFault.ZIP_PATH


def test_what_no_verification_would_pass_is_not_signed(home: Path) -> None:
    settings(home)
    bundle("build", "d", "-o", "a.zip")
    bundle("keygen")
    whole = (home / "a.zip").read_bytes()
    (home / "a.zip").write_bytes(whole + b"x")
    assert fault(lambda: bundle("sign", "a.zip", "--key", "bundle.key")) is BundleFault.SUBJECT_MISMATCH
    assert fault(lambda: bundle("sign", "a.zip", "--key", "bundle.key", "--project", "d")) is BundleFault.ZIP_POLYGLOT
    assert not Path("a.zip.intoto.json").exists()
    Path("a.zip").write_bytes(whole)
    Path("a.zip.statement.json").unlink()
    assert "--project" in refused("sign", "a.zip", "--key", "bundle.key")
    assert "cannot be read" in refused("sign", "none.zip", "--key", "bundle.key")


def test_a_zip_of_another_tool_is_signed_as_it_is(home: Path) -> None:
    settings(home)
    with zipfile.ZipFile("sam.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.mkdir("lib")
        out.write("d/handler.py", "handler.py")
        out.write("d/handler.py", "lib/l.py")
    before = Path("sam.zip").read_bytes()
    bundle("keygen")
    bundle("sign", "sam.zip", "--key", "bundle.key", "--project", "d")
    bundle("verify", "sam.zip", "--key", "bundle.key.pub")
    assert Path("sam.zip").read_bytes() == before


def test_signatures_of_several_keys_stand_beside_each_other(home: Path) -> None:
    settings(home)
    bundle("build", "d", "-o", "a.zip")
    for name in ("old.key", "new.key", "other.key"):
        bundle("keygen", "-o", name)
    bundle("sign", "a.zip", "--key", "old.key")
    Path("a.zip.statement.json").unlink()  # an operator who signs has the zip and its envelope alone
    bundle("sign", "a.zip", "--key", "new.key")
    for name in ("old.key.pub", "new.key.pub"):
        bundle("verify", "a.zip", "--key", name)
    assert fault(lambda: bundle("verify", "a.zip", "--key", "other.key.pub")) is BundleFault.SIG_UNTRUSTED_KEY
    wrong = lambda: bundle("verify", "a.zip", "--key", "old.key.pub", "--pin", "0" * 64)  # noqa: E731
    assert fault(wrong) is BundleFault.SHA_MISMATCH
    assert "64 small" in refused("verify", "a.zip", "--key", "old.key.pub", "--pin", "x")
    Path("a.zip").write_bytes(b"")
    assert fault(lambda: bundle("verify", "a.zip", "--key", "old.key.pub")) is BundleFault.SUBJECT_MISMATCH
    settings(home, version='"2"')
    bundle("build", "d", "-o", "a.zip")
    assert "sign the zip first" in refused("verify", "a.zip", "--key", "old.key.pub")


def test_keys_are_made_once_and_private(home: Path) -> None:
    bundle("keygen")
    assert "never overwritten" in refused("keygen")
    assert Path("bundle.key").stat().st_mode & 0o777 == 0o600
    settings(home)
    bundle("build", "d", "-o", "a.zip")
    Path("bundle.key").chmod(0o644)
    assert "chmod 600" in refused("sign", "a.zip", "--key", "bundle.key")
    assert len(keys.read_public(Path("bundle.key.pub"))) == 32


# --- programs -----------------------------------------------------------------------------------------------------

MAIN = 'fn main() { println!("hello"); }\n'


def crate(home: Path) -> Path:
    bundle("init", "rusty", "--lang", "rust")
    shutil.rmtree("rusty/src")
    (home / "rusty/src").mkdir()
    (home / "rusty/src/main.rs").write_text(MAIN)
    (home / "rusty/Cargo.toml").write_text(
        '[package]\nname = "rusty"\nversion = "0.1.0"\nedition = "2021"\n[[bin]]\nname = "any"\npath = "src/main.rs"\n'
    )
    return home / "rusty"


def test_without_cargo_the_author_is_told_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crate(home)
    monkeypatch.setenv("PATH", str(home))
    assert "https://rustup.rs" in refused("build", "rusty")


def test_a_rust_project_becomes_a_bootstrap(home: Path) -> None:
    if shutil.which("cargo") is None:
        pytest.skip("no cargo here: install Rust to try the compilation of bundles")
    directory = crate(home)
    bundle("build", "rusty", "-o", "r.zip")
    with zipfile.ZipFile("r.zip") as opened:
        assert opened.namelist() == ["bootstrap"]
        opened.extract("bootstrap", home / "out")
    (home / "out/bootstrap").chmod(0o755)
    assert subprocess.run([home / "out/bootstrap"], capture_output=True, check=True).stdout == b"hello\n"
    said: dict[str, Any] = json.loads(Path("r.zip.statement.json").read_bytes())["predicate"]
    assert (said["language"], said["entrypoint"], said["files"][0]["exec"]) == ("bootstrap", "bootstrap", True)
    (directory / "src/main.rs").write_text("fn main() { nonsense }")
    with pytest.raises(FatalError, match="does not compile"):
        bundle("build", "rusty")
    (directory / "src/main.rs").write_text(MAIN)
    with (directory / "Cargo.toml").open("a") as file:
        file.write('[[bin]]\nname = "second"\npath = "src/main.rs"\n')
    assert "2 programs" in refused("build", "rusty")
    (directory / "Cargo.toml").unlink()
    assert "no Cargo.toml" in refused("build", "rusty")


def test_a_program_of_another_machine_is_no_bootstrap(home: Path) -> None:
    settings(home, language='"bootstrap"', entrypoint=None)
    program = home / "d/bootstrap"
    program.touch(mode=0o755)
    for content in (b"#!/bin/sh\n", b"", b"\x7fELF\x02\x01" + bytes(12) + b"\xb7\x00"):
        program.write_bytes(content)
        assert "no Linux program for x86_64" in refused("build", "d")
    shutil.copy(sys.executable if sys.platform == "linux" else "/bin/true", program)
    assert cargo.check_program(program.read_bytes()[:64])
    bundle("build", "d")

"""The self-test passes where the walls stand, and sees each wall that is missing."""

import dataclasses
from pathlib import Path

import pytest

from actors.sandbox import bubblewrap, cgroup, landlock, seccomp, selftest, tree
from actors.sandbox.bubblewrap import Bubblewrap
from actors.sandbox.launch import LaunchFailed, Order
from actors.sandbox.settings import SandboxSettings
from actors.sandbox.spawner import Spawner
from actors.sandbox.supervisor import Supervisor, examine, open_supervisor
from tests.integration.sandbox import arena


def settings(*backends: str) -> SandboxSettings:
    return SandboxSettings(
        home=arena.make_home(), backends=backends, node=tree.find_node(), cgroups=arena.groups() is not None
    )


@pytest.mark.parametrize("backend", ["bwrap", "landlock"])
def test_every_wall_holds(backend: str) -> None:
    (examined,) = examine(settings(backend))
    assert (examined.good, examined.problem) == (True, None), examined.sentence()
    assert len(examined.checks) >= 16
    assert isinstance(open_supervisor(settings(backend)), Supervisor)


def failed(supervisor: Supervisor, *, alone: bool = False) -> set[str]:
    checks = selftest.checks(supervisor, arena.open_tree().bootstraps, alone=alone)
    return {check.name for check in checks if not check.good}


class Leaky(Bubblewrap):
    """Starts bwrap with one argument changed."""

    def __init__(self, old: list[str], new: list[str]) -> None:
        super().__init__(arena.open_tree(), arena.groups(), Spawner())
        self._old, self._new = old, new

    def _walls(self, order: Order, filter_end: int) -> list[str]:
        arguments = super()._walls(order, filter_end)
        for place in range(len(arguments)):
            if arguments[place : place + len(self._old)] == self._old:
                return [*arguments[:place], *self._new, *arguments[place + len(self._old) :]]
        raise AssertionError(self._old)


ROOM = ["--unshare-user", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"]


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        (
            ["--unshare-all"],
            [*ROOM, "--unshare-pid"],
            {"connect to a port of the host", "connect to an abstract socket of the host"},
        ),
        (["--remount-ro", "/dev"], ["--bind", "/tmp", "/tmp"], {"read a file of the host", "write outside its tmp"}),
        (["--clearenv"], ["--setenv", "SECRET", "x"], {"see other names in the environment"}),
    ],
)
def test_missing_wall_is_seen(old: list[str], new: list[str], seen: set[str]) -> None:
    found = failed(Supervisor(Leaky(old, new), arena.Slots(arena.SLOTS)))
    assert found >= {f"it cannot {name}" for name in seen}
    assert found  # a sandbox that does not come up, or a wall that does not hold


def test_weaker_filter_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "strict_program", seccomp.program)
    backend = landlock.Landlock(arena.open_tree(), arena.groups(), Spawner())
    found = failed(Supervisor(backend, arena.Slots(arena.SLOTS)), alone=True)
    assert {"it cannot start a process", "it cannot open a socket"} <= found


def test_probe_that_does_not_answer_is_a_failure(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    checks = selftest.checks(arena.supervisor(), empty, alone=False)
    assert not checks[0].good


def test_nothing_runs_where_no_backend_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaunchFailed, match="there is no such backend: take bwrap or landlock"):
        open_supervisor(settings("unsafe"))
    without = settings("bwrap")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LaunchFailed, match=r"no sandbox works .* install bubblewrap 0\.8 or newer"):
        open_supervisor(without)


def test_device_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "DEVICES", (Path("/dev/null"), Path("/dev/nonexistent")))
    with pytest.raises(LaunchFailed, match="needs the device nonexistent"):
        open_supervisor(settings("bwrap"))


def test_home_that_sandboxes_cannot_reach_is_refused(tmp_path: Path) -> None:
    if arena.groups() is None:
        pytest.skip("sandboxes have our own uid here: it reaches what we reach")
    tmp_path.chmod(0o700)
    with pytest.raises(LaunchFailed, match="other users cannot pass"):
        open_supervisor(SandboxSettings(home=tmp_path / "home"))


def test_changed_runtime_tree_is_refused(tmp_path: Path) -> None:
    made = tree.open_tree(tmp_path, node=None)
    victim = made.bootstraps / "init.pyc"
    victim.chmod(0o644)
    victim.write_text("print('mine')", encoding="ascii")
    with pytest.raises(tree.TreeUnavailable, match="has been changed"):
        tree.open_tree(tmp_path, node=None)


def test_machine_without_control_groups_names_the_setting(tmp_path: Path) -> None:
    needing = dataclasses.replace(
        settings("bwrap"), cgroups=True, cgroup_parent=tmp_path
    )  # no group, so none delegated
    with pytest.raises(cgroup.CgroupUnavailable, match=r"or allow sandboxes without by TRACE_SANDBOX_CGROUPS=none$"):
        open_supervisor(needing)
    (examined,) = examine(dataclasses.replace(needing, cgroups=False))
    assert (examined.good, examined.counted_by) == (True, "none"), examined.sentence()


def test_home_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchFailed, match=r"cannot be made .* set TRACE_SANDBOX_DIR to a directory of yours"):
        examine(SandboxSettings(home=tmp_path / "file" / "home"))

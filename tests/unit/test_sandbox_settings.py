"""How sandboxes run: what the variables may say, what a stack keeps of them, and where sandboxes live."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from actors import evaluating
from trace_ray import config
from trace_ray.config import Settings
from trace_ray.errors import RefusedInput
from trace_ray.lite.effective import effective


def read(data_dir: Path, more: Mapping[str, str] | None = None) -> Settings:
    return config.read_settings({"TRACE_DATA_DIR": str(data_dir), **(more or {})})


def every(directory: Path) -> dict[str, str]:
    return {
        "TRACE_SANDBOX_BACKENDS": "landlock, bwrap",
        "TRACE_SANDBOX_CGROUP_PARENT": str(directory),
        "TRACE_SANDBOX_DIR": str(directory / "boxes"),
    }


def test_bubblewrap_with_control_groups_is_the_default(tmp_path: Path) -> None:
    found = evaluating.sandbox_settings(read(tmp_path))
    assert (found.backends, found.cgroups, found.cgroup_parent, found.prewarmed) == (("bwrap",), True, None, 0)


def test_what_is_set_reaches_the_sandbox_in_order(tmp_path: Path) -> None:
    found = evaluating.sandbox_settings(read(tmp_path, every(tmp_path)), prewarmed=2)
    assert (found.backends, found.cgroups, found.cgroup_parent) == (("landlock", "bwrap"), True, tmp_path)
    assert found.prewarmed == 2
    assert not evaluating.sandbox_settings(read(tmp_path, {"TRACE_SANDBOX_CGROUPS": "none"})).cgroups


def test_settings_outlive_the_shell_of_the_last_up(tmp_path: Path) -> None:
    named = read(tmp_path, every(tmp_path))
    config.save_stack(named)
    assert evaluating.sandbox_settings(config.load_stack(tmp_path)) == evaluating.sandbox_settings(named)
    found = effective(read(tmp_path, {"TRACE_SANDBOX_BACKENDS": "bwrap"}))
    assert found.sandbox_backends == ("bwrap",)
    assert (found.sandbox_cgroup_parent, found.sandbox_dir) == (tmp_path, tmp_path / "boxes")
    assert found.sources["sandbox_dir"] == "last `up`"


def test_sandboxes_that_need_no_control_groups_stay_so_after_up(tmp_path: Path) -> None:
    config.save_stack(read(tmp_path, {"TRACE_SANDBOX_CGROUPS": "none"}))
    assert not config.load_stack(tmp_path).sandbox_cgroups
    assert not effective(read(tmp_path)).sandbox_cgroups


def test_two_stacks_never_share_a_home(tmp_path: Path) -> None:
    homes = {evaluating.sandbox_home(read(tmp_path / name, every(tmp_path))) for name in ("one", "two")}
    assert len(homes) == 2
    assert all(home.is_relative_to(tmp_path / "boxes") for home in homes)


def test_root_puts_the_home_where_other_users_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(evaluating.os, "geteuid", lambda: 1000)
    assert evaluating.sandbox_home(read(closed)) == closed / "sandbox"
    monkeypatch.setattr(evaluating.os, "geteuid", lambda: 0)
    assert evaluating.sandbox_home(read(closed), system=tmp_path / "system").is_relative_to(tmp_path / "system")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TRACE_SANDBOX_BACKENDS", "docker", "is not known: write bwrap or landlock, or both with a comma between"),
        ("TRACE_SANDBOX_BACKENDS", "bwrap,,landlock", "is not known: write bwrap or landlock, or both with a comma"),
        ("TRACE_SANDBOX_BACKENDS", "bwrap,bwrap", "names a backend twice: write each once"),
        ("TRACE_SANDBOX_CGROUPS", "off", "is not known: write required or none"),
        ("TRACE_SANDBOX_CGROUP_PARENT", "/nonexistent/group", "names no directory that is there"),
        ("TRACE_SANDBOX_DIR", __file__, "is not a directory"),
    ],
)
def test_mistake_is_told_with_what_to_write(tmp_path: Path, variable: str, value: str, sentence: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        read(tmp_path, {variable: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{variable} {sentence}")


def test_a_parent_of_control_groups_that_are_not_wanted_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="TRACE_SANDBOX_CGROUP_PARENT is set with TRACE_SANDBOX_CGROUPS=none"):
        read(tmp_path, {"TRACE_SANDBOX_CGROUPS": "none", "TRACE_SANDBOX_CGROUP_PARENT": str(tmp_path)})

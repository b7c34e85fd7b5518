"""How sandboxes run on this machine. The composition root fills it from configuration."""

from dataclasses import dataclass, field
from pathlib import Path

from actors.sandbox import slots
from trace_ray.alerts import SandboxLimits


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """`home`: a directory for the runtime tree and the task directories; as root, every directory on the way to it must
    be open for others (o+x). `backends`: in this order, the first that passes its self-test is used. `cgroups`: False
    allows sandboxes without control groups, which bound less; never by itself. `cgroup_parent`: a delegated cgroup v2
    directory. `prewarmed`: sandboxes per language that are started ahead (backend
    bwrap; the bundles must then lie on the file system of `home`). `slots`: sandboxes at once on this machine.
    """

    home: Path
    backends: tuple[str, ...] = ("bwrap",)
    cgroups: bool = True
    cgroup_parent: Path | None = None
    node: Path | None = None
    prewarmed: int = 0
    slots: int = field(default_factory=lambda: slots.possible(SandboxLimits().memory))

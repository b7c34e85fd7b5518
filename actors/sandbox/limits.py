"""How much an invocation may use at the most, whatever its rule says, and the limits that no rule can change. Pure."""

from dataclasses import fields
from typing import Final

from trace_ray.alerts import CAPS, FLOOR_MEMORY, SandboxLimits

MIB: Final = 1 << 20

OPEN_FILES: Final = 256
MEMLOCK: Final = 64 << 10
OWN_PIDS: Final = 4  # bwrap outside, its first process inside, and room for the change between programs
ADDRESS_SPARE: Final = 128 * MIB  # address space is more than memory in use
CPU_SPARE_S: Final = 1  # the supervisor looks first; the kernel is the second wall

HEADERS: Final = 32 << 10
ERROR_BODY: Final = 64 << 10
QUERY_BODY: Final = 128 << 10  # SQL has at most 64 KiB
CONNECTIONS: Final = 16
BODY_S: Final = 30.0
LAUNCH_S: Final = 10.0  # from the start of bwrap to the listener, on a machine under load
LOG_TAIL: Final = 4096
POLL_S: Final = 0.05  # between looks at the cgroup and the lease
ASKS_AT_ONCE: Final = 4
ROWS_PER_QUERY: Final = 100_000


def capped(limits: SandboxLimits) -> SandboxLimits:
    """Return the limits, none above its hard cap; memory is at least what an interpreter needs.

    A rule file that asks for more is refused, so that this changes nothing of a rule: it is the second wall.
    """
    values = {
        field.name: max(0, min(getattr(limits, field.name), getattr(CAPS, field.name)))
        for field in fields(SandboxLimits)
    }
    values["memory"] = max(values["memory"], FLOOR_MEMORY)
    return SandboxLimits(**values)


def kernel_limits(limits: SandboxLimits, *, counted: bool, language: str) -> list[str]:
    """Return the resource limits that the first process inside sets on itself, as `name=value`.

    Args:
        counted: a cgroup counts memory and processes. RLIMIT_NPROC is then above its `pids.max`, so that the cgroup
            meets the limit first and leaves evidence; without one, address space is what bounds memory (never for
            Node, which reserves far more than it uses).
    """
    values = {
        "core": 0,
        "cpu": int(limits.cpu_s) + 1 + CPU_SPARE_S,
        "fsize": limits.tmp,
        "memlock": MEMLOCK,
        "msgqueue": 0,
        "nofile": OPEN_FILES,
        "nproc": limits.pids + OWN_PIDS + 16 if counted else limits.pids,
    }
    if not counted and language != "node":
        values["as"] = limits.memory + ADDRESS_SPARE
    return [f"{name}={value}" for name, value in values.items()]

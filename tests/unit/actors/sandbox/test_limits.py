"""No rule passes the hard caps, and the environment inside says nothing of the host or the attempt."""

from dataclasses import fields, replace
from uuid import UUID

from actors.sandbox import environment, limits
from trace_ray.alerts import CAPS, FLOOR_MEMORY, Invocation, SandboxLimits

ASKED = Invocation(
    UUID(int=1), "/store/ab", "python", "main.handler", "a rule\r\nX: y", "", b"{}", may_query=True, may_emit=True
)


def test_hard_caps_hold() -> None:
    huge = SandboxLimits(**{field.name: 1 << 60 for field in fields(SandboxLimits)})
    assert limits.capped(huge) == CAPS
    nothing = SandboxLimits(**{field.name: -1 for field in fields(SandboxLimits)})
    assert limits.capped(nothing).memory == FLOOR_MEMORY
    assert limits.capped(nothing).wall_s == 0
    assert limits.capped(SandboxLimits()) == SandboxLimits()


def test_process_limit_lies_above_that_of_the_group() -> None:
    """Else the kernel refuses the fork before the group counts it, and there is no evidence."""
    asked = replace(SandboxLimits(), pids=64, memory=256 << 20)
    counted = dict(each.split("=") for each in limits.kernel_limits(asked, counted=True, language="python"))
    assert int(counted["nproc"]) > asked.pids + limits.OWN_PIDS
    assert "as" not in counted
    assert (counted["core"], counted["fsize"], counted["nofile"]) == ("0", str(64 << 20), "256")


def test_address_space_bounds_memory_where_nothing_counts() -> None:
    alone = limits.kernel_limits(SandboxLimits(), counted=False, language="python")
    assert "nproc=64" in alone
    assert f"as={(256 << 20) + limits.ADDRESS_SPARE}" in alone
    assert not [each for each in limits.kernel_limits(SandboxLimits(), counted=False, language="node") if "as=" in each]


def test_environment_is_constant_and_harmless() -> None:
    made = environment.fixed("/var/task", "/tmp") | environment.of(ASKED)
    assert made["AWS_LAMBDA_FUNCTION_NAME"] == "a_rule__X__y"
    assert made["AWS_LAMBDA_FUNCTION_VERSION"] == "_"
    assert made["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert (made["PYTHONHASHSEED"], made["TZ"], made["HOME"]) == ("0", "UTC", "/tmp")
    assert "store" not in repr(made)
    assert environment.ahead() == {"_HANDLER": "-"}
    assert environment.node_heap(SandboxLimits()) == {"TRACE_NODE_HEAP_MIB": "192"}

"""What bundles may try, and how each of them ends: as root with control groups, and as uid 65534 without.

Every run also proves that no process survives, that nothing reached the host's listeners, and that the capability token
is in nothing that came out.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors.sandbox.invoker import RuntimeInvoker
from tests.integration.sandbox import arena
from tests.integration.sandbox.arena import MIB
from trace_ray.alerts import Invoked, OutcomeKind

TIGHT = {"wall_s": 1.0}


@dataclass(frozen=True)
class Case:
    """`says`: a part of the detail. `plain`: the outcomes as a plain user without control groups, if they are
    others: what is seen first, by looking at the processes, is chance there."""

    name: str
    outcome: str
    says: str = ""
    plain: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    event: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return "-".join([self.name, *map(str, self.event.values())])[:60]


CASES = [
    # the network
    Case("net_egress_tcp", "user_error", "OSError: [Errno 101] Network is unreachable"),
    Case("net_imds", "user_error", "OSError: [Errno 101] Network is unreachable"),
    Case("net_host_loopback", "user_error", "ConnectionRefusedError: [Errno 111]"),
    Case("net_dns", "user_error", "gaierror: "),
    Case("net_abstract_unix", "user_error", "ConnectionRefusedError: [Errno 111]"),
    # time and processes
    Case("infinite_loop", "timeout", limits=TIGHT),
    Case("sleep_forever", "timeout", limits=TIGHT),
    Case("js_loop", "timeout", limits=TIGHT),
    Case("cpu_burn", "cpu_limit", limits={"cpu_s": 0.4}),
    Case("cpu_burn_threads_forks", "pids_limit", limits={"cpu_s": 1.0}, plain="cpu_limit pids_limit memory_limit"),
    Case("ignore_sigterm_daemonize", "timeout", limits=TIGHT),
    Case(
        "fork_bomb",
        "pids_limit",
        limits={"wall_s": 3.0, "cpu_s": 0.5},
        plain="cpu_limit pids_limit memory_limit timeout",
    ),
    Case("js_worker_fork_bomb", "pids_limit", limits={"wall_s": 4.0, "pids": 24}, plain="user_error"),
    # memory
    Case("memory_bomb", "memory_limit", limits={"memory": 96 * MIB}, plain="user_error memory_limit"),
    Case("memory_bomb_child", "ok", limits={"memory": 96 * MIB}, plain="ok memory_limit"),
    Case("js_memory_bomb", "memory_limit", limits={"memory": 128 * MIB}),
    Case("memory_bomb_tmpfs", "user_error", "OSError: [Errno 28]", limits={"tmp": 32 * MIB}),
    Case("inode_bomb", "memory_limit", limits={"memory": 96 * MIB, "wall_s": 4.0}, plain="timeout"),
    Case("deep_recursion", "memory_limit", limits={"memory": 96 * MIB}, plain="user_error memory_limit"),
    # output
    Case("stdout_flood", "output_limit", "256 KiB"),
    Case("huge_response", "output_limit", "response"),
    Case("huge_error", "output_limit", "error"),
    Case("event_flood", "output_limit", "events"),
    Case("event_bytes", "output_limit", "events", limits={"event_bytes": MIB}),
    # queries
    Case("query_forbidden", "query_denied", "403"),
    Case("query_flood", "user_error", "429"),
    Case("query_broken", "query_unavailable", "502", event={"sql": "select busy"}),
    Case("query_broken", "query_unavailable", "502", event={"sql": "select raise"}),
    Case("query_broken", "user_error", "400", event={"sql": "select wrong"}),
    Case("query_broken", "user_error", "413", event={"sql": "select large"}, limits={"query_bytes": MIB}),
    Case("query_broken", "timeout", event={"sql": "select slow"}, limits=TIGHT),
    # ends
    Case("hard_exit", "exit", "exit code 0"),
    Case("kill_itself", "crash", "SIGKILL"),
    Case("segv", "crash", "SIGSEGV"),
    Case("x32_call", "crash", "SIGSYS"),
    Case("init_exception", "init_error", "RuntimeError: at import"),
    Case("init_exit", "exit", "exit code 3"),
    Case("init_hang", "init_timeout", limits={"init_s": 1.0}),
    Case("js_init_exception", "init_error", "TypeError: at import"),
    Case("js_throw", "user_error", "RangeError: from a timer"),
    Case("js_child_process", "user_error", "ENOENT"),
    # what is sent
    Case("init_error_garbage", "init_error"),
    Case("error_garbage", "user_error", "no json", event={"body": "no json"}),
    Case("error_garbage", "user_error", "[1, 2]", event={"body": "[1, 2]"}),
    Case("error_garbage", "user_error", "[[[[", event={"body": "[" * 50_000}),
    Case("error_garbage", "user_error", "it gave no reason", event={"body": '{"errorType": {"a": 1}}'}),
    Case("error_garbage", "user_error", "MemoryError", event={"body": '{"errorType": "MemoryError"}'}),
    Case("deep_json", "bad_output", "not JSON"),
    Case("bad_json_nan_cycle", "user_error", "TypeError", event={"what": "set"}),
    Case("bad_json_nan_cycle", "user_error", "ValueError", event={"what": "nan"}),
    Case("bad_json_nan_cycle", "user_error", "ValueError", event={"what": "cycle"}),
    Case("bad_events", "bad_output", "`events`", event={"events": {"a": 1}}),
    Case("bad_events", "bad_output", "`events`", event={"events": [1]}),
    Case(
        "chunked_stream_response",
        "user_error",
        "Broken: the stream",
        event={"trailer": "Lambda-Runtime-Function-Error-Type: Broken\r\n"},
    ),
    Case("slowloris_conns", "timeout", limits=TIGHT),
    Case("slow_body", "timeout", limits=TIGHT),
]


@pytest.fixture(params=["ours", "nobodys"])
def invoker(request: pytest.FixtureRequest) -> RuntimeInvoker:
    return request.getfixturevalue(request.param)


@pytest.fixture
def plain(request: pytest.FixtureRequest) -> bool:
    """The sandbox runs without control groups."""
    return os.geteuid() != 0 or "nobodys" in request.node.name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_attack_ends_as_it_should(
    case: Case, invoker: RuntimeInvoker, plain: bool, host: arena.Host, bundles: Path
) -> None:
    result = arena.run(invoker, arena.bundle(case.name, bundles), host.event() | case.event, **case.limits)
    if plain and case.plain:
        assert result.outcome in case.plain.split(), result
    else:
        assert (result.outcome, case.says in result.detail) == (case.outcome, True), result
    if result.outcome is not OutcomeKind.OK:
        assert (result.response, result.events) == (b"", ())
    assert host.visitors == []


@pytest.fixture
def answer(invoker: RuntimeInvoker, host: arena.Host, bundles: Path) -> Any:
    """Run a bundle that must succeed, and return what it answered."""

    def run(name: str, **event: Any) -> Any:
        result: Invoked = arena.run(invoker, arena.bundle(name, bundles), host.event() | event)
        assert result.outcome is OutcomeKind.OK, result
        assert host.visitors == []
        return json.loads(result.response)

    return run


ENVIRONMENT = {
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "HOME", "LAMBDA_TASK_ROOT",
    "LANG",
    "PWD", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "TMPDIR", "TZ", "_HANDLER",
}  # fmt: skip


@pytest.mark.parametrize("name", ["ok_baseline", "js_baseline"])
def test_honest_bundle_asks_emits_and_answers(name: str, invoker: RuntimeInvoker, bundles: Path) -> None:
    result = arena.run(invoker, arena.bundle(name, bundles), {})
    assert (result.outcome, json.loads(result.response)["n"]) == ("ok", 100)
    assert json.loads(result.response)["id"] == "00000000-0000-0000-0000-000000000007"
    assert [json.loads(event) for event in result.events] == [*({"n": n} for n in range(100)), {"last": True}]
    assert (result.usage["queries"], result.usage["events"]) == (1, 101)


def test_secrets_of_the_environment_are_not_there(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", arena.CANARY)
    seen = answer("env_secrets")
    assert (set(seen["environment"]), seen["files"]) == (ENVIRONMENT, [])
    assert seen["environment"]["PYTHONHASHSEED"] == "0"


def test_no_descriptor_of_ours_is_there(answer: Any) -> None:
    """Only its own connection to the runtime interface; null and one pipe as standard files."""
    with Path(__file__).open() as held:
        os.set_inheritable(held.fileno(), True)
        assert answer("fd_leak") == {
            "above": [[0o140000, ["127.0.0.1", 9001]]],
            "standard": [0o20000, 0o10000, 0o10000],
        }


def test_files_of_the_host_are_not_there(answer: Any) -> None:
    seen = answer("fs_read_host")
    assert seen["got"] == []
    assert set(seen["seen"].pop("/")) == {"checksums", "dev", "lib", "lib64", "opt", "tmp", "var"}
    assert seen["seen"] == {"/tmp": [], "/dev/shm": [], "/var/task/..": ["task"]}


def test_nothing_but_tmp_can_be_written(answer: Any) -> None:
    assert answer("fs_write_outside_tmp") == []


def test_no_other_process_is_there(answer: Any) -> None:
    seen = answer("proc_other_pids")
    assert seen == {"alive": [1, seen["me"]], "me": seen["me"], "refused": 2, "parent": 1, "sid": seen["sid"]}


def test_sockets_of_other_families_do_not_exist(answer: Any) -> None:
    errnos = answer("net_raw_netlink_vsock")
    assert errnos.pop("raw inet") == 1
    assert set(errnos.values()) == {97}


def test_forbidden_calls_fail(answer: Any) -> None:
    errnos = answer("userns_mount_ptrace")
    assert errnos.pop("clone3") == errnos.pop("newer") == 38
    assert len(errnos) > 30
    assert set(errnos.values()) == {1}


def test_there_is_no_power_to_take(answer: Any) -> None:
    seen = answer("setuid_caps")
    assert seen["got"] == []
    assert (set(seen["ids"]), seen["capabilities"], seen["bounding"]) == ({1000}, [0] * 6, [])
    assert (seen["no_new_privs"], seen["seccomp"]) == (1, 2)


def test_node_finds_nothing_either(answer: Any) -> None:
    seen = answer("js_fs_env_net")
    assert (seen["got"], seen["refused"]) == ([], "ECONNREFUSED")
    assert set(seen["names"]) == ENVIRONMENT


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("protocol_garbage", 1),
        ("protocol_forge_rid", [400, 400, 404, 400, 400]),
        ("second_next", "waits"),
        ("query_at_import", [409, 409]),
        ("query_forbidden_caught", {"status": 403, "text": '403: {"error": {"code": "DATASET_NOT_GRANTED"}}'}),
        ("query_malformed", [400] * 11),
        ("chunked_stream_response", [1, 2]),
        ("negative_length", "HTTP/1.1 400"),
        ("smuggled_lengths", "HTTP/1.1 400"),
        ("idle_connections", 100),
    ],
)
def test_strange_calls_have_no_effect(answer: Any, name: str, said: Any) -> None:
    assert answer(name) == said


def test_headers_are_bounded(answer: Any) -> None:
    assert answer("huge_headers") in ("HTTP/1.1 400", "closed")


@pytest.mark.parametrize(
    ("name", "said"),
    [("js_module", {"esm": {"a": 1}, "left": True}), ("js_callback", {"a": 1})],
)
def test_node_handlers_of_every_form_run(invoker: RuntimeInvoker, bundles: Path, name: str, said: Any) -> None:
    result = arena.run(invoker, arena.bundle(name, bundles), {"a": 1})
    assert (result.outcome, json.loads(result.response or b"null")) == ("ok", said), result


def test_log_and_detail_hold_no_escapes(invoker: RuntimeInvoker, bundles: Path) -> None:
    result = arena.run(invoker, arena.bundle("log_escapes", bundles), {})
    assert result.log == "red end trojan  nul backreturn  line\n"
    assert result.detail == "ValueError:  and  turned"


def test_same_payload_gives_the_same_in_every_attempt(invoker: RuntimeInvoker, bundles: Path) -> None:
    """No attempt, no time and no chance is visible but the clock itself."""
    first, second = (arena.run(invoker, arena.bundle("lambda_payload", bundles), {"a": 1}) for _ in range(2))
    assert first.response == second.response
    assert json.loads(first.response) == [404, {"a": 1}, "00000000-0000-0000-0000-000000000007"]

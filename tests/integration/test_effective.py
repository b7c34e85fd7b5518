"""Which settings count: the environment, then the last `up`, then the default."""

from dataclasses import replace
from pathlib import Path

from trace_ray import config
from trace_ray.config import Settings
from trace_ray.lite.devnet import Devnet, _record_of, _write
from trace_ray.lite.effective import effective, missing_channels, share_pools
from trace_ray.pool_settings import RpcPool


def read(data_dir: Path, **environ: str) -> Settings:
    return config.read_settings({"TRACE_DATA_DIR": str(data_dir), **environ})


def test_what_the_environment_names_wins_over_the_last_up(tmp_path: Path) -> None:
    bucket = {"TRACE_OBJECT_STORE": "s3://lake/a", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    config.save_stack(read(tmp_path, TRACE_WORKERS="7", **bucket))
    found = effective(read(tmp_path))
    assert (found.workers, found.object_store, found.s3) == (7, "s3://lake/a", read(tmp_path, **bucket).s3)
    assert found.sources["workers"] == "last `up`"
    assert effective(read(tmp_path, TRACE_WORKERS="3")).workers == 3


def test_a_shell_that_knows_no_database_keeps_the_one_of_the_last_up(tmp_path: Path) -> None:
    config.save_stack(read(tmp_path, TRACE_STATE_DATABASE_URL="postgresql://db.example/trace"))
    found = effective(read(tmp_path))
    assert not found.embedded_postgres
    assert found.state_database_url == "postgresql://db.example/trace"


def test_pools_of_both_are_known_and_shared_with_the_running_stack(tmp_path: Path) -> None:
    config.save_stack(read(tmp_path, TRACE_RPC_POOL_OLD_URLS="http://127.0.0.1:1"))
    found = effective(read(tmp_path, TRACE_RPC_POOL_NEW_URLS="http://127.0.0.1:2"))
    assert found.rpc_pools == {"old": RpcPool(("http://127.0.0.1:1",)), "new": RpcPool(("http://127.0.0.1:2",))}
    share_pools(found)
    assert config.load_stack(tmp_path).rpc_pools == found.rpc_pools


def test_channels_of_both_are_known(tmp_path: Path) -> None:
    config.save_stack(read(tmp_path, TRACE_CHANNEL_OLD_KIND="log", TRACE_ALERTS_ALLOW_LOOPBACK="1"))
    found = effective(read(tmp_path, TRACE_CHANNEL_NEW_KIND="log"))
    assert set(found.channels) == {"old", "new"}
    assert (found.sources["channels.old"], found.sources["channels.new"]) == ("last `up`", "TRACE_CHANNEL_NEW_KIND")
    assert found.alerts_allow_loopback


def test_a_channel_that_the_running_stack_does_not_know_is_told(tmp_path: Path) -> None:
    config.save_stack(read(tmp_path, TRACE_CHANNEL_OLD_KIND="log"))
    found = effective(read(tmp_path, TRACE_CHANNEL_NEW_KIND="log"))
    assert missing_channels(["old", "new", "none"], found) == [
        "the stack does not know channel new as this shell does: run `trace-ray up`",
        "channel none is not set: set TRACE_CHANNEL_NONE_KIND and its other parts, then run `trace-ray up`",
    ]
    config.save_stack(found)
    assert missing_channels(["old", "new"], effective(read(tmp_path))) == []


def test_a_running_devnet_serves_the_pool_standard_unless_the_environment_names_one(
    tmp_path: Path, anvil_binary: Path
) -> None:
    config.save_stack(replace(read(tmp_path), rpc_pools={"standard": RpcPool(("http://127.0.0.1:1",))}))
    with Devnet(anvil_binary, port=None, log=tmp_path / "log", state_dir=tmp_path / "state") as net:
        _write(tmp_path, _record_of(net, complete=True, detached=True))
        assert effective(read(tmp_path)).rpc_pools["standard"].urls == (net.url,)
        named = effective(read(tmp_path, TRACE_RPC_POOL_STANDARD_URLS="http://127.0.0.1:3"))
        assert named.rpc_pools["standard"].urls == ("http://127.0.0.1:3",)

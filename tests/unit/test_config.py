"""Settings: defaults, what the environment changes, what is refused, and the file of a running stack."""

import json
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from trace_ray import config
from trace_ray.config import Settings
from trace_ray.contracts import DEFAULT_ORG, S3Credentials
from trace_ray.errors import RefusedInput, StackUnavailable
from trace_ray.pool_settings import RpcPool

REPOSITORY = Path(__file__).parents[2]
KEY = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
DATABASE = f"postgresql://trace:{KEY}@db.example:5432/trace"
FULL = {
    "TRACE_STATE_DATABASE_URL": DATABASE,
    "TRACE_DATA_DATABASE_URL": f"{DATABASE}_data",
    "TRACE_OBJECT_STORE": "s3://bucket/prefix/",
    "TRACE_S3_ENDPOINT": "http://127.0.0.1:9000",
    "AWS_ACCESS_KEY_ID": f"id{KEY}",
    "AWS_SECRET_ACCESS_KEY": f"secret{KEY}",
    "AWS_SESSION_TOKEN": f"token{KEY}",
    "AWS_REGION": "eu-central-1",
    "TRACE_RPC_POOL_STANDARD_URLS": f"https://a.example/{KEY}, http://b.example/{KEY}",
    "TRACE_RPC_POOL_STANDARD_RPS": "25.5",
    "TRACE_RPC_POOL_ARCHIVE_2_URL": "http://c.example",
    "TRACE_ORG_ID": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "TRACE_WORKERS": "3",
    "TRACE_HTTP_PORT": "8080",
    "TRACE_ENGINE": "native",
    "TRACE_RANGE_TIMEOUT_SECONDS": "90",
    "TRACE_LEASE_SECONDS": "12",
    "TRACE_TOKEN_KEYS": __file__,
    "TRACE_JWKS_URL": "https://idp.example/jwks.json",
    "TRACE_TOKEN_ISSUER": "https://idp.example",
    "TRACE_AUDIT_KEY": "/srv/trace/audit.key",
    "TRACE_AUDIT_KEPT_DAYS": "30",
    "RAY_ADDRESS": "127.0.0.1:6379",
}


def problems(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(RefusedInput) as caught:
        config.read_settings(environ)
    return caught.value.problems


# --- reading ------------------------------------------------------------------------------------------------------


def test_laptop_needs_no_settings() -> None:
    settings = config.read_settings({})
    home = Path.home() / ".trace-ray"
    assert settings.data_dir == home
    assert settings.object_store == (home / "objects").as_uri()
    assert settings.embedded_postgres
    assert (settings.state_database_url, settings.data_database_url) == (None, None)
    assert (settings.org_id, settings.http_port, settings.rpc_pools) == (DEFAULT_ORG, 8000, {})
    assert (settings.engine, settings.ray_address, settings.s3, settings.warnings) == ("cryo", None, None, ())
    assert 2 <= settings.workers <= 8


def test_every_setting_is_read(tmp_path: Path) -> None:
    settings = config.read_settings(FULL | {"TRACE_DATA_DIR": str(tmp_path)})
    assert settings == Settings(
        data_dir=tmp_path,
        embedded_postgres=False,
        state_database_url=DATABASE,
        data_database_url=f"{DATABASE}_data",
        object_store="s3://bucket/prefix",
        s3_endpoint="http://127.0.0.1:9000",
        rpc_pools={
            "standard": RpcPool((f"https://a.example/{KEY}", f"http://b.example/{KEY}"), 25.5),
            "archive_2": RpcPool(("http://c.example",), None),
        },
        org_id=config.OrgId(UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")),
        workers=3,
        http_port=8080,
        engine="native",
        ray_address="127.0.0.1:6379",
        range_timeout_s=90.0,
        sources=settings.sources,
        s3=S3Credentials(f"id{KEY}", f"secret{KEY}", f"token{KEY}", "eu-central-1", None),
        warnings=(),
        lease_s=12.0,
        token_keys=Path(__file__),
        jwks_url="https://idp.example/jwks.json",
        token_issuer="https://idp.example",
        audit_key=Path("/srv/trace/audit.key"),
        audit_kept_days=30.0,
    )


def test_a_short_lease_makes_the_term_of_a_dispatcher_short() -> None:
    assert config.read_settings({}).leader_s == config.LEADER_S
    assert config.read_settings({"TRACE_LEASE_SECONDS": "12"}).leader_s == 2.0


def test_each_setting_names_its_source() -> None:
    sources = config.read_settings(FULL).sources
    assert sources["workers"] == "TRACE_WORKERS"
    assert sources["data_dir"] == "default"
    assert sources["rpc_pools.archive_2"] == "TRACE_RPC_POOL_ARCHIVE_2_URL"
    assert sources["s3"] == "AWS_ACCESS_KEY_ID"
    assert config.read_settings({}).sources["state_database_url"] == "embedded Postgres"
    assert not any(KEY in source for source in sources.values())


def test_one_database_url_serves_both_ledgers() -> None:
    settings = config.read_settings({"TRACE_STATE_DATABASE_URL": DATABASE})
    assert settings.data_database_url == DATABASE
    assert settings.sources["data_database_url"] == "TRACE_STATE_DATABASE_URL"


def test_empty_variable_counts_as_unset() -> None:
    environ = {"TRACE_WORKERS": " ", "TRACE_STATE_DATABASE_URL": "", "TRACE_RPC_POOL_A_URLS": ""}
    assert config.read_settings(environ) == config.read_settings({})


def test_home_directory_is_expanded_and_a_relative_one_made_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.read_settings({"TRACE_DATA_DIR": "~/x"}).data_dir == tmp_path / "x"
    assert config.read_settings({"TRACE_DATA_DIR": "y"}).data_dir == tmp_path / "y"


def test_endpoint_of_aws_is_taken_where_ours_is_unset() -> None:
    environ = {"TRACE_OBJECT_STORE": "s3://bucket", "AWS_ENDPOINT_URL": "http://minio:9000"}
    settings = config.read_settings(environ)
    assert (settings.s3_endpoint, settings.sources["s3_endpoint"]) == ("http://minio:9000", "AWS_ENDPOINT_URL")
    assert config.read_settings(environ | {"TRACE_S3_ENDPOINT": "http://ours"}).s3_endpoint == "http://ours"


def test_object_store_on_a_disk_has_one_way_to_be_written() -> None:
    for text in ("file:///srv/o%62jects/", "file://localhost/srv/objects"):
        assert config.read_settings({"TRACE_OBJECT_STORE": text}).object_store == "file:///srv/objects"


def test_profile_stands_for_keys_that_are_not_set() -> None:
    settings = config.read_settings({"TRACE_OBJECT_STORE": "s3://bucket", "AWS_PROFILE": "dev"})
    assert settings.s3 == S3Credentials(profile="dev")


def test_credentials_are_left_alone_where_objects_are_files() -> None:
    assert config.read_settings({"AWS_ACCESS_KEY_ID": "only-half"}).s3 is None


@pytest.mark.parametrize(
    ("variable", "warning"),
    [
        ("TRACE_WORKRS", "TRACE_WORKRS is not a setting and is ignored: did you mean TRACE_WORKERS?"),
        (
            "TRACE_RPC_POOL_A_URLZ",
            "TRACE_RPC_POOL_A_URLZ is not a setting and is ignored: did you mean TRACE_RPC_POOL_<NAME>_URLS?",
        ),
        ("TRACE_QQQQ", "TRACE_QQQQ is not a setting and is ignored"),
    ],
)
def test_unknown_variable_is_told_and_ignored(variable: str, warning: str) -> None:
    assert config.read_settings({variable: KEY, "HOME": "/"}).warnings == (warning,)


# --- refusals -----------------------------------------------------------------------------------------------------

HTTP = "write http://HOST:PORT/... or https://HOST/..."
STORE = "write file:///ABSOLUTE/PATH or s3://BUCKET/PREFIX"
POOL = "TRACE_RPC_POOL_A_URLS"
NO_DATABASE = "is not a database URL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
KEYS_ELSEWHERE = "holds more than a place: set keys with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TRACE_STATE_DATABASE_URL", f"mysql://u:{KEY}@h/d", NO_DATABASE),
        ("TRACE_STATE_DATABASE_URL", f"postgresql://u:{KEY}@h", NO_DATABASE),
        ("TRACE_STATE_DATABASE_URL", f"postgresql://u:{KEY}@h:99999/d", NO_DATABASE),
        ("TRACE_OBJECT_STORE", "s3://[bucket", f"is not a URL: {STORE}"),
        ("TRACE_OBJECT_STORE", "gs://bucket", f"is not an object store: {STORE}"),
        ("TRACE_OBJECT_STORE", "/srv/objects", f"is not an object store: {STORE}"),
        ("TRACE_OBJECT_STORE", "file://", f"is not an object store: {STORE}"),
        ("TRACE_OBJECT_STORE", "file:///a/../../etc", f"has '..' in its path: {STORE}"),
        ("TRACE_OBJECT_STORE", "s3://Bucket_", f"is not an object store: {STORE}"),
        ("TRACE_OBJECT_STORE", f"s3://id:{KEY}@bucket", KEYS_ELSEWHERE),
        ("TRACE_OBJECT_STORE", f"s3://bucket?key={KEY}", KEYS_ELSEWHERE),
        ("TRACE_ORG_ID", "acme", "is not a UUID: write one like 00000000-0000-5000-8000-000000000001"),
        ("TRACE_WORKERS", "0", "is out of bounds: write a whole number from 1 to 1024"),
        ("TRACE_WORKERS", "many", "is out of bounds: write a whole number from 1 to 1024"),
        ("TRACE_HTTP_PORT", "65536", "is out of bounds: write a whole number from 0 to 65535"),
        ("TRACE_ENGINE", "geth", "is not known: write cryo or native"),
        ("TRACE_RANGE_TIMEOUT_SECONDS", "5m", "is out of bounds: write a number from 1 to 86400"),
        ("TRACE_RANGE_TIMEOUT_SECONDS", "nan", "is out of bounds: write a number from 1 to 86400"),
        ("TRACE_LEASE_SECONDS", "4", "is out of bounds: write a number from 5 to 3600"),
        ("TRACE_TOKEN_KEYS", f"/nowhere/{KEY}", "names no file that is there: write its whole path"),
        ("TRACE_TOKEN_KEYS", "/", "is a directory: name a file"),
        ("TRACE_AUDIT_KEPT_DAYS", "7", "is out of bounds: write a number from 8 to 36500"),
        ("TRACE_AUDIT_KEY", "/", "is a directory: name a file"),
        ("TRACE_JWKS_URL", f"idp.example/{KEY}", f"is not an http(s) URL: {HTTP}"),
        (
            "TRACE_JWKS_URL",
            f"http://idp.example/{KEY}",
            "is not https: whoever sits on the line could give out tokens",
        ),
        (
            "TRACE_JWKS_URL",
            f"https://me:{KEY}@idp.example/",
            "holds a password: name an endpoint that needs none, its keys are public",
        ),
        (POOL, f"ws://a.example/{KEY}", "is a WebSocket URL, which nothing retries: write its http(s):// form"),
        (
            POOL,
            f"http://a,wss://b/{KEY}",
            "(URL 2 of 2) is a WebSocket URL, which nothing retries: write its http(s):// form",
        ),
        (POOL, f"a.example/{KEY}", f"is not an http(s) URL: {HTTP}"),
        (POOL, f"http://a.example:x/{KEY}", f"is not an http(s) URL: {HTTP}"),
        (POOL, f"http://[a/{KEY}", f"is not an http(s) URL: {HTTP}"),
        (POOL, f"http://a.example/{KEY} x", f"is not an http(s) URL: {HTTP}"),
        (POOL, f"http://a.example/#{KEY}", "has a '#': remove it and what follows"),
        (POOL, f"http://a/{KEY},http://a/{KEY}", "names one provider twice (URLs 1 and 2): remove one"),
        (POOL, ",", "names no provider: write http(s)://HOST/..., several with commas between them"),
        ("TRACE_RPC_POOL_A_URL", f"http://a/{KEY},http://b", "takes one URL: name it ..._URLS to give several"),
        (
            "TRACE_RPC_POOL_1A_URLS",
            f"http://a/{KEY}",
            "names no pool: begin its name with a letter, at most 64 characters",
        ),
        ("TRACE_RPC_POOL_A_RPS", "5", "is set for a pool without providers: set TRACE_RPC_POOL_A_URLS"),
    ],
)
def test_wrong_variable_is_refused_without_its_value(variable: str, value: str, sentence: str) -> None:
    assert problems({variable: value}) == [f"{variable} {sentence}"]


def test_keys_may_come_over_plain_http_from_this_machine_alone() -> None:
    for host in ("127.0.0.1:9000", "localhost", "[::1]:1"):
        assert config.read_settings({"TRACE_JWKS_URL": f"http://{host}/jwks"}).jwks_url == f"http://{host}/jwks"


def test_pool_rate_must_be_positive() -> None:
    environ = {"TRACE_RPC_POOL_A_URL": "http://a", "TRACE_RPC_POOL_A_RPS": "0"}
    assert problems(environ) == ["TRACE_RPC_POOL_A_RPS is out of bounds: write a number from 0.01 to 1000000"]


def test_pool_has_one_list_of_urls() -> None:
    environ = {"TRACE_RPC_POOL_A_URL": "http://a", "TRACE_RPC_POOL_A_URLS": "http://b"}
    advice = "keep the first, it takes several URLs"
    assert problems(environ) == [f"TRACE_RPC_POOL_A_URLS and TRACE_RPC_POOL_A_URL are both set: {advice}"]


def test_half_of_a_pair_of_keys_is_refused() -> None:
    environ = {"TRACE_OBJECT_STORE": "s3://bucket", "AWS_SECRET_ACCESS_KEY": KEY}
    advice = "set both, or neither to use the machine's role"
    assert problems(environ) == [f"AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID: {advice}"]


def test_data_database_alone_is_refused() -> None:
    advice = "set both, or neither for the embedded Postgres"
    expected = f"TRACE_DATA_DATABASE_URL is set without TRACE_STATE_DATABASE_URL: {advice}"
    assert problems({"TRACE_DATA_DATABASE_URL": DATABASE}) == [expected]


def test_endpoint_with_more_than_a_host_is_refused() -> None:
    environ = {"TRACE_OBJECT_STORE": "s3://bucket", "TRACE_S3_ENDPOINT": f"http://me:{KEY}@minio/x"}
    advice = "write http(s)://HOST:PORT, and keys into the AWS variables"
    assert problems(environ) == [f"TRACE_S3_ENDPOINT holds more than a host: {advice}"]


def test_client_needs_a_token_and_finds_the_local_service() -> None:
    assert config.read_client_settings({"TRACE_TOKEN": KEY}) == config.ClientSettings("http://127.0.0.1:8000", KEY)
    found = config.read_client_settings({"TRACE_TOKEN": KEY, "TRACE_HTTP_PORT": "9", "TRACE_URL": "https://host/base/"})
    assert found.url == "https://host/base"
    assert config.read_client_settings({"TRACE_TOKEN": KEY, "TRACE_HTTP_PORT": "9"}).url == "http://127.0.0.1:9"
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    ("url", "wrong"),
    [(f"http://me:{KEY}@host", "holds more than a place"), (f"http://host?key={KEY}", "holds more than a place"),
     ("host:8000", "is not")],
)  # fmt: skip
def test_place_of_a_service_that_is_none_is_refused(url: str, wrong: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        config.read_client_settings({"TRACE_URL": url})
    first, second = caught.value.problems
    assert first.startswith(f"TRACE_URL {wrong}")
    assert second.startswith("TRACE_TOKEN is not set")
    assert KEY not in str(caught.value)


def test_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sentence = "TRACE_DATA_DIR is not a directory: name one, it is created when it is missing"
    assert problems({"TRACE_DATA_DIR": str(tmp_path / "file")}) == [sentence]


def test_all_problems_are_told_at_once_and_hold_no_secret() -> None:
    told = problems(
        {
            "TRACE_STATE_DATABASE_URL": KEY,
            "TRACE_WORKERS": KEY,
            POOL: f"ftp://{KEY}",
            "TRACE_OBJECT_STORE": KEY,
            "TRACE_ORG_ID": KEY[:20],
        }
    )
    assert len(told) == 5
    assert KEY[:20] not in "\n".join(told)


# --- secrets ------------------------------------------------------------------------------------------------------


def test_settings_print_without_secrets() -> None:
    settings = config.read_settings(FULL)
    assert KEY not in repr(settings)
    assert KEY not in repr(settings.rpc_pools)
    assert KEY not in repr(settings.s3)


def test_secrets_of_the_settings_are_known_by_name() -> None:
    assert set(config.secrets(config.read_settings(FULL))) == {KEY, f"id{KEY}", f"secret{KEY}", f"token{KEY}"}


# --- the running stack --------------------------------------------------------------------------------------------


def test_stack_settings_come_back_as_they_were(tmp_path: Path) -> None:
    settings = config.read_settings(FULL | {"TRACE_DATA_DIR": str(tmp_path / "new" / "dir"), "TRACE_WORKRS": "1"})
    config.save_stack(settings)
    assert config.load_stack(settings.data_dir) == settings


def test_stack_file_is_readable_by_its_owner_alone_and_replaced_whole(tmp_path: Path) -> None:
    settings = replace(config.read_settings(FULL), data_dir=tmp_path)
    file = tmp_path / "stack.json"
    file.write_text("old")
    file.chmod(0o644)
    config.save_stack(settings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


def test_data_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = replace(config.read_settings({}), data_dir=tmp_path / "file" / "below")
    with pytest.raises(RefusedInput, match="TRACE_DATA_DIR cannot be written: name a directory that is yours"):
        config.save_stack(settings)


def test_directory_without_a_stack_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACE_STATE_DATABASE_URL", raising=False)
    with pytest.raises(StackUnavailable, match="no stack was started in this data directory: run `trace-ray up`"):
        config.load_stack(tmp_path)


def test_node_of_a_cluster_reads_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FULL.items():
        monkeypatch.setenv(name, value)
    assert config.load_stack(tmp_path) == replace(config.read_settings(FULL), data_dir=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "s3": null, "rpc_pools": 3}'])
def test_damaged_stack_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    with pytest.raises(StackUnavailable, match="run `trace-ray up` again"):
        config.load_stack(tmp_path)


def test_stack_of_another_version_is_told(tmp_path: Path) -> None:
    config.save_stack(replace(config.read_settings({}), data_dir=tmp_path))
    file = tmp_path / "stack.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 99}))
    with pytest.raises(StackUnavailable, match="another version of trace_ray started this stack"):
        config.load_stack(tmp_path)


def test_embedded_database_has_no_url_before_it_runs() -> None:
    settings = config.read_settings({})
    with pytest.raises(StackUnavailable, match="the embedded Postgres is not running: run `trace-ray up`"):
        config.state_url(settings)
    assert config.data_url(config.read_settings(FULL)) == f"{DATABASE}_data"


# --- documentation ------------------------------------------------------------------------------------------------


def test_reference_explains_every_variable_and_default() -> None:
    text = (REPOSITORY / "docs" / "reference" / "settings.md").read_text()
    names = [*config.VARIABLES, "TRACE_RPC_POOL_<NAME>_URLS", "TRACE_RPC_POOL_<NAME>_RPS", "RAY_ADDRESS"]
    assert [name for name in names if f"`{name}`" not in text] == []
    defaults = {
        name
        for name, value in vars(config).items()
        if name.isupper() and isinstance(value, (int, float, config.RetryPolicy))
    }
    assert {name for name in defaults - {"STACK_VERSION", "MAX_DEFAULT_WORKERS"} if f"`{name}`" not in text} == set()

"""Job files: what is read, the schema for editors, and that any text is a job or refused input."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.job_files import GOOD, changed, with_mode, write
from trace_ray import config
from trace_ray.contracts import FixedTarget, FollowHead, Job, OrgId, Receipts, Stream
from trace_ray.errors import RefusedInput

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "docs" / "examples"


# --- what is read -------------------------------------------------------------------------------------------------


def test_example_of_the_specification_becomes_a_job() -> None:
    job = config.read_job(EXAMPLES / "chain_sync.devnet.yaml")
    stream = Stream("blocks", "blocks", "standard", 200, 8, "devnet_blocks")
    expected = tuple(
        replace(stream, dataset_key=key, cryo_dataset_name=key, dataset=f"devnet_{key}")
        for key in ("blocks", "transactions", "logs")
    )
    assert job == Job(
        org_id=config.DEFAULT_ORG,
        name="devnet",
        chain_id=31337,
        chain_name="devnet",
        enabled=True,
        mode=FixedTarget(0, 2000),
        receipts=Receipts.ETHEREUM,
        streams=expected,
        yaml_hash=job.yaml_hash,
    )


def test_every_example_is_a_valid_job_file() -> None:
    examples = sorted(EXAMPLES.glob("chain_sync.*.yaml"))
    assert len(examples) >= 2
    for example in examples:
        assert config.read_job(example).streams


def test_following_job_has_defaults_for_what_it_leaves_out(tmp_path: Path) -> None:
    text = with_mode("{kind: follow_head, from_block: 5}")
    assert config.read_job(write(tmp_path, text)).mode == FollowHead(5, 64, 12.0, 300.0)


def test_following_job_takes_whole_and_decimal_seconds(tmp_path: Path) -> None:
    mode = "{kind: follow_head, from_block: 1, tail_lag: 0, head_poll_interval_seconds: 0.5, max_head_age_seconds: 60}"
    text = with_mode(mode)
    assert config.read_job(write(tmp_path, text)).mode == FollowHead(1, 0, 0.5, 60.0)


def test_chain_name_defaults_to_the_chain_id(tmp_path: Path) -> None:
    job = config.read_job(write(tmp_path, changed("chain_name: devnet", "enabled: false")))
    assert (job.chain_name, job.enabled, job.streams[0].dataset) == ("chain_31337", False, "chain_31337_blocks")


def test_publish_as_replaces_the_published_name(tmp_path: Path) -> None:
    job = config.read_job(write(tmp_path, GOOD + "    publish_as: my_blocks\n"))
    assert job.streams[0].dataset == "my_blocks"


def test_job_keeps_its_id_while_its_name_and_organisation_stay(tmp_path: Path) -> None:
    job = config.read_job(write(tmp_path, GOOD))
    assert config.read_job(write(tmp_path, changed("  to_block: 2000", "  to_block: 9"))).job_id == job.job_id
    others = {
        config.read_job(write(tmp_path, changed("name: devnet", "name: other"))).job_id,
        config.read_job(write(tmp_path, GOOD), OrgId(UUID(int=7))).job_id,
    }
    assert len(others | {job.job_id}) == 3


def test_organisation_is_the_one_that_is_passed_in(tmp_path: Path) -> None:
    other = OrgId(UUID(int=7))
    assert config.read_job(write(tmp_path, GOOD), other).org_id == other


def test_words_that_other_yaml_readers_turn_into_something_else_are_text(tmp_path: Path) -> None:
    assert config.read_job(write(tmp_path, changed("name: devnet", "name: on"))).name == "on"


def test_hash_ignores_comments_order_defaults_and_style(tmp_path: Path) -> None:
    text = GOOD + "  logs: {cryo_dataset_name: logs, rpc_pool: standard, chunk_size: 200, max_inflight: 8}\n"
    first = config.read_job(write(tmp_path, text)).yaml_hash
    content = yaml.safe_load(text) | {"receipts": "ethereum", "enabled": True}
    content["streams"] = dict(reversed(content["streams"].items()))
    again = config.read_job(write(tmp_path, "# the same\n" + json.dumps(dict(reversed(content.items()))))).yaml_hash
    assert first == again


@pytest.mark.parametrize(
    ("line", "new"),
    [
        ("  to_block: 2000", "  to_block: 2001"),
        ("    chunk_size: 200", "    chunk_size: 100"),
        ("chain_name: devnet", "chain_name: devnet\nreceipts: none"),
        ("chain_name: devnet", "chain_name: devnet\nenabled: false"),
        ("    rpc_pool: standard", "    rpc_pool: archive"),
        ("    max_inflight: 8", "    max_inflight: 8\n    publish_as: other"),
    ],
)
def test_hash_changes_with_the_content(tmp_path: Path, line: str, new: str) -> None:
    before = config.read_job(write(tmp_path, GOOD)).yaml_hash
    assert config.read_job(write(tmp_path, changed(line, new))).yaml_hash != before


# --- the schema for editors ---------------------------------------------------------------------------------------


def test_published_schema_is_the_current_one() -> None:
    published = (REPOSITORY / "docs" / "reference" / "job-file.schema.json").read_text()
    assert published == json.dumps(config.job_schema(), indent=2) + "\n", "run `make docs`"


def test_reference_explains_every_key() -> None:
    text = (REPOSITORY / "docs" / "reference" / "job-file.md").read_text()
    schema: dict[str, Any] = config.job_schema()
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part["properties"]}
    assert {key for key in keys if f"`{key}`" not in text} == set()


# --- whatever the text ---------------------------------------------------------------------------------------------

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
words = st.sampled_from(
    [
        "kind",
        "name",
        "chain_id",
        "mode",
        "streams",
        "from_block",
        "to_block",
        "blocks",
        "fixed_target",
        "chain_sync",
        "x",
    ]
)
documents = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=8), inner, max_size=6),
    max_leaves=20,
)
fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(content=documents)
def test_any_yaml_is_a_job_or_refused_input(tmp_path: Path, content: object) -> None:
    try:
        config.read_job(write(tmp_path, yaml.safe_dump(content, allow_unicode=True)))
    except RefusedInput:
        return


@fuzz
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_job_or_refused_input(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RefusedInput):
        config.read_job(write(tmp_path, content))


@fuzz
@given(data=st.data())
def test_any_damage_to_a_good_file_is_a_job_or_refused_input(tmp_path: Path, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD)))
    cut = data.draw(st.integers(0, 30))
    new = data.draw(st.text(alphabet="[]{}:,&*!#|>-?'\"% \n\tax0_~.@`<", max_size=8))
    try:
        config.read_job(write(tmp_path, GOOD[:at] + new + GOOD[at + cut :]))
    except RefusedInput:
        return

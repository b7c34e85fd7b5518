"""Rule files: what is read, the sentence of each refusal, the schema for editors, and that any text is judged."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.sandbox.limits import capped
from tests.job_files import changed
from tests.rule_files import DIGEST, GOOD, problems, write
from trace_ray import rulefile
from trace_ray.alerts import Mode, Rule, Severity, Throttle
from trace_ray.bundle import project
from trace_ray.contracts import DEFAULT_ORG, OrgId
from trace_ray.errors import RefusedInput
from trace_ray.rulefile import MAX_MEMORY_MIB, MAX_TIMEOUT_S, MIN_MEMORY_MIB

REPOSITORY = Path(__file__).parents[2]
SHORT = f"kind: alert_rule\nname: watch\nbundle: {DIGEST}\ndatasets: [devnet_logs]\n"
ADDRESS = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
TOPIC = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
CHANNEL = "write the name of a channel, and keep its URL and its secret out of the file"
NAME = "write lower-case letters, digits and _, beginning with a letter, at most 64 characters"
BUNDLE = "write the SHA-256 of its zip in 64 lower-case hex digits, or name@version, or name"
KEYS = ", ".join(rulefile.RuleModel.model_fields)


def read(directory: Path, text: str) -> Rule:
    return rulefile.read(write(directory, text), DEFAULT_ORG)


# --- what is read -------------------------------------------------------------------------------------------------


def test_the_example_fits_the_handler_that_bundle_init_writes(tmp_path: Path) -> None:
    rule = rulefile.read(REPOSITORY / "docs" / "examples" / "alert_rule.devnet.yaml", DEFAULT_ORG)
    project.start(tmp_path / "large-transfers", "python")
    written = project.read(tmp_path / "large-transfers")
    assert rule.bundle == f"{written.name}@{written.version}"
    handler = (tmp_path / "large-transfers" / "handler.py").read_text()
    assert [name for name in rule.parameters if f'.get("{name}"' not in handler] == []


def test_a_complete_file_becomes_a_rule(tmp_path: Path) -> None:
    rule = read(tmp_path, GOOD)
    assert rule == Rule(
        org_id=DEFAULT_ORG,
        name="large_transfers",
        bundle=DIGEST,
        datasets=("devnet_blocks", "devnet_transactions"),
        parameters={"threshold": 5},
        channels=("ops",),
        severity=Severity.CRITICAL,
        mode=Mode.SHADOW,
        enabled=False,
        timeout_s=60.0,
        memory_mib=128,
        max_delivery_age_s=900.0,
        throttle=Throttle(3, 60.0),
        yaml_hash=rule.yaml_hash,
    )


@pytest.mark.parametrize(("timeout", "memory"), [(MAX_TIMEOUT_S, MAX_MEMORY_MIB), (1, MIN_MEMORY_MIB)])
def test_what_a_file_may_ask_for_is_what_a_sandbox_gives(tmp_path: Path, timeout: float, memory: int) -> None:
    text = GOOD.replace("timeout_seconds: 60", f"timeout_seconds: {timeout}")
    rule = read(tmp_path, text.replace("memory_mib: 128", f"memory_mib: {memory}"))
    assert (rule.limits.wall_s, rule.limits.memory) == (timeout, memory << 20)
    assert capped(rule.limits) == rule.limits


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    rule = read(tmp_path, SHORT)
    assert (rule.severity, rule.mode, rule.enabled, rule.channels) == (Severity.WARNING, Mode.LIVE, True, ())
    assert (rule.timeout_s, rule.memory_mib, rule.max_delivery_age_s, rule.throttle) == (30.0, 256, None, None)
    assert rule.parameters == {}


def test_every_example_is_a_valid_rule_file() -> None:
    examples = sorted((REPOSITORY / "docs" / "examples").glob("alert_rule.*.yaml"))
    assert examples
    for example in examples:
        assert rulefile.read(example, DEFAULT_ORG).datasets


@pytest.mark.parametrize("bundle", [DIGEST, "large_transfers", "large-transfers@1.2.0-rc.1"])
def test_a_bundle_is_named_by_digest_name_or_version(tmp_path: Path, bundle: str) -> None:
    assert read(tmp_path, changed(f"bundle: {DIGEST}", f"bundle: {bundle}", SHORT)).bundle == bundle


def test_addresses_and_topics_are_parameters_and_no_secrets(tmp_path: Path) -> None:
    text = SHORT + f"parameters:\n  token: '{ADDRESS}'\n  topics: ['{TOPIC}']\n  by_address: {{'{ADDRESS}': 1.5}}\n"
    expected = {"token": ADDRESS, "topics": [TOPIC], "by_address": {ADDRESS: 1.5}}
    assert read(tmp_path, text).parameters == expected


def test_a_rule_keeps_its_id_while_its_name_and_organisation_stay(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    here, there = rulefile.read(path, DEFAULT_ORG), rulefile.read(path, OrgId(UUID(int=7)))
    assert here.rule_id != there.rule_id
    assert read(tmp_path, changed("  threshold: 5", "  threshold: 6", GOOD)).rule_id == here.rule_id


def test_hash_ignores_comments_order_defaults_and_organisation(tmp_path: Path) -> None:
    content = yaml.safe_load(SHORT) | {"severity": "warning", "parameters": {}}
    text = "# the same\n" + json.dumps(dict(reversed(content.items())))
    assert read(tmp_path, SHORT).yaml_hash == read(tmp_path, text).yaml_hash
    assert rulefile.read(write(tmp_path, SHORT), OrgId(UUID(int=7))).yaml_hash == read(tmp_path, SHORT).yaml_hash


@pytest.mark.parametrize(
    ("line", "new"),
    [
        ("  threshold: 5", "  threshold: 6"),
        ("severity: critical", "severity: info"),
        ("enabled: false", "enabled: true"),
        ("  per_seconds: 60", "  per_seconds: 61"),
        ("channels: [ops]", "channels: []"),
    ],
)
def test_hash_changes_with_the_content(tmp_path: Path, line: str, new: str) -> None:
    assert read(tmp_path, GOOD).yaml_hash != read(tmp_path, changed(line, new, GOOD)).yaml_hash


# --- refusals -----------------------------------------------------------------------------------------------------

REFUSALS: list[tuple[str, str, str]] = [
    ("kind: alert_rule", "kind: chain_sync", "1: kind: 'chain_sync' is not known here: write alert_rule"),
    ("kind: alert_rule", "", "2: kind: the key is missing: write alert_rule"),
    ("name: large_transfers", "name: Large", f"2: name: 'Large' is not a name: {NAME}"),
    (f"bundle: {DIGEST}", "bundle: 12", f"3: bundle: 12 is not a bundle: {BUNDLE}"),
    (f"bundle: {DIGEST}", "bundle: My Bundle", f"3: bundle: 'My Bundle' is not a bundle: {BUNDLE}"),
    (f"bundle: {DIGEST}", "bundle: a@", f"3: bundle: 'a@' is not a bundle: {BUNDLE}"),
    (
        "datasets: [devnet_blocks, devnet_transactions]",
        "datasets: []",
        "4: datasets: the number of names is out of bounds: write a list of 1 to 16 published names",
    ),
    (
        "datasets: [devnet_blocks, devnet_transactions]",
        "datasets: [a, B]",
        "4: datasets.1: 'B' is not a name: write a published name, as `trace-ray datasets` lists them",
    ),
    (
        "datasets: [devnet_blocks, devnet_transactions]",
        "datasets: devnet_blocks",
        "4: datasets: 'devnet_blocks' does not belong here: write a list of 1 to 16 published names",
    ),
    (
        "datasets: [devnet_blocks, devnet_transactions]",
        "datasets: [a, b, a]",
        "4: datasets: a list names a more than once: write each name once",
    ),
    ("channels: [ops]", "channels: [Ops!]", f"7: channels.0: 'Ops!' is not a name: {NAME}"),
    (
        "channels: [ops]",
        "channels: ['https://hooks.example/x']",
        f"7: channels.0: a URL is refused (not shown, it may hold a key): {CHANNEL}",
    ),
    ("severity: critical", "severity: high", "8: severity: 'high' is not known here: write info, warning or critical"),
    ("mode: shadow", "mode: dry", "9: mode: 'dry' is not known here: write live or shadow"),
    ("enabled: false", "enabled: no", "10: enabled: 'no' is not true or false: write false"),
    ("  timeout_seconds: 60", "  timeout_seconds: 901", "12: limits.timeout_seconds: 901 is above the hard cap "
     "of sandboxes: write a number from 1 to 900"),
    ("  timeout_seconds: 60", "  timeout_seconds: 0", "12: limits.timeout_seconds: 0 is out of bounds: "
     "write a number from 1 to 900"),
    ("  memory_mib: 128", "  memory_mib: 3073", "13: limits.memory_mib: 3073 is above the hard cap of sandboxes: "
     "write a whole number from 32 to 3072"),
    ("  memory_mib: 128", "  memory_mib: 31", "13: limits.memory_mib: 31 is out of bounds: "
     "write a whole number from 32 to 3072"),
    ("  memory_mib: 128", "  memory_mib: 1_024", "13: limits.memory_mib: '1_024' is not a whole number: write 1024"),
    ("  memory_mib: 128", "  memory: 128", "13: limits.memory: 'memory' is not a key of limits: write memory_mib"),
    ("  count: 3", "  count: 0", "16: throttle.count: 0 is out of bounds: write a whole number from 1 to 100000"),
    ("  count: 3", "", "15: throttle.count: the key is missing: write a whole number from 1 to 100000"),
    ("max_delivery_age_seconds: 900", "max_delivery_age_seconds: 5m", "14: max_delivery_age_seconds: '5m' is not a "
     "number: write a number from 1 to 2592000"),
    ("channels: [ops]", "chanels: [ops]", "7: chanels: 'chanels' is not a key of a rule file: write channels"),
    ("channels: [ops]", "zzz: 1", f"7: zzz: 'zzz' is not a key of a rule file: write one of {KEYS}"),
    ("channels: [ops]", "webhook_secret: x", f"7: webhook_secret: a secret has no place in a rule file: {CHANNEL}"),
    (
        "  threshold: 5",
        "  api_key: x",
        "6: parameters.api_key: a secret has no place in a rule file, and a bundle gets none: remove the parameter",
    ),
    (
        "  threshold: 5",
        "  deep: [{password: x}]",
        "6: parameters.deep.0.password: a secret has no place in a rule file, and a bundle gets none: "
        "remove the parameter",
    ),
    (
        "  threshold: 5",
        f"  note: {'9f8e7d6c5b4a39281706f5e4d3c2b1a0'}",
        f"6: parameters.note: the value looks like a secret (not shown): {CHANNEL}",
    ),
    (
        "  threshold: 5",
        '  nul: "a\\0b"',
        "5: parameters: a mapping holds the character NUL, which no ledger keeps: remove it",
    ),
    (
        "  threshold: 5",
        '  half: "\\ud800"',
        "5: parameters: a mapping holds half a character (a lone surrogate): write the whole one",
    ),
    (
        "  threshold: 5",
        f"  long: {'ab ' * 30_000}",
        "5: parameters: a mapping has 90011 bytes as JSON: write at most 65536",
    ),
    ("channels: [ops]", "channels: [ops] # https://hooks.example/T/AbC1dE2fG3hI4jK5lM6n", f"7: (comment): a URL with a "
     f"key is in the text (not shown): {CHANNEL}"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "new", "sentence"), REFUSALS, ids=[case[2][:40] for case in REFUSALS])
def test_each_mistake_is_told_with_line_value_and_advice(tmp_path: Path, line: str, new: str, sentence: str) -> None:
    assert problems(write(tmp_path, changed(line, new, GOOD))) == [f"rule.yaml:{sentence}"]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = changed("name: large_transfers", "name: X", changed("mode: shadow", "mode: on", GOOD))
    text = changed("  threshold: 5", "  secret: x", text)
    assert [problem.split(":")[1] for problem in problems(write(tmp_path, text))] == ["2", "6", "9"]


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    key = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
    text = changed("  threshold: 5", f"  a: {key}\n  {key}: b", GOOD) + f"{key}: 1\n"
    found = problems(write(tmp_path, text))
    assert len(found) == 3
    assert key not in "".join(found)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"\xff", "rule.yaml:1: (file): the text is not UTF-8: write it as UTF-8"),
        (GOOD + "---\nkind: x\n", "rule.yaml:18: (file): the file holds several documents: write one rule per file"),
        ("- a\n", "rule.yaml:1: (file): a list does not belong here: "
         "write key: value lines with kind, name, bundle and datasets"),
        ("#" * 300_000, "rule.yaml: the file is larger than 256 KiB: write one rule per file"),
        ("a: " * 12 + "{" * 12, "rule.yaml:1: (file): the text is not YAML"),
        ("a: " + "[" * 12 + "]" * 12, "rule.yaml:1: (file): more than 10 levels are refused: write a rule "
         "file as in the reference"),
    ],
)  # fmt: skip
def test_text_that_is_no_rule_file_is_refused_in_one_sentence(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    (found,) = problems(write(tmp_path, text))
    assert found.startswith(sentence)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path / "no.yaml") == ["no.yaml: there is no such file: write the path of a rule file"]
    assert problems(tmp_path)[0].endswith("the file cannot be read: write the path of a readable rule file")


# --- the schema for editors ---------------------------------------------------------------------------------------


def test_published_schema_is_the_current_one() -> None:
    published = (REPOSITORY / "docs" / "reference" / "alert-rule.schema.json").read_text()
    assert published == json.dumps(rulefile.schema(), indent=2) + "\n", "run `make docs`"


def test_reference_explains_every_key() -> None:
    text = (REPOSITORY / "docs" / "reference" / "alerts.md").read_text()
    schema: dict[str, Any] = rulefile.schema()
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part["properties"]}
    assert {key for key in keys if f"`{key}`" not in text} == set()


# --- whatever the text ---------------------------------------------------------------------------------------------

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
keys = st.sampled_from([*rulefile.RuleModel.model_fields, "x"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(keys, values, max_size=4))
def test_any_content_is_a_rule_or_refused_input(tmp_path: Path, changes: dict[str, object]) -> None:
    path = write(tmp_path, yaml.safe_dump(yaml.safe_load(GOOD) | changes))
    try:
        rule = rulefile.read(path, DEFAULT_ORG)
    except RefusedInput:
        return
    json.dumps(dict(rule.parameters), ensure_ascii=False).encode()  # as it will be stored


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text() | st.binary())
def test_any_text_is_a_rule_or_refused_input(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(RefusedInput):
        rulefile.read(write(tmp_path, text.encode(errors="replace") if isinstance(text, str) else text), DEFAULT_ORG)

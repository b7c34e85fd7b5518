"""What applying a rule file changes, in words."""

from dataclasses import replace
from typing import Any

import pytest

from state.rule_changes import sentences
from trace_ray.alerts import Mode, Rule, Severity, Throttle
from trace_ray.contracts import DEFAULT_ORG

RULE = Rule(
    org_id=DEFAULT_ORG,
    name="watch",
    bundle="aa",
    datasets=("devnet_logs",),
    parameters={"a": 1},
    channels=(),
    severity=Severity.INFO,
    mode=Mode.LIVE,
    enabled=True,
    timeout_s=30.0,
    memory_mib=256,
    max_delivery_age_s=None,
    throttle=None,
    yaml_hash="x",
)


def test_a_new_rule_is_created() -> None:
    assert sentences(RULE, None) == ["rule watch created: bundle aa on devnet_logs"]


def test_the_same_rule_changes_nothing_whatever_the_text_of_its_file() -> None:
    assert sentences(replace(RULE, yaml_hash="y"), RULE) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"enabled": False}, "rule paused"),
        ({"bundle": "bb"}, "bundle changed from aa to bb"),
        ({"datasets": ("a", "b")}, "datasets changed from devnet_logs to a, b"),
        ({"parameters": {"a": True}}, "parameters changed"),
        ({"channels": ("ops",)}, "channels changed from none to ops"),
        ({"severity": Severity.CRITICAL}, "severity changed from info to critical"),
        ({"mode": Mode.SHADOW}, "mode changed from live to shadow"),
        ({"timeout_s": 5.0}, "timeout_seconds changed from 30 to 5"),
        ({"memory_mib": 64}, "memory_mib changed from 256 to 64"),
        ({"max_delivery_age_s": 60.0}, "max_delivery_age_seconds changed from none to 60"),
        ({"throttle": Throttle(3, 60.0)}, "throttle changed from none to 3 per 60 s"),
    ],
)
def test_each_change_is_told(change: dict[str, Any], sentence: str) -> None:
    assert sentences(replace(RULE, **change), RULE) == [sentence]


def test_a_paused_rule_is_resumed_by_its_file() -> None:
    assert sentences(RULE, replace(RULE, enabled=False)) == ["rule resumed"]

"""The rule file: what may be in it, and a sentence for each mistake. Text becomes values in `jobyaml`.

Everything wrong with a file is told at once, each as `<file>:<line>: <path>: <value> ...: write ...`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from pydantic import ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from trace_ray import jobyaml
from trace_ray.alerts import CAPS, FLOOR_MEMORY, Mode, Rule, SandboxLimits, Severity, Throttle
from trace_ray.contracts import OrgId
from trace_ray.errors import RefusedInput
from trace_ray.jobfile import PUBLISHED
from trace_ray.jobyaml import Document, Form, Problem, path_text, shown
from trace_ray.yamlmodel import NAME, NAME_ADVICE, Model, mistyped, nearest, read_text, said

BUNDLE: Final = r"^([0-9a-f]{64}|[a-z][a-z0-9_-]{0,63}(@[0-9A-Za-z][0-9A-Za-z.+_-]{0,63})?)$"
MAX_DATASETS: Final = 16
MAX_CHANNELS: Final = 16
MAX_PARAMETERS: Final = 64 * 1024  # bytes of JSON: each attempt is given them
MAX_TIMEOUT_S: Final = CAPS.wall_s
MAX_MEMORY_MIB: Final = CAPS.memory >> 20
MIN_MEMORY_MIB: Final = FLOOR_MEMORY >> 20
MAX_AGE_S: Final = 30 * 86_400.0
MAX_COUNT: Final = 100_000
DEFAULTS: Final = SandboxLimits()

CHANNEL_ADVICE: Final = "write the name of a channel, and keep its URL and its secret out of the file"
FORM: Final = Form(
    "rule",
    CHANNEL_ADVICE,
    {
        "bundle": re.compile(r"[0-9a-f]{64}"),
        "parameters": re.compile(r"0x([0-9a-f]{40}|[0-9a-f]{64})", re.IGNORECASE),  # addresses, topics
    },
)
SECRET_KEY: Final = re.compile(  # narrower than that of a job file: `token` is what many rules watch
    r"(api|access|private|secret)_?key|passwo?r?d|passphrase|secret|bearer|credential|mnemonic"
)


class LimitsModel(Model):
    """What one attempt may use."""

    model_config = ConfigDict(title="limits")
    timeout_seconds: float = Field(DEFAULTS.wall_s, ge=1, le=MAX_TIMEOUT_S, description="Wall time of an attempt.")
    memory_mib: int = Field(
        DEFAULTS.memory >> 20, ge=MIN_MEMORY_MIB, le=MAX_MEMORY_MIB, description="Memory of an attempt."
    )


class ThrottleModel(Model):
    """At most `count` deliveries in any `per_seconds` seconds and channel."""

    model_config = ConfigDict(title="throttle")
    count: int = Field(ge=1, le=MAX_COUNT, description="Deliveries.")
    per_seconds: float = Field(ge=1, le=86_400, description="Seconds.")


NO_LIMITS: Final = LimitsModel.model_validate({})
Name = Annotated[str, Field(pattern=NAME)]
Published = Annotated[str, Field(pattern=PUBLISHED)]


class RuleModel(Model):
    """An alert_rule of trace_ray."""

    model_config = ConfigDict(title="trace_ray rule file")
    kind: Literal["alert_rule"]
    name: str = Field(pattern=NAME, description="Identity of the rule, unique per organisation.")
    bundle: str = Field(pattern=BUNDLE, description="The code: SHA-256 of its zip in hex, name@version, or name.")
    datasets: list[Published] = Field(
        min_length=1,
        max_length=MAX_DATASETS,
        description="Published names; blocks that all of them cover are evaluated.",
    )
    parameters: dict[str, object] = Field(default_factory=dict, description="Given to the bundle as they are.")
    channels: list[Name] = Field(
        default_factory=list, max_length=MAX_CHANNELS, description="Names of channels that events are delivered to."
    )
    severity: Literal["info", "warning", "critical"] = Field("warning", description="Carried by each event.")
    mode: Literal["live", "shadow"] = Field("live", description="shadow records events and delivers none.")
    enabled: bool = Field(True, description="false starts no evaluation: they wait.")
    limits: LimitsModel = Field(default_factory=lambda: NO_LIMITS, description="What one attempt may use.")
    max_delivery_age_seconds: float | None = Field(
        None, ge=1, le=MAX_AGE_S, description="An event whose block is older is not delivered any more."
    )
    throttle: ThrottleModel | None = Field(None, description="How many deliveries are sent to a channel.")

    @field_validator("datasets", "channels")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise said(f"names {', '.join(twice)} more than once: write each name once")
        return names

    @field_validator("parameters")
    @classmethod
    def _small(cls, parameters: dict[str, object]) -> dict[str, object]:
        try:
            size = len(json.dumps(parameters, ensure_ascii=False).encode())
        except UnicodeEncodeError:
            raise said("holds half a character (a lone surrogate): write the whole one") from None
        if "\\u0000" in json.dumps(parameters):
            raise said("holds the character NUL, which no ledger keeps: remove it")
        if size > MAX_PARAMETERS:
            raise said(f"has {size} bytes as JSON: write at most {MAX_PARAMETERS}")
        return parameters

    def to_contract(self, org_id: OrgId) -> Rule:
        rule = Rule(
            org_id=org_id,
            name=self.name,
            bundle=self.bundle,
            datasets=tuple(self.datasets),
            parameters=self.parameters,
            channels=tuple(self.channels),
            severity=Severity(self.severity),
            mode=Mode(self.mode),
            enabled=self.enabled,
            timeout_s=float(self.limits.timeout_seconds),
            memory_mib=self.limits.memory_mib,
            max_delivery_age_s=None if self.max_delivery_age_seconds is None else float(self.max_delivery_age_seconds),
            throttle=self.throttle and Throttle(self.throttle.count, float(self.throttle.per_seconds)),
            yaml_hash="",
        )
        return replace(rule, yaml_hash=content_hash(rule))


def content_hash(rule: Rule) -> str:
    """Return the SHA-256 of what a rule file says: comments, order of keys and defaults left out make no difference."""
    content = asdict(rule)
    del content["yaml_hash"], content["org_id"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read(path: Path, org_id: OrgId) -> Rule:
    """Read a rule file. `bundle` of the rule is as it was written: a digest, `name@version` or `name`.

    Raises:
        RefusedInput: with one sentence for each mistake, in the order of the lines.
    """
    document = jobyaml.read_document(read_text(path, "rule"), FORM)
    model: RuleModel | None = None
    problems = list(document.problems)
    try:
        model = RuleModel.model_validate(document.value)
    except ValidationError as error:
        problems += _judge(document, error)
    problems += _secret_parameters(document)
    if model is None or problems:
        raise RefusedInput([f"{path}:{one.line}: {one.path}: {one.sentence}" for one in sorted(set(problems))])
    return model.to_contract(org_id)


def schema() -> dict[str, object]:
    """Return the JSON Schema of a rule file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RuleModel.model_json_schema()}


# --- sentences ----------------------------------------------------------------------------------------------------

DATASET_ADVICE: Final = "write a published name, as `trace-ray datasets` lists them"
ADVICE: Final[Mapping[str, str]] = {
    "kind": "write alert_rule",
    "name": NAME_ADVICE.format(64),
    "bundle": "write the SHA-256 of its zip in 64 lower-case hex digits, or name@version, or name",
    "datasets": f"write a list of 1 to {MAX_DATASETS} published names",
    "parameters": "write a mapping, such as {threshold: 5}",
    "channels": f"write a list of at most {MAX_CHANNELS} names of channels",
    "severity": "write info, warning or critical",
    "mode": "write live or shadow",
    "enabled": "write true or false",
    "limits": "write a mapping with timeout_seconds or memory_mib",
    "timeout_seconds": f"write a number from 1 to {MAX_TIMEOUT_S:g}",
    "memory_mib": f"write a whole number from {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}",
    "max_delivery_age_seconds": f"write a number from 1 to {MAX_AGE_S:.0f}",
    "throttle": "write a mapping with count and per_seconds",
    "count": f"write a whole number from 1 to {MAX_COUNT}",
    "per_seconds": "write a number from 1 to 86400",
    "": "write key: value lines with kind, name, bundle and datasets",
}
KEYS: Final[Mapping[str, tuple[str, list[str]]]] = {
    "limits": ("limits", list(LimitsModel.model_fields)),
    "throttle": ("throttle", list(ThrottleModel.model_fields)),
}


def _judge(document: Document, error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        path = detail["loc"]
        if not document.is_spoilt(path):
            yield Problem(document.line(path), path_text(path), _sentence(detail, path))


def _sentence(detail: ErrorDetails, path: jobyaml.Path) -> str:
    value, advice = shown(detail["input"]), _advice(path)
    match detail["type"]:
        case "said":
            return f"{value} {detail['msg']}"
        case "missing":
            return f"the key is missing: {advice}"
        case "extra_forbidden":
            return _unknown_key(path)
        case "int_type" | "bool_type" | "float_type":
            what, meant = mistyped(detail)
            return f"{value} is not {what}: {f'write {meant}' if meant else advice}"
        case "less_than_equal" if path[:1] == ("limits",):
            return f"{value} is above the hard cap of sandboxes: {advice}"
        case "greater_than_equal" | "less_than_equal":
            return f"{value} is out of bounds: {advice}"
        case "too_short" | "too_long":
            return f"the number of names is out of bounds: {advice}"
        case "string_type" | "string_pattern_mismatch":
            return f"{value} is not {'a bundle' if path == ('bundle',) else 'a name'}: {advice}"
        case "literal_error":
            return f"{value} is not known here: {advice}"
        case _:  # text, a mapping or a list where something else belongs
            return f"{value} does not belong here: {advice}"


def _advice(path: jobyaml.Path) -> str:
    match path:
        case ("datasets", int()):
            return DATASET_ADVICE
        case ("channels", int()):
            return NAME_ADVICE.format(64)
        case _:
            return ADVICE.get(str(path[-1]) if path else "", ADVICE[""])


def _unknown_key(path: jobyaml.Path) -> str:
    around, keys = KEYS.get(str(path[0]), ("a rule file", list(RuleModel.model_fields)))
    key = str(path[-1])
    if SECRET_KEY.search(key.lower().replace("-", "_")):
        return f"a secret has no place in a rule file: {CHANNEL_ADVICE}"
    return f"{shown(key)} is not a key of {around}: write {nearest(key, keys) or 'one of ' + ', '.join(keys)}"


def _secret_parameters(document: Document) -> Iterator[Problem]:
    """Tell parameters that are named like secrets, at any depth and however wrong the rest is."""
    root = document.value
    left: list[tuple[jobyaml.Path, object]] = []
    if isinstance(root, dict):
        left.append((("parameters",), cast(dict[str, object], root).get("parameters")))
    while left:
        path, value = left.pop()
        if isinstance(value, list):
            left += [((*path, place), item) for place, item in enumerate(cast(list[object], value))]
        elif isinstance(value, dict):
            for key, item in cast(dict[str, object], value).items():
                place = (*path, key)
                left.append((place, item))
                if SECRET_KEY.search(key.lower().replace("-", "_")) and not document.is_spoilt(place):
                    sentence = "a secret has no place in a rule file, and a bundle gets none: remove the parameter"
                    yield Problem(document.line(place), path_text(place), sentence)

"""Channels of deliveries: what the variables may say, and what is refused without showing it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from trace_ray import config
from trace_ray.channels import Channel, ChannelKind
from trace_ray.errors import RefusedInput

SECRET = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
OPS = {
    "TRACE_CHANNEL_OPS_KIND": "webhook",
    "TRACE_CHANNEL_OPS_URL": f"https://hooks.example/{SECRET}",
    "TRACE_CHANNEL_OPS_SECRET": SECRET,
}
MAIL = {
    "TRACE_CHANNEL_MAIL_KIND": "email",
    "TRACE_CHANNEL_MAIL_URL": "smtp://mail.example",
    "TRACE_CHANNEL_MAIL_USER": "trace",
    "TRACE_CHANNEL_MAIL_SECRET": "short",
    "TRACE_CHANNEL_MAIL_FROM": "alerts@trace.example",
    "TRACE_CHANNEL_MAIL_TO": "a@x.example, b@x.example,,a@x.example",
}
ALL = {
    **OPS,
    **MAIL,
    "TRACE_CHANNEL_OPS_SECRET_PREVIOUS": f"old{SECRET}",
    "TRACE_CHANNEL_TEAM_2_KIND": "slack",
    "TRACE_CHANNEL_TEAM_2_URL": f"https://hooks.slack.example/services/T0/{SECRET}",
    "TRACE_CHANNEL_QUIET_KIND": "log",
}


def channels(environ: Mapping[str, str]) -> Mapping[str, Channel]:
    return config.read_settings(environ).channels


def problems(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(RefusedInput) as caught:
        config.read_settings(environ)
    assert SECRET not in str(caught.value)
    return caught.value.problems


def test_there_is_no_channel_before_one_is_set() -> None:
    settings = config.read_settings({})
    assert (settings.channels, settings.alerts_allow_loopback) == ({}, False)


def test_each_kind_of_channel_is_read() -> None:
    assert channels(ALL) == {
        "ops": Channel(
            "ops", ChannelKind.WEBHOOK, url=f"https://hooks.example/{SECRET}", secrets=(SECRET, f"old{SECRET}")
        ),
        "mail": Channel(
            "mail",
            ChannelKind.EMAIL,
            url="smtp://mail.example",
            secrets=("short",),
            user="trace",
            sender="alerts@trace.example",
            recipients=("a@x.example", "b@x.example"),
        ),
        "team_2": Channel("team_2", ChannelKind.SLACK, url=f"https://hooks.slack.example/services/T0/{SECRET}"),
        "quiet": Channel("quiet", ChannelKind.LOG),
    }


def test_channels_are_listed_by_their_kind_and_never_shown() -> None:
    settings = config.read_settings(ALL)
    assert settings.sources["channels.ops"] == "TRACE_CHANNEL_OPS_KIND"
    assert settings.sources["alerts_allow_loopback"] == "default"
    assert SECRET not in repr(settings)
    assert {SECRET, f"old{SECRET}", "short"} <= set(config.secrets(settings))
    assert settings.warnings == ()


def test_channels_of_a_running_stack_come_back_as_they_were(tmp_path: Path) -> None:
    settings = replace(config.read_settings(ALL), data_dir=tmp_path)
    config.save_stack(settings)
    assert config.load_stack(tmp_path) == settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"TRACE_CHANNEL_OPS_KIND": "pager"}, "KIND is not known: write webhook or slack or email or log"),
        ({"TRACE_CHANNEL_OPS_KIND": ""}, "SECRET is set for a channel without a kind: set TRACE_CHANNEL_OPS_KIND"),
        ({"TRACE_CHANNEL_OPS_URL": ""}, "URL is not set: a webhook channel needs it"),
        ({"TRACE_CHANNEL_OPS_SECRET": ""}, "SECRET is not set: a webhook channel needs it"),
        ({"TRACE_CHANNEL_OPS_SECRET": "short"}, "SECRET is short: take 16 characters or more, made by chance"),
        ({"TRACE_CHANNEL_OPS_TO": "a@b"}, "TO is not a part of a webhook channel: remove it"),
        (
            {"TRACE_CHANNEL_OPS_URL": f"http://hooks.example/{SECRET}"},
            "URL is not https, and whoever sits on the line could read it: write https://HOST/PATH",
        ),
        (
            {"TRACE_CHANNEL_OPS_URL": "https://10.0.0.1/"},
            "URL names an address that is private: name a public host",
        ),
        ({"TRACE_CHANNEL_OPS_URL": "https://127.0.0.1/"}, "URL names an address that is loopback: name a public host"),
    ],
)
def test_a_wrong_channel_is_refused_with_one_sentence(changes: dict[str, str], sentence: str) -> None:
    assert problems({**OPS, **changes}) == [f"TRACE_CHANNEL_OPS_{sentence}"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"FROM": "Trace <a@b>"}, "TRACE_CHANNEL_MAIL_FROM is not an address: write NAME@HOST"),
        ({"FROM": "a@b\r\nBcc: x@y"}, "TRACE_CHANNEL_MAIL_FROM is not an address: write NAME@HOST"),
        (
            {"TO": "a@b, nobody"},
            "TRACE_CHANNEL_MAIL_TO is no list of addresses: write NAME@HOST, at most 50 with commas between",
        ),
        ({"TO": ""}, "TRACE_CHANNEL_MAIL_TO is not set: an email channel needs it"),
        ({"SECRET": ""}, "TRACE_CHANNEL_MAIL_USER is set without TRACE_CHANNEL_MAIL_SECRET: set both, or neither"),
        ({"USER": ""}, "TRACE_CHANNEL_MAIL_SECRET is set without TRACE_CHANNEL_MAIL_USER: set both, or neither"),
        (
            {"URL": "https://mail.example"},
            "TRACE_CHANNEL_MAIL_URL is not a mail server: write smtp://HOST:587 (STARTTLS) or smtps://HOST:465",
        ),
    ],
)
def test_a_wrong_mail_channel_is_refused_with_one_sentence(changes: dict[str, str], sentence: str) -> None:
    environ = {**MAIL, **{f"TRACE_CHANNEL_MAIL_{part}": value for part, value in changes.items()}}
    assert problems(environ) == [sentence]


def test_every_mistake_of_every_channel_is_told_at_once() -> None:
    told = problems({**OPS, "TRACE_CHANNEL_OPS_URL": "x", "TRACE_CHANNEL_1A_KIND": "log", "TRACE_CHANNEL_B_URL": "x"})
    assert len(told) == 3
    assert told[0] == "TRACE_CHANNEL_1A_KIND names no channel: begin its name with a letter, at most 64 characters"


def test_channels_are_bounded() -> None:
    environ = {f"TRACE_CHANNEL_C{number}_KIND": "log" for number in range(65)}
    assert problems(environ) == ["65 channels are set: keep at most 64"]


def test_this_machine_is_a_receiver_with_the_switch() -> None:
    url = {"TRACE_CHANNEL_OPS_URL": "http://127.0.0.1:8080/hook"}
    assert len(channels({**OPS, **url, "TRACE_ALERTS_ALLOW_LOOPBACK": "1"})) == 1
    assert len(problems({**OPS, **url, "TRACE_ALERTS_ALLOW_LOOPBACK": "0"})) == 1
    assert problems({"TRACE_ALERTS_ALLOW_LOOPBACK": "yes"}) == [
        "TRACE_ALERTS_ALLOW_LOOPBACK is not known: write 0 or 1"
    ]


def test_an_unknown_part_is_told_and_ignored() -> None:
    assert config.read_settings({"TRACE_CHANNEL_OPS_URLS": SECRET}).warnings == (
        "TRACE_CHANNEL_OPS_URLS is not a setting and is ignored: did you mean TRACE_CHANNEL_<NAME>_KIND?",
    )

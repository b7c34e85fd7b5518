"""Who asks: names, roles, keyed hashes, and objects that lie where they should."""

from dataclasses import replace
from uuid import UUID

import pytest

from tests.grants import grant, granted
from trace_ray import access
from trace_ray.contracts import DEFAULT_ORG, OrgId
from trace_ray.errors import RefusedInput


@pytest.mark.parametrize("name", ["alice", "a", "Bob.Smith+x@example.com", "9lives", "a" * 128])
def test_names_of_users(name: str) -> None:
    assert access.check_user_name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a b", "-a", "a\n", "ä", "a/b", "a" * 129])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(RefusedInput, match="choose another"):
        access.check_user_name(name)


def test_roles_come_sorted_and_once() -> None:
    assert access.check_roles(["b", "a-1", "b", "a_2"]) == ["a-1", "a_2", "b"]
    assert access.check_roles([]) == []


def test_every_wrong_role_is_told_at_once() -> None:
    with pytest.raises(RefusedInput) as caught:
        access.check_roles(["good", "Bad", "", "1st", "x" * 65])
    assert [problem.split(" is no role")[0] for problem in caught.value.problems] == [
        "'Bad'",
        "''",
        "'1st'",
        repr("x" * 65),
    ]


def test_a_subject_belongs_to_one_user_of_one_organisation() -> None:
    assert access.user_subject(DEFAULT_ORG, "alice") == access.user_subject(DEFAULT_ORG, "alice")
    others = {access.user_subject(OrgId(UUID(int=number)), name) for number in (1, 2) for name in ("alice", "bob")}
    assert len(others) == 4
    assert all(subject.startswith("user:") for subject in others)


def test_the_hash_of_a_statement_needs_its_key() -> None:
    one = access.sql_hash(b"k" * 32, "select 1")
    assert len(one) == 64
    assert one == access.sql_hash(b"k" * 32, "select 1")
    assert one != access.sql_hash(b"l" * 32, "select 1")
    assert one != access.sql_hash(b"k" * 32, "select 2")
    assert access.sql_hash(b"k" * 32, "\ud800")


@pytest.mark.parametrize(
    ("key", "inside"),
    [
        ("a/b/c", True),
        ("a/b/c/d.parquet", True),
        ("a/bc", False),
        ("a/b", False),
        ("a/c", False),
        ("a", False),
        ("", False),
        ("/a/b/c", False),
        ("a/b/../c", False),
        ("a/b/./c", False),
        ("a/b//c", False),
        ("a/b/c/", False),
        ("a/b\\c", False),
        ("a/b/c\0", False),
        ("A/b/c", False),
    ],
)
def test_whole_segments_decide_what_lies_under_a_prefix(key: str, inside: bool) -> None:
    assert access.is_under(key, ["x/y/", "a/b/"]) is inside
    assert access.is_under(key, ["a/b"]) is inside
    assert not access.is_under(key, [])


@pytest.mark.parametrize("prefix", ["", "/", "..", "a/../", "a//", "./"])
def test_a_prefix_that_could_be_anywhere_holds_nothing(prefix: str) -> None:
    assert not access.is_under("a/b/c", [prefix])


def test_a_grant_lies_under_its_own_prefixes_and_a_foreign_object_is_named() -> None:
    one = grant(granted("devnet_blocks"), granted("devnet_logs"), replace(granted("devnet_traces"), files=()))
    prefixes = access.read_prefixes(one)
    assert len(prefixes) == 2
    assert access.foreign_objects(one, prefixes) == []
    foreign = replace(one.datasets[0].files[0], key=one.datasets[1].files[0].key.replace("cryo/31337/", "cryo/1/"))
    bad = grant(replace(one.datasets[0], files=(foreign, *one.datasets[0].files)))
    assert access.foreign_objects(bad, prefixes) == [foreign.key]
    assert len(access.foreign_objects(one, prefixes[:1])) == 3

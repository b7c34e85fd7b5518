"""What is handed out again, and for how long."""

from actors.questions import Recent


def made(*, fresh_s: float, most: int = 10) -> tuple[Recent[str, int], list[str]]:
    """Return a cache that numbers what it makes, and the keys it made."""
    keys: list[str] = []

    def make(key: str) -> int:
        keys.append(key)
        return len(keys)

    return Recent(make, fresh_s=fresh_s, most=most), keys


def test_a_fresh_value_is_made_once() -> None:
    recent, keys = made(fresh_s=3600)
    assert [recent.get(key) for key in "abab"] == [1, 2, 1, 2]
    assert keys == ["a", "b"]


def test_an_old_value_is_made_again() -> None:
    recent, keys = made(fresh_s=0)
    assert [recent.get(key) for key in "aa"] == [1, 2]
    assert keys == ["a", "a"]


def test_the_one_made_first_makes_room() -> None:
    recent, keys = made(fresh_s=3600, most=2)
    for key in "abcbca":
        recent.get(key)
    assert keys == ["a", "b", "c", "a"]

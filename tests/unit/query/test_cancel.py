"""A question that is cancelled wakes who works for it, once, and nobody who is done."""

from query.cancel import Cancel


def test_setting_wakes_at_once_and_only_those_inside() -> None:
    cancel, woken = Cancel(), list[str]()
    with cancel.waking(lambda: woken.append("done")):
        assert woken == []
    with cancel.waking(lambda: woken.append("outer")), cancel.waking(lambda: woken.append("inner")):
        assert not cancel.is_set()
        cancel.set()
        assert woken == ["outer", "inner"]
    assert cancel.is_set()
    assert cancel.wait(0)


def test_who_comes_late_is_woken_at_once() -> None:
    cancel, woken = Cancel(), list[str]()
    cancel.set()
    with cancel.waking(lambda: woken.append("late")):
        assert woken == ["late"]

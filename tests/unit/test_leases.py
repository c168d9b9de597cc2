"""Who holds how many IPUs."""

from ipu_supervisor.core.leases import Leases


def test_a_lease_lasts_until_it_is_given_back():
    leases = Leases(4, {"qa": 1, "summarization": 2})
    assert leases.take("qa-1.1", "qa")
    assert leases.take("summarization-1.1", "summarization")
    assert not leases.take("summarization-2.1", "summarization")
    assert leases.held == 3
    leases.give("summarization-1.1")
    assert leases.take("summarization-2.1", "summarization")


def test_a_model_on_another_device_needs_none():
    leases = Leases(0, {})
    assert leases.take("echo-1.1", "echo")
    assert leases.room_for_both("echo", {"echo": 8})
    leases.give("echo-1.1")
    leases.give("never there")


def test_what_is_lacking_is_counted_over_all_models():
    leases = Leases(4, {"qa": 1, "summarization": 2})
    assert leases.lacking({"qa": 2, "summarization": 1}) == 0
    assert leases.lacking({"qa": 3, "summarization": 1, "echo": 9}) == 1


def test_a_rolling_change_needs_room_for_one_more_of_every_model():
    needs = {"qa": 1, "summarization": 2}
    assert not Leases(5, needs).room_for_both("qa", {"qa": 1, "summarization": 1})
    assert Leases(6, needs).room_for_both("qa", {"qa": 1, "summarization": 1})

"""When schedules are due: across clock changes, and refused expressions."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from jobs.schedules.cron import BadCron, BadZone, Cron, parse_zone

BERLIN = ZoneInfo("Europe/Berlin")


def local_times(expression: str, zone: str, start: datetime, most: int) -> list[str]:
    """The first moments after `start`, on the wall."""
    cron = Cron.parse(expression, zone)
    return [f"{moment.astimezone(cron.zone):%d %H:%M %z}" for moment in cron.some_after(start, most)]


def at(zone: ZoneInfo, *parts: int, fold: int = 0) -> datetime:
    return datetime(*parts, tzinfo=zone, fold=fold)  # type: ignore[arg-type, misc]


# Berlin, 2026: clocks go from 02:00 to 03:00 on March 29, and from 03:00 to 02:00 on October 25.
def test_a_local_time_that_does_not_exist_fires_once_after_the_gap() -> None:
    found = local_times("30 2 * * *", "Europe/Berlin", at(BERLIN, 2026, 3, 27, 12), 3)
    assert found == ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]


def test_two_times_in_one_gap_fire_once() -> None:
    found = local_times("0,30 2 * * *", "Europe/Berlin", at(BERLIN, 2026, 3, 28, 12), 3)
    assert found == ["29 03:00 +0200", "30 02:00 +0200", "30 02:30 +0200"]


def test_a_skipped_time_and_the_time_after_the_gap_fire_once() -> None:
    found = local_times("0 2,3 * * *", "Europe/Berlin", at(BERLIN, 2026, 3, 28, 12), 3)
    assert found == ["29 03:00 +0200", "30 02:00 +0200", "30 03:00 +0200"]


def test_a_repeated_local_time_fires_the_first_time() -> None:
    found = local_times("30 2 * * *", "Europe/Berlin", at(BERLIN, 2026, 10, 24, 12), 2)
    assert found == ["25 02:30 +0200", "26 02:30 +0100"]


def test_between_the_two_occurrences_it_is_not_due_again() -> None:
    for minute in (0, 15, 30, 45):
        between = at(BERLIN, 2026, 10, 25, 2, minute, fold=1)
        assert local_times("30 2 * * *", "Europe/Berlin", between, 1) == ["26 02:30 +0100"]


def test_an_hourly_expression_follows_time_as_it_passes() -> None:
    spring = local_times("0 * * * *", "Europe/Berlin", at(BERLIN, 2026, 3, 29, 0, 30), 3)
    assert spring == ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]
    autumn = local_times("0 * * * *", "Europe/Berlin", at(BERLIN, 2026, 10, 25, 1, 30), 4)
    assert autumn == ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100", "25 04:00 +0100"]


def test_a_gap_at_midnight_moves_to_the_first_minute_of_the_day() -> None:
    # Cairo: 2026-04-24 has no hour from 00:00 to 01:00.
    cairo = ZoneInfo("Africa/Cairo")
    found = local_times("0 0 * * *", "Africa/Cairo", at(cairo, 2026, 4, 23, 12), 2)
    assert found == ["24 01:00 +0300", "25 00:00 +0300"]


def test_a_clock_change_of_half_an_hour_is_handled() -> None:
    # Lord Howe Island: clocks go from 02:00 to 02:30 on 2026-10-04.
    howe = ZoneInfo("Australia/Lord_Howe")
    found = local_times("15 2 * * *", "Australia/Lord_Howe", at(howe, 2026, 10, 3, 12), 2)
    assert found == ["04 02:30 +1100", "05 02:15 +1100"]


@pytest.mark.parametrize(
    "expression", ["30 2 * * *", "0 * * * *", "*/20 * * * *", "15 1-3 * * *", "0 */2 * * *", "0 3 L * *", "5 2 * * 7#4"]
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"])
def test_ticks_rise_and_each_follows_from_the_previous(expression: str, zone: str) -> None:
    """Firing asks for the moment after the last one: it must find what reading on would have found."""
    cron = Cron.parse(expression, zone)
    moments = cron.some_after(datetime(2026, 1, 1, tzinfo=UTC), 400)
    assert all(before < after for before, after in pairwise(moments))
    assert [cron.next_after(moment) for moment in moments[:-1]] == moments[1:]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "0 0 * * *", "45 1 * * *"])
def test_a_daily_time_fires_once_on_every_day_of_the_year(expression: str, zone: str) -> None:
    cron = Cron.parse(expression, zone)
    start = datetime(2026, 1, 1, tzinfo=cron.zone) - timedelta(seconds=1)
    days = [moment.astimezone(cron.zone).date() for moment in cron.some_after(start, 365)]
    assert len(set(days)) == 365


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "61 * * * *", "0 25 * * *", "0 0 30 2 *", "0 0 * * 8", "a b c d e", "0 0 \x00 * *",
     "*/0 * * * *", "5-1 * * * *", "1" * 200 + " * * * *", "@reboot", "0 0 * * 1#6"],
)  # fmt: skip
def test_an_invalid_cron_expression_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(BadCron) as refused:
        Cron.parse(text, "UTC")
    assert str(refused.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("@daily", "0 0 * * *"), ("@Hourly", "0 * * * *"), (" 5  4 * * sun ", "5 4 * * sun")]
)
def test_names_and_extra_blanks_are_accepted(name: str, meant: str) -> None:
    assert Cron.parse(name, "UTC").expression == meant


@pytest.mark.parametrize("name", ["", "Mars/Base", "localtime", "../etc/passwd", "Europe", "europe/berlin", "/UTC"])
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    with pytest.raises(BadZone):
        parse_zone(name)

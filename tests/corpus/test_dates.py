"""Dates of cells."""

import datetime

import pytest

from stance.corpus import dates

DAY = datetime.datetime(2024, 3, 1, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    "cell",
    [
        datetime.datetime(2024, 3, 1),
        datetime.date(2024, 3, 1),
        "2024-03-01",
        " 2024-03-01T00:00:00Z ",
        "2024-03-01T02:00:00+02:00",
        "2024-03-01 00:00:00",
        "Fri Mar 01 00:00:00 +0000 2024",
    ],
)
def test_spellings_of_one_date(cell):
    assert dates.read_date(cell) == DAY


@pytest.mark.parametrize("cell", [2024, 2024.0, "2024"])
def test_numbers_have_an_order_of_their_own(cell):
    assert dates.read_date(cell) == 2024.0


@pytest.mark.parametrize("cell", [None, "", True, "03/01/2024", "1.3.2024", "nan", "inf", "soon"])
def test_what_is_no_date_or_could_be_two(cell):
    assert dates.read_date(cell) is None


def test_dates_as_people_read_them():
    assert dates.format_date(DAY) == "2024-03-01"
    assert (dates.format_date(2024.0), dates.format_date(0.5)) == ("2024", "0.5")

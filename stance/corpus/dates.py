"""Dates of rows, for splits by time. No torch."""

import datetime
import math

from dateutil import parser as dateutil_parser

TWITTER_FORMAT = "%a %b %d %H:%M:%S %z %Y"  # Wed Oct 10 20:19:24 +0000 2018
DATE_HINT = "write dates as 2024-12-31 or 2024-12-31T23:59:00, or all of them as numbers, as years"


def read_date(cell: object) -> datetime.datetime | float | None:
    """Return the date of a cell, or its number (a year, seconds since 1970); None if it has none.

    Dates are those of Excel, ISO 8601 and Twitter; other spellings leave open which number is the
    month. Dates without a time zone count as UTC.
    """
    if isinstance(cell, datetime.datetime):
        return _in_utc(cell)
    if isinstance(cell, datetime.date):
        return _in_utc(datetime.datetime(cell.year, cell.month, cell.day))
    if isinstance(cell, bool) or cell is None:
        return None
    text = str(cell).strip()
    try:
        number = float(text)
    except ValueError:
        return _parse_date(text)
    return number if math.isfinite(number) else None


def _parse_date(text: str) -> datetime.datetime | None:
    for parse in (dateutil_parser.isoparse, _parse_twitter):
        try:
            return _in_utc(parse(text))
        except (ValueError, OverflowError):
            continue
    return None


def _parse_twitter(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, TWITTER_FORMAT)


def _in_utc(moment: datetime.datetime) -> datetime.datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=datetime.timezone.utc)
    return moment.astimezone(datetime.timezone.utc)


def format_date(date: datetime.datetime | float) -> str:
    """Return a date as people read it: its day, or its number."""
    if isinstance(date, datetime.datetime):
        return date.date().isoformat()
    return f"{date:.0f}" if date == int(date) else str(date)

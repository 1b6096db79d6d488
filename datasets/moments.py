"""Dates, times and durations as people write them, in the units of an Arrow type."""

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.types as at

DAY = 86_400
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DURATION = re.compile(
    r"(?P<sign>-?)P(?!$)(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?!$)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_SECONDS = {"weeks": 7 * DAY, "days": DAY, "hours": 3600, "minutes": 60, "seconds": 1}


def span(value: Any, kind: pa.DataType) -> tuple[Fraction, Fraction]:
    """The first and the last of what is meant, in the units of a type: days of dates, else what the type counts. A date,
    where the type has times, is all of its day in the zone of the type; without a zone of its own, a time is in that zone.

    Args:
        value: of ``datetime``, or ISO 8601 text, of which fractions of a second may be of any length.

    Raises:
        ValueError: it is none of the type; its message ends a sentence.
    """
    if at.is_duration(kind):
        return _units(_duration(value), kind)
    if at.is_time(kind):
        value, rest = _read(value, time)
        if not isinstance(value, time) or value.tzinfo is not None:
            raise ValueError(f"not a time of {kind}")
        return _units(_since(datetime.combine(date.min, value), datetime.min) + rest, kind)
    value, rest = _read(value, date, datetime)
    if isinstance(value, datetime):
        return _units(_instant(value, kind) + rest, kind)
    if not isinstance(value, date):
        raise ValueError(f"not a date of {kind}")
    first = _instant(datetime.combine(value, time.min), kind)
    if at.is_date(kind):
        return _units(first, kind)
    next_day = _instant(datetime.combine(value, time.min) + timedelta(1), kind)
    return first * PER_SECOND[kind.unit], next_day * PER_SECOND[kind.unit] - 1


def example(kind: pa.DataType) -> str:
    """How to write one."""
    if at.is_duration(kind):
        return "write a duration as PT2H30M, or P1DT12H"
    if at.is_time(kind):
        return "write a time in quotes: '12:30:00'"
    if at.is_date(kind):
        return "write a date as 2024-05-06"
    return f"write a time as '2024-05-06 12:30:00{'+02:00' if kind.tz else ''}', or a whole day as 2024-05-06"


def _units(seconds: Fraction, kind: pa.DataType) -> tuple[Fraction, Fraction]:
    units = seconds / DAY if at.is_date(kind) else seconds * PER_SECOND[kind.unit]
    return units, units


def _instant(moment: datetime, kind: pa.DataType) -> Fraction:
    """Seconds since 1970."""
    zone = kind.tz if at.is_timestamp(kind) else None
    if zone is None:
        if moment.tzinfo is not None:
            raise ValueError(f"a time with a zone, which the column, of {kind}, does not have")
        return _since(moment, datetime(1970, 1, 1))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=_zone(zone))
    return _since(moment.astimezone(UTC), datetime(1970, 1, 1, tzinfo=UTC))


def _since(moment: datetime, start: datetime) -> Fraction:
    passed = moment - start
    return passed.days * DAY + passed.seconds + Fraction(passed.microseconds, 10**6)


def _zone(name: str) -> tzinfo:
    """Arrow's zones have a name, or are an offset."""
    offset = re.fullmatch(r"([+-])(\d\d):?(\d\d)", name)
    if not offset:
        return ZoneInfo(name)
    sign, hours, minutes = offset.groups()
    return timezone((-1 if sign == "-" else 1) * timedelta(hours=int(hours), minutes=int(minutes)))


def _read(value: Any, *kinds: type[date] | type[time]) -> tuple[Any, Fraction]:
    """Text as the first of some kinds that it is, and what ``datetime`` cannot hold of its seconds; others as they are."""
    if not isinstance(value, str):
        return value, Fraction(0)
    parts = re.fullmatch(r"(.*\d\d:\d\d:\d\d)[.,](\d+)(.*)", value.strip())
    text, digits = (parts[1] + parts[3], parts[2]) if parts else (value.strip(), "")
    for kind in kinds:
        try:
            return kind.fromisoformat(text), Fraction(int(digits or 0), 10 ** len(digits))
        except ValueError:
            continue
    raise ValueError("not a date or time in the form of ISO 8601")


def _duration(value: Any) -> Fraction:
    """Seconds."""
    if isinstance(value, timedelta):
        return value.days * DAY + value.seconds + Fraction(value.microseconds, 10**6)
    parts = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if parts is None:
        raise ValueError("not a duration in the form of ISO 8601")
    seconds = sum((Fraction(parts[name] or 0) * each for name, each in _SECONDS.items()), Fraction(0))
    return -seconds if parts["sign"] else seconds

"""How an endpoint is doing, as Prometheus reads it: of all replicas together, whichever is asked."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from raygen.serving.auth import UNDER_WAY, Token
from raygen.serving.book import Book
from raygen.serving.ledger import Counts, Key
from raygen.serving.models import Models
from raygen.serving.record import Record

MEDIA_TYPE = CONTENT_TYPE_LATEST
REASONS = {
    400: "malformed", 401: "token", 404: "unknown", 405: "method", 406: "accept", 408: "slow", 409: "digest", 413: "length",
    415: "type", 421: "host", 422: "invalid", 429: "limit", 431: "length", 500: "failure", 503: "busy", 504: "time",
}  # fmt: skip
SUM = "sum"
NANO = 10**9
"""Times are added up in whole billionths: sums of what is not whole depend on the order, and a count that goes backwards by
its last bit looks to Prometheus as if it began again."""


class Metric(NamedTuple):
    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()  # of a histogram


# No label has a value that whoever asks makes up.
TOTALS = {
    "raygen_requests": Metric("Requests that were answered, or broken off.", ("model", "route", "status")),
    "raygen_rows": Metric("Rows that were made.", ("model", "token")),
    "raygen_refused": Metric("Requests that were not answered as they wished.", ("reason",)),
    "raygen_refresh_failures": Metric("Looks at a registry that found what cannot be served.", ("model",)),
    "raygen_cpu_seconds": Metric("CPU time of all replicas."),
}
HISTOGRAMS = {
    "raygen_request_seconds": Metric(
        "Seconds of a request for rows, by part: until its turn, for the rows, for the bytes, to be handed over; in all.",
        ("part",),
        (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    ),
    "raygen_batch_rows": Metric("Rows that were made together.", ("model",), tuple(2.0**power for power in range(11))),
    "raygen_tile_fill_ratio": Metric(
        "Share of the slots of tiles that rows were asked for.", ("model",), tuple(tenth / 10 for tenth in range(1, 11))
    ),
}
LEVELS = {
    "raygen_in_flight": Metric("Requests being answered."),
    UNDER_WAY: Metric("Rows asked for that are not handed over yet.", ("token",)),
    "raygen_resident_memory_bytes": Metric("Memory of all replicas."),
    "raygen_replicas": Metric("Replicas that count."),
    "raygen_model_info": Metric("1 for each generator that answers.", ("model", "digest", "verdict", "percent")),
}
_INFO = "raygen_model_info"
_IN_FLIGHT: Key = ("raygen_in_flight",)
_BY_TOKEN = {name for name, metric in (TOTALS | LEVELS).items() if metric.labels[-1:] == ("token",)}


class Metrics:
    """Counts of a replica; see `book` for how they come together.

    Args:
        book: where it counts.
        models: what it serves.
    """

    def __init__(self, book: Book, models: Models) -> None:
        self._book, self._models = book, models
        self._process = ProcessCollector(registry=None)
        self._keys: dict[tuple[str, str], list[Key]] = {}
        book.before = self._look

    @property
    def in_flight(self) -> float:
        """Requests that have come and are not over."""
        return self._book.levels.get(_IN_FLIGHT, 0)

    def begin(self) -> None:
        """A request has come."""
        self._book.shift(_IN_FLIGHT, 1)

    def end(self, record: Record, route: str, status: int, seconds: float) -> None:
        """It is over, with this status, 0 where it was broken off before there was one."""
        book = self._book
        book.shift(_IN_FLIGHT, -1)
        book.count(("raygen_requests", record.model, route, str(status)))
        if status >= 400:
            book.count(("raygen_refused", record.limit or REASONS.get(status, str(status))))
        elif record.model:
            for part, spent in record.seconds.items():
                self._observe("raygen_request_seconds", part, spent)
            self._observe("raygen_request_seconds", "total", seconds)

    def rows(self, model: str, token: str, n: int) -> None:
        """That so many have been made."""
        self._book.count(("raygen_rows", model, token), n)

    def batch(self, model: str, rows: int, tile: int) -> None:
        """That so many rows have been made together, in tiles of this size."""
        self._observe("raygen_batch_rows", model, rows)
        self._observe("raygen_tile_fill_ratio", model, rows / (-(-rows // tile) * tile))

    def _observe(self, name: str, label: str, value: float) -> None:
        totals, bounds = self._book.totals, HISTOGRAMS[name].bounds
        keys = self._keys.get((name, label))
        if keys is None:  # made once: this is what most of the time of counting a request goes to
            keys = self._keys[name, label] = [(name, label, str(at)) for at in (*range(len(bounds) + 1), SUM)]
        at = keys[bisect_left(bounds, value)]
        totals[at] = totals.get(at, 0) + 1
        totals[keys[-1]] = totals.get(keys[-1], 0) + round(value * NANO)

    def _look(self) -> None:
        """Put down what is not counted."""
        book = self._book
        for family in self._process.collect():  # none where there is no /proc
            for sample in family.samples:
                if sample.name == "process_resident_memory_bytes":
                    book.levels["raygen_resident_memory_bytes",] = sample.value
                elif sample.name == "process_cpu_seconds_total":
                    book.totals["raygen_cpu_seconds",] = round(sample.value * NANO)
        for name, failures in self._models.failures.items():
            book.totals["raygen_refresh_failures", name] = failures
        for key in [key for key in book.levels if key[0] == _INFO]:
            del book.levels[key]
        for current in self._models:
            for one in (current, current.canary):
                if one is not None:
                    book.levels[_INFO, one.name, one.digest, one.verdict, str(one.percent)] = 1

    async def text(self, reader: Token) -> bytes:
        """Of all replicas, of type `MEDIA_TYPE`.

        Args:
            reader: who is to read it: without its ``metrics``, what the others ask for is told in one, with no name.

        Raises:
            Problem: 503; what they have counted is not known at the moment.
        """
        counts, replicas = await self._book.all()
        counts.levels = {key: min(n, 1) if key[0] == _INFO else n for key, n in counts.levels.items()}
        counts.levels["raygen_replicas",] = replicas
        if not reader.metrics:
            counts.totals, counts.levels = (_told_to(reader.name, of) for of in (counts.totals, counts.levels))
        return generate_latest(_Families(counts))


def _told_to(token: str, counts: dict[Key, float]) -> dict[Key, float]:
    """Without the names of other tokens, which are the last label of what has any."""
    told: dict[Key, float] = {}
    for key, n in counts.items():
        if key[0] in _BY_TOKEN and key[-1] != token:
            key = (*key[:-1], "")
        told[key] = told.get(key, 0) + n
    return told


class _Families(Collector):
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Any]:
        for kinds, counts, family in (
            (TOTALS, self._counts.totals, CounterMetricFamily),
            (LEVELS, self._counts.levels, GaugeMetricFamily),
        ):
            for name, metric in kinds.items():
                told = family(name, metric.about, labels=metric.labels)
                for values, n in _of(name, counts):
                    told.add_metric(values, n / NANO if name == "raygen_cpu_seconds" else n)
                yield told
        for name, metric in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, metric.about, labels=metric.labels)
            found: dict[Key, dict[str, float]] = {}
            for (*labels, at), n in _of(name, self._counts.totals):
                found.setdefault(tuple(labels), {})[at] = n
            bounds = [*map(str, metric.bounds), "+Inf"]
            for key, slots in found.items():
                heights = accumulate(slots.get(str(at), 0) for at in range(len(bounds)))
                histogram.add_metric(key, list(zip(bounds, heights, strict=True)), slots.get(SUM, 0) / NANO)
            yield histogram


def _of(name: str, counts: dict[Key, float]) -> Iterable[tuple[Key, float]]:
    return [(key[1:], n) for key, n in sorted(counts.items()) if key[0] == name]

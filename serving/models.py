"""The generators that an endpoint answers with: of every project the current one, which may be another one any minute, and
beside it a canary, which answers a part of the requests."""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from raygen.datasets.codec import Codec
from raygen.errors import OutputError, RaygenError
from raygen.generators.generator import Generator
from raygen.jobs import glossary
from raygen.jobs.promotions import ALL, SHORT, Holding, Promotion, standing
from raygen.jobs.registry import Registry
from raygen.serving.api import Canary, Figure, Model
from raygen.serving.problems import Problem

log = logging.getLogger("raygen.serving")

MOST_FIGURES = 12
Load = Callable[[Registry, str], Generator]
MOST_PAST = 2
KEPT = 600.0
"""Seconds that a generator still answers who asks for it by its digest, after another one has taken its place."""
LOOKS = (2.0, 300.0)
"""Seconds until what could not be served is tried again, the first time and at the most: twice as long each time."""


@dataclass(frozen=True)
class Served:
    """A generator that answers, warm, and the promotion that made it do so.

    Attributes:
        name: of the project.
        canary: of a current one, the one that answers a part of the requests in its place.
    """

    name: str
    generator: Generator
    promotion: Promotion
    canary: "Served | None" = None

    @property
    def codec(self) -> Codec:
        return self.generator.codec

    @property
    def digest(self) -> str:
        return self.promotion.digest

    @property
    def percent(self) -> int:
        """Of the requests, which it answers."""
        return self.promotion.percent if self.canary is None else ALL - self.canary.percent

    @property
    def verdict(self) -> str:
        """Of its gate."""
        return str((self.promotion.evaluation or {}).get("verdict", "not evaluated"))

    @property
    def classes(self) -> list[bool | int | str | None]:
        """What its condition can be; none where it has none."""
        condition = self.generator.spec.condition
        return [] if condition is None else [*self.codec.category(condition).values]

    @property
    def about(self) -> Model:
        spec, codec, found = self.generator.spec, self.codec, self.promotion
        evaluation = found.evaluation or {}
        return Model(
            id=self.name,
            created=int(datetime.fromisoformat(found.at).timestamp()),
            digest=found.digest,
            canary=None if (beside := self.canary) is None else Canary(digest=beside.digest, percent=beside.percent),
            verdict=self.verdict,
            summary=[*map(glossary.sentence, evaluation.get("summary", ()))],
            figures=_figures(evaluation),
            family=spec.family,
            kind="tables" if codec.is_table else "images",
            condition=spec.condition,
            classes=self.classes,
            columns={field.name: str(field.type) for field in codec.arrow},
            interpolates=self.generator.sampler.has_latent,
        )


class Models:
    """What is served, by name. Each is swapped when another one is promoted, or rolled back to, without a moment without.

    Args:
        registries: of the projects, by name.
        clock: seconds, growing.
        device: where they compute; a GPU where there is one by default.

    Attributes:
        failures: how many looks at a project found what cannot be served, by its name.

    Raises:
        RaygenError: a project has no current generator, or it cannot be read.
    """

    def __init__(
        self,
        registries: Mapping[str, Registry],
        clock: Callable[[], float] = time.monotonic,
        device: str | None = None,
    ) -> None:
        self._registries, self._load = dict(registries), partial(_load, device)
        self.failures = dict.fromkeys(self._registries, 0)
        self._clock = clock
        self._told: dict[str, str] = {}  # what was wrong at the last look, of those where something was
        self._broken: dict[str, _Broken] = {}
        self._past: dict[str, list[tuple[Served, float]]] = {}  # whose place has been taken, until when they are kept
        self._lock = threading.Lock()
        self._looking: asyncio.Task[list[str]] | None = None
        self._served = {}
        for name, registry in self._registries.items():
            holding = registry.holding()
            try:
                self._served[name], wrong = _looked(name, registry, holding, None, self._load)
            except RaygenError as error:
                self._served[name], wrong = _before(name, registry, error, self._load), error
            self._note(name, holding, wrong)

    def __iter__(self) -> Iterator[Served]:
        """The current ones."""
        return iter(self._served.values())

    def find(self, name: str | None, digest: str | None = None) -> Served:
        """The one of a name, or the only one; where there is a canary, it or the current one, by chance.

        Args:
            digest: not by chance, but this one.

        Raises:
            Problem: 404; there is none of this name; 422; there are several, and none is named; 409; the one of this digest
                does not answer, or not any more.
        """
        served = self._served
        if name is None and len(served) > 1:
            raise Problem(422, "no model is named, and there are several", f"give one of: {', '.join(served)}")
        if name is not None and name not in served:
            raise Problem(404, "there is no model of this name", f"there are: {', '.join(served)}")
        found = next(iter(served.values())) if name is None else served[name]
        if digest is not None:
            kept = [past for past, until in self._past.get(found.name, ()) if until > self._clock()]
            for one in (found, *_beside(found), *kept):
                if one.digest == digest:
                    return one
            told = {"digest": found.digest}
            raise Problem(409, "another generator answers now", "begin again, or leave digest out", more=told)
        if found.canary is not None and random.random() * ALL < found.canary.percent:  # noqa: S311 - nobody gains by guessing
            return found.canary
        return found

    def headers(self, served: Served) -> dict[str, str]:
        """Of an answer: which generator made it, and which one is current, where that one's place has been taken."""
        now = self._served[served.name]
        told = {"raygen-digest": served.digest}
        if served.digest not in (now.digest, *(one.digest for one in _beside(now))):
            told["raygen-current"] = now.digest
        return told

    async def look(self, name: str | None, digest: str | None) -> Served:
        """As ``find``; who asks for a digest that is not known may have it from a replica that knew of a promotion first, so
        this one looks, too."""
        try:
            return self.find(name, digest)
        except Problem as problem:
            if problem.status != 409:
                raise
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(asyncio.to_thread(self.refresh))
        await asyncio.shield(self._looking)
        return self.find(name, digest)

    def refresh(self) -> list[str]:
        """Look for what has been promoted meanwhile, and swap: the names of those swapped. One that cannot be read changes
        nothing: what answers goes on answering, and the log tells why, once."""
        swapped = []
        with self._lock:
            now = self._clock()
            for name, registry in self._registries.items():
                before = self._served[name]
                self._past[name] = [(past, until) for past, until in self._past.get(name, ()) if until > now]
                holding = None
                try:
                    holding = registry.holding()
                    if (broken := self._broken.get(name)) is not None and broken.waits(holding, now):
                        continue
                    found, wrong = _looked(name, registry, holding, before, self._load)
                except Exception as error:  # also one that nobody thought of: the next look may do better
                    self._note(name, holding, error)
                    continue
                self._note(name, holding, wrong)
                if found is not before:
                    still = {one.generator.digest for one in (found, *_beside(found))}
                    gone = [(replace(one, canary=None), now + KEPT) for one in (before, *_beside(before))
                            if one.digest not in still]  # fmt: skip
                    self._past[name] = [*self._past[name], *gone][-MOST_PAST:]
                    self._served = {**self._served, name: found}
                    swapped.append(name)
        return swapped

    def _note(self, name: str, holding: Holding | None, wrong: Exception | None) -> None:
        """Log what is wrong with a project, if it is news, count it, and try that again only after a while."""
        if wrong is None:
            self._broken.pop(name, None)
            if self._told.pop(name, None) is not None:
                log.info("%s: can be served again", name)
            return
        numbers, last = _numbers(holding), self._broken.get(name)
        wait = LOOKS[0] if last is None or last.numbers != numbers else min(LOOKS[1], 2 * last.wait)
        self._broken[name] = _Broken(numbers, wait, self._clock() + wait)
        self.failures[name] += 1
        told = f"{wrong.what}; {wrong.hint}" if isinstance(wrong, RaygenError) else f"{type(wrong).__name__}: {wrong}"
        if self._told.get(name) != told:
            self._told[name] = told
            log.error("%s: what was promoted cannot be served, what answered before goes on: %s", name, told)

    def follow(self, seconds: float, told: Callable[[str], None], stop: threading.Event) -> threading.Thread:
        """Refresh every so many seconds, in a thread, until told to stop; ``told`` of each swap."""

        def look() -> None:
            while not stop.wait(seconds):
                for name in self.refresh():
                    told(name)

        thread = threading.Thread(target=look, name="raygen-follow", daemon=True)
        thread.start()
        return thread


@dataclass(frozen=True)
class _Broken:
    """Promotions that could not be served, and when that is tried again."""

    numbers: tuple[int, ...]
    wait: float
    until: float

    def waits(self, holding: Holding, now: float) -> bool:
        return now < self.until and _numbers(holding) == self.numbers


def _numbers(holding: Holding | None) -> tuple[int, ...]:
    """Of the promotions."""
    return () if holding is None else tuple(found.number for found in holding[:2] if found is not None)


def _before(name: str, registry: Registry, error: RaygenError, load: Load) -> Served:
    """Of the generators that were current before, the last one that can be read: what replicas that run already answer with,
    while the current one cannot be.

    Raises:
        RaygenError: the error, where there is none.
    """
    for digest in reversed(standing(registry.promotions())[:-1]):
        promotion = registry.promoted(digest)
        if promotion is None:
            continue
        with contextlib.suppress(RaygenError):
            return Served(name, load(registry, digest), promotion)
    raise error


def _looked(
    name: str, registry: Registry, holding: Holding, before: Served | None, load: Load
) -> tuple[Served, Exception | None]:
    """What is to answer for a project, which is the one of before where nothing has changed; and what is wrong with the
    canary, without which the current one answers all."""
    current, canary, _ = holding
    if current is None:
        raise RaygenError(
            f"{registry.folder.uri}: no generator is current, so there is none to serve",
            "raygen run SPEC, or raygen models promote",
        )
    known = {} if before is None else {one.digest: one for one in (before, *_beside(before))}

    def warm(promotion: Promotion) -> Served:
        have = known.get(promotion.digest)
        if have is not None and have.canary is None and have.promotion.number == promotion.number:
            return have
        return Served(name, have.generator if have else load(registry, promotion.digest), promotion)

    if before is not None and (before.promotion.number, *(one.promotion.number for one in _beside(before))) == _numbers(
        holding
    ):
        return before, None
    alone = warm(current)
    if canary is None:
        return alone, None
    try:
        return replace(alone, canary=warm(canary)), None
    except Exception as error:
        return alone, error


def _beside(served: Served) -> list[Served]:
    return [] if served.canary is None else [served.canary]


def _load(device: str | None, registry: Registry, digest: str) -> Generator:
    """A generator, having made a tile of rows."""
    generator = Generator.load((registry.folder / "generators" / digest).uri, device)
    if generator.digest != digest:
        raise OutputError(f"{registry.folder.uri}: the generator {digest[:SHORT]} is another by its digest", "restore it")
    generator.sample(range(generator.tile), seed=0)
    bool(generator.any_slot)  # tried now, rather than by the first who asks
    return generator


def _figures(evaluation: Mapping[str, Any]) -> list[Figure]:
    """Those that the gate looks at, and then the others in their order."""
    looked_at = {rule["metric"] for rule in evaluation.get("gate", ())}
    metrics = [metric for metric in evaluation.get("metrics", ()) if metric["value"] is not None]
    metrics.sort(key=lambda metric: metric["name"] not in looked_at)
    return [
        Figure(
            title=glossary.title(metric["name"]),
            about=glossary.EXPLAINED.get(metric["name"], ""),
            **{key: metric[key] for key in ("name", "value", "ceiling", "interval", "better")},
        )
        for metric in metrics[:MOST_FIGURES]
    ]

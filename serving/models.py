"""The generators that an endpoint answers with: of every project the current one, which may be another one any minute."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from raygen.datasets.codec import Codec
from raygen.errors import OutputError, RaygenError
from raygen.generators.generator import Generator
from raygen.jobs.promotions import Promotion
from raygen.jobs.registry import Registry
from raygen.serving.api import Model
from raygen.serving.problems import Problem


@dataclass(frozen=True)
class Served:
    """A generator that answers, warm, and the promotion that made it current."""

    name: str
    generator: Generator
    promotion: Promotion

    @property
    def codec(self) -> Codec:
        return self.generator.codec

    @property
    def about(self) -> Model:
        spec, codec, found = self.generator.spec, self.codec, self.promotion
        classes = [] if spec.condition is None else [*codec.category(spec.condition).values]
        return Model(
            id=self.name,
            created=int(datetime.fromisoformat(found.at).timestamp()),
            digest=found.digest,
            verdict=str((found.evaluation or {}).get("verdict", "not evaluated")),
            family=spec.family,
            kind="tables" if codec.is_table else "images",
            condition=spec.condition,
            classes=classes,
            columns={field.name: str(field.type) for field in codec.arrow},
        )


class Models:
    """What is served, by name. Each is swapped when another one is promoted, or rolled back to, without a moment without.

    Args:
        registries: of the projects, by name.

    Raises:
        RaygenError: a project has no current generator, or it cannot be read.
    """

    def __init__(self, registries: Mapping[str, Registry]) -> None:
        self._registries = dict(registries)
        self._served = {name: _load(name, registry, None) for name, registry in self._registries.items()}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def find(self, name: str | None) -> Served:
        """The one of a name, or the only one.

        Raises:
            Problem: 404; there is none of this name; 422; there are several, and none is named.
        """
        served = self._served
        if name is None and len(served) == 1:
            return next(iter(served.values()))
        if name is None:
            raise Problem(422, "no model is named, and there are several", f"give one of: {', '.join(served)}")
        if name not in served:
            raise Problem(404, "there is no model of this name", f"there are: {', '.join(served)}")
        return served[name]

    def refresh(self) -> list[str]:
        """Look for what has been promoted meanwhile, and swap: the names of those swapped. One that cannot be read changes
        nothing: what answers goes on answering."""
        swapped = []
        with self._lock:
            for name, registry in self._registries.items():
                try:
                    found = _load(name, registry, self._served[name])
                except RaygenError:
                    continue
                if found is not self._served[name]:
                    self._served = {**self._served, name: found}
                    swapped.append(name)
        return swapped

    def follow(self, seconds: float, told: Callable[[str], None], stop: threading.Event) -> threading.Thread:
        """Refresh every so many seconds, in a thread, until told to stop; ``told`` of each swap."""

        def look() -> None:
            while not stop.wait(seconds):
                for name in self.refresh():
                    told(name)

        thread = threading.Thread(target=look, name="raygen-follow", daemon=True)
        thread.start()
        return thread


def _load(name: str, registry: Registry, before: Served | None) -> Served:
    """The current generator of a project, having made a tile of rows; the one of before, where that is current still."""
    promotion = registry.current()
    if promotion is None:
        raise RaygenError(
            f"{registry.folder.uri}: no generator is current, so there is none to serve",
            "raygen run SPEC, or raygen models promote",
        )
    if before is not None and promotion.number == before.promotion.number:
        return before
    if before is not None and promotion.digest == before.promotion.digest:
        return Served(name, before.generator, promotion)
    generator = Generator.load((registry.folder / "generators" / promotion.digest).uri)
    if generator.digest != promotion.digest:
        raise OutputError(f"{registry.folder.uri}: the current generator is another one by its digest", "restore it")
    generator.sample(range(generator.tile), seed=0)
    assert generator.any_slot in (True, False)  # tried now, rather than by the first who asks
    return Served(name, generator, promotion)

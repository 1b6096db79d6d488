"""The generator: codec, networks and config that make rows, each a pure function of the seed and its number."""

import importlib.metadata
import platform
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from raygen.datasets.codec import CELLS, ROW, Batch, Codec
from raygen.datasets.columns import Value
from raygen.datasets.conditions import Asked
from raygen.datasets.storage import Folder
from raygen.errors import OutputError, RaygenError
from raygen.generators import artifact, noise
from raygen.generators.base import STRENGTH, TILE, Sampler, threads
from raygen.generators.card import card
from raygen.generators.families import family
from raygen.generators.networks import Layout, Tokens
from raygen.options import FAMILIES, GeneratorSpec

_ALONE = threading.Lock()  # held while a tile is computed
SAMPLES = 100  # of the latent, for a row's likelihood
_SPEC: TypeAdapter[GeneratorSpec] = TypeAdapter(GeneratorSpec)

Condition: TypeAlias = Value | Sequence[Value] | np.ndarray | pa.Array | pa.ChunkedArray
"""One value for all rows, or one value per row."""


class Ask(NamedTuple):
    """Rows by their numbers, a seed, and class indices ``(n,)`` where the generator has a condition."""

    rows: range
    seed: int
    classes: np.ndarray | None


@dataclass
class Generator:
    """Makes rows.

    Attributes:
        spec: the family and its options.
        codec: of the columns it makes: the image, and the condition where it has one; or a table's.
        sampler: the networks, in evaluation mode.
        tile: how many rows the networks see at once, always, so that a row's bits do not depend on who else is asked for.
        lineage: what it came from: data fingerprint, training run, versions, metrics.
        recorded: the identity of the artifact it was read from, which stays its own when raygen gets new options.
    """

    spec: GeneratorSpec
    codec: Codec
    sampler: Sampler
    tile: int = TILE
    lineage: Mapping[str, Any] = field(default_factory=dict)
    recorded: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        # Convolutions are faster so: 1.6 times on the CPUs here. (The stubs do not know that modules take it.)
        self.sampler.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(cls, uri: str | Path, device: str | torch.device | None = None) -> "Generator":
        """Read an artifact.

        Args:
            uri: the folder of an artifact, local or ``s3://``.
            device: where it computes; a GPU where there is one by default.

        Raises:
            OutputError: there is no artifact, or it is broken.
        """
        document, weights = artifact.read(Folder(uri))
        identity = document["identity"]
        try:
            spec = _SPEC.validate_python(identity["generator"])
            codec = Codec.from_json(identity["codec"])
            sampler = untrained(spec, codec, torch.device("cpu")).sampler()
            sampler.load_state_dict(weights)
        except (ValidationError, KeyError, RuntimeError):  # the digest is right: it means something to another raygen
            maker = document["lineage"].get("versions", {}).get("raygen", "a newer one")
            raise OutputError(f"{uri}: this raygen does not know how to rebuild it", f"use raygen {maker}") from None
        sampler.to(device or default_device()).eval()
        return cls(spec, codec, sampler, identity["tile"], document["lineage"], identity)

    def save(self, folder: Folder) -> None:
        """Write the artifact."""
        document = {
            "format": artifact.FORMAT,
            "digest": self.digest,
            "identity": self.identity,
            "lineage": {**self.lineage, "versions": versions(self.spec)},
        }
        artifact.write(folder, document, self.sampler.state_dict(), card(self.spec, self.codec, self.digest, self.lineage))

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the rows, but for the weights."""
        if self.recorded is not None:
            return dict(self.recorded)
        return {"generator": self.spec.model_dump(mode="json"), "codec": self.codec.to_json(), "tile": self.tile}

    @cached_property
    def digest(self) -> str:
        """SHA-256, hexadecimal, of the canonical content."""
        return artifact.digest(self.identity, self.sampler.state_dict())

    def sample(
        self,
        rows: range,
        seed: int = 0,
        condition: Condition | None = None,
        where: Mapping[str, Asked] | None = None,
    ) -> pa.Table:
        """Make rows by their numbers.

        The same rows come out whatever range they are asked for in, here or in a job, bit for bit on one device type and
        library version.

        Args:
            rows: consecutive row numbers, for example ``range(1000, 1100)``.
            seed: of the dataset, 0 or more.
            condition: what the rows show: one value for all, or one for each row (to make rows of a dataset again, the
                values they have there). By default each row draws its own, with the frequencies of the training data.
            where: of a table, by column a value, a list of values, or of numbers and times the least and the most (see
                ``Codec.where``): every row is so, exactly, and its other columns are what goes with it.

        Returns:
            A table with the Arrow types of the training data.

        Raises:
            RaygenError: the condition is a value never seen, is not one per row, or the generator takes none; or no row of
                it can be as asked.
        """
        if not where:
            return self.codec.decode(self.tensors(rows, seed, self.classes(rows, seed, condition)))
        if not self.codec.is_table:
            raise RaygenError("where is of tables, and this generator makes images", "ask for a condition")
        if condition is not None and self.spec.condition in where:
            raise RaygenError(f"where and the condition both say what {self.spec.condition!r} is", "leave one out")
        asked = self.codec.where(where)
        free = condition is None and self.spec.condition is not None  # the condition is one of what goes with it
        classes = self.classes(rows, seed, condition)
        return asked.imposed(self.codec.decode(self.tensors(rows, seed, None if free else classes, asked.bounds)))

    def tensors(
        self, rows: range, seed: int, classes: np.ndarray | None, bounds: Mapping[int, np.ndarray] | None = None
    ) -> Batch:
        """The same before decoding: images uint8 ``(n, channels, height, width)``, and the classes ``(n,)``; or a table's
        cells, which are within bounds (see ``complete``), and the numbers of the rows."""
        if self.codec.is_table:
            cells = self.complete(self._given(rows, classes), rows, seed, bounds)
            return {CELLS: cells, ROW: np.arange(rows.start, rows.stop)}
        name, size = self.codec.image
        images = np.empty((len(rows), size.channels, size.height, size.width), np.uint8)
        batch: Batch = {name: self._tiled(images, self._make, rows, seed, "latent", self.sampler.noise, classes)}
        if classes is not None:
            assert self.spec.condition is not None
            batch[self.spec.condition] = np.asarray(classes, np.int64)
        return batch

    def between(self, ends: tuple[int, int], steps: int, seed: int = 0, condition: Value | None = None) -> pa.Table:
        """Rows on the way from one row to another, in even steps through the latent space; see ``latent.slerp``.

        Args:
            ends: the numbers of two rows, which may be the same one.
            steps: how many rows, 2 or more, of which the first and the last are those two, bit for bit.
            seed: of the dataset, 0 or more.
            condition: what all of them show. By default each end shows what it does by itself, and what is between, what
                the nearer end does.

        Returns:
            As ``sample`` does.

        Raises:
            RaygenError: the family has no latent space to go through; or as ``sample`` does.
        """
        if not self.sampler.has_latent:
            raise RaygenError(
                f"this {self.spec.family!r} has no latent space, so there is nothing between two rows",
                "images by a gan, a vae or an autoencoder have one",
            )
        asked = [Ask(rows, seed, self.classes(rows, seed, condition)) for rows in (range(end, end + 1) for end in ends)]
        first, last = (self.tensors(*ask) for ask in asked)  # each in the tile that it is always made in
        share = np.linspace(0, 1, steps, dtype=np.float32)[1:-1]
        parts: list[np.ndarray | None] = [share]
        for ask in asked:
            drawn = noise.normals(seed, "latent", ask.rows, self.sampler.noise)
            parts += [part if part is None else part.repeat(len(share), 0) for part in (drawn, ask.classes)]

        def go(share: Tensor, drawn: Tensor, of: Tensor | None, other: Tensor, of_other: Tensor | None) -> Tensor:
            return _pixels(self.sampler.between((drawn, of), (other, of_other), share))

        image, label = self.codec.image[0], self.spec.condition
        made = self._packed(np.empty((len(share), *first[image].shape[1:]), np.uint8), go, *parts)
        batch: Batch = {image: np.concatenate([first[image], made, last[image]])}
        if label is not None:
            batch[label] = np.concatenate([first[label], np.where(share <= 0.5, first[label], last[label]), last[label]])
        return self.codec.decode(batch)

    def batch(self, asked: Sequence[Ask]) -> list[Batch]:
        """What ``tensors`` gives for each of several ranges of rows, made together, so that few rows fill a tile.

        Bit for bit the same where ``any_slot`` holds; else each range is made by itself.
        """
        if not self.any_slot:
            return [self.tensors(ask.rows, ask.seed, ask.classes) for ask in asked]
        n, width = sum(len(ask.rows) for ask in asked), self.sampler.noise
        draw = noise.uniforms_of if self.sampler.uniform else noise.normals_of
        drawn = draw([(ask.seed, ask.rows) for ask in asked], "latent", width)
        if self.codec.is_table:
            given: np.ndarray | None = np.concatenate([self._given(ask.rows, ask.classes) for ask in asked])
            made, compute = np.empty_like(given), self.sampler.__call__
        else:
            size = self.codec.image[1]
            made, compute = np.empty((n, size.channels, size.height, size.width), np.uint8), self._make
            of = [ask.classes for ask in asked if ask.classes is not None]
            given = np.concatenate(of) if of else None
        self._packed(made, compute, drawn, given)
        ends = np.cumsum([len(ask.rows) for ask in asked])
        return [self._batch(ask, part) for ask, part in zip(asked, np.split(made, ends[:-1]), strict=True)]

    def _batch(self, ask: Ask, made: np.ndarray) -> Batch:
        if self.codec.is_table:
            return {CELLS: made, ROW: np.arange(ask.rows.start, ask.rows.stop)}
        batch: Batch = {self.codec.image[0]: made}
        if ask.classes is not None:
            assert self.spec.condition is not None
            batch[self.spec.condition] = np.asarray(ask.classes, np.int64)
        return batch

    @cached_property
    def any_slot(self) -> bool:
        """Whether a row's bits are the same in whatever slot of a tile it is made, found by trying on this machine.

        They are wherever the networks treat all rows of a tile alike, which libraries of linear algebra do not promise.
        """
        rows, tile = range(self.tile), self.tile
        turned = np.random.default_rng(0).permutation(tile)
        draw = noise.uniforms if self.sampler.uniform else noise.normals
        drawn, classes = draw(0, "probe", rows, self.sampler.noise), self.classes(rows, 0)
        given, compute = (
            (self._given(rows, classes), self.sampler.__call__) if self.codec.is_table else (classes, self._make)
        )
        straight = self._tile(compute, drawn, given)
        other = self._tile(compute, drawn[turned], None if given is None else given[turned])
        return straight[turned].tobytes() == other.tobytes()

    def complete(
        self, given: np.ndarray, rows: range, seed: int, bounds: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        """Cells of a table's rows, of which some are given.

        A row depends on its own number, the seed, what is given of it and the bounds.

        Args:
            given: float64 ``(n, columns)``, NaN where a cell is free.
            rows: their numbers, ``n`` consecutive ones.
            seed: of the dataset, 0 or more.
            bounds: which tokens the free cells of a column may have, and which places within each: see ``Bounds``.

        Returns:
            float64 ``(n, columns)``; what was given bit for bit.

        Raises:
            RaygenError: the family cannot keep to bounds.
        """
        out = np.empty_like(given)
        if not bounds:
            return self._tiled(out, self.sampler, rows, seed, "latent", self.sampler.noise, given)
        if not self.sampler.has_bounds:
            raise RaygenError(f"the family {self.spec.family!r} cannot be asked for ranges", "train an autoregressive one")
        within = {column: torch.from_numpy(of).to(self._device) for column, of in bounds.items()}
        # Rows of other widths have streams of their own: in one, the noise of a row would be part of another's.
        purpose, width = f"latent within {len(bounds)}", self.sampler.noise_within(len(bounds))
        return self._tiled(out, partial(self.sampler, bounds=within), rows, seed, purpose, width, given)

    def classes(self, rows: range, seed: int, condition: Condition | None = None) -> np.ndarray | None:
        """The class index of each row: int64 ``(n,)``, or None where the generator has no condition."""
        if rows.step != 1 or rows.start < 0 or len(rows) == 0:
            raise RaygenError(f"{rows} is not a range of row numbers", "for example: range(1000, 1100)")
        if type(seed) is not int or seed < 0:
            raise RaygenError(f"{seed!r} is not a seed", "give a whole number, 0 or more")
        name = self.spec.condition
        if name is None:
            if condition is not None:
                raise RaygenError("this generator takes no condition", "train one with generator.condition")
            return None
        category = self.codec.categories[name]
        if condition is None:
            shares = np.cumsum(category.counts) / np.sum(category.counts)
            return np.searchsorted(shares, noise.uniforms(seed, "condition", rows, 1)[:, 0], side="right").astype(np.int64)
        if isinstance(condition, np.generic) or (isinstance(condition, np.ndarray) and condition.ndim == 0):
            condition = condition.item()
        if isinstance(condition, str) or not isinstance(condition, Iterable):
            return np.full(len(rows), self.codec.class_index(name, condition), np.int64)
        if isinstance(condition, pa.Array | pa.ChunkedArray):
            values: list[Value] = condition.to_pylist()
        else:
            values = condition.tolist() if isinstance(condition, np.ndarray) else list(condition)
        if len(values) != len(rows):
            raise RaygenError(f"{len(values)} conditions for {len(rows)} rows", "give one value, or one for each row")
        try:
            index = {(type(value), value): -1 for value in values}  # 1 and True are one key of a dict, but not one value
        except TypeError:
            raise RaygenError("the conditions are not plain values", "give one value, or one for each row") from None
        index = {key: self.codec.class_index(name, key[1]) for key in index}
        return np.array([index[type(value), value] for value in values], np.int64)

    def variants(
        self,
        images: np.ndarray,
        rows: range,
        seed: int,
        classes: np.ndarray | None,
        variant: int,
        strength: float = STRENGTH,
    ) -> np.ndarray:
        """Variants of rows, by the means of the family: a neighbour in its latent space, or a fresh row of the same class.

        A variant depends on its own row, class, number and seed, and on nothing else that is asked for with it, bit for bit
        on one device type and library version.

        Args:
            images: the rows, uint8 ``(n, channels, height, width)``; or a table's cells, float64 ``(n, columns)``.
            rows: their numbers in their source, ``n`` consecutive ones.
            seed: of the dataset, 0 or more.
            classes: their class indices, int64 ``(n,)``; None where the generator has no condition.
            variant: which variant of each row.
            strength: how far from the row, for families that encode: in standard deviations of their latent space. Of
                tables, for `autoregressive`: the chance of each cell to be drawn anew, given those that are not.

        Returns:
            Like ``images``.

        Raises:
            RaygenError: the strength is no chance, of a table.
        """
        self._check(images, rows, classes)
        table = self.codec.is_table
        if table and not 0 <= strength <= 1:
            raise RaygenError(f"a table's variants have no strength {strength}", "give one from 0 to 1")

        def vary(noise: Tensor, asked: Tensor | None, images: Tensor) -> Tensor:
            made = self.sampler.vary(images if table else _scaled(images), noise, asked, strength)
            return made if table else _pixels(made)

        asked = self._given(rows, classes) if table else classes
        return self._tiled(np.empty_like(images), vary, rows, seed, f"variant {variant}", self.sampler.noise, asked, images)

    def log_likelihood(
        self, images: np.ndarray, rows: range, seed: int, classes: np.ndarray | None, samples: int = SAMPLES
    ) -> np.ndarray:
        """How likely images are: log p(image), given its class, or an estimate that is below it on average.

        It depends on the image, its class, its number, the seed and the number of samples, and on nothing else that is
        asked for with it.

        Args:
            images: uint8 ``(n, channels, height, width)``.
            rows: their numbers, ``n`` consecutive ones.
            seed: of the noise that the estimate is made from, 0 or more.
            classes: their class indices, int64 ``(n,)``; None where the generator has no condition.
            samples: of the latent; the more, the closer.

        Returns:
            Nats, float64 ``(n,)``.

        Raises:
            RaygenError: the family says nothing of it, or not of such images.
        """
        if not self.sampler.has_likelihood:
            raise RaygenError(f"the family {self.spec.family!r} does not say how likely an image is", "train a vae")
        self._check(images, rows, classes)

        def score(noise: Tensor, classes: Tensor | None, images: Tensor) -> Tensor:
            drawn = noise.view(len(noise), samples, self.sampler.noise).transpose(0, 1)
            return self.sampler.log_likelihood(_scaled(images), drawn, classes)

        out = np.empty(len(rows))
        return self._tiled(out, score, rows, seed, "likelihood", samples * self.sampler.noise, classes, images)

    def _check(self, images: np.ndarray, rows: range, classes: np.ndarray | None) -> None:
        assert images.dtype == (np.float64 if self.codec.is_table else np.uint8)
        assert len(images) == len(rows)
        assert (classes is None) == (self.spec.condition is None)
        if classes is not None:
            assert len(classes) == len(rows)
            assert classes.min(initial=0) >= 0

    def _given(self, rows: range, classes: np.ndarray | None) -> np.ndarray:
        """Of a table's cells, the classes: float64 ``(n, columns)``, NaN where a cell is free."""
        given = np.full((len(rows), len(self.codec.cells)), np.nan)
        if classes is not None:
            given[:, [*self.codec.cells].index(str(self.spec.condition))] = classes
        return given

    def _make(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        return _pixels(self.sampler(noise, classes))

    def _tiled(
        self,
        out: np.ndarray,
        compute: Callable[..., Tensor],
        rows: range,
        seed: int,
        purpose: str,
        width: int,
        *parts: np.ndarray | None,
    ) -> np.ndarray:
        """Fill ``out`` with what is computed of rows, by whole tiles at multiples of the tile's size.

        What computes it is given noise ``(tile, width)``, and of each part as many rows.
        """
        draw = noise.uniforms if self.sampler.uniform else noise.normals
        for start in range(rows.start - rows.start % self.tile, rows.stop, self.tile):
            first, last = max(start, rows.start), min(start + self.tile, rows.stop)
            asked, slots = slice(first - rows.start, last - rows.start), slice(first - start, last - start)
            drawn = draw(seed, purpose, range(start, start + self.tile), width)
            given = (None if part is None else self._padded(part[asked], slots) for part in parts)
            out[asked] = self._tile(compute, drawn, *given)[slots]
        return out

    def _packed(self, out: np.ndarray, compute: Callable[..., Tensor], *parts: np.ndarray | None) -> np.ndarray:
        """Fill ``out`` with what is computed of parts, as many rows each, by whole tiles from its first row on."""
        for start in range(0, len(out), self.tile):
            rows, slots = slice(start, start + self.tile), slice(0, min(self.tile, len(out) - start))
            given = (None if part is None else self._padded(part[rows], slots) for part in parts)
            out[rows] = self._tile(compute, *given)[slots]
        return out

    def _padded(self, part: np.ndarray, slots: slice) -> np.ndarray:
        """A whole tile with the part in its slots."""
        tile = np.zeros((self.tile, *part.shape[1:]), part.dtype)
        tile[slots] = part
        return tile

    @torch.inference_mode()
    def _tile(self, compute: Callable[..., Tensor], *parts: np.ndarray | None) -> np.ndarray:
        given = (None if part is None else torch.from_numpy(part).to(self._device) for part in parts)
        # Threads and flags are the process's, and each puts back what it found: two at once would do so under each other.
        with (
            _ALONE,
            threads(self.sampler.threads),
            # On GPUs: no algorithm chosen by its speed of today, none that adds up in any order, and whole float32.
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            made: np.ndarray = compute(*given).cpu().numpy()
        return made

    @property
    def _device(self) -> torch.device:
        return next(chain(self.sampler.parameters(), self.sampler.buffers())).device


def _scaled(images: Tensor) -> Tensor:
    """Of uint8, in [-1, 1]."""
    return images.float().div(127.5).sub(1)


def _pixels(images: Tensor) -> Tensor:
    """Of images in [-1, 1], uint8."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def classes_of(batch: Batch, spec: GeneratorSpec, codec: Codec) -> np.ndarray | None:
    """The class indices of encoded rows: int64 ``(n,)``, or None where the generator has no condition."""
    if spec.condition is None:
        return None
    if codec.is_table:
        return batch[CELLS][:, [*codec.cells].index(spec.condition)].astype(np.int64)
    return batch[spec.condition]


def untrained(spec: GeneratorSpec, codec: Codec, device: torch.device) -> Any:
    """The family of a spec, its networks freshly made for a codec's data."""
    kind = "tables" if codec.is_table else "images"
    made = family(spec.family, kind)
    if kind != spec.makes and spec.family in FAMILIES[kind]:
        raise RaygenError(
            f"these options of the family {spec.family!r} are not those for {kind}",
            "for a table generator.of is tables; for images leave it out",
        )
    if kind != spec.makes:
        raise RaygenError(f"the family {spec.family!r} does not make {kind}", f"these do: {', '.join(FAMILIES[kind])}")
    size = None if codec.is_table else codec.image[1]
    layout: Layout = Tokens.of(codec.cells, spec.condition) if size is None else (size.channels, size.height, size.width)
    classes = len(codec.category(spec.condition).values) if spec.condition else 0
    return made(spec, layout, classes, device)


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def versions(spec: GeneratorSpec | None = None) -> dict[str, str]:
    """Of what decides the bits of a row, of this spec's family where it is given."""
    packages = ["raygen", "torch", "numpy", "pillow", "pyarrow"]
    if spec is not None and (engine := family(spec.family).engine):
        packages.append(engine)
    tools = {"python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    return tools | {name: importlib.metadata.version(name) for name in packages}

"""Where a project keeps what, and whether it is there already."""

import hashlib
import json
import tempfile
from functools import cached_property
from typing import Any

from raygen.datasets import stream
from raygen.datasets.commit import Output
from raygen.datasets.storage import Folder
from raygen.errors import DataError, OutputError, RaygenError, SpecError
from raygen.spec import LEARNT_OF_TABLES, AugmentSpec, DataField, Spec

REPORT = "report.json"
"""What ``evaluate`` has found, in the folder ``report``."""


class Project:
    """A spec, and the folders under ``<storage>/<name>`` that its jobs fill."""

    def __init__(self, spec: Spec, looking: bool = False, overwrite: bool = False) -> None:
        self.spec = spec
        self.looking = looking  # only: nothing may be written
        self.overwrite = overwrite  # another job's dataset may be replaced, once the new one is whole
        self.storage = Folder(spec.storage)
        self.folder = self.storage / spec.name
        self.report = self.folder / "report"

    @cached_property
    def source(self) -> stream.Source:
        """The dataset, as its footers tell.

        Raises:
            DataError: it is missing, empty, unreadable, or not what the schema says.
            SpecError: what the jobs write would be part of it the next time.
        """
        self._check_apart("dataset.path", self.spec.dataset.path)
        self.storage.check_answers()
        if self.looking:
            with tempfile.TemporaryDirectory() as elsewhere:
                return stream.open_source(self.spec.dataset, Folder(elsewhere))
        return stream.open_source(self.spec.dataset, self.storage)

    @cached_property
    def run(self) -> Folder:
        """The folder of the training run: named by all that decides its result, so that the same is never done twice."""
        dataset = self.spec.dataset.model_dump(mode="json", by_alias=True, exclude={"path"})
        inputs = {
            "data": self.source.fingerprint,
            "dataset": dataset,
            "generator": self.spec.generator.model_dump(mode="json"),
            "train": self.spec.train.model_dump(mode="json", exclude={"checkpoint_seconds", "keep_checkpoints"}),
        }
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        return self.folder / "train" / digest[:12]

    def result(self) -> dict[str, Any] | None:
        """What the training run came to; None where it has not finished."""
        document = read_json(self.run, "result.json")
        return document if document and (self.folder / "generators" / document["digest"]).exists() else None

    def trained(self) -> Folder:
        """The artifact of the finished training run.

        Raises:
            RaygenError: there is none for this spec and data.
        """
        result = self.result()
        if result is None:
            raise RaygenError(
                f"{self.run.uri}: no generator has been trained for this spec and data", "train one: raygen train SPEC"
            )
        return self.folder / "generators" / str(result["digest"])

    @property
    def augment(self) -> AugmentSpec:
        return self.spec.require_augment()

    @property
    def asked(self) -> dict[str, Any]:
        """What decides which rows ``augment`` writes, beside the generator."""
        return self.augment.model_dump(mode="json", exclude={"workers", "output", "source"}, exclude_defaults=True)

    @cached_property
    def real(self) -> stream.Source:
        """The dataset whose rows are varied, or written beside the synthetic ones.

        Raises:
            DataError: as of ``source``; or it has a column of a name that raygen uses.
        """
        path, dataset = self.augment.source, self.spec.dataset
        if path is not None:
            self._check_apart("augment.source", path)
        source = self.source if path is None else stream.open_source(
            dataset.model_copy(update={"path": path, "fields": self._needed(path)}), self.storage
        )  # fmt: skip
        if self.augment.of_real and (taken := sorted({"_row", "_variant", "_source"} & {*source.arrow.names})):
            raise DataError(
                f"{path or dataset.path}: has a column {taken[0]!r}, a name that raygen uses",
                "rename it, or leave it out of the data",
            )
        return source

    def _needed(self, path: str) -> dict[str, DataField]:
        """The columns that rows to vary or to complete must have."""
        fields = self.spec.dataset.fields
        if self.augment.complete:
            there = stream.scan(path, self.storage).arrow.names
            if not any(name in fields for name in there):
                raise DataError(
                    f"{path}: has no column of dataset.schema, so nothing is known of its rows",
                    f"its columns are: {', '.join(there)}; to make new rows, leave augment.complete out",
                )
            return {name: field for name, field in fields.items() if name in there}
        if self.spec.is_table:
            return {n: field for n, field in fields.items() if self.augment.include_real or field.kind in LEARNT_OF_TABLES}
        return {n: field for n, field in fields.items() if field.kind == "image" or n == self.spec.generator.condition}

    def _check_apart(self, name: str, path: str) -> None:
        """Fail where what the jobs write would be part of what they read the next time."""
        written = {"storage": self.folder, "augment.output": self.output.folder if self.spec.augment else self.folder}
        for key, folder in written.items():
            if stream.holds(path, folder):
                raise SpecError(
                    f"{key}: {folder.uri} is in {name}, {path}, and would be read as data",
                    f"put it elsewhere, or below a folder whose name begins with _ (--set {key}=…)",
                )

    @cached_property
    def output(self) -> Output:
        """Where ``augment`` writes."""
        place = self.augment.output
        return Output(Folder(place) if place else self.folder / "dataset")

    def check_outputs(self) -> None:
        """Fail now rather than after the training, where an output could not be written, or is another job's."""
        self.folder.check_writable()
        if self.spec.augment is None:
            return
        self.output.folder.check_writable()
        found = self.output.plan()
        if found is not None and not self.overwrite:
            self.output.check({**found, "train": self.run.name, "augment": self.asked})


def read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    """A JSON file; None where it is not there.

    Raises:
        OutputError: it is broken.
    """
    try:
        document: dict[str, Any] = json.loads(folder.read(name))
    except FileNotFoundError:
        return None
    except ValueError:
        raise OutputError(f"{folder.uri}/{name}: is not JSON any more", "remove it, then run again") from None
    return document


def write_json(folder: Folder, name: str, document: Any) -> None:
    folder.write(name, json.dumps(document, indent=1, ensure_ascii=False).encode())

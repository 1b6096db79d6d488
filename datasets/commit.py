"""Exactly-once datasets: a plan that claims the output, parts with deterministic names, receipts, and a manifest.

    <out>/data/part-00042-of-00100.parquet
    <out>/_raygen/plan.json                  created first, exclusively: whose output this is
    <out>/_raygen/receipts/00042.json        written after the part: what is done, which is all that resuming reads
    <out>/_raygen/manifest.json              written last: the commit

Every write is all or nothing, and writing a part twice writes the same bytes: whoever does it again does no harm.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets.storage import Folder
from raygen.errors import OutputError

PLAN, MANIFEST = "plan.json", "manifest.json"
MADE_BY = "made_by"
"""The key of a plan that says what its rows are made with: versions and device decide bits, but not whose job it is."""


@dataclass(frozen=True)
class Receipt:
    """What a worker says of a finished part: its rows [start, stop), its bytes and their SHA-256, rows by class."""

    shard: int
    file: str
    start: int
    stop: int
    bytes: int
    sha256: str
    counts: dict[str, int]


class Output:
    """The folder of a dataset that a job writes."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.data, self.meta = folder / "data", folder / "_raygen"
        self.receipts = self.meta / "receipts"

    def plan(self) -> dict[str, Any] | None:
        """The plan of the job that the output belongs to; None where nobody has claimed it.

        Raises:
            OutputError: there are files, but no plan: it is not raygen's to write in.
        """
        document = self._document(PLAN)
        if document is None and (names := [n for n in self.folder.names() if n != "_raygen" and not n.endswith(".tmp")]):
            raise OutputError(
                f"{self.folder.uri}: has files that raygen did not write ({names[0]}, …)",
                "give an empty place as output",
            )
        return document

    def check(self, plan: Mapping[str, Any]) -> bool:
        """Whether the output is this job's already (else it is nobody's).

        Raises:
            OutputError: it belongs to another job; what differs is shown.
        """
        found = self.plan()
        if found is None:
            return False
        differences = [
            f"{key} {_short(found.get(key))} there, {_short(plan.get(key))} here"
            for key in sorted({*found, *plan} - {MADE_BY})
            if found.get(key) != plan.get(key)
        ]
        if differences:
            raise OutputError(
                f"{self.folder.uri}: belongs to another job ({'; '.join(differences)})",
                "choose another place (--set augment.output=… or --set name=…), or remove that folder",
            )
        return True

    def claim(self, plan: Mapping[str, Any]) -> None:
        """Make the output this job's, or find that it is."""
        if not self.check(plan) and not self.meta.create(PLAN, _json(plan)):
            self.check(plan)  # somebody was faster

    def done(self) -> dict[int, Receipt]:
        """Receipts, by shard, whose part is there with all its bytes."""
        names = [name for name in self.receipts.names() if name.endswith(".json")]
        with ThreadPoolExecutor(16) as threads:
            receipts = list(threads.map(self._receipt, names))
        sizes = self._sizes()
        return {r.shard: r for r in receipts if r is not None and sizes.get(r.file) == r.bytes}

    def write_part(
        self,
        shard: int,
        file: str,
        rows: range,
        tables: Iterable[pa.Table],
        about: Mapping[str, str],
        counted: str | None = None,
    ) -> None:
        """Write a part, a row group per table, then its receipt.

        Args:
            tables: the rows in order; at least one table.
            about: what goes into the footer.
            counted: the column whose values the receipt counts.
        """
        counts: dict[str, int] = {}
        with self.data.writer(file) as raw, contextlib.ExitStack() as closing:
            hashed = _Hashed(raw)
            writer: pq.ParquetWriter | None = None
            for table in tables:
                table = table.replace_schema_metadata({**(table.schema.metadata or {}), **about})
                if writer is None:
                    writer = pq.ParquetWriter(cast(BinaryIO, hashed), table.schema, compression="zstd")
                    closing.enter_context(writer)
                writer.write_table(table, row_group_size=len(table))
                if counted is not None:
                    for value in table[counted].value_counts().to_pylist():
                        key = json.dumps(value["values"])
                        counts[key] = counts.get(key, 0) + value["counts"]
            assert writer is not None
        receipt = Receipt(shard, file, rows.start, rows.stop, hashed.size, hashed.sha256.hexdigest(), counts)
        self.receipts.write(f"{shard:05d}.json", _json(asdict(receipt)))

    def commit(self, plan: Mapping[str, Any], card: Iterable[str]) -> dict[str, Any]:
        """Write the card and the manifest, when every part is there; returns the manifest.

        Raises:
            OutputError: a part went missing meanwhile.
        """
        receipts = self.done()
        if missing := [shard for shard in range(plan["shards"]) if shard not in receipts]:
            raise OutputError(
                f"{self.data.uri}: {len(missing)} parts are missing, the first is shard {missing[0]}",
                "run the same command again",
            )
        counts: dict[str, int] = {}
        for receipt in receipts.values():
            for value, number in receipt.counts.items():
                counts[value] = counts.get(value, 0) + number
        ordered = [asdict(receipts[shard]) for shard in sorted(receipts)]
        manifest = {
            "plan": plan,
            "rows": sum(r["stop"] - r["start"] for r in ordered),
            "bytes": sum(r["bytes"] for r in ordered),
            "counts": dict(sorted(counts.items())),
            "parts": ordered,
        }
        self.folder.write("README.md", "\n".join(card).encode())
        self.meta.write(MANIFEST, _json(manifest))
        for name in self.data.names():
            if name.startswith(".") and name.endswith(".tmp"):  # what a killed worker was writing
                self.data.delete(name)
        return manifest

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, where there is one and all its parts are still there; else None."""
        manifest = self._document(MANIFEST)
        if manifest is None:
            return None
        sizes = self._sizes()
        return manifest if all(sizes.get(part["file"]) == part["bytes"] for part in manifest["parts"]) else None

    def _sizes(self) -> dict[str, int]:
        fs = self.data.fs
        fs.invalidate_cache(self.data.path)
        with contextlib.suppress(FileNotFoundError):
            return {info["name"].rsplit("/", 1)[-1]: info["size"] for info in fs.ls(self.data.path, detail=True)}
        return {}

    def _receipt(self, name: str) -> Receipt | None:
        try:
            return Receipt(**json.loads(self.receipts.read(name)))
        except (ValueError, TypeError, FileNotFoundError):
            return None  # a broken receipt is none: the part is written again

    def _document(self, name: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads(self.meta.read(name))
        except FileNotFoundError:
            return None
        except ValueError:
            raise OutputError(
                f"{self.meta.uri}/{name}: is not JSON any more", "remove the whole output, or restore the file"
            ) from None
        return document


class _Hashed:
    """A file that hashes what is written to it, so that a part need not be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.sha256, self.closed = file, 0, hashlib.sha256(), False

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def chunks(rows: range, size: int) -> Iterator[range]:
    """A range in pieces: what is held in memory, and one row group, at a time."""
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}…"

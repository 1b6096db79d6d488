"""Exactly-once datasets: a plan that claims the output, parts with deterministic names, receipts, and a manifest.

    <out>/data/part-00042-of-00100.parquet
    <out>/_raygen/plan.json                         created first, exclusively: whose output this is
    <out>/_raygen/receipts/00042-BYTES-SHA256.json  written after the part; its name says it all, so resuming lists names
    <out>/_raygen/manifest.json                     written last: the commit

Every write is all or nothing, and writing a part twice writes the same bytes: whoever does it again does no harm.

Another job's dataset is replaced only by a finished one: the new one is an output of its own, ``_raygen/next-DIGEST/``, up
to its manifest; then ``_raygen/moving.json`` says that it takes this one's place, which anyone who finds that file finishes.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets.storage import Folder
from raygen.errors import OutputError

PLAN, MANIFEST, MOVING, CARD = "plan.json", "manifest.json", "moving.json", "README.md"
LOCATORS = ("artifact", "source")
"""Keys of a plan that say where things are: they decide nothing."""
PARTS_AT_ONCE = 10_000
"""Of a manifest, that are written or hashed at a time."""
_RECEIPT = re.compile(r"(\d{5,})-(\d+)-([0-9a-f]{64})\.json").fullmatch


class Part(Protocol):
    """What a plan says of a file: its shard's number, and its name below ``data``."""

    @property
    def number(self) -> int: ...
    @property
    def file(self) -> str: ...


class Receipt(NamedTuple):
    """What a worker says of a finished part: its bytes and their SHA-256."""

    shard: int
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.shard:05d}-{self.bytes}-{self.sha256}.json"

    @classmethod
    def from_name(cls, name: str) -> "Receipt | None":
        found = _RECEIPT(name)
        return cls(int(found[1]), int(found[2]), found[3]) if found else None


class Output:
    """The folder of a dataset that a job writes.

    Args:
        job: whose parts are written, as :func:`identity` calls it; who claims the output need not say.
    """

    def __init__(self, folder: Folder, job: str | None = None) -> None:
        self.folder, self.job = folder, job
        self.data, self.meta = folder / "data", folder / "_raygen"
        self.receipts = self.meta / "receipts"

    def plan(self) -> dict[str, Any] | None:
        """The plan of the job that the output belongs to; None where nobody has claimed it.

        Raises:
            OutputError: there are files, but no plan: it is not raygen's to write in.
        """
        document = self._document(PLAN)
        if document is None and (names := self._files()):
            raise OutputError(
                f"{self.folder.uri}: has files that raygen did not write ({names[0]}, …)",
                "give an empty place as output",
            )
        return document

    def _files(self) -> list[str]:
        """What is there beside the bookkeeping."""
        return [name for name in self.folder.names() if name != "_raygen" and not name.endswith(".tmp")]

    def check(self, plan: Mapping[str, Any]) -> bool:
        """Whether the output is this job's already (else it is nobody's).

        Raises:
            OutputError: it belongs to another job; what differs is shown.
        """
        found = self.plan()
        if found is None:
            return False
        if differences := differing(found, plan):
            raise OutputError(
                f"{self.folder.uri}: belongs to another job ({'; '.join(differences)})",
                "choose another place (--set augment.output=… or --set name=…), or replace it with --overwrite",
            )
        return True

    def claim(self, plan: Mapping[str, Any]) -> None:
        """Make the output this job's, or find that it is."""
        if not self.check(plan) and not self.meta.create(PLAN, _json(plan)):
            self.check(plan)  # somebody was faster
        self.job = identity(plan)

    def successor(self, plan: Mapping[str, Any]) -> "Output":
        """Where another job writes what is to take this dataset's place: the job's own, so that attempts do not mix. What is
        there without a plan is left over from an attempt that was put in place, and removed."""
        new = Output(self.meta / f"next-{identity(plan)[:12]}")
        if new._files() and new._document(PLAN) is None:  # in this order: what somebody has just begun has a plan
            new.folder.clear()
        return new

    def done(self, parts: Iterable[Part]) -> dict[int, Receipt]:
        """Receipts, by shard, whose part is there with all its bytes."""
        receipts, sizes = self._receipts(), self.data.sizes()
        found = ((part.number, receipts.get(part.number), sizes.get(part.file)) for part in parts)
        return {number: receipt for number, receipt, size in found if receipt is not None and receipt.bytes == size}

    def _receipts(self) -> dict[int, Receipt]:
        """All receipts, by shard. Of those that disagree none counts, and they are removed."""
        receipts: dict[int, Receipt] = {}
        twice: set[int] = set()
        for name in self.receipts.names():
            receipt = Receipt.from_name(name)
            if receipt is not None and receipts.setdefault(receipt.shard, receipt) != receipt:
                twice.add(receipt.shard)  # other bytes, by other means: neither is to be trusted
                self.receipts.delete(name)
        for shard in twice:
            self.receipts.delete(receipts.pop(shard).name)
        return receipts

    def write_part(
        self,
        part: Part,
        tables: Iterable[pa.Table],
        about: Mapping[str, str],
        compression: str = "zstd",
        row_group_rows: int = 1024,
    ) -> Receipt:
        """Write a part, then its receipt.

        A part of a job whose place another has taken is not written. That is looked up right before the part gets its name,
        so what remains is a replacement that comes between the look and the name: on a local disk the two follow each other,
        on S3 the upload of the part lies between them. ``verify`` would find such a part.

        Args:
            tables: the rows in order; at least one table.
            about: what goes into the footer.
            compression: of pages, as Parquet calls it.

        Raises:
            OutputError: the output is not the job's any more.
        """
        with self.data.writer(part.file) as raw:
            hashed = _Hashed(raw)
            with contextlib.ExitStack() as closing:
                writer: pq.ParquetWriter | None = None
                for table in row_groups(tables, row_group_rows):
                    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **about})
                    if writer is None:
                        # Checksums of pages: without them a flipped bit can be read as another value.
                        writer = pq.ParquetWriter(
                            cast(BinaryIO, hashed), table.schema, compression=compression, write_page_checksum=True
                        )
                        closing.enter_context(writer)
                    writer.write_table(table, row_group_size=len(table))
                assert writer is not None
            self._check_job()
        receipt = Receipt(part.number, hashed.size, hashed.sha256.hexdigest())
        self.receipts.write(receipt.name, _json({"file": part.file, **receipt._asdict()}))
        return receipt

    def commit(
        self, plan: Mapping[str, Any], parts: Iterable[tuple[Part, int]], counts: Mapping[str, int], card: Iterable[str]
    ) -> dict[str, Any]:
        """Write the card and the manifest, when every part is there; returns the manifest.

        Args:
            parts: every part, and how many rows it has.
            counts: rows by class.

        Raises:
            OutputError: a part went missing meanwhile, or the output is not the job's any more. A replacement that comes
                between the last look at that and the manifest goes unnoticed.
        """
        self._check_job()
        receipts, sizes = self._receipts(), self.data.sizes()
        listed: list[dict[str, Any]] = []
        missing: list[int] = []
        for part, rows in parts:
            number, file = part.number, part.file
            receipt = receipts.pop(number, None)  # there may be a million, which need not be held twice
            if receipt is None or receipt.bytes != sizes.get(file):
                missing.append(number)
            else:
                _, size, sha256 = receipt
                listed.append({"shard": number, "file": file, "rows": rows, "bytes": size, "sha256": sha256})
        if missing:
            raise OutputError(
                f"{self.data.uri}: {len(missing)} parts are missing, the first is shard {missing[0]}",
                "run the same command again",
            )
        manifest: dict[str, Any] = {
            "plan": plan,
            "rows": sum(part["rows"] for part in listed),
            "bytes": sum(part["bytes"] for part in listed),
            "counts": dict(counts),
            "parts": listed,
        }
        manifest["digest"] = _digest(manifest)
        self.folder.write(CARD, "\n".join(card).encode())
        self._check_job()
        self._write_manifest(manifest)
        for name in sizes:
            if name.rpartition("/")[2].startswith(".") and name.endswith(".tmp"):  # what a killed worker was writing
                self.data.delete(name)
        return manifest

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, where there is one and all its parts are still there; else None."""
        manifest = self.recorded()
        if manifest is None:
            return None
        sizes = self.data.sizes()
        return manifest if all(sizes.get(part["file"]) == part["bytes"] for part in manifest["parts"]) else None

    def recorded(self) -> dict[str, Any] | None:
        """The manifest as it is written, whatever has become of the parts.

        Raises:
            OutputError: it is no manifest any more.
        """
        manifest = self._document(MANIFEST)
        if manifest is not None and not _is_manifest(manifest):
            raise OutputError(
                f"{self.meta.uri}/{MANIFEST}: is not a manifest any more",
                "remove that file and run the job again: it commits what is there",
            )
        return manifest

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        with self.meta.writer(MANIFEST) as file:
            for text in _lines(manifest):
                file.write(text)

    def replace(self, new: "Output") -> None:
        """Let a finished output take this one's place. Whoever comes across the attempt of another finishes that first."""
        while not self.meta.create(MOVING, _json({"from": new.folder.name})) and self._mover() != new.folder.name:
            self.recover()
        self._move(new)
        if new.recorded() is not None:  # somebody has deleted the mark of this move with that of another
            self.replace(new)
        elif self.recorded() is None:
            raise OutputError(
                f"{self.folder.uri}: another job took this place while the dataset was put there",
                "run the same command again",
            )

    def recover(self) -> None:
        """Finish what somebody began with :meth:`replace`."""
        if (name := self._mover()) is not None:
            self._move(Output(self.meta / name))

    def _mover(self) -> str | None:
        document = self._document(MOVING)
        if document is None:
            return None
        name = str(document.get("from"))
        if not re.fullmatch(r"next-[0-9a-f]{12}", name):
            raise OutputError(
                f"{self.meta.uri}/{MOVING}: does not say what is to be moved any more",
                "remove that file, then run the same command again",
            )
        return name

    def _move(self, new: "Output") -> None:
        manifest = new.recorded()
        for _ in self._steps(new, manifest):
            mover = self._mover()
            if mover != new.folder.name and (mover is not None or manifest is None or self.plan() != manifest["plan"]):
                return  # others have finished this meanwhile, and the place is another's by now

    def _steps(self, new: "Output", manifest: dict[str, Any] | None) -> Iterator[None]:
        """Before each step, the moment to look whether it is still to be done. Every one can be done again, and by two at
        once; the old manifest goes first and the new one comes last.

        A receipt goes before its part, so that it is not there where others have thrown away what was moved already. Then
        this is no dataset, but one that the same job finishes.
        """
        if manifest is not None:
            if self.recorded() != manifest:
                yield
                self.meta.delete(MANIFEST)
            yield
            self.meta.write(PLAN, _json(manifest["plan"]))  # from here on the old job writes no more parts
            receipts = {Receipt(part["shard"], part["bytes"], part["sha256"]).name: part for part in manifest["parts"]}
            for name in set(self.receipts.names()) - receipts.keys():
                yield
                self.receipts.delete(name)
            for name, part in receipts.items():
                yield
                new.receipts.move(name, self.receipts, name)
                yield
                new.data.move(part["file"], self.data, part["file"])
            for name in self.data.sizes().keys() - {part["file"] for part in manifest["parts"]}:
                yield
                self.data.delete(name)
            yield
            new.folder.move(CARD, self.folder, CARD)
            if receipts.keys() <= set(self.receipts.names()):
                yield
                self._write_manifest(manifest)
        yield
        new.folder.clear()  # also what is left of it where this was interrupted here
        yield
        self.meta.delete(MOVING)

    def _check_job(self) -> None:
        """Fail where somebody else has taken the job's place."""
        plan = self._document(PLAN)
        if plan is None:
            raise OutputError(f"{self.folder.uri}: was moved or removed while it was written", "run the same command again")
        if identity(plan) != self.job:
            raise OutputError(
                f"{self.folder.uri}: has become another job's while this one was writing",
                "choose another place (--set augment.output=… or --set name=…), or replace it with --overwrite",
            )

    def _document(self, name: str) -> dict[str, Any] | None:
        try:
            document = json.loads(self.meta.read(name))
            if not isinstance(document, dict):
                raise ValueError("not an object")
        except FileNotFoundError:
            return None
        except ValueError:
            raise OutputError(
                f"{self.meta.uri}/{name}: is not JSON any more", "remove the whole output, or restore the file"
            ) from None
        return document


def identity(plan: Mapping[str, Any]) -> str:
    """Whose an output is: a digest of what a plan asks for, and by what means."""
    return _digest({key: value for key, value in plan.items() if key not in LOCATORS})


def differing(found: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """What differs between two jobs' plans, as ``key X there, Y here``."""
    there, here = _flat(_asked(found)), _flat(_asked(plan))
    return [
        f"{key} {_short(there.get(key))} there, {_short(here.get(key))} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]


def intact(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is as it was committed."""
    return bool(manifest.get("digest") == _digest({key: value for key, value in manifest.items() if key != "digest"}))


def row_groups(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of ``rows`` rows, the last one of what is left."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(map(len, held)) >= rows:
            whole = held[0] if len(held) == 1 else pa.concat_tables(held)
            yield whole.slice(0, rows)
            held = [whole.slice(rows)] if len(whole) > rows else []
    if held:
        yield pa.concat_tables(held)


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
    """A range in pieces: what is held in memory at a time."""
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))


def _asked(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plan.items() if key not in (*LOCATORS, "made_by")}


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as one, with dots between."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _is_manifest(document: Mapping[str, Any]) -> bool:
    parts, kinds = document.get("parts"), {"shard": int, "file": str, "rows": int, "bytes": int, "sha256": str}
    known = isinstance(parts, list) and all(
        isinstance(part, dict) and all(isinstance(part.get(key), kind) for key, kind in kinds.items()) for part in parts
    )
    return known and isinstance(document.get("plan"), dict)


def _digest(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a document as JSON, its keys sorted and without spaces."""
    encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
    state = hashlib.sha256(b"{")
    for index, (key, value) in enumerate(sorted(document.items())):
        state.update(f"{',' if index else ''}{encode(key)}:".encode())
        for text in _pieces(value, encode, ",") if key == "parts" else [encode(value)]:
            state.update(text.encode())
    state.update(b"}")
    return state.hexdigest()


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _lines(manifest: Mapping[str, Any]) -> Iterator[bytes]:
    """A manifest as JSON, each part on a line of its own."""
    yield _json({key: value for key, value in manifest.items() if key != "parts"})[:-2] + b',\n "parts": '
    for text in _pieces(manifest["parts"], json.JSONEncoder(ensure_ascii=False).encode, ",\n", "\n"):
        yield text.encode()
    yield b"\n}"


def _pieces(values: Sequence[Any], encode: Callable[[Any], str], between: str, around: str = "") -> Iterator[str]:
    """A list as JSON, some thousand values at a time: there can be a million parts."""
    yield "[" + around
    for start in range(0, len(values), PARTS_AT_ONCE):
        yield (between if start else "") + between.join(map(encode, values[start : start + PARTS_AT_ONCE]))
    yield around + "]"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:20]}…"

"""The registry: which generator of a project is the one to use, and all that ever was, each with its evidence.

<storage>/<name>/generators/<digest>/                  the generators
<storage>/<name>/registry/promotions/000001.json …     which of them was made current when, see promotions.py
<storage>/<name>/registry/evaluations/<digest>.json    the last report on each
"""

import getpass
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from raygen.datasets.storage import Folder
from raygen.errors import GateError, OutputError, RaygenError
from raygen.generators import artifact
from raygen.jobs.project import REPORT, read_json, write_json
from raygen.jobs.promotions import ALL, SHORT, Holding, Promotion, Promotions, holding, standing
from raygen.load import load_spec
from raygen.spec import Spec

CURRENT = "current"
"""Stands for the digest of the current generator."""
PUBLISHABLE = ("passed", "no gate")


class Version(NamedTuple):
    """A generator of the project, and its last promotion, if any."""

    digest: str
    family: str
    current: bool
    verdict: str
    gate: dict[str, float | None]  # the figures that the gate looks at
    promotion: Promotion | None
    canary: int | None = None  # percent of the requests to an endpoint that it answers beside the current one


class Registry:
    """Of the project in a folder, which is ``<storage>/<name>``.

    Wherever a digest is asked for, its first digits do, as long as they are those of one generator; so does ``current``.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._generators = folder / "generators"
        self._promotions = Promotions(folder / "registry/promotions")
        self._evaluations = folder / "registry/evaluations"

    @classmethod
    def of(cls, source: Spec | str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> "Registry":
        """The registry of a spec's project, or that of a project's folder.

        Args:
            source: a spec, the path of its YAML, or ``<storage>/<name>``, local or ``s3://``.
            overrides: of the spec, as for ``load_spec``.

        Raises:
            SpecError: the spec is wrong.
            OutputError: no generator is there, or the storage does not answer.
        """
        if isinstance(source, str | Path) and not _is_file(source):
            if overrides:
                raise RaygenError(
                    f"{source}: is not a spec, so nothing of it can be set", "give the spec, or leave --set out"
                )
            folder = Folder(source)
        else:
            spec = load_spec(source, overrides)
            folder = Folder(spec.storage) / spec.name
        folder.check_answers()
        if not (folder / "generators").names():
            raise OutputError(
                f"{folder.uri}: no generator is there", "train one: raygen train SPEC; or give the spec, or <storage>/<name>"
            )
        return cls(folder)

    def promotions(self) -> list[Promotion]:
        """The whole history, oldest first."""
        return self._promotions.all()

    def current(self) -> Promotion | None:
        """The promotion that holds now; None before the first."""
        return self.holding().current

    def holding(self) -> Holding:
        """The promotion that holds now, and the canary that answers a part of what endpoints are asked, if any."""
        return self._promotions.holding()

    def promoted(self, digest: str) -> Promotion | None:
        """The last promotion of a generator, current or not, or a canary."""
        return next((promotion for promotion in reversed(self.promotions()) if promotion.digest == digest), None)

    def versions(self) -> list[Version]:
        """All generators: the current one, those promoted beside and before it from the newest on, and the others."""
        promotions = self.promotions()
        now, canary, _ = holding(reversed(promotions))
        last = {promotion.digest: promotion for promotion in promotions}
        found = []
        for digest in self._generators.names():
            document = read_json(self._generators / digest, artifact.DOCUMENT)
            if document is None:  # one that is being written, or never was finished
                continue
            evaluation = self.evaluation(digest)
            gate = {rule["metric"]: rule["value"] for rule in (evaluation or {}).get("gate", [])}
            current = now is not None and now.digest == digest
            percent = canary.percent if canary is not None and canary.digest == digest else None
            family = document["identity"]["generator"]["family"]
            found.append(Version(digest, family, current, _verdict(evaluation), gate, last.get(digest), percent))
        newest = sorted(found, key=lambda version: -version.promotion.number if version.promotion else 0)
        return sorted(newest, key=lambda version: not version.current)

    def find(self, digest: str) -> str:
        """The whole digest of a generator that is there.

        Raises:
            RaygenError: there is none that begins so, or several do.
        """
        if digest == CURRENT:
            if (now := self.current()) is None:
                raise RaygenError(f"{self.folder.uri}: no generator is current", "promote one: raygen models promote")
            return now.digest
        there = self._generators.names()
        found = [name for name in there if digest and name.startswith(digest)]
        if len(found) > 1:
            raise RaygenError(f"{digest}: {len(found)} generators begin so: {_told(found)}", "give more of its digits")
        if not found:
            raise RaygenError(f"{digest}: is no generator of {self.folder.uri}", f"there are: {_told(there)}")
        return found[0]

    def evaluation(self, digest: str) -> dict[str, Any] | None:
        """The last report on a generator: the project's, where it is about this one, else what was kept of it. One under a
        gate holds until there is another one under a gate: looking without one takes nothing back."""
        report, kept = read_json(self.folder / "report", REPORT), read_json(self._evaluations, f"{digest}.json")
        if report is None or report.get("generator") != digest or (kept is not None and kept["gate"] and not report["gate"]):
            return kept
        return report

    def keep(self, evaluation: Mapping[str, Any]) -> None:
        """Keep a report, since the project's own will be about another generator some day; as ``evaluation`` has it."""
        if not evaluation["gate"] and (kept := self.evaluation(evaluation["generator"])) is not None and kept["gate"]:
            return
        write_json(self._evaluations, f"{evaluation['generator']}.json", evaluation)

    def show(self, digest: str = CURRENT) -> dict[str, Any]:
        """What is known of a generator.

        Returns:
            ``digest``, ``current``, ``canary`` (the percentage that it answers, or None), ``generator`` (its options),
            ``lineage``, ``evaluation``, and ``promotions``, each with the report that it stands on.
        """
        digest = self.find(digest)
        document = self._document(digest)
        promotions = self.promotions()
        now, canary, _ = holding(reversed(promotions))
        return {
            "digest": digest,
            "current": now is not None and now.digest == digest,
            "canary": canary.percent if canary is not None and canary.digest == digest else None,
            "generator": document["identity"]["generator"],
            "lineage": document["lineage"],
            "evaluation": self.evaluation(digest),
            "promotions": [asdict(promotion) for promotion in promotions if promotion.digest == digest],
        }

    def diff(self, one: str, other: str = CURRENT) -> dict[str, tuple[Any, Any]]:
        """What differs between two generators, by key path (``spec.train.epochs``, ``versions.torch``, ``metrics.recall``);
        None stands for what one of them does not have."""
        ours, theirs = (_facts(self.show(digest)) for digest in (one, other))
        names = dict.fromkeys([*ours, *theirs])
        return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}

    def promote(
        self,
        digest: str,
        force: bool = False,
        evaluation: Mapping[str, Any] | None = None,
        canary: int | None = None,
        first: bool = False,
    ) -> Promotion:
        """Make a generator current, which takes a canary away. The one that is so already stays so, and nothing is written.

        Args:
            force: even if it has not passed its gate, which the promotion will say.
            evaluation: the report that it is judged by, and that the promotion stands on; by default the last one.
            canary: do not make it current: it answers this percentage, from 1 to 99, of the requests to an endpoint, beside
                the current one, which answers the others and which jobs go on using.
            first: only if it never was promoted before, which then is what is returned.

        Raises:
            GateError: it has not passed its gate.
            OutputError: it is broken; or somebody else has moved ``current`` meanwhile.
            RaygenError: there is no such generator, or it is not evaluated; or it cannot be a canary.
        """
        digest = self.find(digest)
        before = self.holding()  # first of all: whatever is promoted from here on takes the number that this one needs
        if first and (known := self.promoted(digest)) is not None:
            return known
        if canary is not None:
            _check_canary(digest, canary, before.current)
        evaluation = self.evaluation(digest) if evaluation is None else evaluation
        refusal = _refusal(digest, evaluation)
        if refusal is not None and not force:
            raise refusal
        return self._move(before, digest, "promote", refusal is not None, evaluation, canary or ALL)

    def rollback(self, to: str | None = None) -> Promotion:
        """Take away the canary; or, where there is none, make the generator current again that was so before the present
        one; again, the one before that.

        Args:
            to: a generator that was current, to go back further; the current one, to take away the canary.

        Raises:
            OutputError: it is not there any more; or somebody else has moved ``current`` meanwhile.
            RaygenError: it was not current before.
        """
        promotions = self.promotions()
        before, below = holding(reversed(promotions)), standing(promotions)
        if before.canary is None:
            below = below[:-1]
        if not below:
            raise RaygenError(f"{self.folder.uri}: nothing was current before", "promote another: raygen models promote")
        digest = below[-1] if to is None else self.find(to)
        if digest not in below:
            raise RaygenError(
                f"{digest[:SHORT]}: was not current before the present one",
                f"these were: {_told(dict.fromkeys(reversed(below)))}; any other: raygen models promote",
            )
        grounds = next(found for found in reversed(promotions) if found.digest == digest and found.percent == ALL)
        return self._move(before, digest, "rollback", grounds.forced, grounds.evaluation, ALL)

    def _move(
        self,
        before: Holding,
        digest: str,
        action: Literal["promote", "rollback"],
        forced: bool,
        evaluation: Mapping[str, Any] | None,
        percent: int,
    ) -> Promotion:
        """Add the next promotion, which only one can who has seen the one before."""
        if before.last is not None and (before.last.digest, before.last.percent) == (digest, percent):
            return before.last
        document, _ = artifact.read(self._generators / digest)  # or fail: what is current can be loaded
        if document["digest"] != digest:
            raise OutputError(
                f"{self._generators.uri}/{digest}: is the generator {document['digest'][:SHORT]}",
                "put it under its own digest",
            )
        number = 1 if before.last is None else before.last.number + 1
        previous = None if before.current is None else before.current.digest
        at = datetime.now(UTC).isoformat(timespec="seconds")
        promotion = Promotion(number, digest, previous, action, at, _who(), forced, evaluation, percent)
        if (now := self._promotions.add(promotion)) is None:
            return promotion
        if (now.digest, now.percent) == (digest, percent):  # somebody else has done the same
            return now
        raise OutputError(
            f"{self.folder.uri}: somebody else was first ({now})", "look at raygen models list, and decide again"
        )

    def _document(self, digest: str) -> dict[str, Any]:
        document = read_json(self._generators / digest, artifact.DOCUMENT)
        if document is None:
            raise OutputError(f"{self._generators.uri}/{digest}: is not whole", "train it again")
        return document


def _is_file(source: str | Path) -> bool:
    """Whether it is a spec, or was meant to be one; else a folder."""
    return str(source).endswith((".yaml", ".yml")) or Path(source).is_file()


def _check_canary(digest: str, percent: int, current: Promotion | None) -> None:
    """Or why it cannot be one."""
    if not 0 < percent < ALL:
        raise RaygenError(f"a canary cannot answer {percent} % of what is asked", "give 1 to 99; without it, it answers all")
    if current is None:
        raise RaygenError(f"{digest[:SHORT]}: no generator is current, to answer the others", "promote it without --canary")
    if current.digest == digest:
        raise RaygenError(f"{digest[:SHORT]}: is current, and answers all", "promote another one as a canary")


def _refusal(digest: str, evaluation: Mapping[str, Any] | None) -> RaygenError | None:
    """Why a generator may not be promoted; None where it may. A verdict of a kind that is not known is no pass."""
    if evaluation is None:
        return RaygenError(
            f"{digest[:SHORT]}: is not evaluated", "first: raygen evaluate SPEC, with the spec it was trained by"
        )
    if evaluation["verdict"] in PUBLISHABLE:
        return None
    failed = [rule for rule in evaluation["gate"] if not rule["passed"]]
    told = "; ".join(rule["because"] for rule in failed) or evaluation["verdict"]
    return GateError(
        f"{digest[:SHORT]}: has not passed its gate: {told}",
        "promote another one, train better, or use --force, which the history will tell",
        failed,
    )


def _verdict(evaluation: Mapping[str, Any] | None) -> str:
    return "not evaluated" if evaluation is None else str(evaluation["verdict"])


def _facts(shown: Mapping[str, Any]) -> dict[str, Any]:
    """What two generators may differ in, flat, by key path."""
    lineage, evaluation = shown["lineage"], shown["evaluation"]
    spec = {name: value for name, value in lineage.get("spec", {}).items() if name != "generator"}
    metrics = {metric["name"]: metric["value"] for metric in (evaluation or {}).get("metrics", [])}
    return _flat(
        {
            "digest": shown["digest"],
            "generator": shown["generator"],
            **{name: lineage.get(name) for name in ("data", "rows", "run", "versions")},
            "spec": spec,
            "verdict": _verdict(evaluation),
            "metrics": metrics,
        }
    )


def _flat(document: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return found


def _told(digests: Iterable[str]) -> str:
    short = [digest[:SHORT] for digest in digests]
    return ", ".join(short[:10]) + (f" and {len(short) - 10} more" if len(short) > 10 else "")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have a number and no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"

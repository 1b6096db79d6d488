"""The registry: what may become current, who wins, what is told of it; on a local disk and on a real S3 server."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from s3 import Fault, Proxy
from versions import add, report

import raygen
from raygen.datasets.storage import Folder
from raygen.errors import GateError, OutputError, RaygenError, SpecError
from raygen.generators import artifact
from raygen.jobs import pipeline
from raygen.jobs import registry as module
from raygen.jobs.project import REPORT, write_json
from raygen.jobs.promotions import Promotion
from raygen.jobs.registry import Registry


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "store" / "pets")


@pytest.fixture(params=["local", "s3"])
def anywhere(request: pytest.FixtureRequest) -> Folder:
    """A project's folder on each kind of storage."""
    return Folder(request.getfixturevalue("s3")) / "pets" if request.param == "s3" else request.getfixturevalue("folder")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Have something done once, after a promoter has looked at what is current and before it moves that."""
    read = artifact.read

    def order(action: Callable[[], Any]) -> None:
        todo = [action]

        def interrupted(place: Folder) -> Any:
            if todo:
                todo.pop()()
            return read(place)

        monkeypatch.setattr(module.artifact, "read", interrupted)

    return order


# What may become current


def test_a_promotion_moves_current_and_is_told_with_its_evidence(anywhere: Folder) -> None:
    first, second = add(anywhere, 1), add(anywhere, 2)
    registry = Registry(anywhere)
    assert registry.current() is None
    registry.promote(first)
    registry.promote(second)
    now = Registry(anywhere).current()
    assert now is not None
    assert (now.number, now.digest, now.previous, now.action, now.forced) == (2, second, first, "promote", False)
    assert now.evaluation == report(second, "passed", 0.52)
    assert now.at.endswith("+00:00")
    assert "@" in now.by
    assert [promotion.digest for promotion in registry.promotions()] == [first, second]


def test_what_failed_its_gate_is_not_promoted(folder: Folder) -> None:
    good, bad = add(folder, 1), add(folder, 2, "failed")
    registry = Registry(folder)
    registry.promote(good)
    with pytest.raises(GateError, match=r"has not passed its gate: label_agreement is 0\.52, the least is 0\.9") as error:
        registry.promote(bad)
    assert error.value.exit_code == 3
    assert [promotion.digest for promotion in registry.promotions()] == [good]


def test_what_is_not_evaluated_is_not_promoted(folder: Folder) -> None:
    digest = add(folder, 1, None)
    with pytest.raises(RaygenError, match="is not evaluated") as error:
        Registry(folder).promote(digest)
    assert error.value.exit_code == 2
    assert Registry(folder).current() is None


def test_a_verdict_that_is_not_known_is_no_pass(folder: Folder) -> None:
    digest = add(folder, 1, "undecided")
    with pytest.raises(GateError, match="has not passed its gate: undecided"):
        Registry(folder).promote(digest)


def test_a_project_without_a_gate_promotes_and_says_so(folder: Folder) -> None:
    evaluation = Registry(folder).promote(add(folder, 1, "no gate")).evaluation
    assert evaluation is not None
    assert evaluation["verdict"] == "no gate"


@pytest.mark.parametrize("kept", ["before", "after"])
def test_looking_without_a_gate_takes_no_verdict_back(folder: Folder, kept: str) -> None:
    digest, registry = add(folder, 1, "failed"), Registry(folder)
    bare = report(digest, "no gate")
    if kept == "before":
        registry.keep(bare)
    write_json(folder / "report", REPORT, bare)
    if kept == "after":
        registry.keep(bare)
    with pytest.raises(GateError):
        registry.promote(digest)
    assert registry.promote(digest, force=True).forced
    registry.keep(report(digest, "passed"))
    (folder / "report").delete(REPORT)
    assert registry.evaluation(digest) == report(digest, "passed")


@pytest.mark.parametrize(("verdict", "forced"), [("failed", True), (None, True), ("passed", False)])
def test_force_is_recorded_where_it_was_needed(folder: Folder, verdict: str | None, forced: bool) -> None:
    promotion = Registry(folder).promote(add(folder, 1, verdict), force=True)
    assert promotion.forced is forced
    assert Registry(folder).promotions() == [promotion]
    assert ("forced" in str(promotion)) is forced


def test_promoting_the_current_one_again_writes_nothing(folder: Folder) -> None:
    digest = add(folder, 1)
    first = Registry(folder).promote(digest)
    assert Registry(folder).promote(digest) == first
    assert Registry(folder).promotions() == [first]


def test_a_broken_generator_is_not_promoted(folder: Folder) -> None:
    digest, other = add(folder, 1), add(folder, 2)
    (folder / "generators" / digest).write(artifact.WEIGHTS, b"cut off")
    with pytest.raises(OutputError, match="the generator is broken"):
        Registry(folder).promote(digest)
    renamed = "0" * 64
    (folder / "generators").local.joinpath(other).rename(folder.local / "generators" / renamed)  # type: ignore[union-attr, operator]
    with pytest.raises(OutputError, match=f"{renamed}: is the generator {other[:12]}"):
        Registry(folder).promote(renamed, force=True)
    assert Registry(folder).current() is None


def test_evidence_outlives_the_reports_of_others(folder: Folder) -> None:
    digest, other = add(folder, 1, "failed"), add(folder, 2, None)
    write_json(folder / "report", REPORT, report(digest, "passed", 0.95))  # the newest word on it
    assert Registry(folder).evaluation(digest) == report(digest, "passed", 0.95)
    write_json(folder / "report", REPORT, report(other, "passed", 0.99))
    assert Registry(folder).evaluation(digest) == report(digest, "failed", 0.51)
    assert Registry(folder).evaluation(other) == report(other, "passed", 0.99)


# Which generator is meant


def test_the_first_digits_of_a_digest_do(folder: Folder) -> None:
    digests = [add(folder, number) for number in range(17)]  # two of them begin with the same digit
    registry = Registry(folder)
    assert registry.find(digests[0]) == registry.find(digests[0][:12]) == digests[0]
    shared = next(digest[0] for digest in digests if sum(other[0] == digest[0] for other in digests) > 1)
    same = sorted(digest[:12] for digest in digests if digest[0] == shared)
    with pytest.raises(RaygenError, match=f"{shared}: {len(same)} generators begin so: {', '.join(same[:10])}"):
        registry.find(shared)
    for unknown in ("xyz", ""):
        with pytest.raises(RaygenError, match=f"{unknown}: is no generator of {folder.uri}") as error:
            registry.find(unknown)
        assert sorted(digests)[0][:12] in error.value.hint
        assert "and 7 more" in error.value.hint
    with pytest.raises(RaygenError, match="no generator is current"):
        registry.find("current")
    registry.promote(digests[5][:12])
    assert registry.find("current") == digests[5]


def test_a_registry_is_found_by_spec_by_file_and_by_folder(folder: Folder, tmp_path: Path) -> None:
    digest = add(folder, 1)
    spec = {
        "name": "pets",
        "storage": str(tmp_path / "store"),
        "dataset": {"path": "pets.parquet", "schema": {"age": {"kind": "number"}}},
        "generator": {"family": "gan"},
    }
    (tmp_path / "pets.yaml").write_text(yaml.safe_dump(spec))
    for source in (spec, str(tmp_path / "pets.yaml"), folder.uri, Path(folder.uri)):
        assert [version.digest for version in raygen.models(source).versions()] == [digest]
    with pytest.raises(OutputError, match=r"store: no generator is there"):
        raygen.models(tmp_path / "store")
    with pytest.raises(SpecError, match=r"nowhere.yaml: there is no such spec"):
        raygen.models("nowhere.yaml")
    with pytest.raises(RaygenError, match="is not a spec, so nothing of it can be set"):
        Registry.of(folder.uri, ["name=dogs"])


# Who wins


def test_of_all_who_promote_at_once_one_wins(anywhere: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [add(anywhere, number) for number in range(6)]
    registry, read, together = Registry(anywhere), artifact.read, threading.Barrier(len(digests), timeout=60)

    def at_once(place: Folder) -> Any:
        together.wait()  # all have seen the same state, and none has moved it
        return read(place)

    def attempt(digest: str) -> Promotion | OutputError:
        try:
            return registry.promote(digest)
        except OutputError as error:
            return error

    monkeypatch.setattr(module.artifact, "read", at_once)
    with ThreadPoolExecutor(len(digests)) as threads:
        found = list(threads.map(attempt, digests))
    (winner,) = (promotion for promotion in found if isinstance(promotion, Promotion))
    assert registry.promotions() == [winner]
    for error in found:
        if isinstance(error, OutputError):
            assert f"somebody else was first ({winner})" in error.what
            assert "raygen models list" in error.hint


def test_a_promoter_who_saw_an_older_state_loses(folder: Folder, meanwhile: Callable[..., None]) -> None:
    first, second, third = (add(folder, number) for number in range(3))
    registry = Registry(folder)
    registry.promote(first)
    meanwhile(lambda: Registry(folder).promote(second))
    with pytest.raises(OutputError, match=f"somebody else was first .* promoted {second[:12]}"):
        registry.promote(third)
    assert [promotion.digest for promotion in registry.promotions()] == [first, second]
    assert registry.promote(third).previous == second  # who decides again may


def test_two_who_do_the_same_at_once_do_it_once(folder: Folder, meanwhile: Callable[..., None]) -> None:
    digests = [add(folder, number) for number in range(3)]
    registry = Registry(folder)
    for digest in digests[:2]:
        registry.promote(digest)
    meanwhile(lambda: Registry(folder).promote(digests[2]))
    assert registry.promote(digests[2]).number == 3
    meanwhile(lambda: Registry(folder).rollback())
    assert registry.rollback().digest == digests[1]
    assert [promotion.digest for promotion in registry.promotions()] == [*digests, digests[1]]


def test_the_first_promotion_of_a_generator_is_its_first(anywhere: Folder) -> None:
    """A job promotes what it has made once only, so that it undoes no rollback: nor one that comes at the same moment."""
    one, two = add(anywhere, 1), add(anywhere, 2)
    registry = Registry(anywhere)
    assert registry.promote(one, first=True).number == 1
    assert registry.promote(two, first=True).number == 2
    registry.rollback()
    assert registry.promote(two, first=True).number == 2
    assert [promotion.digest for promotion in registry.promotions()] == [one, two, one]


def test_an_attempt_that_was_away_undoes_no_rollback(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has found that nothing was promoted, and goes on an hour later."""
    one, two = add(folder, 1), add(folder, 2)
    registry, promoted = Registry(folder), Registry.promoted
    registry.promote(one)

    def away(registry: Registry, digest: str) -> Any:
        found = promoted(registry, digest)
        monkeypatch.setattr(Registry, "promoted", promoted)
        registry.promote(two)
        registry.rollback()
        return found

    monkeypatch.setattr(Registry, "promoted", away)
    with pytest.raises(OutputError, match="somebody else was first"):
        registry.promote(two, first=True)
    assert [promotion.digest for promotion in registry.promotions()] == [one, two, one]


def test_a_promoter_whose_answer_was_lost_has_won(s3: str, s3_proxy: Proxy) -> None:
    folder = Folder(s3)
    digest = add(folder, 1)
    s3_proxy.order(Fault("answer", "reset", times=1, match="^PUT .*promotions"))
    promotion = Registry(folder).promote(digest)
    assert len(s3_proxy.struck) == 1
    assert Registry(folder).promotions() == [promotion]


def test_history_is_never_changed(folder: Folder) -> None:
    registry, before = Registry(folder), dict[str, bytes]()
    promotions = folder / "registry/promotions"
    digests = [add(folder, number) for number in range(3)]
    for move in (*(lambda d=digest: registry.promote(d) for digest in digests), registry.rollback, registry.rollback):
        move()
        after = {name: promotions.read(name) for name in promotions.names()}
        assert len(after) == len(before) + 1
        assert before.items() <= after.items()
        before = after


# Back


def test_rollbacks_go_back_one_by_one(anywhere: Folder) -> None:
    digests = [add(anywhere, number) for number in range(3)]
    registry = Registry(anywhere)
    for digest in digests:
        registry.promote(digest)
    back = registry.rollback()
    assert (back.digest, back.previous, back.action) == (digests[1], digests[2], "rollback")
    assert back.evaluation == report(digests[1], "passed", 0.51)
    assert registry.rollback().digest == digests[0]  # not to where the last one came from
    with pytest.raises(RaygenError, match="nothing was current before"):
        registry.rollback()
    registry.promote(digests[2])
    assert registry.rollback().digest == digests[0]
    assert len(registry.promotions()) == 7


def test_a_rollback_goes_further_back_to_one_that_was_current(folder: Folder) -> None:
    digests = [add(folder, number) for number in range(4)]
    registry = Registry(folder)
    for digest in digests[:3]:
        registry.promote(digest)
    for never in (digests[3], digests[2]):
        with pytest.raises(RaygenError, match=f"{never[:12]}: was not current before the present one") as error:
            registry.rollback(never)
        assert f"these were: {digests[1][:12]}, {digests[0][:12]};" in error.value.hint
    assert registry.rollback(digests[0][:12]).digest == digests[0]


def test_a_rollback_stands_on_the_evidence_of_then(folder: Folder) -> None:
    forced, other = add(folder, 1, "failed"), add(folder, 2)
    registry = Registry(folder)
    registry.promote(forced, force=True)
    registry.promote(other)
    registry.keep(report(forced, "passed", 0.99))  # evaluated anew, by another gate
    back = registry.rollback()
    assert back.forced
    assert back.evaluation == report(forced, "failed", 0.51)


def test_a_rollback_to_what_is_gone(folder: Folder) -> None:
    first, second = add(folder, 1), add(folder, 2)
    registry = Registry(folder)
    registry.promote(first)
    registry.promote(second)
    (folder / "generators" / first).clear()
    with pytest.raises(OutputError, match="is not a generator"):
        registry.rollback()
    assert registry.find("current") == second


# Beside the current one


def test_a_canary_leaves_current_as_it_is(anywhere: Folder) -> None:
    full, canary = add(anywhere, 1), add(anywhere, 2)
    registry = Registry(anywhere)
    first = registry.promote(full)
    second = registry.promote(canary, canary=10)
    assert (second.number, second.percent, second.previous) == (2, 10, full)
    assert str(second).endswith(f" promoted {canary[:12]} for 10 %")
    assert Registry(anywhere).holding() == (first, second, second)
    assert registry.find("current") == full
    assert registry.promote(canary, canary=10) == second
    assert registry.promote(canary, canary=20).number == 3
    versions = {version.digest: (version.current, version.canary) for version in registry.versions()}
    assert versions == {full: (True, None), canary: (False, 20)}
    assert [registry.show(digest)["canary"] for digest in (full, canary)] == [None, 20]
    whole = registry.promote(canary)
    assert registry.holding() == (whole, None, whole)
    assert registry.rollback().digest == full


def test_a_rollback_takes_the_canary_away_first(folder: Folder) -> None:
    first, second, canary = add(folder, 1), add(folder, 2), add(folder, 3)
    registry = Registry(folder)
    for digest in (first, second):
        registry.promote(digest)
    registry.promote(canary, canary=10)
    back = registry.rollback()
    assert (back.digest, back.action, back.percent) == (second, "rollback", 100)
    assert registry.holding() == (back, None, back)
    assert registry.rollback().digest == first


def test_a_canary_of_the_first_can_be_taken_away(folder: Folder) -> None:
    first, canary = add(folder, 1), add(folder, 2)
    registry = Registry(folder)
    registry.promote(first)
    registry.promote(canary, canary=10)
    assert registry.rollback().digest == first
    registry.promote(canary, canary=10)
    assert registry.promote(first).percent == 100  # which takes it away as well
    assert registry.holding().canary is None
    with pytest.raises(RaygenError, match="nothing was current before"):
        registry.rollback()


def test_a_rollback_stands_on_what_it_was_made_current_by(folder: Folder) -> None:
    first, second = add(folder, 1), add(folder, 2)
    registry = Registry(folder)
    registry.promote(first)
    registry.promote(second)
    registry.keep(report(first, "failed"))
    registry.promote(first, force=True, canary=10)
    assert not registry.rollback(first).forced


@pytest.mark.parametrize(
    ("verdict", "canary", "error"), [("failed", 10, GateError), ("passed", 0, RaygenError), ("passed", 100, RaygenError)]
)
def test_what_may_not_be_a_canary(folder: Folder, verdict: str, canary: int, error: type[RaygenError]) -> None:
    registry = Registry(folder)
    first = registry.promote(add(folder, 1))
    with pytest.raises(error):
        registry.promote(add(folder, 2, verdict), canary=canary)
    with pytest.raises(RaygenError, match="is current, and answers all"):
        registry.promote(first.digest, canary=10)
    assert registry.promotions() == [first]


def test_a_canary_is_beside_something(folder: Folder) -> None:
    with pytest.raises(RaygenError, match="no generator is current"):
        Registry(folder).promote(add(folder, 1), canary=10)


# What is told


def test_versions_are_told_current_first_with_their_verdicts(folder: Folder) -> None:
    first, second, bad, new = add(folder, 1), add(folder, 2), add(folder, 3, "failed"), add(folder, 4, None)
    (folder / "generators/half").write(artifact.WEIGHTS, b"")  # somebody is writing it
    registry = Registry(folder)
    registry.promote(second)
    registry.promote(first)
    versions = {version.digest: version for version in registry.versions()}
    assert list(versions) == [first, second, *sorted([bad, new])]
    assert [version.current for version in versions.values()] == [True, False, False, False]
    assert [versions[digest].verdict for digest in (first, bad, new)] == ["passed", "failed", "not evaluated"]
    assert versions[bad].gate == {"label_agreement": 0.53}
    assert versions[second].promotion == registry.promotions()[0]
    assert versions[new] == (new, "vae", False, "not evaluated", {}, None, None)


def test_show_tells_all_of_one(folder: Folder) -> None:
    digest = add(folder, 1, train={"epochs": 3})
    Registry(folder).promote(digest)
    shown = Registry(folder).show()
    assert shown["digest"] == digest
    assert shown["current"]
    assert shown["generator"]["family"] == "vae"
    assert shown["lineage"]["spec"]["train"] == {"epochs": 3}
    assert shown["promotions"][0]["evaluation"] == shown["evaluation"] == report(digest, "passed", 0.51)


def test_diff_tells_what_differs_and_nothing_else(folder: Folder) -> None:
    one = add(folder, 1, train={"epochs": 3, "batch_size": 8}, generator={"family": "vae"})
    other = add(folder, 2, None, train={"epochs": 5, "batch_size": 8}, generator={"family": "gan"})
    assert Registry(folder).diff(one, other) == {
        "digest": (one, other),
        "run": ("r1", "r2"),
        "spec.train.epochs": (3, 5),
        "verdict": ("passed", "not evaluated"),
        "metrics.label_agreement": (0.51, None),
    }
    assert Registry(folder).diff(one, one) == {}


# In `run`


def test_run_promotes_what_passes_and_never_undoes_a_rollback(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = add(folder, 1), add(folder, 2)
    registry = Registry(folder)
    registry.promote(old)
    nothing = lambda *_: None  # noqa: E731
    project: Any = SimpleNamespace(folder=folder, spec=SimpleNamespace(augment=None), result=dict, check_outputs=nothing)
    for step, name, answer in (
        (pipeline.report, "require", None),
        (pipeline.evaluate, "require", None),
        (pipeline.report, "write", None),
        (pipeline.report, "current", True),
        (pipeline.train, "train", None),
        (pipeline.evaluate, "evaluate", report(new, "passed", 0.52)),
        (pipeline.evaluate, "evaluated", report(new, "passed", 0.52)),
    ):
        monkeypatch.setattr(step, name, lambda *_, answer=answer: answer)
    assert not pipeline.up_to_date(project)
    pipeline.run(project)
    assert registry.find("current") == new
    assert pipeline.up_to_date(project)
    registry.rollback()
    assert pipeline.up_to_date(project)
    pipeline.run(project)
    assert registry.find("current") == old

"""What is served follows the registry: a canary by its share, a swap without a moment without, and what cannot be served."""

import gc
import logging
import threading
import weakref
from pathlib import Path

import pytest
import torch
from endpoints import api, digits, promoted
from starlette.testclient import TestClient

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError
from raygen.jobs.registry import Registry
from raygen.serving.models import KEPT, LOOKS, Models
from raygen.serving.problems import Problem


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "digits")
    promoted(folder, digits(0))
    return folder


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def models(folder: Folder, clock: Clock) -> Models:
    return Models({"digits": Registry(folder)}, clock)


def on_trial(folder: Folder, seed: int, percent: int) -> str:
    """The digest of a generator that has become a canary."""
    return promoted(folder, digits(seed), percent=percent)


def broken(folder: Folder, digest: str) -> None:
    weights = Path(folder.uri) / "generators" / digest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")


def test_a_canary_answers_its_share(folder: Folder, models: Models) -> None:
    full = models.find("digits").digest
    canary = on_trial(folder, 1, percent=20)
    assert models.refresh() == ["digits"]
    assert models.refresh() == []
    asked = [models.find(None).digest for _ in range(5000)]
    assert set(asked) == {full, canary}
    assert 800 < asked.count(canary) < 1200  # seven standard deviations about a thousand
    on_trial(folder, 1, percent=80)
    assert models.refresh() == ["digits"]
    assert sum(models.find(None).digest == canary for _ in range(5000)) > 3800


def test_what_is_told_of_a_canary(folder: Folder, models: Models) -> None:
    canary = on_trial(folder, 1, percent=20)
    with TestClient(api(models)) as client:
        assert client.get("/v1/models").json()["data"][0]["canary"] is None
        models.refresh()
        (about,) = client.get("/v1/models").json()["data"]
        assert about["canary"] == {"digest": canary, "percent": 20}
        found = {client.post("/v1/generate", json={"rows": 1}).headers["raygen-digest"] for _ in range(100)}
        assert found == {about["digest"], canary}


def test_who_names_a_generator_is_answered_by_it_or_told(folder: Folder, models: Models, clock: Clock) -> None:
    full, canary = models.find(None).digest, on_trial(folder, 1, percent=50)
    models.refresh()
    with TestClient(api(models)) as client:
        for digest in (full, canary) * 20:
            answer = client.post("/v1/generate", json={"digest": digest})
            assert answer.headers["raygen-digest"] == digest
        new = promoted(folder, digits(2))  # which another replica may have heard of before
        assert client.post("/v1/generate", json={"digest": new}).headers["raygen-digest"] == new
        assert "raygen-current" not in client.post("/v1/generate", json={"digest": new}).headers
        assert client.post("/v1/generate", json={}).headers["raygen-digest"] == new
        kept = client.post("/v1/generate", json={"digest": full}).headers
        assert (kept["raygen-digest"], kept["raygen-current"]) == (full, new)
        clock.now += KEPT
        answer = client.post("/v1/generate", json={"digest": full})
        assert answer.status_code == 409
        assert answer.json()["detail"] == "another generator answers now"
        assert answer.json()["digest"] == models.find(None).digest
        assert client.post("/v1/generate", json={"digest": "x"}).status_code == 422


def test_a_canary_that_is_made_current_is_not_loaded_again(folder: Folder, models: Models) -> None:
    canary = on_trial(folder, 1, percent=50)
    models.refresh()
    warm = models.find(None, canary).generator
    Registry(folder).promote(canary)
    assert models.refresh() == ["digits"]
    assert models.find(None).generator is warm
    assert {models.find(None).digest for _ in range(100)} == {canary}


def test_a_canary_is_taken_away(folder: Folder, models: Models) -> None:
    full = models.find(None)
    on_trial(folder, 1, percent=99)
    models.refresh()
    Registry(folder).rollback()
    assert models.refresh() == ["digits"]
    assert {models.find(None).digest for _ in range(100)} == {full.digest}
    assert models.find(None).generator is full.generator


def test_what_does_not_answer_any_more_is_forgotten(folder: Folder, models: Models, clock: Clock) -> None:
    on_trial(folder, 1, percent=50)
    models.refresh()
    before = models.find("digits")
    gone = [weakref.ref(models.find(None, one).generator) for one in {models.find(None).digest for _ in range(100)}]
    assert len(gone) == 2
    del before
    promoted(folder, digits(2))
    models.refresh()
    clock.now += KEPT
    models.refresh()
    gc.collect()
    assert [one() for one in gone] == [None, None]


def test_there_is_always_one_that_answers(folder: Folder, models: Models) -> None:
    """Whoever asks while generators are swapped gets one of them."""
    done, wrong = threading.Event(), []

    def ask() -> None:
        while not done.is_set():
            try:
                models.find("digits")
            except Exception as error:
                wrong.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    for seed in range(1, 6):
        on_trial(folder, seed, percent=50)
        models.refresh()
        promoted(folder, digits(seed))
        models.refresh()
    done.set()
    asking.join()
    assert wrong == []


@pytest.mark.parametrize("percent", [None, 50])
def test_what_cannot_be_served_is_told_once(
    folder: Folder, models: Models, clock: Clock, percent: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    full = models.find(None).digest
    bad = on_trial(folder, 1, percent) if percent else promoted(folder, digits(1))
    good = Folder(folder.uri + "/generators") / bad
    weights = good.read("weights.safetensors")
    broken(folder, bad)
    for _ in range(300):
        assert models.refresh() == []
        clock.now += 1  # it is tried at 0, 2, 6, 14, 30, 62, 126 and 254
    assert {models.find(None).digest for _ in range(100)} == {full}
    assert models.failures == {"digits": 8}
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert "the generator is not what its digest says" in told
    good.write("weights.safetensors", weights)
    clock.now += LOOKS[1]
    assert models.refresh() == ["digits"]
    assert bad in {models.find(None).digest for _ in range(100)}
    assert models.failures == {"digits": 8}


def test_another_promotion_is_not_kept_waiting(folder: Folder, models: Models) -> None:
    broken(folder, promoted(folder, digits(1)))
    assert models.refresh() == []
    good = promoted(folder, digits(2))
    assert models.refresh() == ["digits"]
    assert models.find(None).digest == good


def test_a_replica_that_starts_answers_with_what_the_others_have(folder: Folder, models: Models) -> None:
    registries = {"digits": Registry(folder)}
    full, bad = models.find(None).digest, promoted(folder, digits(1))
    broken(folder, bad)
    assert Models(registries).find(None).digest == full
    broken(folder, full)
    with pytest.raises(RaygenError, match=bad[:12]):
        Models(registries)


def test_a_storage_that_fails_otherwise_stops_nothing(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = models._registries["digits"]

    def fails() -> None:
        raise PermissionError("not today")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "holding", fails)
        assert models.refresh() == []
    assert models.failures == {"digits": 1}
    assert models.refresh() == []
    assert models.find(None).name == "digits"


def test_a_digest_of_nobody(models: Models) -> None:
    with pytest.raises(Problem) as raised:
        models.find("digits", "0" * 64)
    assert raised.value.status == 409


def test_replicas_without_a_gpu_of_their_own_compute_on_cpus(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from raygen.generators import generator
    from raygen.machines import Resources
    from raygen.serving.deployment import application
    from raygen.spec import ServeSpec

    monkeypatch.setattr(generator, "default_device", lambda: torch.device("meta"))  # as on a machine with one
    for gpus, device in ((0.0, "cpu"), (0.5, None)):
        built = application({"digits": folder.uri}, ServeSpec(), None, Resources(gpus=gpus), threads=3)
        assert built._bound_deployment.init_args[-2:] == (device, 3)
    models = Models({"digits": Registry(folder)}, device="cpu")
    promoted(folder, digits(1))
    assert models.refresh() == ["digits"]
    assert next(iter(models)).generator.sample(range(3)).equals(digits(1).sample(range(3)))

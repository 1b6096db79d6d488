"""The loop of a training, without Ray: going on at any step, two workers as one, and stopping in time."""

import json
import math
import os
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from raygen.datasets.codec import CELLS, Batch, Codec
from raygen.datasets.columns import Category
from raygen.datasets.storage import Folder
from raygen.errors import OutputError, ResourceError
from raygen.generators.base import Family, Sampler
from raygen.generators.families import family
from raygen.jobs import loop as module
from raygen.jobs.batches import InMemory, Share
from raygen.jobs.loop import Loop, rate, reduced, shares_statistics
from raygen.jobs.watch import Best, JudgeOfImages, Making, Notes, Probes, judge, unsound
from raygen.metrics.features import Pixels
from raygen.options import AutoencoderSpec, AutoregressiveSpec, GanSpec, VaeSpec
from raygen.spec import CategoryField, ImageField, TrainSpec, WatchSpec

CPU = torch.device("cpu")
ROWS, CLASSES = 90, 3
SPECS: dict[str, Any] = {
    "gan": GanSpec(width=4, latent=6, r1_every=2),
    "vae": VaeSpec(width=4, latent=4, kl_warmup=0.5),
    "autoencoder": AutoencoderSpec(width=4, latent=4),
}


def images(rows: int = ROWS) -> np.ndarray:
    """A stripe at another place in each row, in one direction for each class."""
    made = np.zeros((rows, 1, 16, 16), np.uint8)
    for row in range(rows):
        at = row * 5 % 13
        made[row, 0, at : at + 3] = 200
        made[row] = [made[row], made[row].transpose(0, 2, 1), 255 - made[row]][row % CLASSES]
    return made


DATA: Batch = {"image": images(), "label": np.arange(ROWS) % CLASSES}

CODEC = Codec.of(
    {"image": ImageField(height=16, width=16, channels=1), "label": CategoryField()},
    pa.schema([("image", pa.binary()), ("label", pa.int64())]),
    {"label": Category(tuple(range(CLASSES)), (ROWS // CLASSES,) * CLASSES)},
)
MAKING = Making(VaeSpec(condition="label"), CODEC, 0)


def tensors(batch: Batch) -> tuple[Tensor, Tensor | None]:
    return torch.from_numpy(batch["image"]).float().div_(127.5).sub_(1), torch.from_numpy(batch["label"])


def learner(name: str = "vae", **options: Any) -> Family:
    torch.manual_seed(0)
    made = family(name)(SPECS[name], (1, 16, 16), CLASSES, CPU)
    for key, value in options.items():
        setattr(made, key, value)
    return made


def notes(run: Path, watch: WatchSpec | None = None) -> Notes:
    probes = Probes(MAKING, DATA["image"][:12], DATA["label"][:12])
    judge = JudgeOfImages(MAKING, Pixels.fit(DATA["image"]), DATA["image"], DATA["label"])
    return Notes(probes, lambda: judge, Folder(run), list(InMemory(DATA, 20, 0, Share(0, 1)).once()))


def loop(run: Path, learns: Family, **options: Any) -> Loop:
    spec = TrainSpec(**{"epochs": 4, "batch_size": 20, "precision": "fp32", "checkpoint_seconds": 0, **options})
    rows = InMemory(DATA, spec.batch_size, spec.seed, Share(0, 1))
    return Loop(spec, learns, rows, Share(0, 1), Folder(run), tensors, notes(run))


def nobody(rows: int, note: str) -> None:
    pass


def weights(learns: Family) -> list[Tensor]:
    return [tensor.clone() for tensor in [*learns.state_dict()["average"].values()]]


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, and words to the driver."""
    monkeypatch.setattr(module, "POSTED", -1.0)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("step", [1, 7, 10, 13])
@pytest.mark.parametrize("name", SPECS)
def test_what_was_killed_at_any_step_ends_as_if_it_had_not_been(name: str, step: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"schedule": "cosine", "warmup": 0.2, "clip_gradients": 5.0}
    undisturbed = learner(name)
    whole = loop(tmp_path / "whole", undisturbed, **options)
    whole.train(nobody)
    assert whole.done == 20

    def kill(rows: int, note: str) -> None:
        if rows >= step * 20:
            raise KilledError

    with pytest.raises(KilledError):
        loop(tmp_path / "run", learner(name), **options).train(kill)
    again = learner(name)
    resumed = loop(tmp_path / "run", again, **options)
    assert resumed.done == step - 1
    resumed.train(nobody)
    assert all(map(torch.equal, weights(again), weights(undisturbed)))
    assert [{**row, "seconds": 0} for row in resumed.history] == [{**row, "seconds": 0} for row in whole.history]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_checkpoints_within_an_epoch_are_as_old_as_they_may_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSTED", 1.0)
    done: list[int] = []
    run = loop(tmp_path, learner(), checkpoint_seconds=1000)
    monkeypatch.setattr(run.checkpoints, "save", lambda step, *_: done.append(step))
    run.train(nobody)
    assert done == [20]


TWO = """
import gc
import sys
from datetime import timedelta
sys.path[:0] = [sys.argv[1]]
import torch
import torch.distributed as dist
from pathlib import Path
from test_loop import *
from raygen.jobs.loop import together

run, rank, world, name, options = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], eval(sys.argv[6])
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", f"file://{run}/meet", timedelta(seconds=60), world, rank)
learns = learner(name, pieces=options.pop("accumulate", 1))
spec = TrainSpec(epochs=4, batch_size=20, precision="fp32", checkpoint_seconds=1000)
share = Share(rank, world)
both = Loop(spec, learns, InMemory(DATA, 20, 0, share), share, Folder(run), tensors, notes(run) if rank == 0 else None)
if world > 1:
    together(learns, **options)
curve = []
step = learns.step
def noted(images, classes):
    losses = step(images, classes)
    curve.append(list(losses.values()))
    return losses
learns.step = noted
both.train(nobody)
found = torch.tensor([[value.item() for value in losses] for losses in curve])
if world > 1:
    dist.all_reduce(found)
    for network in learns.networks.values():
        for mine in network.parameters():
            theirs = mine.detach().clone()
            dist.broadcast(theirs, 0)
            assert torch.equal(mine, theirs), "the workers' networks differ"
learns.synchronize()
torch.save([found / world, learns.average.state_dict()], run / f"found-{rank}.pt")
if world > 1:
    both = learns = network = step = None  # what uses the process group goes first: else torch may abort at exit
    gc.collect()
    dist.destroy_process_group()
"""


def trained(run: Path, world: int, name: str, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of each step, over all workers, and the averaged weights and statistics."""
    run.mkdir()
    here = str(Path(__file__).parent)
    call = [sys.executable, "-c", TWO, here, str(run)]
    workers = [subprocess.Popen([*call, str(rank), str(world), name, repr(options)]) for rank in range(world)]
    assert [worker.wait(120) for worker in workers] == [0] * world
    losses, average = torch.load(run / "found-0.pt")
    return losses, average


@pytest.mark.parametrize("name", ["vae", "autoencoder"])
def test_two_workers_with_half_a_batch_each_follow_one(name: str, tmp_path: Path) -> None:
    """With batch normalization, whose statistics are those of the whole batch."""
    one, alone = trained(tmp_path / "one", 1, name)
    two, both = trained(tmp_path / "two", 2, name, sync_batch_norm=True)
    assert len(one) == 20
    torch.testing.assert_close(two, one, rtol=1e-4, atol=0)
    for buffer in (key for key in alone if "running" in key):
        torch.testing.assert_close(both[buffer], alone[buffer], rtol=1e-2, atol=1e-3)
    apart, _ = trained(tmp_path / "apart", 2, name, sync_batch_norm=False)
    assert not torch.allclose(apart, one, rtol=1e-4, atol=0)


def test_networks_of_a_gan_are_the_same_on_both_workers(tmp_path: Path) -> None:
    losses, _ = trained(tmp_path / "gan", 2, "gan", sync_batch_norm=True, accumulate=2)
    assert losses.isfinite().all()


def test_pieces_of_a_batch_add_up_to_its_gradient() -> None:
    batch = tensors({name: values[:20] for name, values in DATA.items()})

    def gradients(pieces: int) -> list[Tensor]:
        learns = learner("vae", pieces=pieces, draws=torch.Generator().manual_seed(5))
        for network in learns.networks.values():
            network.eval()  # batch statistics are those of a piece
        learns.step(*batch)
        return [parameter.grad for network in learns.networks.values() for parameter in network.parameters()]

    for whole, added in zip(gradients(1), gradients(4), strict=True):
        torch.testing.assert_close(added, whole, rtol=1e-3, atol=1e-4)


def test_gradients_are_clipped() -> None:
    batch = tensors(DATA)
    learns = learner("vae", clip=0.5)
    learns.step(*batch)
    norms = [torch.cat([p.grad.flatten() for p in network.parameters()]).norm() for network in learns.networks.values()]
    assert norms == [pytest.approx(0.5, rel=1e-3)]


@pytest.mark.parametrize(
    ("at", "schedule", "warmup", "expected"),
    [
        (0.0, "constant", 0.0, 1.0),
        (0.9, "constant", 0.0, 1.0),
        (0.05, "constant", 0.1, 0.5),
        (0.0, "linear", 0.0, 1.0),
        (0.75, "linear", 0.0, 0.25),
        (0.55, "linear", 0.1, 0.5),
        (0.5, "cosine", 0.0, 0.5),
        (0.25, "cosine", 0.0, (1 + math.cos(math.pi / 4)) / 2),
        (0.05, "cosine", 0.1, 0.5),
    ],
)
def test_learning_rates(at: float, schedule: str, warmup: float, expected: float) -> None:
    assert rate(at, schedule, warmup) == pytest.approx(expected)


def test_a_schedule_reaches_the_optimizers(tmp_path: Path) -> None:
    learns = learner("gan")
    seen: list[list[float]] = []
    run = loop(tmp_path, learns, schedule="linear")
    step = learns.step

    def noted(*batch: Any) -> Any:
        seen.append([group["lr"] for optimizer in learns.optimizers.values() for group in optimizer.param_groups])
        return step(*batch)

    learns.step = noted  # type: ignore[method-assign]
    run.train(nobody)
    full = [learns.spec.learning_rate, learns.spec.discriminator_learning_rate]  # type: ignore[attr-defined]
    np.testing.assert_allclose(seen, [[lr * (20 - n) / 20 for lr in full] for n in range(20)])


@pytest.mark.parametrize(
    ("losses", "first", "said"),
    [
        ({"a": 1.0}, {"a": 1.0}, ""),
        ({"a": -90.0, "b": 0.1}, {"a": 1.0, "b": 5.0}, ""),
        ({"a": math.nan}, {"a": 1.0}, "a is nan"),
        ({"b": 1.0, "a": -math.inf}, {"a": 1.0, "b": 1.0}, "a is -inf"),
        ({"a": 3e4}, {"a": 200.0}, "a is 3e+04, and was 200 at first"),
        ({"a": 101.0}, {"a": 0.001}, "a is 101, and was 0.001 at first"),
        ({"a": math.nan}, {"a": math.nan}, "a is nan"),
        ({"a": -36864.0}, {"a": 245.0}, ""),  # of a density, which may be as high as it likes
    ],
)
def test_what_losses_are_unsound(losses: dict[str, float], first: dict[str, float], said: str) -> None:
    assert unsound(losses, first) == said


@pytest.mark.parametrize(("bad", "checked", "stops"), [(math.nan, 1, 13), (1e9, 1, 13), (math.nan, 200, 45), (1e9, 200, 45)])
def test_an_unsound_loss_stops_the_training_and_leaves_the_good_checkpoint(
    bad: float, checked: int, stops: int, tmp_path: Path
) -> None:
    """However long nobody has looked at all the losses."""
    learns = learner()
    run = loop(tmp_path, learns, batch_size=2)
    step = learns.step

    def breaks(*batch: Any) -> Any:
        losses = step(*batch)
        return {**losses, "loss": torch.tensor(bad)} if run.done >= 12 else losses

    learns.step = breaks  # type: ignore[method-assign]
    monkey = pytest.MonkeyPatch()
    monkey.setattr(module, "CHECKED", checked)
    with monkey.context():
        run.train(nobody)
    assert run.problem.startswith("loss is ")
    assert run.done == stops
    good = loop(tmp_path, learner(), batch_size=2)
    assert good.done == 12
    assert all(tensor.isfinite().all() for tensor in weights(good.family))
    monkey.undo()


def test_an_explosion_is_one_against_the_first_step(tmp_path: Path) -> None:
    learns = learner("autoencoder")
    for optimizer in learns.optimizers.values():
        optimizer.param_groups[0]["lr"] = 100.0
    run = loop(tmp_path, learns)
    run.train(nobody)
    assert " at first" in run.problem


def test_weights_that_are_no_numbers_stop_the_training(tmp_path: Path) -> None:
    learns = learner()
    run = loop(tmp_path, learns, epochs=1)
    step = learns.step

    def breaks(*batch: Any) -> Any:
        losses = step(*batch)
        if run.done == 4:  # after the last forward pass
            next(learns.networks["autoencoder"].parameters()).data.fill_(math.nan)
        return losses

    learns.step = breaks  # type: ignore[method-assign]
    run.train(nobody)
    assert run.problem == "a weight is not a finite number"


def test_flipped_bits_are_noticed_and_the_checkpoint_before_is_gone_back_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = loop(tmp_path, learner(), keep_checkpoints=3)
    run.train(nobody)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [file.name for file in kept] == [f"step-{step:09d}.pt" for step in (18, 19, 20)]
    content = bytearray(kept[2].read_bytes())
    content[len(content) // 2] ^= 4
    kept[2].write_bytes(content)
    left = kept[0].parent / ".step-000000021.pt.0123.tmp"
    left.write_bytes(b"what was killed while it wrote, two hours ago")
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    again = loop(tmp_path, learner(), keep_checkpoints=3)
    assert again.done == 19
    assert "step-000000020.pt: is not what was written, going back to the one before" in capfd.readouterr().err
    again.train(nobody)
    assert sorted(kept) == sorted((tmp_path / "checkpoints").iterdir())
    for file in kept:
        file.write_bytes(b"")
    assert loop(tmp_path, learner()).done == 0
    assert "step-000000018.pt: is not what was written, beginning anew" in capfd.readouterr().err


# Two at once: a driver that was taken for dead, and the next one.


def test_who_saves_leaves_what_another_is_writing_alone(tmp_path: Path) -> None:
    run = loop(tmp_path, learner())
    with run.checkpoints.folder.writer("step-000000005.pt") as file:
        file.write(b"slowly")
        run.train(nobody)
    assert (tmp_path / "checkpoints" / "step-000000005.pt").read_bytes() == b"slowly"


def test_checkpoints_that_another_replaces_by_newer_ones_are_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning anew would be the end of all that was done."""
    ahead = loop(tmp_path, learner())
    read = Folder.read

    def late(folder: Folder, name: str) -> bytes:
        if name == "step-000000010.pt" and not ahead.done > 10:
            ahead.train(nobody)
        return read(folder, name)

    def halfway(rows: int, note: str) -> None:
        if rows > 10 * 20:
            raise KilledError

    with pytest.raises(KilledError):
        loop(tmp_path, learner()).train(halfway)
    ahead = loop(tmp_path, learner())
    monkeypatch.setattr(Folder, "read", late)
    assert loop(tmp_path, learner()).done == 20


def test_who_is_behind_takes_nothing_from_what_was_told(tmp_path: Path) -> None:
    behind, ahead = loop(tmp_path, learner()), loop(tmp_path, learner())
    ahead.train(nobody)
    whole = (tmp_path / "metrics.jsonl").read_text()
    kept = {file.name: file.read_bytes() for file in (tmp_path / "checkpoints").iterdir()}

    def look(rows: int, note: str) -> None:
        assert (tmp_path / "metrics.jsonl").read_text() == whole

    behind.train(look)
    told = [[json.loads(line) for line in text.splitlines()] for text in (whole, (tmp_path / "metrics.jsonl").read_text())]
    assert len(told[0]) == len(told[1]) == 4
    assert kept.keys() == {file.name for file in (tmp_path / "checkpoints").iterdir()}
    assert all(map(torch.equal, weights(behind.family), weights(ahead.family)))


@pytest.mark.parametrize(("named", "done"), [([18], 18), ([17, 19], 19), ([0], 0), ([17] * 9, None)])
def test_workers_begin_with_the_checkpoint_that_the_first_one_names(
    named: list[int], done: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not it is the newest by now; where it is gone before all have read it, the first one names another."""
    loop(tmp_path, learner(), keep_checkpoints=3).train(nobody)
    first = iter(named)
    monkeypatch.setattr(module, "of_first", lambda number, device: next(first))
    share = Share(1, 2)
    spec = TrainSpec(epochs=4, batch_size=20, precision="fp32")
    begin = partial(Loop, spec, learner(), InMemory(DATA, 20, 0, share), share, Folder(tmp_path), tensors, None)
    if done is None:
        with pytest.raises(ResourceError, match="the workers see different checkpoints"):
            begin()
    else:
        assert begin().done == done


def test_a_checkpoint_of_another_architecture_says_which_key_and_is_not_loaded(tmp_path: Path) -> None:
    loop(tmp_path, learner()).train(nobody)
    torch.manual_seed(0)
    wider = family("vae")(VaeSpec(width=5, latent=4), (1, 16, 16), CLASSES, CPU)
    before = weights(wider)
    with pytest.raises(OutputError, match=r"is of another architecture: autoencoder\.\S+ is \(.*\) there, \(.*\) here"):
        loop(tmp_path, wider)
    assert all(map(torch.equal, weights(wider), before))


def test_what_is_looked_at_of_an_autoencoder_is_drawn_from_a_density_of_its_latents(tmp_path: Path) -> None:
    """Not from that of before the first row, although it is fitted to all rows when the training has ended."""
    learns = learner("autoencoder")
    run = loop(tmp_path, learns, epochs=20)
    run.train(nobody)
    assert run.notes is not None
    learns.finish(map(tensors, run.rows.once()))
    at_the_end = run.notes.probes.diversity(run.notes.probes.made(learns.average))
    assert run.history[-1]["diversity"] == pytest.approx(at_the_end, rel=0.05)


def test_the_best_generator_is_kept_and_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([5.0, 3.0, 4.0, 3.5, 9.0])
    kept: list[list[Tensor]] = []
    learns = learner()
    run = loop(tmp_path, learns, epochs=9, watch=WatchSpec(patience=2), checkpoint_seconds=1000)
    assert run.notes is not None

    def score(sampler: Any) -> dict[str, float]:
        kept.append([tensor.clone() for tensor in sampler.state_dict().values()])
        return {"frechet_distance": next(scores)}

    monkeypatch.setattr(run.notes, "scores", score)
    run.train(nobody)
    assert [row["frechet_distance"] for row in run.history] == [5.0, 3.0, 4.0, 3.5]
    assert run.best is not None
    assert (run.best.epoch, run.best.value) == (2, 3.0)
    assert all(map(torch.equal, weights(learns), kept[1]))
    again = learner()
    resumed = loop(tmp_path, again, epochs=9, watch=WatchSpec(patience=2))  # finds that it has run out of patience
    resumed.train(nobody)
    assert resumed.done == 20
    assert all(map(torch.equal, weights(again), kept[1]))


def test_more_label_agreement_and_less_frechet_distance_are_better() -> None:
    best = Best(0.5, 1, {})
    assert best.beaten("label_agreement", 0.6)
    assert not best.beaten("label_agreement", 0.4)
    assert best.beaten("frechet_distance", 0.4)
    assert not best.beaten("frechet_distance", math.nan)


def test_diversity_is_that_within_classes() -> None:
    classes = DATA["label"][:30]
    probes = Probes(MAKING, DATA["image"][:30], classes)
    assert probes.diversity(DATA["image"][:30]) == 1
    assert probes.diversity(DATA["image"][30:60]) == pytest.approx(1, abs=0.1)
    collapsed = DATA["image"][classes]  # one picture for each class
    assert probes.diversity(collapsed) == 0
    assert Probes(MAKING, DATA["image"][:30], None).diversity(collapsed) > 0.5  # of which there are three


def test_rows_of_a_table_are_diverse_where_their_cells_are_in_other_bins() -> None:
    codec = Codec.of(
        {"a": CategoryField(), "b": CategoryField()},
        pa.schema([("a", pa.string()), ("b", pa.string())]),
        {"a": Category(("x", "y"), (50, 50)), "b": Category(("u", "v"), (50, 50))},
    )
    rng = np.random.default_rng(0)
    real = rng.integers(0, 2, (100, 2)) + rng.random((100, 2)) * 0.9
    probes = Probes.of(Making(AutoregressiveSpec(), codec, 0), {CELLS: real})
    assert probes.diversity(np.floor(real) + 0.5) == 1  # where within its bin a cell is, is not counted
    half = real.copy()
    half[:, 0] = 1.2
    assert probes.diversity(half) == pytest.approx(0.5, abs=0.05)
    assert probes.diversity(half[:1].repeat(100, 0)) == 0
    of_classes = Probes.of(Making(AutoregressiveSpec(condition="a"), codec, 0), {CELLS: real})
    assert of_classes.classes is not None
    assert (of_classes.classes == np.floor(real[:, 0])).all()
    assert of_classes.diversity(half) == pytest.approx(1, abs=0.05)  # all of column a is its class


def test_a_table_is_judged_by_its_quality() -> None:
    codec = Codec.of({"a": CategoryField()}, pa.schema([("a", pa.string())]), {"a": Category(("x", "y"), (90, 10))})
    making = Making(AutoregressiveSpec(), codec, 0)
    held = np.array([[0.0]] * 90 + [[1.0]] * 10)
    found = judge(making, {"held": {CELLS: held}})

    class Same(Sampler):
        noise = 1

        def __init__(self, cell: float) -> None:
            super().__init__()
            self.cell = torch.nn.Parameter(torch.tensor(cell))

        def forward(self, noise: Tensor, *given: Tensor | None) -> Tensor:
            return torch.full((len(noise), 1), self.cell.item(), dtype=torch.float64)

    assert found.scores(Same(0.0)) == {"quality": pytest.approx(0.9)}
    assert found.scores(Same(1.0)) == {"quality": pytest.approx(0.1)}


def test_probes_are_made_of_the_same_noise_and_do_not_disturb_the_training(tmp_path: Path) -> None:
    learns = learner()
    probes = Probes(MAKING, DATA["image"][:70], DATA["label"][:70])
    learns.average.train()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    made = probes.made(learns.average)
    assert torch.equal(torch.rand(3), expected)
    assert learns.average.training
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(probes.made(learns.average), made)


def test_curves_and_pictures_for_tensorboard(tmp_path: Path) -> None:
    loop(tmp_path, learner()).train(nobody)
    (events,) = (tmp_path / "tensorboard").iterdir()
    written = events.read_bytes()
    for name in (b"loss", b"diversity", b"probes", b"\x89PNG"):
        assert name in written


def test_of_real_rows_that_are_alike_there_is_no_diversity_to_tell(tmp_path: Path) -> None:
    alike = Notes(
        Probes(MAKING, DATA["image"][:1].repeat(9, 0), np.zeros(9, np.int64)),
        lambda: pytest.fail("nobody asked"),
        Folder(tmp_path),
    )
    with closing(alike):
        assert alike.look(learner().average, 1, {"loss": 1.0}) == {}


@pytest.mark.parametrize(
    ("asked", "rows", "shared"), [("auto", 31, True), ("auto", 32, False), (True, 64, True), (False, 2, False)]
)
def test_statistics_of_few_rows_are_shared(asked: str | bool, rows: int, shared: bool) -> None:
    assert shares_statistics(asked, rows) is shared


def test_bf16_is_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reduced("bf16", CPU)
    assert not reduced("fp32", torch.device("cuda"))
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has: has)
        assert reduced("auto", torch.device("cuda")) is has

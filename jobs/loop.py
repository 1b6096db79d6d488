"""The loop of a training: what every worker does, step by step, and what the first one notes of it.

Everything that a step does follows from the seed, its number and the worker's rank, so a run that goes on from a checkpoint
does what an undisturbed one would have done.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from raygen.datasets.codec import Batch
from raygen.datasets.storage import Folder
from raygen.errors import ResourceError
from raygen.generators import batch_norm
from raygen.generators.base import Family
from raygen.jobs.batches import Rows, Share, steps
from raygen.jobs.checkpoints import Checkpoints
from raygen.jobs.watch import Best, Notes, unsound
from raygen.spec import TrainSpec

METRICS = "metrics.jsonl"
CHECKED = 200
"""Steps after which losses are looked at, for which a GPU has to be waited for."""
FEW_ROWS = 32
"""Of whose own statistics batch normalization is poor."""
RESTORES = 5
"""Times that workers try to read the same checkpoint, while another attempt writes others."""
POSTED = 1.0
"""Seconds between two words to the driver, and the least between two checkpoints within an epoch."""


class Loop:
    """Trains a family on rows, from the newest checkpoint of the run on.

    Args:
        tensors: makes of a batch what the family learns from.
        notes: what the first worker notes beside the losses; None of the others.

    Raises:
        OutputError: the checkpoint to go on from is of another architecture.
        ResourceError: the workers do not see the same storage.

    Attributes:
        done: steps.
        history: what ``metrics.jsonl`` gets: a row for each epoch.
        problem: why the training was stopped before its end, on every worker; empty where it went well.
    """

    def __init__(
        self,
        options: TrainSpec,
        family: Family,
        rows: Rows,
        share: Share,
        run: Folder,
        tensors: Callable[[Batch], tuple[Tensor, Tensor | None]],
        notes: Notes | None,
    ) -> None:
        self.options, self.family, self.rows, self.share = options, family, rows, share
        self.run, self.tensors, self.notes = run, tensors, notes
        self.checkpoints = Checkpoints(run)
        self.steps = steps(rows.total, options.batch_size)
        self.problem = ""
        state = self._restored()
        self.done: int = state["step"] if state else 0
        saved: dict[str, Any] | None = state["loop"] if state else None
        self.history: list[dict[str, Any]] = json.loads(saved["history"]) if saved else []
        self.first: dict[str, float] = saved["first"] if saved else {}
        self.sums: dict[str, Tensor] = saved["sums"] if saved else {}
        self.best = Best(**saved["best"]) if saved and saved["best"] else None
        self.saved = time.monotonic()
        family.rank, family.world = share
        family.draws = self.draws = torch.Generator(family.device)

    def train(self, post: Callable[[int, str], None]) -> None:
        """Take all steps that are left. Then every worker has the generator that is to be kept: the last, or the best one.

        Args:
            post: tells the driver how many rows are done, and a note.
        """
        options, device = self.options, self.family.device
        # Without its cache: some versions of torch keep there what was cast where no gradient was asked for.
        enabled = reduced(options.precision, device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)
        posted = time.monotonic()
        self.began = posted - (self.history[-1]["seconds"] if self.history else 0.0)
        while self.done < options.epochs * self.steps and everywhere(self._patient(), device):
            for batch in self.rows.epoch(*divmod(self.done, self.steps)):
                with autocast:
                    losses = self._step(batch)
                if (self.done == 1 or self.done % CHECKED == 0) and not self._sound():
                    return
                if self.notes and time.monotonic() - posted > POSTED:
                    posted = time.monotonic()
                    post(self.done * options.batch_size, "  ".join(f"{n} {v.item():.3g}" for n, v in losses.items()))
                    due = self.done % self.steps and self._age() > max(POSTED, options.checkpoint_seconds)
                    if due and not self._problem(self._means()):
                        self._save()
            if not self._sound():
                return
            self._end_of_epoch()
        if options.watch is not None:
            if self.notes and self.best:
                self.family.average.load_state_dict(self.best.weights)
            spread(self.family.average)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        options, progress = self.options, self.done / (self.options.epochs * self.steps)
        self.draws.manual_seed(_mix(options.seed, self.done, 0))
        torch.manual_seed(_mix(options.seed, self.done, 1 + self.share.rank))
        self.family.pace(progress, rate(progress, options.schedule, options.warmup))
        losses = self.family.step(*self.tensors(batch))
        self.family.average_weights()
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.done += 1
        return losses

    def _end_of_epoch(self) -> None:
        epoch, options = self.done // self.steps, self.options
        seconds = round(time.monotonic() - self.began, 2)
        row = {"epoch": epoch, "step": self.done, "seconds": seconds, **self.means}
        self.sums = {}
        self.history.append(row)
        if self.notes is None:
            return
        sampler = self.family.average
        self.family.rehearse(map(self.tensors, self.notes.some))
        row |= self.notes.look(sampler, self.done, row)
        if options.watch is not None and epoch % options.watch.every == 0:
            row |= self.notes.scores(sampler)
            value = row[options.watch.metric]
            if self.best is None or self.best.beaten(options.watch.metric, value):
                weights = {name: tensor.clone() for name, tensor in sampler.state_dict().items()}
                self.best = Best(value, epoch, weights)
            else:
                self.best.since += 1
        if self.done == options.epochs * self.steps or self._age() >= options.checkpoint_seconds or not self._patient():
            self._save()
            self.notes.publish()

    def _patient(self) -> bool:
        watch = self.options.watch
        return watch is None or watch.patience is None or self.best is None or self.best.since < watch.patience

    def _sound(self) -> bool:
        """Whether the losses are, over all workers: those of the first step, later their means over this epoch so far."""
        self.means = self._means(everywhere=True)
        self.first = self.first or self.means
        self.problem = self._problem(self.means)
        return not self.problem

    def _means(self, everywhere: bool = False) -> dict[str, float]:
        """Of the losses over this epoch so far, of this worker's rows or of those of all."""
        means = torch.stack(list(self.sums.values())).double() / (self.done % self.steps or self.steps)
        if everywhere and self.share.world > 1:
            dist.all_reduce(means)
            means /= self.share.world
        return {name: round(value, 6) for name, value in zip(self.sums, means.tolist(), strict=True)}

    def _problem(self, means: dict[str, float]) -> str:
        """What is wrong with them, or with the weights, which are the same on every worker."""
        finite = all(p.isfinite().all() for network in self.family.networks.values() for p in network.parameters())
        return unsound(means, self.first) or ("" if finite else "a weight is not a finite number")

    def _age(self) -> float:
        return time.monotonic() - self.saved

    def _save(self) -> None:
        best = None if self.best is None else asdict(self.best)
        state = {"history": json.dumps(self.history), "first": self.first, "sums": self.sums, "best": best}
        if self.checkpoints.save(self.done, self.family, state, self.options.keep_checkpoints):
            self.tell()  # else another attempt has got further, and told more
        self.saved = time.monotonic()

    def tell(self) -> None:
        """Write what there is of the history."""
        self.run.write(METRICS, "".join(json.dumps(row) + "\n" for row in self.history).encode())

    def _restored(self) -> dict[str, Any] | None:
        """The newest checkpoint, the same for every worker: that which the first worker finds. Where another attempt of the
        job still writes some, it may be gone before all have read it; then they look again."""
        device = self.family.device
        for _ in range(RESTORES):
            state = self.checkpoints.newest(device) if self.share.rank == 0 else None
            step = of_first(0 if state is None else state["step"], device)
            if step and self.share.rank > 0:
                state = self.checkpoints.at(step, device)
            if everywhere(step == 0 or state is not None, device):
                if state is not None:
                    self.checkpoints.load(state, self.family)
                return state
        raise ResourceError(
            f"{self.run.uri}: the workers see different checkpoints", "give a storage that all machines share, such as s3://"
        )


def shares_statistics(asked: str | bool, rows: int) -> bool:
    """Whether workers normalize by the statistics of all: ``auto`` is where those of so many rows, which each has at once,
    are poor."""
    return rows < FEW_ROWS if asked == "auto" else bool(asked)


def together(family: Family, sync_batch_norm: bool) -> None:
    """Have a family learn with those of the other workers."""
    if sync_batch_norm:
        family.networks = {name: batch_norm.synchronized(network) for name, network in family.networks.items()}
    # Where batch statistics are not shared, ranks keep their own (broadcasting rank 0's at every forward would undo a step's
    # own update); rank 0 is the one that is exported.
    family.distribute(partial(DistributedDataParallel, broadcast_buffers=False))


def rate(progress: float, schedule: str, warmup: float) -> float:
    """The learning rate, as a share of the full one, when a share of the training is done; the cosine is half a period
    (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    if progress < warmup:
        return progress / warmup
    left = 1 - (progress - warmup) / (1 - warmup)
    return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[schedule]


def reduced(precision: str, device: torch.device) -> bool:
    """Whether to compute in bf16: where asked for, or (``auto``) on hardware that has it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def everywhere(here: bool, device: torch.device) -> bool:
    """Whether something is so on every rank."""
    if not dist.is_initialized():
        return here
    flag = torch.tensor(float(here), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())


def of_first(number: int, device: torch.device) -> int:
    """The number of rank 0."""
    if not dist.is_initialized():
        return number
    first = torch.tensor(number, device=device)
    dist.broadcast(first, 0)
    return int(first.item())


def spread(module: torch.nn.Module) -> None:
    """Give every rank what rank 0 has."""
    if dist.is_initialized():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def _mix(seed: int, step: int, purpose: int) -> int:
    """A seed of its own for each step and purpose."""
    return int(np.random.SeedSequence([seed, step, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))

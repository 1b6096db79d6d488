"""Batch normalization by several workers: what each makes of its part is what one would make of the whole batch."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raygen.generators import batch_norm

ROWS, WORLD = 12, 2


def learnt(network: nn.Module, images: Tensor, target: Tensor) -> list[Tensor]:
    """The output, the slope at the images, those at the parameters, and the buffers."""
    images = images.clone().requires_grad_()
    output = network(images)
    (output - target).square().sum().backward()
    assert images.grad is not None
    slopes = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return [output.detach(), images.grad, *slopes, *(buffer.float() for buffer in network.buffers())]


def worker(rank: int, network: nn.Module, images: Tensor, target: Tensor, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    mine = slice(0, 4) if rank == 0 else slice(4, ROWS)  # parts need not be as large as each other
    own = copy.deepcopy(network)  # spawned workers share its memory
    found = learnt(batch_norm.synchronized(own), images[mine], target[mine])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("mean", "deviation"), [(1.0, 2.0), (100.0, 0.01), (-20.0, 0.001)])
def test_a_small_variance_about_a_large_mean(tmp_path: Path, mean: float, deviation: float) -> None:
    torch.manual_seed(0)
    images = torch.randn(ROWS, 3, 8, 8) * deviation + mean
    network = nn.BatchNorm2d(3)
    alone = copy.deepcopy(network)(images)
    target = torch.zeros_like(images)
    torch.multiprocessing.spawn(worker, (network, images, target, str(tmp_path)), WORLD)  # type: ignore[no-untyped-call]
    both = torch.cat([torch.load(tmp_path / f"{rank}.pt")[0] for rank in range(WORLD)])
    torch.testing.assert_close(both, alone, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("affine", [True, False])
def test_two_workers_do_what_one_does_with_the_whole_batch(tmp_path: Path, affine: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.BatchNorm2d(3, affine=affine), nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5, affine=affine)
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    images, target = torch.randn(ROWS, 3, 8, 8) * 2 + 1, torch.randn(ROWS, 5, 6, 6)
    alone = learnt(copy.deepcopy(network), images, target)
    torch.multiprocessing.spawn(worker, (network, images, target, str(tmp_path)), WORLD)  # type: ignore[no-untyped-call]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    slopes = len(list(network.parameters()))
    for at, expected in enumerate(alone):
        if at < 2:
            found = torch.cat([part[at] for part in parts])
        else:
            found = sum(part[at] for part in parts) if at < 2 + slopes else parts[0][at]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

"""Batch normalization over the batches of all workers, on any device (torch's own is for GPUs only)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class SyncBatchNorm2d(nn.BatchNorm2d):
    """While training, the mean and the variance are those of every worker's rows together (Ioffe and Szegedy 2015, arXiv
    1502.03167), so that what is learnt does not depend on how many workers share a batch."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, height, width)`` → the same."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        mean, variance, count = shared_statistics(x.detach())
        self._note(mean, variance, count)
        weight = mean.new_ones(len(mean)) if self.weight is None else self.weight
        bias = mean.new_zeros(len(mean)) if self.bias is None else self.bias
        normalized: Tensor = _Normalize.apply(x, weight, bias, mean, variance, count, self.eps)  # type: ignore[no-untyped-call]
        return normalized

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.float() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


def shared_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean and the variance of each channel, and how many values of it there are, over all workers."""
    unused = x.new_zeros(x.shape[1], dtype=torch.float32)  # of its type are the statistics, whatever that of x is
    mean, variance = torch.batch_norm_update_stats(x, unused, unused.clone(), 0.0)
    count = x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)
    own = torch.cat([mean, variance, count])
    of_all = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(of_all, own)
    means, variances = torch.stack(of_all)[:, :-1].chunk(2, dim=1)
    counts = torch.stack(of_all)[:, -1:]
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    # Around the common mean: the difference of a mean square and a squared mean would be lost in rounding.
    return mean, (counts * (variances + (means - mean).square())).sum(0) / total, total


class _Normalize(torch.autograd.Function):
    """(x − mean) / √(variance + eps) · weight + bias, where the mean and the variance depend on every worker's x.

    Both ways it is torch's kernels that go over x, those of batch normalization by given statistics.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            slope, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([of_weight, of_bias])
        dist.all_reduce(sums)
        # What x does by way of the statistics: a linear function of the normalized x, in each channel.
        scale, shift = (-weight * torch.rsqrt(variance + ctx.eps) * (sums / count).view(2, -1)).unbind()
        of_x += torch.batch_norm(x, scale, shift, mean, variance, False, 0.0, ctx.eps, False)
        return of_x, of_weight, of_bias, None, None, None, None


def synchronized(network: nn.Module) -> nn.Module:
    """The network, its batch normalization over all workers. Parameters, buffers and their names stay as they are."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return network

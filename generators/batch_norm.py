"""Batch normalization over the batches of all workers, on any device (torch's own is for GPUs only)."""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as collective
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """While training, the mean and the variance are those of every worker's rows together (Ioffe and Szegedy 2015, arXiv
    1502.03167), so that what is learnt does not depend on how many workers share a batch."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, height, width)`` → the same."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        rows = x.float()
        count = x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)
        parts = torch.cat([rows.sum((0, 2, 3)), rows.square().sum((0, 2, 3)), count])
        sums = collective.all_reduce(parts)  # type: ignore[no-untyped-call]
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        variance = square - mean.square()
        self._note(mean.detach(), variance.detach(), sums[-1].detach())
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        normalized: Tensor = (rows * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
        return normalized

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.float() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


def synchronized(network: nn.Module) -> nn.Module:
    """The network, its batch normalization over all workers. Parameters, buffers and their names stay as they are."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return network

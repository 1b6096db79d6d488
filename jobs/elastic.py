"""Ray Train's workers on nodes that may come and go. It imports Ray Train, so a training imports it when it starts."""

import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train
from ray._raylet import PlacementGroupID
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision
from ray.util.placement_group import PlacementGroup

from raygen.jobs import placement
from raygen.machines import Resources
from raygen.resources import Demand

SETTLES = 3.0
"""Seconds until what somebody has just let go is seen to be free, all of it."""


def scaling(workers: int | tuple[int, int], each: Resources) -> ray.train.ScalingConfig:
    """What Ray Train reserves for workers; of its local mode, nothing."""
    resources = {"CPU": each.cpus, "GPU": each.gpus, "memory": each.memory or 0}
    return ray.train.ScalingConfig(
        num_workers=workers,  # type: ignore[arg-type]  # mypy sees Train V1, which has no elastic workers
        use_gpu=each.gpus > 0,
        resources_per_worker={name: amount for name, amount in resources.items() if amount} if workers else None,
        accelerator_type=each.accelerator,
        label_selector=dict(each.labels) or None,  # type: ignore[call-arg]
    )


class Trainer(TorchTrainer):
    """Ray Train's, whose elastic workers are counted where they can be: it counts the room of all nodes, whatever their
    labels are and whoever has taken it (2.60), and then waits in vain for more workers than there can be."""

    each: Resources | None = None

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        if self.each is not None and isinstance(self.scaling_config.num_workers, tuple):
            given["scaling_policy"] = Elastic(self.scaling_config, self.each)
        return super()._initialize_and_run_controller(**given)  # type: ignore[misc]  # mypy sees Train V1


class Elastic(ElasticScalingPolicy):
    """As many workers as there is room for, on nodes that have the labels: what is free, and what the workers have that are
    there already, or are still there though others are lost."""

    def __init__(self, scaling_config: Any, each: Resources) -> None:
        super().__init__(scaling_config)
        self.each, self.seen, self.since = each, 0, 0.0

    def make_decision_for_non_running_worker_group(self) -> Any:
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            # Until there is room again, Ray Train keeps what is left of its placement group; and Ray would look for a node
            # for the rest of it without a pause, which takes a core of the head.
            for group in held(self.each):
                ray.util.remove_placement_group(group)
        return decision

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        there = sum(held(self.each).values())
        room = min(there + placement.free(self.each), self.scaling_config.max_workers)
        if there:
            return room
        if room != self.seen:
            self.seen, self.since = room, time.monotonic()
        return room if time.monotonic() - self.since >= SETTLES else 0


def held(each: Resources) -> dict[PlacementGroup, int]:
    """The placement groups of this job for such workers, and for how many they hold resources on nodes that stay."""
    job, asked = ray.get_runtime_context().get_job_id(), placement.bundle(each)
    staying = placement.staying()
    return {
        PlacementGroup(PlacementGroupID(bytes.fromhex(identity))): sum(
            node in staying for node in group["bundles_to_node_id"].values()
        )
        for identity, group in ray.util.placement_group_table().items()
        if identity.endswith(job) and group["state"] != "REMOVED" and all(it == asked for it in group["bundles"].values())
    }


def waiting(demand: Demand, bundle: dict[str, float]) -> Callable[[], bool]:
    """Whether workers that have such resources each are waited for, and there is no room for them."""

    def waits() -> bool:
        job = ray.get_runtime_context().get_job_id()
        groups = [
            group["state"]
            for identity, group in ray.util.placement_group_table().items()
            if identity.endswith(job) and all(found == bundle for found in group["bundles"].values())
        ]
        if "PENDING" in groups or "CREATED" in groups:
            return "PENDING" in groups
        return placement.free(demand.each) < demand.workers

    return waits

"""What is to be known of machines that are bought: of AWS."""

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from raygen.cluster.config import ClusterConfig, Mistake, is_spot
from raygen.machines import MARKET

_WITH_GPUS = re.compile(r"(?:p|g|gr)\d")
"""How the names of AWS's machines with GPUs of NVIDIA begin."""


def mistakes(config: ClusterConfig) -> Iterator[Mistake]:
    if config.provider != "aws":
        return
    if not config.at("provider", "region", kind=str):
        yield Mistake(config.line("provider"), "provider.region is missing", "add it, such as region: us-west-2")
    for name, kind in config.machines():
        node = kind.get("node_config")
        if isinstance(node, dict):
            yield from _of_type(config, name, node)
    keys = ("head_setup_commands", "setup_commands")
    if any(key in config.document for key in keys) and not any(
        "boto3" in str(text) for key in keys for text in config.at(key, kind=list)
    ):
        line = config.line("head_setup_commands")
        yield Mistake(line, "nothing installs boto3 on the head, which starts the others with it", "add: pip install boto3")


def _of_type(config: ClusterConfig, name: str, node: dict[str, Any]) -> Iterator[Mistake]:
    where = ("available_node_types", name)
    line, is_head = config.line(*where, "node_config"), name == config.document.get("head_node_type")
    machine, spot = node.get("InstanceType"), is_spot(node)
    if not isinstance(machine, str):
        yield Mistake(line, f"{name}.node_config.InstanceType is missing", "say which machine, such as m7i.2xlarge")
        machine = ""
    if "ImageId" not in node and "LaunchTemplate" not in node:
        what = f"{name} has no ImageId: Ray would take Ubuntu 18.04, whose Python and NVIDIA driver are too old for raygen"
        yield Mistake(line, what, "name an image of your region with Python 3.11 or newer")
    if is_head and spot:
        at = config.line(*where, "node_config", "InstanceMarketOptions")
        what = f"the head, {name}, is a spot machine: when AWS takes it away, the cluster and its jobs are gone"
        yield Mistake(at, what, "leave out its InstanceMarketOptions")
    gpus = config.at(*where, "resources").get("GPU", 0)
    if machine and isinstance(gpus, int) and gpus and not _WITH_GPUS.match(machine):
        at = config.line(*where, "resources", "GPU")
        what = f"{name}.resources has {gpus} GPU{'s' * (gpus > 1)}, and a machine {machine} has none"
        yield Mistake(at, what, "leave GPU out, or choose a machine that has some, such as g5.2xlarge")
    said, market = config.at(*where, "labels").get(MARKET), "spot" if spot else "on-demand"
    if said is not None and said != market:
        at = config.line(*where, "labels", MARKET)
        yield Mistake(at, f"{name} is labelled {MARKET}: {said}, and is bought {market}", f"label it {market}")
    if "ssh_private_key" in config.at("auth") and not {"KeyName", "UserData"} & set(node):
        what = f"auth has a key of yours, and {name}.node_config no KeyName: nobody would get in"
        yield Mistake(line, what, "add what AWS calls the key, or leave auth.ssh_private_key out: Ray makes one")


def without_bucket(config: ClusterConfig) -> list[Mistake]:
    """Types whose machines have no rights on S3, as far as the file says."""
    if config.provider != "aws" or any(".aws" in text or "AWS_" in text for _, text in config.texts()):
        return []
    return [
        Mistake(
            config.line("available_node_types", name, "node_config"),
            f"{name} has no IamInstanceProfile: its machines may not read or write s3://",
            "add one that may, IamInstanceProfile: {Name: …}",
        )
        for name, kind in config.machines()
        if name != config.document.get("head_node_type")  # Ray gives the head one
        and isinstance(kind.get("node_config"), dict)
        and not {"IamInstanceProfile", "LaunchTemplate"} & set(kind["node_config"])
    ]


def missing_here(config: ClusterConfig) -> str | None:
    """What ``ray up`` needs on this machine and has not got: the name of a package."""
    return "boto3" if config.provider == "aws" and importlib.util.find_spec("boto3") is None else None

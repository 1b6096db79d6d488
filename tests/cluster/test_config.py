"""``ray-config.yaml`` with each of its blocks: what Ray makes of it, up to the machines that AWS would be asked for."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from cluster_files import Block, chosen, filled
from jsonschema import ValidationError
from moto import mock_aws

from raygen.cluster.schema import schema

GIB = 1 << 30


def prepare(document: dict[str, Any]) -> dict[str, Any]:
    """As ``ray up`` does it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(document))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("block", ["local", "aws"])
def test_ray_up_accepts_it(block: Block) -> None:
    document = yaml.safe_load(chosen(block))
    assert prepare(document)["provider"]["type"] == block
    assert set(document) - {"min_workers"} <= set(schema()["properties"])


def test_ray_up_would_say_so_if_it_did_not() -> None:
    with pytest.raises(ValidationError):
        prepare({**yaml.safe_load(chosen("local")), "max_worker": 3})


def test_the_blocks_say_all_that_differs() -> None:
    """Nothing of one is left when the other is chosen, and all else is the same."""
    local, aws = (yaml.safe_load(chosen(block)) for block in ("local", "aws"))
    blocks = local["metadata"]
    assert aws["metadata"] == blocks
    for document, mine, other in ((local, "local", "aws"), (aws, "aws", "local")):
        assert {key: document[key] for key in blocks[mine]} == blocks[mine]
        assert not (set(blocks[other]) - set(blocks[mine])) & set(document)
    same = (set(local) & set(aws)) - set(blocks["local"]) - set(blocks["aws"])
    assert same == {"cluster_name", "metadata", "file_mounts", "setup_commands", "worker_start_ray_commands"}
    assert {key: local[key] for key in same} == {key: aws[key] for key in same}


def test_machines_of_ones_own_are_all_used() -> None:
    prepared = prepare(yaml.safe_load(filled("local")))
    (machines,) = prepared["available_node_types"].values()
    assert machines["min_workers"] == machines["max_workers"] == prepared["max_workers"] == 2


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The file for AWS as Ray has prepared it, where something answers that knows AWS, its machines and what they have."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        import boto3

        client = boto3.client("iam")
        for name in ("raygen-head", "raygen-worker"):
            client.create_instance_profile(InstanceProfileName=name)
        prepared = prepare(yaml.safe_load(filled("aws")))
        types = [kind["node_config"]["InstanceType"] for kind in prepared["available_node_types"].values()]

        def listed(region: str, credentials: object) -> list[dict[str, Any]]:
            """Of the hundreds that there are, those that are used."""
            answer = boto3.client("ec2", region_name=region).describe_instance_types(InstanceTypes=sorted(set(types)))
            return list(answer["InstanceTypes"])

        monkeypatch.setattr("ray.autoscaler._private.aws.node_provider.list_ec2_instances", listed)
        yield prepared


def test_what_it_says_of_machines_is_what_aws_says(aws: dict[str, Any]) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    types = aws["available_node_types"]
    asked = copy.deepcopy(aws)
    for kind in asked["available_node_types"].values():
        kind["resources"] = {}
    found = AWSNodeProvider.fillout_available_node_types_resources(asked)["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    for name in set(types) - {"head"}:
        said, true = types[name]["resources"], found[name]["resources"]
        assert true["memory"] - GIB < said["memory"] <= true["memory"]  # what Ray leaves to tasks
        assert {**said, "memory": 0} == {**true, "memory": 0}
        accelerator = types[name]["labels"].get("ray.io/accelerator-type")
        assert (f"accelerator_type:{accelerator}" in true) == ("GPU" in true) == (accelerator is not None)
    assert AWSNodeProvider.fillout_available_node_types_resources(aws)["available_node_types"]["gpu"] == types["gpu"]


def test_what_ray_asks_of_aws(aws: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through all that ``ray up`` does on this side, to machines that run: spot ones, but for the head."""
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))
    config = AWSNodeProvider.bootstrap_config(aws)
    assert (tmp_path / ".ssh" / "ray-autoscaler_us-west-2.pem").stat().st_mode & 0o777 == 0o600
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name in ("head", "cpu", "gpu-spot", "gpu"):
        node = {**config["head_node"], **config["available_node_types"][name]["node_config"]}
        provider.create_node(node, {"ray-user-node-type": name, "ray-node-kind": "worker"}, 1)
    ec2 = boto3.client("ec2", region_name="us-west-2")
    machines = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for machine in reservation["Instances"]:
            machines[next(tag["Value"] for tag in machine["Tags"] if tag["Key"] == "ray-user-node-type")] = machine
    assert {name: machine["InstanceType"] for name, machine in machines.items()} == {
        "head": "m7i.xlarge", "cpu": "m7i.2xlarge", "gpu-spot": "g5.2xlarge", "gpu": "g5.2xlarge",
    }  # fmt: skip
    assert {name for name, machine in machines.items() if machine.get("InstanceLifecycle") == "spot"} == {"cpu", "gpu-spot"}
    profiles = {name: machine["IamInstanceProfile"]["Arn"].rsplit("/")[-1] for name, machine in machines.items()}
    assert profiles == {"head": "raygen-head", "cpu": "raygen-worker", "gpu-spot": "raygen-worker", "gpu": "raygen-worker"}
    disks = ec2.describe_volumes()["Volumes"]
    assert [disk["Size"] for disk in disks] == [100] * 4

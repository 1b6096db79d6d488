"""The file of a cluster for ``ray up``, ``ray-config.yaml``: read as Ray reads it, with the line of every key."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raygen.dialect import UNREADABLE, told
from raygen.errors import RaygenError

NAME = "ray-config.yaml"
_MERGE = "tag:yaml.org,2002:merge"

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Mistake:
    """What is wrong in the file.

    Attributes:
        line: where, from 1 on.
        what: is wrong.
        hint: what to do about it.
    """

    line: int
    what: str
    hint: str


@dataclass(frozen=True)
class NodeType:
    """Machines of one kind.

    Attributes:
        name: its key in the file.
        machine: what the cloud calls it (``g5.2xlarge``); None where it is not bought.
        resources: what Ray will say each has; None where nobody knows before the machine runs.
        labels: that Ray will give each.
        least: how many there always are.
        most: how many there may be.
        market: ``spot`` or ``on-demand``; None where it is not bought.
        disk: in GB, where the file says so.
        head: whether it is the head's.
    """

    name: str
    machine: str | None
    resources: Mapping[str, float] | None
    labels: Mapping[str, str]
    least: int
    most: int
    market: str | None
    disk: int | None
    head: bool


@dataclass
class ClusterConfig:
    """The file, as far as it could be read.

    Attributes:
        path: as the user gave it.
        document: what ``ray up`` sees in it.
        lines: of every key and list item that counts, by its key path.
        twice: keys that are there twice, of which the last one counts.
    """

    path: str
    document: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    twice: list[Mistake] = field(default_factory=list)

    def line(self, *path: str | int) -> int:
        """The line of a key, or of what would hold it."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1)

    def at(self, *path: str | int, kind: type = dict) -> Any:
        """What is there, if it is of this kind; else an empty one."""
        value: Any = self.document
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value if isinstance(value, kind) and not (kind is int and isinstance(value, bool)) else kind()

    @property
    def provider(self) -> str:
        """Who has the machines: ``local``, ``aws``, ….; empty where the file does not say."""
        return str(self.at("provider", "type", kind=str))

    def machines(self) -> list[tuple[str, dict[str, Any]]]:
        """The node types, as the file says them."""
        types = self.at("available_node_types")
        return [(name, types[name]) for name in types if isinstance(types[name], dict)]

    def node_types(self) -> list[NodeType]:
        """The head's first."""
        if self.provider == "local":
            return self._own()
        head, most_of_all = self.document.get("head_node_type"), self.at("max_workers", kind=int)
        types = []
        for name, said in self.machines():
            is_head = name == head
            node = said["node_config"] if isinstance(said.get("node_config"), dict) else {}
            least = _number(said.get("min_workers"), 0)
            most = min(_number(said.get("max_workers"), 0 if is_head else most_of_all), most_of_all)
            types.append(
                NodeType(
                    name=name,
                    machine=node.get("InstanceType") or node.get("machineType"),
                    resources=_resources(said.get("resources")),
                    labels=said["labels"] if isinstance(said.get("labels"), dict) else {},
                    least=least + is_head,
                    most=max(most, least) + is_head,
                    market="spot" if is_spot(node) else "on-demand" if self.provider == "aws" else None,
                    disk=_disk(node),
                    head=is_head,
                )
            )
        return sorted(types, key=lambda kind: not kind.head)

    def _own(self) -> list[NodeType]:
        """Machines that are there: what they have is not in the file."""
        there = len(self.at("provider", "worker_ips", kind=list))
        most = min(_number(self.document.get("max_workers"), there), there)
        least = min(_number(self.document.get("min_workers"), there), most)
        kinds = [("head", 1, 1, True), ("workers", least, most, False)]
        return [NodeType(name, None, None, {}, low, high, None, None, head) for name, low, high, head in kinds]

    def most_nodes(self) -> int:
        """The head, and as many others as there may be at once."""
        workers = sum(kind.most - kind.head for kind in self.node_types())
        return 1 + (workers if self.provider == "local" else min(workers, self.at("max_workers", kind=int)))

    def texts(self) -> Iterator[tuple[KeyPath, str]]:
        """Every text, but for those in ``metadata``, which Ray does not read."""
        yield from _texts({name: value for name, value in self.document.items() if name != "metadata"}, ())


def read(path: str | Path = NAME) -> ClusterConfig:
    """Read a file as ``ray up`` does: YAML 1.1, with anchors and merge keys.

    Raises:
        RaygenError: it is missing, or not YAML, or has no keys.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RaygenError(f"{path}: there is no such file", "give the path of a file for ray up; raygen has one") from None
    except (OSError, ValueError) as error:  # not UTF-8, or a path that cannot be one
        raise RaygenError(f"{path}: cannot be read ({error})", "give the path of a YAML text file") from None
    try:
        document = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        config = ClusterConfig(str(path), document)
        if not isinstance(root, yaml.MappingNode):
            raise RaygenError(f"{path}:1: has no keys", "cluster_name and provider are needed at least")
        _number_lines(root, (), config)
    except yaml.YAMLError as error:
        raise RaygenError(told(error, str(path)), "mend the syntax there") from None
    except UNREADABLE as error:
        raise RaygenError(f"{path}: has a value that cannot be read ({error})", "put text in quotes") from None
    config.twice = sorted(set(config.twice))
    return config


def _number_lines(node: yaml.Node, path: KeyPath, config: ClusterConfig) -> None:
    if isinstance(node, yaml.MappingNode):
        for name, (key, value) in _pairs(node, path, config).items():
            config.lines[*path, name] = key.start_mark.line + 1
            _number_lines(value, (*path, name), config)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            config.lines[*path, index] = value.start_mark.line + 1
            _number_lines(value, (*path, index), config)


def _pairs(node: yaml.MappingNode, path: KeyPath, config: ClusterConfig) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """The keys that count: its own, and of those that it merges (``<<: *block``) the others."""
    own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    merged: list[yaml.MappingNode] = []
    first: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in first:
            told = ".".join(map(str, (*path, name)))
            hint = "keep one of the two lines" if key.tag == _MERGE else "the last one would count: leave one out"
            config.twice.append(Mistake(line, f"{told} is there twice, first in line {first[name]}", hint))
        first.setdefault(name, line)
        if key.tag == _MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            own[name] = (key, value)
    for mapping in merged:
        for name, pair in _pairs(mapping, path, config).items():
            own.setdefault(name, pair)
    return own


def is_spot(node: Mapping[str, Any]) -> bool:
    """Whether a machine of this ``node_config`` may be taken away by its cloud."""
    options = node.get("InstanceMarketOptions")
    return isinstance(options, dict) and options.get("MarketType") == "spot"


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _resources(said: Any) -> Mapping[str, float] | None:
    """None where the cloud has to be asked: what is not said, it says."""
    if not isinstance(said, dict) or "CPU" not in said:
        return None
    return {str(name): amount for name, amount in said.items() if isinstance(amount, int | float)}


def _disk(node: Mapping[str, Any]) -> int | None:
    devices = node.get("BlockDeviceMappings")
    sizes = [
        device["Ebs"]["VolumeSize"]
        for device in (devices if isinstance(devices, list) else [])
        if isinstance(device, dict)
        and isinstance(device.get("Ebs"), dict)
        and isinstance(device["Ebs"].get("VolumeSize"), int)
    ]
    return sum(sizes) if sizes else None


def _texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, (*path, str(name)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))

"""What people get wrong in a cluster's file: what Ray's schema lets through, or tells without the line."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from raygen.cluster import clouds, schema, software
from raygen.cluster.config import ClusterConfig, KeyPath, Mistake
from raygen.errors import did_you_mean

TOKEN = "RAY_AUTH_MODE=token"  # noqa: S105 - it switches authentication on, and is none
_PLACEHOLDER = re.compile(r"(^|[.@/])example(\.|$)|^ami-0+$|\b0{12}\b|^<.*>$")
_MIB = 1 << 20


def mistakes(config: ClusterConfig) -> list[Mistake]:
    """All that are found, by line. What Ray itself says comes last, and only where nothing else explains it."""
    found = {*config.twice, *schema.mistakes(config)}
    for check in (_node_types, _own_machines, _start, _token, _mounts, _placeholders, software.mistakes, clouds.mistakes):
        found |= set(check(config))
    if not found and (refused := schema.refusal(config)) is not None:
        found = {refused}
    return sorted(found)


def _node_types(config: ClusterConfig) -> Iterator[Mistake]:
    types = dict(config.machines())
    if not types:
        return
    head = config.document.get("head_node_type")
    if head is None:
        line = config.line("available_node_types")
        yield Mistake(line, "head_node_type is missing", f"add it: one of {', '.join(types)}")
    elif not isinstance(head, str) or head not in types:
        what = f"head_node_type is {head!r}, which is not in available_node_types{did_you_mean(str(head), types)}"
        yield Mistake(config.line("head_node_type"), what, f"there are {', '.join(types)}")
    most_of_all, sum_ = config.document.get("max_workers"), 0
    for name, kind in types.items():
        least, most = kind.get("min_workers", 0), kind.get("max_workers", most_of_all)
        line = config.line("available_node_types", name, "min_workers")
        if not isinstance(least, int):
            continue
        sum_ += least
        if least < 0:
            yield Mistake(line, f"{name}.min_workers is {least}", "0 or more")
        elif isinstance(most, int) and least > most:
            of = f"{name}.max_workers" if "max_workers" in kind else "max_workers of the cluster"
            yield Mistake(line, f"{name}.min_workers is {least}, more than {of}, {most}", "raise that, or lower this")
        yield from _resources(config, name)
    if isinstance(most_of_all, int) and sum_ > most_of_all:
        what = f"max_workers is {most_of_all}, and the node types have {sum_} min_workers together"
        yield Mistake(config.line("max_workers"), what, "raise it, or lower some min_workers")


def _resources(config: ClusterConfig, name: str) -> Iterator[Mistake]:
    for resource, amount in config.at("available_node_types", name, "resources").items():
        line = config.line("available_node_types", name, "resources", resource)
        if resource not in ("CPU", "GPU") and str(resource).upper() in ("CPU", "GPU", "CPUS", "GPUS"):
            right = str(resource).upper().rstrip("S")
            what = f"{name}.resources.{resource} is nothing that Ray knows: it would be a resource of that name"
            yield Mistake(line, what, f"write {right}")
        if resource == "memory" and isinstance(amount, int) and 0 < amount < _MIB:
            what = f"{name}.resources.memory is {amount} bytes"
            yield Mistake(line, what, f"memory is in bytes: {amount} GiB are {amount << 30:_}")


def _own_machines(config: ClusterConfig) -> Iterator[Mistake]:
    if config.provider != "local":
        return
    for key in ("available_node_types", "head_node_type"):
        if key in config.document:
            what = f"{key} does not go with machines of your own, which are as they are"
            yield Mistake(config.line(key), what, "leave it out; provider has head_ip and worker_ips")
    if config.at("provider", "coordinator_address", kind=str):
        return
    head, workers = config.at("provider", "head_ip", kind=str), config.at("provider", "worker_ips", kind=list)
    for key in ("head_ip", "worker_ips"):
        if key not in config.at("provider"):
            yield Mistake(config.line("provider"), f"provider.{key} is missing", "write which machines there are")
    seen = {head: config.line("provider", "head_ip")}
    for index, ip in enumerate(workers):
        line = config.line("provider", "worker_ips", index)
        if ip in seen:
            hint = "the head works, too, without being named twice" if ip == head else "leave one out"
            yield Mistake(line, f"provider.worker_ips has {ip}, which line {seen[ip]} has already", hint)
        seen.setdefault(ip, line)
    for key in ("min_workers", "max_workers"):
        count = config.document.get(key)
        if isinstance(count, int) and count > len(workers):
            what = f"{key} is {count}, and provider.worker_ips has {len(workers)}"
            yield Mistake(config.line(key), what, "leave it out: then it is all of them")
    if not config.at("auth", "ssh_user", kind=str):
        yield Mistake(config.line("auth"), "auth.ssh_user is missing", "write as whom ssh logs in to the machines")
    for line, start in _starts(config, "head_start_ray_commands"):
        if len(workers) > 1 and "RAY_enable_autoscaler_v2=0" not in start:
            what = f"the newer autoscaler of Ray {software.here('ray')} starts one of {len(workers)} machines of your own"
            yield Mistake(line, what, "write RAY_enable_autoscaler_v2=0 before this ray start")


def _start(config: ClusterConfig) -> Iterator[Mistake]:
    wanted = {
        "head_start_ray_commands": ("--head", "--autoscaling-config=~/ray_bootstrap_config.yaml"),
        "worker_start_ray_commands": ("--address=$RAY_HEAD_IP:6379",),
    }
    for key, options in wanted.items():
        if key not in config.document:
            continue
        starts = _starts(config, key)
        if not starts:
            yield Mistake(config.line(key), f"{key} has no ray start: no Ray would run there", f"add ray start {options[0]}")
        for line, start in starts:
            for option in options:
                if (name := option.split("=")[0]) not in start:
                    yield Mistake(line, f"ray start has no {name}: there would be no workers", f"add {option}")


def _token(config: ClusterConfig) -> Iterator[Mistake]:
    """All of them ask for a token, and have it; or none does, which is no mistake, but is told."""
    starts = {key: _starts(config, key) for key in ("head_start_ray_commands", "worker_start_ray_commands")}
    asked = {key: [TOKEN in start for _, start in starts[key]] for key in starts}
    if not any(any(said) for said in asked.values()):
        return
    for key, said in asked.items():
        for (line, _), has in zip(starts[key], said, strict=True):
            if not has:
                what = f"ray start without {TOKEN}, which the other machines start with: they could not join"
                yield Mistake(line, what, f"write {TOKEN} before ray start")
        if key not in config.document:
            what = f"{key} is missing: Ray's own start without {TOKEN}, and could not join"
            yield Mistake(config.line("head_start_ray_commands"), what, "write both")
    mounted = any("auth_token" in str(remote) for remote in config.at("file_mounts"))
    if not mounted and not any("RAY_AUTH_TOKEN" in text or "auth_token" in text for _, text in config.texts()):
        line = next(line for key in starts for line, start in starts[key] if TOKEN in start)
        what = f"{TOKEN}, and nothing brings the token to the machines"
        yield Mistake(line, what, "add to file_mounts: ~/.ray/auth_token: ~/.ray/auth_token")


def asks_for_token(config: ClusterConfig) -> bool:
    """Whether whoever reaches the cluster needs one."""
    return any(TOKEN in start for _, start in _starts(config, "head_start_ray_commands"))


def _starts(config: ClusterConfig, key: str) -> list[tuple[int, str]]:
    commands = enumerate(config.at(key, kind=list))
    return [(config.line(key, i), str(text)) for i, text in commands if re.search(r"\bray start\b", str(text))]


def _mounts(config: ClusterConfig) -> Iterator[Mistake]:
    for remote, local in config.at("file_mounts").items():
        if isinstance(local, str) and not Path(local).expanduser().exists():
            where = "" if Path(local).expanduser().is_absolute() else f" below {Path.cwd()}"
            if local.endswith(".whl"):
                hint = "raygen cluster wheel makes it; the path is taken from the folder in which the command runs"
            elif local.endswith("auth_token"):
                hint = "ray get-auth-token --generate makes it"
            else:
                hint = "make it, or mend the path, which is taken from the folder in which the command runs"
            yield Mistake(config.line("file_mounts", remote), f"file_mounts: {local} is not there{where}", hint)
    key = config.at("auth", "ssh_private_key", kind=str)
    if not key:
        return
    line, file = config.line("auth", "ssh_private_key"), Path(key).expanduser()
    if not file.is_file():
        yield Mistake(line, f"auth.ssh_private_key: {key} is not there", "give the key that lets you in to the machines")
    elif file.stat().st_mode & 0o077:
        what = f"auth.ssh_private_key: others may read {key}, and ssh does not use such a key"
        yield Mistake(line, what, f"chmod 600 {shlex.quote(key) if ' ' in key else key}")


def _placeholders(config: ClusterConfig) -> Iterator[Mistake]:
    for path, text in config.texts():
        if len(text) < 100 and _PLACEHOLDER.search(text):
            yield Mistake(config.line(*path), f"{text} is a placeholder", f"put in your own {_noun(path)}")


def _noun(path: KeyPath) -> str:
    return next(str(step) for step in reversed(path) if isinstance(step, str))

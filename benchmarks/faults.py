"""Is a dataset the same whatever happens while it is made? Kills at random moments, a storage that fails, a full disk.

Each round disturbs ``raygen augment``, gives the same command again until it succeeds, and then compares every file with
an undisturbed dataset. While it runs, a thread looks at every file that has its final name. The ratio is that of the faults
after which all was as it should be.

    python benchmarks/faults.py [--kills 30] [--seed 0] [--only WORD]
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from scale import tiny

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # before this folder, whose faults.py this is
import faults as at
from faults import Bucket, Command, Ended, Hashes, Local, Place, Scene
from s3 import Fault, Proxy, Server, clients

SHARDS, SHARD_ROWS, TARGET = 80, 4000, 1.0
OTHER = ["--set", "augment.seed=8"]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


class Ground:
    """Where all rounds take place: the spec with its generator, undisturbed datasets, a folder for outputs."""

    def __init__(self, folder: Path, seed: int, cluster: Any) -> None:
        import raygen

        self.folder, self.draw, self.cluster = folder, random.Random(seed), cluster
        self.faults: Counter[str] = Counter()
        document = tiny(folder)
        document["augment"] |= {"rows": SHARDS * SHARD_ROWS, "shard_rows": SHARD_ROWS}
        raygen.train(document)
        document["storage"] = f"file://{document['storage']}"  # nodes are of one machine, and so share it
        document["dataset"]["path"] = f"file://{document['dataset']['path']}"
        self.spec = folder / "tiny.yaml"
        self.spec.write_text(yaml.safe_dump(document))
        self.undisturbed = self._undisturbed("seed-7", [])
        self.other = self._undisturbed("seed-8", OTHER)

    def _undisturbed(self, name: str, options: list[str]) -> Hashes:
        place = Local(self.folder / name)
        began = time.monotonic()
        ended = Scene(self.spec, place, {}, options, {"RAY_ADDRESS": self.cluster.address}).end()
        assert ended.code == 0, ended
        say(f"{name}: an undisturbed dataset of {SHARDS} parts in {time.monotonic() - began:.0f} s")
        return at.hashes(place)

    def scene(self, place: Place | str, address: str | None = None) -> Scene:
        """In the cluster, or in a Ray of its own where the address is ``local``."""
        place = Local(self.folder / place) if isinstance(place, str) else place
        address = address or self.cluster.address
        return Scene(self.spec, place, self.undisturbed, environment={"RAY_ADDRESS": address})

    def count(self, kind: str, what: str = "") -> None:
        """A fault has been injected."""
        self.faults[kind] += 1
        say(f"  {kind} {what}".rstrip())

    def moments(self, number: int) -> list[int]:
        """How many receipts there are to be when something happens."""
        return sorted(self.draw.sample(range(SHARDS - 10), number))

    def after(self, command: Command, receipts: int) -> bool:
        """Wait until a moment that is not tied to the end of a write."""
        there = command.reach(receipts)
        time.sleep(self.draw.uniform(0, 0.15))
        return there and command.running


def actors(ground: Ground, name: str, kills: int) -> None:
    """Several workers of one job, one after the other."""
    scene = ground.scene(name, "local")
    with scene.watched():
        left = kills
        while left:
            with scene.command() as command:
                for moment in ground.moments(left):
                    if ground.after(command, moment) and (victim := command.kill_worker(ground.draw)):
                        ground.count("actor", f"{victim} at {moment} receipts")
                        left -= 1
                ended = command.end()
                tolerable(ended)
            if ended.code == 0:
                break
    scene.recover()


def drivers(ground: Ground, name: str, kills: int, address: str | None) -> None:
    """The driver of the same job again and again; the next one starts while orphans are about, or after."""
    scene = ground.scene(name, address)
    with scene.watched():
        for moment in ground.moments(kills):
            with scene.command() as command:
                if moment % 4 == 0:  # while it starts, or whatever it does by then
                    time.sleep(ground.draw.uniform(0.5, 6))
                else:
                    ground.after(command, moment)
                if not command.kill():
                    tolerable(command.end())
                    continue
                ground.count("driver", f"at {len(scene.place.list('_raygen/receipts'))} receipts")
                if address == "local" and ground.draw.random() < 0.5:
                    say(f"  its Ray was gone after {command.orphans_gone():.1f} s")
    scene.recover()


def raylets(ground: Ground, name: str, kills: int) -> None:
    """Nodes of a cluster, beside the one where the driver is."""
    scene = ground.scene(name)
    scene.options = ["--set", "augment.workers=auto"]
    nodes = [at.second_node(ground.cluster) for _ in range(kills)]
    with scene.watched(), scene.command() as command:
        for node, moment in zip(nodes, ground.moments(kills), strict=True):
            if ground.after(command, moment):
                at.kill_raylet(node)
                ground.count("raylet", f"at {moment} receipts")
        tolerable(command.end())
    for node in nodes:
        with contextlib.suppress(Exception):  # what is left of it
            ground.cluster.remove_node(node, allow_graceful=False)
    scene.recover()


def s3_restart(ground: Ground, name: str, server: Server) -> None:
    scene = in_bucket(ground, name, server)
    with scene.watched(), scene.command() as command:
        for moment in ground.moments(3):
            if ground.after(command, moment):
                server.kill()
                ground.count("S3 server killed", f"at {moment} receipts")
                server.start()
        tolerable(command.end())
    scene.recover()


def s3_away(ground: Ground, name: str, server: Server) -> None:
    """It stays away for longer than requests are repeated."""
    scene = in_bucket(ground, name, server)
    with scene.watched(), scene.command() as command:
        assert ground.after(command, 15)
        server.kill()
        ground.count("S3 server away")
        began = time.monotonic()
        ended = command.end()
        say(f"  given up after {time.monotonic() - began:.0f} s: {ended}")
        server.start()
    assert ended.refused, ended
    scene.recover()


def s3_proxy(ground: Ground, name: str, server: Server, proxy: Proxy, *faults: Fault) -> None:
    scene = in_bucket(ground, name, server)
    proxy.order(*faults)
    proxy.struck.clear()
    proxy.exchanges.clear()
    with scene.watched(), scene.command() as command:
        ended = command.end()
    proxy.order()
    tolerable(ended)
    assert proxy.struck, "no fault has struck"
    ground.count(f"proxy: {name}", f"struck {len(proxy.struck)} of {len(proxy.exchanges)} exchanges; {ended}")
    scene.recover()


def two_drivers(ground: Ground, scene: Scene) -> None:
    """The same command twice, at once."""
    ground.count("two drivers", scene.place.uri)
    with scene.watched(), scene.command() as one, scene.command() as two:
        for ended in (one.end(), two.end()):
            assert ended.code == 0 or ended.refused, ended
            say(f"  {ended}")
    scene.check()


def two_seeds(ground: Ground, scene: Scene) -> None:
    """Two jobs, one output: one of them gets it."""
    ground.count("two seeds", scene.place.uri)
    with scene.command() as one, scene.command(*OTHER) as two:
        ended = [one.end(), two.end()]
    assert sorted(end.code for end in ended) == [0, 2], [str(end) for end in ended]
    (loser,) = (end for end in ended if end.code)
    say(f"  {loser}")
    assert loser.refused
    if loser is ended[0]:
        scene.reference, scene.options = ground.other, OTHER
    scene.check()


def full_disk(ground: Ground, name: str) -> None:
    folder = ground.folder / name
    try:
        with at.tmpfs(folder, "2m"):
            scene = ground.scene(Local(folder / "out"))
            ground.count("full disk")
            with scene.watched():
                ended = scene.end()
            say(f"  {ended}")
            assert ended.refused, ended
            assert not [part for part in scene.place.list("data") if part.endswith(".tmp")]
            at.enlarge(folder, "100m")
            scene.recover()
    except PermissionError as error:
        say(f"  skipped: {error}")


def overwrite(ground: Ground, scene: Scene) -> None:
    """The driver is killed while the new dataset is written, and while it takes the place of the old one."""
    assert scene.end().code == 0
    old = scene.reference
    new = Scene(scene.spec, scene.place, ground.other, [*OTHER, "--overwrite"], scene.environment, before=old)
    with new.watched():
        for part in ("", "part-00030", "part-00060"):
            with new.command() as command:
                met = command.wait_for(lambda part=part: any(part in name for name in written_beside(new.place)))
                if met and command.kill():
                    ground.count("overwrite, while it is written")
            scene.check_data()
            assert scene.verify().code == 0
        for gone in (0, SHARDS // 2, SHARDS - 1):
            with new.command() as command:
                met = command.wait_for(lambda gone=gone: moved(new, gone))
                if command.kill() and met:
                    ground.count("overwrite, while it is moved", f"{sum(new_parts(new))} of {SHARDS} parts")
    new.recover()
    assert not [name for name in new.place.list("_raygen") if name.startswith(("next-", "moving"))]


def written_beside(place: Place) -> list[str]:
    return [name for name in place.list("_raygen") if name.startswith("next-") and name.endswith(".parquet")]


def new_parts(scene: Scene) -> Iterator[bool]:
    return (found == scene.reference.get(name) for name, found in at.hashes(scene.place).items())


def moved(scene: Scene, parts: int) -> bool:
    """Whether the move has begun and so many parts are no longer beside."""
    return "moving.json" in scene.place.list("_raygen") and len(written_beside(scene.place)) <= SHARDS - parts


def tolerable(ended: Ended) -> None:
    """What a disturbed command may do: succeed all the same, or one clear line."""
    assert ended.code == 0 or ended.refused, f"disturbed: {ended}"


def in_bucket(ground: Ground, name: str, server: Server) -> Scene:
    return ground.scene(Bucket(server, f"s3://data/{name}"))


Round = tuple[str, Callable[[], None]]


def rounds(ground: Ground, kills: int, server: Server, proxy: Proxy) -> Iterator[Round]:
    """What is done, by name."""
    per_kind = -(-kills // 3)
    for number, few in enumerate(_shared(per_kind, 5)):
        yield f"actors {number}", lambda n=number, few=few: actors(ground, f"actors-{n}", few)
    for number, few in enumerate(_shared(per_kind, 5)):
        address = None if number else "local"
        yield f"drivers {number}", lambda n=number, few=few, a=address: drivers(ground, f"drivers-{n}", few, a)
    for number, few in enumerate(_shared(per_kind, 2)):
        yield f"raylets {number}", lambda n=number, few=few: raylets(ground, f"raylets-{n}", few)
    yield "S3 restart", lambda: s3_restart(ground, "restart", server)
    yield "S3 away", lambda: s3_away(ground, "away", server)
    faults = {
        "resets": [Fault("request", "reset", 200, None, None, 0.1), Fault("answer", "reset", 100, None, None, 0.1)],
        "truncated": [Fault("request", "close", 2000, None, None, 0.1), Fault("answer", "close", 150, None, None, 0.1)],
        "stalls": [Fault("request", "stall", 0, 30, 2, 0.1), Fault("answer", "stall", 0, 30, 2, 0.1)],
    }
    for name, some in faults.items():
        yield f"S3 {name}", lambda name=name, some=some: s3_proxy(ground, name, server, proxy, *some)
    yield "two drivers", lambda: two_drivers(ground, ground.scene("two", "local"))
    yield "two drivers, S3", lambda: two_drivers(ground, in_bucket(ground, "two", server))
    yield "two seeds", lambda: two_seeds(ground, ground.scene("seeds"))
    yield "two seeds, S3", lambda: two_seeds(ground, in_bucket(ground, "seeds", server))
    yield "full disk", lambda: full_disk(ground, "disk")
    yield "overwrite", lambda: overwrite(ground, ground.scene("over"))
    yield "overwrite, S3", lambda: overwrite(ground, in_bucket(ground, "over", server))


def _shared(number: int, most: int) -> list[int]:
    """A number in parts of at most so many."""
    return [min(most, number - start) for start in range(0, number, most)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="rounds with this in their name")
    asked = parser.parse_args()
    began = time.monotonic()
    recovered = 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as closing:
        os.environ.update(RAY_AUTH_MODE="disabled", OMP_NUM_THREADS="1", HOME=name)
        folder = Path(name)
        server = closing.enter_context(Server(folder / "s3"))
        server.bucket("data")
        proxy = closing.enter_context(Proxy(server.port, asked.seed))
        closing.enter_context(clients(server.environment(endpoint=proxy.url)))  # for the workers of the cluster, too
        ground = Ground(folder, asked.seed, closing.enter_context(at.nodes(cpus=2)))
        for what, disturb in rounds(ground, asked.kills, server, proxy):
            if asked.only not in what:
                continue
            say(what)
            before = ground.faults.total()
            try:
                disturb()
            except (AssertionError, subprocess.TimeoutExpired) as error:
                say(f"  NOT RECOVERED: {error}")
            else:
                recovered += ground.faults.total() - before
            proxy.order()
            if server.process is None:
                server.start()
    faults = dict(ground.faults)
    kills = {kind: sum(n for name, n in faults.items() if name.startswith(kind)) for kind in ("actor", "driver", "raylet")}
    kills["driver"] += sum(n for name, n in faults.items() if name.startswith("overwrite"))
    print(json.dumps({"name": "faults", "ratio": round(recovered / max(1, sum(faults.values())), 3), "target": TARGET,
                      "injected": sum(faults.values()), "recovered": recovered, "kills": kills, "faults": faults,
                      "seconds": round(time.monotonic() - began)}, ensure_ascii=False))  # fmt: skip


if __name__ == "__main__":
    main()

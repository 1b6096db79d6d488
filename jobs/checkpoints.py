"""The checkpoints of a training run: whole files, the last few, the newest that is whole first."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raygen.datasets.storage import Folder
from raygen.errors import OutputError
from raygen.generators.base import Family, local
from raygen.jobs import progress

_DIGEST = 64  # characters, before the content


class Checkpoints:
    """Of a run. They hold what a family and its training loop need to go on as if nothing had happened.

    Several may write them at once, such as a driver that was taken for dead and the next one: the state after a step is the
    same whoever has got there, so any of them can go on from any.
    """

    def __init__(self, run: Folder) -> None:
        self.folder = run / "checkpoints"

    def save(self, step: int, family: Family, loop: dict[str, Any], kept: int) -> bool:
        """Write the state after a step; ``loop`` has numbers, text and tensors. The last ``kept`` checkpoints stay.

        Returns:
            Whether this is the newest one: nobody else has got further.
        """
        buffer = io.BytesIO()
        torch.save({"step": step, "loop": loop, "family": family.state_dict()}, buffer)
        content = buffer.getvalue()
        self.folder.write(_name(step), hashlib.sha256(content).hexdigest().encode() + content)
        names = self.names()
        for name in names[:-kept]:
            self.folder.delete(name)
        self.folder.sweep()
        return max(names, default="") <= _name(step)

    def load(self, state: dict[str, Any], family: Family) -> None:
        """Give a family the state that it was saved in.

        Raises:
            OutputError: it is of another architecture; a parameter that differs is named. Nothing has been loaded then.
        """
        networks = {name: local(network) for name, network in family.networks.items()}
        check_same(self.folder, networks, state["family"]["networks"], f"begin anew: remove {self.folder.uri}")
        family.load_state_dict(state["family"])

    def newest(self, device: torch.device) -> dict[str, Any] | None:
        """What ``save`` wrote last, of what is whole: ``step``, ``loop`` and ``family``; None where nothing is."""
        while names := self.names():
            for name in reversed(names):
                try:
                    state = self._read(name, device)
                except FileNotFoundError:  # since the list, somebody has written newer ones
                    break
                if state is not None:
                    return state
                then = "beginning anew" if name == names[0] else "going back to the one before"
                progress.say(f"{self.folder.uri}/{name}: is not what was written, {then}")
            else:
                break
        return None

    def at(self, step: int, device: torch.device) -> dict[str, Any] | None:
        """What ``save`` wrote after a step; None where that is not there any more, or not whole."""
        try:
            return self._read(_name(step), device)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        return [name for name in self.folder.names() if name.startswith("step-") and name.endswith(".pt")]

    def _read(self, name: str, device: torch.device) -> dict[str, Any] | None:
        content = self.folder.read(name)
        if hashlib.sha256(content[_DIGEST:]).hexdigest().encode() != content[:_DIGEST]:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(content[_DIGEST:]), map_location=device, weights_only=True)
        return state


def _name(step: int) -> str:
    return f"step-{step:09d}.pt"


def check_same(where: Folder, here: Mapping[str, nn.Module], there: Mapping[str, Mapping[str, Tensor]], hint: str) -> None:
    """Fail unless weights fit networks, by their names.

    Raises:
        OutputError: one does not; a network or a parameter that differs is named.
    """
    if here.keys() != there.keys():
        raise OutputError(f"{where.uri}: has the networks {', '.join(there)}, not {', '.join(here)}", hint)
    for network, module in here.items():
        own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        given = {name: tuple(tensor.shape) for name, tensor in there[network].items()}
        for name in sorted({*own, *given}):
            if own.get(name) != given.get(name):
                shapes = [str(shapes[name]) if name in shapes else "missing" for shapes in (given, own)]
                key = f"{network}.{name}" if network else name
                raise OutputError(
                    f"{where.uri}: is of another architecture: {key} is {shapes[0]} there, {shapes[1]} here", hint
                )

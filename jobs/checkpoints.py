"""The checkpoints of a training run: whole files, the last few, the newest that can be read first."""

import io
from typing import Any

import torch

from raygen.datasets.storage import Folder
from raygen.errors import OutputError
from raygen.generators.base import Family
from raygen.jobs import progress

KEPT = 2


class Checkpoints:
    """Of a run. They hold what a family and its training loop need to go on as if nothing had happened."""

    def __init__(self, run: Folder) -> None:
        self.folder = run / "checkpoints"

    def save(self, step: int, family: Family, loop: dict[str, Any]) -> None:
        """Write the state after a step; ``loop`` has numbers, text and tensors."""
        buffer = io.BytesIO()
        torch.save({"step": step, "loop": loop, "family": family.state_dict()}, buffer)
        self.folder.write(f"step-{step:09d}.pt", buffer.getvalue())
        for name in self.names()[:-KEPT]:
            self.folder.delete(name)

    def restore(self, family: Family) -> tuple[int, dict[str, Any] | None]:
        """Steps done, and what the loop had saved: of the newest checkpoint that is whole, or nothing."""
        for name in reversed(self.names()):
            try:
                state = self.load(name, family.device)
                family.load_state_dict(state["family"])
                return int(state["step"]), state["loop"]
            except FileNotFoundError:
                continue
            except OutputError:
                raise  # the storage, not the file: another rank may well read it
            except Exception as error:  # torch raises whatever the broken bytes lead it to
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                progress.say(f"{self.folder.uri}/{name}: cannot be read ({reason}); going back to the one before")
        return 0, None

    def load(self, name: str, device: torch.device) -> dict[str, Any]:
        """What ``save`` wrote."""
        state: dict[str, Any] = torch.load(io.BytesIO(self.folder.read(name)), map_location=device, weights_only=True)
        return state

    def names(self) -> list[str]:
        return [name for name in self.folder.names() if name.startswith("step-") and name.endswith(".pt")]

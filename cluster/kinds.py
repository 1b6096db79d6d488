"""The words that a command takes for what there is of something; here, so that the command line knows them at once."""

from typing import Literal

Kind = Literal["job", "service", "cluster"]
"""Of resources that KubeRay knows."""
Job = Literal["run", "train", "augment", "evaluate"]
"""Of jobs of a spec."""

"""``ray-config.yaml`` against Ray's own schema, the way ``ray up`` checks it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / "ray-config.yaml"


def check(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_ray_up_accepts_it() -> None:
    check(yaml.safe_load(CONFIG.read_text()))


def test_ray_up_would_say_so_if_it_did_not() -> None:
    import jsonschema

    config = yaml.safe_load(CONFIG.read_text())
    with pytest.raises(jsonschema.ValidationError):
        check({**config, "max_worker": 3})

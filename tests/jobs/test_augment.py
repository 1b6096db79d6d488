"""Augmentation, killed: what a user finds after running the same command again."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import raygen


def parts(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.mark.slow
def test_a_killed_driver_goes_on_to_the_same_bytes(ray: None, small: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL half-way through; then the same command, and an undisturbed one elsewhere."""
    small["augment"] |= {"rows": 6000, "shard_rows": 100, "workers": 2}
    raygen.train(small)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(small))
    call = [str(Path(sys.executable).with_name("raygen")), "augment", str(path)]
    output = Path(small["storage"]) / "small" / "dataset"
    receipts = output / "_raygen" / "receipts"
    with subprocess.Popen(call) as process:
        deadline = time.monotonic() + 120
        while not receipts.exists() or len(list(receipts.glob("0*.json"))) < 5:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not (output / "_raygen" / "manifest.json").exists()
    done = {file.name: file.stat().st_mtime_ns for file in receipts.glob("0*.json")}
    assert 5 <= len(done) < 60

    manifest = raygen.augment(small)
    assert {name: (receipts / name).stat().st_mtime_ns for name in done} == done  # what was done is not done again
    assert [part["shard"] for part in manifest["parts"]] == list(range(60))
    assert set(manifest["counts"].values()) == {600}
    elsewhere = tmp_path / "elsewhere"
    raygen.augment({**small, "augment": {**small["augment"], "output": str(elsewhere)}})
    assert parts(output / "data") == parts(elsewhere / "data")

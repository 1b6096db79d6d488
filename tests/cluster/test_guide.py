"""Every command of docs/cluster.md, as it stands there, on a real cluster of two nodes with a dashboard, over a real S3
server. Only the addresses are those of the test, and the spec is a smaller one of the same name."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml
from s3 import Server

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_guide(small: dict[str, Any], s3: str, s3_server: Server, tmp_path: Path) -> None:
    s3_server.upload(Path(small["dataset"]["path"]), f"{s3}/real")
    spec = {**small, "name": "digits", "dataset": {**small["dataset"], "path": f"{s3}/real"}}
    (tmp_path / "examples").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "examples" / "digits.yaml").write_text(yaml.safe_dump(spec))
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_ed25519").touch(0o600)
    config = (ROOT / "ray-config.yaml").read_text(encoding="utf-8")
    (tmp_path / "ray-config.yaml").write_text(re.sub(r"\b(head|worker-\d)\.example\.internal", r"\1", config))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home)}
    environment.pop("XDG_CONFIG_HOME", None)
    with faults.nodes(cpus=1, include_dashboard=True) as cluster:
        faults.second_node(cluster)
        mine = GUIDE.replace("http://10.0.0.5:8265", f"http://{cluster.head_node.webui_url}").replace("s3://bucket", s3)
        (clusters,) = re.findall(r"^```yaml\n(lab:.*?)^```$", mine, re.MULTILINE | re.DOTALL)
        (home / ".config" / "raygen").mkdir(parents=True)
        (home / ".config" / "raygen" / "clusters.yaml").write_text(clusters)
        script = runpy.run_path(str(ROOT / ".ci" / "readme.py"))["script"](mine)
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "at least   3 machines" in done.stdout
    assert re.search(r"stopped    raygen-run-digits-[0-9a-f]{12}, attempt 1\n", done.stdout)
    assert re.search(r"job        raygen-run-digits-[0-9a-f]{12}, attempt 2\n", done.stdout)
    assert re.search(
        r"raygen-run-digits-[0-9a-f]{12}-2: has succeeded|raygen-run-digits-[0-9a-f]{12}: has succeeded", done.stdout
    )
    assert faults.Bucket(s3_server, f"{s3}/raygen/digits/dataset").list("data")
    assert {path.name for path in (tmp_path / "store").iterdir()} >= {"job.yaml", "cluster.yaml"}

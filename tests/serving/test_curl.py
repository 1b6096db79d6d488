"""The examples for curl, run as they are."""

import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import endpoints
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raygen.serving import auth
from raygen.serving.auth import Token

SCRIPT = Path(__file__).parents[2] / "examples" / "curl.sh"


def run(folder: Path, port: int, token: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAYGEN_TOKEN": token}
    command = ["sh", str(SCRIPT), f"http://127.0.0.1:{port}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_every_example_is_answered(tmp_path: Path) -> None:
    token, sha256 = auth.make()
    models = endpoints.models(tmp_path / "store")
    with endpoints.served(endpoints.api(models, [Token(name="ana", sha256=sha256)])) as port:
        done = run(tmp_path, port, token)
        refused = run(tmp_path, port, "rg_wrong")
    assert done.returncode == 0, done.stdout + done.stderr
    generator = models.find("digits").generator
    table = generator.sample(range(1000), 1)
    assert pq.read_table(tmp_path / "digits.parquet").equals(table)
    with pa.OSFile(str(tmp_path / "digits.arrow")) as file, pa.OSFile(str(tmp_path / "more.arrow")) as more:
        assert pa.ipc.open_stream(file).read_all().equals(table)
        assert pa.ipc.open_stream(more).read_all().equals(generator.sample(range(1000, 2000), 1))
    for name, size in (("sevens.png", (32, 9)), ("between.png", (72, 9))):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == size
    sevens = generator.sample(range(4), 1, 7)
    with zipfile.ZipFile(tmp_path / "sevens.zip") as archive:
        assert [archive.read(name) for name in archive.namelist()] == sevens["image"].to_pylist()
    assert len(json.loads((tmp_path / "sevens.json").read_text())["rows"]) == 4
    assert len(json.loads((tmp_path / "images.json").read_text())["data"]) == 2
    assert "/v1/generate" in json.loads((tmp_path / "openapi.json").read_text())["paths"]
    adults = next(json.loads(line) for line in io.StringIO(done.stdout) if line.startswith('{"rows"'))["rows"]
    assert len(adults) == 3
    assert all(18 <= row["age"] <= 25 and row["income"] == ">50K" for row in adults)

    assert refused.returncode != 0
    assert "rg_wrong" not in refused.stdout + refused.stderr
    assert "the bearer token is not known" in (tmp_path / "models.json").read_text()

"""The examples that need more than a package of Python: what they make of what they need, and that their specs are specs."""

import gzip
import importlib.util
from pathlib import Path
from types import ModuleType

from PIL import Image

from raygen.datasets import images
from raygen.datasets.schema import check
from raygen.load import load_spec
from raygen.spec import ImageField

EXAMPLES = Path(__file__).parents[1] / "examples"


def script(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(file: Path, size: int, mode: str = "RGBA") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size)).save(file)


def test_icons(tmp_path: Path) -> None:
    for size in (32, 48, 128, 512):
        drawn(tmp_path / f"{size}x{size}" / "apps" / "clock.png", size)
    drawn(tmp_path / "256x256" / "places" / "home.png", 256)
    drawn(tmp_path / "48x48" / "actions" / "go.png", 48, "LA")
    drawn(tmp_path / "48x48" / "emotes" / "smile.png", 48)  # of a context with too few
    drawn(tmp_path / "22x22" / "apps" / "tiny.png", 22)
    (tmp_path / "48x48" / "apps" / "time.png").symlink_to("clock.png")
    table = script("icons").icons(tmp_path)
    found = {row["image"]["path"]: row["context"] for row in table.to_pylist()}
    assert found == {
        "128x128/apps/clock.png": "apps",
        "256x256/places/home.png": "places",
        "48x48/actions/go.png": "actions",
    }
    spec = load_spec(EXAMPLES / "icons.yaml")
    check(spec.dataset.fields, table.schema, "icons")
    field = spec.dataset.fields["image"]
    assert isinstance(field, ImageField)
    assert (images.decode(table["image"].combine_chunks(), field, str) == 255).all()  # all transparent


def test_adult(tmp_path: Path) -> None:
    fields = load_spec(EXAMPLES / "adult.yaml").dataset.fields
    file = tmp_path / "adult.csv.gz"
    rows = [
        ",".join(["", *fields]),
        "0,39, State-gov, Bachelors,13, Never-married, Adm-clerical, Not-in-family, White, Male,2174,0,40, Cuba, <=50K",
        "1,50, ?, HS-grad,9, Divorced, ?, Unmarried, Black, Female,0,0,13, ?, >50K",
    ]
    file.write_bytes(gzip.compress("\n".join(rows).encode()))
    table = script("adult").adult(file)
    check(fields, table.schema, "adult")
    second = [50, "?", "HS-grad", 9, "Divorced", "?", "Unmarried", "Black", "Female", 0, 0, 13, "?", ">50K"]
    assert table.slice(1).to_pylist() == [dict(zip(fields, second, strict=True))]
    assert {name: field.kind for name, field in fields.items()} == {
        name: "number" if isinstance(value, int) else "category" for name, value in zip(fields, second, strict=True)
    }

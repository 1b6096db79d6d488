"""Oxygen's icons as Parquet: about 1,100 real pictures of 48 to 256 pixels, transparent, labelled by what they are for.

Needs the theme's PNG files and no network: ``apt-get install oxygen-icon-theme`` on Debian and Ubuntu (LGPL-3+). Then:

    python examples/icons.py store/icons.parquet
    raygen run examples/icons.yaml
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets.schema import features_metadata

THEME = Path("/usr/share/icons/oxygen/base")  # <size>x<size>/<context>/<name>.png
CONTEXTS = ["actions", "apps", "devices", "mimetypes", "places", "status"]
SMALLEST, LARGEST = 48, 256


def icons(theme: Path) -> pa.Table:
    """Each icon once, in the largest of its sizes, so that no held-out one is a training one of another size."""
    largest: dict[tuple[str, str], tuple[int, Path]] = {}
    for file in theme.glob("*x*/*/*.png"):
        size, context = int(file.parts[-3].partition("x")[0]), file.parts[-2]
        if SMALLEST <= size <= LARGEST and context in CONTEXTS and not file.is_symlink():  # a link is another name for one
            key = context, file.name
            largest[key] = max(largest.get(key, (0, file)), (size, file))
    keys = sorted(largest)
    mixed = [keys[row] for row in np.random.default_rng(0).permutation(len(keys))]  # the first rows are of all contexts
    files = [largest[key][1] for key in mixed]
    pictures = [{"bytes": file.read_bytes(), "path": str(file.relative_to(theme))} for file in files]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {"image": pa.array(pictures, kind), "context": pa.array([context for context, _ in mixed], pa.string())}
    )
    return table.cast(features_metadata(table.schema))


if __name__ == "__main__":
    output, theme = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else THEME
    table = icons(theme)
    if not len(table):
        sys.exit(f"{theme}: there are no icons; try: apt-get install oxygen-icon-theme")
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, output, row_group_size=250)
    print(f"{output}: {len(table):,} icons")

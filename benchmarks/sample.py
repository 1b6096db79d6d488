"""Rows per second of ``Generator.sample`` against the plain loop that a user would write without addresses.

Both run the same DCGAN on one core and write the same number of 28 × 28 PNGs. The plain loop draws torch noise and runs
batches of 256; raygen draws addressed noise, runs fixed tiles and decodes to Arrow. They take turns, five times each.

    python benchmarks/sample.py
"""

import io
import json
import statistics
import time

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from raygen.datasets.codec import Codec
from raygen.datasets.columns import Category
from raygen.generators.generator import Generator, untrained
from raygen.options import GanSpec
from raygen.spec import CategoryField, ImageField

ROWS = 4096
TARGET = 0.9


def generator() -> Generator:
    fields = {"image": ImageField(height=28, width=28, channels=1), "label": CategoryField()}
    arrow = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    codec = Codec.of(fields, arrow, {"label": Category(tuple(range(10)), (400,) * 10)})
    spec = GanSpec(condition="label")
    return Generator(spec, codec, untrained(spec, codec, torch.device("cpu")).exported())


@torch.inference_mode()
def plain(made: Generator) -> list[bytes]:
    pngs = []
    for _ in range(ROWS // 256):
        images = made.sampler(torch.randn(256, made.sampler.noise), torch.randint(0, 10, (256,)))
        for pixels in ((images[:, 0] + 1) * 127.5).round().clamp(0, 255).byte().numpy():
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(pixels)).save(buffer, "PNG", compress_level=3)
            pngs.append(buffer.getvalue())
    return pngs


def main() -> None:
    torch.set_num_threads(1)
    made = generator()
    made.sample(range(256), 1)
    plain(made)
    ratios = []
    for turn in range(5):
        start = time.perf_counter()
        plain(made)
        middle = time.perf_counter()
        made.sample(range(ROWS), 1)
        end = time.perf_counter()
        ratios.append((middle - start) / (end - middle))
        print(f"turn {turn + 1}: plain {ROWS / (middle - start):,.0f} rows/s, raygen {ROWS / (end - middle):,.0f} rows/s")
    print(json.dumps({"name": "sample", "ratio": round(statistics.median(ratios), 3), "target": TARGET}))


if __name__ == "__main__":
    main()

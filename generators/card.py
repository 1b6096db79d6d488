"""The model card of an artifact: what it makes, and how it is used."""

from collections.abc import Mapping
from typing import Any

from raygen.datasets.codec import Codec
from raygen.generators.families import family
from raygen.options import GeneratorSpec

WARNING = (
    "Distances and copies alone are no guarantee of privacy: "
    "a bad figure is a leak, and a good one is no proof that there is none."
)


def card(spec: GeneratorSpec, codec: Codec, digest: str, lineage: Mapping[str, Any]) -> str:
    """Markdown, with the metadata that model hubs read."""
    if codec.is_table:
        of = f"a table of {len(codec.fields)} columns"
        column = of
    else:
        name, size = codec.image
        of = f"{size.height} × {size.width} images"
        column = f"the column `{name}` ({size.channels} channel{'s' if size.channels > 1 else ''})"
    condition = spec.condition
    if family(spec.family).learns:
        asked = f", asked for by `{condition}`" if condition else ""
        makes = f"Makes {column}{asked}.\nEvery row is a pure function of "
        example = "table = generator.sample(range(0, 100), seed=7)"
    else:
        makes = f"Makes variants of rows of {column}; nothing was learnt.\nEvery one is a pure function of its row, "
        classes = "classes" if condition else "None"
        example = f"images = generator.variants(images, range(len(images)), 7, {classes}, variant=1)"
    metrics = "\n".join(f"- {key}: {value:.4g}" for key, value in lineage.get("metrics", {}).items())
    return f"""---
library_name: raygen
tags: [synthetic-data, {spec.family}]
---
# {spec.family}: {of}

{makes}this generator, a seed and the row's number.

```python
import raygen
generator = raygen.Generator.load("<this folder>")
{example}
```

Digest `{digest}`, made for data with fingerprint `{lineage.get("data", "unknown")}`
({lineage.get("rows", "?")} rows). Synthetic rows can resemble real ones: look at the report before you share them.
{WARNING}

Last training metrics:

{metrics or "- none"}
"""

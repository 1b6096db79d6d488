"""The features on which the kernel distance was compared with torch-fidelity, and its figures, in metrics/kernel.json.

The figures are made anew by running this file in a virtual environment of its own, where nothing of raygen is needed:

    python -m venv fidelity
    fidelity/bin/pip install torch-fidelity==0.4.0
    fidelity/bin/python tests/reference_features.py > tests/metrics/kernel.json

torch-fidelity takes the mean over random subsets of as many rows of either set. Of one subset of all rows it is the distance
itself, up to rounding; of a hundred subsets (``subsets``) it is the same within chance.
"""

import json

import numpy as np


def sets(name):
    """Two sets of as many features: rows of one distribution, of others, and unlike any, as a network's features are."""
    generator = np.random.default_rng(0)
    real = generator.normal(size=(600, 16))
    if name == "alike":
        return real, generator.normal(size=(600, 16))
    if name == "shifted":
        return real, 0.8 * generator.normal(size=(600, 16)) + 0.3
    if name == "skewed":  # the same mean and variance, another third moment
        return real, generator.exponential(size=(600, 16)) - 1
    wide, other = (generator.gamma(0.5, size=(300, 300)) @ generator.gamma(0.5, size=(300, 64)) / 30 for _ in range(2))
    return wide, 1.2 * other


NAMES = ("alike", "shifted", "skewed", "wide")
SUBSETS = {"kid_subsets": 100, "kid_subset_size": 200}


def figures(name):
    """What torch-fidelity says."""
    import torch
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    pair = [torch.from_numpy(rows) for rows in sets(name)]
    whole = kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=len(pair[0]), verbose=False)
    subsets = kid_features_to_metric(*pair, **SUBSETS, verbose=False)
    mean, spread = subsets[KEY_METRIC_KID_MEAN], subsets[KEY_METRIC_KID_STD]
    return {"whole": whole[KEY_METRIC_KID_MEAN], "subsets": mean, "spread": spread}


if __name__ == "__main__":
    print("{", ",\n".join(f'"{name}": {json.dumps(figures(name))}' for name in NAMES), "}", sep="\n")

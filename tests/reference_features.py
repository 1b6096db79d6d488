"""The features on which distances and scores were compared with torch-fidelity and prdc, and their figures, in
metrics/fidelity.json.

The figures are made anew by running this file in a virtual environment of its own, where nothing of raygen is needed:

    python -m venv fidelity
    fidelity/bin/pip install torch-fidelity==0.4.0 prdc==0.2
    fidelity/bin/python tests/reference_features.py > tests/metrics/fidelity.json

Of kernel distances, torch-fidelity takes the mean over random subsets of as many rows of either set. Of one subset of all
rows it is the distance itself, up to rounding; of a hundred subsets (``subsets``) it is the same within chance. Of the
Inception Score it takes the mean over splits; here there is one of all rows.
"""

import contextlib
import json
import sys

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


def logits(name):
    """What a classifier of ten classes might say of the second set."""
    rows = sets(name)[1]
    return rows @ np.random.default_rng(1).normal(size=(rows.shape[1], 10))


NEIGHBOURS = (3, 5)
NAMES = ("alike", "shifted", "skewed", "wide")
SUBSETS = {"kid_subsets": 100, "kid_subset_size": 200}


def figures(name):
    """What torch-fidelity and prdc say."""
    import torch
    from prdc import compute_prdc
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    rows = sets(name)
    pair = [torch.from_numpy(set_) for set_ in rows]
    whole = kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=len(pair[0]), verbose=False)
    subsets = kid_features_to_metric(*pair, **SUBSETS, verbose=False)
    score = isc_features_to_metric(torch.from_numpy(logits(name)), splits=1)
    with contextlib.redirect_stdout(sys.stderr):  # it says how many rows there are
        manifold = {k: {key: float(share) for key, share in compute_prdc(*rows, nearest_k=k).items()} for k in NEIGHBOURS}
    return {
        "frechet_distance": fid_statistics_to_metric(*map(fid_features_to_statistics, pair), False)[KEY_METRIC_FID],
        "kernel_distance": whole[KEY_METRIC_KID_MEAN],
        "subsets": subsets[KEY_METRIC_KID_MEAN],
        "spread": subsets[KEY_METRIC_KID_STD],
        "classifier_score": score[KEY_METRIC_ISC_MEAN],
        "manifold": manifold,
    }


if __name__ == "__main__":
    print("{", ",\n".join(f'"{name}": {json.dumps(figures(name))}' for name in NAMES), "}", sep="\n")

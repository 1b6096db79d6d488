"""What gradient-boosted trees learn from synthetic rows of a table, beside real rows, class weights and SMOTE."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raygen.errors import DataError
from raygen.metrics import usefulness
from raygen.metrics.encoding import Column, Floats, Ints, Kinds, encode
from raygen.metrics.usefulness import AUGMENTED, CLASS_WEIGHTS, NOTHING, REAL, SMOTE, SYNTHETIC, Usefulness

MOST_VALUES = 255  # of a category that scikit-learn's trees tell apart; the rarer ones share the last
NEIGHBOURS = 5  # that SMOTE makes rows between
MOST_CELLS = 2**26  # half a GiB: SMOTE has a cell for each row and value of a category, and some copies of that
QUICK = {"max_iter": 30, "learning_rate": 0.3}  # where many are trained: about as good as 100 trees that learn 0.1 each


class Rows(NamedTuple):
    """Rows to learn from, or to be tested on.

    Attributes:
        features: float64 ``(rows, columns)``, nan for null: standardized numbers, and codes of categories.
        labels: int64 ``(rows,)``.
    """

    features: Floats
    labels: Ints

    def plus(self, other: "Rows") -> "Rows":
        return Rows(np.concatenate([self.features, other.features]), np.concatenate([self.labels, other.labels]))


def table_usefulness(
    real: pa.Table,
    held: pa.Table,
    synthetic: Sequence[pa.Table],
    added: Sequence[pa.Table],
    kinds: Kinds,
    target: str,
    seed: int,
) -> Usefulness:
    """What `sklearn.ensemble.HistGradientBoostingClassifier` with its defaults scores on real held-out rows.

    It stops at no validation set, which synthetic rows would be in. All real rows are learned from every time: a part of
    them would leave it to the synthetic rows to tell of the rest, which the generator has seen. SMOTE (Chawla et al. 2002;
    SMOTE-NC where there are categories) makes as many rows of each class as were added.

    Args:
        real: rows that the generator learned from.
        held: rows of the same source that it did not.
        synthetic: rows to learn from alone, best as many as the real ones and distributed like them: for each seed other
            ones, of the same schema; at least 2 tables.
        added: rows to learn from beside the real ones, such as a job would write: for each seed other ones.
        kinds: the target and the columns to tell it from. Leave out what gives the target away.
        target: a category of ``kinds``, whose values are the classes; rows where it is null are left out.
        seed: the first of ``len(added)`` seeds.

    Returns:
        By the values of the target, as text.

    Raises:
        DataError: the tables do not fit each other or the kinds, the real rows have fewer than 2 classes, fewer than 2
            held-out rows have one, or there are not as many synthetic as added tables, at least 2.
        RaygenError: scikit-learn or imbalanced-learn is not installed.
    """
    if kinds.get(target) != "category":
        raise DataError(f"the target {target!r} is no category among the columns", "name a category column of the table")
    if len(kinds) < 2:
        raise DataError(f"there is no column to tell {target!r} from", "name at least one other column")
    if len(synthetic) != len(added) or len(added) < 2:
        raise DataError(
            f"there are {len(synthetic)} synthetic and {len(added)} added tables",
            "give one of each for each of 2 seeds or more",
        )
    tables = {"real": real, "held-out": held}
    tables |= {f"synthetic ({number})": table for number, table in enumerate(synthetic)}
    tables |= {f"added ({number})": table for number, table in enumerate(added)}
    columns = encode(tables, kinds)
    learned, tested, *made = _rows(columns, target)
    usefulness.check_ready(tested.labels)
    if len(np.unique(learned.labels)) < 2:
        raise DataError(f"the real rows have fewer than 2 values of {target!r}", "name another target, or give more rows")
    categories = np.array([columns[name].is_category for name in columns if name != target])
    seeds = range(seed, seed + len(added))
    alone, beside = made[: len(added)], made[len(added) :]

    def predict(rows: Rows, seed: int, weights: str | None = None) -> Ints:
        return _predict(rows, tested.features, categories, seed, weights)

    # Without a validation set there is no chance in the trees: those of the same rows are the same under every seed.
    predicted = {
        REAL: np.tile(predict(learned, seed), (len(seeds), 1)),
        SYNTHETIC: np.stack([predict(rows, seed) for rows, seed in zip(alone, seeds, strict=True)]),
        AUGMENTED: np.stack([predict(learned.plus(rows), seed) for rows, seed in zip(beside, seeds, strict=True)]),
        CLASS_WEIGHTS: np.tile(predict(learned, seed, "balanced"), (len(seeds), 1)),
    }
    untried = {}
    wanted = [_wanted(learned.labels, rows.labels) for rows in beside]
    if categories.all():
        untried[SMOTE] = "it makes rows between numbers, and there are none"
    elif len(learned.labels) * _values(learned.features, categories) > MOST_CELLS:
        untried[SMOTE] = "the categories have too many values for it"
    elif not all(wanted):
        untried[SMOTE] = "no class that rows were added of has 2 real rows"
    else:
        oversampled = (_oversampled(learned, counts, categories, s) for counts, s in zip(wanted, seeds, strict=True))
        predicted[SMOTE] = np.stack([predict(rows, seed) for rows, seed in zip(oversampled, seeds, strict=True)])
    return usefulness.judge(tested.labels, predicted, _names(columns[target], tables.values(), target), untried)


def table_trial(
    real: pa.Table, added: pa.Table | None, held: pa.Table, kinds: Kinds, target: str, classes: Sequence[str]
) -> Ints:
    """What quicker trees predict of held-out rows once they have learnt from real rows, and from others beside them.

    Args:
        classes: the values of the target, as text.

    Returns:
        The place in ``classes`` of each held-out row that has a class, ``(rows,)``.

    Raises:
        DataError: the tables do not fit each other or the kinds.
        RaygenError: scikit-learn is not installed.
    """
    tables = {"real": real, "held-out": held} | ({} if added is None else {"added": added})
    columns = encode(tables, kinds)
    learned, tested, *beside = _rows(columns, target)
    for rows in beside:
        learned = learned.plus(rows)
    categories = np.array([columns[name].is_category for name in columns if name != target])
    places = np.array([classes.index(name) for name in _names(columns[target], tables.values(), target)])
    return places[_predict(learned, tested.features, categories, 0, quick=True)]


def _rows(columns: Mapping[str, Column], target: str) -> list[Rows]:
    """Of each table the rows that have a class; numbers as those of the first, and its most frequent categories, say."""
    counts = columns[target].codes[0] >= 0
    encoded = [_feature(column, column.codes[0][counts]) for name, column in columns.items() if name != target]
    rows = []
    for index, labels in enumerate(columns[target].codes):
        features = np.stack([values[column.codes[index]] for column, values in encoded], axis=1)
        rows.append(Rows(features[labels >= 0], labels[labels >= 0]))
    return rows


def _feature(column: Column, codes: Ints) -> tuple[Column, Floats]:
    """A column, and what each of its codes is to a classifier, null last: ``(distinct + 1,)``; by the rows of ``codes``."""
    known = codes[codes >= 0]
    if column.is_category:
        rank = np.empty(column.distinct)
        rank[np.argsort(-np.bincount(known, minlength=column.distinct), kind="stable")] = np.arange(column.distinct)
        return column, np.append(np.minimum(rank, MOST_VALUES - 1), np.nan)
    finite = column.values[np.isfinite(column.values)]
    values = column.values.clip(finite.min(initial=0), finite.max(initial=0))  # infinite ones are as the greatest there is
    # Halved until none is above 1, so that the squares of huge values are finite.
    values = np.ldexp(values, -int(np.frexp(np.abs(values).max(initial=0))[1]))
    of_rows = values[known] if len(known) else np.zeros(1)
    return column, np.append((values - of_rows.mean()) / (of_rows.std() or 1.0), np.nan)


def _names(target: Column, tables: Iterable[pa.Table], name: str) -> list[str]:
    names = [""] * target.distinct
    for codes, table in zip(target.codes, tables, strict=True):
        present, first = np.unique(codes, return_index=True)
        for code, value in zip(present, table[name].take(first).to_pylist(), strict=True):
            if code >= 0:
                names[code] = str(value)
    return names


def _predict(
    rows: Rows,
    features: Floats,
    categories: npt.NDArray[np.bool_],
    seed: int,
    weights: str | None = None,
    quick: bool = False,
) -> Ints:
    """The class of each row of ``features``, as trees see it that learned from ``rows``."""
    classes = np.unique(rows.labels)
    if len(classes) < 2:
        return np.full(len(features), classes[0] if len(classes) else NOTHING)
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise usefulness.needs_extra("scikit-learn") from None
    trees = HistGradientBoostingClassifier(
        categorical_features=categories,
        class_weight=weights,
        early_stopping=False,
        random_state=seed,
        **(QUICK if quick else {}),
    )
    empty = np.isnan(rows.features).all(axis=0)  # which scikit-learn fails at
    # Threads that wait for each other made a fit a hundred times slower where other programs wanted the cores too.
    with threadpool_limits(1, "openmp"):
        trees.fit(np.where(empty, 0, rows.features), rows.labels)
        return np.asarray(trees.predict(np.where(empty, 0, features)), dtype=np.int64)


def _values(features: Floats, categories: npt.NDArray[np.bool_]) -> int:
    """How many columns there are once each value of a category has one."""
    return sum(
        len(np.unique(column)) if is_category else 1 for column, is_category in zip(features.T, categories, strict=True)
    )


def _wanted(real: Ints, added: Ints) -> dict[int, int]:
    """How many rows there shall be of each class that rows were added of and that SMOTE can make: it needs two."""
    classes, counts = np.unique(added, return_counts=True)
    there = np.bincount(real, minlength=int(classes.max(initial=0)) + 1)
    return {int(c): int(there[c] + more) for c, more in zip(classes, counts, strict=True) if there[c] > 1}


def _oversampled(real: Rows, wanted: dict[int, int], categories: npt.NDArray[np.bool_], seed: int) -> Rows:
    """The real rows, and those that SMOTE makes between them; it takes a missing number for the median of its class."""
    try:
        from imblearn import over_sampling
    except ImportError:
        raise usefulness.needs_extra("imbalanced-learn") from None
    neighbours = min(NEIGHBOURS, *(int((real.labels == index).sum()) - 1 for index in wanted))
    options = {"sampling_strategy": wanted, "k_neighbors": neighbours, "random_state": seed}
    known = np.where(categories & np.isnan(real.features), MOST_VALUES, real.features)  # null is a category of its own
    for index in np.unique(real.labels):
        known[real.labels == index] = _filled(known[real.labels == index])
    if categories.any():
        sampler = over_sampling.SMOTENC(categorical_features=np.flatnonzero(categories).tolist(), **options)
    else:
        sampler = over_sampling.SMOTE(**options)
    features, labels = (made[len(real.labels) :] for made in sampler.fit_resample(known, real.labels))
    return real.plus(Rows(np.where(categories & (features == MOST_VALUES), np.nan, features), labels))


def _filled(features: Floats) -> Floats:
    """With the median of its column for each nan, and 0 where there is nothing else."""
    known = (column[~np.isnan(column)] for column in features.T)
    return np.where(np.isnan(features), [np.median(column) if len(column) else 0.0 for column in known], features)

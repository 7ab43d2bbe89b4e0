"""How well scores tell tokens apart: within a response, and over responses with an interval.

Knows nothing of what the tokens are; response.py has the sets, credit.py and hop_variants.py the scores.
"""

import numpy as np

from grail_verl.evaluation.bootstrap import intervals

RESAMPLES = 1000


def separation(scores_KT: np.ndarray, positives: list[int], negatives: list[int]) -> np.ndarray:
    """How well K scores tell positives from negatives within a response: (3, K) of AUC, mean rank of the positives
    (1 the highest, ties share), and whether the highest of all is a positive and alone. NaN where either is missing."""
    if not positives or not negatives:
        return np.full((3, len(scores_KT)), np.nan)
    own_KP1 = scores_KT[:, positives][..., None]
    all_K1N = scores_KT[:, positives + negatives][:, None]
    above_KPN = (all_K1N > own_KP1) + 0.5 * (all_K1N == own_KP1)
    auc_K = 1 - above_KPN[..., len(positives) :].mean(axis=(1, 2))
    ranks_KP = 0.5 + above_KPN.sum(axis=-1)
    return np.stack([auc_K, ranks_KP.mean(axis=1), (ranks_KP == 1).any(axis=1)])


def summary(values: list[np.ndarray]) -> np.ndarray:
    """Mean, low and high end of the 95 % interval over the responses that have a value: (3, …)."""
    known = np.array([value for value in values if not np.isnan(value).any()])
    if len(known) < 2:
        return np.full((3, *np.shape(values[0])), np.nan)
    ends = intervals([known.reshape(len(known), -1)], RESAMPLES)[0]
    return np.concatenate([known.mean(axis=0)[None], ends.reshape(2, *known.shape[1:])])


def compare(names: list[str], scores: list[np.ndarray], sets: list[tuple[list[int], list[int]]]) -> dict:
    """What `separation` gives, over responses."""
    of_each = [separation(scores_KT, *positives_negatives) for scores_KT, positives_negatives in zip(scores, sets)]
    measures = ("auc", "mean_rank", "top")
    counted = [pair for pair in sets if all(pair)]
    found = summary(of_each) if of_each else np.full((3, 3, len(names)), np.nan)
    return {
        "responses": len(counted),
        "positives": sum(len(positives) for positives, _ in counted),
        "negatives": sum(len(negatives) for _, negatives in counted),
        "scores": {
            name: {measure: rounded(found[:, row, column]) for row, measure in enumerate(measures)}
            for column, name in enumerate(names)
        },
    }


def rounded(values) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]

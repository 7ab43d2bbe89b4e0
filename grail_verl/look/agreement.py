"""How far two rules of credit agree on a response: numbers of the ranks of their weights, whatever their scale.

Both are of the tokens before the answer that the policy wrote (R of them), which is what rules tell apart.
"""

import math

import numpy as np

TOP = 0.2


def rank_correlation(one_R: np.ndarray, other_R: np.ndarray) -> float | None:
    """Spearman's: 1 in the same order, -1 in the opposite; equal weights share their mean rank. None where either rule
    gives all tokens the same."""
    ranks = [_ranks(weights_R) for weights_R in (one_R, other_R)]
    if len(one_R) == 0 or min(np.ptp(rank_R) for rank_R in ranks) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def top_in_common(one_R: np.ndarray, other_R: np.ndarray) -> float | None:
    """Of the fifth of the tokens that weigh most by the one, rounded up, the share that is among those of the other; by
    chance it would be a fifth. Of equal weights at its edge each is in it by the share that there is room for. None
    without a token."""
    if len(one_R) == 0:
        return None
    count = math.ceil(TOP * len(one_R))
    return float(np.minimum(_in_top(one_R, count), _in_top(other_R, count)).sum() / count)


def _ranks(weights_R: np.ndarray) -> np.ndarray:
    _, place_R, counts = np.unique(weights_R, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place_R]


def _in_top(weights_R: np.ndarray, count: int) -> np.ndarray:
    edge = np.sort(weights_R)[-count]
    above_R, at_R = weights_R > edge, weights_R == edge
    return above_R + at_R * (count - above_R.sum()) / at_R.sum()

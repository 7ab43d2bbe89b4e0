"""How sure a difference between two runs is: a paired bootstrap over problems.

Last room: problems → settings → model → validation or server → results → *bootstrap*. Problems are drawn again
within each benchmark, the same ones for every run, so that what makes a problem hard for both takes no part in
the interval.
"""

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0


def intervals(differences: list[np.ndarray], resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """95 % percentile intervals of mean differences.

    Args:
        differences: for each of K benchmarks, of n_k problems, (n_k, C): one run's value less the other's, in C
            columns (runs, measures) that share their draws.
        resamples: how often the problems are drawn again.
        seed: of the draws, which are the same for the same sizes.

    Returns:
        (K + 2, 2, C), the lower and the upper end for each benchmark's mean, for the mean over benchmarks and for
        the mean over problems.
    """
    generator = np.random.default_rng(seed)
    sizes = [len(values) for values in differences]
    means = []
    for size, values in zip(sizes, differences, strict=True):
        # How often each problem is drawn is all that a mean depends on.
        drawn = generator.multinomial(size, np.full(size, 1 / size), size=resamples)
        means.append(drawn @ values / size)
    means += [np.mean(means, axis=0), np.average(means, axis=0, weights=sizes)]
    ends = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    return np.percentile(means, ends, axis=1).swapaxes(0, 1)

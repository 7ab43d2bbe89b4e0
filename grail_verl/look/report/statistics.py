"""Every number that a figure draws, from the records of a run: means over responses, shares of tokens.

Between records.py and figures.py. A response counts in the means and the histogram if it was weighted and has tokens of
its own before its answer, or any where it has none; a token, if the policy wrote it (response_mask). Shapes: S steps, P
bins of position.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from grail_verl.look.agreement import rank_correlation, top_in_common
from grail_verl.look.records import PASS_RATE, Records

OUTCOMES = ("correct", "wrong")
POSITIONS = 20  # bins of the way to the answer
THIRDS = ("first", "middle", "last")
WEIGHTS = 60  # bins of the histogram


def is_correct(response: Mapping) -> bool:
    """By its reward, > 0; where nobody told that, by its advantage."""
    reward = response["advantage"] if response["reward"] is None else response["reward"]
    return reward is not None and reward > 0


def numbers(records: Records) -> dict:
    """Every number that a figure draws, as JSON holds it: None where there is none.

    Returns:
        {"responses": counts, "mean": the option, "spread": 98 % of the tokens that count lie within mean ± spread,
        "bounds": [low, high] or None,
        "position": {"edges": (P + 1,), outcome: {"responses", "mean": (P,), "standard_error": (P,)}},
        "thirds": {outcome: {"steps": (S,), "responses": (S,), "first" | "middle" | "last": {"mean": (S,),
        "standard_error": (S,)}}},
        "heatmap": {"edges": (P + 1,), outcome: {"steps": (S,), "mean": (S, P)}},
        "histogram": {"edges": (61,), outcome: {"tokens", "share": of the outcome's tokens, "at_low", "at_high"}},
        "pass_rate": {"steps": (S,), "rate": (S,), "of": of which responses}, rate None where no outcome is known,
        "metrics": {"steps": (S,), "values": {name: (S,)}}}, and of two rules
        "agreement": {"rules": names, "responses": that both weigh, "rank_correlation" and "top_in_common": {"mean",
        "standard_error"}}, "second": all this by the second rule.
        An outcome (correct, wrong) without a response that counts is not there; a standard error of fewer than two
        responses is None.
    """
    bounds = records.settings["bounds"]
    counted = {outcome: [] for outcome in OUTCOMES}
    totals = dict.fromkeys(OUTCOMES, 0)
    for response in records.responses:
        outcome = OUTCOMES[not is_correct(response)]
        totals[outcome] += 1
        if response["weighted"] and len(weights := before_answer(response)) and np.isfinite(weights).any():
            counted[outcome].append((response["step"], weights))
    counted = {outcome: rows for outcome, rows in counted.items() if rows}

    position, thirds, heatmap, weights = {}, {}, {}, {}
    for outcome, rows in counted.items():
        steps_R = np.array([step for step, _ in rows])
        means_RP, thirds_R3 = (np.stack([bin_means(row, bins) for _, row in rows]) for bins in (POSITIONS, 3))
        steps = np.unique(steps_R)
        mean_P, error_P = mean_and_error(means_RP)
        position[outcome] = {"responses": len(rows), "mean": plain(mean_P), "standard_error": plain(error_P)}
        heatmap[outcome] = {
            "steps": steps.tolist(),
            "mean": [plain(mean_and_error(means_RP[steps_R == step])[0]) for step in steps],
        }
        by_step = [mean_and_error(thirds_R3[steps_R == step]) for step in steps]
        thirds[outcome] = {"steps": steps.tolist(), "responses": [int((steps_R == step).sum()) for step in steps]}
        for place, third in enumerate(THIRDS):
            thirds[outcome][third] = {
                "mean": plain([mean_3[place] for mean_3, _ in by_step]),
                "standard_error": plain([error_3[place] for _, error_3 in by_step]),
            }
        weights[outcome] = np.concatenate([row[np.isfinite(row)] for _, row in rows])

    edges = np.linspace(0, 1, POSITIONS + 1).tolist()
    steps = [response["step"] for response in records.responses]
    mean = records.settings["options"]["mean"]
    of_two = {}
    if records.second is not None:
        of_two = {"agreement": _agreement(records), "second": numbers(records.second)}
    return {
        "responses": {
            "total": len(records.responses),
            **totals,
            "with_answer": sum(response["answer"] is not None for response in records.responses),
            "weighted": sum(response["weighted"] for response in records.responses),
            "without_reward": sum(response["reward"] is None for response in records.responses),
            "steps": len(set(steps)),
            "first_step": min(steps, default=None),
            "last_step": max(steps, default=None),
        },
        "mean": mean,
        "spread": spread(weights, mean),
        "bounds": bounds,
        "position": {"edges": edges, **position},
        "thirds": thirds,
        "heatmap": {"edges": edges, **heatmap},
        "histogram": histogram(weights, bounds),
        "pass_rate": _pass_rate(records),
        "metrics": {
            "steps": list(records.metrics),
            "values": {
                name: plain([metrics.get(name) for metrics in records.metrics.values()])
                for name in dict.fromkeys(name for metrics in records.metrics.values() for name in metrics)
                if name != PASS_RATE
            },
        },
        **of_two,
    }


def before_answer(response: Mapping, values: Sequence | None = None) -> np.ndarray:
    """(start,) float64: the weights, or other values, of the tokens before the answer, of all where there is none; NaN
    where the policy wrote none."""
    values = response["weight"] if values is None else values
    start = response["answer"]["start"] if response["answer"] else len(values)
    values = np.array(values[:start], dtype=float)  # None, what was not finite, is NaN
    return np.where(np.array(response["mask"][:start], dtype=bool), values, np.nan)


def by_both(response: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """(R,) each: the weights there by the first and by the second rule, where both have one."""
    one, other = before_answer(response), before_answer(response, response["second"]["weight"])
    known = np.isfinite(one) & np.isfinite(other)
    return one[known], other[known]


def agreement_of(response: Mapping) -> tuple[float | None, float | None]:
    """Rank correlation and share of the top fifth in common (agreement.py) of two rules on a response; None where one
    of them does not weigh it by its scores, or has no number for it."""
    if not (response["weighted"] and response["second"]["weighted"]):
        return None, None
    one_R, other_R = by_both(response)
    return rank_correlation(one_R, other_R), top_in_common(one_R, other_R)


def _agreement(records: Records) -> dict:
    known = np.array([agreement_of(response) for response in records.responses], dtype=float).reshape(-1, 2)
    means, errors = map(plain, mean_and_error(known))
    return {
        "rules": [records.settings["name"], records.settings["second"]["name"]],
        "responses": int(np.isfinite(known[:, 1]).sum()),
        "rank_correlation": {"mean": means[0], "standard_error": errors[0]},
        "top_in_common": {"mean": means[1], "standard_error": errors[1]},
    }


def _pass_rate(records: Records) -> dict:
    """Of whole rollout batches, which training writes down; else of the responses that are here."""
    told = {step: metrics[PASS_RATE] for step, metrics in records.metrics.items() if PASS_RATE in metrics}
    if told:
        return {"steps": list(told), "rate": list(told.values()), "of": "all responses of a step"}
    outcomes = {}
    for response in records.responses:
        if response["reward"] is not None or response["advantage"] is not None:
            outcomes.setdefault(response["step"], []).append(is_correct(response))
    steps = sorted(outcomes)
    rates = [sum(outcomes[step]) / len(outcomes[step]) for step in steps]
    return {"steps": steps, "rate": rates, "of": "the responses of a step that are recorded"}


def bin_means(weights: np.ndarray, bins: int) -> np.ndarray:
    """(bins,) means over equal parts of a response, however few its tokens: token t of n fills [t / n, (t + 1) / n),
    and counts in a part by its share of it. NaN in a part without a token that has a weight."""
    values_PT = np.repeat(weights, bins).reshape(bins, len(weights))
    known_PT = np.isfinite(values_PT)
    counts_P, sums_P = known_PT.sum(axis=1), np.where(known_PT, values_PT, 0).sum(axis=1)
    return np.divide(sums_P, counts_P, out=np.full(bins, np.nan), where=counts_P > 0)


def mean_and_error(values_RP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the rows that have a value, and its standard error (sample standard deviation / √n): (P,) each, NaN
    of no row, and of fewer than two."""
    known_RP = np.isfinite(values_RP)
    count_P = known_RP.sum(axis=0).astype(float)
    count_P[count_P == 0] = np.nan
    mean_P = np.where(known_RP, values_RP, 0).sum(axis=0) / count_P
    squares_P = np.where(known_RP, (values_RP - mean_P) ** 2, 0).sum(axis=0)
    return mean_P, np.sqrt(squares_P / np.where(count_P > 1, count_P - 1, np.nan) / count_P)


def spread(weights: Mapping[str, np.ndarray], mean: float) -> float:
    """The 0.98 quantile of the distance to `mean`, to two digits, upwards; 1 where no weight differs."""
    distance = float(np.quantile(np.abs(np.concatenate(list(weights.values())) - mean), 0.98)) if weights else 0.0
    if distance < 1e-6:
        return 1.0
    unit = 10.0 ** (math.floor(math.log10(distance)) - 1)
    return float(f"{math.ceil(distance / unit) * unit:.2g}")


def histogram(weights: Mapping[str, np.ndarray], bounds: Sequence[float] | None) -> dict:
    """Shares of each outcome's tokens in bins from the least to the greatest weight of all, and at the bounds."""
    if not weights:
        return {"edges": []}
    edges = np.histogram_bin_edges(np.concatenate(list(weights.values())), WEIGHTS)
    shares = {
        outcome: {
            "tokens": len(values),
            "share": plain(np.histogram(values, edges)[0] / len(values)),
            "at_low": None if bounds is None else float(np.isclose(values, bounds[0]).mean()),  # records round
            "at_high": None if bounds is None else float(np.isclose(values, bounds[1]).mean()),
        }
        for outcome, values in weights.items()
    }
    return {"edges": plain(edges), **shares}


def plain(values: Sequence[float | None]) -> list[float | None]:
    """As JSON: None where there is no finite number."""
    return [None if value is None or not math.isfinite(value) else float(value) for value in values]

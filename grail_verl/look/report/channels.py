"""What a token can be coloured by: its weight, its score, and whatever else records hold of it, each with its scale.

Beside statistics.py and figures.py, before page.py: scales are made of all responses, so that a colour means the same
wherever it stands. What is most spread out is cut off at the 0.98 quantile, which is the full colour.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from grail_verl.look.records import OF_THE_POLICY, Records
from grail_verl.look.report.statistics import before_answer, by_both

FULL = 0.98
ABOUT = {  # of what records.py calls a channel, and of scores by their name
    "surprise": ("surprise, −log p", "Negative log-probability of the token, in nats."),
    "entropy": ("entropy", "Of the distribution that the token was drawn from, in nats."),
    "ratio": ("ratio", "The token’s probability before the update over that by the rollout."),
}


@dataclass(frozen=True)
class Channel:
    """Attributes:
    key: weight, score, difference, or a name of the records' channels.
    name: as a user chooses it.
    about: a sentence.
    middle: the value without a colour, blue below and orange above; None where there is nothing below 0.
    reach: from the middle to the full colour; None for the response's largest value before its answer.
    shared: the same by either of two rules, not each rule's own.
    """

    key: str
    name: str
    about: str
    middle: float | None = None
    reach: float | None = None
    shared: bool = False


def channels(records: Records, numbers: Mapping) -> list[Channel]:
    """Those that these records hold, the weight first.

    Args:
        records: of the responses.
        numbers: of statistics.py, from these records.
    """
    second, reach = numbers.get("second"), numbers["spread"]
    found = [Channel("weight", "weight", "What the response’s advantage is multiplied by.", numbers["mean"], reach)]
    score = score_name(records.settings)
    about = "What the weights are made of"
    if second is None:
        found.append(_of_values("score", score, score, f"{about}.", _values(records, lambda one: one["score"])))
    else:
        found[0] = Channel("weight", "weight", found[0].about, numbers["mean"], max(reach, second["spread"]))
        differences = list(map(relative_difference, records.responses))
        found.append(
            Channel(
                "difference", "difference of the weights",
                "The token’s weight over the mean before the answer, by this rule minus by the other.",
                0.0, _reach(np.concatenate([*differences, []])),
            )
        )  # fmt: skip
        other = score_name(records.second.settings)
        found.append(Channel("score", "score", f"{about}: {score}, and {other}."))
    responses = records.responses + (records.second.responses if second else [])
    names = dict.fromkeys(name for response in responses for name in response.get("channels", ()))
    for name in names:
        values = _values(records, lambda one, name=name: one.get("channels", {}).get(name, ()))
        hop = "The gradient of the answer." if name == "hop 0" else "What this hop found, from what the last one found."
        found.append(_of_values(name, name, name, hop if name.startswith("hop ") else "A factor of the score.", values))
    return found


def score_name(settings: Mapping) -> str:
    score = settings["options"]["score"]
    return score if isinstance(score, str) else " × ".join(score)


def relative_difference(response: Mapping) -> np.ndarray:
    """(R,): a weight over the mean of the rule's, by the first rule minus by the second, on the tokens before the
    answer that the policy wrote; nothing where either rule gives them nothing."""
    one_R, other_R = by_both(response)
    if not len(one_R) or one_R.mean() == 0 or other_R.mean() == 0:
        return np.zeros(0)
    return one_R / one_R.mean() - other_R / other_R.mean()


def _of_values(key: str, named: str, name: str, about: str, values: np.ndarray) -> Channel:
    """With the scale that values of this name have."""
    shared = key in OF_THE_POLICY
    name, about = ABOUT.get(named, (name, about))
    if named == "ratio":
        return Channel(key, name, about, 1.0, _reach(values - 1), shared)
    return Channel(key, name, about, reach=_reach(values) if named in ABOUT else None, shared=shared)


def _values(records: Records, of) -> np.ndarray:
    """Before the answers, of the policy's tokens, finite ones."""
    rows: Iterable = (before_answer(response, of(response)) for response in records.responses if len(of(response)))
    values = np.concatenate([*rows, []])
    return values[np.isfinite(values)]


def _reach(values: np.ndarray) -> float:
    """As many digits as are shown; 1 where nothing differs."""
    reach = float(np.quantile(np.abs(values), FULL)) if len(values) else 0.0
    return float(f"{reach:.2g}") if reach > 1e-6 else 1.0

"""Records to report on, as a run leaves them, without a run: texts of a policy, weights by GRAIL's own formula."""

import numpy as np

from grail_verl.credit.answer import AnswerSpan
from grail_verl.credit.config import GrailConfig
from grail_verl.look.records import Writer, response_record, rule_settings

SURPRISE = GrailConfig(score="surprise", weights="proportional")
WORDS = (" so", " we", " add", " 3", " and", " 4", ",", " the", " sum", "\n", "  ", " naïve", " 数", " 🙂", "", "\t")
HOSTILE = (
    "</script>", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "&lt;", "\u202e", "\x00", "w" * 99
)  # fmt: skip


def some_response(generator, step: int, row: int, *, correct: bool, words=WORDS, tokens=None, **changes) -> dict:
    """A response: its reasoning, its answer, an end; weighted from made-up scores that grows towards the answer."""
    length = int(generator.integers(10, 80)) if tokens is None else tokens
    texts = [words[place] for place in generator.integers(len(words), size=length)]
    texts += [" \\", "boxed", "{", "7" if correct else "8", "}", ".", "<|end|>"]
    start, total = length, len(texts)
    score = np.exp(generator.normal(0, 1, total) + np.linspace(0, 1.5 + 0.2 * step, total))
    score[start + 5 :] = 0
    mask = np.ones(total, dtype=int)
    if row % 5 == 4:
        mask[2:5] = 0  # a tool's
    logs = np.log(score + 1e-8)
    config = GrailConfig()
    spread = config.std if changes.get("weighted", True) else 0
    weight = np.clip(config.mean + spread * (logs - logs.mean()) / logs.std(), config.w_min, config.w_max)
    weight[start:] = config.mean
    weight[start + 3] = config.w_max
    record = {
        "step": step, "row": row, "prompt": f"What is {row // 4} + 7? Put it into \\boxed{{}}.", "tokens": texts,
        "mask": mask, "score": score, "weight": weight * mask, "advantage": 0.9 if correct else -0.7,
        "answer": AnswerSpan(start, start + 5, start + 3, start + 4), "reward": float(correct), "weighted": True,
        "channels": {"surprise": generator.exponential(1, total), "hop 0": score / score.sum()},
    }  # fmt: skip
    if changes.pop("two_rules", False):
        shares = np.where(np.arange(total) < start, generator.exponential(1, total), 0)
        record["second"] = {
            "score": shares, "weight": 4 * shares / shares.sum() * mask, "weighted": True,
            "channels": {"hop 0": shares, "hop 1": 2 * shares},
        }  # fmt: skip
    return response_record(**{**record, **changes})


def without_answer(generator, step: int, row: int) -> dict:
    """Cut off: no answer, no score, weight 1."""
    record = some_response(generator, step, row, correct=False, answer=None, score=None, weighted=False)
    return {**record, "weight": [1.0] * len(record["tokens"])}


def write_run(folder, *, steps=range(1, 7), rows=16, bounds=(0.5, 5.0), metrics=True, config=None, seed=0, **changes):
    """A run's folder: two ranks, correct and wrong responses, some without an answer. `changes` to every response;
    `two_rules` beside each other."""
    generator = np.random.default_rng(seed)
    writers = [Writer(folder, rank) for rank in range(2)]
    second = rule_settings(SURPRISE, (0.0, float("inf")), "surprise") if changes.get("two_rules") else None
    writers[0].write_settings(
        config or GrailConfig(rollouts="all"), bounds, name="grail" if second else None, second=second
    )
    for step in steps:
        for rank, writer in enumerate(writers):
            correct = generator.random(rows) < 0.3 + 0.05 * step
            writer.add_responses(
                without_answer(generator, step, row) if row % 8 == 7 and not changes
                else some_response(generator, step, row, correct=bool(correct[row]), **changes)
                for row in range(rank, rows, 2)
            )  # fmt: skip
        if metrics:
            names = ("weight_mean", "answer_found_rate")
            values = generator.normal(1, 0.1, len(names))
            writers[0].add_metrics(step, {f"grail/{name}": float(value) for name, value in zip(names, values)})
    return folder

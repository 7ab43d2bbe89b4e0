r"""verl's reward: 1.0 if what the last complete `\boxed{}` of a response holds means the ground truth, else 0.0.

At the head of the data's way: *response → reward* → advantages, which the rest of the package then reweights. Used as
`reward.custom_reward_function.path=pkg://grail_verl.reward`; needs `pip install "grail-verl[math]"`. docs/reward.md
says what is equal to what.

    compute_score ── a truth and an answer ──> grader.py, a process apart, under the kernel's limits:
        spelling.py, latex.py (text → tokens) → reading.py (→ parts) → values.py (→ values) → verdict.py

truths.py checks the ground truths before Ray starts, manager.py leaves out what the policy did not write.
"""

import importlib.util
import logging
import numbers

from grail_verl.credit.answer import complete_boxes

if importlib.util.find_spec("math_verify") is None:
    raise ImportError('grail_verl.reward grades with math-verify: pip install "grail-verl[math]"')

from grail_verl.reward.grader import RIGHT, WRONG, verdict

logger = logging.getLogger(__name__)


def compute_score(
    data_source,
    solution_str: str,
    ground_truth,
    extra_info: dict | None = None,
    reward_router_address=None,
    reward_model_tokenizer=None,
) -> dict[str, float]:
    r"""Grades one response. May be called from any number of threads at once.

    Args:
        data_source: the data set's name, for messages.
        solution_str: the response's text, of any length and content.
        ground_truth: text or a number. Of text that holds a complete `\boxed{}` the last one counts, of GSM8K's worked
            solutions what follows `####`.
        extra_info, reward_router_address, reward_model_tokenizer: what verl passes besides; not used.

    Returns:
        The same keys for each response, all 1.0 or 0.0: `score`; `acc`, the same; `answer_found`, there is a
        complete box; `grading_failed`, the grader ran out of time or memory, died or raised, and `score` is 0.

    Raises:
        ValueError: there is no ground truth, or it is neither text nor a number: a mistake in the data, which graded as
            0 would be trained on unnoticed. Both end the run, by manager.py.
        RuntimeError: the grading process does not start; its own error is on the standard error.
    """
    truth = truth_text(ground_truth, data_source)
    answer = _last_box(solution_str)
    found = WRONG if answer is None else verdict(truth, answer.strip())
    failed = found not in (RIGHT, WRONG)
    if failed:  # verl has a metric of it in validation alone
        logger.warning("counted as wrong, as grading did not end well: %.100r of %s", answer, data_source)
    score = float(found == RIGHT)
    return {
        "score": score,
        "acc": score,
        "answer_found": float(answer is not None),
        "grading_failed": float(failed),
    }


def truth_text(ground_truth, data_source) -> str:
    """The text that answers are compared with.

    Raises:
        ValueError: there is none, or it is neither text nor a number.
    """
    if not isinstance(ground_truth, str | numbers.Number | None):
        kind = type(ground_truth).__name__
        raise ValueError(f"a ground_truth of data source {data_source!r} is of type {kind}, not text or a number")
    # NaN, the only number that is not itself, is how parquet files may come to say None.
    text = "" if ground_truth is None or ground_truth != ground_truth else str(ground_truth)
    box = _last_box(text)
    text = (text.rpartition("####")[2] if box is None else box).strip()  # GSM8K: a worked solution, #### 7
    if not text.strip("$ "):
        raise ValueError(f"a ground_truth of data source {data_source!r} is empty: {ground_truth!r}")
    return text


def _last_box(text: str) -> str | None:
    boxes = complete_boxes(content := text.encode("utf-8", "surrogatepass"))
    return content[max(boxes)[1] + 1 : max(boxes)[2]].decode("utf-8", "surrogatepass") if boxes else None

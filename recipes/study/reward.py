"""The study's reward, as verl calls it: 1.0 if the last complete box holds the right answer, else 0.0.

The box is found as the plugin finds it (grail_verl/answer.py), the answer graded by the task's own `score`.
"""

from grail_verl.credit.answer import complete_boxes
from recipes.study.tasks import TASKS


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict) -> float:
    """Args:
    data_source: the task.
    solution_str: the response.
    ground_truth: unused, the task works it out.
    extra_info: {"problem": its text}.
    """
    text = solution_str.encode()
    boxes = complete_boxes(text)
    if not boxes:
        return 0.0
    _, opening, closing = max(boxes)
    answer = text[opening + 1 : closing].decode(errors="replace")
    return float(TASKS[data_source].score(answer, extra_info["problem"]) == 1.0)

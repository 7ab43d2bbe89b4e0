"""1.0 if the last boxed answer is the right one, else 0.0: verl's own scorer, as verl calls a custom one."""

from verl.utils.reward_score import math_reward


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return math_reward.compute_score(solution_str, ground_truth)

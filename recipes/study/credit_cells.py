"""All cells of the credit benchmark, or some: tasks, sizes and stages of training.

    python -m recipes.study.credit_cells                                  # all that are missing
    python -m recipes.study.credit_cells chains-48-quarter chains-48-imitation

Builds each cell's policy and runs credit.py on it; a policy or a result that is there is left as it is. A `quarter` is
imitation with a quarter of the steps. The middle size is policy.py's own, train.py's start. Policies that reinforcement
learning leaves behind are cells of their own: credit.py takes any folder.
"""

import sys
from pathlib import Path

from recipes.study import credit
from recipes.study.policy import STEPS, TASKS, build

SIZES, OWN_SIZE = (48, 96, 192), 96
POLICIES, RESULTS = Path("outputs/study/credit"), Path("recipes/study/results/credit")
CELLS = {
    f"{task}-{size}-{stage}": (task, size, stage)
    for size in SIZES
    for task in TASKS
    for stage in ("quarter", "imitation")
}


def policy_of(task: str, size: int, stage: str) -> Path:
    if (size, stage) == (OWN_SIZE, "imitation"):
        return Path(f"outputs/study/{task}/policy")
    return POLICIES / f"{task}-{size}-{stage}"


def run(name: str) -> None:
    task, size, stage = CELLS[name]
    folder, results = policy_of(task, size, stage), RESULTS / f"{name}.json"
    if results.exists():
        return
    build(task, folder, STEPS[task] // (4 if stage == "quarter" else 1), hidden_size=size)
    credit.main([task, folder.as_posix(), results.as_posix(), "--stage", stage])


if __name__ == "__main__":
    for name in sys.argv[1:] or CELLS:
        if name not in CELLS:
            sys.exit(f"{name} is no cell; there are {', '.join(CELLS)}")
        run(name)

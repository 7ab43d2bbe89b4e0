"""All cells of the credit benchmark, or some: tasks, sizes and stages of training.

    python -m recipes.study.credit_cells                                  # all that are missing
    python -m recipes.study.credit_cells chains-48-imitation chains-96-half

Builds each cell's policy and runs credit.py on it; a policy or a result that is there is left as it is. A `half` is
imitation with half of the steps. The middle size is policy.py's own, which train.py starts from; an `rl` is what
train.py made of it with GRAIL, and must be there:

    python -m recipes.study.train chains grail --lr 4e-4 --seed 0 --out outputs/study/grail.json \\
        --policy outputs/study/chains/grail

credit.py takes any other folder.
"""

import sys
from pathlib import Path

from recipes.study import credit
from recipes.study.policy import build
from recipes.study.tasks import FIRST, TASKS

OWN_SIZE = 96
PLACES = ((48, "imitation"), (OWN_SIZE, "half"), (OWN_SIZE, "imitation"), (OWN_SIZE, "rl"), (144, "imitation"))
POLICIES, RESULTS = Path("outputs/study"), Path("recipes/study/results/credit")
CELLS = {f"{task}-{size}-{stage}": (task, size, stage) for size, stage in PLACES for task in FIRST}


def policy_of(task: str, size: int, stage: str) -> Path:
    own = {"imitation": "policy", "rl": "grail"}
    if size == OWN_SIZE and stage in own:
        return POLICIES / task / own[stage]
    return POLICIES / "credit" / f"{task}-{size}-{stage}"


def run(name: str) -> None:
    """
    Raises:
        SystemExit: the policy has to be trained first, or writes nothing in its task's form.
    """
    task, size, stage = CELLS[name]
    folder, results = policy_of(task, size, stage), RESULTS / f"{name}.json"
    if results.exists():
        return
    if stage == "rl" and not folder.exists():
        sys.exit(f"{name}: there is no {folder}; train.py leaves one with --policy")
    build(task, folder, TASKS[task].imitation_steps // (2 if stage == "half" else 1), hidden_size=size)
    credit.main([task, folder.as_posix(), results.as_posix(), "--stage", stage])


def main(names: list[str]) -> None:
    """Runs them all; says at the end which have failed."""
    if unknown := set(names) - set(CELLS):
        sys.exit(f"no cells: {', '.join(sorted(unknown))}; there are {', '.join(CELLS)}")
    failures = []
    for name in names or CELLS:
        try:
            run(name)
        except SystemExit as failure:
            failures.append(str(failure))
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main(sys.argv[1:])

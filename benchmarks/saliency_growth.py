"""How the saliency pass grows with twice the rows, twice the tokens, twice the ranks: a table and a picture.

Worker, model and batch are those of saliency_cost.py, with every response reweighted; a rank has one CPU thread, and
as many rows however many ranks there are. Beside the pass, in turn, its floor: one forward and one input-gradient
backward of the same tokens through the bare model, on as many ranks at once that do not talk to each other. The least
of the seconds of the slowest rank, and of the CPU seconds of the first: where there are fewer cores than ranks, only
those tell what a rank does.

    python benchmarks/saliency_growth.py docs/saliency_growth.png
"""

import argparse
import copy
import json
import os
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import matplotlib
import saliency_cost

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

SAMPLES = 5
ROWS, TOKENS = (2, 4, 8), (128, 256, 512)
RANKS = (1, 2, 4)


def case_of(rows: int = 4, tokens: int = 512, ranks: int = 1) -> argparse.Namespace:
    case = copy.copy(saliency_cost.arguments([]))
    case.rows, case.response, case.ranks, case.share = rows, tokens - case.prompt, ranks, 1.0
    return case


def measure(rank: int, cases: list, folder: str) -> list[dict[str, float]]:
    """The least of each case's pass and floor; the cases take turns."""
    import ranks
    from transformers import AutoModelForCausalLM
    from verl.workers.engine_workers import TrainingWorker

    worker = ranks.actor(folder, *saliency_cost.overrides(cases[0]))
    bare = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=cases[0].attention).requires_grad_(False)
    TrainingWorker.train_mini_batch(worker, saliency_cost.rollout(cases[-1], rank))  # sets the peak of memory
    samples = [defaultdict(list) for _ in cases]
    for _ in range(1 + SAMPLES):
        for case, found in zip(cases, samples, strict=True):
            data = saliency_cost.rollout(case, rank)
            found["floor"].append(saliency_cost.seconds(partial(saliency_cost.floor, bare, worker, case, data)))
            began = time.process_time()
            found["pass"].append(worker.reweight_advantages(data)["grail/saliency_seconds"])
            found["pass, CPU"].append(time.process_time() - began)
    return [{name: min(values[1:]) for name, values in found.items()} for found in samples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    picture = parser.parse_args().picture
    os.environ["VERL_PLATFORM"] = "cpu"
    import ranks

    with tempfile.TemporaryDirectory() as folder:
        saliency_cost.save_policy(case_of(tokens=max(TOKENS)), folder)

        def run(cases):
            return ranks.on_ranks(measure, cases[0].ranks, cases, folder)[0]

        alone = run([*(case_of(rows=rows) for rows in ROWS), *(case_of(tokens=tokens) for tokens in TOKENS)])
        series = {
            "responses of 512 tokens": (ROWS, alone[: len(ROWS)]),
            "tokens of each of 4 responses": (TOKENS, alone[len(ROWS) :]),
            "ranks, each with 4 responses of 512 tokens": (RANKS, [run([case_of(ranks=n)])[0] for n in RANKS]),
        }

    for name, (sizes, found) in series.items():
        print(name)
        for size, seconds in zip(sizes, found, strict=True):
            print(f"{size:8}", *(f"{part} {value:.2f} s" for part, value in seconds.items()), sep="   ")
    draw(series, picture)
    print(json.dumps(series))


def draw(series: dict, picture: Path) -> None:
    figure, axes = pyplot.subplots(1, len(series), figsize=(12, 3.6), layout="constrained")
    for axis, (name, (sizes, found)) in zip(axes, series.items(), strict=True):
        for part, style in (("floor", "s--"), ("pass, CPU", "^:"), ("pass", "o-")):
            axis.plot(sizes, [seconds[part] for seconds in found], style, label=part)
        axis.set(xticks=sizes, xlabel=name, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        axis.legend(loc="lower right")
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main()

"""What it is worth that all ranks share the saliency pass (grail_verl/hook/sharing.py): a simulation, or measured.

The simulation deals rows to ranks, picks the wrong ones at random, and prints the length of the pass in tokens over an
average rank's, before (each rank scores its own rows) and after. No plan is below `least`: the longest row over the
average. Lengths are log-normal (median 1,500 tokens, sigma 0.7, cut at 8,192, a prompt of 150), a shape that responses
with long reasoning have, or those of a run's records.

    python benchmarks/shared_pass.py
    python benchmarks/shared_pass.py --records DIR          # lengths of a run with algorithm.grail.dump_dir=DIR
    python benchmarks/shared_pass.py --padded               # rows padded to the longest of a micro-batch
    python benchmarks/shared_pass.py --measure --ranks 2    # verl's FSDP worker over gloo, all wrong rows on one rank
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import saliency_cost

RANKS, ROWS, WRONG = (8, 64, 512), (8, 32, 128), (0.1, 0.2, 0.5, 0.9)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens-per-gpu", type=int, default=16_384, metavar="N", help="budget of a micro-batch")
    parser.add_argument("--padded", action="store_true")
    parser.add_argument("--records", type=Path, metavar="DIR")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="of which the mean is printed")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="measured")
    parser.add_argument("--strategy", choices=("fsdp", "fsdp2"), default="fsdp2", help="measured")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measured")
    return parser.parse_args()


def recorded_lengths(folder: Path) -> np.ndarray:
    """Tokens up to the answer's end, of every recorded response that has one."""
    from grail_verl.look.records import read

    return np.array([of["answer"]["end"] for of in read(folder).responses if of["answer"] is not None])


def simulate(case: argparse.Namespace) -> None:
    from grail_verl.credit.rows import Budget, pack
    from grail_verl.hook.sharing import own_plan, pass_length, plan_of

    rng = np.random.default_rng(0)
    known = None if case.records is None else recorded_lengths(case.records)
    budget = Budget(packed=not case.padded, tokens=case.tokens_per_gpu)

    def draw(number: int) -> list[int]:
        if known is not None:
            return rng.choice(known, number).tolist()
        return (150 + np.clip(rng.lognormal(math.log(1500), 0.7, number), 1, 8192)).astype(int).tolist()

    print("ranks  rows  wrong   steps        slowest / average      least    rows that travel")
    for ranks in RANKS:
        for rows in ROWS:
            for wrong in WRONG:
                found = defaultdict(list)
                for _ in range(case.draws):
                    lengths = [draw(number) for number in rng.binomial(rows, wrong, ranks)]
                    if not any(lengths):  # no wrong response: no pass
                        continue
                    packed = [pack(of_rank, budget) for of_rank in lengths]
                    plan = plan_of(lengths, packed, budget)
                    average = sum(map(sum, lengths)) / ranks

                    def tokens(batch, lengths=lengths):
                        return budget.used([lengths[rank][index] for rank, index in batch])

                    for name, of in (("before", own_plan(packed)), ("after", plan)):
                        found[f"steps {name}"].append(max(map(len, of)))
                        found[name].append(pass_length(of, tokens) / average)
                    found["least"].append(max(map(max, filter(None, lengths))) / average)
                    away = [home != rank for rank, of in enumerate(plan) for batch in of for home, _ in batch]
                    found["travel"].append(np.mean(away))
                if not found:
                    continue
                of = {name: statistics.mean(values) for name, values in found.items()}
                print(
                    f"{ranks:5} {rows:5} {wrong:6.0%}   {of['steps before']:4.1f} -> {of['steps after']:4.1f}"
                    f"   {of['before']:6.2f} -> {of['after']:5.2f}   {of['least']:8.2f}   {of['travel']:10.0%}"
                )


def measured(rank: int, case, folder: str) -> dict:
    """Seconds of the pass each way, in turn, and of the floor, on which rank 0 does the average."""
    import ranks
    import torch
    from transformers import AutoModelForCausalLM

    from grail_verl.hook import sharing

    worker = ranks.actor(folder, *saliency_cost.overrides(case))
    bare = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    samples = defaultdict(list)

    def batch(share: float):
        return saliency_cost.rollout(argparse.Namespace(**{**vars(case), "share": share}), rank)

    for round_ in range(case.rounds + 1):
        for way, tolerated in (("own rows", math.inf), ("shared", sharing.TOLERATED)):
            with mock.patch.object(sharing, "TOLERATED", tolerated):
                metrics = worker.reweight_advantages(batch(1.0 if rank == 0 else 0.0))
            samples[way].append(metrics["grail/saliency_seconds"])
        samples["floor"].append(
            saliency_cost.seconds(lambda: saliency_cost.floor(bare, worker, case, batch(1 / case.ranks)))
        )
        if round_ == 0:
            samples.clear()
    return dict(samples)


def measure(given: argparse.Namespace) -> None:
    os.environ["VERL_PLATFORM"] = "cpu"
    import ranks

    case = saliency_cost.arguments(f"--strategy {given.strategy} --ranks {given.ranks} --tokens-per-gpu 1024".split())
    case.rounds = given.rounds
    with tempfile.TemporaryDirectory() as folder:
        saliency_cost.save_policy(case, folder)
        threads = max(1, (os.cpu_count() or 1) // case.ranks)
        samples = ranks.on_ranks(measured, case.ranks, case, folder, threads=threads)[0]
    of = {name: statistics.median(values) for name, values in samples.items()}
    tokens = case.prompt + case.response
    print(f"{case.ranks} ranks, {case.rows} wrong rows of {tokens} tokens, all on one rank; seconds")
    for name, values in samples.items():
        print(f"{name:10}{of[name]:8.3f}{min(values):8.3f}{max(values):8.3f}   median, least, most of {len(values)}")
    ratios = {"shared_vs_own": of["shared"] / of["own rows"], "shared_vs_floor": of["shared"] / of["floor"]}
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    case = arguments()
    measure(case) if case.measure else simulate(case)

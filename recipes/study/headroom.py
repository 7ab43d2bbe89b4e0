"""How much better credit could win, and what share of it each rule wins: numbers, a figure and tables.

    python -m recipes.study.headroom

Behind sweep.py, whose results it reads, beside curves.py. Writes results/headroom.json (every number below), the
picture docs/study/headroom.png, and the tables of docs/study/headroom.md.

A run counts as the area under its sampled accuracy over the number of steps. Headroom is what perfect credit adds to
GRPO's; a rule's share of it is (rule − GRPO) / (perfect − GRPO). All are paired by seed: intervals are 95 % bootstrap
intervals over seeds (percentile), p of the exact permutation test, as in curves.py.
"""

import json
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from recipes.study.curves import MEASURES, compared, curve, finish, language_table, last, load, summarised, tuned_cell
from recipes.study.document import DOCUMENTS, markdown_table, replace_block
from recipes.study.sweep import ENDS, PLANS, RESULTS, SCREENED, untried_rates
from recipes.study.tasks import LONGER
from recipes.study.train import area

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

PAGE = DOCUMENTS / "headroom.md"
OF_LANGUAGE_MODELS = ("language-sums", "language-sums-5")
STUDIED = (*LONGER, *OF_LANGUAGE_MODELS)
EVEN = "even_shares"  # the control: a rule's sum of weights, in every place
ENOUGH = 3  # times its standard error: where rules are compared
RESAMPLES = 10_000


def share(rule: Sequence[float], ends: Sequence[Sequence[float]]) -> dict:
    """Of the headroom between the ends, and its interval over seeds, drawn for all three together."""
    grpo, perfect = (np.asarray(values) for values in ends)
    seeds = np.random.default_rng(0).integers(len(grpo), size=(RESAMPLES, len(grpo)))
    won, room = (np.asarray(rule) - grpo)[seeds].mean(axis=1), (perfect - grpo)[seeds].mean(axis=1)
    low, high = np.percentile(won / room, [2.5, 97.5])
    of_all = (np.mean(rule) - grpo.mean()) / (perfect.mean() - grpo.mean())
    return {"share": float(of_all), "interval": [float(low), float(high)]}


def numbers() -> dict:
    """{task: headroom and methods}. A method is compared on the seeds that it has in common with both ends, two at
    least."""
    found = {}
    for task in LONGER:
        runs = {method: {run["run"]["seed"]: run for run in load(task, method)} for method in PLANS[task].methods}
        methods = {}
        for method, of in runs.items():
            seeds = sorted(set.intersection(*(set(runs[each]) for each in (method, *ENDS))))
            if len(seeds) < 2:
                continue
            values, *ends = (
                [area(runs[each][seed]["evaluation"], "sampled") for seed in seeds] for each in (method, *ENDS)
            )
            methods[method] = {"seeds": seeds, "rate": of[seeds[0]]["run"]["lr"], **summarised(values)}
            if method != "grpo":
                methods[method]["against_grpo"] = compared(values, ends[0])
            if method not in ENDS:
                methods[method]["of_headroom"] = share(values, ends)
            both = [seed for seed in seeds if seed in runs.get(EVEN, {})]
            if method not in ("grpo", EVEN) and len(both) > 1:
                pair = ([area(runs[each][seed]["evaluation"], "sampled") for seed in both] for each in (method, EVEN))
                methods[method]["against_even"] = compared(*pair)
        if methods:
            room = np.subtract(*(methods[end]["values"] for end in reversed(ENDS)))
            error = float(room.std(ddof=1) / len(room) ** 0.5)
            found[task] = {"headroom": {"difference": float(room.mean()), "error": error}, "methods": methods}
    return found


def has_room(results: Mapping) -> bool:
    return results["headroom"]["difference"] >= ENOUGH * results["headroom"]["error"]


def with_rules(found: Mapping) -> list[str]:
    """Tasks of whose methods there are more than the ends of the headroom."""
    return [task for task, results in found.items() if results["methods"].keys() - set(ENDS)]


def headroom_table(found: Mapping) -> str:
    rows = []
    for task, results in found.items():
        room = results["headroom"]
        ends = [f"{of['mean']:.3f} ({of['rate']:g})" for of in map(results["methods"].get, ENDS)]
        seeds, enough = len(results["methods"]["grpo"]["seeds"]), "yes" if has_room(results) else "no"
        rows.append([task, seeds, *ends, f"{room['difference']:+.3f}", f"{room['error']:.3f}", enough])
    head = ["task", "seeds", "GRPO (rate)", "perfect (rate)", "headroom", "its standard error", f"{ENOUGH} times that"]
    return markdown_table(head, rows)


def compared_methods(found: Mapping, task: str) -> list[str]:
    """In the plan's order; those that are on their first seeds alone are not among them."""
    return [method for method in found[task]["methods"] if method in PLANS[task].compared]


def rules_table(found: Mapping) -> str:
    """What goes to all seeds; how many are there, a column says."""
    rows = []
    for task in with_rules(found):
        for method in compared_methods(found, task):
            of = found[task]["methods"][method]
            part = of.get("of_headroom")
            rows.append(
                [
                    task,
                    f"`{method}`",
                    f"{of['rate']:g}",
                    len(of["seeds"]),
                    "{:.3f} ({:.3f}–{:.3f})".format(of["mean"], *of["interval"]),
                    _difference(of.get("against_grpo")),
                    "{:.2f} ({:.2f} to {:.2f})".format(part["share"], *part["interval"]) if part else "",
                    _difference(of.get("against_even")),
                ]
            )
    head = ["task", "method", "rate", "seeds", "area", "less GRPO's", "share of the headroom", "less even shares'"]
    return markdown_table(head, rows)


def measures_table(found: Mapping) -> str:
    """The other measures of what is compared, less GRPO's."""
    taken = [
        (f"{MEASURES[measure]}, {kind}", measure, take)
        for measure, kind, take in (
            ("sampled", "at the end", last),
            ("greedy", "over the run", area),
            ("greedy", "at the end", last),
            ("pass@3", "at the end", last),
        )
    ]
    rows = []
    for task in with_rules(found):
        for method in compared_methods(found, task):
            if method == "grpo":
                continue
            seeds = found[task]["methods"][method]["seeds"]
            both = [{run["run"]["seed"]: run["evaluation"] for run in load(task, name)} for name in (method, "grpo")]
            pairs = ([[take(of[seed], measure) for seed in seeds] for of in both] for _, measure, take in taken)
            rows.append([task, f"`{method}`", *[_difference(compared(*pair)) for pair in pairs]])
    return markdown_table(["task", "method", *[label for label, *_ in taken]], rows)


def screened_table(found: Mapping) -> str:
    """Every method on the first seeds, which all have, the best first."""
    rows = []
    for task in with_rules(found):
        methods = found[task]["methods"]
        if not methods.keys() - set(PLANS[task].compared):
            continue
        first = list(PLANS[task].seeds[:SCREENED])
        areas = {m: of["values"][:SCREENED] for m, of in methods.items() if of["seeds"][:SCREENED] == first}
        if not areas.keys() >= set(ENDS):  # a sweep is under way
            continue
        means = {method: np.mean(values) for method, values in areas.items()}
        low, high = (means[end] for end in ENDS)
        for method in sorted(means, key=means.get, reverse=True):
            rate, mean = f"{methods[method]['rate']:g}", means[method]
            each = " · ".join(f"{value:.3f}" for value in areas[method])
            rows.append([task, f"`{method}`", rate, each, f"{mean:.3f}", f"{(mean - low) / (high - low):.2f}"])
    return markdown_table(["task", "method", "rate", "area of each seed", "mean", "share of the headroom"], rows)


def effort_table() -> str:
    """Of every task: tokens of the starting policy's responses to held-out problems, runs, and hours of their cores."""
    rows = []
    for task in STUDIED:
        files = [file for kind in ("tuning", "runs") for file in sorted((RESULTS / kind / task).glob("*.json"))]
        runs = [json.loads(file.read_text()) for file in files]
        lengths = next((run["evaluation"][0]["tokens"] for run in runs if "tokens" in run["evaluation"][0]), None)
        said = "{:.0f}, {:.0f}, {:.0f}".format(*lengths) if lengths else ""
        rows.append([task, said, len(runs), f"{sum(run['seconds'] for run in runs) / 3600:.1f}"])
    return markdown_table(["task", "tokens: least, median, most", "runs", "hours"], rows)


def _difference(of: Mapping | None) -> str:
    return "{:+.3f} ({:+.3f} to {:+.3f}), p {:.3f}".format(of["difference"], *of["interval"], of["p"]) if of else ""


def tuning_table() -> str:
    """Area at each rate that was tried, of the methods whose rate is chosen."""
    rows = [
        [task, f"`{method}`", tuned_cell(task, method)]
        for task in STUDIED
        for method in ([PLANS[task].tuned_by] if PLANS[task].tuned_by else PLANS[task].methods)
        if not untried_rates(task, method)
    ]
    return markdown_table(["task", "method", "area at each rate"], rows)


def draw(found: Mapping) -> None:
    """Sampled accuracy over training, where rules were compared."""
    tasks = with_rules(found)
    methods = dict.fromkeys(method for task in tasks for method in compared_methods(found, task))
    colours = {method: f"C{place}" for place, method in enumerate(methods)} | {"grpo": "#1b1e23"}
    figure, axes = plt.subplots(1, len(tasks), figsize=(6.5 * len(tasks), 3.8), squeeze=False, layout="constrained")
    for axis, task in zip(axes[0], tasks):
        for method in compared_methods(found, task):
            steps, values = curve(load(task, method), "sampled")
            axis.plot(steps, values.mean(axis=0), label=method, lw=1.6, color=colours[method])
        finish(axis, f"{task}: sampled accuracy", "training step")
        axis.legend(frameon=False, fontsize="small")
    figure.savefig(DOCUMENTS / "headroom.png", dpi=130)
    plt.close(figure)


def tables(found: Mapping) -> dict[str, str]:
    """The blocks of the page."""
    return {
        "headroom": headroom_table(found),
        "rules": rules_table(found),
        "measures": measures_table(found),
        "screened": screened_table(found),
        **{task: language_table(task) for task in OF_LANGUAGE_MODELS},
        "tuning": tuning_table(),
        "effort": effort_table(),
    }


def main() -> None:
    found = numbers()
    (RESULTS / "headroom.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found)
    for name, text in tables(found).items():
        replace_block(PAGE, name, text)


if __name__ == "__main__":
    main()

"""Evaluates a model on the six benchmarks of the paper: `grail-verl evaluate MODEL --data DIR --out DIR`.

By verl's own validation, or by a running server; what verl's overrides say holds for both:

    grail-verl evaluate Qwen/Qwen3-4B --data data --out evaluations/base trainer.n_gpus_per_node=4
    grail-verl evaluate checkpoints/global_step_200 --data data --out evaluations/grail +grail=cpu
    grail-verl evaluate Qwen/Qwen3-4B --data data --out evaluations/base --server http://localhost:8000
"""

import argparse
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from grail_verl.command import add_trust_argument
from grail_verl.evaluation import results
from grail_verl.evaluation.problems import BENCHMARKS, find_files, read_problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="a Hugging Face folder or hub name, a checkpoint of verl's (global_step_N), or the served name"
    )
    parser.add_argument(
        "--data", type=Path, action="append", required=True,
        help=f"a folder with {', '.join(BENCHMARKS)} as parquet files, or one parquet file; may be repeated",
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder for responses and results")
    parser.add_argument("--server", metavar="URL", help="ask a running OpenAI-compatible server (vllm serve)")
    add_trust_argument(parser)
    parser.add_argument("overrides", nargs="*", help="verl's, such as trainer.n_gpus_per_node=4 or +grail=cpu")


def run(options: argparse.Namespace) -> None:
    """Raises CommandError: see `evaluate`."""
    out, trust = options.out.resolve(), options.trust_checkpoint
    evaluate(options.model, options.data, out, options.server, options.overrides, trust)


def evaluate(
    model: str, data: list[Path], out: Path, server: str | None, overrides: list[str], trust_checkpoint: bool = False
) -> None:
    """Everything of one evaluation, what may be refused first.

    Args:
        model: a folder, a hub name, a checkpoint, or with a server the name it serves.
        data: folders or files of problems.
        out: folder of responses and results.
        server: its URL, or None for verl's validation.
        overrides: main_ppo's.
        trust_checkpoint: see `find_model`.

    Raises:
        CommandError: something is not there, or samples are missing.
    """
    results.require_unused(out)
    files = find_files(data)

    from grail_verl.evaluation import settings  # verl, seconds

    overrides = settings.with_preset(overrides)
    config = settings.compose_config(overrides)
    problems = read_problems(files, config.data.prompt_key)
    sampling = settings.Sampling.of(config)
    grade = settings.score_function(config)
    if server:
        from grail_verl.evaluation.server import ask_server, check_server

        check_server(server, model)
        samples = ask_server(server, model, problems, sampling, grade)
    else:
        from grail_verl.evaluation.validation import validate
        from grail_verl.model import find_model

        path = find_model(model, config.actor_rollout_ref.model.trust_remote_code, trust_checkpoint)
        samples = validate(overrides, path, files, out / "verl")

    responses = results.collect(problems, samples)
    results.write_responses(out, responses)
    results.require_complete(problems, responses, sampling.samples)
    table = results.summarise(responses)
    about = {
        "model": model,
        "server": server,
        "sampling": asdict(sampling),
        "versions": {name: version(name) for name in ("grail-verl", "verl", "transformers")},
    }
    results.write_results(out, table, about)
    console = Console()
    console.print(results.shown(table, model))
    if absent := [name for name in BENCHMARKS if name not in table.index]:
        console.print(f"Without {', '.join(absent)}: the averages are not those of the paper", soft_wrap=True)
    console.print(f"Results are in {out}", highlight=False, markup=False, soft_wrap=True)

"""The CPU preset's two rollouts side by side: start-up, memory, tokens a second, weight updates.

The real servers behind verl's interface, one after the other under one Ray, the same policy with random weights and
the same requests, each of which gets exactly `--response` tokens. Per rollout: seconds until the server answers,
proportional memory of its processes after the last round, and over the rounds the medians of tokens a second and of
seconds an update of the weights takes. The last line is one JSON object; its ratio is vllm / transformers.

    python benchmarks/rollout.py                       # the quick start's policy, a step of it; --help for other cases
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = dict(type=int, metavar="N")
    parser.add_argument("--rollouts", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--hidden", default=128, **whole)
    parser.add_argument("--intermediate", default=256, **whole)
    parser.add_argument("--layers", default=3, **whole)
    parser.add_argument("--heads", default=4, **whole)
    parser.add_argument("--kv-heads", default=4, **whole)
    parser.add_argument("--head-dim", default=32, **whole)
    parser.add_argument("--vocabulary", default=320, **whole)
    parser.add_argument("--prompts", default=8, **whole)
    parser.add_argument("--n", default=8, help="responses to a prompt", **whole)
    parser.add_argument("--prompt", default=16, help="tokens", **whole)
    parser.add_argument("--response", default=24, help="tokens", **whole)
    parser.add_argument("--rounds", default=5, **whole)
    return parser.parse_args(given)


def save_policy(args: argparse.Namespace, folder: str):
    """Random weights as an ordinary model folder; the model."""
    import tiny
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=args.vocabulary, hidden_size=args.hidden, intermediate_size=args.intermediate,
        num_hidden_layers=args.layers, num_attention_heads=args.heads, num_key_value_heads=args.kv_heads,
        head_dim=args.head_dim, max_position_embeddings=args.prompt + args.response, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    # As many tokens as logits, since a rollout draws from these alone.
    tokenizer.add_tokens([f"<{number}>" for number in range(len(tokenizer), args.vocabulary)])
    tokenizer.save_pretrained(folder)
    return model


def measure(rollout: str, args: argparse.Namespace, folder: str, model) -> dict[str, float]:
    import torch
    from served import Served

    start = time.perf_counter()
    served = Served(
        rollout, f"actor_rollout_ref.model.path={folder}", f"data.max_prompt_length={args.prompt}",
        f"data.max_response_length={args.response}",
    )
    started = time.perf_counter() - start
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, 250, (args.prompts, args.prompt), generator=random).tolist()
    asked = [prompt for prompt in prompts for _ in range(args.n)]
    updates, speeds = [], []
    for _ in range(args.rounds + 1):
        begun = time.perf_counter()
        served.update(model.state_dict().items())
        updates.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        outputs = served.generate(asked, temperature=1.0, ignore_eos=True)
        speeds.append(sum(len(output.token_ids) for output in outputs) / (time.perf_counter() - begun))
    memory = sum(process.memory_full_info().pss for process in served.processes())
    served.stop()
    # The first round warms up.
    return {
        "start_s": started,
        "memory_mb": memory / 1e6,
        "update_ms": 1000 * statistics.median(updates[1:]),
        "tokens_per_s": statistics.median(speeds[1:]),
    }


def main() -> None:
    args = arguments()
    import ray
    import verl.trainer.main_ppo  # noqa: F401  what a run has imported anyway is no part of a rollout's start
    from rich.console import Console
    from rich.table import Table

    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        model = save_policy(args, folder)
        for rollout in args.rollouts:
            measured[rollout] = measure(rollout, args, folder, model)
    ray.shutdown()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    table = Table(title=f"{parameters / 1e6:.1f} M parameters, {args.prompts} x {args.n} responses of {args.response}")
    table.add_column("")
    for rollout in measured:
        table.add_column(rollout, justify="right")
    for name in next(iter(measured.values())):
        table.add_row(name, *(f"{measured[rollout][name]:,.1f}" for rollout in measured))
    Console().print(table)
    if measured.keys() >= {"transformers", "vllm"}:
        for name in ("start_s", "memory_mb", "update_ms", "tokens_per_s"):
            measured["ratio_" + name] = measured["vllm"][name] / measured["transformers"][name]
    print(json.dumps({name: value if isinstance(value, float) else
                      {key: round(number, 1) for key, number in value.items()} for name, value in measured.items()}))


if __name__ == "__main__":
    main()

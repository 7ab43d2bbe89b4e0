"""What GRAIL adds to an update: verl's real FSDP actor worker, one rollout batch, three procedures in turn.

Built from verl's own config: a Qwen3 of the given dimensions with random weights. In turn, in every round: an
iteration of verl's GRPO update over the batch; the same after GRAIL's hook; the same after the published procedure,
a full forward and backward of every response with logits at every position; then the floor, one forward and one
input-gradient backward of exactly the hook's tokens through the bare model (for OAR-G another forward, for each hop a
backward more, and under FSDP1 a forward), and the hook where no response has an answer. The table shows every part.
Medians make the ratios on the last line, one JSON object; the iteration is verl's own code three times, so its median
is over all three:

    update_ratio_1, update_ratio_N   (hook + N iterations) / N iterations
    cost_vs_published_N              the hook, once / the published procedure, N times
    peak_memory_ratio                peak of the hook / peak of the update, above what lies in memory before
    vs_floor                         the hook's pass / the floor, for saliency and oar_g
    no_answer_ms                     the hook where no response has an answer: saliency and oar_g make no pass then

    python benchmarks/saliency_cost.py              # 31 M parameters, on two cores; --help for other cases
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from unittest import mock

sys.path.append(str(Path(__file__).parents[1] / "tests"))


WEIGHTS_OF = {
    "saliency": "standardised", "oar_g": "reshaped", "surprise": "proportional", "entropy": "top_share"
}  # as the presets pair them; of surprise, every response is weighted


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole = dict(type=int, metavar="N")
    parser.add_argument("--hidden", default=384, **whole)
    parser.add_argument("--intermediate", default=1152, **whole)
    parser.add_argument("--layers", default=7, **whole)
    parser.add_argument("--heads", default=6, **whole)
    parser.add_argument("--kv-heads", default=2, **whole)
    parser.add_argument("--head-dim", default=64, **whole)
    parser.add_argument("--vocabulary", default=49_152, **whole)
    parser.add_argument("--rows", default=8, help="responses on each rank", **whole)
    parser.add_argument("--prompt", default=64, help="tokens", **whole)
    parser.add_argument("--response", default=448, help="tokens", **whole)
    parser.add_argument("--score", choices=WEIGHTS_OF, default="saliency", help="all but saliency score every response")
    parser.add_argument("--hops", default=0, help="of saliency: backward passes more", **whole)
    parser.add_argument("--entropy-known", action="store_true", help="verl's V1 trainer has computed it: no pass")
    parser.add_argument("--share", type=float, default=0.5, help="of the responses that are reweighted")
    parser.add_argument("--answer-at", type=float, default=0.97, help="where the answer ends, of the response")
    parser.add_argument("--tokens-per-gpu", default=2048, help="budget of a micro-batch", **whole)
    parser.add_argument("--iterations", default=4, help="update iterations of the ratios", **whole)
    parser.add_argument("--rounds", default=6, **whole)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--strategy", choices=("fsdp", "fsdp2"), default="fsdp2")
    parser.add_argument("--ranks", default=1, **whole)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--packed", action="store_true", help="verl's use_remove_padding")
    parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing in the update")
    parser.add_argument("--attention", default="sdpa", help="transformers' attn_implementation")
    return parser.parse_args(given)


def overrides(case) -> list[str]:
    actor = "actor_rollout_ref.actor"
    return [
        "algorithm.adv_estimator=grail",
        f"+algorithm.grail.score={case.score}",
        f"+algorithm.grail.weights={WEIGHTS_OF[case.score]}",
        *([f"+algorithm.grail.hops={case.hops}"] if case.hops else []),
        *(["+algorithm.grail.rollouts=all"] if case.score == "surprise" else []),
        f"{actor}.strategy={case.strategy}",
        f"{actor}.fsdp_config.mixed_precision.param_dtype={case.precision}",
        f"{actor}.ppo_max_token_len_per_gpu={case.tokens_per_gpu}",
        f"actor_rollout_ref.model.use_remove_padding={case.packed}",
        f"actor_rollout_ref.model.enable_gradient_checkpointing={not case.keep_activations}",
        f"++actor_rollout_ref.model.override_config.attn_implementation={case.attention}",
    ]


def save_policy(case, folder: str) -> None:
    import tiny
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.intermediate,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.head_dim,
        tie_word_embeddings=True,
        max_position_embeddings=case.prompt + case.response,
        pad_token_id=0,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


def rollout(case, rank: int, *, answered: bool = True):
    import tiny
    import torch

    tokenizer = tiny.tokenizer()
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
    answer = tokenizer.encode(r" \boxed{42}")
    end = int(case.response * case.answer_at)
    generator = torch.Generator().manual_seed(rank)
    responses = []
    for _ in range(case.rows):
        response = digits[torch.randint(0, 10, (case.response,), generator=generator)].tolist()
        if answered:
            response[end - len(answer) : end] = answer
        responses.append(response)
    wrong = round(case.rows * case.share)
    batch = tiny.rollout_batch(
        responses,
        [-1.0] * wrong + [1.0] * (case.rows - wrong),
        seed=rank,
        prompt_lengths=(case.prompt, case.prompt),
        mini_batch_size=case.rows * case.ranks,
    )
    if case.entropy_known:
        batch["entropy"] = -batch["old_log_probs"]
    return batch


def published_pass(worker, mini_batch) -> None:
    """METHOD's account of the official code: every response, logits at every position. The log-probs are
    verl's own kernel's, the micro-batches those of verl's update."""
    import torch
    from verl.utils import tensordict_utils as tu
    from verl.utils.device import get_device_id, get_device_name
    from verl.workers.engine.utils import prepare_micro_batches

    from grail_verl import AnswerLocator

    engine, locator = worker.engine, AnswerLocator(worker.model_config.tokenizer)
    tu.assign_non_tensor(
        mini_batch, use_dynamic_bsz=True, max_token_len_per_gpu=worker.engine_config.max_token_len_per_gpu
    )
    micro_batches, _ = prepare_micro_batches(mini_batch, dp_group=engine.get_data_parallel_group())
    for micro_batch in micro_batches:
        micro_batch = micro_batch.to(get_device_id())
        tu.assign_non_tensor(micro_batch, use_remove_padding=worker.engine_config.use_remove_padding)
        inputs, arguments = engine.prepare_model_inputs(micro_batch)
        masks = []
        for ids, response in zip(micro_batch["input_ids"].unbind(), micro_batch["responses"].unbind(), strict=True):
            span = locator.locate(response.tolist())
            mask = torch.zeros(len(ids), device=ids.device)
            first = len(ids) - len(response) - 1
            mask[first + span.start : first + span.end] = 1
            masks.append(mask)
        leaves = []

        def cut(module, args, output, leaves=leaves):
            leaves.append(output.detach().requires_grad_())
            return leaves[-1]

        handle = engine.module.get_input_embeddings().register_forward_hook(cut)
        with torch.autocast(get_device_name(), torch.bfloat16, enabled=engine._autocast_dtype == torch.bfloat16):
            output = engine.module(**inputs, use_cache=False)
            log_probs = engine.prepare_model_outputs(output, arguments, micro_batch, None)["log_probs"].values()
        (gradient,) = torch.autograd.grad(-(log_probs * torch.cat(masks)).sum(), leaves)
        (gradient.float() * leaves[0].float()).norm(dim=-1)
        handle.remove()


def floor(model, worker, case, batch) -> None:
    """The same rows, budget and precision as the hook's, on the bare model: parameters frozen, the head on
    the positions that predict the answer, or with hops all of the response up to it."""
    import torch
    from verl.utils.device import get_device_name

    from grail_verl import AnswerLocator

    rows = []
    locator = AnswerLocator(worker.model_config.tokenizer)
    for ids, response, advantage in zip(
        batch["input_ids"].unbind(), batch["responses"].unbind(), batch["advantages"].unbind(), strict=True
    ):
        if advantage[0] < 0 or case.score == "oar_g":
            span = locator.locate(response.tolist())
            rows.append(ids[: len(ids) - len(response) + span.end])
    predicted = span.end if case.hops else span.end - span.start  # rows of one length and one answer
    rows_at_once = max(1, case.tokens_per_gpu // len(rows[0]))
    if case.score == "oar_g":
        backwards_of_forwards = (0, 1)
    else:  # FSDP1 walks no graph twice
        backwards_of_forwards = (1,) * (case.hops + 1) if case.strategy == "fsdp" else (case.hops + 1,)
    for first in range(0, len(rows), rows_at_once):
        ids = torch.stack(rows[first : first + rows_at_once]).to(model.device)
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        for backwards in backwards_of_forwards:
            with (
                torch.autocast(get_device_name(), torch.bfloat16, enabled=case.precision == "bf16"),
                torch.set_grad_enabled(backwards > 0),
            ):
                hidden = model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
                logits = model.lm_head(hidden[:, -predicted - 1 : -1].flatten(0, 1)).float()
            loss = torch.nn.functional.cross_entropy(logits, ids[:, -predicted:].flatten(), reduction="sum")
            for left in reversed(range(backwards)):
                torch.autograd.grad(loss, embeddings, retain_graph=left > 0)


class Memory:
    """Peak of the memory in use during a block, above what was in use before it, in bytes."""

    def __init__(self, device: str):
        self.device = device

    def __enter__(self):
        import torch

        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what is free but kept counts as used before
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
            self.before = self._status("VmRSS")
        return self

    def __exit__(self, *_):
        import torch

        # Not by max_memory_allocated, in whose place the hook is told another peak.
        peak = self._status("VmHWM") if self.device == "cpu" else torch.cuda.memory_stats()["allocated_bytes.all.peak"]
        self.peak = peak - self.before

    @staticmethod
    def _status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def seconds(work) -> float:
    """Wall time until every rank is done."""
    import torch.distributed as dist
    from verl.utils.device import get_torch_device

    get_torch_device().synchronize()
    dist.barrier()
    began = time.perf_counter()
    work()
    get_torch_device().synchronize()
    dist.barrier()
    return time.perf_counter() - began


def measure(rank: int, case, folder: str) -> dict:
    """Samples of every quantity, in seconds, and the two peaks, in bytes."""
    import ranks
    import torch
    from transformers import AutoModelForCausalLM
    from verl.utils.device import get_torch_device
    from verl.workers.engine_workers import TrainingWorker

    torch.manual_seed(rank)
    worker = ranks.actor(folder, *overrides(case))
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    bare = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=case.attention)
    bare.to(case.device).eval().requires_grad_(False)
    samples = defaultdict(list)

    def timed(name, work, *args):
        data = rollout(case, rank)
        samples[name].append(seconds(lambda: work(*args, data)))

    def hook(data):
        samples["its pass"].append(worker.reweight_advantages(data)["grail/saliency_seconds"])

    def one_round():
        for procedure, work in (("GRPO", None), ("GRAIL", hook), ("published", partial(published_pass, worker))):
            if work is not None:
                timed(procedure, work)
            timed(f"iteration, {procedure}", TrainingWorker.train_mini_batch, worker)
        if case.score in ("saliency", "oar_g"):
            timed("floor", floor, bare, worker, case)
        for data in [rollout(case, rank, answered=False) for _ in range(10)]:
            began = time.perf_counter()  # the hook ends with a collective: no barrier on the clock
            worker.reweight_advantages(data)
            samples["no answer"].append(time.perf_counter() - began)

    one_round()  # from here on the optimizer has its state
    samples.clear()
    for _ in range(case.rounds):
        one_round()

    device = get_torch_device()
    held = device.max_memory_allocated()  # before `Memory` resets it: what the hook goes by
    with Memory(case.device) as of_update:
        TrainingWorker.train_mini_batch(worker, rollout(case, rank))
    with mock.patch.object(device, "max_memory_allocated", lambda: held), Memory(case.device) as of_hook:
        worker.reweight_advantages(rollout(case, rank))
    return {"seconds": dict(samples), "update": of_update.peak, "hook": of_hook.peak}


def main() -> None:
    case = arguments()
    os.environ["VERL_PLATFORM"] = {"cpu": "cpu", "cuda": "nvidia"}[case.device]
    import ranks

    threads = max(1, (os.cpu_count() or 1) // case.ranks)
    with tempfile.TemporaryDirectory() as folder:
        save_policy(case, folder)
        found = ranks.on_ranks(measure, case.ranks, case, folder, threads=threads)[0]
    samples = found["seconds"]
    print(f"{'seconds':22}{'median':>9}{'least':>9}{'most':>9}   of {case.rounds}")
    for name, sample in samples.items():
        print(f"{name:22}{statistics.median(sample):9.3f}{min(sample):9.3f}{max(sample):9.3f}{len(sample):10}")
    update, hook = found["update"], found["hook"]
    print(f"peak memory, above what lay there: update {update / 2**20:.0f} MiB, hook {hook / 2**20:.0f} MiB")

    of = {name: statistics.median(sample) for name, sample in samples.items()}
    iterations = (sample for name in samples if "iteration" in name for sample in samples[name])
    iteration, n = statistics.median(iterations), case.iterations
    ratios = {f"update_ratio_{count}": 1 + of["GRAIL"] / (count * iteration) for count in sorted({1, n})}
    ratios[f"cost_vs_published_{n}"] = of["GRAIL"] / (n * of["published"])
    ratios["peak_memory_ratio"] = hook / update
    if "floor" in of:
        ratios["vs_floor"] = of["its pass"] / of["floor"]
    ratios["no_answer_ms"] = 1000 * of["no answer"]
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()

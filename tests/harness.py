"""The hook in verl's actor worker against the plain model.

The harness of test_worker.py, test_matrix.py, test_gpu.py and test_veomni.py. `compare` builds the real worker from
verl's own config, hands it a rollout batch, and holds what the hook made of the advantages against `answer_saliency`
and `token_weights` on the unsharded model, one response at a time. Then it holds verl's update with the hook against
verl's own worker on advantages rescaled beforehand. Scores and weights other than GRAIL's are worked out by by_hand.py.
The engine is on the device that verl finds, the plain model on the CPU.
"""

import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import by_hand
import pytest
import ranks
import tiny
import torch
import torch.distributed as dist
from verl.utils.device import get_device_id, get_device_name, get_torch_device

from grail_verl import AnswerLocator, GrailConfig, answer_saliency, token_weights

# A pair for each prompt: rank 0 has many responses to reweight, rank 1 almost none. With a budget that makes rank
# 0's several micro-batches, a disagreement about their number would hang and end in the harness's TimeoutError.
TEXTS = [
    (r"3 + 4 = 7, so \boxed{7}. Done<|im_end|>", r"1 + 1 = 3 and 3 \boxed{33}<|im_end|>"),
    (r"\boxed{1} or \boxed{2}? 2<|im_end|>", r"so the answer \boxed{5}"),
    (r"no answer here<|im_end|>", r"7 7 7 \boxed{7}"),
    (r"the answer is \boxed{42 and no more", r"<|im_end|>"),
    (r"9 - 4 = 5 + 1 = 6 we get \boxed{6}, we get 6, we get 6<|im_end|>", r"0 1 2 3 \boxed{4}<|im_end|>"),
    (r"5 5 5 5 \boxed{ 5 }", r"4 - 4 \boxed{}<|im_end|>"),
    (r"", r"\boxed{8}"),
    (r"\boxed{", r"a"),
]
ADVANTAGES = [(-1.0, 1.0), (-0.5, 0.5), (-1.0, 1.0), (-1.0, 0.25), (-2.0, 0.0), (-0.25, 1.5), (-1.0, -1.0), (-1.0, 1.0)]


def rollout(rank: int, **extra):
    """The batch of a data-parallel rank; those beyond the second have the same as the first two."""
    tokenizer, column = tiny.tokenizer(), rank % 2
    responses = [tokenizer.encode(pair[column]) for pair in TEXTS]
    masks = [[1] * len(response) for response in responses]
    masks[0][2:4] = [0, 0]  # a tool's tokens in the middle of the reasoning
    masks[4][-2] = 0
    return tiny.rollout_batch(
        responses,
        [pair[column] for pair in ADVANTAGES],
        masks,
        seed=rank,
        **{"mini_batch_size": 8, "epochs": 2, "temperature": 0.8, **extra},
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A way to run verl.

    Attributes:
        policy: the folder of the model, by its name in the fixture.
        strategy: fsdp | fsdp2 | veomni.
        options: GRAIL's, besides a spread so wide that differences show.
        overrides: verl's; {name} stands for a folder.
        ranks: how many processes.
        plain: the folder of the plain model, where it is another.
        sequence_parallel: ranks that share a batch.
        tolerance: absolute, of weights around 1, where computing in less than float32. None: `rounding()` of the
            weight, or of a weight of 1 where it is smaller.
        rollout: data-parallel rank → batch.
        setup: called on every rank before the worker is built.
        needs: what the machine must have, by the names of test_gpu.py.
    """

    policy: str
    strategy: str
    options: dict = dataclasses.field(default_factory=dict)
    overrides: tuple[str, ...] | list[str] = ()
    ranks: int = 2
    plain: str | None = None
    sequence_parallel: int = 1
    tolerance: float | None = None
    rollout: Callable = rollout
    setup: Callable | None = None
    needs: tuple[str, ...] = ()

    @property
    def written(self) -> dict:
        """The options as a user writes them; only standardised weights take some that widen them."""
        wide = {} if "weights" in self.options else {"std": 1.0, "w_min": 0.0, "w_max": 50.0}
        return {**wide, **self.options}

    @property
    def grail(self) -> GrailConfig:
        return GrailConfig(**self.written)

    def actor(self, folders: dict, estimator: str):
        """verl's actor worker on this rank."""
        same_twice = [] if get_device_name() == "cpu" else [f"{ranks.ENGINE}full_determinism=True"]
        return ranks.actor(
            folders[self.policy],
            f"algorithm.adv_estimator={estimator}",
            f"actor_rollout_ref.actor.strategy={self.strategy}",
            *same_twice,
            *[f"+algorithm.grail.{name}={value}" for name, value in self.written.items()],
            *[override.format(**folders) for override in self.overrides],
        )


def plain_model(folder: str):
    """The unsharded model of a folder; a PEFT one where the folder holds an adapter."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM
    from transformers.utils.peft_utils import find_adapter_config_file

    cls = AutoPeftModelForCausalLM if find_adapter_config_file(folder) else AutoModelForCausalLM
    return cls.from_pretrained(folder).to("cpu")


def expected_advantages(model, data, config: GrailConfig, tokenizer=None) -> list[torch.Tensor]:
    """What `expected_of_ranks` gives for one rank whose responses are all there are."""
    return expected_of_ranks(model, [data], config, tokenizer)[0]


def expected_of_ranks(model, of_ranks: list, config: GrailConfig, tokenizer=None) -> list[list[torch.Tensor]]:
    """Each rank's advantages by the unsharded model, one response at a time: answer_saliency and token_weights for
    GRAIL, by_hand.py for the other scores and weights."""
    locator = AnswerLocator(tokenizer or tiny.tokenizer(), config.occurrence)
    rows = [
        _response(model, data, row, config, locator, advantage, temperature)
        for data in of_ranks
        for row, (advantage, temperature) in enumerate(
            zip(data["advantages"].unbind(), torch.as_tensor(data["temperature"]).expand(len(data)), strict=True)
        )
    ]
    if config.weights == "top_share":
        scored = [row for row in rows if row["scored"]]
        found = by_hand.top_share([(row["scores"], row["mask"]) for row in scored], config.share)
        for row, weights in zip(scored, found, strict=True):
            row["weights"] = weights
    expected = iter([row["advantage"] * torch.tensor(row["weights"]) for row in rows])
    return [[next(expected) for _ in range(len(data))] for data in of_ranks]


def _response(model, data, row: int, config: GrailConfig, locator, advantage, temperature) -> dict:
    """Its scores, and its weights unless they depend on other responses."""
    prompt, response, mask = (data[name][row] for name in ("prompts", "responses", "response_mask"))
    span = locator.locate(response.tolist(), data["loss_mask"][row].tolist())  # rejected or not, the policy wrote it
    answer = None if span is None else range(span.start, span.end)
    content = range(0) if span is None else range(span.content_start, span.content_end)
    ids, mask = torch.cat([prompt, response]), mask.tolist()
    about_answer = not {"saliency", "oar_g"}.isdisjoint(config.scores)
    found = {"advantage": advantage, "mask": mask, "weights": [float(valid) for valid in mask], "scored": False}
    if not any(mask) or (about_answer and answer is None):
        return found
    scores = torch.ones(len(response))
    for name in config.scores:
        if name == "saliency" and config.hops:
            of_name = by_hand.hops(model, ids, len(prompt), answer, len(response), config.hops, temperature.item())
        elif name == "saliency":
            answer_1T = torch.tensor([[t in answer for t in range(len(response))]])
            alignment = config.alignment if config.scores == ["saliency"] else "token"
            options = {"leaf": config.leaf, "alignment": alignment, "temperature": temperature}
            ones = torch.ones_like(ids[None])
            of_name = answer_saliency(model, ids[None], ones, len(response), answer_1T, **options)[0]
        elif name == "oar_g":
            of_name = by_hand.oar_g(model, ids, len(prompt), answer, len(response), noise_of=get_device_id())
        elif name == "surprise":
            of_name = -data["old_log_probs"][row]
        elif "entropy" in data:
            of_name = data["entropy"][row]
        else:
            of_name = by_hand.entropy(model, ids, len(prompt), temperature.item())
        scores = scores * torch.as_tensor(of_name)
    found.update(scores=scores.tolist(), scored=True)
    of_policy = [value for value, valid in zip(advantage.tolist(), mask, strict=True) if valid]
    chosen = {"wrong": of_policy[0] <= 0, "correct": of_policy[0] > 0, "all": True}[config.rollouts]
    if config.weights == "standardised" and about_answer:
        masks = (torch.tensor([[t in part for t in range(len(response))]]) for part in (answer, content))
        found["weights"] = token_weights(
            scores[None], torch.tensor([mask]), *masks, advantage[None], config
        )[0].tolist()
    elif config.weights == "standardised" and (chosen or answer is not None):
        flat = dataclasses.replace(config, std=0.0) if not chosen else config  # a weight of `mean`, here 1
        found["weights"] = by_hand.standardised(found["scores"], mask, answer, content, flat)
    elif config.weights == "reshaped":
        found["weights"] = by_hand.reshaped(found["scores"], mask)
    elif config.weights == "proportional" and chosen:
        found["weights"] = by_hand.proportional(found["scores"], mask, answer, config.total)
    return found


def shards(worker) -> list[torch.Tensor]:
    """This rank's part of every parameter."""
    get_torch_device().synchronize()  # verl offloads without waiting for the copies
    parameters = (parameter.detach() for parameter in worker.engine.module.parameters())
    return [(p.to_local() if hasattr(p, "to_local") else p).clone() for p in parameters]


def state(worker) -> tuple:
    """Everything that a saliency pass could leave behind, in a form that == compares."""
    moments = [
        tensor.to_local() if hasattr(tensor, "to_local") else tensor
        for of_parameter in worker.engine.optimizer.state.values()
        for tensor in of_parameter.values()
    ]
    values = [tensor.tolist() for tensor in (*shards(worker), *moments)]
    return tiny.traces(worker.engine.module), get_torch_device().get_rng_state().tolist(), values


def compare(rank: int, folders: dict, case: Case) -> dict:
    """One case on one rank."""
    if case.setup is not None:
        case.setup()
    data_rank = rank // case.sequence_parallel
    # Before the worker: verl replaces the forward of the model's class where fused kernels are asked for.
    model = plain_model(folders[case.plain or case.policy])
    batches = [case.rollout(of_rank).to("cpu") for of_rank in range(case.ranks // case.sequence_parallel)]
    expected = expected_of_ranks(model, batches, case.grail)[data_rank]
    worker = case.actor(folders, "grail")

    data = case.rollout(data_rank)
    before = state(worker)
    metrics = worker.reweight_advantages(data)
    unchanged = [state(worker) == before]

    def plain_update():
        """verl's own worker, on advantages rescaled by hand."""
        rescaled, plain = case.rollout(data_rank), case.actor(folders, "grpo")
        rescaled["advantages"] = data["advantages"]
        plain.train_mini_batch(rescaled)
        return plain

    # The same update twice: through the hook, and without it.
    start = shards(worker)
    worker.train_mini_batch(case.rollout(data_rank))
    plain = plain_update()
    one, other = shards(worker), shards(plain)
    apart = largest_difference(one, other)

    before = state(worker)  # Adam has moments by now
    worker.reweight_advantages(case.rollout(data_rank))
    unchanged.append(state(worker) == before)
    return {
        "worker": type(worker).__name__,
        "plain": type(plain).__name__,
        "unchanged": unchanged,
        "metrics": metrics,
        "got": [row.tolist() for row in data["advantages"].unbind()],
        "expected": [row.tolist() for row in expected],
        "before": [row.tolist() for row in case.rollout(data_rank)["advantages"].unbind()],
        "updates apart": apart,
        # Kernels that add in any order, of which a GPU has some, do not make verl's own update the same twice.
        "verl's apart": 0.0 if apart == 0 else largest_difference(other, shards(plain_update())),
        "updated": not all(map(torch.equal, one, start)),
    }


def largest_difference(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Between two updates' parameters; NaN if there is one."""
    pairs = zip(one, other, strict=True)
    return torch.stack([(a - b).abs().max() for a, b in pairs if a.numel()]).max().item()


def session(rank: int, folders: dict, cases: dict[str, Case], kept: str) -> None:
    """Every case, one after the other in the same processes; what each shows goes into the folder `kept`. One that
    raises does not keep the others from running, unless it leaves a process that cannot go on: then this ends."""
    for name, case in cases.items():
        began, joined = time.perf_counter(), dist.is_initialized()
        try:
            result = compare(rank, folders, case)
        except Exception:
            result = {"error": traceback.format_exc()}
        result["seconds"] = time.perf_counter() - began
        _keep(result, Path(kept, f"{name}.{rank}.json"))
        if joined and not dist.is_initialized():  # within the hook: it ends the process groups
            return
        try:
            get_torch_device().synchronize()
        except RuntimeError:  # a GPU's, which every later call would raise again
            return


def run(
    cases: dict[str, Case], folders: dict, kept: Path, wanted: Callable[[], bool] = lambda: True
) -> dict[str, list[dict]]:
    """name → what each rank saw; one group of processes for all of so many ranks, and a new one for those that are left
    when a case takes its processes with it, as long as they are wanted. A case that is done is `finished` while others
    still run."""
    for count in sorted({case.ranks for case in cases.values()}):
        left = [name for name, case in cases.items() if case.ranks == count]
        while left and wanted():
            ended = "the ranks did not come to it alike"
            try:
                ranks.on_ranks(session, count, folders, {name: cases[name] for name in left}, str(kept))
                failed = False
            except (RuntimeError, TimeoutError) as error:
                ended, failed = str(error), True
            still = [name for name in left if finished(kept, name, count) is None]
            if still and (failed or still == left):
                for path in _files(kept, still.pop(0), count):
                    if not path.exists():
                        _keep({"error": ended, "seconds": 0.0}, path)
            left = still
    return {name: finished(kept, name, case.ranks) for name, case in cases.items()}


def finished(kept: Path, name: str, count: int) -> list[dict] | None:
    """What each of so many ranks saw of a case, once all have."""
    files = _files(kept, name, count)
    return [json.loads(path.read_text()) for path in files] if all(path.exists() for path in files) else None


def _files(kept: Path, name: str, count: int) -> list[Path]:
    return [kept / f"{name}.{rank}.json" for rank in range(count)]


def _keep(result: dict, path: Path) -> None:
    """There at once and whole, as others look for it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.rename(path)


def rounding() -> float:
    """Of float32, in weights. A GPU adds in another order than the CPU, where the plain model is."""
    return 1e-5 if get_device_name() == "cpu" else 1e-4


def asked(cases: dict[str, Case], request) -> dict[str, Case]:
    """Those that chosen tests of the module are about, by their parameter `name`."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = {item.callspec.params.get("name") for item in items}
    return {name: case for name, case in cases.items() if name in names}


def save_policies(folder_of: Callable, policies: Iterable[str]) -> dict[str, str]:
    """Policies of these names, and those of the adapter's; name → folder, which `folder_of` makes of the name."""
    from peft import LoraConfig, TaskType, get_peft_model

    names = {"tied", "adapter", *policies}
    paths = {name: str(folder_of(name)) for name in names}
    for name in names - {"adapter"}:
        architecture = "qwen3" if name in ("tied", "untied") else name.removeprefix("wide_")
        hidden = 128 if name.startswith("wide_") else 32  # Triton's kernel takes multiples of 128
        tiny.save_policy(paths[name], architecture=architecture, tied=name != "untied", hidden=hidden)
    adapted = get_peft_model(
        tiny.model(), LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules="all-linear")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero at the start, which would leave the base model
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.base_model.model.name_or_path = adapted.peft_config["default"].base_model_name_or_path = paths["tied"]
    adapted.save_pretrained(paths["adapter"])
    return paths


def check(case: Case, results: list[dict]) -> None:
    """What a case of `compare`, on all ranks, must show."""
    for rank, result in enumerate(results):
        assert "error" not in result, f"rank {rank}:\n{result.get('error')}"
        assert result["worker"] == "GrailTrainingWorker" and result["plain"] == "TrainingWorker"
        rows = zip(result["got"], result["expected"], result["before"], strict=True)
        for row, (got, expected, before) in enumerate(rows):
            size = max(map(abs, before), default=0.0)  # of the advantage: what a weight of 1 leaves
            exact = {"rel": rounding(), "abs": rounding() * size}
            tolerance = exact if case.tolerance is None else {"abs": case.tolerance}
            assert got == pytest.approx(expected, **tolerance), f"rank {rank}, row {row}"
        assert result["unchanged"] == [True, True], f"rank {rank}"
        apart = {name: result[name] for name in ("updates apart", "verl's apart")}
        assert apart["updates apart"] <= 2 * apart["verl's apart"], f"rank {rank}: {apart}"
        assert result["updated"], f"rank {rank}"
    if case.tolerance is not None:
        assert rank_correlation(results) > 0.99
    rows = [row for result in results for row in zip(result["got"], result["before"], strict=True)]
    assert any(got != before for got, before in rows)  # it did weigh something
    if case.grail.weights != "top_share":  # whose weights are 0 and 1
        assert len({round(abs(value), 5) for got, _ in rows for value in got}) > 20


def departure(results: list[dict]) -> float:
    """The largest, of all tokens: |got − expected| of the weight, or of a weight of 1 where it is smaller."""
    return max(abs(got - expected) / max(abs(expected), abs(before)) for got, expected, before in weighted(results))


def rank_correlation(results: list[dict]) -> float:
    """Spearman's, of all weights that differ from 1, got against expected."""
    pairs = [(got / before, expected / before) for got, expected, before in weighted(results) if expected != before]
    places = torch.tensor(pairs, dtype=torch.float64).T.argsort(dim=-1).argsort(dim=-1).double()
    return torch.corrcoef(places)[0, 1].item()


def weighted(results: list[dict]) -> Iterable[tuple[float, float, float]]:
    """(got, expected, before) of every token's advantage that is not 0 before."""
    for result in results:
        for rows in zip(result["got"], result["expected"], result["before"], strict=True):
            yield from (token for token in zip(*rows, strict=True) if token[-1] != 0)

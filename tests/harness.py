"""The hook in verl's actor worker against the plain model: the harness of test_worker, test_matrix and test_veomni.

`compare` builds the real worker from verl's own config, hands it a rollout batch, and holds what the hook made of
the advantages against `answer_saliency` and `token_weights` on the unsharded model, one response at a time. Then
it holds verl's update with the hook against verl's own worker on advantages rescaled beforehand. Scores and weights
other than GRAIL's are worked out by by_hand.py.
"""

import dataclasses
import traceback
from collections.abc import Callable

import by_hand
import pytest
import ranks
import tiny
import torch

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
        tolerance: absolute, of weights around 1, where computing in less than float32. None: 1e-5 of the weight, or
            of a weight of 1 where it is smaller.
        rollout: data-parallel rank → batch.
        setup: called on every rank before the worker is built.
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
        return ranks.actor(
            folders[self.policy],
            f"algorithm.adv_estimator={estimator}",
            f"actor_rollout_ref.actor.strategy={self.strategy}",
            *[f"+algorithm.grail.{name}={value}" for name, value in self.written.items()],
            *[override.format(**folders) for override in self.overrides],
        )


def plain_model(folder: str):
    """The unsharded model of a folder; a PEFT one where the folder holds an adapter."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM
    from transformers.utils.peft_utils import find_adapter_config_file

    cls = AutoPeftModelForCausalLM if find_adapter_config_file(folder) else AutoModelForCausalLM
    return cls.from_pretrained(folder)


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
            of_name = by_hand.oar_g(model, ids, len(prompt), answer, len(response))
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
    parameters = (parameter.detach() for parameter in worker.engine.module.parameters())
    return [(p.to_local() if hasattr(p, "to_local") else p).clone() for p in parameters]


def state(worker) -> tuple:
    """Everything that a saliency pass could leave behind, in a form that == compares."""
    moments = [
        tensor.to_local() if hasattr(tensor, "to_local") else tensor
        for of_parameter in worker.engine.optimizer.state.values()
        for tensor in of_parameter.values()
    ]
    return tiny.traces(worker.engine.module), [tensor.tolist() for tensor in (*shards(worker), *moments)]


def compare(rank: int, folders: dict, case: Case) -> dict:
    """One case on one rank."""
    if case.setup is not None:
        case.setup()
    data_rank = rank // case.sequence_parallel
    # Before the worker: verl replaces the forward of the model's class where fused kernels are asked for.
    model = plain_model(folders[case.plain or case.policy])
    batches = [case.rollout(of_rank) for of_rank in range(case.ranks // case.sequence_parallel)]
    expected = expected_of_ranks(model, batches, case.grail)[data_rank]
    worker = case.actor(folders, "grail")

    data = case.rollout(data_rank)
    before = state(worker)
    metrics = worker.reweight_advantages(data)
    unchanged = [state(worker) == before]

    # The same update twice: through the hook, and by verl's own worker on advantages rescaled by hand.
    hooked, by_hand = case.rollout(data_rank), case.rollout(data_rank)
    by_hand["advantages"] = data["advantages"]
    start = shards(worker)
    worker.train_mini_batch(hooked)
    plain = case.actor(folders, "grpo")
    plain.train_mini_batch(by_hand)
    one, other = shards(worker), shards(plain)

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
        "same update": len(one) == len(other) > 0 and all(map(torch.equal, one, other)),
        "updated": not all(map(torch.equal, one, start)),
    }


def session(rank: int, folders: dict, cases: dict[str, Case]) -> dict:
    """Every case, one after the other in the same processes. One that every rank refuses alike, as it does a wrong
    config, does not keep the others from running; one that fails within the hook ends the process groups."""
    results = {}
    for name, case in cases.items():
        try:
            results[name] = compare(rank, folders, case)
        except Exception:
            results[name] = {"error": traceback.format_exc()}
    return results


def save_policies(cases: dict[str, Case], folder_of: Callable) -> dict[str, str]:
    """Policies of the cases; name → folder, which `folder_of` makes of the name."""
    paths = {name: str(folder_of(name)) for name in sorted({case.policy for case in cases.values()})}
    for name, folder in paths.items():
        architecture = "qwen3" if name in ("tied", "untied") else name
        tiny.save_policy(folder, architecture=architecture, tied=name != "untied")
    return paths


def results(cases: dict[str, Case], folders: dict, request) -> dict[str, list[dict]]:
    """name → what each rank saw, of the cases that the tests of a module ask its fixture `results` for; one group of
    processes for all of so many ranks."""
    items = [item for item in request.session.items if item.path == request.path and "results" in item.fixturenames]
    asked = [item.callspec.params["name"] for item in items]
    by_name: dict[str, list[dict]] = {}
    for count in sorted({cases[name].ranks for name in asked}):
        alike = {name: cases[name] for name in asked if cases[name].ranks == count}
        of_ranks = ranks.on_ranks(session, count, folders, alike)
        by_name.update({name: [result[name] for result in of_ranks] for name in alike})
    return by_name


def check(case: Case, results: list[dict]) -> None:
    """What a case of `compare`, on all ranks, must show."""
    for rank, result in enumerate(results):
        assert "error" not in result, f"rank {rank}:\n{result.get('error')}"
        assert result["worker"] == "GrailTrainingWorker" and result["plain"] == "TrainingWorker"
        rows = zip(result["got"], result["expected"], result["before"], strict=True)
        for row, (got, expected, before) in enumerate(rows):
            size = max(map(abs, before), default=0.0)  # of the advantage: what a weight of 1 leaves
            tolerance = {"rel": 1e-5, "abs": 1e-5 * size} if case.tolerance is None else {"abs": case.tolerance}
            assert got == pytest.approx(expected, **tolerance), f"rank {rank}, row {row}"
        assert result["unchanged"] == [True, True], f"rank {rank}"
        assert result["same update"] and result["updated"], f"rank {rank}"
    if case.tolerance is not None:
        assert rank_correlation(results) > 0.99
    rows = [row for result in results for row in zip(result["got"], result["before"], strict=True)]
    assert any(got != before for got, before in rows)  # it did weigh something
    if case.grail.weights != "top_share":  # whose weights are 0 and 1
        assert len({round(abs(value), 5) for got, _ in rows for value in got}) > 20


def rank_correlation(results: list[dict]) -> float:
    """Spearman's, of all weights that differ from 1, got against expected."""
    pairs = [
        (got / before, expected / before)
        for result in results
        for rows in zip(result["got"], result["expected"], result["before"], strict=True)
        for got, expected, before in zip(*rows, strict=True)
        if before != 0 and expected != before
    ]
    places = torch.tensor(pairs, dtype=torch.float64).T.argsort(dim=-1).argsort(dim=-1).double()
    return torch.corrcoef(places)[0, 1].item()

"""The hook in verl's actor worker, on two gloo ranks with sharded parameters, against the plain model.

Rank 0 has many responses to reweight and a budget that makes it several micro-batches, rank 1 has almost
none: a disagreement about the number of passes would hang and end in the harness's TimeoutError.
"""

import pytest
import ranks
import tiny
import torch

from grail_verl import GrailConfig
from grail_verl.answer import AnswerLocator
from grail_verl.saliency import answer_saliency
from grail_verl.weights import token_weights

PADDED = "actor_rollout_ref.model.use_remove_padding=False"
CHECKPOINTED = "actor_rollout_ref.model.enable_gradient_checkpointing=True"
PLAIN = "actor_rollout_ref.model.enable_gradient_checkpointing=False"
ORIGINAL = "actor_rollout_ref.actor.fsdp_config.use_orig_params=True"
NOT_RESHARDED = "actor_rollout_ref.actor.fsdp_config.reshard_after_forward=False"
FUSED = [
    "actor_rollout_ref.model.use_fused_kernels=True",
    "actor_rollout_ref.model.fused_kernel_options.impl_backend=torch",
]
BF16 = ["actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16"]  # verl's default on a GPU
BY_ROWS = [
    "actor_rollout_ref.actor.use_dynamic_bsz=False",
    "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=False",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2",
]

# name: (policy, strategy, GRAIL's options, verl's overrides)
CASES = {
    "fsdp packed": ("tied", "fsdp", {}, [CHECKPOINTED]),
    "fsdp padded": ("untied", "fsdp", {"leaf": "middle", "alignment": "token"}, [PADDED, PLAIN]),
    "fsdp padded, by rows": ("tied", "fsdp", {"leaf": "last", "statistics": "reasoning"}, [PADDED, *BY_ROWS]),
    "fsdp packed, parameters as they were": ("untied", "fsdp", {}, [CHECKPOINTED, ORIGINAL]),
    "fsdp2 packed": ("untied", "fsdp2", {"rollouts": "all"}, [CHECKPOINTED]),
    "fsdp2 packed, block": ("tied", "fsdp2", {"leaf": "first", "occurrence": "first"}, [CHECKPOINTED]),
    # Blocks before the leaf have no backward pass after which FSDP2 would free them.
    "fsdp2 packed, last block, not resharded": ("untied", "fsdp2", {"leaf": "last"}, [NOT_RESHARDED]),
    "fsdp padded, middle block, not resharded": ("tied", "fsdp", {"leaf": "middle"}, [PADDED, NOT_RESHARDED]),
    "fsdp packed, bf16": ("tied", "fsdp", {}, [CHECKPOINTED, *BF16]),
    "fsdp2 padded, bf16": ("untied", "fsdp2", {}, [CHECKPOINTED, PADDED, *BF16]),
    "fsdp2 padded": ("tied", "fsdp2", {"rollouts": "correct"}, [PADDED, PLAIN]),
    # (verl's fused kernels do not run on FSDP2 with untied embeddings, with or without GRAIL.)
    "fsdp packed, fused kernels": ("untied", "fsdp", {}, [PLAIN, *FUSED]),
}

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


def batch_of(rank: int, **extra):
    tokenizer = tiny.tokenizer()
    responses = [tokenizer.encode(pair[rank]) for pair in TEXTS]
    masks = [[1] * len(response) for response in responses]
    masks[0][2:4] = [0, 0]  # a tool's tokens in the middle of the reasoning
    masks[4][-2] = 0
    return tiny.rollout_batch(
        responses, [pair[rank] for pair in ADVANTAGES], masks, seed=rank, mini_batch_size=8, epochs=2, **extra
    )


def expected_advantages(model, data, config: GrailConfig) -> list[torch.Tensor]:
    """answer_saliency and token_weights on the unsharded model, one response at a time."""
    locator = AnswerLocator(tiny.tokenizer(), config.occurrence)
    expected = []
    for row in range(len(data)):
        prompt, response, mask, advantage = (
            data[name][row] for name in ("prompts", "responses", "response_mask", "advantages")
        )
        answer, content = (torch.zeros(1, len(response), dtype=torch.bool) for _ in range(2))
        if (span := locator.locate(response.tolist())) is not None:
            answer[0, span.start : span.end] = True
            content[0, span.content_start : span.content_end] = True
        ids = torch.cat([prompt, response])[None]
        scores = answer_saliency(
            model,
            ids,
            torch.ones_like(ids),
            len(response),
            answer,
            leaf=config.leaf,
            alignment=config.alignment,
            temperature=data["temperature"],
        )
        expected.append(advantage * token_weights(scores, mask[None], answer, content, advantage[None], config)[0])
    return expected


def compare(rank: int, folders: dict, name: str) -> dict:
    """One case: the hook against the plain model, then verl's update with its result against verl's update
    with the advantages rescaled by hand."""
    from transformers import AutoModelForCausalLM

    policy, strategy, options, overrides = CASES[name]
    options = {"std": 1.0, "w_min": 0.0, "w_max": 50.0, **options}
    overrides = [f"actor_rollout_ref.actor.strategy={strategy}", *overrides]
    written = [f"+algorithm.grail.{key}={value}" for key, value in options.items()]
    # Before the worker: verl replaces the forward of the model's class where fused kernels are asked for.
    model = AutoModelForCausalLM.from_pretrained(folders[policy])
    expected = expected_advantages(model, batch_of(rank, temperature=0.8), GrailConfig(**options))
    worker = ranks.actor(folders[policy], "algorithm.adv_estimator=grail", *written, *overrides)

    data = batch_of(rank, temperature=0.8)
    before = tiny.traces(worker.engine.module)
    metrics = worker.reweight_advantages(data)
    unchanged = tiny.traces(worker.engine.module) == before
    got = data["advantages"].unbind()

    # The same update twice: through the hook, and by verl's own worker on advantages rescaled by hand.
    hooked, by_hand = batch_of(rank, temperature=0.8), batch_of(rank, temperature=0.8)
    by_hand["advantages"] = data["advantages"]
    worker.train_mini_batch(hooked)
    plain = ranks.actor(folders[policy], "algorithm.adv_estimator=grpo", *overrides)
    plain.train_mini_batch(by_hand)
    one, other = ranks.full_parameters(worker), ranks.full_parameters(plain)
    return {
        "worker": type(worker).__name__,
        "plain": type(plain).__name__,
        "unchanged": unchanged,
        "metrics": metrics,
        "got": [row.tolist() for row in got],
        "expected": [row.tolist() for row in expected],
        "same update": one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one),
    }


def session(rank: int, folders: dict) -> dict:
    return {name: compare(rank, folders, name) for name in CASES}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    named = {"tied": {"tied": True}, "untied": {"tied": False}}
    paths = {name: str(tmp_path_factory.mktemp(name)) for name in named}
    for name, options in named.items():
        tiny.save_policy(paths[name], **options)
    return paths


@pytest.fixture(scope="module")
def results(folders) -> list[dict]:
    return ranks.on_ranks(session, 2, folders)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_unsharded_model(results, name):
    # bfloat16 keeps 8 bits: weights of spread 1 agree to a twentieth.
    tolerance = {"abs": 0.05} if "bf16" in name else {"rel": 1e-5, "abs": 1e-7}
    for rank, result in enumerate(results):
        case = result[name]
        assert case["worker"] == "GrailTrainingWorker"
        for text, got, expected in zip(TEXTS, case["got"], case["expected"], strict=True):
            assert got == pytest.approx(expected, **tolerance), (rank, text[rank])
        if CASES[name][2].get("rollouts") in (None, "wrong"):
            spread = {round(abs(value), 6) for value in case["got"][0]} if rank == 0 else set()
            assert rank == 1 or len(spread) > 5  # it did weigh something


@pytest.mark.parametrize("name", CASES)
def test_leaves_the_module_as_found(results, name):
    assert all(result[name]["unchanged"] for result in results)


@pytest.mark.parametrize("name", CASES)
def test_the_update_is_verls_own_on_rescaled_advantages(results, name):
    for result in results:
        assert result[name]["plain"] == "TrainingWorker"  # off: verl's own class
        assert result[name]["same update"]


def test_metrics_count_over_both_ranks(results):
    """Against the expected advantages of both ranks put together."""
    mine, other = (result["fsdp packed"]["metrics"] for result in results)
    assert mine == other
    ratios, scaled, plain = [], 0.0, 0.0
    for rank, result in enumerate(results):
        data = batch_of(rank)
        for row, expected in enumerate(result["fsdp packed"]["expected"]):
            for value, before, valid in zip(
                expected, data["advantages"][row].tolist(), data["response_mask"][row].tolist(), strict=True
            ):
                scaled, plain = scaled + abs(value), plain + abs(before)
                if valid and before != 0:
                    ratios.append(value / before)
    weights = torch.tensor(ratios, dtype=torch.float64)
    assert mine["grail/weight_mean"] == pytest.approx(weights.mean().item(), rel=1e-5)
    assert mine["grail/weight_std"] == pytest.approx(weights.std(unbiased=False).item(), rel=1e-5)
    assert mine["grail/weight_min"] == pytest.approx(weights.min().item(), rel=1e-4)
    assert mine["grail/weight_max"] == pytest.approx(50.0)
    assert mine["grail/advantage_scale_ratio"] == pytest.approx(scaled / plain, rel=1e-5)
    assert mine["grail/answer_found_rate"] == pytest.approx(10 / 15)
    assert mine["grail/saliency_rows"] == 5  # wrong, with a complete box
    assert mine["grail/reweighted_rate"] == pytest.approx(5 / 15)
    assert mine["grail/nonfinite_rows"] == 0
    assert mine["grail/saliency_seconds"] > 0


def neutral_and_broken(rank: int, folders: dict) -> dict:
    """Weights that are all 1 against GRPO; then a policy with a NaN in it; then a pass that raises."""
    strategy = "actor_rollout_ref.actor.strategy=fsdp2"
    ones = [f"+algorithm.grail.{name}=1.0" for name in ("w_min", "w_max", "mean")]
    ones += ["+algorithm.grail.rollouts=all", strategy]
    grail = ranks.actor(folders["tied"], "algorithm.adv_estimator=grail", *ones)
    grpo = ranks.actor(folders["tied"], "algorithm.adv_estimator=grpo", strategy)
    for _ in range(2):
        grail.train_mini_batch(batch_of(rank))
        grpo.train_mini_batch(batch_of(rank))
    one, other = ranks.full_parameters(grail), ranks.full_parameters(grpo)
    start = ranks.full_parameters(ranks.actor(folders["tied"], "algorithm.adv_estimator=grpo", strategy))
    report = {
        "same": all(torch.equal(one[key], other[key]) for key in one),
        "trained": any(not torch.equal(one[key], start[key]) for key in one),
    }

    from verl.utils import tensordict_utils as tu

    broken = ranks.actor(folders["tied"], "algorithm.adv_estimator=grail", strategy)
    with torch.no_grad():
        for name, parameter in broken.engine.module.named_parameters():
            if name == "model.layers.1.mlp.down_proj.weight":
                parameter.fill_(float("nan"))
    data = batch_of(rank)
    report["broken"] = {
        key: value for key, value in tu.get(broken.train_mini_batch(data), "metrics").items() if "grail" in key
    }
    report["broken advantages"] = [row.tolist() for row in data["advantages"].unbind()]

    def fail(module, args):
        raise RuntimeError("out of memory, say")

    # Behind the blocks; and within one, whose parameters FSDP2 then leaves gathered.
    model, report["clean after a failure"] = grail.engine.module.model, []
    for place in (model.norm, model.layers[1].mlp):
        handle = place.register_forward_pre_hook(fail)
        before = tiny.traces(grail.engine.module)
        with pytest.raises(RuntimeError, match="out of memory"):
            grail.reweight_advantages(batch_of(rank))
        report["clean after a failure"].append(tiny.traces(grail.engine.module) == before)
        handle.remove()
    report["mode after a failure"] = grail.engine.mode
    grail.reweight_advantages(batch_of(rank))
    return report


@pytest.fixture(scope="module")
def faults(folders) -> list[dict]:
    return ranks.on_ranks(neutral_and_broken, 2, folders)


def test_weights_of_one_train_to_grpos_parameters_to_the_last_bit(faults):
    assert all(report["same"] and report["trained"] for report in faults)


def test_scores_that_are_no_numbers_are_counted_and_training_goes_on(faults):
    for rank, report in enumerate(faults):
        assert report["broken"]["grail/nonfinite_rows"] == 5
        data = batch_of(rank)
        locator = AnswerLocator(tiny.tokenizer())
        for row, got in enumerate(report["broken advantages"]):
            span = locator.locate(data["responses"][row].tolist())
            before = data["advantages"][row].tolist()
            until = len(got) if span is None else span.start
            assert got[:until] == before[:until]  # weight 1
            if span is not None:
                content = slice(span.content_start, span.content_end)
                assert got[content] == [5.0 * value for value in before[content]]


def test_a_pass_that_fails_leaves_nothing_behind(faults):
    for report in faults:
        assert all(report["clean after a failure"]) and report["mode after a failure"] is None

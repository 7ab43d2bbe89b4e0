"""verl's VeOmni engine: the cases of test_matrix.py that make a difference there, held against the plain model alike.

A lane of its own, `-m veomni`, since VeOmni is installed beside what it asks for (docs/install.md).
"""

import harness
import pytest
import ranks
import torch
from harness import Case
from lanes import VEOMNI
from runs import boxing_policy, check, problems, train
from test_matrix import CARRIED, CHECKPOINTED, FINE, HOPS, OAR_G, PADDED, PLAIN, ROUGH, SHARE, padding_rows
from transformers import AutoConfig

pytestmark = VEOMNI

BF16 = ["actor_rollout_ref.actor.veomni.dtype=bfloat16"]  # in which a GPU's always computes
ULYSSES = [
    "actor_rollout_ref.actor.veomni.ulysses_parallel_size=2",
    "actor_rollout_ref.actor.veomni.attn_implementation=ulysses",
]


def ulysses_over_sdpa():
    """VeOmni's sequence parallelism lives in its flash attention, and flash-attn has no CPU build. So this attention
    is made of its all-to-alls, between which sdpa stands in for flash-attn's kernel."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from veomni.distributed.parallel_state import get_parallel_state
    from veomni.ops.kernels.attention.ulysses import prepare_ulysses_qkv, restore_ulysses_output

    def attention(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, **kwargs):
        group, size = get_parallel_state().ulysses_group, get_parallel_state().ulysses_size
        heads_last = (tensor.transpose(1, 2) for tensor in (query, key, value))
        *gathered, _ = prepare_ulysses_qkv(*heads_last, group=group, ulysses_size=size)
        segment_S = torch.searchsorted(cu_seq_lens_q, torch.arange(gathered[0].shape[1]), right=True)
        mask_SS = (segment_S[:, None] == segment_S[None, :]).tril()
        output = torch.nn.functional.scaled_dot_product_attention(
            *(tensor.transpose(1, 2) for tensor in gathered), attn_mask=mask_SS, scale=scaling, enable_gqa=True
        )
        return restore_ulysses_output(output.transpose(1, 2), group=group), None

    ALL_ATTENTION_FUNCTIONS.register("ulysses", attention)


CASES = {
    "packed": Case("tied", "veomni", {}, [CHECKPOINTED]),
    "padded, untied": Case("untied", "veomni", {"rollouts": "all"}, [PADDED, CHECKPOINTED]),
    "packed, checkpointing off": Case("tied", "veomni", {"alignment": "token"}, [PLAIN]),
    "packed, middle block": Case("untied", "veomni", {"leaf": "middle"}, [CHECKPOINTED]),
    "packed, bf16": Case("tied", "veomni", {}, [CHECKPOINTED, *BF16], tolerance=ROUGH),
    "padded, bf16": Case("untied", "veomni", {}, [PADDED, CHECKPOINTED, *BF16], tolerance=ROUGH),
    "four ranks, padding rows": Case("tied", "veomni", {"rollouts": "all"}, ranks=4, rollout=padding_rows),
    "hops, packed": Case("untied", "veomni", HOPS, [CHECKPOINTED]),
    "hops × surprise, proportional, padded": Case("tied", "veomni", CARRIED, [PADDED, PLAIN]),
    "entropy by a pass, top share": Case("tied", "veomni", {"score": "entropy", **SHARE}, [CHECKPOINTED]),
    "OAR-G, packed": Case("tied", "veomni", OAR_G, [CHECKPOINTED], tolerance=FINE),
    "OAR-G, padded": Case("untied", "veomni", OAR_G, [PADDED, PLAIN], tolerance=FINE),
    "qwen3_moe, packed": Case("qwen3_moe", "veomni", {}, [CHECKPOINTED]),
    "qwen3_moe, padded, hops": Case("qwen3_moe", "veomni", HOPS, [PADDED, PLAIN]),
    "Ulysses": Case("untied", "veomni", {}, [*ULYSSES, CHECKPOINTED], sequence_parallel=2, setup=ulysses_over_sdpa),
    "Ulysses, two times two ranks, hops": Case(
        "tied", "veomni", HOPS, [*ULYSSES, PLAIN], ranks=4, sequence_parallel=2, setup=ulysses_over_sdpa
    ),
    "llama, padded": Case("llama", "veomni", {}, [PADDED, CHECKPOINTED]),
    "llama, packed": Case("llama", "veomni", {"leaf": "last"}, [PLAIN]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    return harness.save_policies(tmp_path_factory.mktemp, (case.policy for case in CASES.values()))


@pytest.fixture(scope="module")
def results(folders, request, tmp_path_factory) -> dict:
    return harness.run(harness.asked(CASES, request), folders, tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("name", CASES)
def test_case(results, name):
    harness.check(CASES[name], results[name])


def with_dropout(rank: int, folder: str) -> list[tuple[list, list]]:
    data, model, case = harness.rollout(rank), harness.plain_model(folder), CASES["packed"]
    expected = harness.expected_of_ranks(model, [harness.rollout(of_rank) for of_rank in (0, 1)], case.grail)[rank]
    worker = case.actor({case.policy: folder}, "grail")
    assert worker.engine.module.config.attention_dropout == 0.5
    worker.reweight_advantages(data)
    return [(got.tolist(), row.tolist()) for got, row in zip(data["advantages"].unbind(), expected, strict=True)]


def test_nothing_is_dropped_in_a_pass(tmp_path):
    """Where verl's own eval_mode trains, for this engine alone, and its log-probs have dropout."""
    folder = harness.save_policies(tmp_path.joinpath, ["tied"])["tied"]
    config = AutoConfig.from_pretrained(folder)
    config.attention_dropout = 0.5
    config.save_pretrained(folder)
    for got, expected in sum(ranks.on_ranks(with_dropout, 2, folder), []):
        assert got == pytest.approx(expected, rel=1e-5, abs=2e-5)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("qwen3", ["actor_rollout_ref.actor.use_kl_loss=True"]),
        ("qwen3_moe", ["actor_rollout_ref.model.use_remove_padding=False"]),
    ],
)
def test_main_ppo_trains_and_its_rollout_gets_the_weights(tmp_path, architecture, overrides):
    """Else log-probs of the second step's responses are not the policy's: runs.check."""
    boxing_policy(tmp_path / "policy", architecture=architecture)
    problems(tmp_path / "problems.parquet")
    dynamic = ["actor_rollout_ref.actor.use_dynamic_bsz=True"]
    metrics = train(tmp_path, "metrics.jsonl", *dynamic, *overrides, preset="cpu_veomni")
    check(metrics)
    assert architecture == "qwen3_moe" or metrics[2]["actor/kl_loss"] > 0

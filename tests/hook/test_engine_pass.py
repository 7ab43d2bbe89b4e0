"""The saliency pass in verl's engine: how rows are packed, what it gathers, frees and recomputes.

Scores are compared with the plain model's in test_worker.py; here the subject is what they cost.
"""

import pytest
import ranks
import test_matrix
import tiny
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from grail_verl import GrailConfig
from grail_verl.credit.rows import Budget, pack
from grail_verl.credit.rule import Rule
from grail_verl.hook import engine_pass
from grail_verl.hook.engine_pass import PassSettings

LENGTHS = st.lists(st.integers(1, 100), max_size=30)


@given(LENGTHS, st.integers(1, 200), st.booleans())
def test_every_row_is_packed_once_and_within_the_budget(lengths, tokens, packed):
    batches = pack(lengths, Budget(packed, tokens=tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        rows = [lengths[index] for index in batch]
        used = sum(rows) if packed else len(rows) * max(rows)
        assert used <= tokens or len(rows) == 1


@given(LENGTHS, st.integers(1, 8))
def test_a_budget_of_rows(lengths, rows):
    batches = pack(lengths, Budget(packed=False, rows=rows))
    assert [len(batch) for batch in batches[:-1]] == [rows] * (len(batches) - 1)


@given(LENGTHS, st.integers(100, 300))
def test_packed_micro_batches_are_few(lengths, tokens):
    """No two that would fit into one; so fewer than twice the least possible number."""
    batches = pack(lengths, Budget(packed=True, tokens=tokens))
    used = sorted(sum(lengths[index] for index in batch) for batch in batches)
    assert len(used) < 2 or used[0] + used[1] > tokens


def test_padded_micro_batches_hold_rows_of_like_length():
    lengths = [10, 90, 11, 88, 12, 91]
    batches = pack(lengths, Budget(packed=False, tokens=280))
    assert [[lengths[index] for index in batch] for batch in batches] == [[91, 90, 88], [12, 11, 10]]


BATCH = [(r"3 + 4 = 7, so \boxed{7}. Done", -1.0), (r"\boxed{1} or \boxed{2}? 2", -0.5), (r"1 + 1 = 2 \boxed{2}", 1.0)]
LAYERS = 5
HOPS = 2
SHARING = 2  # gathers, of a few bytes each: what rows each rank has


def batch():
    tokenizer = tiny.tokenizer()
    return tiny.rollout_batch(
        [tokenizer.encode(text) for text, _ in BATCH],
        [advantage for _, advantage in BATCH],
        mini_batch_size=2 * len(BATCH),
    )


def gathered(block) -> bool:
    """Whether a block's whole parameters lie in this rank's memory."""
    if hasattr(block, "_handle"):  # FSDP1
        return block._handle.flat_param._full_param_padded.untyped_storage().size() > 0
    return block._get_fsdp_state()._fsdp_param_group.is_unsharded


def gathers_of(work) -> tuple[int, int]:
    """All-gathers and reduce-scatters during a call. (torch's CommDebugMode does not take a second forward pass.)"""
    calls = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        work()
    return tuple(
        sum(call.startswith("c10d.") and kind in call for call in calls) for kind in ("allgather", "reduce_scatter")
    )


def one_pass(worker, recompute: bool) -> dict:
    """What one pass gathers, which blocks are whole when its backward pass reaches the first block, how often
    each block is computed, at how many positions the head runs in each forward, and what comes out."""
    blocks = list(worker.engine.module.model.layers)
    inner = [getattr(block, "module", block) for block in blocks]  # FSDP1 wraps them
    whole, runs, head = [], [0] * LAYERS, []

    def count(index):
        runs[index] += 1

    def watch(module, args, output):
        if output.requires_grad:
            output.register_hook(lambda _: whole.append([gathered(block) for block in blocks]))

    handles = [inner[0].input_layernorm.register_forward_hook(watch)]
    for index, block in enumerate(inner):
        handles.append(block.mlp.register_forward_pre_hook(lambda *_, index=index: count(index)))
    outermost = worker.engine.module.get_output_embeddings()
    handles.append(
        outermost.register_forward_hook(lambda module, args, output: head.append(output.numel() // output.shape[-1]))
    )
    found = engine_pass._memory_is_short
    engine_pass._memory_is_short = lambda: lambda: recompute
    data = batch()
    try:
        gathers = gathers_of(lambda: worker.reweight_advantages(data))
    finally:
        engine_pass._memory_is_short = found
        for handle in handles:
            handle.remove()
    return {
        "gathers": gathers,
        "whole": whole,
        "runs": runs,
        "head": head,
        "advantages": data["advantages"].values().tolist(),
    }


def session(rank: int, policy: str, strategy: str, use_orig_params: bool) -> dict:
    from verl.workers.engine_workers import TrainingWorker

    overrides = [
        "algorithm.adv_estimator=grail",
        f"actor_rollout_ref.actor.strategy={strategy}",
        f"actor_rollout_ref.actor.fsdp_config.use_orig_params={use_orig_params}",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",  # all in one micro-batch
    ]
    worker = ranks.actor(policy, *overrides)
    worker.engine_config.infer_max_token_len_per_gpu = 2048
    smaller_for_log_probs = PassSettings.of(batch(), worker.engine).budget
    worker.engine_config.infer_max_token_len_per_gpu = 8192
    larger_for_log_probs = PassSettings.of(batch(), worker.engine).budget
    passes = {"kept": one_pass(worker, recompute=False), "recomputed": one_pass(worker, recompute=True)}
    worker.rule = Rule(GrailConfig(hops=HOPS))
    passes |= {"hops": one_pass(worker, recompute=False), "hops, recomputed": one_pass(worker, recompute=True)}
    return {
        **passes,
        "budgets": (smaller_for_log_probs, larger_for_log_probs),
        "update": gathers_of(lambda: TrainingWorker.train_mini_batch(worker, batch())),
        "strategy": strategy,
    }


@pytest.fixture(
    scope="module", params=[("fsdp", False), ("fsdp", True), ("fsdp2", False)], ids=["fsdp", "fsdp original", "fsdp2"]
)
def passes(request, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("policy")
    tiny.save_policy(folder, layers=LAYERS)
    return ranks.on_ranks(session, 2, str(folder), *request.param)


def test_a_micro_batch_gathers_each_block_once_each_way_and_reduces_nothing(passes):
    root = {"fsdp": 1, "fsdp2": 2}  # the embedding, norm and head: FSDP1 keeps them between the ways
    for result in passes:
        for name in ("kept", "recomputed"):
            assert result[name]["gathers"] == (SHARING + 2 * LAYERS + root[result["strategy"]], 0)
        # That is no more than verl's own update, which reduces gradients: the counter sees both.
        assert result["update"][0] >= result["kept"]["gathers"][0] and result["update"][1] > 0


def test_hops_gather_alike_whatever_a_ranks_memory(passes):
    """FSDP2 walks the graph of one forward several times, the head's once; FSDP1 runs a forward for each hop, with the
    head at one position behind the first."""
    for result in passes:
        forwards = {"fsdp": HOPS + 1, "fsdp2": 1}[result["strategy"]]
        roots = {"fsdp": HOPS + 1, "fsdp2": 2}[result["strategy"]]
        for name in ("hops", "hops, recomputed"):
            assert result[name]["gathers"] == (SHARING + (forwards + HOPS + 1) * LAYERS + roots, 0)
            assert result[name]["whole"] == (HOPS + 1) * [[True] + [False] * (LAYERS - 1)]
        assert result["hops"]["runs"] == [forwards] * LAYERS
        assert result["hops"]["head"][0] > 1 and result["hops"]["head"][1:] == (forwards - 1) * [1]
        assert result["hops, recomputed"]["runs"] == [forwards + HOPS + 1] * (LAYERS - 1) + [forwards]
        assert result["hops, recomputed"]["advantages"] == result["hops"]["advantages"]
        assert result["hops"]["advantages"] != result["kept"]["advantages"]


def test_the_budget_is_that_of_log_probs_but_never_more_than_the_updates(passes):
    for result in passes:
        assert result["budgets"] == (Budget(packed=True, tokens=2048), Budget(packed=True, tokens=4096))


def test_blocks_are_freed_as_the_backward_pass_goes(passes):
    for result in passes:
        for name in ("kept", "recomputed"):
            assert result[name]["whole"] == [[True] + [False] * (LAYERS - 1)]


def test_recomputes_each_block_but_the_last_to_the_same_weights(passes):
    for result in passes:
        assert result["kept"]["runs"] == [1] * LAYERS
        assert result["recomputed"]["runs"] == [2] * (LAYERS - 1) + [1]
        assert result["recomputed"]["advantages"] == result["kept"]["advantages"]
        assert len(set(result["kept"]["advantages"])) > 10  # it did weigh something


def test_recomputes_from_where_half_of_the_peak_is_in_use(monkeypatch):
    """Allocated and peak as a device would tell them, in bytes."""

    class Device:
        memory = 100

        def memory_allocated(self):
            return self.memory

        def max_memory_allocated(self):
            return 300

    device = Device()
    monkeypatch.setattr(engine_pass, "get_torch_device", lambda: device)
    recompute = engine_pass._memory_is_short()
    answers = []
    for device.memory in (100, 150, 200, 201, 300, 120):
        answers.append(recompute())
    assert answers == [False, False, False, True, True, False]


LORA = [
    "actor_rollout_ref.model.lora_rank=4",
    "actor_rollout_ref.model.lora_alpha=8",
    "actor_rollout_ref.model.target_modules=all-linear",
]


def short_of_memory_on_one_rank(rank: int, policy: str, *overrides: str) -> list[float]:
    test_matrix.ulysses_over_sdpa()
    worker = ranks.actor(policy, "algorithm.adv_estimator=grail", "actor_rollout_ref.actor.strategy=fsdp", *overrides)
    engine_pass._memory_is_short = lambda: lambda: rank == 0
    data = batch()
    worker.reweight_advantages(data)
    return data["advantages"].values().tolist()


@pytest.mark.parametrize("overrides", [LORA, test_matrix.ULYSSES], ids=["lora", "ulysses"])
def test_ranks_communicate_alike_whoever_is_short_of_memory(tmp_path, monkeypatch, overrides):
    """Blocks can hold collectives, and computing a block again repeats them: with LoRA, verl's FSDP1 shards the
    adapters inside; Ulysses exchanges heads for positions."""
    monkeypatch.setattr(ranks, "TIMEOUT_S", 120)
    tiny.save_policy(tmp_path, layers=LAYERS)
    one, other = ranks.on_ranks(short_of_memory_on_one_rank, 2, str(tmp_path), *overrides)
    assert one == pytest.approx(other, rel=1e-6)

"""Scores of a rollout batch under verl's FSDP engine: out of the batch, or rows → micro-batches → a pass → scores.

In the hook (worker.py): options → responses → answers → *scores* → weights → advantages. Stands between the rule, which
says which rows it wants scored (credit/rule.py), and the score, which knows neither verl nor ranks (credit/scores/).
Inputs are prepared by the engine itself, so packed and padded layouts are verl's own.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name, get_torch_device
from verl.utils.fsdp_utils import fsdp_version
from verl.utils.ulysses import gather_outputs_and_unpad

from grail_verl.credit.batch import RolloutBatch
from grail_verl.credit.leaf import evaluating, transformer_blocks
from grail_verl.credit.rows import Budget, Row, response_scores, targets_of
from grail_verl.credit.rule import Rule
from grail_verl.credit.scores import Score
from grail_verl.hook.sharing import SharedRows


@dataclass(frozen=True)
class PassSettings:
    """How verl wants a pass to be run.

    Attributes:
        budget: of a micro-batch: that of log-prob passes, but no more than the update's, which is known to hold
            activations too.
        inputs: non-tensor entries for the engine's `prepare_model_inputs`.
        disable_auto_offload: as verl's `eval_mode` takes it.
    """

    budget: Budget
    inputs: dict
    disable_auto_offload: bool

    @classmethod
    def of(cls, data: TensorDict, engine) -> "PassSettings":
        """From the batch, else from the engine, as verl's train_batch takes its settings."""

        def setting(name: str):
            return tu.get(data, name, default=getattr(engine.engine_config, name, None))

        packed, dynamic = setting("use_remove_padding"), setting("use_dynamic_bsz")
        name = "max_token_len_per_gpu" if dynamic else "micro_batch_size_per_gpu"
        limit = min(setting(name), getattr(engine.engine_config, f"infer_{name}"))
        tokens = limit * engine.ulysses_sequence_parallel_size  # as verl's prepare_micro_batches counts them
        return cls(
            Budget(packed, tokens=tokens) if dynamic else Budget(packed, rows=limit),
            {
                "use_remove_padding": packed,
                "use_fused_kernels": setting("use_fused_kernels"),
                "pad_token_id": tu.get(data, "pad_token_id", default=0),
            },
            tu.get(data, "disable_auto_offload", default=False),
        )


@dataclass(frozen=True)
class BatchScores:
    """scores_BT: float32. rows: of this rank, that went through a pass, each pass counted. seconds: that it took."""

    scores_BT: Tensor
    rows: int
    seconds: float


def batch_scores(batch: RolloutBatch, scored_B: Tensor, rule: Rule, engine, settings: PassSettings) -> BatchScores:
    """The scores of these responses; a collective call: every data-parallel rank must make it, with or without rows.

    Args:
        batch: this rank's.
        scored_B: bool, the responses to score.
        rule: whose scores they are.
        engine: verl's FSDPEngineWithLMHead; no parameter gets a gradient, modes and hooks stay as found.
        settings: of a pass.
    """
    started = time.perf_counter()
    passed = 0

    def run_pass(rows: list[Row], score: Score) -> list[Tensor]:
        nonlocal passed
        passed += len(rows)
        return scores_by_pass(engine, rows, settings, score)

    scores_BT = rule.score(batch, scored_B, run_pass)
    return BatchScores(scores_BT, passed, time.perf_counter() - started)


def scores_by_pass(engine, rows: list[Row], settings: PassSettings, score: Score) -> list[Tensor]:
    """For each row, in order, float32 scores of its response tokens on the CPU; a collective call.

    The ranks share their rows (sharing.py), and one that has fewer micro-batches than another takes part with a dummy
    row, because each forward and backward gathers sharded parameters."""
    shared = SharedRows(rows, settings.budget, engine.get_data_parallel_group())
    if shared.steps == 0:
        return []
    of_batches: list[list[Tensor]] = []
    offload = {"disable_auto_offload": settings.disable_auto_offload}
    with evaluating(engine.module), engine.eval_mode(**offload), _sharded_after_failure(engine.module):
        engine.module.eval()  # VeOmni's eval_mode trains
        recompute = _recompute_rule(engine)
        for micro_batch in shared.micro_batches:
            of_batches.append(_micro_batch(engine, micro_batch, settings.inputs, score, recompute))
        for _ in range(shared.steps - len(shared.micro_batches)):
            _micro_batch(engine, [_dummy_row()], settings.inputs, score, recompute)
    return shared.own_scores(of_batches)


@contextlib.contextmanager
def _sharded_after_failure(module) -> Iterator[None]:
    """FSDP2 leaves a block gathered in which a forward failed, its parameters frozen as they were then."""
    try:
        yield
    except BaseException:
        for part in module.modules():
            if fsdp_version(part) == 2:
                part.reshard()
        raise


def _recompute_rule(engine) -> Callable[[], bool]:
    """Asked before each block: recompute it? By this rank's memory, unless a block holds collectives of its own,
    which recomputing repeats: Ulysses' all-to-all, gathers of parts sharded by themselves (LoRA's adapters under
    FSDP1, wrap policies by size). Then every rank must do the same, and does as the update does."""
    module = engine.module
    within = (part for block in transformer_blocks(module) for part in getattr(block, "module", block).modules())
    sharded = {part for part in within if fsdp_version(part)} - set(transformer_blocks(module))
    if sharded or engine.use_ulysses_sp:
        checkpointing = bool(module.is_gradient_checkpointing)
        return lambda: checkpointing
    return _memory_is_short()


def _memory_is_short() -> Callable[[], bool]:
    """True while more is in use than half of what this process has held at its peak, above what lies there
    now. A log-prob pass and, from the second batch on, an update have set that peak, so the pass sets none."""
    device = get_torch_device()
    now, peak = device.memory_allocated(), device.max_memory_allocated()
    limit = now + (peak - now) / 2
    return lambda: device.memory_allocated() > limit


def _dummy_row() -> Row:
    return Row(torch.zeros(2, dtype=torch.long), torch.arange(2), 1, 0, 0, 1.0)


def _micro_batch(
    engine, rows: list[Row], settings: dict, score: Score, recompute: Callable[[], bool]
) -> list[Tensor]:
    device = get_device_id()
    temperatures = {row.temperature for row in rows}
    tensors = {
        "input_ids": torch.nested.as_nested_tensor([row.input_ids for row in rows], layout=torch.jagged),
        "position_ids": torch.nested.as_nested_tensor([row.position_ids for row in rows], layout=torch.jagged),
    }
    if len(temperatures) == 1:  # a plain number, as verl's fused kernels ask for
        settings = {**settings, "temperature": temperatures.pop()}
    else:
        tensors["temperature"] = torch.tensor([row.temperature for row in rows])
    inputs, _ = engine.prepare_model_inputs(tu.get_tensordict(tensors, non_tensor_dict=settings).to(device))

    # Where each row's first token lies: one after the other in a packed row, or each in a row of its own.
    if settings["use_remove_padding"]:
        ends = torch.tensor([len(row) for row in rows]).cumsum(0).tolist()
        origins = [(0, end - len(row)) for row, end in zip(rows, ends, strict=True)]
    else:
        origins = [(index, 0) for index in range(len(rows))]
    sequence = _Sequence(engine, inputs["input_ids"].shape)
    targets = targets_of(rows, origins, sequence.shape, device, sequence.own, sequence.group)

    precision = _precision(engine)
    autocast = (
        contextlib.nullcontext()
        if precision == torch.float32
        else torch.autocast(device_type=get_device_name(), dtype=precision)
    )
    with autocast, torch.set_grad_enabled(score.model_pass == "gradient"):
        scores_BS = score.of_positions(
            engine.module,
            inputs,
            targets,
            recompute,
            loss_scale=score.fp16_loss_scale if precision == torch.float16 else 1.0,
        )
    return response_scores(sequence.whole(scores_BS).cpu(), rows, origins, score.alignment)


def _precision(engine) -> torch.dtype:
    """Of the engine's own autocast (verl/workers/engine/fsdp/transformer_impl.py, forward_step). VeOmni's engine
    names none, for which bfloat16 is taken there; an FSDP engine without the name is one that we do not know."""
    if engine.engine_config.strategy == "veomni":
        return getattr(engine, "_autocast_dtype", torch.bfloat16)
    return engine._autocast_dtype


class _Sequence:
    """The positions of a micro-batch, of which Ulysses gives each rank of a group an equal part (one packed row,
    padded to that end); all of them on one rank without it. The loss is a sum over positions and the engine's
    all-to-all carries gradients across, so each rank's loss over its own positions is all that is needed.

    Args:
        engine: verl's.
        shape: of this rank's input_ids, (B, S) or (1, S / ranks).
    """

    def __init__(self, engine, shape: torch.Size):
        self.group = engine.ulysses_parallel_group  # None without sequence parallelism
        self.shape = (shape[0], shape[1] * engine.ulysses_sequence_parallel_size)
        start = dist.get_rank(self.group) * shape[1] if self.group is not None else 0
        self.own = slice(start, start + shape[1])

    def whole(self, tensor_BS: Tensor) -> Tensor:
        return gather_outputs_and_unpad(tensor_BS, gather_dim=1, group=self.group)

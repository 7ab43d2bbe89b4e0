"""The saliency pass through verl's FSDP engine: rows that end with their answer → micro-batches → scores.

Stands between the hook (worker.py), which chooses the rows (rows.py), and saliency.py, which knows neither verl nor
ranks. Inputs are prepared by the engine itself, so packed and padded layouts are verl's own.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name, get_torch_device
from verl.utils.fsdp_utils import fsdp_version
from verl.utils.ulysses import gather_outputs_and_unpad

from grail_verl.rows import AnswerRow, Budget, answer_positions, pack, response_scores
from grail_verl.saliency import evaluating, transformer_blocks
from grail_verl.weightings import Weighting


def saliency_pass(
    engine, rows: list[AnswerRow], budget: Budget, settings: dict, weighting: Weighting
) -> list[Tensor]:
    """Scores of every response token up to the answer's end, for each row.

    A collective call: every data-parallel rank must make it, with or without rows. The ranks agree on the
    number of micro-batches first, and one that has fewer takes part with a dummy row, because each forward
    and backward gathers sharded parameters.

    Args:
        engine: verl's FSDPEngineWithLMHead; no parameter gets a gradient, modes and hooks stay as found.
        rows: this rank's.
        budget: of one micro-batch.
        settings: non-tensor entries for the engine's `prepare_model_inputs` (use_remove_padding, …), and
            `disable_auto_offload`.
        weighting: the scheme whose scores they are.

    Returns:
        For each row, in order, float32 scores of shape (end,) on the CPU.
    """
    batches = pack([len(row) for row in rows], budget)
    agreed = torch.tensor(len(batches), device=get_device_id())
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX, group=engine.get_data_parallel_group())
    scores: list[Tensor] = [torch.empty(0)] * len(rows)
    if agreed == 0:
        return scores

    settings = dict(settings)
    offload = {"disable_auto_offload": settings.pop("disable_auto_offload")}
    with evaluating(engine.module), engine.eval_mode(**offload), _sharded_after_failure(engine.module):
        recompute = _recompute_rule(engine)
        for step in range(int(agreed)):
            if step < len(batches):
                of_batch = _micro_batch(engine, [rows[i] for i in batches[step]], settings, weighting, recompute)
                for index, row_scores in zip(batches[step], of_batch, strict=True):
                    scores[index] = row_scores
            else:
                _micro_batch(engine, [_dummy_row()], settings, weighting, recompute)
    return scores


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


def _dummy_row() -> AnswerRow:
    return AnswerRow(torch.zeros(2, dtype=torch.long), torch.arange(2), 1, 0, 1.0)


def _micro_batch(
    engine, rows: list[AnswerRow], settings: dict, weighting: Weighting, recompute: Callable[[], bool]
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
    positions = answer_positions(rows, origins, sequence.shape, device, sequence.own, sequence.group)

    # The engine's own autocast (verl/workers/engine/fsdp/transformer_impl.py, forward_step).
    precision = engine._autocast_dtype
    autocast = (
        contextlib.nullcontext()
        if precision == torch.float32
        else torch.autocast(device_type=get_device_name(), dtype=precision)
    )
    with autocast:
        scores_BS = weighting.position_scores(
            engine.module,
            inputs,
            positions,
            recompute,
            loss_scale=weighting.fp16_loss_scale if precision == torch.float16 else 1.0,
        )
    return response_scores(sequence.whole(scores_BS).cpu(), rows, origins, weighting.alignment)


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

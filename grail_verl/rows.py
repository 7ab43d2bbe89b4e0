"""Rows that end with their answer, into micro-batches and back: what a pass through any model needs to know of them.

Between whoever chooses the rows (worker.py in training, attribute.py after the fact) and a scheme's position_scores.
Knows torch alone. Shapes as in weightings: B rows of a micro-batch, S input positions, N answer tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from grail_verl.weightings import AnswerPositions


@dataclass(frozen=True)
class AnswerRow:
    """One response up to the end of its answer.

    Attributes:
        input_ids: (P + end,) int64, prompt and response tokens; what lies behind the answer is cut off.
        position_ids: (P + end,) int64.
        prompt_length: P, at least 1.
        answer_start: first answer token, counted in the response; the last one ends the row.
        temperature: the rollout's, for this row.
    """

    input_ids: Tensor
    position_ids: Tensor
    prompt_length: int
    answer_start: int
    temperature: float

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def answer(self) -> Tensor:
        return self.input_ids[self.prompt_length + self.answer_start :]


@dataclass(frozen=True)
class Budget:
    """What fits into one micro-batch: tokens (padding included, if padded) or rows, one of the two."""

    packed: bool
    tokens: int | None = None
    rows: int | None = None

    def fits(self, lengths: list[int]) -> bool:
        if self.rows is not None:
            return len(lengths) <= self.rows
        used = sum(lengths) if self.packed else max(lengths) * len(lengths)
        return used <= self.tokens


def pack(lengths: list[int], budget: Budget) -> list[list[int]]:
    """Indices of the rows of each micro-batch. Longest first: packed, a row goes where there is room left;
    padded, beside the rows next in length. A row over the budget gets a micro-batch of its own."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        open_batches = batches if budget.packed else batches[-1:]
        for batch in open_batches:
            if budget.fits([lengths[i] for i in (*batch, index)]):
                batch.append(index)
                break
        else:
            batches.append([index])
    return batches


def answer_positions(
    rows: Sequence[AnswerRow],
    origins: Sequence[tuple[int, int]],
    shape: tuple[int, int],
    device: torch.device | str,
    own: slice | None = None,
    group: ProcessGroup | None = None,
) -> AnswerPositions:
    """Where the answers of a micro-batch are predicted.

    Args:
        rows: of the micro-batch.
        origins: line and column of each row's first token.
        shape: (B, S), or (1, S) where the rows are packed.
        device: of the tensors.
        own, group: this rank's part of the positions and the ranks that share them, under Ulysses.
    """
    own = slice(0, shape[1]) if own is None else own
    keep_BS, spans = torch.zeros(shape, dtype=torch.bool), []
    labels_BS, temperature_BS = torch.zeros(shape, dtype=torch.long), torch.ones(shape)
    response_BS = torch.zeros_like(labels_BS)
    for index, (row, (line, origin)) in enumerate(zip(rows, origins, strict=True)):
        first = row.prompt_length + row.answer_start
        predictors = (line, slice(origin + first - 1, origin + len(row) - 1))
        keep_BS[predictors] = True
        labels_BS[predictors] = row.answer
        temperature_BS[predictors] = max(row.temperature, 1e-8)  # clamped as in verl
        response_BS[predictors] = index
        spans.append((line, origin + row.prompt_length - 1, origin + len(row) - 1))
    keep_BS, labels_BS, temperature_BS, response_BS = (
        tensor_BS[:, own] for tensor_BS in (keep_BS, labels_BS, temperature_BS, response_BS)
    )
    return AnswerPositions(
        keep_BS.to(device),
        labels_N=labels_BS[keep_BS].to(device),
        temperature_N=temperature_BS[keep_BS].to(device),
        response_N=response_BS[keep_BS].to(device),
        lengths_R=torch.tensor([len(row.answer) for row in rows], dtype=torch.float32, device=device),
        spans=spans,
        seeds=[crc32(row.input_ids.cpu().numpy()) for row in rows],
        own=own,
        group=group,
    )


def response_scores(
    scores_BS: Tensor, rows: Sequence[AnswerRow], origins: Sequence[tuple[int, int]], alignment: str
) -> list[Tensor]:
    """Each row's scores of its response tokens, (end,), out of a micro-batch's scores of all positions."""
    shift = 1 if alignment == "predictor" else 0
    scores = []
    for row, (line, origin) in zip(rows, origins, strict=True):
        first = origin + row.prompt_length - shift
        scores.append(scores_BS[line, first : first + len(row) - row.prompt_length])
    return scores

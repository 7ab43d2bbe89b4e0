"""Rows of a pass through a model: up to the end of the tokens in question, into micro-batches and back.

On the data's way within the scores: options → responses → answers → *scores* → weights → advantages; between whoever
runs the pass (hook/engine_pass.py in training, look/attribute.py after the fact) and a score's `from_model`.

Shapes: B rows of a micro-batch, S input positions, R responses, N tokens in question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from grail_verl.credit.batch import RolloutBatch


@dataclass(frozen=True)
class Row:
    """One response up to the end of the tokens in question.

    Attributes:
        input_ids: (P + end,) int64, prompt and response tokens; what lies behind is cut off.
        position_ids: (P + end,) int64.
        prompt_length: P, at least 1.
        target_start: first token in question, counted in the response; the last one ends the row.
        answer_start: first token of the answer, counted alike, which also ends the row; its length where the score is
            not about one.
        temperature: the rollout's, for this row.
    """

    input_ids: Tensor
    position_ids: Tensor
    prompt_length: int
    target_start: int
    answer_start: int
    temperature: float

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def targets(self) -> Tensor:
        return self.input_ids[self.prompt_length + self.target_start :]


def rows_of(batch: RolloutBatch, indices: Sequence[int], of_answer: bool, with_reasoning: bool = False) -> list[Row]:
    """The rows of these responses, up to the answer, or whole where the score is not about an answer. In question are
    the answer's tokens, those before it as well `with_reasoning`, or all."""
    temperatures, rows = batch.temperature_B.tolist(), []
    for index in indices:
        prompt_length = len(batch.input_ids[index]) - batch.lengths[index]
        span = batch.answers[index]
        answer_start, end = (span.start, span.end) if of_answer else (batch.lengths[index],) * 2
        start = answer_start if of_answer and not with_reasoning else 0
        length = prompt_length + end
        rows.append(
            Row(
                batch.input_ids[index][:length],
                batch.position_ids[index][:length],
                prompt_length,
                start,
                answer_start,
                temperatures[index],
            )
        )
    return rows


def dense_scores(scores: Sequence[Tensor], indices: Sequence[int], batch: RolloutBatch) -> Tensor:
    """(B, T) float32 from those of some responses, 0 elsewhere."""
    scores_BT = torch.zeros(batch.response_mask_BT.shape, dtype=torch.float32)
    for index, of_row in zip(indices, scores, strict=True):
        scores_BT[index, : len(of_row)] = of_row
    return scores_BT.to(batch.response_mask_BT.device)


@dataclass(frozen=True)
class Budget:
    """What fits into one micro-batch: tokens (padding included, if padded) or rows, one of the two."""

    packed: bool
    tokens: int | None = None
    rows: int | None = None

    def fits(self, lengths: list[int]) -> bool:
        if self.rows is not None:
            return len(lengths) <= self.rows
        return self.used(lengths) <= self.tokens

    def used(self, lengths: list[int]) -> int:
        """Tokens of a micro-batch of such rows, padding included."""
        return sum(lengths) if self.packed else max(lengths) * len(lengths)


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


@dataclass(frozen=True)
class Targets:
    """The tokens in question of a micro-batch, where they are predicted, and what belongs to each place.

    N tokens in row-major order of keep_BS. Under Ulysses (B, S) and N are this rank's part, R and spans those of the
    whole micro-batch.

    Attributes:
        keep_BS: bool, the input positions whose output predicts a token in question.
        labels_N: int64, those tokens.
        temperature_N: float32, the rollout's, for each.
        response_N: int64, the response that each belongs to.
        answer_N: bool, those of the answer; none where the score is not about one.
        response_BS: int64, the response that each input position belongs to, its prompt included; R on padding.
        lengths_R: float32, tokens in question of each response.
        spans: row, start and stop of the positions that predict each response's tokens.
        seeds: a number for each response that its tokens determine.
        own: the part of the positions 0 … S that is this rank's.
        group: the ranks that share the positions, None without Ulysses.
    """

    keep_BS: Tensor
    labels_N: Tensor
    temperature_N: Tensor
    response_N: Tensor
    answer_N: Tensor
    response_BS: Tensor
    lengths_R: Tensor
    spans: list[tuple[int, int, int]]
    seeds: list[int]
    own: slice
    group: ProcessGroup | None


def targets_of(
    rows: Sequence[Row],
    origins: Sequence[tuple[int, int]],
    shape: tuple[int, int],
    device: torch.device | str,
    own: slice | None = None,
    group: ProcessGroup | None = None,
) -> Targets:
    """The tokens in question of a micro-batch.

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
    answer_BS, response_BS = torch.zeros_like(keep_BS), torch.full_like(labels_BS, len(rows))
    for index, (row, (line, origin)) in enumerate(zip(rows, origins, strict=True)):
        first = row.prompt_length + row.target_start
        predictors = (line, slice(origin + first - 1, origin + len(row) - 1))
        keep_BS[predictors] = True
        labels_BS[predictors] = row.targets
        temperature_BS[predictors] = max(row.temperature, 1e-8)  # clamped as in verl
        answer_BS[line, origin + row.prompt_length + row.answer_start - 1 : origin + len(row) - 1] = True
        response_BS[line, origin : origin + len(row)] = index
        spans.append((line, origin + row.prompt_length - 1, origin + len(row) - 1))
    keep_BS, labels_BS, temperature_BS, answer_BS, response_BS = (
        tensor_BS[:, own] for tensor_BS in (keep_BS, labels_BS, temperature_BS, answer_BS, response_BS)
    )
    return Targets(
        keep_BS.to(device),
        labels_N=labels_BS[keep_BS].to(device),
        temperature_N=temperature_BS[keep_BS].to(device),
        response_N=response_BS[keep_BS].to(device),
        answer_N=answer_BS[keep_BS].to(device),
        response_BS=response_BS.to(device),
        lengths_R=torch.tensor([len(row.targets) for row in rows], dtype=torch.float32, device=device),
        spans=spans,
        seeds=[crc32(row.input_ids.cpu().numpy()) for row in rows],
        own=own,
        group=group,
    )


def response_scores(
    scores_BS: Tensor, rows: Sequence[Row], origins: Sequence[tuple[int, int]], alignment: str
) -> list[Tensor]:
    """Each row's scores of its response tokens, (end,), out of a micro-batch's scores of all positions."""
    shift = 1 if alignment == "predictor" else 0
    scores = []
    for row, (line, origin) in zip(rows, origins, strict=True):
        first = origin + row.prompt_length - shift
        scores.append(scores_BS[line, first : first + len(row) - row.prompt_length].detach())
    return scores

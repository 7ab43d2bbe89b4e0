"""What `algorithm.grail.dump_dir` asks the hook to write: some of a step's responses, and the step's metrics.

Behind the hook (worker.py), which hands over what it made of a rollout batch, and in front of records.py, the format.
Shapes: B responses of a rank, T response tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from grail_verl.answer import AnswerLocator, AnswerSpan
from grail_verl.config import SECTION, GrailConfig
from grail_verl.records import Writer, response_record
from grail_verl.weightings import Weighting


@dataclass(frozen=True)
class Reweighted:
    """A rank's part of a rollout batch, and what became of it.

    Attributes:
        input_ids: prompt and response tokens of each of the B responses.
        lengths: of the responses, T at most.
        spans: of their answers.
        mask_BT: bool, response_mask.
        advantages_B: before weighting.
        rewards_B: None where nobody told.
        scores_BT: 0 where none were computed.
        weights_BT: 0 where mask_BT is.
        scored_B: bool, those that went through the saliency pass.
        weighted_B: bool, those that got weights from it.
    """

    input_ids: Sequence[Tensor]
    lengths: Sequence[int]
    spans: Sequence[AnswerSpan | None]
    mask_BT: Tensor
    advantages_B: Tensor
    rewards_B: Tensor | None
    scores_BT: Tensor
    weights_BT: Tensor
    scored_B: Tensor
    weighted_B: Tensor


class Dump:
    """The records of a run, of which each data-parallel rank writes its share.

    Args:
        config: the options; dump_dir is given.
        weighting: the scheme.
        tokenizer, locator: the policy's.
        rank, ranks: data-parallel ones.
        writes: this process writes for its rank; of a Ulysses group only one does.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        config: GrailConfig,
        weighting: Weighting,
        tokenizer,
        locator: AnswerLocator,
        rank: int,
        ranks: int,
        writes: bool,
    ):
        self._folder, self._tokenizer, self._locator, self._rank = config.dump_dir, tokenizer, locator, rank
        self._share = config.dump_responses // ranks + (rank < config.dump_responses % ranks)
        try:
            self._writer = Writer(config.dump_dir, rank) if writes else None
            if writes and rank == 0:
                self._writer.write_settings(config, weighting.bounds)
        except OSError as error:
            raise self._told(error) from error

    def add(self, step: int, batch: Reweighted, metrics: Mapping[str, float]) -> None:
        """Writes a step; a collective call, which no rank leaves before all have written.

        Raises:
            OSError: the folder cannot be written any more.
        """
        if self._writer is not None:
            try:
                self._writer.add_responses(self._records(step, batch))
                if self._rank == 0:
                    self._writer.add_metrics(step, metrics)
            except OSError as error:
                raise self._told(error) from error
        dist.barrier()

    def _records(self, step: int, batch: Reweighted) -> list[dict]:
        real_B, turn = batch.mask_BT.any(dim=-1).tolist(), self._rank + step
        chosen = spread(batch.advantages_B.tolist(), real_B, self._share, turn)
        return [self._record(step, number, row, batch) for number, row in enumerate(chosen)]

    def _record(self, step: int, number: int, row: int, batch: Reweighted) -> dict:
        length = batch.lengths[row]
        ids = batch.input_ids[row].tolist()
        prompt_ids, response_ids = ids[: len(ids) - length], ids[len(ids) - length :]
        return response_record(
            step=step,
            row=number,
            prompt=self._tokenizer.decode(prompt_ids),
            tokens=self._locator.texts(response_ids),
            mask=batch.mask_BT[row, :length].tolist(),
            saliency=batch.scores_BT[row, :length].tolist() if batch.scored_B[row] else None,
            weight=batch.weights_BT[row, :length].tolist(),
            advantage=batch.advantages_B[row].item(),
            answer=batch.spans[row],
            reward=None if batch.rewards_B is None else batch.rewards_B[row].item(),
            weighted=bool(batch.weighted_B[row]),
        )

    def _told(self, error: OSError) -> OSError:
        return OSError(f"{SECTION}.dump_dir={self._folder!r} cannot be written: {error}")


def spread(advantages: Sequence[float], real: Sequence[bool], count: int, turn: int) -> list[int]:
    """Rows whose advantages go evenly from the lowest to the highest, so that wrong and correct ones are there if the
    batch has them; a single one is the lowest or the highest, by turns.

    Args:
        advantages: of each row.
        real: rows with a token of the policy's; others, such as verl's padding, are left out.
        count: of rows to choose, or all if there are fewer.
        turn: any whole number.

    Returns:
        Indices, ascending.
    """
    rows = sorted((row for row in range(len(advantages)) if real[row]), key=advantages.__getitem__)
    if count >= len(rows):
        return sorted(rows)
    if count == 1:
        return [rows[-(turn % 2)]]
    return sorted(rows[place * (len(rows) - 1) // (count - 1)] for place in range(count))

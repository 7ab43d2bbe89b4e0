"""A rank's part of a rollout batch as every rule of credit sees it, and what a rule made of it.

On the data's way: options → *responses* → *answers* → scores → weights → advantages. Whoever holds responses
(hook/batch.py out of verl's data, look/attribute.py out of files) makes a `RolloutBatch` of them, `located` finds their
answers, rule.py turns scores into a `Credit`. Knows torch alone.

Shapes: B responses of this rank, T response tokens, padded on the right; P tokens of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from grail_verl.credit.answer import AnswerLocator, AnswerSpan


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """The responses of one rank, none of them changed by whoever reads them.

    Always there:

    Attributes:
        response_mask_BT: bool, tokens that the policy wrote; False on padding, on what a tool or a user wrote, and on
            tokens that rollout correction rejected. A row without any is padding of the trainer's.
        advantages_BT: float, before weighting; a response's is the same on all its tokens.
        answer_BT: bool, tokens of the response's own answer, `\\boxed{…}`; none in a row without a complete one.
        content_BT: bool, those strictly inside the braces.
        input_ids: B of (P + length,) int64, prompt and response.
        position_ids: B of (P + length,) int64.
        lengths: B, of the responses, T at most.
        temperature_B: float32, of the rollout.
        answers: B, where answer_BT and content_BT come from.

    None where nobody handed them over. A rule that names one of these in its `needs` is refused before training where
    the settings tell that it will lack, and else ends the run at the first batch that lacks it:

        rewards_B: float32, each response's score, a penalty left out. All of verl's trainers have it; JSON lines of
            one's own may not.
        groups: B, responses to one prompt have the same; some of them may lie on other ranks. All of verl's trainers
            have it.
        old_log_probs_BT: float32, log p of each token at the rollout's temperature, by the policy before the update,
            or with verl's bypass_mode by the rollout itself. All of verl's trainers have it, files do not.
        entropy_BT: float32, of the distribution that each token was drawn from, before top_k and top_p. The V1 trainer
            has it unless it skips old log-probs (bypass_mode); V0 takes it away before the update.

    And:

        ranks: the data-parallel ranks that hold the rest of the rollout batch; None where this is all of it.
    """

    response_mask_BT: Tensor
    advantages_BT: Tensor
    answer_BT: Tensor
    content_BT: Tensor
    input_ids: Sequence[Tensor] = ()
    position_ids: Sequence[Tensor] = ()
    lengths: Sequence[int] = ()
    temperature_B: Tensor | None = None
    answers: Sequence[AnswerSpan | None] = ()
    rewards_B: Tensor | None = None
    groups: Sequence[str] | None = None
    old_log_probs_BT: Tensor | None = None
    entropy_BT: Tensor | None = None
    ranks: ProcessGroup | None = None

    @property
    def lacking(self) -> frozenset[str]:
        """Fields that nobody handed over."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is None)

    @cached_property
    def advantages_B(self) -> Tensor:
        """The one advantage A_i of each response: its first valid token's, 0 without one."""
        valid_BT = self.response_mask_BT
        first_BT = valid_BT & (valid_BT.cumsum(dim=-1) == 1)
        return torch.where(first_BT, self.advantages_BT, 0.0).sum(dim=-1)

    @cached_property
    def answered_B(self) -> Tensor:
        """bool: there is a complete answer."""
        return self.answer_BT.any(dim=-1)

    @cached_property
    def behind_BT(self) -> Tensor:
        """bool: behind the answer; none where a row has no answer."""
        seen_BT = self.answer_BT.cumsum(dim=-1) > 0
        return seen_BT & ~self.answer_BT.flip(-1).cumsum(dim=-1).flip(-1).bool()

    @cached_property
    def reasoning_BT(self) -> Tensor:
        """bool: what the policy wrote before its answer, or all that it wrote where there is none."""
        return self.response_mask_BT & ~self.answer_BT & ~self.behind_BT

    def of_all_ranks(self, values: Tensor | Sequence) -> Tensor | list:
        """The values of every rank, one behind the other; a collective call, which every rank makes alike.

        Args:
            values: (N,) on this rank, or as many strings or numbers; N may differ between ranks.
        """
        as_tensor = isinstance(values, Tensor)
        if self.ranks is None:
            return values if as_tensor else list(values)
        parts: list = [None] * dist.get_world_size(self.ranks)
        dist.all_gather_object(parts, values.cpu() if as_tensor else list(values), group=self.ranks)
        return torch.cat(parts).to(values.device) if as_tensor else [value for part in parts for value in part]


def located(batch: RolloutBatch, locator: AnswerLocator, written_BT: Tensor | None = None) -> RolloutBatch:
    """The same batch with the answers found.

    Args:
        batch: of which answers are not known.
        locator: of the policy's tokenizer.
        written_BT: bool, the tokens that the policy wrote, where response_mask_BT leaves out some of them.
    """
    written_BT = batch.response_mask_BT if written_BT is None else written_BT
    own, answers = written_BT.sum(dim=-1).tolist(), []
    for row, (ids, length) in enumerate(zip(batch.input_ids, batch.lengths, strict=True)):
        mask = None if own[row] == length else written_BT[row, :length].tolist()
        answers.append(locator.locate(ids[len(ids) - length :].tolist(), mask))
    answer_BT, content_BT = (torch.zeros_like(batch.response_mask_BT) for _ in range(2))
    for row, span in enumerate(answers):
        if span is not None:
            answer_BT[row, span.start : span.end] = True
            content_BT[row, span.content_start : span.content_end] = True
    return replace(batch, answers=answers, answer_BT=answer_BT, content_BT=content_BT)


def divisor(temperature: float | Tensor) -> Tensor:
    """A temperature, or one for each row, as float32. Raises ValueError: logits cannot be divided by it."""
    divisors = torch.as_tensor(temperature, dtype=torch.float32)
    if not ((divisors > 0) & divisors.isfinite()).all():
        raise ValueError(f"temperature={temperature} is not allowed; allowed: a number > 0, within float32")
    return divisors


def finite_rows(values_BT: Tensor, response_mask_BT: Tensor) -> Tensor:
    """(B,) bool: the value on every valid token is a finite number."""
    return (torch.isfinite(values_BT) | ~response_mask_BT).all(dim=-1)


@dataclass(frozen=True, eq=False)
class Credit:
    """What the tokens of a batch get.

    Attributes:
        batch: it.
        scores_BT: float32, 0 where none were computed.
        weights_BT: float32, what advantages are multiplied by; 0 where response_mask_BT is.
        scored_B: bool, responses that were to be weighted by their scores.
        weighted_B: bool, those that were.
        nonfinite_B: bool, responses of which a score or a weight is no finite number. Those of a score are not weighted
            by their scores: what the weights give such a response; those of a weight keep 1 throughout.
    """

    batch: RolloutBatch
    scores_BT: Tensor
    weights_BT: Tensor
    scored_B: Tensor
    weighted_B: Tensor
    nonfinite_B: Tensor

"""verl's data for the actor's update ↔ the rollout batch that rules of credit see: the one place that knows its layout.

First and last in the hook (worker.py): *responses* → answers → scores → weights → *advantages*.
Shapes: B responses of this rank, T response tokens, padded on the right; nested tensors are jagged over responses.
"""

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.utils.rnn import pad_sequence

from grail_verl.credit.batch import RolloutBatch

WRITTEN = "grail_written_mask"


def read(data: TensorDict, ranks: ProcessGroup) -> RolloutBatch:
    """The batch, its answers not located yet.

    Args:
        data: this rank's part of a rollout batch, as verl hands it to `train_mini_batch`: input_ids and position_ids
            nested (B, P + T), the response's fields nested or padded (B, T).
        ranks: the data-parallel group.
    """
    lengths = _response_lengths(data)
    response_mask_BT = _padded(data["response_mask"], lengths).bool()
    nothing_BT = torch.zeros_like(response_mask_BT)
    groups = data.get("uid", None)
    return RolloutBatch(
        response_mask_BT,
        _padded(data["advantages"], lengths),
        nothing_BT,
        nothing_BT,
        input_ids=_rows(data["input_ids"]),
        position_ids=_rows(data["position_ids"]),
        lengths=lengths,
        temperature_B=torch.as_tensor(data["temperature"], dtype=torch.float32).expand(len(data)),
        answers=[None] * len(lengths),
        rewards_B=_rewards(data),
        groups=None if groups is None else groups.tolist(),
        old_log_probs_BT=_optional(data, "old_log_probs", lengths),
        entropy_BT=_optional(data, "entropy", lengths),
        ranks=ranks,
    )


def written(data: TensorDict) -> Tensor:
    """(B, T) bool: the tokens that the policy wrote, those included that rollout correction took out of the response
    mask. An answer that it rejected is the response's answer still: that one was graded.

    Args:
        data: as of `read`. V1 keeps the agent loop's mask as `loss_mask`, V0 as what patches.py calls WRITTEN.
    """
    lengths = _response_lengths(data)
    return _padded(data[WRITTEN if WRITTEN in data else "loss_mask"], lengths).bool()


def rollout_log_probs(data: TensorDict) -> Tensor | None:
    """(B, T): of each token by the rollout itself, which may be an older policy, or the same in other arithmetic; None
    unless verl was told to have them (rollout.calculate_log_probs)."""
    return _optional(data, "rollout_log_probs", _response_lengths(data))


def write_advantages(data: TensorDict, advantages_BT: Tensor, lengths: Sequence[int]) -> None:
    """Replaces data["advantages"], in the layout in which data holds them."""
    if data["advantages"].is_nested:
        values = torch.cat([row[:length] for row, length in zip(advantages_BT, lengths, strict=True)])
        data["advantages"] = torch.nested.nested_tensor_from_jagged(
            values, data["advantages"].offsets(), min_seqlen=min(lengths), max_seqlen=max(lengths)
        )  # with lengths: torch pads a tensor that does not know them to the sum of all
    else:
        data["advantages"] = advantages_BT


# On values and offsets: NestedTensor's own methods cost up to a millisecond each.


def _rows(nested: Tensor) -> Sequence[Tensor]:
    return nested.values().split(nested.offsets().diff().tolist())


def _padded(tensor: Tensor, lengths: list[int]) -> Tensor:
    return pad_sequence(tensor.values().split(lengths), batch_first=True) if tensor.is_nested else tensor


def _optional(data: TensorDict, name: str, lengths: list[int]) -> Tensor | None:
    return _padded(data[name], lengths).float() if name in data else None


def _response_lengths(data: TensorDict) -> list[int]:
    responses = data["responses"]
    if responses.is_nested:
        return responses.offsets().diff().tolist()
    # The legacy trainer keeps responses padded; the attention mask says what is padding.
    return data["attention_mask"][:, -responses.shape[1] :].sum(dim=-1).tolist()


def _rewards(data: TensorDict) -> Tensor | None:
    """(B,): each response's score, which verl's trainers hand over token by token."""
    if "rm_scores" not in data:
        return None
    scores = data["rm_scores"]
    if scores.is_nested:
        return torch.stack([row.sum() for row in _rows(scores)]).float()
    return scores.sum(dim=-1).float()

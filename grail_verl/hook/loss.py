"""Whether a policy loss sees which token has which weight: weights leave the hook as advantages, and what becomes of
those is the loss's doing. One that averages them over a response, as GMPO's `geo_mean` does, or takes the first token's
for all, gives every token the same factor, and GRAIL is gone without a sign.

Beside the data's way: asked before Ray starts (launch.py), and in the worker (worker.py), which knows losses that
`actor_rollout_ref.model.external_lib` registers. The loss itself is tried, so that one which nobody here has heard of
is judged too.
"""

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from verl.workers.config import ActorConfig

PROMPT, WEIGHTS = 2, (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
ROUNDING = 1e-9  # of float64, in which it is tried: beside a large KL term a small difference is still one

logger = logging.getLogger(__name__)


def refuse_blind(actor: "ActorConfig") -> None:
    """Raises ValueError: the policy loss of this config trains a response's tokens alike, however the weights fall on
    them. One that cannot be tried (its kernel needs a GPU) is let through, with a warning."""
    said = f"actor_rollout_ref.actor.policy_loss.loss_mode={actor.policy_loss.loss_mode!r}"
    try:
        blind = _is_blind(actor)
    except Exception as error:
        logger.warning("%s: whether it follows GRAIL's weights could not be tried: %r", said, error)
        return
    if blind:
        raise ValueError(
            f"{said} is not allowed with algorithm.adv_estimator=grail: it trains the tokens of a response alike, "
            "whatever their weights; allowed: a loss of each token's own advantage, as vanilla"
        )


def _is_blind(actor: "ActorConfig") -> bool:
    """A response's tokens are trained in the same proportions with the weights in order as with the same weights
    backwards. A loss may bound or whiten advantages, draw tokens, or leave out the responses of one sign: as long as it
    sees any difference between tokens it is not.

    Raises:
        ValueError: no token here is trained at all, which tells nothing of others.
    """
    proportions = []
    for weights in (WEIGHTS, WEIGHTS[::-1]):
        with torch.random.fork_rng(devices=[]):  # some losses draw tokens: here twice the same
            gradient_BT = _gradient(actor, torch.tensor(weights, dtype=torch.float64))
        largest_B1 = gradient_BT.abs().amax(dim=-1, keepdim=True)
        proportions.append(torch.where(largest_B1 > 0, gradient_BT / largest_B1, gradient_BT))
    one_BT, other_BT = proportions
    if not (one_BT.any() or other_BT.any()):
        raise ValueError("it trains none of the tokens that it was tried with")
    return bool((one_BT - other_BT).abs().max() <= ROUNDING)


def _gradient(actor: "ActorConfig", weights_T: Tensor) -> Tensor:
    """(2, S) of verl's loss of a right and a wrong response, with respect to log-probs, by a policy that is still the
    rollout's; every token of a response has the same log-prob."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.losses import ppo_loss

    length = len(weights_T)

    def nested(rows) -> Tensor:
        return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)

    log_probs_BT = torch.full((2, length), -0.5, dtype=torch.float64)
    fields = {
        "prompts": nested(torch.ones(2, PROMPT, dtype=torch.long)),
        "responses": nested(torch.ones(2, length, dtype=torch.long)),
        "response_mask": nested(torch.ones(2, length, dtype=torch.long)),
        "old_log_probs": nested(log_probs_BT),
        "ref_log_prob": nested(log_probs_BT),
        "advantages": nested(torch.stack([weights_T, -0.5 * weights_T])),  # of which the mean is not 0
    }
    sizes = {"dp_size": 1, "batch_num_tokens": 2 * length, "global_batch_size": 2}
    packed = 2 * (PROMPT + length)
    log_probs = torch.full((packed,), -0.5, dtype=torch.float64, requires_grad=True)
    loss, _ = ppo_loss(actor, {"log_probs": log_probs}, tu.get_tensordict(fields, non_tensor_dict=sizes), dp_group=None)
    return torch.autograd.grad(loss, log_probs)[0].view(2, -1)

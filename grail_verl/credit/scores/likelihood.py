"""log p of tokens, with a graph for backward passes: what saliency differentiates.

On the data's way within the scores: options → responses → answers → *scores* → weights → advantages.
Shapes: N tokens in question, V vocabulary; B, S as in base.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from grail_verl.credit.leaf import LOSS_PART


def log_likelihoods(output: ModelOutput, keep_BS: Tensor, labels_N: Tensor, temperature_N: Tensor) -> Tensor:
    """(N,): log p of each token. In float32 a part at a time, forward and backward: there can be as many as a response
    has, and float32 logits of all of it are larger than anything that verl's update holds.

    Args:
        output: of the model, whose head ran at keep_BS; under verl's fused kernels with `log_probs` in place of logits.
        keep_BS: bool, the positions that predict the tokens.
        labels_N: int64, the tokens.
        temperature_N: float32, what the logits of each are divided by.
    """
    fused = getattr(output, "log_probs", None)
    if fused is not None:  # temperature included; (B, S), or by Triton one row behind the other
        return fused.view(keep_BS.shape)[keep_BS]

    def of_part(logits, labels, temperature):
        return -F.cross_entropy(logits.float() / temperature[:, None], labels, reduction="none")

    parts = zip(*(tensor.split(LOSS_PART) for tensor in (output.logits, labels_N, temperature_N)), strict=True)
    return torch.cat([checkpoint(of_part, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])

"""Saliency carried back through the tokens in between: what a gradient with the response kept does not see.

Beside credit.py, which compares it with the scores that training knows; nothing trains with it, since it takes a
backward pass for every token of a response. The answer's content starts with a credit of 1 a token. From the last token
to the first, each hands what it has got on to the tokens that it was itself predicted from, prompt included, in
proportion to ‖gradient ⊙ activation‖ of its own log-probability at the embeddings.
"""

from collections.abc import Sequence

import numpy as np
import torch


def carried_saliency(model, prompt: Sequence[int], tokens: Sequence[int], content: range) -> np.ndarray:
    """The credit of each token.

    Args:
        model: causal LM in evaluation mode.
        prompt, tokens: ids; of a response up to its answer's end.
        content: the answer's content, as indices into tokens.

    Returns:
        (T,) float64, at least 0.
    """
    first, ids_1S = len(prompt), torch.tensor([[*prompt, *tokens]])
    embedded_1SD = model.get_input_embeddings()(ids_1S).detach().requires_grad_()
    logprobs_SV = model(inputs_embeds=embedded_1SD, use_cache=False).logits[0].log_softmax(dim=-1)
    credit_S = np.zeros(ids_1S.shape[1])
    credit_S[[first + token for token in content]] = 1.0
    for place in range(first + content.stop - 1, first - 1, -1):
        if credit_S[place]:
            logprob = logprobs_SV[place - 1, ids_1S[0, place]]
            (gradient_1SD,) = torch.autograd.grad(logprob, embedded_1SD, retain_graph=True)
            share_S = (gradient_1SD * embedded_1SD.detach())[0, :place].norm(dim=-1).double().numpy()
            credit_S[:place] += credit_S[place] * share_S / max(share_S.sum(), 1e-12)
    return credit_S[first:]

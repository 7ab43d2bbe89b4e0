"""Whether a model keeps the rows of a packed micro-batch apart. With verl's `use_remove_padding` they lie one behind
the other, told apart by position ids. Attention masks follow those; linear attention, state-space layers and
convolutions read on across the border unless their kernels are told, and some models build their masks without. Their
log-probs are wrong then, verl's own too, and so are scores.

In the worker (worker.py), once the engine is there: which kernels there are, no config says.
"""

import torch
import torch.distributed as dist
from tensordict import TensorDict
from verl.utils.device import get_device_id

from grail_verl.credit.config import GrailConfig
from grail_verl.credit.rows import Row
from grail_verl.credit.scores.saliency import Saliency
from grail_verl.hook.engine_pass import PassSettings, scores_by_pass
from grail_verl.hook.failure import ends_on_every_rank

# The second one alone is asked for, the longer one is packed before it.
FIRST = Row(torch.arange(1, 9), torch.arange(8), prompt_length=1, target_start=7, answer_start=7, temperature=1.0)
SECOND = Row(torch.arange(9, 13), torch.arange(4), prompt_length=2, target_start=0, answer_start=0, temperature=1.0)


def refuse_mixed_rows(engine) -> None:
    """Lets two rows through the engine, packed as its micro-batches are. What the second one predicts has a gradient of
    exactly 0 at the first, whatever the precision, or the model mixes them. A collective call, with one verdict.

    Args:
        engine: verl's FSDPEngineWithLMHead, initialized.

    Raises:
        NotImplementedError: it mixes them; names the model, the option and what is allowed.
        RuntimeError: another rank failed.
    """
    settings = PassSettings.of(TensorDict({}, batch_size=[]), engine)
    if not settings.budget.packed:
        return
    score = Saliency(GrailConfig(alignment="token"))
    with ends_on_every_rank("GRAIL's trial of packed rows"):
        at_first, _ = scores_by_pass(engine, [FIRST, SECOND], settings, score)
        mixed = (at_first > 0).any().int().to(get_device_id())
        dist.all_reduce(mixed, op=dist.ReduceOp.MAX)
    if mixed:
        model = engine.module.config
        raise NotImplementedError(
            f"a {model.model_type} with {model._attn_implementation} attention mixes the rows of a packed micro-batch: "
            "actor_rollout_ref.model.use_remove_padding=True is not allowed with algorithm.adv_estimator=grail; "
            "allowed: False, or micro-batches of one row"
        )

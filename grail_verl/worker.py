"""The hook in the actor's worker: rows → answer spans → saliency → weights → advantages.

Last room on the data's way, and the only one that knows verl, ranks and the method together. It runs once
per rollout batch, before the first mini-batch of verl's update, on the data that update is given.
"""

import time
from collections.abc import Sequence
from functools import partial

import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker

from grail_verl.answer import AnswerLocator, AnswerSpan
from grail_verl.config import GrailConfig
from grail_verl.dump import Dump, Reweighted
from grail_verl.engine_pass import saliency_pass
from grail_verl.failure import ends_on_every_rank
from grail_verl.metrics import weight_metrics
from grail_verl.rows import AnswerRow, Budget
from grail_verl.weightings import scheme
from grail_verl.weights import behind_answer, finite_responses, response_advantage


class GrailTrainingWorker(TrainingWorker):
    """verl's TrainingWorker, whose update sees advantages multiplied by GRAIL's token weights.

    Args:
        config: verl's.
        grail: the options.

    Raises:
        NotImplementedError: a model that reads more than text.
        TypeError, ValueError: a tokenizer in whose tokens no answer can be located.
        OSError: `dump_dir` cannot be written.
    """

    def __init__(self, config: TrainingWorkerConfig, grail: GrailConfig):
        model = config.model_config
        if model.hf_config.get_text_config() is not model.hf_config:  # the text's part of more
            raise NotImplementedError(
                f"algorithm.adv_estimator=grail serves language models only; actor_rollout_ref.model.path="
                f"{model.path!r} is a {model.hf_config.model_type}, which also reads images or sound"
            )
        super().__init__(config)
        self.weighting = scheme(grail.weighting)(grail)
        self.answer_locator = AnswerLocator(self.model_config.tokenizer, grail.occurrence)
        self.dump = None
        if grail.dump_dir is not None:
            self.dump = Dump(
                grail,
                self.weighting,
                self.model_config.tokenizer,
                self.answer_locator,
                self.engine.get_data_parallel_rank(),
                self.engine.get_data_parallel_size(),
                writes=self.engine.is_mp_src_rank_with_outputs(),
            )

    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        metrics = self.reweight_advantages(data)
        output = super().train_mini_batch(data)
        if output is not None:  # None on ranks whose output verl does not collect
            tu.get(output, "metrics").update(metrics)
        return output

    def reweight_advantages(self, data: TensorDict) -> dict[str, float]:
        """Multiplies data["advantages"] by the token weights, in place; a collective call.

        Args:
            data: this rank's part of a rollout batch, as verl hands it to `train_mini_batch`: input_ids and
                position_ids nested (B, P + T), the response's fields nested or padded (B, T).

        Returns:
            The metrics, the same on every rank.

        Raises:
            RuntimeError: another rank failed.
            OSError: `dump_dir` cannot be written any more.
        """
        with ends_on_every_rank("GRAIL's saliency pass"):
            return self._reweight_advantages(data)

    def _reweight_advantages(self, data: TensorDict) -> dict[str, float]:
        input_ids, response_lengths = _rows(data["input_ids"]), _response_lengths(data)
        response_mask_BT = _padded(data["response_mask"], response_lengths).bool()
        advantages_BT = _padded(data["advantages"], response_lengths)
        advantages_B = response_advantage(advantages_BT, response_mask_BT)
        spans = self._answer_spans(input_ids, response_lengths, response_mask_BT)
        answer_BT, content_BT = _answer_masks(spans, response_mask_BT)

        needed_B = self.weighting.selected(advantages_B) & (advantages_B != 0) & answer_BT.any(dim=-1)
        scores_BT, seconds = self._scores(data, input_ids, response_lengths, needed_B, answer_BT)

        weights_BT = self.weighting.token_weights(
            scores_BT, response_mask_BT, answer_BT, content_BT, advantages_B
        ).to(advantages_BT.dtype)
        _assign_advantages(data, advantages_BT * weights_BT, response_lengths)

        finite_B = finite_responses(scores_BT, response_mask_BT)
        metrics = weight_metrics(
            weights_BT,
            advantages_BT,
            response_mask_BT,
            found=answer_BT.any(dim=-1),
            reweighted=needed_B & finite_B,
            scored=(needed_B & finite_B)[:, None] & ~answer_BT & ~behind_answer(answer_BT),
            nonfinite=needed_B & ~finite_B,
            seconds=seconds,
            bounds=self.weighting.bounds,
            device=get_device_id(),
            group=self.engine.get_data_parallel_group(),
        )
        if self.dump is not None:
            batch = Reweighted(
                input_ids,
                response_lengths,
                spans,
                response_mask_BT,
                advantages_B,
                _rewards(data),
                scores_BT,
                weights_BT,
                scored_B=needed_B,
                weighted_B=needed_B & finite_B,
            )
            self.dump.add(self._step(), batch, metrics)
        return metrics

    def _step(self) -> int:
        """This update's number, counted through resumed runs: the scheduler steps once an update and is saved with a
        checkpoint. It is verl's own step wherever a step holds one update of the actor; no trainer tells it here."""
        return self.engine.lr_scheduler.last_epoch + 1

    def _answer_spans(
        self, input_ids: Sequence[Tensor], response_lengths: list[int], response_mask_BT: Tensor
    ) -> list[AnswerSpan | None]:
        own, spans = response_mask_BT.sum(dim=-1).tolist(), []
        for row, (ids, length) in enumerate(zip(input_ids, response_lengths, strict=True)):
            mask = None if own[row] == length else response_mask_BT[row, :length].tolist()
            spans.append(self.answer_locator.locate(ids[len(ids) - length :].tolist(), mask))
        return spans

    def _scores(
        self,
        data: TensorDict,
        input_ids: Sequence[Tensor],
        response_lengths: list[int],
        needed_B: Tensor,
        answer_BT: Tensor,
    ) -> tuple[Tensor, float]:
        """Scores (B, T) float32, zero where no pass is needed and behind the answers; seconds it took."""
        started = time.perf_counter()
        indices, rows = needed_B.nonzero().flatten().tolist(), []
        position_ids = _rows(data["position_ids"]) if indices else []
        temperature_B = torch.as_tensor(data["temperature"], dtype=torch.float32).expand(len(data)).tolist()
        for index in indices:
            prompt_length = len(input_ids[index]) - response_lengths[index]
            answer = answer_BT[index].nonzero()
            length = prompt_length + int(answer[-1]) + 1
            rows.append(
                AnswerRow(
                    input_ids[index][:length],
                    position_ids[index][:length],
                    prompt_length,
                    int(answer[0]),
                    temperature_B[index],
                )
            )

        settings = {name: self._setting(data, name) for name in ("use_remove_padding", "use_fused_kernels")}
        scores = saliency_pass(
            self.engine,
            rows,
            self._budget(data),
            {
                **settings,
                "pad_token_id": tu.get(data, "pad_token_id", default=0),
                "disable_auto_offload": tu.get(data, "disable_auto_offload", default=False),
            },
            self.weighting,
        )
        scores_BT = torch.zeros(answer_BT.shape, dtype=torch.float32)
        for index, row_scores in zip(indices, scores, strict=True):
            scores_BT[index, : len(row_scores)] = row_scores
        return scores_BT.to(answer_BT.device), time.perf_counter() - started

    def _setting(self, data: TensorDict, name: str):
        """verl's train_batch takes its settings from the batch, else from the engine."""
        return tu.get(data, name, default=getattr(self.engine_config, name, None))

    def _budget(self, data: TensorDict) -> Budget:
        """That of log-prob passes; but no more than the update's, which is known to hold activations too."""
        dynamic = self._setting(data, "use_dynamic_bsz")
        name = "max_token_len_per_gpu" if dynamic else "micro_batch_size_per_gpu"
        limit = min(self._setting(data, name), getattr(self.engine_config, f"infer_{name}"))
        packed = self._setting(data, "use_remove_padding")
        tokens = limit * self.engine.ulysses_sequence_parallel_size  # as verl's prepare_micro_batches counts them
        return Budget(packed, tokens=tokens) if dynamic else Budget(packed, rows=limit)


def actor_worker_class(worker):
    """What verl's ActorRolloutRefWorker builds its actor from, as a property on that class.

    Args:
        worker: the ActorRolloutRefWorker; its config is verl's `actor_rollout_ref` section.

    Returns:
        verl's own TrainingWorker unless launch.prepare put GRAIL's options into the section.
    """
    options = worker.config.get("grail")
    return TrainingWorker if options is None else partial(GrailTrainingWorker, grail=OmegaConf.to_object(options))


# On values and offsets: NestedTensor's own methods cost up to a millisecond each.


def _rows(nested: Tensor) -> Sequence[Tensor]:
    return nested.values().split(nested.offsets().diff().tolist())


def _padded(tensor: Tensor, lengths: list[int]) -> Tensor:
    return pad_sequence(tensor.values().split(lengths), batch_first=True) if tensor.is_nested else tensor


def _response_lengths(data: TensorDict) -> list[int]:
    responses = data["responses"]
    if responses.is_nested:
        return responses.offsets().diff().tolist()
    # The legacy trainer keeps responses padded; the attention mask says what is padding.
    return data["attention_mask"][:, -responses.shape[1] :].sum(dim=-1).tolist()


def _answer_masks(spans: Sequence[AnswerSpan | None], response_mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Of the answers, and of what stands within their braces."""
    answer_BT, content_BT = torch.zeros_like(response_mask_BT), torch.zeros_like(response_mask_BT)
    for row, span in enumerate(spans):
        if span is not None:
            answer_BT[row, span.start : span.end] = True
            content_BT[row, span.content_start : span.content_end] = True
    return answer_BT, content_BT


def _rewards(data: TensorDict) -> Tensor | None:
    """(B,): each response's score, which verl's trainers hand over token by token."""
    if "rm_scores" not in data:
        return None
    scores = data["rm_scores"]
    if scores.is_nested:
        return torch.stack([row.sum() for row in _rows(scores)]).float()
    return scores.sum(dim=-1).float()


def _assign_advantages(data: TensorDict, advantages_BT: Tensor, lengths: list[int]) -> None:
    """In the layout in which data holds them."""
    if data["advantages"].is_nested:
        values = torch.cat([row[:length] for row, length in zip(advantages_BT, lengths, strict=True)])
        data["advantages"] = torch.nested.nested_tensor_from_jagged(
            values, data["advantages"].offsets(), min_seqlen=min(lengths), max_seqlen=max(lengths)
        )  # with lengths: torch pads a tensor that does not know them to the sum of all
    else:
        data["advantages"] = advantages_BT

"""The hook in the actor's worker: a rollout batch from verl's data to weighted advantages, step by step.

The whole of the data's way in training: options → responses → answers → scores → weights → advantages → verl. It runs
once per rollout batch, before the first mini-batch of verl's update, on the data that update is given.
"""

from collections.abc import Callable
from functools import partial

from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker

from grail_verl.credit.answer import AnswerLocator
from grail_verl.credit.batch import located
from grail_verl.credit.config import SECTION, GrailConfig
from grail_verl.credit.rule import Rule
from grail_verl.hook.batch import read, rollout_log_probs, write_advantages, written
from grail_verl.hook.dump import dump_of
from grail_verl.hook.engine_pass import PassSettings, batch_scores
from grail_verl.hook.failure import ends_on_every_rank
from grail_verl.hook.launch import from_section, options_of_actor
from grail_verl.hook.loss import refuse_blind
from grail_verl.hook.metrics import credit_metrics
from grail_verl.hook.packing import refuse_mixed_rows


class GrailTrainingWorker(TrainingWorker):
    """verl's TrainingWorker, whose update sees advantages multiplied by the token weights of a rule of credit.

    Args:
        config: verl's.
        grail: the options.
        run: verl's trainer.default_local_dir; needed with `dump_dir`.

    Raises:
        NotImplementedError: a model that reads more than text; by `reset`, one that mixes packed rows.
        TypeError, ValueError: a tokenizer in whose tokens no answer can be located; a module of the user's own that
            cannot be imported here.
        OSError, ValueError, RuntimeError: `dump_dir` cannot be written, or is another run's; see dump.py.
    """

    def __init__(self, config: TrainingWorkerConfig, grail: GrailConfig, run: str | None = None):
        model = config.model_config
        if model.hf_config.get_text_config() is not model.hf_config:  # the text's part of more
            raise NotImplementedError(
                f"algorithm.adv_estimator=grail serves language models only; actor_rollout_ref.model.path="
                f"{model.path!r} is a {model.hf_config.model_type}, which also reads images or sound"
            )
        self.rule = Rule(grail)
        super().__init__(config)
        self.answer_locator = AnswerLocator(self.model_config.tokenizer, grail.occurrence)
        self.dump = dump_of(grail, self.rule, self.model_config.tokenizer, self.answer_locator, run, self.engine)

    def load_checkpoint(self, *args, **kwargs) -> None:
        """Raises ValueError: verl is told to leave out the number of updates, by which records go on."""
        contents = self.engine.checkpoint_manager.checkpoint_load_contents
        if self.dump is not None and "extra" not in contents:
            raise ValueError(
                f"actor_rollout_ref.actor.checkpoint.load_contents={list(contents)} is not allowed with "
                f"{SECTION}.dump_dir, as a resumed run's steps would be counted from 1; allowed: with extra among them"
            )
        return super().load_checkpoint(*args, **kwargs)

    def reset(self) -> None:
        super().reset()
        refuse_mixed_rows(self.engine)

    def set_loss_fn(self, loss_fn: Callable) -> None:
        """Raises ValueError: verl's loss, of a policy loss that loses the weights."""
        if isinstance(loss_fn, partial) and "config" in loss_fn.keywords:  # as verl hands over each of its own
            refuse_blind(loss_fn.keywords["config"])
        super().set_loss_fn(loss_fn)

    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        metrics = self.reweight_advantages(data)
        output = super().train_mini_batch(data)
        if output is not None:  # None on ranks whose output verl does not collect
            tu.get(output, "metrics").update(metrics)
        return output

    def reweight_advantages(self, data: TensorDict) -> dict[str, float]:
        """Multiplies data["advantages"] by the token weights, in place; a collective call.

        Args:
            data: this rank's part of a rollout batch, as verl hands it to `train_mini_batch`; see batch.read.

        Returns:
            The metrics, the same on every rank.

        Raises:
            RuntimeError: another rank failed.
            ValueError: the rule needs what this trainer does not hand over.
            OSError: `dump_dir` cannot be written any more.
        """
        with ends_on_every_rank("GRAIL's saliency pass"):
            batch = read(data, self.engine.get_data_parallel_group())
            batch = located(batch, self.answer_locator, written(data))
            self.rule.require(batch, "this trainer")
            scored_B = self.rule.matters(batch)
            scores = batch_scores(batch, scored_B, self.rule, self.engine, PassSettings.of(data, self.engine))
            credit = self.rule.credit(batch, scores.scores_BT, scored_B)
            write_advantages(data, batch.advantages_BT * credit.weights_BT.to(batch.advantages_BT.dtype), batch.lengths)
            metrics = credit_metrics(credit, self.rule.weights.bounds, scores.rows, scores.seconds)
            if self.dump is not None:
                self.dump.add(self._step(), credit, metrics, rollout_log_probs(data))
            return metrics

    def _step(self) -> int:
        """This update's number, counted through resumed runs: the scheduler steps once an update and is saved with a
        checkpoint. It is verl's own step wherever a step holds one update of the actor; no trainer tells it here."""
        return self.engine.lr_scheduler.last_epoch + 1


def actor_worker_class(worker):
    """What verl's ActorRolloutRefWorker builds its actor from, as a property on that class.

    Args:
        worker: the ActorRolloutRefWorker; its config is verl's `actor_rollout_ref` section.

    Returns:
        verl's own TrainingWorker unless the rest of that config says `algorithm.adv_estimator=grail`.
    """
    options = options_of_actor(worker.config)
    if options is None:
        return TrainingWorker
    return partial(GrailTrainingWorker, grail=options, run=from_section(worker.config, "..trainer.default_local_dir"))

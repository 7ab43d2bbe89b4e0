"""What `algorithm.grail.dump_dir` asks the hook to write: some of a step's responses, and the step's metrics.

Last in the hook (worker.py), behind the weights, and in front of look/records.py, the format. The folder is one run's:
another's is refused, and so is a second job at once (claim.py). What a run writes again, because it resumes before it
or begins anew, is dropped before anything is written, of whatever ranks.
"""

import contextlib
import logging
import uuid
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from verl.utils.device import get_device_id

from grail_verl.credit.answer import AnswerLocator
from grail_verl.credit.batch import Credit, RolloutBatch
from grail_verl.credit.config import SECTION, GrailConfig
from grail_verl.credit.rule import Rule
from grail_verl.hook.claim import Claim
from grail_verl.hook.failure import ends_on_every_rank
from grail_verl.look.records import PASS_RATE, Writer, drop_from, refuse_others, response_record

logger = logging.getLogger(__name__)


class Dump:
    """The records of a run, of which each data-parallel rank writes its share; a collective call.

    Args:
        config: the options; dump_dir is given.
        rule: of credit.
        tokenizer, locator: the policy's.
        run: verl's trainer.default_local_dir, by which it resumes a run.
        rank: the data-parallel one.
        writes: this process writes for its rank; of a Ulysses group only one does.

    Raises:
        OSError: the folder cannot be written, or another run is writing there.
        ValueError: it holds another run's records.
        RuntimeError: another rank failed.
    """

    def __init__(
        self,
        config: GrailConfig,
        rule: Rule,
        tokenizer,
        locator: AnswerLocator,
        run: str,
        rank: int,
        writes: bool,
    ):
        self._folder, self._tokenizer, self._locator, self._rank = config.dump_dir, tokenizer, locator, rank
        self._count, self._scores = config.dump_responses, config.scores
        self._writes, self._begun = writes, False
        with ends_on_every_rank("opening algorithm.grail.dump_dir"):
            word = [uuid.uuid4().hex]
            dist.broadcast_object_list(word)
            with self._told():
                if writes:
                    Path(self._folder).mkdir(parents=True, exist_ok=True)
                    self._claim = Claim(self._folder, *word, rank)
            dist.barrier()
            with self._told():
                if writes:
                    self._claim.require()
                    if self._claim.holds:
                        refuse_others(config, run)
                    self._writer = Writer(self._folder, rank)
                    if self._claim.holds:
                        self._writer.write_settings(config, rule.weights.bounds, run)

    def add(
        self, step: int, credit: Credit, metrics: Mapping[str, float], rollout_log_probs_BT: Tensor | None = None
    ) -> None:
        """Writes a step, and into its metrics the share of all its responses that have a reward above 0; a collective
        call.

        Args:
            step: of training.
            credit: what the rule made of the step's responses.
            metrics: of the step, the same on every rank.
            rollout_log_probs_BT: of the tokens by the rollout itself, where verl has them.

        Raises:
            OSError: the folder cannot be written any more.
        """
        if not self._begun:
            self._drop_from(step)
            self._begun = True
        passed, rows = pass_rate(credit.batch), chosen_rows(credit.batch, self._count, turn=step)
        with self._told():
            if self._writes:
                channels = token_channels(credit.batch, self._scores, rollout_log_probs_BT)
                self._writer.add_responses(
                    self._record(step, number, row, credit, channels) for number, row in enumerate(rows)
                )
                if self._rank == 0:
                    self._writer.add_metrics(step, {**metrics, **passed})

    def _drop_from(self, step: int) -> None:
        with self._told():
            if self._writes and self._claim.holds and drop_from(self._folder, step):
                logger.warning("%s: records from step %d on are dropped, to be written again", self._folder, step)
        dist.barrier()

    def _record(self, step: int, number: int, row: int, credit: Credit, channels: Mapping[str, Tensor]) -> dict:
        batch = credit.batch
        length = batch.lengths[row]
        ids = batch.input_ids[row].tolist()
        prompt_ids, response_ids = ids[: len(ids) - length], ids[len(ids) - length :]
        return response_record(
            step=step,
            row=number,
            prompt=self._tokenizer.decode(prompt_ids),
            tokens=self._locator.texts(response_ids),
            mask=batch.response_mask_BT[row, :length].tolist(),
            score=credit.scores_BT[row, :length].tolist() if credit.scored_B[row] else None,
            weight=credit.weights_BT[row, :length].tolist(),
            advantage=batch.advantages_B[row].item(),
            answer=batch.answers[row],
            reward=None if batch.rewards_B is None else batch.rewards_B[row].item(),
            weighted=bool(credit.weighted_B[row]),
            channels={name: values_BT[row, :length].tolist() for name, values_BT in channels.items()},
        )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"{SECTION}.dump_dir={self._folder!r} cannot be written: {error}") from error


def dump_of(config: GrailConfig, rule: Rule, tokenizer, locator: AnswerLocator, run: str, engine) -> Dump | None:
    """This worker's, if the options ask for records; `engine` is verl's. Raises what Dump does."""
    if config.dump_dir is None:
        return None
    rank, writes = engine.get_data_parallel_rank(), engine.is_mp_src_rank_with_outputs()
    return Dump(config, rule, tokenizer, locator, run, rank, writes)


def token_channels(
    batch: RolloutBatch, scores: Sequence[str], rollout_log_probs_BT: Tensor | None
) -> dict[str, Tensor]:
    """What the batch tells of each token for nothing, name → (B, T), NaN where the policy wrote none; left out is what
    is the score anyhow."""
    old_BT, channels = batch.old_log_probs_BT, {}
    if old_BT is not None:
        channels["surprise"] = (-old_BT).clamp(min=0)
        if rollout_log_probs_BT is not None:
            channels["ratio"] = (old_BT - rollout_log_probs_BT).exp()
    if batch.entropy_BT is not None:
        channels["entropy"] = batch.entropy_BT.clamp(min=0)
    own_BT = batch.response_mask_BT
    return {name: values_BT.where(own_BT, torch.nan) for name, values_BT in channels.items() if scores != [name]}


def pass_rate(batch: RolloutBatch) -> dict[str, float]:
    """Under the name that records.py gives it, the share of the responses with a token of the policy's that have a
    reward above 0, exact over all ranks; nothing without rewards. A collective call over the batch's ranks."""
    if batch.rewards_B is None:  # on every rank alike
        return {}
    real_B = batch.response_mask_BT.any(dim=-1)
    sums = torch.stack([(batch.rewards_B > 0) & real_B, real_B]).sum(dim=-1).to(get_device_id())
    dist.all_reduce(sums, group=batch.ranks)
    passed, rows = sums.tolist()
    return {PASS_RATE: passed / rows} if rows else {}


def chosen_rows(batch: RolloutBatch, count: int, turn: int) -> list[int]:
    """Which of this rank's rows are among the `count` that are chosen of all ranks' (`with_siblings`): verl balances
    lengths, so that the responses to one prompt lie on several. A collective call over the batch's ranks."""
    own = (
        batch.advantages_B.tolist(),
        batch.response_mask_BT.any(dim=-1).tolist(),
        range(len(batch.lengths)) if batch.groups is None else batch.groups,
    )
    place, parts = dist.get_rank(batch.ranks), [None] * dist.get_world_size(batch.ranks)
    dist.all_gather_object(parts, own, group=batch.ranks)
    advantages, real = ([value for part in parts for value in part[kind]] for kind in (0, 1))
    groups = [(group if batch.groups else (rank, group)) for rank, part in enumerate(parts) for group in part[2]]
    first = sum(len(part[0]) for part in parts[:place])
    mine = range(first, first + len(own[0]))
    return [row - first for row in with_siblings(advantages, real, groups, count, turn) if row in mine]


def with_siblings(
    advantages: Sequence[float], real: Sequence[bool], groups: Sequence[Hashable], count: int, turn: int
) -> list[int]:
    """Rows to look at: for half of the count a group's lowest and highest advantage together, right beside wrong, of
    groups spread over theirs; for the rest, and where there are no such pairs, `spread` over what is left.

    Args:
        advantages, real, turn: as of `spread`.
        groups: of each row; responses to one prompt have the same.
        count: of rows to choose, or all if there are fewer.

    Returns:
        Indices, ascending.
    """
    families: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        if real[row]:
            families.setdefault(group, []).append(row)
    by_advantage = [sorted(rows, key=advantages.__getitem__) for rows in families.values()]
    pairs = [(rows[0], rows[-1]) for rows in by_advantage if advantages[rows[0]] < advantages[rows[-1]]]
    of_pairs = spread([advantages[low] for low, _ in pairs], [True] * len(pairs), count // 4, turn)
    taken = {row for place in of_pairs for row in pairs[place]}
    left = [own and row not in taken for row, own in enumerate(real)]
    return sorted(taken.union(spread(advantages, left, count - len(taken), turn)))


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

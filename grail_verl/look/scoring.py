"""Scores and weights of responses out of files, around a plain model: the data's way as in training, without verl.

Between encoding.py, their tokens, and attribution.py, what is found; attribute.py is the function and the command
around it. Responses → answers → scores → weights, and beside them the channels: what else can be told of each token,
by one more forward pass, and what saliency's hops found one by one.

Shapes: B responses, T response tokens, S input positions, C numbers of a token.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grail_verl.command import mendable
from grail_verl.credit.answer import AnswerLocator
from grail_verl.credit.batch import RolloutBatch, located
from grail_verl.credit.leaf import evaluating
from grail_verl.credit.rows import Budget, Row, Targets, dense_scores, pack, response_scores, rows_of, targets_of
from grail_verl.credit.rule import Rule
from grail_verl.credit.scores import Score
from grail_verl.credit.scores.entropy import entropy
from grail_verl.credit.scores.hops import hop_shares
from grail_verl.credit.scores.prediction import prediction_scores
from grail_verl.credit.scores.saliency import Saliency
from grail_verl.credit.scores.surprise import log_prob
from grail_verl.look.attribution import Attribution
from grail_verl.look.encoding import Encoded

TOKENS = 8192  # of a micro-batch, padding included
PREDICTED = 1024  # of a micro-batch of which all logits are looked at
AT_ONCE = 512  # responses that are held at a time


def attributions(
    encoded: Sequence[Encoded],
    model,
    tokenizer,
    rule: Rule,
    temperature: float = 1.0,
    budget: Budget | None = None,
    done: Callable[[float], None] = lambda rows: None,
    predicting: bool = True,
) -> Iterator[Attribution]:
    """Of every rollout, steps in the order of their first: all of a step are scored, then weighted together. Where the
    weights do not compare responses, some hundreds at a time.

    Args:
        encoded: rollouts.
        model, tokenizer: of Hugging Face's kind.
        rule: of credit.
        temperature: of the rollouts.
        budget: of a micro-batch, padded.
        done: called with how many rollouts need no more passes.
        predicting: the channels surprise and entropy are wanted.

    Raises:
        CommandError: the rule needs what responses out of files do not have.
    """
    locator = AnswerLocator(tokenizer, rule.config.occurrence)
    steps: dict[int, list[Encoded]] = {}
    for one in encoded:
        steps.setdefault(one.rollout.step, []).append(one)
    at_once = len(encoded) if rule.weights.compares_responses else AT_ONCE
    for part in (
        of_step[first : first + at_once] for of_step in steps.values() for first in range(0, len(of_step), at_once)
    ):
        batch = located(_batch(part, temperature), locator)
        with mendable(ValueError):
            rule.require(batch, "a response out of a file")
        batch = _with_advantages(batch, part, rule)
        scored_B = rule.can_weigh(batch)
        budget = budget or Budget(packed=False, tokens=TOKENS)
        predicted = _predictions(model, batch, budget) if predicting else {}
        scores_BT, found = _scores(model, batch, scored_B, rule, budget, done)
        credit = rule.credit(batch, scores_BT, scored_B)
        for row, one in enumerate(part):
            length, scored = len(one.response_ids), bool(scored_B[row])
            told = {**found, **predicted} if scored else dict(predicted)
            told.pop(rule.config.score if isinstance(rule.config.score, str) else None, None)  # it is the score
            yield Attribution(
                tokenizer.decode(one.prompt_ids),
                locator.texts(one.response_ids),
                credit.scores_BT[row, :length].tolist() if scored else None,
                credit.weights_BT[row, :length].tolist(),
                batch.answers[row],
                bool(credit.weighted_B[row]),
                one.rollout,
                {name: values_BT[row, :length].tolist() for name, values_BT in told.items()},
                [name for name in rule.config.scores if scored and name in told],
            )


def _batch(encoded: Sequence[Encoded], temperature: float) -> RolloutBatch:
    """An advantage that nobody told is -1."""
    lengths = [len(one.response_ids) for one in encoded]
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    advantages = [one.rollout.advantage for one in encoded]
    rewards = [one.rollout.reward for one in encoded]
    input_ids = [torch.tensor([*one.prompt_ids, *one.response_ids]) for one in encoded]
    nothing_BT = torch.zeros_like(mask_BT)
    return RolloutBatch(
        mask_BT,
        torch.tensor([-1.0 if told is None else told for told in advantages])[:, None].expand(mask_BT.shape),
        nothing_BT,
        nothing_BT,
        input_ids=input_ids,
        position_ids=[torch.arange(len(ids)) for ids in input_ids],
        lengths=lengths,
        temperature_B=torch.full((len(encoded),), temperature),
        answers=[None] * len(encoded),
        rewards_B=None if None in rewards else torch.tensor(rewards),
        groups=[one.rollout.group for one in encoded],
    )


def _with_advantages(batch: RolloutBatch, encoded: Sequence[Encoded], rule: Rule) -> RolloutBatch:
    """A response whose advantage nobody told has one that the rule selects: -1, or else 1."""
    untold_B = torch.tensor([one.rollout.advantage is None for one in encoded])
    other_B = untold_B & ~rule.weights.selected(batch)
    return replace(batch, advantages_BT=torch.where(other_B[:, None], 1.0, batch.advantages_BT))


def _scores(
    model, batch: RolloutBatch, scored_B: Tensor, rule: Rule, budget: Budget, done: Callable[[float], None]
) -> tuple[Tensor, dict[str, Tensor]]:
    """(B, T): by passes of the model, where the batch does not tell. And what the passes found beside: each factor of a
    product by its name, each of saliency's hops as "hop 0" …, (B, T)."""
    told, found = 0.0, {}
    indices = scored_B.nonzero().flatten().tolist()

    def run_pass(rows: list[Row], score: Score) -> list[Tensor]:
        nonlocal told
        parts: list[Tensor] = [torch.empty(0, 1)] * len(rows)
        for places in pack([len(row) for row in rows], budget):
            of_rows = _micro_batch(model, [rows[place] for place in places], _ScoreAndHops(score), score.alignment)
            for place, of_row in zip(places, of_rows, strict=True):
                parts[place] = of_row
            share = len(places) / len(rule.scores)
            told += share
            done(share)
        columns = list(zip(*(part.unbind(dim=-1) for part in parts)))
        names = [rule.config.scores[rule.scores.index(score)], *(f"hop {hop}" for hop in range(len(columns) - 1))]
        for name, column in zip(names, columns):
            if name != rule.config.score:
                found[name] = dense_scores(column, indices, batch)
        return [part[:, 0] for part in parts]

    scores_BT = rule.score(batch, scored_B, run_pass)
    done(len(batch.lengths) - told)  # what took no pass
    return scores_BT, found


@dataclass(frozen=True)
class _ScoreAndHops:
    """A score of every position, and of each of saliency's hops behind it: (B, S, C)."""

    score: Score

    def __call__(self, model, inputs: dict, targets: Targets) -> Tensor:
        passes = {
            "recompute": lambda: True,  # a long response has to fit, whatever the memory
            "loss_scale": self.score.fp16_loss_scale if model.dtype == torch.float16 else 1.0,
        }
        config = self.score.config
        with torch.set_grad_enabled(self.score.model_pass == "gradient"):
            if type(self.score) is Saliency and config.hops > 0:
                shares = hop_shares(model, inputs, targets, config.hops, config.leaf, **passes)
                return torch.stack([sum(shares), *shares], dim=-1)
            return self.score.of_positions(model, inputs, targets, **passes)[..., None]


def _predictions(model, batch: RolloutBatch, budget: Budget) -> dict[str, Tensor]:
    """Surprise and entropy of every token, (B, T) each, by one forward pass."""

    def of_distribution(log_probs_NV: Tensor, tokens_N: Tensor) -> Tensor:
        both = -log_prob(log_probs_NV, tokens_N), entropy(log_probs_NV, tokens_N)
        return torch.stack(both, dim=-1).clamp(min=0)  # rounding puts those of a certain token below

    def of_positions(model, inputs: dict, targets: Targets) -> Tensor:
        return prediction_scores(model, inputs, targets, of_distribution)

    budget = replace(budget, tokens=min(budget.tokens, PREDICTED))
    rows = rows_of(batch, range(len(batch.lengths)), of_answer=False)
    found_BTC = torch.zeros(*batch.response_mask_BT.shape, 2)
    for places in pack([len(row) for row in rows], budget):
        of_rows = _micro_batch(model, [rows[place] for place in places], of_positions, "predictor")
        for place, of_row in zip(places, of_rows, strict=True):
            found_BTC[place, : len(of_row)] = of_row
    return {"surprise": found_BTC[..., 0], "entropy": found_BTC[..., 1]}


def _micro_batch(model, rows: list[Row], of_positions: Callable[..., Tensor], alignment: str) -> list[Tensor]:
    """Each row's numbers of its response tokens, (end, C), out of those of all positions, (B, S, C)."""
    origins = [(index, 0) for index in range(len(rows))]
    ids_BS, position_ids_BS, mask_BS = (
        pad_sequence(tensors, batch_first=True).to(model.device)
        for tensors in (
            [row.input_ids for row in rows],
            [row.position_ids for row in rows],
            [torch.ones_like(row.input_ids) for row in rows],
        )
    )
    inputs = {"input_ids": ids_BS, "attention_mask": mask_BS, "position_ids": position_ids_BS}
    with evaluating(model):
        values_BSC = of_positions(model, inputs, targets_of(rows, origins, ids_BS.shape, model.device))
    return response_scores(values_BSC.cpu(), rows, origins, alignment)

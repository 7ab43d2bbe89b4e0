r"""What weights GRAIL gives to responses that are already there, under any causal language model.

In Python, for one response, in a terminal or a notebook:

    from grail_verl import attribute

    shown = attribute("3 + 4 - 9 =", " 3 + 4 = 7, 7 - 9 = 8, \\boxed{8}", "Qwen/Qwen3-0.6B")
    shown.show()

As a command, for one or for many, whose records `grail-verl report DIR` draws:

    grail-verl attribute MODEL --prompt '3 + 4 =' --response ' 7, so \boxed{7}' leaf=last
    grail-verl attribute MODEL --rollouts rollouts/ --out records/ rollouts=all

The data's way as in training, around a plain model: responses → answers → scores → weights; verl is not needed. What
differs: every response that the rule can weigh is scored, one with an advantage of 0 too, which training passes by
because it moves nothing; a response without an advantage counts as chosen.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from yaml import YAMLError

from grail_verl.command import CommandError, add_trust_argument, mendable
from grail_verl.credit.answer import AnswerLocator
from grail_verl.credit.batch import RolloutBatch, divisor, located
from grail_verl.credit.config import SECTION, GrailConfig
from grail_verl.credit.leaf import evaluating
from grail_verl.credit.rows import Budget, Row, pack, response_scores, targets_of
from grail_verl.credit.rule import Rule
from grail_verl.credit.scores import Score
from grail_verl.look import rollouts
from grail_verl.look.attribution import Attribution
from grail_verl.look.records import SETTINGS, Writer
from grail_verl.look.rollouts import Rollout
from grail_verl.model import find_model

TOKENS = 8192  # of a micro-batch, padding included
AT_ONCE = 512  # responses that are held at a time


def attribute(
    prompt: str | list[int] | list[dict],
    response: str | list[int],
    model,
    tokenizer=None,
    *,
    temperature: float = 1.0,
    trust_checkpoint: bool = False,
    **options,
) -> Attribution:
    """Scores and weights of one response, as if its advantage were one that `rollouts` chooses.

    Text is encoded as it stands, without special tokens of the tokenizer's own. That may give other tokens than a
    policy sampled; token ids are taken as they are.

    Args:
        prompt: text, token ids, or chat messages for the tokenizer's chat template.
        response: text or token ids.
        model: a loaded causal language model, or what `find_model` takes: a folder, a hub name, a checkpoint of verl's.
        tokenizer: needed with a loaded model.
        temperature: of the rollout, which divides the logits.
        trust_checkpoint: see `find_model`.
        options: GRAIL's, as under algorithm.grail: leaf="last", score="oar_g", weights="reshaped".

    Raises:
        ValueError: an option, the temperature, or a prompt without a token.
        CommandError: no such model, or a rule that needs what is not given here.
        TypeError: a tokenizer in whose tokens no answer can be located, or none with a loaded model.
    """
    rule = checked(options, temperature)
    if isinstance(model, str | Path):
        model, tokenizer = load(str(model), trust_checkpoint)
    elif tokenizer is None:
        raise TypeError("a loaded model needs its tokenizer: attribute(prompt, response, model, tokenizer)")
    encoded = encode([Rollout(prompt, response)], tokenizer)
    (attribution,) = attributions(encoded, model, tokenizer, rule, temperature)
    return attribution


def checked(options: dict, temperature: float = 1.0) -> Rule:
    """Raises ValueError: an option that is unknown, out of range, or without effect here; or a temperature by which no
    logits can be divided."""
    divisor(temperature)
    config = GrailConfig.from_options(options)
    rule = Rule(config)
    rule.refuse_unread(options)
    if config.dump_dir is not None:
        raise ValueError(f"{SECTION}.dump_dir={config.dump_dir!r} has no effect outside of training")
    return rule


def load(name: str, trust_checkpoint: bool = False):
    """A model, on the accelerator if there is one, and its tokenizer; raises what `find_model` does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = find_model(name, trust_checkpoint=trust_checkpoint)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").requires_grad_(False)
    device = torch.accelerator.current_accelerator(check_available=True)
    return model.to(device or "cpu"), AutoTokenizer.from_pretrained(path)


@dataclass(frozen=True)
class Encoded:
    """A rollout in tokens; `marked` unless its prompt lacks special tokens that nobody could put back."""

    rollout: Rollout
    prompt_ids: list[int]
    response_ids: list[int]
    marked: bool


def encode(given: Sequence[Rollout], tokenizer) -> list[Encoded]:
    """Raises ValueError: a prompt without a token, of which the first response token could not be predicted."""
    encoded = []
    for rollout in given:
        prompt, response, marked = rollout.prompt, rollout.response, True
        if rollout.stripped and isinstance(prompt, str):
            whole = rollouts.with_chat_marks(tokenizer, prompt)
            prompt, marked = (prompt, False) if whole is None else (whole, True)
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        prompt_ids, response_ids = (
            tokenizer.encode(text, add_special_tokens=False) if isinstance(text, str) else text
            for text in (prompt, response)
        )
        if not prompt_ids:
            raise ValueError(f"prompt {rollout.row} has no token; needed: at least one")
        if rollout.stripped and isinstance(response, str) and tokenizer.eos_token_id is not None:
            response_ids = [*response_ids, tokenizer.eos_token_id]
        encoded.append(Encoded(rollout, prompt_ids, response_ids, marked))
    return encoded


def attributions(
    encoded: Sequence[Encoded],
    model,
    tokenizer,
    rule: Rule,
    temperature: float = 1.0,
    budget: Budget | None = None,
    done: Callable[[float], None] = lambda rows: None,
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
        scores_BT = _scores(model, batch, scored_B, rule, budget or Budget(packed=False, tokens=TOKENS), done)
        credit = rule.credit(batch, scores_BT, scored_B)
        for row, one in enumerate(part):
            length = len(one.response_ids)
            yield Attribution(
                tokenizer.decode(one.prompt_ids),
                locator.texts(one.response_ids),
                credit.scores_BT[row, :length].tolist() if scored_B[row] else None,
                credit.weights_BT[row, :length].tolist(),
                batch.answers[row],
                bool(credit.weighted_B[row]),
                one.rollout,
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


def _scores(model, batch: RolloutBatch, scored_B: Tensor, rule: Rule, budget: Budget, done) -> Tensor:
    """(B, T): by passes of the model, where the batch does not tell."""
    told = 0.0

    def run_pass(rows: list[Row], score: Score) -> list[Tensor]:
        nonlocal told
        scores: list[Tensor] = [torch.empty(0)] * len(rows)
        for places in pack([len(row) for row in rows], budget):
            for place, of_row in zip(places, _micro_batch(model, [rows[place] for place in places], score)):
                scores[place] = of_row
            share = len(places) / len(rule.scores)
            told += share
            done(share)
        return scores

    scores_BT = rule.score(batch, scored_B, run_pass)
    done(len(batch.lengths) - told)  # what took no pass
    return scores_BT


def _micro_batch(model, rows: list[Row], score: Score) -> list[Tensor]:
    origins = [(index, 0) for index in range(len(rows))]
    ids_BS, position_ids_BS, mask_BS = (
        pad_sequence(tensors, batch_first=True).to(model.device)
        for tensors in (
            [row.input_ids for row in rows],
            [row.position_ids for row in rows],
            [torch.ones_like(row.input_ids) for row in rows],
        )
    )
    with evaluating(model), torch.set_grad_enabled(score.model_pass == "gradient"):
        scores_BS = score.from_model(
            model,
            {"input_ids": ids_BS, "attention_mask": mask_BS, "position_ids": position_ids_BS},
            targets_of(rows, origins, ids_BS.shape, model.device),
            recompute=lambda: True,  # a long response has to fit, whatever the memory
            loss_scale=score.fp16_loss_scale if model.dtype == torch.float16 else 1.0,
        )
    return response_scores(scores_BS.cpu(), rows, origins, score.alignment)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a Hugging Face folder or hub name, or a checkpoint of verl's (global_step_N)")
    parser.add_argument("--prompt", help="text as the model shall see it")
    parser.add_argument("--response", help="what it answered")
    parser.add_argument(
        "--rollouts", type=Path, metavar="PATH",
        help="verl's trainer.rollout_data_dir, one of its files, or JSON lines with prompt and response",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder for the records of --rollouts")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the rollout; default 1.0")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of a micro-batch, with padding; default {TOKENS}")
    add_trust_argument(parser)
    parser.add_argument("options", nargs="*", help="GRAIL's, such as leaf=last or rollouts=all")


def run(options: argparse.Namespace) -> None:
    """Shows one response, or writes the records of many.

    Raises:
        argparse.ArgumentError: arguments that do not go together.
        CommandError: an option, files that are no rollouts, or no such model.
    """
    _require_fitting(options)
    with mendable(ValueError, OSError, YAMLError):
        rule = checked(OmegaConf.to_container(OmegaConf.from_dotlist(options.options)), options.temperature)
        if options.rollouts is None:
            given = [Rollout(options.prompt, options.response)]
        else:
            given = rollouts.read_rollouts(options.rollouts)
            if (options.out / SETTINGS).exists():
                raise CommandError(f"{options.out} holds records already; --out needs a new folder")
            writer = Writer(options.out)
        model, tokenizer = load(options.model, options.trust_checkpoint)
        encoded = encode(given, tokenizer)
    budget = Budget(packed=False, tokens=options.tokens)
    if options.rollouts is None:
        (attribution,) = attributions(encoded, model, tokenizer, rule, options.temperature, budget)
        attribution.show()
        return
    console, weighted = Console(), 0
    writer.write_settings(rule.config, rule.weights.bounds)
    with Progress(console=console) as progress:
        task = progress.add_task("responses", total=len(encoded))
        done = partial(progress.advance, task)
        for attribution in attributions(encoded, model, tokenizer, rule, options.temperature, budget, done):
            writer.add_responses([attribution.record()])
            weighted += attribution.weighted
    if bare := sum(not one.marked for one in encoded):
        console.print(
            f"{bare:,} of {len(encoded):,} prompts are used as verl's dump has them, without special tokens: the "
            "tokenizer's chat template does not account for them", soft_wrap=True,
        )
    said = f"{len(encoded):,} responses, {weighted:,} weighted; to draw them: grail-verl report {options.out}"
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def _require_fitting(options: argparse.Namespace) -> None:
    one, many = (options.prompt, options.response), (options.rollouts, options.out)
    if (None in one or any(many)) and (None in many or any(part is not None for part in one)):
        raise argparse.ArgumentError(None, "needed: --prompt and --response, or --rollouts and --out")
    if unlike := [option for option in options.options if "=" not in option]:
        raise argparse.ArgumentError(None, f"{unlike[0]!r} is no option=value, such as leaf=last")
    if options.tokens <= 0:
        raise argparse.ArgumentError(None, f"--tokens {options.tokens} is not allowed; allowed: a number > 0")

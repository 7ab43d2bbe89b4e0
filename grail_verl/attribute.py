r"""What weights GRAIL gives to responses that are already there, under any causal language model.

In Python, for one response, in a terminal or a notebook:

    from grail_verl.attribute import attribute

    shown = attribute("3 + 4 - 9 =", " 3 + 4 = 7, 7 - 9 = 8, \\boxed{8}", "Qwen/Qwen3-0.6B")
    shown.show()

As a command, for one or for many, whose records `python -m grail_verl.report DIR` draws:

    python -m grail_verl.attribute MODEL --prompt '3 + 4 =' --response ' 7, so \boxed{7}' leaf=last
    python -m grail_verl.attribute MODEL --rollouts rollouts/ --out records/ rollouts=all

Beside the data's way: answer.py, a scheme of weightings/ and its weights as in training, around a plain model; verl is
not needed. What differs: every response that `rollouts` chooses is scored, one with an advantage of 0 too, which
training passes by because it moves nothing; a response without an advantage counts as chosen.
"""

import argparse
import io
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import OmegaConf
from rich.color import Color
from rich.console import Console, Group
from rich.progress import Progress
from rich.style import Style
from rich.text import Text
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grail_verl import rollouts
from grail_verl.answer import AnswerLocator, AnswerSpan
from grail_verl.config import SECTION, GrailConfig
from grail_verl.evaluation import EvaluationError
from grail_verl.evaluation.model import find_model
from grail_verl.launch import refuse_unread
from grail_verl.records import SETTINGS, Writer, response_record
from grail_verl.report.colours import LIGHT
from grail_verl.rollouts import Rollout
from grail_verl.rows import AnswerRow, Budget, answer_positions, pack, response_scores
from grail_verl.saliency import evaluating
from grail_verl.weightings import Weighting, scheme
from grail_verl.weights import finite_responses

TOKENS = 8192  # of a micro-batch, padding included


@dataclass(frozen=True)
class Attribution:
    """What a response's own answer says of its tokens.

    Attributes:
        prompt: text that the model saw.
        tokens: texts of the T response tokens; joined, the response.
        saliency: (T,) scores, 0 behind the answer; None where none were computed.
        weight: (T,) that multiply the response's advantage.
        answer: its tokens, None without a complete `\\boxed{…}`.
        weighted: tokens got weights from their saliency.
        rollout: what it was made of.
    """

    prompt: str
    tokens: list[str]
    saliency: list[float] | None
    weight: list[float]
    answer: AnswerSpan | None
    weighted: bool
    rollout: Rollout = field(repr=False)

    def record(self) -> dict:
        """As records.py writes it."""
        given = self.rollout
        return response_record(
            step=given.step,
            row=given.row,
            prompt=self.prompt,
            tokens=self.tokens,
            mask=[1] * len(self.tokens),
            saliency=self.saliency,
            weight=self.weight,
            advantage=given.advantage,
            answer=self.answer,
            reward=given.reward,
            weighted=self.weighted,
        )

    def show(self) -> None:
        """Prints the response in the colours of its weights; in a notebook as HTML."""
        Console().print(self)

    def __rich__(self) -> Group:
        """Blue below a weight of 1, orange above, in full at half and at twice as much; the answer underlined."""
        response = Text()
        for place, (token, weight) in enumerate(zip(self.tokens, self.weight, strict=True)):
            answer = self.answer is not None and self.answer.start <= place < self.answer.end
            response.append(token, Style(bgcolor=_colour(weight), color=LIGHT.ink, underline=answer))
        return Group(Text(self.prompt, style="dim"), response, Text(self._caption(), style="italic"))

    def _repr_html_(self) -> str:
        console = Console(record=True, file=io.StringIO(), width=100, color_system="truecolor", force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format='<pre style="white-space: pre-wrap">{code}</pre>')

    def _caption(self) -> str:
        if self.answer is None:
            return f"{len(self.tokens)} tokens without a complete \\boxed{{}}: every weight is 1"
        if not self.weighted:
            return f"{len(self.tokens)} tokens, not weighted by saliency"
        before = self.weight[: self.answer.start] or [1.0]
        return f"{len(self.tokens)} tokens; weights before the answer {min(before):.2f} to {max(before):.2f}"


def _colour(weight: float) -> Color:
    """Of the report: from its middle to low or high, by the weight's logarithm."""
    share = max(-1.0, min(1.0, math.log2(weight))) if weight > 0 else -1.0
    middle, end = (Color.parse(c).get_truecolor() for c in (LIGHT.middle, LIGHT.low if share < 0 else LIGHT.high))
    return Color.from_rgb(*(from_ + (to - from_) * abs(share) for from_, to in zip(middle, end, strict=True)))


def attribute(
    prompt: str | list[int] | list[dict],
    response: str | list[int],
    model,
    tokenizer=None,
    *,
    temperature: float = 1.0,
    **options,
) -> Attribution:
    """Saliency and weights of one response, as if its advantage were one that `rollouts` chooses.

    Text is encoded as it stands, without special tokens of the tokenizer's own. That may give other tokens than a
    policy sampled; token ids are taken as they are.

    Args:
        prompt: text, token ids, or chat messages for the tokenizer's chat template.
        response: text or token ids.
        model: a loaded causal language model, or what `find_model` takes: a folder, a hub name, a checkpoint of verl's.
        tokenizer: needed with a loaded model.
        temperature: of the rollout, which divides the logits.
        options: GRAIL's, as under algorithm.grail: leaf="last", weighting="oar_g".

    Raises:
        ValueError: an option, or a prompt without a token.
        EvaluationError: no such model.
        TypeError: a tokenizer in whose tokens no answer can be located, or none with a loaded model.
    """
    config = checked(options)
    if isinstance(model, str | Path):
        model, tokenizer = load(str(model))
    elif tokenizer is None:
        raise TypeError("a loaded model needs its tokenizer: attribute(prompt, response, model, tokenizer)")
    encoded = encode([Rollout(prompt, response)], tokenizer)
    ((attribution,),) = filter(None, attributions(encoded, model, tokenizer, config, temperature))
    return attribution


def checked(options: dict) -> GrailConfig:
    """Raises ValueError: an option that is unknown, out of range, or without effect here."""
    config = GrailConfig.from_options(options)
    refuse_unread(options, config)
    if config.dump_dir is not None:
        raise ValueError(f"{SECTION}.dump_dir={config.dump_dir!r} has no effect outside of training")
    return config


def load(name: str):
    """A model, on the accelerator if there is one, and its tokenizer; raises what `find_model` does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = find_model(name)
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
    config: GrailConfig,
    temperature: float = 1.0,
    budget: Budget | None = None,
) -> Iterator[list[Attribution]]:
    """Of every rollout, those of a micro-batch at a time: first those that need no pass, the rest by length.

    Args:
        encoded: rollouts.
        model, tokenizer: of Hugging Face's kind.
        config: the options.
        temperature: of the rollouts.
        budget: of a micro-batch, padded.
    """
    weighting, locator = scheme(config.weighting)(config), AnswerLocator(tokenizer, config.occurrence)
    spans = [locator.locate(one.response_ids) for one in encoded]
    advantages = [_advantage(one.rollout, weighting) for one in encoded]
    chosen = weighting.selected(torch.tensor(advantages)).tolist()
    needed = [index for index, span in enumerate(spans) if span is not None and chosen[index]]

    def attributed(index: int, scores: Tensor | None) -> Attribution:
        one, span = encoded[index], spans[index]
        scores_T = torch.zeros(len(one.response_ids))
        if scores is not None:
            scores_T[: len(scores)] = scores
        weight, finite = _weights(scores_T, span, advantages[index], weighting)
        return Attribution(
            tokenizer.decode(one.prompt_ids),
            locator.texts(one.response_ids),
            None if scores is None else scores_T.tolist(),
            weight,
            span,
            scores is not None and finite,
            one.rollout,
        )

    yield [attributed(index, None) for index in range(len(encoded)) if index not in set(needed)]
    rows = [_row(encoded[index], spans[index], temperature) for index in needed]
    for batch in pack([len(row) for row in rows], budget or Budget(packed=False, tokens=TOKENS)):
        scores = _scores(model, [rows[place] for place in batch], weighting)
        yield [attributed(needed[place], of_row) for place, of_row in zip(batch, scores, strict=True)]


def _advantage(rollout: Rollout, weighting: Weighting) -> float:
    """Its own, or one that the scheme chooses."""
    if rollout.advantage is not None:
        return rollout.advantage
    return -1.0 if weighting.selected(torch.tensor([-1.0])).item() else 1.0


def _row(one: Encoded, span: AnswerSpan, temperature: float) -> AnswerRow:
    ids = torch.tensor([*one.prompt_ids, *one.response_ids[: span.end]])
    return AnswerRow(ids, torch.arange(len(ids)), len(one.prompt_ids), span.start, temperature)


def _scores(model, rows: list[AnswerRow], weighting: Weighting) -> list[Tensor]:
    origins = [(index, 0) for index in range(len(rows))]
    ids_BS, position_ids_BS, mask_BS = (
        pad_sequence(tensors, batch_first=True).to(model.device)
        for tensors in (
            [row.input_ids for row in rows],
            [row.position_ids for row in rows],
            [torch.ones_like(row.input_ids) for row in rows],
        )
    )
    with evaluating(model):
        scores_BS = weighting.position_scores(
            model,
            {"input_ids": ids_BS, "attention_mask": mask_BS, "position_ids": position_ids_BS},
            answer_positions(rows, origins, ids_BS.shape, model.device),
            recompute=lambda: True,  # a long response has to fit, whatever the memory
            loss_scale=weighting.fp16_loss_scale if model.dtype == torch.float16 else 1.0,
        )
    return response_scores(scores_BS.cpu(), rows, origins, weighting.alignment)


def _weights(
    scores_T: Tensor, span: AnswerSpan | None, advantage: float, weighting: Weighting
) -> tuple[list[float], bool]:
    """The weights, and whether its scores are finite."""
    mask_1T, answer_1T, content_1T = torch.ones(1, len(scores_T)).bool(), *torch.zeros(2, 1, len(scores_T)).bool()
    if span is not None:
        answer_1T[0, span.start : span.end] = True
        content_1T[0, span.content_start : span.content_end] = True
    weights_1T = weighting.token_weights(scores_T[None], mask_1T, answer_1T, content_1T, torch.tensor([advantage]))
    return weights_1T[0].tolist(), finite_responses(scores_T[None], mask_1T).item()


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; ends it with a message where a user can do something about it."""
    options = parse(arguments)
    try:
        config = checked(OmegaConf.to_container(OmegaConf.from_dotlist(options.options)))
        if options.rollouts is None:
            given = [Rollout(options.prompt, options.response)]
        else:
            given = rollouts.read_rollouts(options.rollouts)
            if (options.out / SETTINGS).exists():
                raise ValueError(f"{options.out} holds records already; --out needs a new folder")
            writer = Writer(options.out)
        model, tokenizer = load(options.model)
        encoded = encode(given, tokenizer)
    except (EvaluationError, ValueError, OSError) as error:
        sys.exit(f"grail_verl.attribute: {error}")
    batches = attributions(encoded, model, tokenizer, config, options.temperature, Budget(False, tokens=options.tokens))
    if options.rollouts is None:
        ((attribution,),) = filter(None, batches)
        attribution.show()
        return
    console, weighted = Console(), 0
    writer.write_settings(config, scheme(config.weighting)(config).bounds)
    with Progress(console=console) as progress:
        task = progress.add_task("responses", total=len(encoded))
        for batch in batches:
            writer.add_responses(attribution.record() for attribution in batch)
            weighted += sum(attribution.weighted for attribution in batch)
            progress.advance(task, len(batch))
    if bare := sum(not one.marked for one in encoded):
        console.print(
            f"{bare:,} of {len(encoded):,} prompts are used as verl's dump has them, without special tokens: the "
            "tokenizer's chat template does not account for them", soft_wrap=True,
        )
    said = f"{len(encoded):,} responses, {weighted:,} weighted; to draw them: python -m grail_verl.report {options.out}"
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m grail_verl.attribute",
        description="Shows one response in the colours of its weights, or writes the records of many.",
    )
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
    parser.add_argument("options", nargs="*", help="GRAIL's, such as leaf=last or rollouts=all")
    given = parser.parse_intermixed_args(arguments)
    one, many = (given.prompt, given.response), (given.rollouts, given.out)
    if (None in one or any(many)) and (None in many or any(part is not None for part in one)):
        parser.error("needed: --prompt and --response, or --rollouts and --out")
    if unlike := [option for option in given.options if "=" not in option]:
        parser.error(f"{unlike[0]!r} is no option=value, such as leaf=last")
    if not given.temperature > 0 or given.tokens < 1:
        parser.error("--temperature and --tokens have to be greater than 0")
    return given


if __name__ == "__main__":
    main()

"""Change a token of a response and see whether the answer moves, in two ways.

    finished   the policy goes on greedily behind the changed token; the answer is compared with the one that it comes
               to behind the token that stood there. What the answer rests on, intermediate results included.
    kept       everything behind the token stays as it was; the answer has moved where the policy's likeliest token
               within the box is another. All that a gradient can see, taken as it is with the response kept.

Beside annotate.py: what that knows by construction, this finds by trying. A digit becomes another digit, an operator
another operator, a filler another filler; other tokens are left alone.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from grail_verl.credit.answer import AnswerLocator
from recipes.study.chains import FILLER, OPERATORS

ROWS = 256  # at a time


@dataclass(frozen=True)
class Change:
    """`replacement` instead of token `at` of a response."""

    prompt: Sequence[int]
    response: Sequence[int]
    at: int
    replacement: int


def alternatives(tokenizer) -> dict[int, list[int]]:
    """Token id → the ids that it can become; of tokens that can."""
    classes = ([*"0123456789"], [*OPERATORS], FILLER)
    vocabulary = {tokenizer.decode([number]): number for number in range(len(tokenizer))}
    numbers = [[vocabulary[text] for text in texts if text in vocabulary] for texts in classes]
    alike_of = {token: alike for alike in numbers if len(alike) > 1 for token in alike}
    return {token: [other for other in alike if other != token] for token, alike in alike_of.items()}


def changes(tokenizer, prompt: list[int], response: list[int], end: int, rng: random.Random) -> list[Change]:
    """One change of each token before `end` that can be changed."""
    becomes = alternatives(tokenizer)
    tokens = [at for at in range(end) if response[at] in becomes]
    return [Change(prompt, response, at, rng.choice(becomes[response[at]])) for at in tokens]


def generate(model, tokenizer, prompts: list[list[int]], limit: int, sample: bool) -> list[list[int]]:
    """The tokens behind each prompt, the one that ends a response included if it came; at most `limit`."""
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    drawing = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
    end = tokenizer.eos_token_id
    with torch.no_grad():
        output = model.generate(
            **batch, **drawing, max_new_tokens=limit, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
        )
    responses = output[:, batch.input_ids.shape[1] :].tolist()
    return [response[: response.index(end) + 1] if end in response else response for response in responses]


def answers_finished(model, tokenizer, prompts: list[list[int]], responses: list[list[int]], limit: int) -> list:
    """The answer, as token ids, that each response comes to; None where it comes to none within `limit` tokens."""
    locator, answers = AnswerLocator(tokenizer), {}
    distinct = {(tuple(prompt), tuple(response)) for prompt, response in zip(prompts, responses, strict=True)}
    ordered = sorted(distinct, key=lambda pair: (len(pair[1]), pair))
    for start in range(0, len(ordered), ROWS):
        pairs = ordered[start : start + ROWS]
        going_on = [pair for pair in pairs if pair[1][-1] != tokenizer.eos_token_id]
        left = limit - min((len(response) for _, response in going_on), default=0)
        sequences = [[*prompt, *response] for prompt, response in going_on]
        rests = dict(zip(going_on, generate(model, tokenizer, sequences, left, sample=False) if sequences else ()))
        for pair in pairs:
            whole = [*pair[1], *rests.get(pair, ())]
            span = locator.locate(whole)
            answers[pair] = span and whole[span.content_start : span.content_end]
    return [answers[tuple(prompt), tuple(response)] for prompt, response in zip(prompts, responses, strict=True)]


def likeliest_tokens(model, tokenizer, sequences: list[list[int]]) -> list[torch.Tensor]:
    """What the policy would take behind each token of each sequence."""
    batch = tokenizer.pad({"input_ids": sequences}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        likeliest = model(**batch, use_cache=False).logits.argmax(dim=-1)
    return [row[: len(sequence)] for row, sequence in zip(likeliest, sequences)]


def greedy_parts(model, tokenizer, made: list[Change]) -> list[list[int]]:
    """The response from its start to behind token `at`, and on as far as it goes as the policy would have gone on: from
    there it comes to the same answer, and changes of a response share it."""
    responses = [*{(tuple(change.prompt), tuple(change.response)) for change in made}]
    departures = {}  # where the response is not what the policy would have taken, and its end
    for start in range(0, len(responses), ROWS):
        part = responses[start : start + ROWS]
        likeliest = likeliest_tokens(model, tokenizer, [[*prompt, *response] for prompt, response in part])
        for (prompt, response), row in zip(part, likeliest):
            departs = torch.tensor(response) != row[len(prompt) - 1 : -1]
            departures[prompt, response] = [*departs.nonzero()[:, 0].tolist(), len(response)]
    of_change = [departures[tuple(change.prompt), tuple(change.response)] for change in made]
    return [
        change.response[: next(at for at in ats if at > change.at)] for change, ats in zip(made, of_change, strict=True)
    ]


def moved_when_finished(model, tokenizer, made: list[Change], limit: int) -> list[bool | None]:
    """None where one of the two comes to no answer."""
    prompts = [change.prompt for change in made]
    changed = [[*change.response[: change.at], change.replacement] for change in made]
    originals = answers_finished(model, tokenizer, prompts, greedy_parts(model, tokenizer, made), limit)
    pairs = zip(originals, answers_finished(model, tokenizer, prompts, changed, limit), strict=True)
    return [None if original is None or other is None else original != other for original, other in pairs]


def moved_when_kept(model, tokenizer, made: list[Change]) -> list[bool]:
    """Every response has an answer."""
    locator, moved = AnswerLocator(tokenizer), []
    for start in range(0, len(made), ROWS // 2):
        part = made[start : start + ROWS // 2]
        sequences = [
            [*change.prompt, *change.response[: change.at], token, *change.response[change.at + 1 :]]
            for change in part
            for token in (change.response[change.at], change.replacement)
        ]
        likeliest = likeliest_tokens(model, tokenizer, sequences)
        for change, original, changed in zip(part, likeliest[::2], likeliest[1::2], strict=True):
            span = locator.locate(list(change.response))
            first = len(change.prompt) - 1
            content = slice(first + span.content_start, first + span.content_end)
            moved.append(not torch.equal(original[content], changed[content]))
    return moved

"""Responses of a policy whose truth is known by construction: drawn, as rows of a model, and by sets of tokens.

Between annotate.py and what scores them, credit.py and hop_variants.py.
"""

import random
from dataclasses import dataclass

import torch

from grail_verl.credit.answer import AnswerLocator, AnswerSpan
from grail_verl.credit.rows import Row, Targets, targets_of
from recipes.study import intervention
from recipes.study.annotate import Annotation, annotate, annotation_of
from recipes.study.segments import Reading
from recipes.study.tasks import TASKS

ROWS = 128  # at a time


@dataclass(frozen=True)
class Response:
    """A response that has the task's form: `tokens` with the one that ends it."""

    prompt: list[int]
    tokens: list[int]
    annotation: Annotation
    answer: AnswerSpan
    correct: bool

    @property
    def mistakes(self) -> list[int]:
        """The tokens at which results that the answer rests on depart from the right ones."""
        return self.annotation.tokens("step", wrong=True)


def sample(model, tokenizer, task_name: str, wanted: int, most: int, seed: int) -> tuple[list[Response], dict]:
    """Responses to held-out problems at temperature 1: the first `wanted` wrong and correct ones, of `most` at most,
    and the counts of all that were drawn."""
    task, locator, rng = TASKS[task_name], AnswerLocator(tokenizer), random.Random(seed)
    torch.manual_seed(seed)
    counts = dict.fromkeys(("drawn", "in form", "correct", "only the answer wrong"), 0)
    kept: dict[bool, list[Response]] = {False: [], True: []}
    while counts["drawn"] < most and min(map(len, kept.values())) < wanted:
        problems = [task.draw_problem(rng, validation=True) for _ in range(2 * ROWS)]
        chats = [[{"role": "user", "content": problem}] for problem in problems]
        prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
        sampled = intervention.generate(model, tokenizer, prompts, task.response_tokens, sample=True)
        for problem, prompt, tokens in zip(problems, prompts, sampled, strict=True):
            counts["drawn"] += 1
            ended = tokens[-1] == tokenizer.eos_token_id
            pieces = [tokenizer.decode([token], skip_special_tokens=True) for token in tokens[:-1]]
            annotation = annotate(task_name, problem, pieces) if ended else None
            if annotation is None:
                continue
            answer = locator.locate(tokens)
            written = "".join(pieces[answer.content_start : answer.content_end])
            response = Response(prompt, tokens, annotation, answer, task.score(written, problem) == 1)
            counts["in form"] += 1
            counts["correct"] += response.correct
            counts["only the answer wrong"] += not response.correct and not response.mistakes
            if response.correct or response.mistakes:
                kept[response.correct].append(response)
    for which, correct in (("wrong, used", False), ("correct, used", True)):
        counts[which] = len(kept[correct][:wanted])
    return [response for group in kept.values() for response in group[:wanted]], counts


def worked(tokenizer, problem: str, reading: Reading) -> Response:
    """A solution that is given, in a response's place."""
    chat = [{"role": "user", "content": problem}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    tokens = tokenizer("".join(segment.text for segment, _ in reading)).input_ids
    annotation = annotation_of(reading, [tokenizer.decode([token]) for token in tokens])
    answer = AnswerLocator(tokenizer).locate(tokens)
    correct = not annotation.tokens("step", wrong=True)
    return Response(prompt, [*tokens, tokenizer.eos_token_id], annotation, answer, correct)


def row_of(response: Response, whole: bool = False, content: bool = False) -> Row:
    """Prompt and response up to the answer's end. In question are the answer's tokens, or all; of the answer is all of
    the box, or its content, with which the row then ends."""
    answer = response.answer
    start, end = (answer.content_start, answer.content_end) if content else (answer.start, answer.end)
    ids = torch.tensor(response.prompt + response.tokens[:end])
    return Row(ids, torch.arange(len(ids)), len(response.prompt), 0 if whole else start, start, temperature=1.0)


def in_batch(rows: list[Row]) -> tuple[dict[str, torch.Tensor], Targets]:
    """The model's inputs, (B, S) each, rows padded on the right as in engine_pass.py, and the tokens in question."""
    ids_BS = torch.nn.utils.rnn.pad_sequence([row.input_ids for row in rows], batch_first=True)
    mask_BS = torch.arange(ids_BS.shape[1]) < torch.tensor([[len(row)] for row in rows])
    targets = targets_of(rows, [(line, 0) for line in range(len(rows))], ids_BS.shape, "cpu")
    return {"input_ids": ids_BS, "attention_mask": mask_BS.long()}, targets


def relevance_sets(response: Response) -> dict[str, tuple[list[int], list[int]]]:
    """Tokens the answer rests on, and tokens nothing does: all; the results alone; those without the last step's."""
    tokens = response.annotation.tokens
    used, side = tokens("step", result=True), tokens("side", result=True)
    last = response.annotation.segment[used[-1]]
    return {
        "all": (tokens("step"), tokens("side") + tokens("filler")),
        "results": (used, side),
        "earlier results": ([token for token in used if response.annotation.segment[token] != last], side),
    }


def mistake_sets(response: Response) -> dict[str, tuple[list[int], list[int]]]:
    """The token at which the first wrong result departs from the right one, and others: all before the answer; results
    of steps; wrong results of side computations. Other tokens of wrong steps' results are neither. Beside it, as a
    measure of what a result gets for being one, all right results of steps, and what is no result."""
    annotation, tokens = response.annotation, response.annotation.tokens
    results, first = tokens("step", result=True), response.mistakes[:1]
    right = [token for token in results if not annotation.segments[annotation.segment[token]].mistake]
    others = [token for token in range(response.answer.start) if token in right or token not in results]
    return {
        "all": (first, others),
        "results": (first, right),
        "right results": (right, [token for token in others if not annotation.result[token]]),
        "wrong side results": (first, tokens("side", wrong=True)),
    }


def groups(response: Response) -> dict[str, list[int]]:
    """Tokens before the answer that are told apart; none of a group is no tokens. Results of steps also go by how many
    steps come behind them."""
    annotation, tokens = response.annotation, response.annotation.tokens
    of_depth: dict[int, list[int]] = {}
    for token in tokens("step", result=True):
        of_depth.setdefault(annotation.segment[token], []).append(token)
    return {
        "reasoning": list(range(response.answer.start)),
        "used": tokens("step"),
        "side": tokens("side"),
        "filler": tokens("filler"),
        "used results": tokens("step", result=True),
        "side results": tokens("side", result=True),
        "first mistake": response.mistakes[:1],
        "wrong side results": tokens("side", wrong=True),
        **{f"result, {depth} behind it": of_step for depth, of_step in enumerate(reversed(of_depth.values()))},
    }

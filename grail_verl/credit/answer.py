r"""Where the final answer stands in a response: the tokens of its `\boxed{...}`.

On the data's way: options → response tokens → *answer span* → saliency → weights. The span is found in the
bytes of the tokens that were really sampled, and nothing is ever encoded again: encoding the decoded text
gives back the canonical tokens, which are not always those the policy chose, and " \" is often one token,
so that a re-encoded `\boxed{` starts in another place. Bytes rather than characters, because a token may
hold half of one; `\boxed`, `{` and `}` are ASCII, whose bytes never occur inside a longer UTF-8 character,
however broken the text around them is.

What is an answer follows what the graders (verl's math_reward, math-verify) read as one:

- Every `{` and `}` counts, `\{` and `\}` too: `\boxed{\{3\}}` is complete, `\boxed{\{3}` is not.
- White space may stand between `\boxed` and `{`. `\boxed 5` and `\fbox{5}` are no answers.
- An unclosed `\boxed{` hides no complete one before, behind or inside it.
- First and last go by where a box begins: of boxes inside each other the outer one is the first and the
  innermost the last, the one that graders read.
- A box of which the policy wrote no token, but a tool or a user did, is not its answer.
- Special tokens (padding, end of sequence, unknown) and ids outside the vocabulary have no text, as in
  `decode(ids, skip_special_tokens=True)`, the text that is graded. Inside an expression they belong to it.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

OCCURRENCES = ("first", "last")

_BRACE = re.compile(rb"\\boxed\s*\{|[{}]")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PROBE = "So 2 {x} \\boxed\n{42} é☃"


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """Half-open token ranges into a response; start <= content_start <= content_end <= end.

    [start, end) is every token that overlaps the expression. [content_start, content_end) is those strictly
    inside the braces, possibly none: a token that straddles a brace is not content.
    """

    start: int
    end: int
    content_start: int
    content_end: int


class AnswerLocator:
    r"""Finds the first or last complete `\boxed{...}` of a response.

    Args:
        tokenizer: a Hugging Face tokenizer whose tokens have bytes of their own: byte-level BPE or
            SentencePiece, with or without byte fallback, fast, or slow over a `sp_model`.
        occurrence: "first" or "last".

    Raises:
        TypeError: the tokenizer is of another kind (WordPiece, for one: its text is not its tokens joined).
        ValueError: occurrence is neither, or the bytes found do not spell what the tokenizer decodes.
    """

    def __init__(self, tokenizer, occurrence: str = "last"):
        if occurrence not in OCCURRENCES:
            raise ValueError(f"answer.occurrence is {occurrence!r}, must be one of {', '.join(OCCURRENCES)}")
        self.occurrence = occurrence
        self._table = _token_bytes(tokenizer)
        self._special = {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._verify(tokenizer)

    def locate(self, response_ids: list[int], response_mask: list[int] | None = None) -> AnswerSpan | None:
        """Args:
            response_ids: the sampled tokens; padding and special tokens may stand anywhere.
            response_mask: 0 where the policy did not write the token, but a tool or a user did; None if it wrote
                all. A box without a token of the policy's is not its answer.

        Returns:
            The answer's tokens as indices into response_ids, None if there is no complete answer.

        Raises:
            TypeError: an id is no integer.
        """
        pieces = self._pieces(response_ids)
        text = b"".join(pieces)
        boxes = complete_boxes(text)
        if boxes and response_mask is not None:
            own = b"".join(bytes([mask]) * len(piece) for piece, mask in zip(pieces, response_mask, strict=True))
            boxes = [box for box in boxes if own.find(1, box[0], box[2] + 1) >= 0]
        if not boxes:
            return None
        start, left, right = min(boxes) if self.occurrence == "first" else max(boxes)
        # From the end, where answers stand. A token without text holds no byte: the walk never stops at one.
        token, begin, holders = len(pieces), len(text), []
        for byte in (right, left, start):
            while begin > byte:
                token -= 1
                begin -= len(pieces[token])
            holders.append(token)
        right_token, left_token, start_token = holders
        return AnswerSpan(
            start=start_token,
            end=right_token + 1,
            content_start=left_token + 1,
            content_end=max(left_token + 1, right_token),  # both braces may lie in one token
        )

    def texts(self, response_ids: list[int]) -> list[str]:
        """The text of each token, as a reader sees it; joined, that of the response. A character is with the token
        that completes it, bytes that are none become U+FFFD, special tokens are as they are written."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        texts = [
            decoder.decode(self._special[token_id].encode() if token_id in self._special else piece)
            for token_id, piece in zip(response_ids, self._pieces(response_ids), strict=True)
        ]
        if texts:
            texts[-1] += decoder.decode(b"", final=True)
        return texts

    def _pieces(self, ids: list[int]) -> list[bytes]:
        size = len(self._table)
        try:
            if min(ids, default=0) >= 0:
                return list(map(self._table.__getitem__, ids))
        except IndexError:  # models pad their vocabularies
            pass
        return [self._table[token_id] if 0 <= token_id < size else b"" for token_id in ids]

    def _verify(self, tokenizer) -> None:
        """A probe's bytes must be what the tokenizer itself decodes, the text that is graded. That is not always the
        probe: a vocabulary may lack its characters, a normalizer may change them."""
        ids = tokenizer.encode(_PROBE, add_special_tokens=False)
        ours = b"".join(self._pieces(ids)).decode("utf-8", errors="replace")
        theirs = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # SentencePiece puts a space before the text; decoders may take it away again.
        if ours.strip() != theirs.strip():
            raise ValueError(
                f"the tokens of {type(tokenizer).__name__} do not spell its text: {_PROBE!r} decodes to "
                f"{theirs!r}, but the bytes of its tokens are {ours!r}; no answer could be located in them"
            )


def _token_bytes(tokenizer) -> list[bytes]:
    """Token id → the token's bytes, in a list: a dict of 150,000 entries takes twice the time to look up."""
    to_bytes = _piece_reader(tokenizer)
    vocabulary = tokenizer.get_vocab()
    table = [b""] * (max(vocabulary.values()) + 1)
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    for piece, token_id in vocabulary.items():
        if token_id not in special:
            table[token_id] = to_bytes(piece)
    return table


def _piece_reader(tokenizer) -> Callable[[str], bytes]:
    """The function from a vocabulary entry to its bytes that fits the tokenizer's decoder."""
    if hasattr(tokenizer, "sp_model"):  # some decode with it, bytes too; others write a byte as its piece, <0x0A>
        line_break = tokenizer.get_vocab().get("<0x0A>")
        written = line_break is not None and tokenizer.decode([line_break]) == "<0x0A>"
        return _metaspace_bytes if written else _sentencepiece_bytes
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    steps = [] if decoder is None else list(_steps(json.loads(decoder.__getstate__())))
    kinds = {step["type"] for step in steps}
    if all(map(_is_understood, steps)):
        # Before the others: a tokenizer read from a GGUF file has SentencePiece's steps in front of this one.
        if "ByteLevel" in kinds:
            return _byte_level_bytes
        if kinds & {"Replace", "Metaspace"}:
            return _sentencepiece_bytes if "ByteFallback" in kinds else _metaspace_bytes
    kinds_in_words = " + ".join(step["type"] for step in steps) or "unknown"
    raise TypeError(
        f"cannot tell which bytes the tokens of {type(tokenizer).__name__} stand for: byte-level BPE and "
        f"SentencePiece are supported, its decoder is {kinds_in_words}"
    )


def _steps(decoder: dict) -> Iterator[dict]:
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _is_understood(step: dict) -> bool:
    match step:
        case {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}:
            return True
        case {"type": "Metaspace", "replacement": "▁"}:
            return True
        case {"type": kind}:
            return kind in ("ByteLevel", "ByteFallback", "Fuse", "Strip")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for themselves, U+0100 and on for other bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _byte_level_bytes(piece: str) -> bytes:
    try:
        return bytes(map(_BYTE_OF.__getitem__, piece))
    except KeyError:  # an added token outside the alphabet: the decoder, too, takes it as it is written
        return piece.encode()


def _metaspace_bytes(piece: str) -> bytes:
    return piece.replace("▁", " ").encode()


def _sentencepiece_bytes(piece: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else _metaspace_bytes(piece)


def complete_boxes(text: bytes) -> list[tuple[int, int, int]]:
    r"""The complete boxes of a text in UTF-8, as byte offsets of `\`, `{` and `}`, in one pass whatever the text; the
    last one is their maximum."""
    start = text.find(b"\\boxed")
    if start < 0:
        return []
    opened, boxes = [], []
    for match in _BRACE.finditer(text, start):
        if match[0] != b"}":
            opened.append(match.span() if len(match[0]) > 1 else None)  # None: a brace that opens no box
        elif opened and (box := opened.pop()):
            boxes.append((box[0], box[1] - 1, match.start()))
    return boxes

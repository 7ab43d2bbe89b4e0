"""Real tokenizers, trained here on a few lines of text, and what their tokens spell.

One of each kind that answers are located in, each with two added tokens: `<think>`, which is text, and
`<tool>`, which is special. What a token spells is asked of the tokenizer itself, by decoding it between two
others, never of grail_verl.
"""

import io
import json
import os
import tempfile
from functools import cache

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GemmaTokenizer, GPTSw3Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend, SentencePieceExtractor

CORPUS = [
    r"So the answer is \boxed{42}. Then x = \frac{1}{2} and \boxed{\frac{3}{4}}.",
    r"We get $\boxed{-7}$, {a} and \{b\}, hence \boxed {5}, \fbox{6}.",
    "café naïve 漢字 🙂 2 x é 42",
] * 30
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
ADDED = [AddedToken("<think>", special=False, normalized=False), AddedToken("<tool>", special=True)]


def _byte_level_bpe(split: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level_of(pieces: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows every byte and the given pieces, to spell a response as one likes."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = [byte_level.pre_tokenize_str(piece)[0][0] for piece in pieces]
    vocabulary = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *known])
    ids = {piece: n for n, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def _sentencepiece(kind: str, byte_fallback: bool, folder: str) -> str:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type=kind,
        byte_fallback=byte_fallback,
        vocab_size=420 if byte_fallback else 140,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path = os.path.join(folder, "tokenizer.model")
    with open(path, "wb") as file:
        file.write(model.getvalue())
    return path


def qwen2():
    trained = _byte_level_bpe(QWEN2_SPLIT)
    model = json.loads(trained.to_str())["model"]
    return Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def llama3():
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(LLAMA3_SPLIT), bos_token="<|begin|>", eos_token="<|end|>"
    )


def llama2():
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, _, merges = SentencePieceExtractor(_sentencepiece("bpe", True, folder)).extract()
    return LlamaTokenizer(vocab=vocabulary, merges=merges)


def gemma():
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, _, merges = SentencePieceExtractor(_sentencepiece("bpe", True, folder)).extract()
    return GemmaTokenizer(vocab=vocabulary, merges=merges)


def unigram():
    """SentencePiece without byte fallback: what it does not know is `<unk>`."""
    with tempfile.TemporaryDirectory() as folder:
        _, scores, _ = SentencePieceExtractor(_sentencepiece("unigram", False, folder)).extract()
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def slow():
    """The SentencePiece model itself, without the tokenizers library."""
    with tempfile.TemporaryDirectory() as folder:
        return SentencePieceBackend(
            vocab_file=_sentencepiece("unigram", True, folder),
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
        )


def slow_bytes():
    """The same, decoding by that model, which makes bytes of pieces such as <0x0A>."""
    with tempfile.TemporaryDirectory() as folder:
        return GPTSw3Tokenizer(vocab_file=_sentencepiece("unigram", True, folder))


BUILDERS = {builder.__name__: builder for builder in (qwen2, llama3, llama2, gemma, unigram, slow, slow_bytes)}
EXACT = ("qwen2", "llama3", "llama2", "gemma")  # fast, and able to spell any text: encoding gives offsets


@cache
def build(name: str):
    tokenizer = BUILDERS[name]()
    tokenizer.add_tokens(ADDED)
    return tokenizer


@cache
def spelling(name: str) -> dict[bytes, int]:
    """The bytes of the tokens that are whole characters, and of those that are one byte → their ids."""
    tokenizer = build(name)
    x = tokenizer.convert_tokens_to_ids("x")
    spelt = {}
    for piece, token_id in tokenizer.get_vocab().items():
        text = tokenizer.decode([x, token_id, x], skip_special_tokens=True)
        if not piece.startswith("<0x") and "\ufffd" not in text and len(text) > 2:
            spelt[text[1:-1].encode()] = token_id
    return spelt | _single_bytes(tokenizer)


def _single_bytes(tokenizer) -> dict[bytes, int]:
    """Tokens of one byte that is no character: byte fallback's, or those of the byte-level alphabet."""
    vocabulary = tokenizer.get_vocab()
    if "<0x00>" in vocabulary:
        return {bytes([byte]): vocabulary[f"<0x{byte:02X}>"] for byte in range(128, 256)}
    if "Ġ" not in vocabulary:
        return {}
    byte_level, found = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), {}
    for char in map(chr, (*range(1, 0x800), *range(0x800, 0xD800, 64), *range(0x10000, 0x110000, 0x10000))):
        written = byte_level.pre_tokenize_str(char)[0][0]
        found |= {bytes([byte]): vocabulary[sign] for byte, sign in zip(char.encode(), written)}
    return found

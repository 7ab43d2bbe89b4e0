"""What `grail-verl attribute` tells of each token beside its weight, and of two rules on the same responses; text that
the tokenizer has no token for."""

import io
import itertools
import json
import math
from statistics import mean

import by_hand
import numpy as np
import pytest
import tokenizers_for_tests
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from grail_verl.__main__ import main
from grail_verl.look import records
from grail_verl.look.agreement import rank_correlation, top_in_common
from grail_verl.look.attribute import attribute
from grail_verl.look.encoding import encode
from grail_verl.look.rollouts import Rollout
from grail_verl.look.rules import options_of, presets

pytestmark = pytest.mark.fast

PROMPT, RESPONSE = "3 + 4 - 9 =", r"3 + 4 = 7, 7 - 9 = 8, \boxed{8}. Done"


def ids_of(tokenizer) -> tuple[torch.Tensor, int]:
    prompt_ids = tokenizer.encode(PROMPT)
    return torch.tensor([*prompt_ids, *tokenizer.encode(RESPONSE)]), len(prompt_ids)


def test_each_hop_is_there_and_the_score_is_their_sum(model, tokenizer):
    found = attribute(PROMPT, RESPONSE, model, tokenizer, hops=3, temperature=0.8)
    ids, prompt_length = ids_of(tokenizer)
    answer, length = range(found.answer.start, found.answer.end), found.answer.end
    sums = [by_hand.hops(model, ids, prompt_length, answer, length, count, 0.8) for count in range(4)]
    for hop in range(4):
        before = sums[hop - 1] if hop else [0.0] * length
        expected = [total - less for total, less in zip(sums[hop], before)] + [0.0] * (len(found.tokens) - length)
        assert found.channels[f"hop {hop}"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert found.score == pytest.approx([sum(hops) for hops in zip(*(found.channels[f"hop {k}"] for k in range(4)))])
    said = found._repr_html_()
    shares = [sum(found.channels[f"hop {hop}"][: answer.start]) for hop in range(4)]
    for name, share in zip(("hop 0", "hop 1", "hop 2", "hop 3", "their sum"), [*shares, sum(shares)], strict=True):
        assert f"{name}, {share:.2f} of it before the answer" in said


@pytest.mark.parametrize(
    ("hops", "lines"), [(0, ["saliency", "surprise"]), (1, ["hop 0", "hop 1", "their sum", "surprise"])]
)
def test_a_product_shows_each_factor_under_its_own_title(model, tokenizer, hops, lines):
    """The hops' sum is the factor saliency. What a token's −log p is stands there for no other rule."""
    found = attribute(PROMPT, RESPONSE, model, tokenizer, score=["saliency", "surprise"], hops=hops)
    console = Console(width=200, file=io.StringIO())
    console.print(found)
    said = console.file.getvalue().splitlines()
    assert said[0] == PROMPT and said[2::2] == [RESPONSE] * (1 + len(lines))
    assert [title.partition(",")[0] for title in said[3::2]] == lines
    assert said[1].startswith(f"{len(found.tokens)} tokens; weights before the answer ")
    top = max(found.channels["surprise"][: found.answer.start])
    assert said[-2] == f"surprise, a factor, up to {top:.2f} before the answer"
    alone = attribute(PROMPT, RESPONSE, model, tokenizer, hops=hops)
    assert "surprise" in alone.channels and "surprise" not in alone._repr_html_()


@pytest.mark.parametrize("options", [{}, {"score": "surprise"}, {"score": ["saliency", "surprise"], "hops": 1}])
def test_surprise_and_entropy_are_there_unless_they_are_the_score(model, tokenizer, options):
    found = attribute(PROMPT, RESPONSE, model, tokenizer, temperature=0.8, **options)
    for name in ("surprise", "entropy"):
        expected = getattr(by_hand, name)(model, *ids_of(tokenizer), 0.8)
        values = found.score if options.get("score") == name else found.channels[name]
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-6)
    factors = {"saliency", "hop 0", "hop 1"} if "hops" in options else set()
    score = {options["score"]} if isinstance(options.get("score"), str) else set()
    assert found.channels.keys() == {"surprise", "entropy"} - score | factors
    if factors:
        product = [one * other for one, other in zip(found.channels["saliency"], found.channels["surprise"])]
        assert found.score == pytest.approx(product, rel=1e-4, abs=1e-9)


def test_rules_are_presets_options_or_both():
    assert presets()["grail"] == {} and {"carried", "surprise", "oar_g", "high_entropy", "paper"} < presets().keys()
    carried = options_of(["carried"])
    assert (carried["score"], carried["hops"], carried["weights"]) == (["saliency", "surprise"], 3, "proportional")
    shared = options_of(["carried", "total=2"], ["rollouts=all", "total=3"])
    assert shared == {**carried, "rollouts": "all", "total": 2}  # its own beat the shared, the shared the preset's
    assert options_of([], ["score=[saliency,surprise]"]) == {"score": ["saliency", "surprise"]}
    with pytest.raises(ValueError, match=r"--rule 'cpu' is not allowed; allowed: grail \| carried \| "):
        options_of(["cpu"])  # a preset, but of no rule


LINES = [
    {"prompt": PROMPT, "response": RESPONSE, "reward": 0},
    {"prompt": PROMPT, "response": r"3 + 4 = 7, so \boxed{-2}", "reward": 1},
    {"prompt": "1", "response": "no answer", "reward": 0},
]


def attributed(policy, folder, *arguments) -> records.Records:
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    out = folder / "out"
    main(["attribute", policy, "--rollouts", str(folder / "lines.jsonl"), "--out", str(out), *arguments])
    return records.read(out)


def test_two_rules_are_each_what_they_are_alone(policy, tmp_path, capsys):
    both = attributed(policy, tmp_path, "--rule", "grail std=1.0", "--rule", "carried hops=2", "rollouts=all")
    assert "3 responses, 2 and 2 weighted" in capsys.readouterr().out.replace("\n", " ")
    settings = both.settings
    assert (settings["name"], settings["second"]["name"]) == ("grail std=1.0", "carried hops=2")
    assert settings["options"]["std"] == 1.0 and settings["second"]["options"]["hops"] == 2
    assert settings["bounds"] == [0.5, 5.0] and settings["second"]["bounds"] is None
    alone = []
    for place, rule in enumerate(("grail std=1.0", "carried hops=2")):
        (tmp_path / str(place)).mkdir()
        alone.append(attributed(policy, tmp_path / str(place), "--rule", rule, "rollouts=all"))
        assert "name" not in alone[place].settings and "second" not in alone[place].responses[0]
    for found, first, second in zip(both.responses, alone[0].responses, alone[1].responses, strict=True):
        names = ("score", "weight", "weighted")
        assert [found[name] for name in names] == [first[name] for name in names]
        assert [found["second"][name] for name in names] == [second[name] for name in names]
        assert found["channels"] == first["channels"]
        assert found["second"].get("channels", {}) == without_policys(second["channels"])


def without_policys(channels: dict) -> dict:
    """What is the rule's own, not the same by any."""
    return {name: values for name, values in channels.items() if name not in ("surprise", "entropy")}


@pytest.mark.parametrize("rules", [("hops=1", "hops=2 leaf=last"), ("hops=2 leaf=last", "hops=1")])
def test_hops_from_two_leaves_are_each_rules_own(policy, tmp_path, rules):
    both = attributed(policy, tmp_path, "--rule", rules[0], "--rule", rules[1], "rollouts=all").responses[0]
    of_rules = both["channels"], both["second"]["channels"]
    for rule, found in zip(rules, of_rules, strict=True):
        alone = attribute(PROMPT, RESPONSE, policy, **options_of(rule.split()))
        hops = {name: values for name, values in alone.channels.items() if name.startswith("hop ")}
        assert {name for name in found if name.startswith("hop ")} == hops.keys()
        for name, values in hops.items():
            assert found[name] == pytest.approx(values, rel=1e-3, abs=1e-6)
    assert of_rules[0]["hop 0"] != of_rules[1]["hop 0"]


def test_what_is_the_score_of_the_first_rule_is_there_by_the_second(policy, tmp_path):
    """−log p is the policy's, whichever rule told it."""
    both = attributed(policy, tmp_path, "--rule", "surprise", "--rule", "carried hops=0", "rollouts=all").responses[0]
    assert both["channels"]["surprise"] == pytest.approx(both["score"], rel=1e-3)
    assert both["second"]["channels"].keys() == {"saliency"}


def test_the_command_shows_both_rules_on_one_response(policy, capsys):
    main(["attribute", policy, "--prompt", PROMPT, "--response", RESPONSE, "--rule", "grail", "--rule", "surprise"])
    said = capsys.readouterr().out
    assert said.count(RESPONSE) == 2 and "\nsurprise\n" in said
    one, other = (attribute(PROMPT, RESPONSE, policy, **options_of([name])) for name in ("grail", "surprise"))
    start = one.answer.start
    expected = spearmanr(one.weight[:start], other.weight[:start]).statistic
    assert f"The two rules: rank correlation of their weights before the answer {expected:.2f}; of the top" in (
        said.replace("\n", " ")
    )


def test_rules_that_do_not_fit_end_in_a_line(policy, tmp_path, capsys):
    one = ["attribute", policy, "--prompt", "a", "--response", "b"]
    for rules, says in (
        (["carrid"], r"--rule 'carrid' is not allowed"),
        (["surprise leaf=last"], "--rule 'surprise leaf=last': algorithm.grail.leaf='last' has no effect"),
        (["grail std=-1", "surprise"], "--rule 'grail std=-1': algorithm.grail.std=-1 is not allowed"),
        (["surprise 'total=2"], "No closing quotation"),
        ([""], "--rule '' is not allowed"),
        (["grail", " "], "--rule ' ' is not allowed"),
        (["+grail=oar_g"], r"--rule '\+grail=oar_g' is not allowed; allowed: grail \| carried"),
        (["high_entropy", "grail=oar_g"], "--rule 'grail=oar_g' is not allowed"),
        (
            ["grail", "surprise occurrence=first"],  # records have one answer, up to which both are compared
            "--rule 'surprise occurrence=first': algorithm.grail.occurrence='first' is not allowed beside 'last' of "
            "--rule 'grail'; allowed: the same answer for both",
        ),
    ):
        with pytest.raises(SystemExit, match=f"^grail-verl attribute: .*{says}"):
            main([*one, *itertools.chain(*(["--rule", rule] for rule in rules))])
    shared = [*one, "--rule", "grail", "--rule", "oar_g", "rollouts=all"]
    with pytest.raises(SystemExit, match="^grail-verl attribute: --rule 'oar_g': algorithm.grail.rollouts='all' has "):
        main(shared)
    with pytest.raises(SystemExit, match="^grail-verl attribute: (?!--rule).*temperature"):  # no rule's
        main([*shared[:-1], "--temperature", "0"])
    with pytest.raises(SystemExit):
        main([*one, *["--rule", "grail"] * 3])
    assert "--rule is there 3 times; allowed: once or twice" in capsys.readouterr().err


weights = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=7)


@given(weights)
def test_agreement_is_spearmans_and_that_of_the_tops_however_ties_are_broken(pairs):
    one, other = (np.array(side, dtype=float) for side in zip(*pairs))
    found = rank_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(one, other).statistic, abs=1e-9)

    count = math.ceil(len(one) / 5)

    def share_in_top(values) -> list[float]:
        """Of all orders that the weights allow, those in which a token is among the first."""
        orders = {
            order[:count]
            for order in itertools.permutations(range(len(values)))
            if all(values[a] >= values[b] for a, b in itertools.pairwise(order))
        } if len(values) < 6 else None  # fmt: skip
        if orders is None:
            above = [sum(value > each for value in values) for each in values]
            same = [sum(value == each for value in values) for each in values]
            return [min(1.0, max(0.0, (count - a) / s)) for a, s in zip(above, same)]
        return [mean(float(place in order) for order in orders) for place in range(len(values))]

    expected = sum(map(min, share_in_top(one), share_in_top(other))) / count
    assert top_in_common(one, other) == pytest.approx(expected)


def test_of_nothing_there_is_no_agreement():
    assert rank_correlation(np.array([]), np.array([])) is top_in_common(np.array([]), np.array([])) is None


def byte_level_without_all_bytes() -> PreTrainedTokenizerFast:
    """As the quick start's: it knows the bytes of sums and the first of é, and drops what it does not know."""
    signs = bytes_to_unicode()
    known = sorted({signs[byte] for byte in b"0123456789 +-=\n" + "é".encode()[:1]})
    backend = Tokenizer(models.BPE(vocab={sign: place for place, sign in enumerate(known)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


def test_text_that_the_tokenizer_has_no_token_for_is_refused(model):
    """Dropped, half dropped, or replaced by the token for the unknown."""
    for tokenizer, well, text, lost in (
        (byte_level_without_all_bytes(), "3 + 4 =\n", "7 € or ☃", "'€or☃'"),
        (byte_level_without_all_bytes(), "3", "7é", "some of the bytes"),
        (tokenizers_for_tests.build("unigram"), "So 2", "So ☃", "☃'"),
    ):
        for prompt, response, where in ((well, text, "response 0"), (text, well, "prompt 0")):
            with pytest.raises(ValueError, match=f"^{where} has text that this tokenizer has no token for: .*{lost}"):
                attribute(prompt, response, model, tokenizer)


@pytest.mark.parametrize("name", tokenizers_for_tests.BUILDERS)
def test_half_a_character_is_refused(name):
    """As JSON can spell one, and a shell hands over bytes that are no text."""
    with pytest.raises(ValueError, match=r"^response 0 has text .* has no token for: '\\ud800\\udcff'"):
        encode([Rollout("So", "2 \ud800 = \udcff2")], tokenizers_for_tests.build(name))


@pytest.mark.parametrize("name", tokenizers_for_tests.BUILDERS)
def test_text_that_has_its_tokens_is_taken(name):
    """Spaces that offsets leave out, letters of several tokens and special tokens among it; where the tokenizer
    composes letters, the mark that goes into one too."""
    tokenizer = tokenizers_for_tests.build(name)
    text = "So café  naïve\n2 = 42 " + ("" if name in ("unigram", "slow") else "漢字 🙂 ") + tokenizer.eos_token
    ((one,),) = [encode([Rollout("So", text)], tokenizer)]
    assert one.response_ids == tokenizer.encode(text, add_special_tokens=False)
    if name in tokenizers_for_tests.EXACT:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
        encode([Rollout("So", "cafe\u0301")], tokenizer)

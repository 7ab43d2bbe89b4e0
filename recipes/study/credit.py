"""Does the credit land on what matters? One cell of the benchmark: a policy and a task in, results as JSON out.

    python -m recipes.study.credit chains outputs/study/chains/policy outputs/study/credit/cell.json

The policy answers held-out problems. annotate.py says which tokens the answer rests on and which step went wrong first,
intervention.py what happens to the answer when a token is changed; here every token gets its scores and weights, and
AUC, mean rank and interval say how well they tell the one from the other. credit_cells.py runs the cells one after the
other, figures_credit.py draws them.

A figure is the mean over responses of what is worked out within each, [mean, low, high], with a 95 % bootstrap interval
over responses. Scores by name:

    grail/LEAF/ALIGNMENT      norm of gradient × activation, GRAIL's
    gradient/LEAF/ALIGNMENT   norm of the gradient
    support/LEAF/ALIGNMENT    −Σ gradient · activation: to first order, what the answer's log-probability would lose
                              were the activation 0; above 0 the token speaks for the response's answer
    product/LEAF/ALIGNMENT    its absolute value
    activation/LEAF/ALIGNMENT −norm of the activation, no gradient: a control, since behind a normalisation a gradient
                              is the larger the smaller its activation
    oar_g                     OAR-G's
    entropy, surprise         of the distribution that the token was drawn from; the token's −log p
    hops/K                    GRAIL's at the embeddings, carried back by K hops, at the token's own position
    surprise × grail/…, hops/K    the product of the two
    position, random          place in the response, 0 first; a number drawn for each token
    weight/LEAF/ALIGNMENT/STATISTICS, weight/oar_g    what training multiplies advantages with
    carried                   carried.py's, of the responses whose tokens are changed
"""

import argparse
import datetime
import json
import platform
import random
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import grail_verl
from grail_verl import GrailConfig
from grail_verl.credit.answer import AnswerLocator, AnswerSpan
from grail_verl.credit.config import CHOICES, HOPS
from grail_verl.credit.leaf import evaluating, leaf_gradient
from grail_verl.credit.rows import Row, targets_of
from grail_verl.credit.rule import Rule
from grail_verl.credit.scores.hops import hop_scores
from grail_verl.evaluation.bootstrap import intervals
from recipes.study import intervention
from recipes.study.annotate import Annotation, annotate
from recipes.study.carried import carried_saliency
from recipes.study.policy import TASKS, task_module

LEAVES, ALIGNMENTS, STATISTICS = (CHOICES[name] for name in ("leaf", "alignment", "statistics"))
OAR_G = GrailConfig(score="oar_g", weights="reshaped")
ROWS = 128  # at a time
RESAMPLES = 1000


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
    task, locator, rng = task_module(task_name), AnswerLocator(tokenizer), random.Random(seed)
    torch.manual_seed(seed)
    counts = dict.fromkeys(("drawn", "in form", "correct", "only the answer wrong"), 0)
    kept: dict[bool, list[Response]] = {False: [], True: []}
    while counts["drawn"] < most and min(map(len, kept.values())) < wanted:
        problems = [task.draw_problem(rng, validation=True) for _ in range(2 * ROWS)]
        chats = [[{"role": "user", "content": problem}] for problem in problems]
        prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
        sampled = intervention.generate(model, tokenizer, prompts, task.RESPONSE_TOKENS, sample=True)
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


def token_scores(model, responses: list[Response], rng: np.random.Generator) -> tuple[list[str], list[np.ndarray]]:
    """Names of K scores, and (K, tokens up to the answer's end) for each response. In rows as of engine_pass.py:
    prompt and response up to the answer's end, padded on the right."""
    found: list[np.ndarray] = []
    for start in range(0, len(responses), ROWS):
        part = responses[start : start + ROWS]
        rows = [row_of(response) for response in part]
        ids_BS = torch.nn.utils.rnn.pad_sequence([row.input_ids for row in rows], batch_first=True)
        lengths_B1 = torch.tensor([[len(row)] for row in rows])
        mask_BS = torch.arange(ids_BS.shape[1]) < lengths_B1
        inputs = {"input_ids": ids_BS, "attention_mask": mask_BS.long()}
        targets = targets_of(rows, [(line, 0) for line in range(len(rows))], ids_BS.shape, "cpu")

        def loss(output, labels=targets.labels_N):
            return F.cross_entropy(output.logits, labels, reduction="sum")

        by_place = {}  # (B, S) scores of input positions
        with evaluating(model):
            for leaf in LEAVES:
                activation, gradient = leaf_gradient(model, inputs, targets.keep_BS, loss, leaf)
                by_place[f"grail/{leaf}"] = (gradient * activation).norm(dim=-1)
                by_place[f"gradient/{leaf}"] = gradient.norm(dim=-1)
                by_place[f"support/{leaf}"] = -(gradient * activation).sum(dim=-1)
                by_place[f"product/{leaf}"] = by_place[f"support/{leaf}"].abs()
                by_place[f"activation/{leaf}"] = -activation.norm(dim=-1)
            whole = targets_of(
                [replace(row, target_start=0) for row in rows], [(line, 0) for line in range(len(rows))],
                ids_BS.shape, "cpu",
            )
            hops_BS = {f"hops/{hops}": hop_scores(model, inputs, whole, hops) for hops in range(1, HOPS + 1)}
            oar_g_BS = Rule(OAR_G).scores[0].from_model(model, inputs, targets, lambda: False, 1.0)
            with torch.no_grad():
                logprobs_BSV = model(**inputs, use_cache=False).logits.log_softmax(dim=-1)
        entropy_BS = -(logprobs_BSV.exp() * logprobs_BSV).sum(dim=-1)
        surprise_BS = -logprobs_BSV.gather(-1, ids_BS.roll(-1, dims=1)[..., None])[..., 0]

        for row, response in enumerate(part):
            first, end = len(response.prompt), response.answer.end
            places = {"predictor": slice(first - 1, first - 1 + end), "token": slice(first, first + end)}
            scores = {
                f"{name}/{alignment}": values_BS[row, places[alignment]]
                for name, values_BS in by_place.items()
                for alignment in ALIGNMENTS
            }
            predicting = {"oar_g": oar_g_BS, "entropy": entropy_BS, "surprise": surprise_BS}
            scores |= {name: values_BS[row, places["predictor"]] for name, values_BS in predicting.items()}
            scores |= {name: values_BS[row, places["token"]] for name, values_BS in hops_BS.items()}
            scores |= {
                f"surprise × {name}": scores["surprise"] * scores[name]
                for name in (*(f"grail/embeddings/{alignment}" for alignment in ALIGNMENTS), *hops_BS)
            }
            scores |= {"position": np.arange(end), "random": rng.random(end)}
            found.append(np.stack([np.asarray(values, dtype=np.float64) for values in scores.values()]))
    return list(scores), found


def row_of(response: Response) -> Row:
    ids = torch.tensor(response.prompt + response.tokens[: response.answer.end])
    start = response.answer.start
    return Row(ids, torch.arange(len(ids)), len(response.prompt), start, start, temperature=1.0)


def token_weights(response: Response, names: list[str], scores_KT: np.ndarray) -> dict[str, np.ndarray]:
    """The weights that training would multiply the response's advantages with, were it reweighted, up to the answer's
    end."""
    behind = len(response.tokens) - response.answer.end
    mask_1T = torch.ones(1, len(response.tokens))
    answer_1T, content_1T = torch.zeros_like(mask_1T), torch.zeros_like(mask_1T)
    answer_1T[0, response.answer.start : response.answer.end] = 1
    content_1T[0, response.answer.content_start : response.answer.content_end] = 1
    settings = {
        f"weight/{leaf}/{alignment}/{statistics}": (
            f"grail/{leaf}/{alignment}",
            GrailConfig(leaf=leaf, alignment=alignment, statistics=statistics, rollouts="all"),
        )
        for leaf in LEAVES
        for alignment in ALIGNMENTS
        for statistics in STATISTICS
    } | {"weight/oar_g": ("oar_g", OAR_G)}
    weights = {}
    for name, (score, config) in settings.items():
        scores_1T = F.pad(torch.from_numpy(scores_KT[names.index(score)]).float(), (0, behind))[None]
        weights_1T = grail_verl.token_weights(
            scores_1T, mask_1T, answer_1T, content_1T, torch.full((1,), 1.0 if response.correct else -1.0), config
        )
        weights[name] = weights_1T[0, : response.answer.end].double().numpy()
    return weights


def separation(scores_KT: np.ndarray, positives: list[int], negatives: list[int]) -> np.ndarray:
    """How well K scores tell positives from negatives within a response: (3, K) of AUC, mean rank of the positives
    (1 the highest, ties share), and whether the highest of all is a positive and alone. NaN where either is missing."""
    if not positives or not negatives:
        return np.full((3, len(scores_KT)), np.nan)
    own_KP1 = scores_KT[:, positives][..., None]
    all_K1N = scores_KT[:, positives + negatives][:, None]
    above_KPN = (all_K1N > own_KP1) + 0.5 * (all_K1N == own_KP1)
    auc_K = 1 - above_KPN[..., len(positives) :].mean(axis=(1, 2))
    ranks_KP = 0.5 + above_KPN.sum(axis=-1)
    return np.stack([auc_K, ranks_KP.mean(axis=1), (ranks_KP == 1).any(axis=1)])


def summary(values: list[np.ndarray]) -> np.ndarray:
    """Mean, low and high end of the 95 % interval over the responses that have a value: (3, …)."""
    known = np.array([value for value in values if not np.isnan(value).any()])
    if len(known) < 2:
        return np.full((3, *np.shape(values[0])), np.nan)
    ends = intervals([known.reshape(len(known), -1)], RESAMPLES)[0]
    return np.concatenate([known.mean(axis=0)[None], ends.reshape(2, *known.shape[1:])])


def compare(names: list[str], scores: list[np.ndarray], sets: list[tuple[list[int], list[int]]]) -> dict:
    """What `separation` gives, over responses."""
    of_each = [separation(scores_KT, *positives_negatives) for scores_KT, positives_negatives in zip(scores, sets)]
    measures = ("auc", "mean_rank", "top")
    counted = [pair for pair in sets if all(pair)]
    found = summary(of_each) if of_each else np.full((3, 3, len(names)), np.nan)
    return {
        "responses": len(counted),
        "positives": sum(len(positives) for positives, _ in counted),
        "negatives": sum(len(negatives) for _, negatives in counted),
        "scores": {
            name: {measure: rounded(found[:, row, column]) for row, measure in enumerate(measures)}
            for column, name in enumerate(names)
        },
    }


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


def weight_sizes(responses: list[Response], weights: list[dict[str, np.ndarray]]) -> dict:
    """Of each weighting: each group's mean weight, and the share of tokens before the answer at the lower bound."""
    sizes = {}
    for name in weights[0]:
        of_name: dict[str, list] = {}
        for response, values in zip(responses, weights, strict=True):
            values, of_response = values[name], groups(response)
            reasoning = values[of_response["reasoning"]]
            of_name.setdefault("at the lower bound", []).append(np.mean(reasoning <= GrailConfig.w_min))
            for group, tokens in of_response.items():
                if tokens:
                    of_name.setdefault(group, []).append(values[tokens].mean())
        sizes[name] = {measure: rounded(summary(of_measure)) for measure, of_measure in of_name.items()}
    return sizes


def carry(model, responses: list[Response], names: list[str], scores: list[np.ndarray]) -> dict:
    """How carried saliency, alone and times the token's −log p, tells tokens apart; the two it is made of beside it."""
    beside = ("grail/embeddings/token", "surprise")
    with_carried = []
    for response, scores_KT in zip(responses, scores, strict=True):
        saliency_T, surprise_T = (scores_KT[names.index(name)] for name in beside)
        content = range(response.answer.content_start, response.answer.content_end)
        carried_T = carried_saliency(model, response.prompt, response.tokens[: response.answer.end], content)
        with_carried.append(np.stack([carried_T, carried_T * surprise_T, saliency_T, surprise_T]))
    of_names = ["carried", "surprise × carried", *beside]
    found = {}
    for question, sets_of in (("relevance", relevance_sets), ("mistake", mistake_sets)):
        rows = [row for row, response in enumerate(responses) if question == "relevance" or not response.correct]
        sets = [sets_of(responses[row]) for row in rows]
        found[question] = {
            name: compare(of_names, [with_carried[row] for row in rows], [of_row[name] for of_row in sets])
            for name in (sets[0] if sets else ())
        }
    return found


def intervene(model, tokenizer, responses: list[Response], limit: int, seed: int) -> list[list[tuple]]:
    """For each response [(token, moved when finished or None, moved when kept)], a change of each changeable token."""
    rng = random.Random(seed)
    of_response = [
        intervention.changes(tokenizer, response.prompt, response.tokens, response.answer.start, rng)
        for response in responses
    ]
    made = [change for changes in of_response for change in changes]
    finished = intervention.moved_when_finished(model, tokenizer, made, limit)
    verdicts = zip((change.at for change in made), finished, intervention.moved_when_kept(model, tokenizer, made))
    return [[next(verdicts) for _ in changes] for changes in of_response]


def moved_rates(responses: list[Response], verdicts: list[list[tuple]]) -> dict:
    """{way: {group: share of the changed tokens of the group that move the answer}}."""
    rates: dict[str, dict[str, list]] = {"finished": {}, "kept": {}}
    for response, of_response in zip(responses, verdicts, strict=True):
        for column, way in enumerate(rates, start=1):
            moved = {verdict[0]: verdict[column] for verdict in of_response if verdict[column] is not None}
            for group, tokens in groups(response).items():
                if known := [moved[token] for token in tokens if token in moved]:
                    rates[way].setdefault(group, []).append(np.mean(known))
    return {way: {group: rounded(summary(r)) for group, r in by_group.items()} for way, by_group in rates.items()}


def verdict_sets(response: Response, verdicts: list[tuple], column: int) -> dict[str, tuple[list[int], list[int]]]:
    """Changed tokens that moved the answer, and those that did not: all; the results alone."""
    known = [(verdict[0], verdict[column]) for verdict in verdicts if verdict[column] is not None]
    moved, unmoved = ([token for token, moved in known if moved == which] for which in (True, False))
    result = response.annotation.result
    return {
        "all": (moved, unmoved),
        "results": ([token for token in moved if result[token]], [token for token in unmoved if result[token]]),
    }


def rounded(values) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def measure(model, tokenizer, task_name: str, responses: list[Response], intervened: int, seed: int) -> dict:
    """The cell's results. intervened: of the responses, as many wrong and correct ones as there are."""
    names, scores = token_scores(model, responses, np.random.default_rng(seed))
    weights = [token_weights(response, names, of) for response, of in zip(responses, scores)]
    scores = [np.concatenate([of, np.stack(list(w.values()))]) for of, w in zip(scores, weights)]
    names = names + list(weights[0])

    def compared(rows: list[int], sets_of) -> dict:
        by_row = [sets_of(row) for row in rows]
        of_rows = [scores[row] for row in rows]
        return {name: compare(names, of_rows, [sets[name] for sets in by_row]) for name in by_row[0]} if rows else {}

    rows = {
        which: [row for row, response in enumerate(responses) if response.correct == correct]
        for which, correct in (("wrong", False), ("correct", True))
    }
    chosen = [row for of in rows.values() for row in of[: intervened // 2]]
    changed = [responses[row] for row in chosen]
    limit = task_module(task_name).RESPONSE_TOKENS
    verdicts = dict(zip(chosen, intervene(model, tokenizer, changed, limit, seed)))
    return {
        "relevance": {which: compared(of, lambda row: relevance_sets(responses[row])) for which, of in rows.items()},
        "mistake": compared(rows["wrong"], lambda row: mistake_sets(responses[row])),
        "weights": {
            which: weight_sizes([responses[row] for row in of], [weights[row] for row in of])
            for which, of in rows.items()
            if of
        },
        "carried": carry(model, changed, names, [scores[row] for row in chosen]),
        "intervention": {
            "responses": len(chosen),
            "changes": sum(map(len, verdicts.values())),
            "without an answer": sum(verdict[1] is None for of in verdicts.values() for verdict in of),
            "moved": moved_rates(changed, list(verdicts.values())),
            "auc": {
                way: compared(chosen, lambda row, c=column: verdict_sets(responses[row], verdicts[row], c))
                for column, way in ((1, "finished"), (2, "kept"))
            },
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """As from the command line, whose arguments these are."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("policy", type=Path, help="a Hugging Face folder")
    parser.add_argument("results", type=Path, help="the JSON file to write")
    parser.add_argument("--stage", default="imitation", help="of training, a name that figures carry")
    parser.add_argument("--responses", type=int, default=200, help="wrong ones, and as many correct ones")
    parser.add_argument("--intervened", type=int, default=60, help="responses whose tokens are changed")
    parser.add_argument("--most", type=int, default=4096, help="responses drawn at most")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)

    began = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(given.policy)
    model = AutoModelForCausalLM.from_pretrained(given.policy, dtype=torch.float32).eval()
    responses, counts = sample(model, tokenizer, given.task, given.responses, given.most, given.seed)
    if not responses:
        sys.exit(f"none of {counts['drawn']} responses of {given.policy} has the form of {given.task}'s solutions")
    results = measure(model, tokenizer, given.task, responses, given.intervened, given.seed)
    cell = {
        "task": given.task,
        "stage": given.stage,
        "policy": {
            "folder": given.policy.as_posix(),
            "hidden_size": model.config.hidden_size,
            "layers": model.config.num_hidden_layers,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        "command": shlex.join(["python", "-m", "recipes.study.credit", *arguments]),
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("grail-verl", "torch", "transformers")},
        },
        "responses": counts,
        **results,
    }
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text(json.dumps(cell, indent=1) + "\n")


if __name__ == "__main__":
    main()

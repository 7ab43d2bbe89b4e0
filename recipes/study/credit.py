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
    hops±/K                   the same with random signs, so that gradients of different tokens do not cancel (hops.py)
    surprise × grail/…, hops/K, hops±/K    the product of the two
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
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import grail_verl
from grail_verl import GrailConfig
from grail_verl.credit.config import CHOICES, HOPS
from grail_verl.credit.leaf import evaluating, leaf_gradient
from grail_verl.credit.rule import Rule
from recipes.study import intervention
from recipes.study.carried import carried_saliency
from recipes.study.hops import Variant, hop_scores
from recipes.study.response import ROWS, Response, groups, in_batch, mistake_sets, relevance_sets, row_of, sample
from recipes.study.separation import compare, rounded, summary
from recipes.study.tasks import FIRST, TASKS

LEAVES, ALIGNMENTS, STATISTICS = (CHOICES[name] for name in ("leaf", "alignment", "statistics"))
OAR_G = GrailConfig(score="oar_g", weights="reshaped")
HOP_VARIANTS = {"hops": Variant(), "hops±": Variant(signs=True)}


def token_scores(model, responses: list[Response], rng: np.random.Generator) -> tuple[list[str], list[np.ndarray]]:
    """Names of K scores, and (K, tokens up to the answer's end) for each response. In rows as of engine_pass.py:
    prompt and response up to the answer's end, padded on the right."""
    found: list[np.ndarray] = []
    for start in range(0, len(responses), ROWS):
        part = responses[start : start + ROWS]
        inputs, targets = in_batch([row_of(response) for response in part])
        _, whole = in_batch([row_of(response, whole=True) for response in part])

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
            hops_BS = {
                f"{name}/{hops}": scores_BS
                for name, variant in HOP_VARIANTS.items()
                for hops, scores_BS in enumerate(hop_scores(model, inputs, whole, HOPS, variant))
                if hops
            }
            oar_g_BS = Rule(OAR_G).scores[0].from_model(model, inputs, targets, lambda: False, 1.0)
            with torch.no_grad():
                logprobs_BSV = model(**inputs, use_cache=False).logits.log_softmax(dim=-1)
        entropy_BS = -(logprobs_BSV.exp() * logprobs_BSV).sum(dim=-1)
        surprise_BS = -logprobs_BSV.gather(-1, inputs["input_ids"].roll(-1, dims=1)[..., None])[..., 0]

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
    limit = TASKS[task_name].response_tokens
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
    parser.add_argument("task", choices=FIRST)
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

"""The rule of credit that a user chose: a score and the weights that are made of it.

On the data's way: options → responses → answers → *scores → weights* → advantages. A pass of the model, where the batch
does not tell the scores, is for whoever holds the model to make (hook/engine_pass.py, look/attribute.py).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields

import torch
from torch import Tensor

from grail_verl.credit.batch import Credit, RolloutBatch, finite_rows
from grail_verl.credit.config import SECTION, GrailConfig
from grail_verl.credit.modules import load_modules
from grail_verl.credit.rows import Row, dense_scores, rows_of
from grail_verl.credit.scores import SCORES, Score
from grail_verl.credit.weights import WEIGHTS

OF_RECORDS = frozenset({"dump_responses", "log_pictures"})  # options about what dump_dir holds
EVERYONES = OF_RECORDS | {"score", "weights", "modules", "dump_dir"}  # options that every rule reads


class Rule:
    """A score, or several whose product it is, and weights; any of those that are registered.

    Args:
        config: the options.

    Raises:
        ValueError: a module that cannot be imported, a name that nobody registered, or a rule that names a field or an
            option of which there is none.
    """

    def __init__(self, config: GrailConfig):
        load_modules(config.modules)
        self.config = config
        self.scores = [SCORES.find(name)(config) for name in config.scores]
        self.weights = WEIGHTS.find(config.weights)(config)
        self.needs_answer = any(score.needs_answer for score in self.scores)
        self.needs = frozenset().union(*(part.needs for part in self._parts))
        self.options = frozenset().union(*(part.options for part in self._parts))
        _require_names("needs", self.needs, fields(RolloutBatch))
        _require_names("options", self.options, fields(GrailConfig))

    @property
    def _parts(self) -> list:
        return [*self.scores, self.weights]

    @property
    def names(self) -> str:
        names = self.config.scores
        score = names[0] if isinstance(self.config.score, str) else f"[{','.join(names)}]"
        return f"{SECTION}.score={score} and {SECTION}.weights={self.config.weights}"

    def refuse_unread(self, section: Mapping) -> None:
        """An option that changes nothing is a misunderstanding, whatever its value.

        Args:
            section: what a user wrote.

        Raises:
            ValueError: one without effect.
        """
        read = EVERYONES | self.options
        if self.config.dump_dir is not None:
            read |= {"occurrence"}  # records show the answer
        for option in sorted(section.keys() - read):
            raise ValueError(
                f"{SECTION}.{option}={section[option]!r} has no effect with {self.names}; "
                f"allowed: {', '.join(sorted(read))}"
            )
        ours = all(type(part).__module__.startswith("grail_verl.credit.") for part in self._parts)
        if section.get("modules") and ours:
            raise ValueError(
                f"{SECTION}.modules={section['modules']!r} has no effect with {self.names}, which are this package's"
            )
        if self.config.dump_dir is None:
            for option in sorted(section.keys() & OF_RECORDS):
                raise ValueError(f"{SECTION}.{option}={section[option]!r} has no effect without {SECTION}.dump_dir")

    def refuse_lacking(self, lacking: Iterable[str], who: str) -> None:
        """Raises ValueError: the rule needs a field of RolloutBatch that is among those `who` does not hand over."""
        for field in sorted(self.needs & set(lacking)):
            raise ValueError(f"{self.names} need RolloutBatch.{field}, which {who} does not hand over")

    def require(self, batch: RolloutBatch, who: str) -> None:
        """Raises ValueError: the rule needs a field that is None in this batch of `who`."""
        self.refuse_lacking(batch.lacking, who)

    def can_weigh(self, batch: RolloutBatch) -> Tensor:
        """(B,) bool: responses that the weights select, with a token of the policy's, and with an answer where the
        score is about one."""
        can_B = self.weights.selected(batch) & batch.response_mask_BT.any(dim=-1)
        return can_B & batch.answered_B if self.needs_answer else can_B

    def matters(self, batch: RolloutBatch) -> Tensor:
        """(B,) bool: those of them whose weights, or whose place among all scores, change the update."""
        can_B = self.can_weigh(batch)
        return can_B if self.weights.compares_responses else can_B & (batch.advantages_B != 0)

    def score(
        self, batch: RolloutBatch, scored_B: Tensor, run_pass: Callable[[list[Row], Score], list[Tensor]]
    ) -> Tensor:
        """(B, T) float32: the scores, out of the batch where it tells them, else by a pass; several are multiplied.

        Args:
            batch: the responses.
            scored_B: bool, those to run a pass for.
            run_pass: rows and the score → for each row the scores of its response tokens; called alike on every rank.
        """
        product_BT = torch.ones(batch.response_mask_BT.shape, device=batch.response_mask_BT.device)
        for score in self.scores:
            scores_BT = score.from_batch(batch)
            if scores_BT is None:
                indices = scored_B.nonzero().flatten().tolist()
                rows = rows_of(batch, indices, of_answer=score.needs_answer, with_reasoning=score.with_reasoning)
                scores_BT = dense_scores(run_pass(rows, score), indices, batch)
            self._require_shape("scores", scores_BT, batch)
            product_BT = product_BT * scores_BT
        return product_BT

    @torch.no_grad()  # a graph on advantages would be walked by the update
    def credit(self, batch: RolloutBatch, scores_BT: Tensor, scored_B: Tensor) -> Credit:
        """The weights; every rank must call it, with or without scores.

        Args:
            batch: the responses.
            scores_BT: float32, finite or not; what stands in rows outside of scored_B is not read.
            scored_B: bool, the responses to weight by their scores.
        """
        self._require_shape("scores", scores_BT, batch)
        scores_BT = torch.where(scored_B[:, None], scores_BT, 0.0)
        known_B = finite_rows(scores_BT, batch.response_mask_BT)
        weighted_B = scored_B & known_B
        # What a tool wrote has no score, and one row's NaN would spread where weights compare responses.
        own_BT = torch.where(weighted_B[:, None] & batch.response_mask_BT, scores_BT, 0.0)
        weights_BT = self.weights.token_weights(own_BT, weighted_B, batch)
        self._require_shape("weights", weights_BT, batch)
        finite_B = finite_rows(weights_BT, batch.response_mask_BT)
        weights_BT = torch.where(finite_B[:, None], weights_BT, 1.0)
        weights_BT = torch.where(batch.response_mask_BT, weights_BT, 0.0)
        return Credit(batch, scores_BT, weights_BT, scored_B, weighted_B & finite_B, ~(known_B & finite_B))

    def _require_shape(self, what: str, tensor_BT: Tensor, batch: RolloutBatch) -> None:
        if tensor_BT.shape != batch.response_mask_BT.shape:
            raise ValueError(
                f"{self.names}: the {what} are of shape {tuple(tensor_BT.shape)}; needed: (responses, tokens), "
                f"{tuple(batch.response_mask_BT.shape)}"
            )


def _require_names(what: str, named: frozenset[str], there: Iterable[Field]) -> None:
    """A field or an option that a rule misspells would never be checked."""
    for name in sorted(named - {field.name for field in there}):
        raise ValueError(f"a rule's {what} name {name!r}; allowed: {', '.join(field.name for field in there)}")


def token_weights(
    scores: Tensor,
    response_mask: Tensor,
    answer_mask: Tensor,
    content_mask: Tensor,
    advantages: Tensor,
    config: GrailConfig,
) -> Tensor:
    """Token weights of responses from their scores, by `config.weights`; by default those of METHOD steps 5 to 8
    (arXiv 2606.04889), see weights/standardised.py.

    A response is weighted by its scores if `config.weights` selects it, they are finite, and it has an answer where
    `config.score` is about one (an empty row of answer_mask is none). Where response_mask is 0 the weight is 0.

    Args:
        scores: (B, T) float, at least 0.
        response_mask: (B, T) bool or 0/1.
        answer_mask: (B, T) bool or 0/1, the tokens of the `\\boxed{…}` expression, contiguous in a row.
        content_mask: (B, T) bool or 0/1, the answer tokens strictly inside the braces.
        advantages: (B,) or (B, T).
        config: the options.

    Returns:
        (B, T) float32.

    Raises:
        ValueError: shapes that do not fit together; rules of which there are none, or that need more than this.
    """
    shape = scores.shape
    for name, tensor in (
        ("response_mask", response_mask), ("answer_mask", answer_mask), ("content_mask", content_mask)
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, scores have {tuple(shape)}")
    if advantages.shape not in (shape, shape[:1]):
        raise ValueError(
            f"advantages have shape {tuple(advantages.shape)}; allowed: {tuple(shape[:1])} or {tuple(shape)}"
        )
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand(shape)
    rule = Rule(config)
    batch = RolloutBatch(response_mask.bool(), advantages, answer_mask.bool(), content_mask.bool())
    rule.refuse_lacking(rule.weights.needs & batch.lacking, "token_weights")  # the scores are there
    return rule.credit(batch, scores, rule.can_weigh(batch)).weights_BT.float()

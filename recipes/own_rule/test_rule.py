"""The rule's own test: numbers worked out by hand, on a batch of two responses."""

from pathlib import Path

import pytest
import torch

from grail_verl import GrailConfig, RolloutBatch
from grail_verl.credit.rule import Rule


def test_a_wrong_response_is_blamed_from_its_greatest_doubt_on():
    here = Path(__file__).parent
    rule = Rule(GrailConfig(modules=[str(here / "rule.py")], score="doubt", weights="from_peak"))
    nothing_BT = torch.zeros(2, 5, dtype=torch.bool)
    batch = RolloutBatch(
        response_mask_BT=torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]).bool(),
        advantages_BT=torch.tensor([[-1.0] * 5, [1.0] * 5]),
        answer_BT=nothing_BT,
        content_BT=nothing_BT,
        old_log_probs_BT=-torch.tensor([[0.1, 0.1, 2.1, 0.1, 9.0], [1.0, 3.0, 0.0, 0.0, 0.0]]),
    )
    scores_BT = rule.scores[0].from_batch(batch)
    assert scores_BT.tolist() == [pytest.approx([0, 0, 1.5, 0, 0]), pytest.approx([0, 1, 0, 0, 0])]
    credit = rule.credit(batch, scores_BT, rule.can_weigh(batch))
    assert credit.weights_BT.tolist() == [[0, 0, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert credit.weighted_B.tolist() == [True, False]

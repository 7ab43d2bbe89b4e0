"""Rows that travel: who scores what, and that nothing but the time of a pass depends on it."""

import math
from unittest import mock

import harness
import pytest
import ranks
import tiny
import torch
import torch.distributed as dist
from harness import Case
from hypothesis import given
from hypothesis import strategies as st

from grail_verl.credit.rows import Budget, Row, pack
from grail_verl.hook import sharing
from grail_verl.hook.sharing import SharedRows, plan_of

BUDGETS = st.one_of(
    st.builds(Budget, st.booleans(), tokens=st.integers(1, 200)),
    st.builds(Budget, st.booleans(), rows=st.integers(1, 8)),
)
LENGTHS_OF_RANKS = st.lists(st.lists(st.integers(1, 100), max_size=12), min_size=1, max_size=6)


def steps_of(plan: list, lengths: list, packed: bool) -> int:
    """The pass in tokens, written out once more."""
    total = 0
    for step in range(max(len(batches) for batches in plan)):
        longest = 0
        for batches in plan:
            if step < len(batches):
                rows = [lengths[rank][index] for rank, index in batches[step]]
                longest = max(longest, sum(rows) if packed else max(rows) * len(rows))
        total += longest
    return total


def planned(lengths: list, budget: Budget) -> tuple[list, list]:
    """Each rank's own micro-batches, and the plan."""
    packed = [pack(of_rank, budget) for of_rank in lengths]
    own = [[[(rank, index) for index in batch] for batch in batches] for rank, batches in enumerate(packed)]
    return own, plan_of(lengths, packed, budget)


@pytest.mark.fast
@given(LENGTHS_OF_RANKS, BUDGETS)
def test_every_row_is_scored_once_within_the_budget_and_no_pass_is_longer(lengths, budget):
    own, plan = planned(lengths, budget)
    places = sorted(place for batches in plan for batch in batches for place in batch)
    assert places == [(rank, index) for rank, of_rank in enumerate(lengths) for index in range(len(of_rank))]
    assert len(plan) == len(lengths) and all(batch for batches in plan for batch in batches)
    for batch in (batch for batches in plan for batch in batches):
        rows = [lengths[rank][index] for rank, index in batch]
        used = sum(rows) if budget.packed else max(rows) * len(rows)
        assert len(rows) == 1 or (len(rows) <= budget.rows if budget.rows else used <= budget.tokens)
    assert steps_of(plan, lengths, budget.packed) <= 1.1 * steps_of(own, lengths, budget.packed)


@pytest.mark.fast
@given(st.lists(st.integers(1, 100), max_size=12), st.integers(1, 6), BUDGETS)
def test_nothing_travels_where_all_ranks_have_alike_or_one_has_no_peers(lengths, world_size, budget):
    own, plan = planned([lengths] * world_size, budget)
    assert plan == own or steps_of(own, [lengths] * world_size, budget.packed) > 1.1 * steps_of(
        plan, [lengths] * world_size, budget.packed
    )


@pytest.mark.fast
def test_what_travels_least_is_taken():
    budget = Budget(packed=True, tokens=100)
    # Within a tenth of the average of 98 each: all stay.
    own, plan = planned([[50, 50], [48, 48]], budget)
    assert plan == own
    # 215 in place of 200 is within a tenth, 230 is not.
    own, plan = planned([[100, 100, 15], [100]], budget)
    assert plan == own
    own, plan = planned([[100, 100, 30], [100]], budget)
    assert [len(batches) for batches in plan] == [2, 2]
    # Four full micro-batches on one rank: dealt out as they are.
    own, plan = planned([[60, 40, 60, 40, 60, 40, 60, 40], []], budget)
    assert sorted(batch for batches in plan for batch in batches) == sorted(own[0]) and [len(p) for p in plan] == [2, 2]
    # One micro-batch of four rows, and nobody else has any: packed anew, two rows each.
    own, plan = planned([[20, 20, 20, 20], []], budget)
    assert [[len(batch) for batch in batches] for batches in plan] == [[2], [2]]
    # Longest first, so that short rows are not padded to it.
    own, plan = planned([[40, 10, 10], []], Budget(packed=False, tokens=80))
    assert plan == [[[(0, 0)]], [[(0, 1), (0, 2)]]]


def row_of(length: int, seed: int) -> Row:
    generator = torch.Generator().manual_seed(seed)
    prompt = 1 + seed % (length - 1)
    ids = torch.randint(0, 2**40, (length,), generator=generator)
    return Row(ids, torch.arange(length) + seed, prompt, seed % 3, seed % 5, 0.1 + seed / 7)


def made_of(row: Row) -> torch.Tensor:
    """A stand-in for scores, in which all of a row is found again."""
    rest = row.target_start + 10 * row.answer_start + 100 * row.temperature
    return ((row.input_ids + row.position_ids)[row.prompt_length :] % 9973 + rest).float()


def travel(rank: int, cases: list) -> list[tuple]:
    found = []
    for lengths, budget in cases:
        own = [row_of(length, 100 * rank + index) for index, length in enumerate(lengths[rank])]
        shared = SharedRows(own, budget, dist.group.WORLD)
        scores = shared.own_scores([[made_of(row) for row in batch] for batch in shared.micro_batches])
        right = len(scores) == len(own) and all(map(torch.equal, scores, map(made_of, own)))
        found.append((right, sum(map(len, shared.micro_batches)), shared.steps))
    return found


ROWS_AT_ONCE = [
    "actor_rollout_ref.actor.use_dynamic_bsz=False",
    "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=False",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
]
CASES = {
    "fsdp": Case("tied", "fsdp", {}, ROWS_AT_ONCE),
    "fsdp2": Case("tied", "fsdp2", {"hops": 2}, ROWS_AT_ONCE),
    "hsdp": Case("tied", "fsdp2", {}, [*ROWS_AT_ONCE, "actor_rollout_ref.actor.fsdp_config.fsdp_size=2"], ranks=4),
}


def both_ways(worker, rank: int) -> dict:
    """The advantages that each rank's own pass makes, and those of a pass that is shared; rows that it took."""
    taken, made = [], SharedRows.__init__

    def watched(self, *args):
        made(self, *args)
        taken.append(sum(map(len, self.micro_batches)))

    with mock.patch.object(SharedRows, "__init__", watched):
        of_ways = {}
        for way, tolerated in (("own", math.inf), ("shared", sharing.TOLERATED)):
            data = harness.rollout(min(rank, 1))  # rank 0 has nearly all rows that need a pass
            with mock.patch.object(sharing, "TOLERATED", tolerated):
                metrics = worker.reweight_advantages(data)
            of_ways[way] = ([row.tolist() for row in data["advantages"].unbind()], metrics["grail/saliency_rows"])
    return {**of_ways, "taken": taken}


def session(rank: int, folders: dict, names: list[str], lengths: list) -> dict:
    ways = {name: both_ways(CASES[name].actor(folders, "grail"), rank) for name in names}
    return {"ways": ways, "travelled": travel(rank, lengths)}


def lengths_of_ranks(world_size: int) -> list:
    """All on one rank, none at all, and any."""
    generator = torch.Generator().manual_seed(world_size)
    cases = [([[8] * 8] + [[]] * (world_size - 1), Budget(True, rows=1)), ([[]] * world_size, Budget(True, tokens=9))]
    for tokens in range(10, 130, 3):
        numbers = torch.randint(0, 7, (world_size,), generator=generator).tolist()
        lengths = [torch.randint(2, 40, (number,), generator=generator).tolist() for number in numbers]
        cases.append((lengths, Budget(tokens % 2 == 0, tokens=tokens)))
    return cases


@pytest.fixture(scope="module", params=[["fsdp", "fsdp2"], ["hsdp"]], ids=["2 ranks", "4 ranks"])
def found(request, tmp_path_factory) -> list[dict]:
    folder, world_size = tmp_path_factory.mktemp("tied"), CASES[request.param[0]].ranks
    tiny.save_policy(folder)
    given = ({"tied": str(folder)}, request.param, lengths_of_ranks(world_size))
    return ranks.on_ranks(session, world_size, *given)


def test_rows_and_scores_find_their_way(found):
    world_size = len(found)
    travelled = [of_rank["travelled"] for of_rank in found]
    assert all(right for of_rank in travelled for right, _, _ in of_rank)
    assert [of_rank[0] for of_rank in travelled] == [(True, 8 // world_size, 8 // world_size)] * world_size
    assert [of_rank[1] for of_rank in travelled] == [(True, 0, 0)] * world_size


def test_advantages_are_the_same_to_the_last_bit_whoever_scores_a_row(found):
    for name in found[0]["ways"]:
        of_ranks = [of_rank["ways"][name] for of_rank in found]
        assert all(of_rank["own"] == of_rank["shared"] for of_rank in of_ranks)
        own, shared = zip(*(of_rank["taken"] for of_rank in of_ranks), strict=True)
        assert sum(own) == sum(shared) and max(own) > max(shared)

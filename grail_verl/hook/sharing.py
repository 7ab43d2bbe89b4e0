"""Who scores which rows: all data-parallel ranks share a pass, so that none waits for the one with most wrong ones.

In the hook's pass (engine_pass.py), between rows and micro-batches: rows travel as token ids, a few kB each, to ranks
that have room, and their scores travel back. What travels least is taken, unless it makes the pass longer by more than
a tenth: every rank's own micro-batches stay; else those very micro-batches are dealt out; else the rows are packed
anew. A row's scores depend on the rows beside it in its micro-batch, in the last bits, and on the rank never; so they
are those of a pass that nobody shares, to the last bit in the first two cases and to rounding in the third.

A micro-batch takes as long as it has tokens, and all ranks take a step together, since a forward and backward gather
sharded parameters: a pass is as long as the sum of its steps' longest micro-batches.
"""

import heapq
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from verl.utils.device import get_device_id

from grail_verl.credit.rows import Budget, Row, pack

TOLERATED = 1.1  # a plan's length over the shortest's, for fewer rows that travel

Place = tuple[int, int]  # of a row: the rank whose it is, and which of that rank's rows
Plan = list[list[list[Place]]]  # for each rank its micro-batches, one a step


def plan_of(lengths: Sequence[Sequence[int]], packed: Sequence[list[list[int]]], budget: Budget) -> Plan:
    """The micro-batches of each rank, the same on whichever rank it is worked out.

    Args:
        lengths: for each rank, the tokens of each of its rows.
        packed: for each rank, its own micro-batches, as indices of its rows; see `pack`.
        budget: of a micro-batch.
    """
    own = own_plan(packed)

    def tokens(batch: list[Place]) -> int:
        return budget.used([lengths[rank][index] for rank, index in batch])

    def dealt(batches: list[list[Place]]) -> Plan:
        """One to each rank and step, those alike in length in one step: the shortest pass that they can make."""
        ordered = sorted(batches, key=tokens, reverse=True)
        return [ordered[rank :: len(lengths)] for rank in range(len(lengths))]

    rows = [(rank, index) for rank, of_rank in enumerate(lengths) for index in range(len(of_rank))]
    anew = _packed_alike([lengths[rank][index] for rank, index in rows], budget, len(lengths))
    plans = [own, dealt(sum(own, [])), dealt([[rows[index] for index in batch] for batch in anew])]
    took = [pass_length(plan, tokens) for plan in plans]
    return next(plan for plan, length in zip(plans, took, strict=True) if length <= TOLERATED * min(took))


def own_plan(packed: Sequence[list[list[int]]]) -> Plan:
    """Every rank scores its own rows; arguments as of `plan_of`."""
    return [[[(rank, index) for index in batch] for batch in batches] for rank, batches in enumerate(packed)]


def pass_length(plan: Plan, tokens: Callable[[list[Place]], int]) -> int:
    """In tokens: the sum over steps of the longest micro-batch."""
    steps = max(map(len, plan))
    return sum(max(tokens(batches[step]) for batches in plan if step < len(batches)) for step in range(steps))


def _packed_alike(lengths: list[int], budget: Budget, ranks: int) -> list[list[int]]:
    """Indices of the rows of each micro-batch, as `pack`, but a multiple of the ranks in number and alike in tokens:
    longest first, each row to the emptiest. Padded, a step's micro-batches hold rows next in length."""
    batches: list[list[int]] = []
    emptiest: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not emptiest or not _has_room(batches[emptiest[0][1]], index, lengths, budget):
            if not budget.packed:
                emptiest.clear()
            for _ in range(ranks):
                heapq.heappush(emptiest, (0, len(batches)))
                batches.append([])
        _, place = emptiest[0]
        batches[place].append(index)
        heapq.heapreplace(emptiest, (budget.used([lengths[i] for i in batches[place]]), place))
    return [batch for batch in batches if batch]


def _has_room(batch: list[int], index: int, lengths: list[int], budget: Budget) -> bool:
    return not batch or budget.fits([lengths[i] for i in (*batch, index)])


class SharedRows:
    """A rank's share of the rows of all ranks; to make it is a collective call of the group.

    Args:
        rows: this rank's own.
        budget: of a micro-batch, the same on every rank.
        group: the data-parallel ranks. Those of a Ulysses group hold the same rows and come to the same plan.

    Attributes:
        micro_batches: of the rows that this rank scores.
        steps: micro-batches of the rank that has most.
    """

    def __init__(self, rows: list[Row], budget: Budget, group: ProcessGroup):
        lengths = [len(row) for row in rows]
        told: list = [None] * dist.get_world_size(group)
        dist.all_gather_object(told, (lengths, pack(lengths, budget)), group=group)
        self._lengths, packed = zip(*told, strict=True)
        self._plan = plan_of(self._lengths, packed, budget)
        self._rows, self._group, self._rank = rows, group, dist.get_rank(group)
        self._stays = all(home == rank for rank in range(len(told)) for home, _ in self._taken_by(rank))
        self.steps = max(map(len, self._plan))
        taken = iter(self._received())
        self.micro_batches = [[next(taken) for _ in batch] for batch in self._plan[self._rank]]

    def own_scores(self, of_batches: list[list[Tensor]]) -> list[Tensor]:
        """Of each of this rank's own rows, in order, the scores, wherever they were made; a collective call.

        Args:
            of_batches: (end,) float32, the scores of each row of each of `micro_batches`.
        """
        made = list(zip(self._taken_by(self._rank), sum(of_batches, []), strict=True))
        if self._stays:
            return [of_row for _, of_row in sorted(made, key=lambda of: of[0])]
        sent = [[of_row for (home, _), of_row in made if home == rank] for rank in range(len(self._plan))]
        given = [self._given_to(rank) for rank in range(len(self._plan))]
        sizes = [[len(self._rows[i]) - self._rows[i].prompt_length for i in indices] for indices in given]
        scores: dict[int, Tensor] = {}
        for indices, returned in zip(given, _exchanged(sent, sizes, torch.float32, self._group), strict=True):
            scores.update(zip(indices, returned, strict=True))
        return [scores[index] for index in range(len(self._rows))]

    def _taken_by(self, rank: int) -> list[Place]:
        return [place for batch in self._plan[rank] for place in batch]

    def _given_to(self, rank: int) -> list[int]:
        """Which of its rows this rank gives to that one, in that one's order."""
        return [index for home, index in self._taken_by(rank) if home == self._rank]

    def _received(self) -> list[Row]:
        taken = self._taken_by(self._rank)
        if self._stays:
            return [self._rows[index] for _, index in taken]
        ranks = range(len(self._plan))
        sent = [[_as_numbers(self._rows[index]) for index in self._given_to(rank)] for rank in ranks]
        sizes = [[HEADER + 2 * self._lengths[rank][index] for home, index in taken if home == rank] for rank in ranks]
        received = [iter(of_rank) for of_rank in _exchanged(sent, sizes, torch.int64, self._group)]
        return [_as_row(next(received[home])) for home, _ in taken]


HEADER = 4


def _as_numbers(row: Row) -> Tensor:
    """(4 + 2 tokens,) int64."""
    header = torch.tensor([row.prompt_length, row.target_start, row.answer_start])
    temperature = torch.tensor([row.temperature], dtype=torch.float64).view(torch.int64)
    return torch.cat([header, temperature, row.input_ids.cpu(), row.position_ids.cpu()])


def _as_row(numbers: Tensor) -> Row:
    input_ids, position_ids = numbers[HEADER:].chunk(2)
    temperature = numbers[3:HEADER].view(torch.float64).item()
    return Row(input_ids, position_ids, *numbers[:3].tolist(), temperature)


def _exchanged(
    sent: list[list[Tensor]], sizes: list[list[int]], dtype: torch.dtype, group: ProcessGroup
) -> list[Sequence[Tensor]]:
    """What each rank of the group has sent here, on the CPU.

    Args:
        sent: to each rank, tensors of one dimension.
        sizes: from each rank, the sizes of its tensors.
    """
    device = get_device_id()
    outgoing = torch.cat([torch.empty(0, dtype=dtype), *sum(sent, [])]).to(device)
    incoming = torch.empty(sum(map(sum, sizes)), dtype=dtype, device=device)
    splits = [sum(map(len, tensors)) for tensors in sent]
    dist.all_to_all_single(incoming, outgoing, [sum(of_rank) for of_rank in sizes], splits, group=group)
    parts = incoming.cpu().split([sum(of_rank) for of_rank in sizes])
    return [part.split(of_rank) for part, of_rank in zip(parts, sizes, strict=True)]

"""Continuous batched generation with a transformers model: requests in from any thread, futures out.

One thread owns the model. Each turn it admits what has arrived (prefill), advances every running row by one
token and hands out the rows that finished; the batch is a few tensors, so the Python cost of a turn does not
grow with the number of rows. Rows are padded on the left, so that all of them write the same cache column.
No verl here: rollout.py puts it behind verl's interface.

Simplification: the cache holds every column of full-attention keys and values, also for layers with a sliding
window (their mask still hides what is outside).
"""

import dataclasses
import queue
import threading
from concurrent.futures import Future
from typing import NamedTuple

import torch
from transformers.cache_utils import Cache, DynamicLayer

from grail_verl.cpu.attention import use_grouped_attention
from grail_verl.cpu.sampling import sample

SETTLE_SECONDS = 0.02  # an idle batch waits this long for a request's siblings, which arrive one by one
SPARE_COLUMNS = 64  # cache columns allocated ahead
FULL_ENOUGH = 0.8  # share of unfinished rows below which finished ones are taken out of the batch


@dataclasses.dataclass
class Request:
    """One response to generate. `seed` fixes all its random numbers before it meets any other request."""

    prompt: list[int]
    max_tokens: int
    stop: frozenset[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    future: Future = dataclasses.field(default_factory=Future)


class Response(NamedTuple):
    """Token ids and their log-probs, lists of one length; a stop token, if met, is the last. `aborted` if more
    would have followed."""

    tokens: list[int]
    logprobs: list[float]
    aborted: bool


class GrowingLayer(DynamicLayer):
    """Keys and values (B, heads, T, D) as views of larger buffers: a new token costs no copy of the past."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            self._store([keys[:, :, :0]], [values[:, :, :0]], width=0, spare=keys.shape[-2])
        past = self.keys.shape[-2]
        width = past + keys.shape[-2]
        if width > self._key_buffer.shape[-2]:
            self._store([self.keys], [self.values], past, spare=keys.shape[-2] + past // 4)
        self._key_buffer[:, :, past:width] = keys
        self._value_buffer[:, :, past:width] = values
        self.keys, self.values = self._key_buffer[:, :, :width], self._value_buffer[:, :, :width]
        return self.keys, self.values

    def _store(
        self, keys: list[torch.Tensor], values: list[torch.Tensor], width: int, spare: int = 0
    ) -> None:
        """Put the rows of all parts below one another, aligned on the right at column `width`."""
        buffers = []
        for parts in (keys, values):
            rows, (_, heads, _, size) = sum(part.shape[0] for part in parts), parts[0].shape
            # Zeros, not empty: a masked column counts 0 times its value, and 0 times NaN is NaN.
            buffer = parts[0].new_zeros(rows, heads, width + spare + SPARE_COLUMNS, size)
            row = 0
            for part in parts:
                buffer[row : row + part.shape[0], :, width - part.shape[-2] : width] = part
                row += part.shape[0]
            buffers.append(buffer)
        self._key_buffer, self._value_buffer = buffers
        self.keys, self.values = (buffer[:, :, :width] for buffer in buffers)

    def select(self, rows: torch.Tensor, start: int) -> None:
        """Keep these rows, from column `start` on."""
        keys, values = self.keys[:, :, start:][rows], self.values[:, :, start:][rows]
        self._store([keys], [values], keys.shape[-2])

    def join(self, other: "GrowingLayer") -> None:
        width = max(self.keys.shape[-2], other.keys.shape[-2])
        self._store([self.keys, other.keys], [self.values, other.values], width)


@dataclasses.dataclass
class Batch:
    """The running rows. Tensors have one row each (B, ...); `out_*` are filled up to `count`."""

    requests: list[Request]
    cache: Cache
    pad: torch.Tensor  # (B,) columns of the cache before the row's first token
    count: torch.Tensor  # (B,) tokens generated
    limit: torch.Tensor  # (B,) tokens allowed
    stop: torch.Tensor  # (B, S) token ids that end the row, -1 where it has fewer than S
    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    uniform: torch.Tensor  # (B, L) float64, the random number of each token
    out_tokens: torch.Tensor  # (B, L)
    out_logprobs: torch.Tensor  # (B, L)
    done: torch.Tensor  # (B,) bool: handed out, and only computed along until it is taken out

    @property
    def width(self) -> int:
        return self.cache.get_seq_length()

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows, and drop the columns that are padding for all of them."""
        start = int(self.pad[rows].min())
        for layer in self.cache.layers:
            layer.select(rows, start)
        for name, value in self._tensors().items():
            setattr(self, name, value[rows])
        self.pad -= start
        self.requests = [self.requests[row] for row in rows.tolist()]

    def join(self, other: "Batch") -> None:
        """Append the rows of `other`."""
        width = max(self.width, other.width)
        for batch in (self, other):
            batch.pad += width - batch.width
        for mine, others in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.join(others)
        fill = {"stop": -1, "out_tokens": 0, "out_logprobs": 0.0, "uniform": 0.0}
        theirs = other._tensors()
        for name, value in self._tensors().items():
            parts = [value, theirs[name]]
            if name in fill:
                columns = max(part.shape[1] for part in parts)
                parts = [
                    torch.nn.functional.pad(part, (0, columns - part.shape[1]), value=fill[name])
                    for part in parts
                ]
            setattr(self, name, torch.cat(parts))
        self.requests += other.requests


class Generator(threading.Thread):
    """Runs the batch. A failure in the model fails the requests of that batch with the error, no others.

    Args:
        model: a causal language model of transformers in eval mode; attention.py changes how it attends.
        vocab_size: ids from here on are never drawn; len(tokenizer).
        max_rows: rows at a time; further requests wait.
        max_prefill: prompt tokens, padding included, that one prefill may hold.
    """

    def __init__(self, model, vocab_size: int, max_rows: int, max_prefill: int):
        super().__init__(name="generator", daemon=True)
        use_grouped_attention(model)
        self.model, self.vocab_size, self.max_rows, self.max_prefill = (
            model,
            vocab_size,
            max_rows,
            max_prefill,
        )
        self.batch: Batch | None = None
        self._arrived: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._waiting: list[Request] = []
        self._paused = self._refusing = False
        self._turn = threading.Condition()  # held while the model computes; load_weights takes it

    def submit(self, request: Request) -> Future:
        """A future of its Response."""
        self._arrived.put(request)
        return request.future

    def pause(self, refuse: bool = False) -> None:
        """Hand out what the running rows have, as aborted. Until `resume` other requests wait, or with `refuse` are
        handed out at once, aborted before their first token."""
        self._paused = True  # before the lock, which a busy thread takes again at once
        with self._turn:
            self._paused = True  # again: a `resume` may have had the lock before
            self._refusing = refuse
            self._turn.notify()
            if self.batch is not None:
                for row in (~self.batch.done).nonzero().squeeze(1).tolist():
                    self._hand_out(self.batch, row, aborted=True)
                self.batch = None

    def resume(self) -> None:
        with self._turn:
            self._paused = self._refusing = False
            self._turn.notify()

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Copy tensors into the model's parameters of these names (cast to their dtype).

        Raises:
            RuntimeError: a response is being generated, so it would mix two policies.
            KeyError: the model has no such parameter.
        """
        with self._turn, torch.no_grad():
            if self.batch is not None:
                raise RuntimeError(
                    f"weights arrived while {len(self.batch.requests)} responses were generated"
                )
            state = self.model.state_dict()
            for name, weight in weights.items():
                state[name].copy_(weight)

    def run(self) -> None:
        while True:
            self._collect()
            with self._turn, torch.inference_mode():
                self._turn.wait_for(lambda: not self._paused or self._refusing)
                if self._refusing:
                    self._refuse()
                    continue
                admitted = self._admit()
                try:
                    self._advance(admitted)
                except Exception as error:
                    failed = admitted + (self.batch.requests if self.batch else [])
                    self.batch = None
                    for request in failed:
                        if not request.future.done():
                            request.future.set_exception(error)

    def _collect(self) -> None:
        """Move what has arrived to the waiting list; with nothing to do, wait for it."""
        idle = self.batch is None and not self._waiting
        timeout = None  # for the first one, as long as it takes
        while idle and len(self._waiting) < self.max_rows:
            try:
                self._waiting.append(self._arrived.get(timeout=timeout))
            except queue.Empty:
                break
            timeout = SETTLE_SECONDS
        while not self._arrived.empty():
            self._waiting.append(self._arrived.get())

    def _refuse(self) -> None:
        for request in self._waiting:
            if request.future.set_running_or_notify_cancel():
                request.future.set_result(Response([], [], aborted=True))
        self._waiting.clear()

    def _admit(self) -> list[Request]:
        """Take from the waiting list what fits beside the running rows and into one prefill."""
        free = self.max_rows - (len(self.batch.requests) if self.batch else 0)
        admitted, prompts, longest = [], set(), 0
        while self._waiting and len(admitted) < free:
            request = self._waiting[0]
            prompts.add(tuple(request.prompt))
            longest = max(longest, len(request.prompt))
            if admitted and longest * len(prompts) > self.max_prefill:
                break
            self._waiting.pop(0)
            if request.future.set_running_or_notify_cancel():
                admitted.append(request)
        return admitted

    def _advance(self, admitted: list[Request]) -> None:
        """One token for every running row, the first token for every admitted one."""
        if self.batch is not None:
            self._append(self.batch, self._decode(self.batch))
        if admitted:
            batch, logits = self._prefill(admitted)
            self._append(batch, logits)
            if self.batch is None:
                self.batch = batch
            else:
                self.batch.join(batch)
        if self.batch is not None:
            live = ~self.batch.done
            if not live.any():
                self.batch = None
            elif live.float().mean() < FULL_ENOUGH:
                self.batch.select(live.nonzero().squeeze(1))

    def _prefill(self, requests: list[Request]) -> tuple[Batch, torch.Tensor]:
        """Run each distinct prompt once; returns the batch and the logits (B, V) of the first token."""
        device, index = self.model.device, {}
        of_requests = [index.setdefault(tuple(request.prompt), len(index)) for request in requests]
        rows = torch.tensor(of_requests, device=device)
        width = max(len(prompt) for prompt in index)
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in index], device=device)
        pad = torch.tensor([width - len(prompt) for prompt in index], device=device)
        column = torch.arange(width, device=device)
        cache = Cache(layer_class_to_replicate=GrowingLayer)
        logits = self.model(
            input_ids=ids,
            attention_mask=(column >= pad[:, None]).long(),
            position_ids=(column - pad[:, None]).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        for layer in cache.layers:
            layer.select(rows, 0)

        count, most = len(requests), max(request.max_tokens for request in requests)
        stops = max(len(request.stop) for request in requests)
        uniform = torch.zeros(count, most, dtype=torch.float64)
        for row, request in enumerate(requests):
            random = torch.Generator().manual_seed(request.seed)
            uniform[row, : request.max_tokens] = torch.rand(
                request.max_tokens, generator=random, dtype=torch.float64
            )
        batch = Batch(
            requests=list(requests),
            cache=cache,
            pad=pad[rows],
            count=torch.zeros(count, dtype=torch.long),
            limit=torch.tensor([request.max_tokens for request in requests]),
            stop=torch.tensor([[*request.stop, *[-1] * (stops - len(request.stop))] for request in requests]),
            temperature=torch.tensor([request.temperature for request in requests]),
            top_k=torch.tensor([request.top_k for request in requests]),
            top_p=torch.tensor([request.top_p for request in requests]),
            uniform=uniform,
            out_tokens=torch.zeros(count, most, dtype=torch.long),
            out_logprobs=torch.zeros(count, most),
            done=torch.zeros(count, dtype=torch.bool),
        )
        for name, value in batch._tensors().items():
            setattr(batch, name, value.to(device))
        return batch, logits[rows]

    def _decode(self, batch: Batch) -> torch.Tensor:
        """Feed each row's latest token; logits (B, V) of the next one."""
        width = batch.width
        latest = batch.out_tokens.gather(1, batch.count[:, None] - 1)
        return self.model(
            input_ids=latest,
            attention_mask=(torch.arange(width + 1, device=self.model.device) >= batch.pad[:, None]).long(),
            position_ids=(width - batch.pad)[:, None],
            past_key_values=batch.cache,
            use_cache=True,
        ).logits[:, -1]

    def _append(self, batch: Batch, logits: torch.Tensor) -> None:
        """Draw a token for every live row, and hand out the rows that this one finishes."""
        at = batch.count[:, None].clamp(max=batch.uniform.shape[1] - 1)
        uniform = batch.uniform.gather(1, at).squeeze(1)
        tokens, logprobs = sample(
            logits, batch.temperature, batch.top_k, batch.top_p, uniform, self.vocab_size
        )
        rows = (~batch.done).nonzero().squeeze(1)
        batch.out_tokens[rows, batch.count[rows]] = tokens[rows]
        batch.out_logprobs[rows, batch.count[rows]] = logprobs[rows]
        batch.count[rows] += 1
        ended = (tokens[:, None] == batch.stop).any(1) | (batch.count >= batch.limit)
        for row in (ended & ~batch.done).nonzero().squeeze(1).tolist():
            self._hand_out(batch, row, aborted=False)
        batch.done |= ended

    def _hand_out(self, batch: Batch, row: int, aborted: bool) -> None:
        length = int(batch.count[row])
        tokens, logprobs = batch.out_tokens[row, :length].tolist(), batch.out_logprobs[row, :length].tolist()
        batch.requests[row].future.set_result(Response(tokens, logprobs, aborted))

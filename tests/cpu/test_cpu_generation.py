"""Batched generation: as one by one, with the model's log-probs, and failures told to those who asked."""

import random
import threading
import time
from concurrent import futures

import pytest
import tiny
import torch

from grail_verl.cpu import generation
from grail_verl.cpu.generation import Generator, Request

pytestmark = pytest.mark.fast

VOCABULARY = 300  # the model's output layer has 320
WAIT = 60


def policy(architecture="qwen3"):
    return tiny.model(architecture, vocabulary=320).eval()


def generator(model, max_rows=64, max_prefill=4096) -> Generator:
    started = Generator(model, VOCABULARY, max_rows, max_prefill)
    started.start()
    return started


def requests(count: int, seed: int = 0, **options) -> list[Request]:
    draw = random.Random(seed)
    made = []
    for index in range(count):
        settings = dict(temperature=1.0, top_k=2**62, top_p=1.0, stop=frozenset({1}), seed=index)
        prompt = [draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, 25))]
        made.append(Request(prompt=prompt, max_tokens=draw.randrange(1, 40), **{**settings, **options}))
    return made


def answers(server: Generator, asked: list[Request]) -> list[tuple[list[int], list[float]]]:
    """(tokens, log-probs) of each, all come to their end."""
    responses = [future.result(WAIT) for future in [server.submit(request) for request in asked]]
    assert not any(response.aborted for response in responses)
    return [(response.tokens, response.logprobs) for response in responses]


def teacher_forced(model, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """log-probs of `tokens`, by one forward pass over the whole sequence without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1, :VOCABULARY]
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).squeeze(1)


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
@pytest.mark.parametrize("max_rows", [64, 5])  # 5: most wait, and join a batch that is running
def test_log_probs_are_those_of_the_model(architecture, max_rows):
    model = policy(architecture)
    asked = requests(30)
    for request, (tokens, logprobs) in zip(asked, answers(generator(model, max_rows), asked), strict=True):
        assert len(tokens) == len(logprobs) and 1 <= len(tokens) <= request.max_tokens
        assert 1 not in tokens[:-1] and (tokens[-1] == 1 or len(tokens) == request.max_tokens)
        torch.testing.assert_close(
            torch.tensor(logprobs), teacher_forced(model, request.prompt, tokens), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batched_equals_one_by_one(temperature):
    model = policy()
    batched = answers(generator(model, max_prefill=60), requests(20, temperature=temperature))
    alone = [
        answers(generator(model, max_rows=1), [request])[0]
        for request in requests(20, temperature=temperature)
    ]
    assert [tokens for tokens, _ in batched] == [tokens for tokens, _ in alone]


def test_greedy_follows_the_argmax():
    model = policy()
    (request,) = requests(1, temperature=0.0, stop=frozenset())
    tokens, _ = answers(generator(model), [request])[0]
    with torch.no_grad():
        logits = model(torch.tensor([request.prompt + tokens])).logits[
            0, len(request.prompt) - 1 : -1, :VOCABULARY
        ]
    assert tokens == logits.argmax(-1).tolist() and len(tokens) == request.max_tokens


def test_a_seed_decides_a_response_and_other_seeds_differ():
    server = generator(policy())
    same = [Request([5, 6, 7], 20, frozenset(), 1.0, 2**62, 1.0, seed) for seed in (3, 3, 4)]
    first, second, other = (tokens for tokens, _ in answers(server, same))
    assert first == second != other


def test_finished_rows_leave_a_batch_that_goes_on(monkeypatch):
    model, widths = policy(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: widths.append(len(inputs["input_ids"])) or forward(**inputs)
    )
    made = [
        Request([9, index], 3 if index else 30, frozenset(), 1.0, 2**62, 1.0, index) for index in range(10)
    ]
    lengths = [len(tokens) for tokens, _ in answers(generator(model), made)]
    assert lengths == [30] + [3] * 9
    assert widths[0] == 10 and widths[-20:] == [1] * 20


def test_siblings_share_one_prefill(monkeypatch):
    model, shapes = policy(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: shapes.append(inputs["input_ids"].shape) or forward(**inputs)
    )
    made = [Request([9, 8, 7 + index % 2], 2, frozenset(), 1.0, 2**62, 1.0, index) for index in range(8)]
    answers(generator(model), made)
    assert list(map(tuple, shapes)) == [(2, 3), (8, 1)]


def test_an_error_reaches_its_requests_and_no_later_one(monkeypatch):
    model = policy()
    server, forward = generator(model), model.forward

    def fails(**inputs):
        raise ArithmeticError("no such number")

    monkeypatch.setattr(model, "forward", fails)
    for future in [server.submit(request) for request in requests(3)]:
        with pytest.raises(ArithmeticError, match="no such number"):
            future.result(WAIT)
    monkeypatch.setattr(model, "forward", forward)
    assert len(answers(server, requests(3))) == 3


def test_a_cancelled_request_is_left_out():
    server = generator(policy(), max_rows=1)
    running, *waiting = requests(4, stop=frozenset())
    first, *rest = [server.submit(request) for request in (running, *waiting)]
    cancelled = rest[0].cancel()
    assert len(first.result(WAIT).tokens) == running.max_tokens
    assert [len(future.result(WAIT).tokens) for future in rest[cancelled:]] == [
        request.max_tokens for request in waiting[cancelled:]
    ]


def test_new_weights_are_what_generates():
    model, other = policy(), tiny.model(seed=1).eval()
    server = generator(model)
    before = answers(server, requests(5, temperature=0.0))
    server.load_weights(other.state_dict())
    after = answers(server, requests(5, temperature=0.0))
    assert before != after == answers(generator(other), requests(5, temperature=0.0))
    with pytest.raises(KeyError, match="no.such.weight"):
        server.load_weights({"no.such.weight": torch.zeros(1)})


def paused_midway(model, monkeypatch, asked: list[Request], max_rows: int):
    """A generator paused when it has drawn a few tokens, and the futures of what it was asked."""
    midway, forward, calls = threading.Event(), model.forward, []

    def counts(**inputs):
        calls.append(1)
        if len(calls) == 5:
            midway.set()
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", counts)
    server = generator(model, max_rows)
    submitted = [server.submit(request) for request in asked]
    assert midway.wait(WAIT)
    server.pause()
    return server, submitted


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_aborted_response_goes_on_from_its_tokens(monkeypatch, temperature):
    model = policy()
    asked = requests(3, stop=frozenset(), temperature=temperature)
    for request in asked:
        request.max_tokens = 300
    server, submitted = paused_midway(model, monkeypatch, asked, max_rows=64)
    begun = [future.result(WAIT) for future in submitted]
    assert all(response.aborted and 5 <= len(response.tokens) < 300 for response in begun)

    resumed = [
        Request(request.prompt + response.tokens, 300 - len(response.tokens), frozenset(), temperature, 2**62, 1.0, 7)
        for request, response in zip(asked, begun, strict=True)
    ]
    rests = [server.submit(request) for request in resumed]
    with pytest.raises(futures.TimeoutError):  # it is still paused
        rests[0].result(0.2)
    server.resume()
    for request, response, future in zip(asked, begun, rests, strict=True):
        rest = future.result(WAIT)
        tokens, logprobs = response.tokens + rest.tokens, torch.tensor(response.logprobs + rest.logprobs)
        assert len(tokens) == 300 and not rest.aborted
        torch.testing.assert_close(logprobs, teacher_forced(policy(), request.prompt, tokens), atol=1e-5, rtol=0)
    if temperature == 0:
        whole = [Request(request.prompt, 300, frozenset(), 0.0, 2**62, 1.0, 0) for request in asked]
        assert [tokens for tokens, _ in answers(server, whole)] == [
            response.tokens + future.result(WAIT).tokens for response, future in zip(begun, rests, strict=True)
        ]


def test_requests_that_have_not_begun_wait_for_the_next_policy(monkeypatch):
    model, other = policy(), tiny.model(seed=1).eval()
    first, second = requests(2, temperature=0.0, stop=frozenset())
    first.max_tokens = 300
    server, (begun, waits) = paused_midway(model, monkeypatch, [first, second], max_rows=1)
    assert begun.result(WAIT).aborted and not waits.done()
    server.load_weights(other.state_dict())
    server.resume()
    (expected,) = answers(generator(other), requests(2, temperature=0.0, stop=frozenset())[1:])
    assert waits.result(WAIT).tokens == expected[0]


def test_a_replica_that_leaves_sends_back_whom_it_has_not_begun_with(monkeypatch):
    """Those that wait already, those that come, and after the next pause those that come wait again."""
    first, waiting, coming, again = requests(4, temperature=0.0, stop=frozenset())
    first.max_tokens = 300
    server, (begun, waits) = paused_midway(policy(), monkeypatch, [first, waiting], max_rows=1)
    server.pause(refuse=True)
    assert begun.result(WAIT).tokens
    assert waits.result(WAIT) == server.submit(coming).result(WAIT) == ([], [], True)
    server.pause()
    kept = server.submit(again)
    with pytest.raises(futures.TimeoutError):
        kept.result(0.2)
    server.resume()
    assert not kept.result(WAIT).aborted


def test_a_pause_that_ends_after_a_resume_holds():
    """Both from threads of their own, as the server's calls are."""
    server = Generator(policy(), VOCABULARY, 4, 100)
    with server._turn:  # the model computes
        pause = threading.Thread(target=server.pause)
        pause.start()
        while not server._paused:
            time.sleep(0.001)
        server.resume()  # and is first to have its turn
    pause.join(WAIT)
    assert server._paused


def test_weights_do_not_come_in_between():
    server = Generator(policy(), VOCABULARY, 4, 100)  # not started: the turns are taken by hand
    with torch.inference_mode():
        server._advance([Request([3], 9, frozenset(), 1.0, 2**62, 1.0, 0)])
    with pytest.raises(RuntimeError, match="1 responses"):
        server.load_weights({})


def test_the_cache_grows_joins_and_shrinks_without_losing_a_column():
    def filled(rows, columns, start=0):
        layer = generation.GrowingLayer()
        values = torch.arange(start, start + rows * columns, dtype=torch.float32).reshape(rows, 1, columns, 1)
        for column in range(columns):
            keys, _ = layer.update(values[:, :, column : column + 1], -values[:, :, column : column + 1])
        assert torch.equal(keys, values) and torch.equal(layer.values, -values)
        return layer, values

    long, many = filled(2, 3 * generation.SPARE_COLUMNS)
    short, few = filled(3, 4, start=10_000)
    long.join(short)
    assert torch.equal(long.keys[:2], many) and torch.equal(long.values[2:, :, -4:], -few)
    assert not long.keys[2:, :, :-4].any()
    long.select(torch.tensor([4, 0]), start=many.shape[2] - 6)
    assert torch.equal(long.keys[0, 0, :, 0], torch.cat([torch.zeros(2), few[2, 0, :, 0]]))
    assert torch.equal(long.keys[1, 0, :, 0], many[0, 0, -6:, 0])

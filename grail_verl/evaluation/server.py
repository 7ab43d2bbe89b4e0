"""Responses by a running server that speaks OpenAI's protocol, as `vllm serve` does.

Fourth room, with a server: problems → settings → *server* → results. One request for each sample, many at a time;
the `openai` client retries what may pass by (a connection, a time-out, 429, 5xx). Anything else ends the
evaluation: an average over the responses that came would be another number.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.progress import track

from grail_verl.command import CommandError
from grail_verl.evaluation.problems import Problem
from grail_verl.evaluation.settings import Sampling

try:
    import openai
except ImportError:  # said when it is asked for
    openai = None

CONCURRENT = 128  # vLLM batches what it has room for and queues the rest
RETRIES = 5  # the client waits longer from one to the next
SECONDS = 3600  # for one response: 8192 tokens, and its wait in the server's queue
SECONDS_TO_ANSWER = 20  # for the first question, whether it is there
GRADERS = 4  # threads


def check_server(url: str, model: str) -> None:
    """Raises CommandError unless a server at `url` answers and serves `model`, or where `openai` is missing."""
    if openai is None:
        raise CommandError('--server needs the package openai: pip install "grail-verl[math]"')
    asyncio.run(_check(url, model))


def ask_server(
    url: str, model: str, problems: list[Problem], sampling: Sampling, grade: Callable[..., dict]
) -> list[dict]:
    """Every response, graded.

    Args:
        url: of the server, with or without the `/v1`. The environment's OPENAI_API_KEY is sent if it is set.
        model: the name it is served by.
        problems: in any order.
        sampling: how responses are drawn.
        grade: verl's score function: data_source, solution_str, ground_truth, extra_info → dict. Called in threads.

    Returns:
        Samples as results.py wants them, but for the ground truth.

    Raises:
        CommandError: a request that failed for good, in the server's words.
    """
    return asyncio.run(_ask(url, model, problems, sampling, grade))


def _client(url: str, **options):
    base = url.rstrip("/").removesuffix("/v1")
    return openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=os.environ.get("OPENAI_API_KEY") or "none", **options)


async def _check(url: str, model: str) -> None:
    try:
        async with _client(url, timeout=SECONDS_TO_ANSWER, max_retries=0) as client:
            served = [entry.id async for entry in client.models.list()]
    except openai.OpenAIError as error:
        raise CommandError(f"no OpenAI-compatible server answers at {url}: {_words(error)}") from error
    if model not in served:
        raise CommandError(f"the server at {url} serves {', '.join(served) or 'nothing'}, not {model}")


async def _ask(url, model, problems, sampling, grade) -> list[dict]:
    room = asyncio.Semaphore(CONCURRENT)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(GRADERS) as graders:
        async with _client(url, timeout=SECONDS, max_retries=RETRIES) as client:

            async def sample(problem: Problem, number: int) -> dict:
                async with room:
                    response = await _request(client, model, problem, sampling)
                graded = await loop.run_in_executor(
                    graders, lambda: grade(problem.benchmark, response["output"], problem.ground_truth, {})
                )
                return {**graded, **response, "benchmark": problem.benchmark, "index": problem.index, "sample": number}

            tasks = [
                asyncio.create_task(sample(problem, number))
                for problem in problems
                for number in range(sampling.samples)
            ]
            arriving = track(
                asyncio.as_completed(tasks), "asking the server", len(tasks), console=Console(stderr=True)
            )
            try:
                return [await done for done in arriving]
            finally:  # the first that fails ends the others, before the client that they use
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def _request(client, model: str, problem: Problem, sampling: Sampling) -> dict:
    try:
        completion = await client.chat.completions.create(
            model=model,
            messages=problem.prompt,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_response_length,
            extra_body={
                "top_k": sampling.top_k,
                # vLLM would take these from the model's generation_config.json; verl's validation does not.
                "repetition_penalty": 1.0,
                "min_p": 0.0,
                "chat_template_kwargs": sampling.chat_template,
            },
        )
    except openai.OpenAIError as error:
        where = f"{problem.benchmark} index {problem.index}"
        raise CommandError(f"{where}: the server failed: {_words(error)}") from error
    choice = completion.choices[0]
    return {
        "output": whole_text(choice.message),
        "response_tokens": completion.usage.completion_tokens,
        "truncated": choice.finish_reason == "length",
    }


def whole_text(message) -> str:
    """A response's text; raises CommandError where the server has put a part of it elsewhere."""
    if getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None):
        raise CommandError(
            "the server splits responses, of which all is graded: start it without --reasoning-parser"
        )
    return message.content or ""


def _words(error: Exception) -> str:
    """With the server's own, which not every version of `openai` shows."""
    body = getattr(error, "body", None)
    return str(error) if body is None or str(body) in str(error) else f"{error}: {body}"

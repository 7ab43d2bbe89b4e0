"""The two ways to responses: a server that is asked over HTTP, and verl's validation; and the same from both.

The server is FastAPI around transformers' `generate`, with the requests and responses of vLLM's. `transformers
serve` would not do: it refuses `top_k` (422), and its list of models fails for one that has no hub name.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny
import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from runs import boxing_policy
from transformers import AutoModelForCausalLM, AutoTokenizer

from grail_verl.__main__ import main
from grail_verl.command import CommandError
from grail_verl.evaluation import server
from grail_verl.reward import compute_score

LIMIT = 12  # tokens: enough for a box, not for what the policy makes of 2 1 0
LONGEST = 30  # tokens: 3 + 4 with its template (18) and such a response, not the long question (32)
TEMPLATE = tiny.CHAT_TEMPLATE.replace(
    "assistant: ", "{% if enable_thinking is defined and not enable_thinking %}quiet {% endif %}assistant: "
)
QUESTIONS = {
    "math500": [("3 + 4", "7"), ("3 + 4", "6"), ("0 1 2 3 4 5 6 7 8 9 and so on", "7"), ("2 1 0", "7")],
    "amc23": [("3 + 4", "none"), ("3 + 4", "none")],
}


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[dict]
    temperature: float
    top_p: float
    max_tokens: int
    top_k: int
    repetition_penalty: float
    min_p: float
    chat_template_kwargs: dict


class Served:
    """A policy behind OpenAI's protocol; `failing` of its responses to come are errors of the server's."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.requests, self.prompts, self.failing, self.lock = [], [], 0, threading.Lock()
        self.app = FastAPI()
        self.app.get("/v1/models")(lambda: {"object": "list", "data": [{"id": "policy", "object": "model"}]})
        self.app.post("/v1/chat/completions")(self.complete)

    def complete(self, request: Request) -> dict:
        with self.lock:
            if self.failing:
                self.failing -= 1
                raise HTTPException(503, "restarting")
            self.requests.append(request)
            inputs = self.tokenizer.apply_chat_template(
                request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True,
                **request.chat_template_kwargs,
            )  # fmt: skip
            prompt = inputs["input_ids"]
            self.prompts.append(self.tokenizer.decode(prompt[0]))
            drawn = {"do_sample": False}
            if request.temperature:
                drawn = {"do_sample": True} | request.model_dump(include={"temperature", "top_p", "top_k", "min_p"})
            output = self.model.generate(
                **inputs, max_new_tokens=request.max_tokens, repetition_penalty=request.repetition_penalty, **drawn
            )
        response = output[0, prompt.shape[1] :]
        ended = response[-1] == self.tokenizer.eos_token_id
        message = {"role": "assistant", "content": self.tokenizer.decode(response, skip_special_tokens=True)}
        return {
            "id": "0", "object": "chat.completion", "created": 0, "model": request.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop" if ended else "length"}],
            "usage": {
                "prompt_tokens": prompt.shape[1], "completion_tokens": len(response),
                "total_tokens": output.shape[1],
            },
        }  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A policy that boxes 6 or 7 when asked 3 + 4, and two benchmarks of four and two problems."""
    folder = tmp_path_factory.mktemp("it's = a, run")  # what Hydra would take for its own grammar
    torch.manual_seed(0)
    boxing_policy(folder / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "policy")
    for name, problems in QUESTIONS.items():
        rows = [
            {
                "data_source": name,
                "prompt": [{"role": "user", "content": question}],
                "reward_model": {"style": "rule", "ground_truth": truth},
                "extra_info": {"index": 10 * index},
            }
            for index, (question, truth) in enumerate(problems)
        ]
        (folder / "data").mkdir(exist_ok=True)
        pd.DataFrame(rows).to_parquet(folder / "data" / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def served(home):
    served = Served(home / "policy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(served.app, port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    served.url = f"http://127.0.0.1:{port}"
    yield served
    running.should_exit = True
    thread.join()


def ask(home, url: str, out: str, *overrides: str) -> list[dict]:
    main(
        ["evaluate", "policy", "--data", str(home / "data"), "--out", str(home / out), "--server", url,
         f"data.max_response_length={LIMIT}", *overrides]
    )  # fmt: skip
    return rows(home / out)


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]


def test_a_server_is_asked_at_the_published_settings(home, served):
    before = len(served.requests)
    found = ask(home, served.url, "asked")
    assert [(row["benchmark"], row["index"], row["sample"]) for row in found] == [
        (benchmark, 10 * number, sample)
        for benchmark, problems in QUESTIONS.items()
        for number in range(len(problems))
        for sample in range(3)
    ]
    asked = served.requests[before:]
    assert len(asked) == 18
    for request in asked:
        assert (request.temperature, request.top_p, request.top_k) == (0.6, 0.95, 20)
        assert (request.max_tokens, request.repetition_penalty, request.chat_template_kwargs) == (LIMIT, 1.0, {})
    for row in found:
        graded = compute_score(row["benchmark"], row["output"], row["ground_truth"])
        assert all(row[name] == graded[name] for name in ("acc", "answer_found", "grading_failed"))
        assert row["response_tokens"] == LIMIT or not row["truncated"]
    written = json.loads((home / "asked" / "results.json").read_text())
    assert written["server"] == served.url and written["sampling"]["samples"] == 3
    assert written["benchmarks"]["math500"]["accuracy"] == sum(row["acc"] for row in found[:12]) / 12


def test_errors_that_pass_by_are_tried_again(home, served):
    served.failing = 3
    found = ask(home, served.url, "again", "+data.apply_chat_template_kwargs.enable_thinking=false")
    assert len(found) == 18 and served.failing == 0
    assert all(prompt.endswith("quiet assistant: ") for prompt in served.prompts[-18:])


def test_an_error_that_stays_ends_the_evaluation(home, served, monkeypatch):
    monkeypatch.setattr(server, "RETRIES", 1)
    served.failing = 1000
    with pytest.raises(SystemExit, match="the server failed: .*restarting"):
        ask(home, served.url, "failed")
    served.failing = 0
    assert not (home / "failed").exists()


def test_a_server_that_is_not_there_or_serves_another_model_is_refused(served, monkeypatch):
    with pytest.raises(CommandError, match="no OpenAI-compatible server answers at http://127.0.0.1:9"):
        server.check_server("http://127.0.0.1:9", "policy")
    with pytest.raises(CommandError, match="serves policy, not other"):
        server.check_server(served.url, "other")
    server.check_server(served.url + "/v1/", "policy")
    monkeypatch.setattr(server, "openai", None)
    with pytest.raises(CommandError, match="needs the package openai"):
        server.check_server(served.url, "policy")


def test_a_server_that_splits_off_the_reasoning_is_refused(served):
    message = SimpleNamespace(content="7", reasoning="3 + 4 is 7")
    with pytest.raises(CommandError, match="--reasoning-parser"):
        server.whole_text(message)


@pytest.mark.end_to_end
@pytest.mark.sweep
def test_verls_validation_and_a_server_give_the_same_and_compare_says_so(home, served):
    """Without chance, and with a chat template that is told something."""
    greedy = [
        "actor_rollout_ref.rollout.val_kwargs.temperature=0", "+data.apply_chat_template_kwargs.enable_thinking=false",
    ]  # fmt: skip
    command = [
        sys.executable, "-m", "grail_verl", "evaluate", str(home / "policy"), "--data", str(home / "data"),
        "--out", str(home / "verl"), "+grail=cpu", f"data.max_response_length={LIMIT}", *greedy,
    ]  # fmt: skip
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    assert "weighted" in done.stdout

    by_verl = rows(home / "verl")
    assert by_verl == ask(home, served.url, "greedy", *greedy)
    assert len(by_verl) == 18 and {row["truncated"] for row in by_verl} == {True, False}
    assert {row["acc"] for row in by_verl} == {0.0, 1.0}
    results = json.loads((home / "verl" / "results.json").read_text())
    assert results["benchmarks"]["amc23"]["accuracy"] == 0 and results["server"] is None
    assert results["sampling"]["chat_template"] == {"enable_thinking": False}

    main(["compare", str(home / "verl"), str(home / "greedy"), "--out", str(home / "compared")])
    compared = pd.read_csv(home / "compared" / "compare.csv")
    assert (compared[["difference", "low", "high"]] == 0).all(axis=None)

    again = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=600)
    assert again.returncode == 1 and "holds a finished evaluation" in again.stderr


@pytest.mark.end_to_end
def test_a_validation_that_fails_shows_why(home):
    with pytest.raises(SystemExit) as end:
        main(
            ["evaluate", str(home / "policy"), "--data", str(home / "data" / "amc23.parquet"),
             "--out", str(home / "nothing"), "+grail=cpu", "actor_rollout_ref.rollout.temperature=0"]
        )  # fmt: skip
    assert "temperature should be greater than 0" in str(end.value) and "ended with exit code 1" in str(end.value)
    assert os.listdir(home / "nothing") == ["verl"]


@pytest.mark.sweep
def test_a_generation_that_fails_in_verl_is_missed(home):
    """The rollout has no room for the longest prompt; verl goes on without its responses."""
    with pytest.raises(SystemExit) as end:
        main(
            ["evaluate", str(home / "policy"), "--data", str(home / "data"), "--out", str(home / "missing"),
             "+grail=cpu", f"data.max_response_length={LIMIT}", f"actor_rollout_ref.rollout.max_model_len={LONGEST}"]
        )  # fmt: skip
    assert "3 of 18 samples are missing (3 of math500)" in str(end.value)
    assert sorted(os.listdir(home / "missing")) == ["responses.jsonl", "verl"]
    assert {row["index"] for row in rows(home / "missing") if row["benchmark"] == "math500"} == {0, 10, 30}

"""Comparisons with a second engine of a served model: one at a time, and no stream waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pyroclast import (
    LLM,
    AsyncLLM,
    ClosedError,
    MemoryBudgetError,
    RequestError,
    SamplingParams,
    lens,
)
from pyroclast.model.model import Model
from pyroclast.server import look_compare, look_variants
from pyroclast.server.errors import HttpError
from pyroclast.server.look import Look
from pyroclast.server.look_variants import Variants
from server_at import RunningServer, serving
from tiny import CONFIGS, random_weights, write_gguf

IDS = [256, 7, 99, 3, 7]
COARSE = lens.Variant(weights="q4_0")
PARAMS = {"temperature": 1.1, "seed": 4, "ignore_eos": True}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("look") / "tiny.gguf"
    write_gguf(path, CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    with LLM(path, threads=1, speculation="off") as llm:
        yield llm


@pytest.fixture(scope="module")
def running(llm: LLM) -> Iterator[RunningServer]:
    with serving({"tiny": AsyncLLM.of(llm)}, look=Look()) as running:
        yield running


def ask(running: RunningServer, **body: Any) -> httpx.Response:
    given = {"token_ids": IDS, "a": {"params": PARAMS}, "max_tokens": 12, **body}
    return httpx.post(f"{running.url}/look/api/compare", json=given, timeout=60)


def test_a_variant_of_weights_that_have_changed_is_not_lent(tmp_path: Path) -> None:
    path, kept = tmp_path / "tiny.gguf", Variants()
    write_gguf(path, CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    with LLM(path, threads=1) as llm:
        with kept.lent(llm, COARSE) as first:
            pass
        with kept.lent(llm, COARSE) as again:
            assert again is first
        llm.update_weights({"output_norm.weight": np.full(llm.model.config.d_model, 2.0)})  # type: ignore[attr-defined]
        with pytest.raises(RequestError, match="updated since"), kept.lent(llm, COARSE):
            pass
        kept.close()
        with pytest.raises(ClosedError), kept.lent(llm, lens.Variant(kv_dtype="f32")):
            pass


def test_the_answer_is_that_of_python(running: RunningServer, llm: LLM) -> None:
    changes: list[dict[str, Any]] = [{"weights": "q4_0"}, {"kernels": "norm=numpy"}]
    for change in changes:
        with lens.variant(llm, lens.Variant(**change)) as other:
            sides = [lens.Setting(each, SamplingParams(**PARAMS)) for each in (llm, other)]
            want = lens.compare(*sides, IDS, max_tokens=12)
            back = lens.compare(*sides[::-1], IDS, max_tokens=12)
        found = ask(running, b={"variant": change, "params": PARAMS}).json()
        assert [each["id"] for each in found["a"]] == [each.id for each in want.a]
        assert [each["id"] for each in found["b"]] == [each.id for each in want.b]
        assert (
            found["kl"] == want.kl.tolist() and found["first_difference"] == want.first_difference
        )
        first = {"variant": change, "params": PARAMS}
        found = ask(running, a=first, b={"params": PARAMS}).json()
        assert found["kl"] == back.kl.tolist()


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ({}, "must differ in one of"),
        ({"weights": "q4_k_m"}, "weights must be one of"),
        ({"kv_dtype": "int3"}, "kv_dtype must be one of"),
        ({"kernels": "matmul=fortran"}, "no variant"),
        ({"kernels": "x" * 1001}, "1000"),
        ({"kernels": 5}, "str"),
    ],
)
def test_refusals(running: RunningServer, variant: Any, said: str) -> None:
    answer = ask(running, b={"variant": variant})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_two_variants_at_once_are_refused(running: RunningServer) -> None:
    side = {"variant": {"weights": "q4_0"}}
    answer = ask(running, a=side, b=side)
    assert answer.status_code == 400 and "only one side" in answer.text


def test_no_memory_and_no_time_are_told(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_compare, "_TIMEOUT_S", 1e-9)
    answer = ask(running, b={"params": PARAMS})
    assert answer.status_code == 400 and "longer than 1e-09 s" in answer.text

    def full(*_: Any, **__: Any) -> LLM:
        raise MemoryBudgetError("a second engine needs 9 MiB")

    monkeypatch.setattr(look_variants.lens, "variant", full)
    answer = ask(running, b={"variant": {"kv_dtype": "f16"}})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "60"
    assert "needs 9 MiB" in answer.text


def test_streams_and_other_views_go_on_while_one_is_made(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun, make = threading.Event(), threading.Event(), lens.variant

    def slow(*args: Any, **options: Any) -> LLM:
        begun.set()
        assert gate.wait(60)
        return make(*args, **options)

    monkeypatch.setattr(look_variants.lens, "variant", slow)
    with ThreadPoolExecutor(6) as pool:
        asked = {"b": {"variant": {"kv_dtype": "f32"}, "params": PARAMS}}
        waiting = [pool.submit(ask, running, **asked) for _ in range(4)]
        assert begun.wait(60)
        body = {"prompt": IDS, "max_tokens": 20, "ignore_eos": True}
        assert httpx.post(f"{running.url}/v1/completions", json=body, timeout=60).is_success
        url = f"{running.url}/look/api/layers"
        assert httpx.post(url, json={"token_ids": IDS}, timeout=60).is_success
        deadline = time.monotonic() + 60
        while ask(running, **asked).status_code != 429:  # until all four are there
            assert time.monotonic() < deadline
        gate.set()
        assert [each.result().status_code for each in waiting] == [200] * 4


@pytest.mark.parametrize("change", [None, {"kv_dtype": "f32"}], ids=["plain", "variant"])
def test_a_comparison_ends_when_its_client_leaves(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any] | None
) -> None:
    """Long before the tokens that it was asked for; then its thread is free again."""
    ended, compare = threading.Event(), lens.compare
    errors: list[Exception] = []

    def noted(*args: Any, **options: Any) -> Any:
        try:
            return compare(*args, **options)
        except Exception as error:
            errors.append(error)
            raise
        finally:
            ended.set()

    slow = SlowSteps(monkeypatch)
    monkeypatch.setattr(look_compare.lens, "compare", noted)
    side = {"params": PARAMS} | ({} if change is None else {"variant": change})
    body = {"token_ids": IDS, "a": {"params": PARAMS}, "b": side, "max_tokens": 200}
    timeout = httpx.Timeout(30, read=1.0)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{running.url}/look/api/compare", json=body, timeout=timeout)
    assert ended.wait(30) and slow.n_steps < 200
    assert [str(error) for error in errors] == ["the comparison was stopped"]
    slow.delay_s = 0.0
    assert ask(running, b=side).is_success


class SlowSteps:
    """Every step of any model sleeps for delay_s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_steps, self.delay_s, forward = 0, 0.05, Model.forward

        def slowed(model: Model, *args: Any, **options: Any) -> None:
            self.n_steps += 1
            time.sleep(self.delay_s)
            forward(model, *args, **options)

        monkeypatch.setattr(Model, "forward", slowed)


def closed(llm: LLM) -> bool:
    try:
        llm.logits([1])
    except ClosedError:
        return True
    return False


def test_one_is_kept_until_another_is_asked_for_or_nobody_uses_it(llm: LLM) -> None:
    variants = Variants(idle_s=0.05)
    with variants.lent(llm, COARSE) as first:
        time.sleep(0.1)
        assert not closed(first)  # not while it is used
        first.logits(IDS)
    deadline = time.monotonic() + 60
    while not closed(first):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    variants = Variants()
    with variants.lent(llm, COARSE) as first:
        pass
    with variants.lent(llm, COARSE) as second:
        assert second is first
    with variants.lent(llm, lens.Variant(kv_dtype="f32")) as third:
        assert closed(first)
        variants.close()
        assert closed(third) and not closed(llm)
    with pytest.raises(ClosedError), variants.lent(llm, COARSE):
        pass


def test_the_server_s_end_frees_it(llm: LLM) -> None:
    look = Look()
    with serving({"tiny": AsyncLLM.of(llm)}, look=look) as running:
        assert ask(running, b={"variant": {"kv_dtype": "f16"}}).is_success
        kept = look._room.variants._kept
        assert kept is not None and not closed(kept[2])
    assert closed(kept[2])


def test_errors_of_making_leave_nothing_behind(llm: LLM) -> None:
    variants = Variants()
    wrong = lens.Variant(kernels="matmul=fortran")
    with pytest.raises(HttpError, match="no variant"), variants.lent(llm, wrong):
        pass
    with variants.lent(llm, COARSE) as found:
        assert not closed(found)
    variants.close()

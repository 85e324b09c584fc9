"""`pyroclast rate`: what it stores, what its page may do, and whom it answers."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from pyroclast.cli.main import main
from pyroclast.errors import TrainingError
from pyroclast.sampling.params import SamplingParams
from pyroclast.server.rate.app import RateApp
from pyroclast.train.prompts import read_pairs
from pyroclast.train.rating_session import RatingSession
from pyroclast.train.ratings import Pair, Ratings

PROMPTS = ["first", [{"role": "user", "content": "second"}]]


@dataclass
class Answer:
    text: str


class FakeLLM:
    """Answers with the seed that it was given; always the same where the prompt says "same"."""

    name = "fake"

    def generate(self, prompt: str, params: SamplingParams) -> list[Answer]:
        each = (0, 0) if prompt == "same" else (0, 1)
        return [Answer(f"{prompt} {params.seed} {i}") for i in each]

    def chat(self, messages: Any, params: SamplingParams) -> list[Answer]:
        return self.generate(messages[-1]["content"], params)


@pytest.fixture
def ratings(tmp_path: Path) -> Iterator[Ratings]:
    with Ratings(tmp_path / "ratings.sqlite") as found:
        yield found


def session_of(ratings: Ratings, prompts: list[Any] = PROMPTS, **options: Any) -> RatingSession:
    llm: Any = FakeLLM()
    return RatingSession(llm, prompts, ratings, SamplingParams(seed=5), **options)


def test_ratings_survive_and_are_undone(tmp_path: Path) -> None:
    path = tmp_path / "ratings.sqlite"
    with Ratings(path) as ratings:
        session = session_of(ratings, rounds=2)
        first = session.next()
        assert first is not None and first.a != first.b
        ratings.rate(first.id, "b")
    with Ratings(path) as ratings:
        session = session_of(ratings, rounds=2)
        second = session.next()
        assert second is not None and second.prompt == PROMPTS[1]
        ratings.rate(second.id, "a")
        assert ratings.undo() == second == session.next(), "it is asked for again"
        ratings.rate(second.id, "skip")
        third = session.next()
        assert third is not None and third.prompt == "first"
        assert (third.a, third.b) != (first.a, first.b), "a round has its own answers"
        ratings.rate(third.id, "a")
        assert ratings.export() == [
            {"prompt": "first", "chosen": first.b, "rejected": first.a},
            {"prompt": "first", "chosen": third.a, "rejected": third.b},
        ]
        assert (session.n_done, session.n_wanted) == (3, 4)
        fourth = session.next()
        assert fourth is not None
        ratings.rate(fourth.id, "b")
        assert session.next() is None
        for pair in (fourth, third, second, first):
            assert ratings.undo() == pair
        assert ratings.undo() is None and ratings.n_rated() == 0


def test_answers_that_are_the_same_are_not_asked_about(ratings: Ratings) -> None:
    session = session_of(ratings, ["same", "other"])
    pair = session.next()
    assert pair is not None and pair.prompt == "other"
    ratings.rate(pair.id, "a")
    assert session.next() is None and session.n_done == 2


def test_ratings_that_are_refused(ratings: Ratings, tmp_path: Path) -> None:
    pair = session_of(ratings).next()
    assert pair is not None
    with pytest.raises(TrainingError, match="one of a, b, skip, got 'c'"):
        ratings.rate(pair.id, "c")
    ratings.rate(pair.id, "a")
    for pair_id in (pair.id, 99):  # rated already; not there
        with pytest.raises(TrainingError, match=f"no pair {pair_id} that waits"):
            ratings.rate(pair_id, "b")
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at" * 9)
    with pytest.raises(TrainingError, match="not a file of ratings"):
        Ratings(tmp_path / "text")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE pairs (name TEXT)")
    database.close()
    with pytest.raises(TrainingError, match="not a file of ratings"):
        Ratings(other)
    with pytest.raises(TrainingError, match="cannot be opened"):
        Ratings(tmp_path / "no" / "folder")


def test_a_prompt_that_is_no_json_is_a_damaged_file(ratings: Ratings) -> None:
    ratings.add(1, "m", "one", "a", "b")
    with sqlite3.connect(ratings.path) as database:
        database.execute("UPDATE pairs SET prompt = '{', choice = 'a'")
    database.close()
    for read in (ratings.places, ratings.export):
        with pytest.raises(TrainingError, match="not a file of ratings, or damaged: Expecting"):
            read()


def test_a_full_disk_keeps_what_was_rated(ratings: Ratings) -> None:
    """A limit on SQLite's pages stands in for it."""
    pair = session_of(ratings).next()
    assert pair is not None
    ratings.rate(pair.id, "a")
    [n_pages] = ratings._database.execute("PRAGMA page_count").fetchone()
    ratings._database.execute(f"PRAGMA max_page_count = {n_pages}")
    with pytest.raises(TrainingError, match=r"cannot be read or written: .* full; what was rated"):
        ratings.add(99, "m", "x" * 100_000, "a", "b")
    assert ratings.n_rated() == 1 and len(ratings.export()) == 1


def test_ratings_of_other_prompts_are_refused(ratings: Ratings) -> None:
    assert session_of(ratings, ["one"]).next() is not None
    session_of(ratings, ["one", "two"])  # more of them
    with pytest.raises(TrainingError, match=r"ratings\.sqlite: its pair 1 answers another prompt"):
        session_of(ratings, ["two", "one"])


def asked(app: RateApp, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """The replies to (method, path, options of httpx)."""

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:1") as client:
            return [await client.request(m, path, **options) for m, path, options in requests]

    return asyncio.run(run())


def test_the_page_rates_undoes_and_exports(ratings: Ratings) -> None:
    app = RateApp(session_of(ratings), {"localhost"})
    [begin] = asked(app, ("GET", "/api/pair", {}))
    state = begin.json()
    assert (state["done"], state["wanted"]) == (0, 2)
    pair = Pair(**state["pair"])
    choice = {"json": {"id": pair.id, "choice": "a"}}
    rated, undone, again, export = asked(
        app,
        ("POST", "/api/rating", choice),
        ("POST", "/api/undo", {"json": {}}),
        ("POST", "/api/rating", choice),
        ("GET", "/api/export", {}),
    )
    assert rated.json()["done"] == 1 and rated.json()["pair"]["prompt"] == PROMPTS[1]
    assert undone.json() == state
    assert again.json() == rated.json()
    assert json.loads(export.text) == {"prompt": "first", "chosen": pair.a, "rejected": pair.b}
    last = {"json": {"id": again.json()["pair"]["id"], "choice": "skip"}}
    [end] = asked(app, ("POST", "/api/rating", last))
    assert end.json() == {"done": 2, "wanted": 2, "pair": None}


def test_files_come_from_here_and_nothing_is_inline(ratings: Ratings) -> None:
    app = RateApp(session_of(ratings), {"localhost"})
    paths = ("/", "/page.js", "/style.css")
    page, code, style = asked(app, *(("GET", path, {}) for path in paths))
    for reply in (page, code, style):
        assert reply.status_code == 200
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*src=)|<style| style=| on\w+=|https?://", page.text)
    assert "innerHTML" not in code.text and "http" not in style.text
    used = set(re.findall(r'at\("(\w+)"\)', code.text)) | {"a", "b", "skip"}
    assert used <= set(re.findall(r'id="(\w+)"', page.text))
    [head] = asked(app, ("HEAD", "/", {}))
    assert head.text == "" and head.status_code == 200


def test_requests_that_are_refused(ratings: Ratings) -> None:
    app = RateApp(session_of(ratings), {"localhost", "[::1]"})
    json_type = {"content-type": "application/json"}
    rating = ("POST", "/api/rating")
    cases: list[tuple[tuple[str, str, dict[str, Any]], int, str]] = [
        (("GET", "/api/pair", {"headers": {"host": "evil.example:1"}}), 403, "evil.example"),
        ((*rating, {"data": {"id": 1}}), 415, "content-type"),
        ((*rating, {"content": "{", "headers": json_type}), 400, "no JSON"),
        ((*rating, {"json": [1]}), 400, "JSON object"),
        ((*rating, {"json": {"id": True, "choice": "a"}}), 400, "a rating is"),
        ((*rating, {"json": {"id": 1, "choice": 2}}), 400, "a rating is"),
        ((*rating, {"json": {"id": 7, "choice": "a"}}), 400, "no pair 7"),
        ((*rating, {"json": {"id": 10**30, "choice": "a"}}), 400, "no pair of so large"),
        ((*rating, {"content": "[" * 4000, "headers": json_type}), 400, "no JSON"),
        ((*rating, {"json": {"id": 1, "choice": "a" * 5000}}), 413, "4096 bytes"),
        (("GET", "/../ratings.sqlite", {}), 404, "there is no GET"),
        (("POST", "/", {"json": {}}), 404, "there is no POST"),
    ]
    replies = asked(app, *(request for request, _, _ in cases))
    for reply, (request, status, said) in zip(replies, cases, strict=True):
        assert (reply.status_code, said in reply.json()["error"]) == (status, True), request
    [ipv6] = asked(app, ("GET", "/api/pair", {"headers": {"host": "[::1]:8001"}}))
    assert ipv6.status_code == 200 and ratings.n_rated() == 0


def test_the_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ratings(tmp_path / "ratings.sqlite") as ratings:
        pair = session_of(ratings).next()
        assert pair is not None
        ratings.rate(pair.id, "b")
    out = tmp_path / "pairs.jsonl"
    command = ["rate", "no model", "no prompts", "--ratings", str(tmp_path / "ratings.sqlite")]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--export", str(out)])
    assert read_pairs(out) == [{"prompt": "first", "chosen": pair.b, "rejected": pair.a}]
    assert "1 pair" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        main([*command, "--export", str(tmp_path)])
    command[-1] = str(tmp_path / "typo.sqlite")
    with pytest.raises(SystemExit, match="1"):
        main([*command, "--export", str(out)])
    assert "typo.sqlite: no such file" in capsys.readouterr().err
    assert len(read_pairs(out)) == 1 and not (tmp_path / "typo.sqlite").exists()


def test_an_export_does_not_replace_what_the_command_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, prompts = tmp_path / "ratings.sqlite", tmp_path / "prompts.jsonl"
    with Ratings(stored):
        pass
    prompts.write_text('{"prompt": "first"}\n')
    link = tmp_path / "link"
    link.symlink_to(prompts)
    command = ["rate", "no model", str(prompts), "--ratings", str(stored), "--export"]
    for target, source in ((stored, stored), (prompts, prompts), (link, prompts)):
        before = source.read_bytes()
        with pytest.raises(SystemExit, match="2"):
            main([*command, str(target)])
        assert f"--export must not be {source}, which would be lost" in capsys.readouterr().err
        assert source.read_bytes() == before

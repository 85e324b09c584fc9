"""Two settings side by side: the texts are the engine's, and KL is NumPy's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pyroclast import LLM, RequestError, SamplingParams, lens
from pyroclast.lens import versus
from tiny import CONFIGS, random_weights, write_gguf

IDS = [256, 7, 99, 3, 7]


@pytest.fixture(scope="module")
def q4_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """The tiny model with coarser weights."""
    path = tmp_path_factory.mktemp("versus") / "q4.gguf"
    write_gguf(path, CONFIGS["llama"], random_weights(CONFIGS["llama"]), "Q4_0")
    with LLM(path, threads=1) as llm:
        yield llm


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("heats", [(1.0, 1.0), (0.7, 1.6), (0.0, 1.0)])
def test_kl_is_that_of_both_models_on_a_s_tokens(
    tiny_llm: LLM, q4_llm: LLM, heats: tuple[float, float]
) -> None:
    params = [SamplingParams(temperature=t, seed=9, ignore_eos=True) for t in heats]
    sides = [lens.Setting(tiny_llm, params[0]), lens.Setting(q4_llm, params[1])]
    found = lens.compare(sides[0], sides[1], IDS, max_tokens=30)
    texts = []
    for side, shown in zip(sides, (found.a, found.b), strict=True):
        [answer] = side.llm.generate(IDS, side.params.replace(max_tokens=30))
        assert [piece.id for piece in shown] == answer.token_ids
        texts.append(answer.token_ids)
    rows = [llm.logits(IDS + texts[0])[4:-1].astype(np.float64) for llm in (tiny_llm, q4_llm)]
    p, q = (softmax(x / (t or 1.0)) for x, t in zip(rows, heats, strict=True))
    np.testing.assert_allclose(found.kl, (p * np.log(p / q)).sum(axis=1), rtol=1e-6, atol=1e-12)
    assert len(found.kl) == 30 and (found.kl > 0).all()
    differs = [i for i, (x, y) in enumerate(zip(*texts, strict=True)) if x != y]
    assert found.first_difference == differs[0]


@pytest.mark.parametrize("n_rows", [1, 7, 40])
def test_kl_does_not_depend_on_the_pieces_it_is_read_in(
    tiny_llm: LLM, q4_llm: LLM, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    """And no more rows of logits than fit are there at a time."""
    params = SamplingParams(temperature=1.2, seed=3, ignore_eos=True)
    sides = lens.Setting(tiny_llm, params), lens.Setting(q4_llm, params)
    ids = [7 * i % 250 for i in range(70)]
    whole = lens.compare(*sides, ids, max_tokens=40)
    shapes: list[int] = []
    rows_of = versus._rows

    def noted(*args: Any) -> Any:
        rows = rows_of(*args)
        shapes.append(len(rows))
        return rows

    monkeypatch.setattr(versus, "_ROW_BYTES", 2 * 4 * 320 * n_rows)
    monkeypatch.setattr(versus, "_rows", noted)
    found = lens.compare(*sides, ids, max_tokens=40)
    assert found.kl.tolist() == whole.kl.tolist()
    assert max(shapes) == n_rows and sum(shapes) == 2 * 40


def test_equal_settings_give_equal_texts(tiny_llm: LLM) -> None:
    side = lens.Setting(tiny_llm, SamplingParams(temperature=1.5, ignore_eos=True))
    found = lens.compare(side, side, IDS, max_tokens=20)  # b takes the seed of a
    assert found.a == found.b and found.first_difference is None
    assert found.kl.tolist() == [0.0] * 20
    other = lens.Setting(tiny_llm, SamplingParams(temperature=1.5, ignore_eos=True, seed=1))
    assert lens.compare(side, other, IDS, max_tokens=20).first_difference is not None
    short = lens.Setting(tiny_llm, SamplingParams(stop_token_ids=range(320), seed=1))
    seeded = lens.Setting(tiny_llm, SamplingParams(ignore_eos=True, seed=1))
    found = lens.compare(short, seeded, IDS, max_tokens=20)
    assert (len(found.a), len(found.b), found.first_difference) == (1, 20, 1)


def test_models_that_read_differently_are_refused(tiny_llm: LLM, demo_llm: LLM) -> None:
    with pytest.raises(RequestError, match="different vocabularies"):
        lens.compare(lens.Setting(tiny_llm), lens.Setting(demo_llm), [1, 2])
    with pytest.raises(RequestError, match="1 to 256, got 0"):
        lens.compare(lens.Setting(tiny_llm), lens.Setting(tiny_llm), IDS, max_tokens=0)


def test_kl_is_of_the_model_s_own_logits_where_a_processor_changes_them(tiny_llm: LLM) -> None:
    def only_five(_: object, logits: np.ndarray) -> np.ndarray:
        logits[np.arange(len(logits)) != 5] = -np.inf
        return logits

    params = SamplingParams(temperature=1.0, ignore_eos=True, logits_processors=(only_five,))
    b = lens.Setting(tiny_llm, SamplingParams(temperature=2.0, ignore_eos=True))
    found = lens.compare(lens.Setting(tiny_llm, params), b, IDS, max_tokens=3)
    assert [piece.id for piece in found.a] == [5, 5, 5]
    rows = tiny_llm.logits([*IDS, 5, 5])[4:].astype(np.float64)
    p, q = softmax(rows), softmax(rows / 2)
    np.testing.assert_allclose(found.kl, (p * np.log(p / q)).sum(axis=1), rtol=1e-6)

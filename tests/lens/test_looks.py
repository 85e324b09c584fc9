"""Attention, movement, layers and rotations against NumPy and the inside of one step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numpy_forward import numpy_forward
from pyroclast import LLM, lens
from pyroclast.errors import ContextOverflowError, RequestError
from pyroclast.families.hyperparameters import Hyperparameters
from tiny import CONFIGS, random_weights

IDS = np.random.default_rng(3).integers(0, 256, 21).tolist()


@pytest.fixture(scope="module")
def want() -> Any:
    return numpy_forward(CONFIGS["llama"], random_weights(CONFIGS["llama"]), IDS)


def close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(got, wanted, atol=5e-5 * float(np.abs(wanted).max()), rtol=0)


def test_attention_by_layer_and_head_and_its_mean(tiny_llm: LLM, want: Any) -> None:
    whole = lens.attention(tiny_llm, IDS)
    assert whole.weights.shape == (2, 6, 21, 21) and whole.weights.dtype == np.float32
    close(whole.weights, np.stack([layer.probs for layer in want.layers]))
    assert [piece.id for piece in whole.pieces] == IDS and not whole.is_mean
    some = lens.attention(tiny_llm, IDS, layers=[1], heads=[4, 2])
    assert (some.layers, some.heads) == ((1,), (2, 4))
    np.testing.assert_array_equal(some.weights[0], whole.weights[1, [2, 4]])
    mean = lens.attention(tiny_llm, IDS, layers=[1], heads=[4, 2], mean=True)
    assert mean.is_mean and mean.weights.shape == (1, 1, 21, 21)
    np.testing.assert_allclose(mean.weights[0, 0], some.weights[0].mean(axis=0), rtol=1e-6)


def test_layers_read_every_state_through_the_head(tiny_llm: LLM, want: Any) -> None:
    found = lens.layers(tiny_llm, IDS, position=17, k=5)
    logits = tiny_llm.logits(IDS)[17]
    assert found.position == 17 and found.piece.id == IDS[17]
    assert found.final.id == int(logits.argmax())
    assert [row.layer for row in found.rows] == [-1, 0, 1]
    last = found.rows[-1]
    order = np.argsort(-logits, kind="stable")[:5]
    assert [each.id for each in last.top] == order.tolist()
    assert [each.logit for each in last.top] == logits[order].tolist()  # to the bit
    for row, layer in zip(found.rows[1:], want.layers, strict=True):
        close(row.norm_attention, np.linalg.norm(layer.from_attention[17]))
        close(row.norm_feed_forward, np.linalg.norm(layer.from_feed_forward[17]))
    first = found.rows[0]
    assert (first.norm_attention, first.effect_attention, first.effect_feed_forward) == (0, 0, 0)
    # What every part changed adds up to the whole way of the final token's logit.
    steps = sum(row.effect_attention + row.effect_feed_forward for row in found.rows)
    weights, config = random_weights(CONFIGS["llama"]), CONFIGS["llama"]
    x = want.embedding[17].astype(np.float64)
    normed = x / np.sqrt((x * x).mean() + config.norm_eps) * weights["output_norm"]
    begin = float(weights["output"][found.final.id].astype(np.float64) @ normed)
    close(steps, logits.max() - begin)
    mid = want.embedding[17] + want.layers[0].from_attention[17]
    normed = mid / np.sqrt((mid * mid).mean() + config.norm_eps) * weights["output_norm"]
    close(found.rows[1].effect_attention, weights["output"][found.final.id] @ normed - begin)
    assert lens.layers(tiny_llm, IDS).position == 20


def test_movement_is_the_cosine_of_each_state_to_the_words(tiny_llm: LLM, want: Any) -> None:
    words = ["the", "in"]
    found = lens.movement(tiny_llm, (IDS, 12), (IDS[:13], -1), words)
    table = random_weights(CONFIGS["llama"])["token_embd"]
    ids = [tiny_llm.tokenizer.encode(word, add_special_tokens=False) for word in words]
    towards = np.stack([table[each].mean(axis=0) for each in ids])
    states = np.stack([want.embedding[12], *(layer.state[12] for layer in want.layers)])
    wanted = states @ towards.T
    wanted /= np.linalg.norm(states, axis=1)[:, None] * np.linalg.norm(towards, axis=1)
    assert found.cosines.shape == (2, 3, 2) and found.words == ("the", "in")
    close(found.cosines[0], wanted)
    np.testing.assert_array_equal(found.cosines[1], found.cosines[0])  # what follows is not seen
    assert [piece.id for piece in found.tokens] == [IDS[12]] * 2


def test_rotation_is_the_angle_of_the_rope_table(tiny_llm: LLM) -> None:
    config: Hyperparameters = CONFIGS["llama"]
    frequencies = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    found = lens.rotation(tiny_llm, [0, 1, 100])
    assert found.pairs == tuple(range(8)) and found.distances == (0, 1, 100)
    np.testing.assert_allclose(found.angles, np.outer(frequencies, [0, 1, 100]), rtol=1e-6)
    np.testing.assert_allclose(found.turns, 2 * np.pi / frequencies, rtol=1e-6)
    one = lens.rotation(tiny_llm, [7], pair=3, layer=1)
    np.testing.assert_allclose(one.angles, [[7 * frequencies[3]]], rtol=1e-6)


def test_learned_positions_rotate_nothing(tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tiny_llm.model.program()  # type: ignore[attr-defined]
    calls = [call for call in program.calls if call.kernel.op != "rope_table"]
    monkeypatch.setattr(program, "calls", calls)
    for layer, named in ((0, "layer 0"), (None, "this model")):
        with pytest.raises(RequestError, match=f"{named} rotates nothing"):
            lens.rotation(tiny_llm, [1], layer=layer)


def test_rotation_is_that_of_the_first_layer_that_rotates(
    tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tiny_llm.model.program()  # type: ignore[attr-defined]
    calls = [c for c in program.calls if (c.label, c.kernel.op) != ("layer 0", "rope")]
    monkeypatch.setattr(program, "calls", calls)
    found = lens.rotation(tiny_llm, [3])
    assert found.angles.tolist() == lens.rotation(tiny_llm, [3], layer=1).angles.tolist()
    with pytest.raises(RequestError, match="layer 0 rotates nothing"):
        lens.rotation(tiny_llm, [3], layer=0)


def test_bad_requests(tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContextOverflowError, match="at most 256 tokens, got 257"):
        lens.attention(tiny_llm, [1] * 257)
    with pytest.raises(RequestError, match="have 1,176 bytes, at most 1,175"):
        lens.attention(tiny_llm, IDS[:7], layers=[0], max_bytes=1175)
    lens.attention(tiny_llm, IDS[:7], layers=[0], max_bytes=1176)
    with monkeypatch.context() as patched:
        patched.setattr("pyroclast.lens.looks.MAX_BYTES", 1175)
        with pytest.raises(RequestError, match="choose layers, or a shorter text"):
            lens.attention(tiny_llm, IDS[:7], layers=[0], heads=[0])
    for options, said in (
        ({"layers": [2]}, r"layers must be in 0\.\.1, got 2"),
        ({"heads": [6]}, r"heads must be in 0\.\.5, got 6"),
        ({"heads": []}, "at least one"),
    ):
        with pytest.raises(RequestError, match=said):
            lens.attention(tiny_llm, IDS, **options)
    with pytest.raises(RequestError, match=r"position must be in 0\.\.20, got 21"):
        lens.layers(tiny_llm, IDS, position=21)
    with pytest.raises(RequestError, match="k must be 1 to 50"):
        lens.layers(tiny_llm, IDS, k=51)
    with pytest.raises(RequestError, match="pair must be"):
        lens.rotation(tiny_llm, [1], pair=8)
    with pytest.raises(RequestError, match="1 to 200 words"):
        lens.movement(tiny_llm, (IDS, 0), (IDS, 0), [])

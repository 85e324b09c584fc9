"""The page that `pyroclast next --html` writes holds the numbers of the public functions."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroclast import LLM, RequestError, SamplingParams, lens
from pyroclast.lens import page


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with scripts, whether npm has built the real one here or not."""
    for path in page.FOLDER.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vendor").mkdir()
    for name in ("d3.js", "page.js"):
        (tmp_path / "vendor" / name).write_text("start();")
    monkeypatch.setattr(page, "FOLDER", tmp_path)


def saved(html: str) -> Any:
    text = html.split('<script type="application/json" id="saved">')[1]
    return json.loads(text.split("</script>")[0])


@pytest.mark.usefixtures("built")
def test_the_page_holds_what_the_functions_say(tiny_llm: LLM) -> None:
    text = "the </script><b>&\u2028"
    params = SamplingParams(temperature=0.5, top_p=0.9, seed=3, logit_bias={7: 1.0})
    html = lens.draw_page(tiny_llm, text, params)
    assert "<b>" not in html and "\nstart();" in html.replace("<script>", "\n")
    found = saved(html)
    assert found["state"]["part"] == "temperature" and found["state"]["text"] == text
    assert found["state"]["seed"] == 3 and found["state"]["params"]["top_p"] == 0.9
    assert found["state"]["params"]["logit_bias"] == {"7": 1.0}
    assert found["meta"]["model"] == tiny_llm.name and found["meta"]["n_layers"] == 2
    answers = {each["name"]: each["answer"] for each in found["answers"]}
    logits = np.frombuffer(base64.b64decode(answers["next"]["logits_b64"]), "<f4")
    want = lens.next_token(tiny_llm, text)
    np.testing.assert_array_equal(logits, want.logits)
    assert answers["tokens"]["token_ids"] == list(want.token_ids)
    traced = lens.trace(tiny_llm, text, params)
    assert answers["trace"]["draw"]["token"] == traced.draw.token
    assert sum(each["n"] for each in answers["redraw"]["counts"]) == 200
    [name] = [e["text"] for e in answers["pieces"]["pieces"] if e["id"] == traced.draw.token]
    assert name == traced.draw.text


@pytest.mark.usefixtures("built")
def test_seeds_are_such_that_a_browser_holds_them(tiny_llm: LLM) -> None:
    assert saved(lens.draw_page(tiny_llm, "the"))["state"]["seed"] < 2**32
    lens.draw_page(tiny_llm, "the", SamplingParams(seed=2**53 - 1))
    with pytest.raises(RequestError, match=r"below 2\*\*53"):
        lens.draw_page(tiny_llm, "the", SamplingParams(seed=2**53))


def test_a_page_that_is_not_built_is_told(
    tiny_llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    with pytest.raises(RequestError, match="make page"):
        lens.draw_page(tiny_llm, "the")

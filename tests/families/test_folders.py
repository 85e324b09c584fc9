"""Folders of every family against transformers in float32: logits of 600 tokens with each window
and scaling in effect, and greedy text."""

from __future__ import annotations

import numpy as np
import pytest

import tiny_families
from family_folders import FamilyFolders
from pyroclast import LLM, SamplingParams
from tiny_families import N_ANSWER, PROMPT
from tiny_family_configs import MODELS

pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # torch's and transformers' own, about their insides
]
# Of the largest logit: float32 sums in another order.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_folder_equals_transformers(family_folders: FamilyFolders, name: str) -> None:
    answer, want = family_folders.answer(name), family_folders.logits(name)
    with LLM(family_folders(name), compute="float32") as llm:
        got = llm.logits(PROMPT)
        greedy = SamplingParams(temperature=0, max_tokens=N_ANSWER, ignore_eos=True)
        [completion] = llm.generate([PROMPT], greedy)
    assert float(want.std()) > 0.1
    assert np.abs(got - want).max() < TOLERANCE * np.abs(want).max()
    assert list(completion.token_ids) == answer


@pytest.mark.parametrize("name", [name for name in MODELS if "moe" in name or "oss" in name])
def test_the_prompt_reaches_every_expert(family_folders: FamilyFolders, name: str) -> None:
    """Of the last layer, or its logits would say nothing of those left out."""
    sizes = {"max_batch_tokens": len(PROMPT), "max_seqs": 1}
    with LLM(family_folders(name), compute="float32", **sizes) as llm:
        llm.generate([PROMPT], SamplingParams(max_tokens=1))
        [*_, call] = (c for c in llm.model.program().calls if c.kernel.op == "group")
        counts = np.diff(call.arguments["starts"])
    config = tiny_families.make_config(name)
    n_experts = getattr(config, "num_local_experts", None) or config.num_experts
    assert len(counts) == n_experts and counts.min() > 0
    n_active = getattr(config, "num_experts_per_tok", None) or config.top_k_experts
    assert counts.sum() == len(PROMPT) * n_active

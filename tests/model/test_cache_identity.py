"""What makes two models the same one for pages that outlive a process."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

import tiny
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ClosedError, ModelFileError
from pyroclast.families.registry import config_of
from pyroclast.families.rope import RopeScaling
from pyroclast.model import cache_identity
from pyroclast.model.cache_identity import model_digest
from pyroclast.model.model import load_model
from pyroclast.model.write_packed import write_packed
from pyroclast_kernels import tables
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.selection import Selection

CONFIG = tiny.CONFIGS["llama"]


def identity(path, **options):
    with open_checkpoint(path) as checkpoint:
        model = load_model(checkpoint, **{"threads": 1, "n_blocks": 8, **options})
    try:
        return model.cache_identity
    finally:
        model.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity")
    return tiny.write_gguf(folder / "a.gguf", CONFIG, tiny.random_weights(CONFIG), "Q8_0")


def test_a_copy_is_the_same_model(path, tmp_path):
    copy = tmp_path / "b.gguf"
    copy.write_bytes(path.read_bytes())
    same = {"threads": 2, "n_blocks": 4, "max_batch_tokens": 64, "max_seqs": 2, "max_logits": 9}
    assert identity(copy, **same) == identity(path)
    assert identity(path, hidden_layers=("final",)) == identity(path)


@pytest.mark.parametrize("name", ["layers.1.w_down", "token_embd", "layers.0.attn_norm"])
def test_one_changed_weight_is_another_model(name, tmp_path):
    weights = tiny.random_weights(CONFIG)
    plain = tiny.write_gguf(tmp_path / "a.gguf", CONFIG, weights)
    weights[name].ravel()[-1] += 1
    changed = tiny.write_gguf(tmp_path / "b.gguf", CONFIG, weights)
    a, b = identity(plain), identity(changed)
    assert a.model != b.model
    assert replace(a, model=b.model) == b


def test_what_the_config_says_counts(tmp_path):
    weights = tiny.random_weights(CONFIG)
    found = set()
    for i, changes in enumerate(({}, {"rope_theta": 1e5}, {"norm_eps": 1e-6})):
        config = replace(CONFIG, **changes)
        found.add(identity(tiny.write_gguf(tmp_path / f"{i}.gguf", config, weights)).model)
    assert len(found) == 3


def test_the_context_in_use_counts_where_frequencies_depend_on_it(path):
    scaling = RopeScaling("dynamic", 4.0, original_max_seq_len=64)
    with open_checkpoint(path) as checkpoint:
        model = load_model(checkpoint, threads=1, n_blocks=8)

    def digest(scaled, max_seq_len):
        config = config_of(replace(CONFIG, rope_scaling=scaling if scaled else None))
        return model_digest(config, model._weights, replace(model.plan, max_seq_len=max_seq_len))

    assert digest(True, 64) != digest(True, 128) != digest(True, 256)
    assert digest(False, 64) == digest(False, 256)
    model.close()


def test_compute_and_the_kv_type_count(path):
    plain = identity(path, kv_dtype="f32")
    assert identity(path, kv_dtype="f16").kv_dtype == "f16"
    assert identity(path, kv_dtype="f16").page_bytes == plain.page_bytes // 2
    assert identity(path, kv_dtype="f32", compute="float32").model != plain.model


def test_kernels_count_by_bit_group(path):
    plain = identity(path, kernels="frozen", kv_dtype="f32")
    assert identity(path, kernels="frozen,sample=numpy", kv_dtype="f32") == plain
    for rule in ("matmul=numpy", "rope=numpy", "norm=cpp-baseline"):
        found = identity(path, kernels=f"frozen,{rule}", kv_dtype="f32")
        assert found.kernels != plain.kernels, rule
        assert replace(found, kernels=plain.kernels) == plain


def test_levels_that_give_the_same_bits_are_one(path):
    rules = []
    for level in ("cpp-avx2", "cpp-avx512vnni"):
        try:
            Selection(f"frozen,*={level}").variant("norm")
        except KernelError:
            pytest.skip(f"this CPU has no {level}")
        rules.append(f"frozen,norm={level},rope={level}")
    assert identity(path, kernels=rules[0]) == identity(path, kernels=rules[1])


def test_another_build_is_another_one(path, monkeypatch):
    before = identity(path)
    monkeypatch.setattr(tables, "build_id", lambda: "other")
    assert identity(path).kernels != before.kernels


def test_the_code_that_records_a_step_counts(path, monkeypatch, tmp_path):
    """All of it is hashed, and a change in any file is another identity."""
    copies = [shutil.copytree(each, tmp_path / each.name) for each in cache_identity._CODE]
    monkeypatch.setattr(cache_identity, "_CODE", tuple(copies))
    code_digest = cache_identity.code_digest.__wrapped__
    monkeypatch.setattr(cache_identity, "code_digest", code_digest)
    before = identity(path)
    for name in (
        "model/decoder.py",
        "engine/step_writer.py",
        "pyroclast_kernels/norm/reference.py",
    ):
        changed = tmp_path / name
        content = changed.read_bytes()
        changed.write_bytes(content + b"#")
        assert identity(path).kernels != before.kernels, name
        changed.write_bytes(content)
    assert identity(path) == before


def test_a_packed_file_that_is_cut_meanwhile_has_no_identity(path, tmp_path):
    packed = tmp_path / "a.pyro"
    write_packed(str(path), str(packed), threads=1)
    with open_checkpoint(packed) as checkpoint:
        model = load_model(checkpoint, threads=1, n_blocks=8)
    os.truncate(packed, 4096)
    with pytest.raises(ModelFileError, match="the file changed while it was in use"):
        _ = model.cache_identity
    model.close()


def test_close_by_another_thread_is_told(path, monkeypatch):
    """While the weights are hashed they are there; what comes after finds a closed model."""
    with open_checkpoint(path) as checkpoint:
        model = load_model(checkpoint, threads=1, n_blocks=8)

    def closing(*arguments):
        model.close()
        return model_digest(*arguments)

    before = identity(path)
    monkeypatch.setattr("pyroclast.model.model.model_digest", closing)
    assert model.cache_identity == before
    for read in (lambda: model.block_arrays, model._read_identity):
        with pytest.raises(ClosedError, match="the model is closed"):
            read()


def test_other_machines_count_only_for_kernels_that_depend_on_them(path, monkeypatch):
    rules = {"cpp": "frozen,*=cpp-avx2", "numpy": "frozen,*=cpp-avx2,rope=numpy"}
    before = {name: identity(path, kernels=rule) for name, rule in rules.items()}
    monkeypatch.setattr(tables, "fingerprint", lambda: "other")
    after = {name: identity(path, kernels=rule) for name, rule in rules.items()}
    assert after["cpp"] == before["cpp"]
    assert after["numpy"] != before["numpy"]


def test_every_byte_of_the_weights_is_hashed(path, monkeypatch):
    """In pieces, by several threads: their number and size change nothing but the size."""
    with open_checkpoint(path) as checkpoint:
        model = load_model(checkpoint, threads=2, n_blocks=8)
    weight = model._weights.layers[0].wo[0].weight
    before = model.cache_identity
    for place in (0, weight.data.size // 2, weight.data.size - 1):
        cells = weight.data.reshape(-1)
        cells[place] ^= np.uint8(1)
        model._identity = None
        assert model.cache_identity.model != before.model
        cells[place] ^= np.uint8(1)
    model._identity = None
    assert model.cache_identity == before
    model.close()

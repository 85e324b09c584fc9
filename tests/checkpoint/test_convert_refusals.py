"""What conversion refuses, what it tells, and files that stay as they were."""

import json
import os
import resource

import pytest

import tiny
from converted import WIDE, folder_of, types_of
from pyroclast.checkpoint.convert.run import convert
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast_kernels.weights import formats


def test_what_gguf_cannot_say_is_refused(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(UnsupportedModelError, match=r"no way to say that .*activation is 'gelu'"):
        convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_window_that_llama_cpp_ignores_is_told(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.CONFIGS["mistral"])
    [note] = convert(str(folder), str(tmp_path / "m.gguf"), "f32").notes
    assert "llama.cpp ignores the attention window of 24 positions" in note


@pytest.mark.parametrize("to", ["q9_9", "iq4_nl", "Q4_K_M", ""])
def test_unknown_formats_list_the_known(tmp_path, to):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    with pytest.raises(ModelFileError, match=f"cannot convert to '{to}'; supported: f32, f16"):
        convert(str(folder), str(tmp_path / "m.gguf"), to)


def test_places_that_cannot_be_written(tmp_path):
    source = str(folder_of(tmp_path / "folder", tiny.BASE))
    with pytest.raises(ModelFileError, match="no such folder; make it first"):
        convert(source, str(tmp_path / "none" / "m.gguf"), "f32")
    with pytest.raises(ModelFileError, match="is a folder; name the file"):
        convert(source, str(tmp_path), "f32")
    convert(source, str(tmp_path / "m.gguf"), "f32")
    with pytest.raises(ModelFileError, match="is what is to be converted"):
        convert(str(tmp_path / "m.gguf"), str(tmp_path / "m.gguf"), "q8_0")
    with pytest.raises(ModelFileError, match="random weights"):
        convert("dummy:smollm2-135m", str(tmp_path / "d.gguf"), "q8_0")
    with pytest.raises(ModelFileError, match="leave out @q4_0"):
        convert(f"{source}@q4_0", str(tmp_path / "d.gguf"), "q8_0")


@pytest.mark.parametrize("cut", [20, 700, -5000])
def test_a_source_that_is_cut_short_leaves_the_old_file(tmp_path, cut):
    config = tiny.BASE
    source = tiny.write_gguf(tmp_path / "a.gguf", config, tiny.random_weights(config), "F32")
    source.write_bytes(source.read_bytes()[:cut])
    (tmp_path / "b.gguf").write_bytes(b"old")
    with pytest.raises(ModelFileError):
        convert(str(source), str(tmp_path / "b.gguf"), "q8_0")
    assert (tmp_path / "b.gguf").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_file(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    (tmp_path / "m.gguf").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(ModelFileError, match="cannot be written: File too large"):
            convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "m.gguf").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "m.gguf"]


def test_too_little_room_is_seen_before_any_work(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    real = os.statvfs

    def full(path):
        status = real(path)
        return os.statvfs_result([*status[:4], 0, *status[5:]])

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(ModelFileError, match="are needed and 0 MiB are free"):
        convert(str(folder), str(tmp_path / "m.gguf"), "f32")


def test_a_link_stays_one(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    (tmp_path / "real.gguf").write_bytes(b"old")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real.gguf")
    convert(str(folder), str(tmp_path / "link.gguf"), "f32")
    assert (tmp_path / "link.gguf").is_symlink()
    assert (tmp_path / "real.gguf").read_bytes()[:4] == b"GGUF"


def test_formats_of_the_file_are_what_was_counted(tmp_path):
    folder = folder_of(tmp_path / "folder", WIDE)
    done = convert(str(folder), str(tmp_path / "m.gguf"), "q4_k_m")
    types = list(types_of(tmp_path / "m.gguf").values())
    assert {name: row["tensors"] for name, row in done.formats.items()} == {
        name: types.count(name) for name in set(types)
    }
    assert sum(row["n_bytes"] for row in done.formats.values()) < done.n_bytes
    assert set(done.formats) <= set(formats.FORMATS)

"""Every bit of the logits behind pages from disk is the same as when they are computed: another
process wrote them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tiny
import tiny_families
from pyroclast import LLM, CacheFileError, RequestError, SamplingParams
from pyroclast.engine.pages.record import HEADER_BYTES, PageFormat
from pyroclast.engine.saved_states import SavedStates
from pyroclast.model.write_packed import write_packed
from tiny_family_configs import MODELS

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("child_paths")]

KV_DTYPES = ("f32", "f16", "bf16", "q8_0")
PROMPT = tiny_families.PROMPT[:200]
_WRITE = """
import json, sys
from pyroclast import LLM, SamplingParams
model, kv_dtype, cache_dir, prompt = sys.argv[1:]
params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
with LLM(model, kv_dtype=kv_dtype, cache_dir=cache_dir, max_batch_tokens=70, threads=2) as llm:
    llm.generate([json.loads(prompt), json.loads(prompt)[:77]], params)
"""


def write(model, kv_dtype, cache_dir, prompt=PROMPT):
    """Has another process fill the folder."""
    words = [str(model), kv_dtype, str(cache_dir), str(prompt)]
    subprocess.run([sys.executable, "-c", _WRITE, *words], check=True)


class Rows:
    """A logits processor that keeps the rows it sees."""

    def __init__(self):
        self.rows = []

    def __call__(self, token_ids, logits):
        self.rows.append(np.array(logits))
        return logits


def answer(llm, prompt=PROMPT, **changes):
    rows = Rows()
    params = SamplingParams(
        seed=3, max_tokens=8, ignore_eos=True, logprobs=2, logits_processors=[rows]
    )
    found = llm.generate([prompt], params.replace(**changes))
    return [(each.token_ids, each.logprobs) for each in found], np.stack(rows.rows), found


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("name", ["gemma3", "smollm3@q8_0"])
def test_a_restart_gives_the_same_bits(name, kv_dtype, family_folders, tmp_path):
    """With sliding windows, and with full attention over quantized weights."""
    model = family_folders.model(name)
    write(model, kv_dtype, tmp_path / "pages")
    with LLM(model, kv_dtype=kv_dtype, prefix_cache=False) as plain:
        expected, rows, _ = answer(plain)
        several, _, _ = answer(plain, n=3)
    with LLM(model, kv_dtype=kv_dtype, cache_dir=tmp_path / "pages", threads=1) as llm:
        found, found_rows, completions = answer(llm)
        assert completions[0].timings.n_cached_tokens == 192
        assert llm.n_disk_pages == 6
        assert found == expected
        np.testing.assert_array_equal(found_rows, rows)
        assert answer(llm, n=3)[0] == several
        assert answer(llm, cache_salt="other")[2][0].timings.n_cached_tokens == 0


# Of recurrent layers there are states as well; see tests/model/test_recurrent_disk.py.
HAS_STATES = ("lfm2", "qwen3_5", "granite4-hybrid", "nemotron-h")  # and what begins so


@pytest.mark.parametrize("name", [n for n in MODELS if not n.startswith(HAS_STATES)])
def test_each_family(name, family_folders, tmp_path):
    rows = []
    for n_cached in (0, 96):
        with LLM(family_folders(name), cache_dir=tmp_path, n_blocks=16, threads=1) as llm:
            found, logits, [completion] = answer(llm, PROMPT[:100])
            assert completion.timings.n_cached_tokens == n_cached
            rows.append((found, logits))
    assert rows[0][0] == rows[1][0]
    np.testing.assert_array_equal(rows[0][1], rows[1][1])


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_saved_state_gives_the_same_bits(kv_dtype, family_folders, tmp_path, monkeypatch):
    path = tmp_path / "state"
    with LLM(family_folders("gemma3"), kv_dtype=kv_dtype) as llm:
        expected, rows, _ = answer(llm, [*PROMPT[:150], 5])
        assert llm.save_state(path, PROMPT) == 192
    with LLM(family_folders("gemma3"), kv_dtype=kv_dtype) as llm:
        read, counts = SavedStates._read, []
        with monkeypatch.context() as patch:
            patch.setattr(
                SavedStates, "_read", lambda *a: (read(*a), counts.append(llm.n_disk_pages))[0]
            )
            assert llm.load_state(path) == 192
        assert counts == [llm.n_disk_pages] == [0]  # nothing of cache_dir, not even meanwhile
        found, found_rows, completions = answer(llm, [*PROMPT[:150], 5])
        assert completions[0].timings.n_cached_tokens == 150
        assert found == expected
        np.testing.assert_array_equal(found_rows, rows)


def test_a_packed_file_answers_from_the_pages_of_its_source(tmp_path):
    """Its weights are the same bytes, be they mapped or not; drafts and small steps change
    nothing."""
    config = tiny.CONFIGS["llama-tied"]
    source = tiny.write_gguf(tmp_path / "m.gguf", config, tiny.random_weights(config), "Q8_0")
    write_packed(str(source), str(tmp_path / "m.pyro"), threads=1)
    write(source, "f16", tmp_path / "pages")
    with LLM(source, kv_dtype="f16", prefix_cache=False) as plain:
        expected, rows, _ = answer(plain)
    options = {"kv_dtype": "f16", "cache_dir": tmp_path / "pages", "max_batch_tokens": 20}
    for speculation in ("off", "suffix"):
        with LLM(tmp_path / "m.pyro", speculation=speculation, **options) as llm:
            found, found_rows, [completion] = answer(llm)
        assert found == expected and completion.timings.n_cached_tokens == 192
        np.testing.assert_array_equal(found_rows.view(np.uint32), rows.view(np.uint32))


def test_other_weights_kernels_and_kv_types_are_other_models(family_folders, tmp_path):
    """Their pages are not found in a folder, and their states are refused, with the reason."""
    model = family_folders("gemma3")
    changed = tmp_path / "changed"
    changed.mkdir()
    for each in model.iterdir():
        (changed / each.name).write_bytes(each.read_bytes())
    weights = changed / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1  # one bit of one weight
    weights.write_bytes(content)
    with LLM(model, cache_dir=tmp_path / "pages") as llm:
        answer(llm)
        llm.save_state(tmp_path / "state", PROMPT)
    others = {
        "another model made it": (changed, {}),
        "has kv_dtype 'f16', this model 'f32'": (model, {"kv_dtype": "f32"}),
        "kernels made it whose bits may differ": (model, {"kernels": "rope=numpy"}),
        "other weights or `compute`": (model, {"compute": "float32", "kv_dtype": "f16"}),
    }
    for why, (path, options) in others.items():
        with LLM(path, cache_dir=tmp_path / "pages", **options) as llm:
            assert answer(llm)[2][0].timings.n_cached_tokens == 0, why
            with pytest.raises(CacheFileError, match=why):
                llm.load_state(tmp_path / "state")
    with LLM(model, cache_dir=tmp_path / "pages", kernels="sample=numpy", max_seqs=3) as llm:
        assert answer(llm)[2][0].timings.n_cached_tokens == 192  # what it writes is not cached


@pytest.mark.parametrize("n_ms", range(0, 60, 12))
def test_kill_9_while_it_writes(family_folders, tmp_path, n_ms):
    model, pages = family_folders("smollm3"), tmp_path / "pages"
    code = (
        "import sys\nfrom pyroclast import LLM, SamplingParams\n"
        "params = SamplingParams(max_tokens=1)\n"
        "llm = LLM(sys.argv[1], cache_dir=sys.argv[2], threads=1)\n"
        "for i in range(1000):\n"
        "    llm.generate([[*range(i, i + 200)] for i in range(4)], params)\n"
        "    print(i, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(model), str(pages)], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        time.sleep(n_ms / 1000)
        process.send_signal(signal.SIGKILL)
    prompt = list(range(200))
    with LLM(model, cache_dir=pages) as llm, LLM(model, prefix_cache=False) as plain:
        found, rows, _ = answer(llm, prompt)
        expected, plain_rows, _ = answer(plain, prompt)
        assert found == expected
        np.testing.assert_array_equal(rows, plain_rows)
    with LLM(model, cache_dir=pages) as llm:
        assert answer(llm, prompt)[2][0].timings.n_cached_tokens == 192


def test_two_processes_at_once(family_folders, tmp_path):
    model, pages = family_folders("gemma3"), tmp_path / "pages"
    words = [str(model), "f16", str(pages), str(PROMPT)]
    processes = [subprocess.Popen([sys.executable, "-c", _WRITE, *words]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    with LLM(model, kv_dtype="f16", cache_dir=pages) as llm, LLM(model, kv_dtype="f16") as plain:
        found, rows, completions = answer(llm)
        assert completions[0].timings.n_cached_tokens == 192
        expected, plain_rows, _ = answer(plain)
        assert found == expected
        np.testing.assert_array_equal(rows, plain_rows)


# ---- saved states --------------------------------------------------------------------------------


def damaged(path, change):
    content = bytearray(Path(path).read_bytes())
    path.write_bytes(change(content) or content)


def flip(at):
    def change(content):
        content[at] ^= 1

    return change


def test_a_wrong_file_is_an_error_that_says_why(family_folders, tmp_path):
    path = tmp_path / "state"
    wrongs = {
        "ends within its header, after 3 bytes": lambda content: content[:3],
        "it is not a saved state: it begins with b'PYROPAGE'": lambda content: (
            b"PYROPAGE" + content[8:]
        ),
        "version 513 of the format": lambda content: content[:9] + b"\2" + content[10:],
        "its header is damaged": flip(100),
        "6 pages need .* bytes, but it has .* .cut short": lambda content: content[:-1],
        "cut short": lambda content: content + b"0",
        "page 5, counted from 0, is damaged": flip(-1),
        "a page's header is damaged": flip(128 + 30),
    }
    with LLM(family_folders("gemma3"), threads=1) as llm:
        llm.save_state(path, PROMPT)
        whole = path.read_bytes()
        for why, change in wrongs.items():
            damaged(path, change)
            with pytest.raises(CacheFileError, match=why) as caught:
                llm.load_state(path)
            assert str(caught.value).startswith(f"{path}: cannot be loaded: ")
            path.write_bytes(whole)
        record = (len(whole) - 128) // 6
        path.write_bytes(whole[: 128 + record] + whole[128 + 2 * record :] + whole[-record:])
        with pytest.raises(CacheFileError, match="page 1 does not follow the page before it"):
            llm.load_state(path)
        for missing, why in ((tmp_path / "none", "No such file"), ("a\0b", "null byte")):
            with pytest.raises(CacheFileError, match=why):
                llm.load_state(missing)
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(CacheFileError, match="not a regular file"):
            llm.load_state(tmp_path / "fifo")


def test_a_failed_save_leaves_the_old_file(family_folders, tmp_path):
    path = tmp_path / "state"
    with LLM(family_folders("gemma3"), threads=1) as llm:
        llm.save_state(path, PROMPT)
        whole = path.read_bytes()
        with pytest.raises(RequestError, match="must have at least 32 tokens; got 31"):
            llm.save_state(path, PROMPT[:31])
        with pytest.raises(CacheFileError, match="cannot be written: No such file"):
            llm.save_state(tmp_path / "none" / "state", PROMPT)
        with pytest.raises(CacheFileError, match="cannot be written: embedded null byte"):
            llm.save_state("a\0b", PROMPT)
    with LLM(family_folders("gemma3"), threads=1, prefix_cache_bytes=1) as llm:
        with pytest.raises(CacheFileError, match=r"cannot hold 6 pages .* evicted three times"):
            llm.save_state(path, PROMPT)
        with pytest.raises(CacheFileError, match="cannot be loaded: the prefix cache"):
            llm.load_state(path)
    with LLM(family_folders("gemma3"), threads=1, prefix_cache=False) as llm:
        for use in (lambda: llm.save_state(path, PROMPT), lambda: llm.load_state(path)):
            with pytest.raises(RequestError, match="saved states need prefix_cache=True"):
                use()
    assert path.read_bytes() == whole
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_a_state_is_loaded_once_and_whole(family_folders, tmp_path):
    """A prompt of whole blocks; what is in memory already is not read again."""
    path, prompt = tmp_path / "state", PROMPT[:128]
    with LLM(family_folders("smollm3"), threads=1) as llm:
        assert llm.save_state(path, prompt) == 128
        assert llm.load_state(path) == 128
    with LLM(family_folders("smollm3"), threads=1) as llm:
        assert llm.load_state(path) == 128
        assert answer(llm, [*prompt, 1])[2][0].timings.n_cached_tokens == 128
        assert llm.save_state(path, PROMPT[:100]) == 96
    with LLM(family_folders("smollm3"), threads=1) as llm:
        assert llm.load_state(path) == 96
        assert answer(llm, prompt)[2][0].timings.n_cached_tokens == 96
        assert llm._prefixes.tiers == ()
    longest = {"n_blocks": 4, "max_seqs": 1}  # no room for one token more
    with LLM(family_folders("smollm3"), threads=1, **longest) as llm:
        assert llm.save_state(path, prompt) == 128
        assert llm.load_state(path) == 128


def test_tokens_that_do_not_exist_are_refused(family_folders, tmp_path):
    """A whole file that somebody made, each checksum right."""
    path = tmp_path / "state"
    with LLM(family_folders("gemma3"), threads=1) as llm:
        llm.save_state(path, PROMPT)
        format = PageFormat(llm.model.cache_identity)
        for token_id in (-1, llm.vocab_size, 2**31 - 1):
            content = bytearray(path.read_bytes())
            end = HEADER_BYTES + format.record_header_bytes
            page, checksum = format.read_record(bytes(content[HEADER_BYTES:end]))
            ids = token_id.to_bytes(4, "little", signed=True) + page.ids[4:]
            content[HEADER_BYTES:end] = format.record_header(page._replace(ids=ids), checksum)
            path.write_bytes(content)
            with pytest.raises(CacheFileError, match="it has tokens that there are not"):
                llm.load_state(path)

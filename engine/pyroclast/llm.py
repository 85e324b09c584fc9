"""`LLM`: one loaded model and everything one asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine import checks
from pyroclast.engine.cache_options import CacheOptions
from pyroclast.engine.call import Call
from pyroclast.engine.checks import AdapterNames, Params, Prompt, Prompts
from pyroclast.engine.draft_options import DraftOptions
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.intake import Intake
from pyroclast.engine.loop import Loop
from pyroclast.engine.output import Completion, Score
from pyroclast.engine.saved_states import SavedStates
from pyroclast.engine.step_model import closed_on_failure, warm_up
from pyroclast.engine.stepper import Stepper
from pyroclast.engine.stream import Stream
from pyroclast.engine.weight_updates import UpdatableModel
from pyroclast.model.host_memory import resource_errors
from pyroclast.model.load import AdapterPaths
from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pyroclast.engine.step_model import Parts, StepModel
    from pyroclast.text.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


class LLM(UpdatableModel):
    """A model ready to generate, safe to use from several threads; calls share their steps.

    model: a GGUF file, a Hugging Face folder, "folder@q8_0", "dummy:<shape>@<format>", the name of
    an installed model, or "hf:ORG/REPO[/FILE.gguf]", downloaded once.  device: "cuda", "cpu", or
    "auto", the GPU if it can be used and has room for the model; the environment's PYROCLAST_DEVICE
    says what auto stands for.  compute="float32" keeps dequantized weights and float32 throughout.
    kernels: selection rules such as "matmul.q8_0=cpp-avx2"; `frozen` among them leaves this
    machine's tuned table out.  threads None: what the machine offers; a number asks for the CPU.
    max_batch_tokens (None: 512 on the CPU, 2048 on the GPU) and max_seqs bound one step; n_blocks
    is the size of the KV cache in blocks (None: several full contexts, within the memory there is).
    embeddings: keep the final states that `embed` reads.  prefix_cache: keep cache blocks, while
    there is room (prefix_cache_bytes of them; None: all), for prompts that begin with the same
    tokens.  cache_dir: a folder where such blocks outlive the LLM; the oldest go when it holds more
    than cache_dir_bytes (None: 8 GiB).  speculation tries several tokens in a step, for the same
    text: "suffix" where it repeats itself or an earlier answer, "auto" so on the CPU unless layers
    are recurrent, "draft" those of `draft`, a smaller model with the same vocabulary, which "auto"
    asks where nothing repeats, "mtp" those of a head in the file; or "off".  adapters: {"name":
    path} of LoRA adapters, peft's folders or GGUF files; every method takes adapter="name";
    requests with any or none share their steps.

        with LLM("model.gguf") as llm:
            [answer] = llm.generate("The capital of France is", SamplingParams(max_tokens=8))
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        compute: str = "auto",
        kernels: str | None = None,
        threads: int | None = None,
        kv_dtype: str = "auto",
        max_batch_tokens: int | None = None,
        max_seqs: int = 64,
        n_blocks: int | None = None,
        embeddings: bool = False,
        prefix_cache: bool = True,
        prefix_cache_bytes: int | None = None,
        cache_dir: str | Path | None = None,
        cache_dir_bytes: int | None = None,
        speculation: str = "auto",
        draft: str | Path | None = None,
        adapters: AdapterPaths | None = None,
    ) -> None:
        drafts = DraftOptions(speculation, draft)
        cache = CacheOptions(prefix_cache, prefix_cache_bytes, cache_dir, cache_dir_bytes)
        options: dict[str, Any] = {
            "compute": compute, "kernels": kernels, "threads": threads, "kv_dtype": kv_dtype,
            "max_batch_tokens": max_batch_tokens, "max_seqs": max_seqs, "n_blocks": n_blocks,
        }  # fmt: skip
        adapters = {} if adapters is None else adapters
        self.embeddings, final = checks.flag("embeddings", embeddings), ("final",) * embeddings
        with resource_errors():
            parts = drafts.load(model, device, adapters, hidden_layers=final, **options)
            self._source = model, {**options, "adapters": dict(adapters)}
            with closed_on_failure(self, parts[0], drafts.model):
                self._start(parts, kernels, cache, drafts)

    def _start(
        self, parts: Parts, kernels: str | None, cache: CacheOptions, drafts: DraftOptions
    ) -> None:
        self.model, self.tokenizer, self.name, self._adapters = parts
        self.adapters, self.max_seq_len = tuple(self._adapters), self.model.max_seq_len
        self.vocab_size: int = self.model.logits.shape[1]
        self._cache, self._prefixes = cache, cache.make(self.model)
        shared = cache.prefix_cache
        self._intake = Intake(self.tokenizer, self.vocab_size, self.max_seq_len, shared)
        drafting = drafts.make(self.model, self._prefixes.pool)
        self._loop = Loop(Stepper(self.model, kernels, self._prefixes, drafting))
        self._states = SavedStates(self._loop, self._prefixes, self._intake, is_cached=shared)
        warm_up(self.model)

    # ---- generating ------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        params: Params = None,
        *,
        add_special_tokens: bool = True,
        adapter: AdapterNames = None,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Completes text, token ids, or a list of either; all prompts run together.

        Gives `n` completions for each prompt, in the order of the prompts.  Text gets the model's
        special tokens (BOS, unless it begins with it), with add_special_tokens=False none; token
        ids are taken as they are.  Like params, adapter may be a list, a name or None for each
        prompt.  progress: a bar on stderr; None shows one for long batches on a terminal."""
        call = self._call(adapter)
        encoded = self._intake.encode(prompts, add_special_tokens)
        requests = self._intake.generate_requests(encoded, params, call, continues_text=True)
        return self._completions(requests, call, progress)

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        add_special_tokens: bool = True,
        adapter: str | None = None,
        n_answered: int = 0,
    ) -> Stream:
        """Completes one prompt; iterate over it for a `Chunk` per token, as they come.  Closing the
        stream, or dropping it, ends the work before the next step.  n_answered: how many of the
        prompt's last tokens penalties count as those of the answer, which goes on."""
        call = self._call(adapter, collects_chunks=True)
        remedy = "; use generate()"
        encoded = [self._intake.encode_one(prompt, "stream", remedy, add_special_tokens)]
        requests = self._intake.generate_requests(
            encoded, params, call, continues_text=True, n_answered=n_answered
        )
        return Stream(self, self._loop, call, requests)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: Params = None,
        *,
        template: Mapping[str, Any] | None = None,
        adapter: AdapterNames = None,
        progress: bool | None = None,
    ) -> list[Completion]:
        """The assistant's next message in a conversation, or in each of several.

        messages: [{"role": "user", "content": "..."}, ...].  template: further variables for the
        chat template (tools, ...).  Gives a list, like `generate`."""
        call = self._call(adapter)
        several = isinstance(messages, list | tuple) and len(messages) > 0
        several = several and isinstance(messages[0], list | tuple)
        conversations: list[Any] = list(messages) if several else [messages]
        encoded = [self._intake.encode_chat(each, template) for each in conversations]
        requests = self._intake.generate_requests(encoded, params, call, continues_text=False)
        return self._completions(requests, call, progress)

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        template: Mapping[str, Any] | None = None,
        adapter: str | None = None,
    ) -> Stream:
        """`chat` for one conversation, as a stream of chunks."""
        call = self._call(adapter, collects_chunks=True)
        encoded = [self._intake.encode_chat(messages, template)]
        requests = self._intake.generate_requests(encoded, params, call, continues_text=False)
        return Stream(self, self._loop, call, requests)

    # ---- reading ---------------------------------------------------------------------------

    def score(
        self,
        prompts: Prompts,
        continuations: Prompts | None = None,
        *,
        n_top: int = 0,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[Score]:
        """How likely the model holds each token of text or token ids, or of a list of either:
        logprob, rank, is_greedy, and the `n_top` most likely tokens in its place.

        continuations: only these are scored, each after its prompt, or all after the one prompt,
        which is computed once.  A token that spans the border belongs to the continuation."""
        call = self._call(adapter)
        scores, requests = self._intake.score_requests(prompts, n_top, call, continuations)
        self._loop.complete(call, requests, progress)
        return scores

    def logits(self, prompt: Prompt, *, adapter: str | None = None) -> NDArray[np.float32]:
        """float32 (n_tokens, vocab_size): what follows each token of the prompt.  Dense; `score`
        tells about given tokens without it."""
        call = self._call(adapter)
        token_ids = self._intake.encode_one(prompt, "logits")
        self._intake.check_fits(token_ids)
        found = np.empty((len(token_ids), self.vocab_size), np.float32)

        def keep(first: int, rows: NDArray[np.float32]) -> None:
            found[first : first + len(rows)] = rows

        self._loop.complete(call, [self._intake.read_request(token_ids, call, keep)], False)
        return found

    def embed(
        self,
        prompts: Prompts,
        *,
        pooling: str = "mean",
        normalize: bool = True,
        dimensions: int | None = None,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[NDArray[np.float32]]:
        """A vector float32 (d_model,) for text or token ids, or for each of a list: the mean of
        the tokens' final states, or with pooling "last" the last one's.  dimensions: only the
        first ones.  Wants LLM(..., embeddings=True)."""
        call = self._call(adapter)
        checks.check_embeddings(self.embeddings, dimensions, self.model.config.d_model)
        pools, requests = self._intake.embed_requests(prompts, pooling, call)
        self._loop.complete(call, requests, progress)
        return [pool.vector(normalize=normalize, dimensions=dimensions) for pool in pools]

    # ---- states ----------------------------------------------------------------------------

    def save_state(self, path: str | Path, prompt: Prompt, *, adapter: str | None = None) -> int:
        """Computes a prompt, unless it is cached, and writes its full blocks of the KV cache into
        one file; returns the positions in it.  An error leaves the old file."""
        token_ids = self._intake.encode_one(prompt, "save_state")
        return self._states.save(path, token_ids, lambda: self._call(adapter))

    def load_state(self, path: str | Path, *, adapter: str | None = None) -> int:
        """Takes a saved state into the prefix cache, and returns its positions.  CacheFileError if
        it is damaged, or of another model, adapter or KV type, or of other kernels."""
        return self._states.load(path, lambda: self._call(adapter))

    # ---- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Ends what still runs, frees threads and memory; harmless when repeated."""
        self._loop.close()
        self._prefixes.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LLM {self.name}{' (closed)' if self._loop.closed else ''}>"

    # ---- inside ----------------------------------------------------------------------------

    def _call(self, adapter: AdapterNames, *, collects_chunks: bool = False) -> Call:
        """A call begins: its times count from here."""
        self._loop.check_open()
        key = checks.find_adapters(adapter, self._adapters)
        rate, noted = self.memory_bandwidth, self._loop.noted
        share = self.model.weight_bytes / rate if rate else 0.0
        return Call(
            collects_chunks=collects_chunks, step_bandwidth_share=share, noted=noted, adapter=key
        )

    def _completions(
        self, requests: list[GenerateRequest], call: Call, progress: bool | None
    ) -> list[Completion]:
        self._loop.complete(call, requests, progress)
        return [request.completion() for request in requests]


def assemble(
    model: StepModel, tokenizer: Tokenizer, name: str, speculation: str = "off", **more: Any
) -> LLM:
    """An LLM of parts that are loaded already.  `name` is what it calls itself.  more: `draft`, a
    model that drafts, and what CacheOptions takes."""
    llm = LLM.__new__(LLM)
    llm.embeddings = False
    parts: Parts = model, tokenizer, name, {}
    drafts = DraftOptions(speculation, model=more.pop("draft", None))
    llm._start(parts, None, CacheOptions(**more), drafts)  # noqa: SLF001 - a constructor
    return llm

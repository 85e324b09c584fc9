"""`LLM`: one loaded model and everything one asks of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine import checks
from pyroclast.engine.call import Call
from pyroclast.engine.checks import Params, Prompt, Prompts
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.intake import Intake
from pyroclast.engine.loop import Loop
from pyroclast.engine.output import Completion, Score
from pyroclast.engine.step_model import StepModel
from pyroclast.engine.stepper import Stepper
from pyroclast.engine.stream import Stream
from pyroclast.model.device import check_device
from pyroclast.model.host_memory import memory_errors
from pyroclast.progress import progress_bar
from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pyroclast.text.tokenizer import Tokenizer

    Parts = tuple[StepModel, Tokenizer, str]

Messages = Sequence[Mapping[str, Any]]

log = logging.getLogger("pyroclast")


class LLM:
    """A model ready to generate, safe to use from several threads; calls share their steps.

    model: a GGUF file, a Hugging Face folder, "folder@q8_0", "dummy:<shape>@<format>", or the name
    of an installed model.  device: "cuda", "cpu", or "auto", the GPU if it can be used and has room
    for the model; the environment's PYROCLAST_DEVICE says what auto stands for.
    compute="float32" dequantizes the weights and keeps float32 throughout.
    kernels: selection rules such as "matmul.q8_0=cpp-avx2"; `frozen` among them leaves this
    machine's tuned table out.  threads None: what the machine offers; a number asks for the CPU.
    max_batch_tokens (None: 512 on the CPU, 2048 on the GPU) and max_seqs bound one step; n_blocks
    is the size of the KV cache in blocks (None: several full contexts, within the memory there is).
    embeddings: keep the final states that `embed` reads.  prefix_cache: keep cache blocks, while
    there is room, for later prompts that begin with the same tokens.

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
    ) -> None:
        device = check_device(device)
        if max_batch_tokens is not None:
            checks.check_positive("max_batch_tokens", max_batch_tokens)
        checks.check_positive("max_seqs", max_seqs)
        with memory_errors():
            parts = _load(
                model,
                device=device,
                compute=compute,
                kernels=kernels,
                threads=threads,
                kv_dtype=kv_dtype,
                max_batch_tokens=max_batch_tokens,
                max_seqs=max_seqs,
                n_blocks=n_blocks,
                hidden_layers=("final",) if embeddings else (),
            )
            self.embeddings = embeddings
            self._start(parts, kernels, prefix_cache)

    def _start(self, parts: Parts, kernels: str | None, prefix_cache: bool = True) -> None:
        self.model, self.tokenizer, self.name = parts
        self.max_seq_len = self.model.max_seq_len
        self.vocab_size: int = self.model.logits.shape[1]
        self._intake = Intake(self.tokenizer, self.vocab_size, self.max_seq_len, prefix_cache)
        self._loop = Loop(Stepper(self.model, kernels, None if prefix_cache else 0))
        if self.model.n_warm_ups:
            with progress_bar(self.model.n_warm_ups, "graph") as show:
                self.model.warm_up(show)
        # Bytes per second that this machine can stream.  Set it, and timings tell the share.
        self.memory_bandwidth: float | None = None

    @property
    def kernels(self) -> dict[str, str]:
        """The variant that runs for each "op.format"; "a+b" where a tuned table has several."""
        return self.model.kernels

    @property
    def device(self) -> str:
        """Where steps run: "cpu" or "cuda"."""
        return self.model.device

    @property
    def device_note(self) -> str:
        """Why they run there."""
        return self.model.device_note

    @property
    def table(self) -> str:
        """The tuned table that chose kernels where no rule did, or "defaults"."""
        return self.model.table

    @property
    def n_threads(self) -> int:
        """Threads that a step runs on."""
        return self.model.n_threads

    # ---- generating ------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        params: Params = None,
        *,
        add_special_tokens: bool = True,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Completes text, token ids, or a list of either; all prompts run together.

        Gives `n` completions for each prompt, in the order of the prompts.  Text gets the model's
        special tokens (BOS, unless it begins with it), with add_special_tokens=False none; token
        ids are taken as they are.  progress: a bar on stderr; None shows one for long batches on a
        terminal."""
        call = self._call()
        encoded = self._intake.encode(prompts, add_special_tokens)
        requests = self._intake.generate_requests(encoded, params, call, continues_text=True)
        return self._completions(requests, call, progress)

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> Stream:
        """Completes one prompt; iterate over it for a `Chunk` per token, as they come.

        Closing the stream, or dropping it, ends the work before the next step."""
        call = self._call(collects_chunks=True)
        remedy = "; use generate()"
        encoded = [self._intake.encode_one(prompt, "stream", remedy, add_special_tokens)]
        requests = self._intake.generate_requests(encoded, params, call, continues_text=True)
        return Stream(self, self._loop, call, requests)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: Params = None,
        *,
        template: Mapping[str, Any] | None = None,
        progress: bool | None = None,
    ) -> list[Completion]:
        """The assistant's next message in a conversation, or in each of several.

        messages: [{"role": "user", "content": "..."}, ...].  template: further variables for the
        chat template (tools, ...).  Gives a list, like `generate`."""
        call = self._call()
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
    ) -> Stream:
        """`chat` for one conversation, as a stream of chunks."""
        call = self._call(collects_chunks=True)
        encoded = [self._intake.encode_chat(messages, template)]
        requests = self._intake.generate_requests(encoded, params, call, continues_text=False)
        return Stream(self, self._loop, call, requests)

    # ---- reading ---------------------------------------------------------------------------

    def score(
        self, prompts: Prompts, *, n_top: int = 0, progress: bool | None = None
    ) -> list[Score]:
        """How likely the model holds each token of text or token ids, or of a list of either:
        logprob, rank, is_greedy, and the `n_top` most likely tokens in its place."""
        call = self._call()
        scores, requests = self._intake.score_requests(prompts, n_top, call)
        self._loop.complete(call, requests, progress)
        return scores

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """float32 (n_tokens, vocab_size): what follows each token of the prompt.  Dense; `score`
        tells about given tokens without it."""
        call = self._call()
        token_ids = self._intake.encode_one(prompt, "logits")
        self._intake.check_fits(token_ids)
        found = np.empty((len(token_ids), self.vocab_size), np.float32)

        def keep(first: int, rows: NDArray[np.float32]) -> None:
            found[first : first + len(rows)] = rows

        requests = [self._intake.read_request(token_ids, call, keep)]
        self._loop.complete(call, requests, progress=False)
        return found

    def embed(
        self,
        prompts: Prompts,
        *,
        pooling: str = "mean",
        normalize: bool = True,
        dimensions: int | None = None,
        progress: bool | None = None,
    ) -> list[NDArray[np.float32]]:
        """A vector float32 (d_model,) for text or token ids, or for each of a list: the mean of
        the tokens' final states, or with pooling "last" the last one's.  dimensions: only the
        first ones.  Wants LLM(..., embeddings=True)."""
        call = self._call()
        checks.check_embeddings(self.embeddings, dimensions)
        pools, requests = self._intake.embed_requests(prompts, pooling, call)
        self._loop.complete(call, requests, progress)
        return [pool.vector(normalize=normalize, dimensions=dimensions) for pool in pools]

    # ---- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Ends what still runs, frees threads and memory; harmless when repeated."""
        self._loop.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LLM {self.name}{' (closed)' if self._loop.closed else ''}>"

    # ---- inside ----------------------------------------------------------------------------

    def _call(self, *, collects_chunks: bool = False) -> Call:
        """A call begins: its times count from here."""
        self._loop.check_open()
        rate = self.memory_bandwidth
        share = self.model.weight_bytes / rate if rate else 0.0
        return Call(
            collects_chunks=collects_chunks, step_bandwidth_share=share, noted=self._loop.noted
        )

    def _completions(
        self, requests: list[GenerateRequest], call: Call, progress: bool | None
    ) -> list[Completion]:
        self._loop.complete(call, requests, progress)
        return [request.completion() for request in requests]


def assemble(model: StepModel, tokenizer: Tokenizer, name: str, prefix_cache: bool = True) -> LLM:
    """An LLM of parts that are loaded already.  `name` is what it calls itself."""
    llm = LLM.__new__(LLM)
    llm.embeddings = False
    llm._start((model, tokenizer, name), None, prefix_cache)  # noqa: SLF001 - it is LLM's other constructor
    return llm


def _load(model: str | Path, device: str, **options: Any) -> Parts:
    """Opens the files, plans where the model lies, loads it there, closes the files."""
    from pyroclast.checkpoint.open import open_checkpoint
    from pyroclast.model.load_plan import plan
    from pyroclast.model.model import Model
    from pyroclast.model.options import LoadOptions

    with open_checkpoint(model) as checkpoint:
        planned = plan(checkpoint, device, LoadOptions(**options))
        tokenizer = checkpoint.tokenizer()
        if line := checkpoint.conversion_line():
            log.warning("%s: %s", checkpoint.name, line)
        with progress_bar(checkpoint.config.n_layers, "layer") as show:
            loaded = Model(checkpoint, planned, on_layer=show)
        return loaded, tokenizer, checkpoint.name

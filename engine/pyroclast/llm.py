"""`LLM`: one loaded model and everything one asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine import checks
from pyroclast.engine.checks import Prompt, Prompts
from pyroclast.engine.loop import Loop
from pyroclast.engine.output import Completion, Score
from pyroclast.engine.request import Generation, Job, PaddedTextStream, TextStream, Work
from pyroclast.engine.stepper import StepModel, Stepper
from pyroclast.engine.stream import Stream
from pyroclast.errors import RequestError
from pyroclast.model.device import check_device
from pyroclast.progress import progress_bar
from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pyroclast.text.tokenizer import Tokenizer

    Parts = tuple[StepModel, Tokenizer, str]

Params = SamplingParams | Sequence[SamplingParams] | None
Messages = Sequence[Mapping[str, Any]]


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
        _parts: Parts | None = None,
    ) -> None:
        device = check_device(device)
        if max_batch_tokens is not None:
            checks.check_positive("max_batch_tokens", max_batch_tokens)
        checks.check_positive("max_seqs", max_seqs)
        self.model, self.tokenizer, self.name = _parts or _load(
            model,
            device=device,
            compute=compute,
            kernels=kernels,
            threads=threads,
            kv_dtype=kv_dtype,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
            n_blocks=n_blocks,
        )
        self.max_seq_len = self.model.max_seq_len
        self.vocab_size: int = self.model.logits.shape[1]
        self._loop = Loop(Stepper(self.model, kernels))
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
        self, prompts: Prompts, params: Params = None, *, progress: bool | None = None
    ) -> list[Completion]:
        """Completes text, token ids, or a list of either; all prompts run together.

        Gives `n` completions for each prompt, in the order of the prompts.  Text gets the model's
        special tokens (BOS), token ids are taken as they are.  progress: a bar on stderr; None
        shows one for long batches on a terminal."""
        job, items = self._job(), checks.as_list(prompts)
        encoded = [self._encode(item, _where(i, len(items))) for i, item in enumerate(items)]
        generations = self._generations(encoded, params, job, continues_text=True)
        return self._completions(generations, job, progress)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Stream:
        """Completes one prompt; iterate over it for a `Chunk` per token, as they come.

        Closing the stream, or dropping it, ends the work before the next step."""
        job, items = self._job(streams=True), checks.as_list(prompt)
        if len(items) != 1:
            raise RequestError(f"stream() takes one prompt, got {len(items)}; use generate()")
        encoded = [self._encode(items[0], "the prompt")]
        generations = self._generations(encoded, params, job, continues_text=True)
        return Stream(self, self._loop, job, generations)

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
        job = self._job()
        several = isinstance(messages, list | tuple) and len(messages) > 0
        several = several and isinstance(messages[0], list | tuple)
        conversations: list[Any] = list(messages) if several else [messages]
        encoded = [self._encode_chat(each, template) for each in conversations]
        generations = self._generations(encoded, params, job, continues_text=False)
        return self._completions(generations, job, progress)

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        template: Mapping[str, Any] | None = None,
    ) -> Stream:
        """`chat` for one conversation, as a stream of chunks."""
        job = self._job(streams=True)
        encoded = [self._encode_chat(messages, template)]
        generations = self._generations(encoded, params, job, continues_text=False)
        return Stream(self, self._loop, job, generations)

    # ---- reading ---------------------------------------------------------------------------

    def score(
        self, prompts: Prompts, *, n_top: int = 0, progress: bool | None = None
    ) -> list[Score]:
        """How likely the model holds each token of text or token ids, or of a list of either:
        logprob, rank, is_greedy, and the `n_top` most likely tokens in its place."""
        SamplingParams(prompt_logprobs=n_top)  # has the same range
        items = checks.as_list(prompts)
        job, scores = self._job(), []
        for i, item in enumerate(items):
            where = _where(i, len(items))
            token_ids = self._encode(item, where)
            checks.check_fits(len(token_ids), self.max_seq_len, where)
            scores.append(Score(token_ids, [None] * len(token_ids)))
        works = [
            Work(
                score.token_ids[:-1],
                job,
                targets=score.token_ids[1:],
                scored=score.logprobs,
                n_top=n_top,
            )
            for score in scores
            if len(score.token_ids) > 1
        ]
        self._run(job, works, progress)
        return scores

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """float32 (n_tokens, vocab_size): what follows each token of the prompt.  Dense; `score`
        tells about given tokens without it."""
        items = checks.as_list(prompt)
        if len(items) != 1:
            raise RequestError(f"logits() takes one prompt, got {len(items)}")
        token_ids = self._encode(items[0], "the prompt")
        checks.check_fits(len(token_ids), self.max_seq_len, "the prompt")
        found = np.empty((len(token_ids), self.vocab_size), np.float32)

        def keep(first: int, rows: NDArray[np.float32]) -> None:
            found[first : first + len(rows)] = rows

        job = self._job()
        self._run(job, [Work(token_ids, job, on_rows=keep)], progress=False)
        return found

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

    def _encode(self, prompt: Any, where: str) -> list[int]:
        self._loop.check_open()
        return checks.encode(prompt, self.tokenizer, self.vocab_size, where)

    def _encode_chat(self, messages: Any, template: Mapping[str, Any] | None) -> list[int]:
        self._loop.check_open()
        token_ids = self.tokenizer.encode_chat(messages, **(template or {}))
        return checks.encode(token_ids, self.tokenizer, self.vocab_size, "the conversation")

    def _job(self, *, streams: bool = False) -> Job:
        """A call begins: its times count from here."""
        bandwidth = self.memory_bandwidth
        share = self.model.weight_bytes / bandwidth if bandwidth else 0.0
        return Job(streams=streams, step_bandwidth_share=share)

    def _completions(
        self, generations: list[Generation], job: Job, progress: bool | None
    ) -> list[Completion]:
        self._run(job, generations, progress)
        return [generation.completion() for generation in generations]

    def _generations(
        self, encoded: list[list[int]], params: Params, job: Job, continues_text: bool
    ) -> list[Generation]:
        """Everything is checked before the first is queued."""
        each_params = checks.as_params(params, len(encoded))
        limits = []
        for i, (token_ids, each) in enumerate(zip(encoded, each_params, strict=True)):
            each.check_vocabulary(self.vocab_size)
            where = _where(i, len(encoded))
            limits.append(checks.max_tokens(each, len(token_ids), self.max_seq_len, where))
        generations: list[Generation] = []
        for i, (token_ids, each) in enumerate(zip(encoded, each_params, strict=True)):
            seed, stop_ids, first = each.fixed_seed(), self._stop_ids(each), None
            for index in range(each.n):
                generation = Generation(
                    list(token_ids),
                    job,
                    params=each,
                    seed=seed,
                    text=self._text_stream(continues_text),
                    stop_ids=stop_ids,
                    max_tokens=limits[i],
                    prompt_index=i,
                    index=index,
                    sibling=first,
                )
                first = first or generation
                generations.append(generation)
        return generations

    def _text_stream(self, continues_text: bool) -> TextStream:
        """Decodes a completion; to be drawn, but not to be spelt, are rows that only pad the
        output matrix: they give no text."""
        text = self.tokenizer.stream(continuation=continues_text)
        n_spelt = self.tokenizer.vocab_size
        return text if n_spelt >= self.vocab_size else PaddedTextStream(text, n_spelt)

    def _stop_ids(self, params: SamplingParams) -> dict[int, str | int]:
        """The tokens that end a text, and what is reported as the reason."""
        stop_ids: dict[int, str | int] = {}
        if not params.ignore_eos:
            stop_ids.update((token_id, token_id) for token_id in self.tokenizer.eos_token_ids)
        stop_ids.update((token_id, token_id) for token_id in params.stop_token_ids)
        for stop in params.stop:
            # A control token never shows in the text, so its name would wait there in vain.
            token_ids = self.tokenizer.encode(stop, add_special_tokens=False)
            if len(token_ids) == 1 and not self.tokenizer.decode(token_ids):
                stop_ids[token_ids[0]] = stop
        return stop_ids

    def _run(self, job: Job, works: Sequence[Work], progress: bool | None) -> None:
        """Until every sequence of the job has ended; an exception ends those that have not."""
        n_all = len(works)
        try:
            self._loop.submit(works)
            with progress_bar(n_all, "prompt", progress) as show:
                while job.open:
                    self._loop.run(job)
                    show(n_all - len(job.open))
        except BaseException:
            self._loop.give_up(job)
            raise


def _where(i: int, n_prompts: int) -> str:
    return "the prompt" if n_prompts == 1 else f"prompt {i} (of {n_prompts}, counted from 0)"


def _load(model: str | Path, device: str, **options: Any) -> Parts:
    """Opens the files, plans where the model lies, loads it there, closes the files."""
    from pyroclast.checkpoint.open import open_checkpoint
    from pyroclast.model.model import Model
    from pyroclast.model.options import LoadOptions
    from pyroclast.model.plan import plan

    with open_checkpoint(model) as checkpoint:
        planned = plan(checkpoint, device, LoadOptions(**options))
        tokenizer = checkpoint.tokenizer()
        with progress_bar(checkpoint.config.n_layers, "layer") as show:
            loaded = Model(checkpoint, planned, on_layer=show)
        return loaded, tokenizer, checkpoint.name

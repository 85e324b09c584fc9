"""What a stepper is made of, in the sizes of its model."""

from __future__ import annotations

from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.scheduler import Scheduler
from pyroclast.engine.step_model import SampledModel, StepModel
from pyroclast.engine.step_writer import StepWriter
from pyroclast.engine.tiered_cache import TieredCache
from pyroclast.sampling.arrays import SampleArrays
from pyroclast_kernels.program import PARTS_PER_THREAD


def sample_arrays(model: SampledModel) -> SampleArrays:
    """The sampler's arrays, which the model reads from now on."""
    arrays = SampleArrays(
        vocab_size=model.logits.shape[1],
        max_seq_len=model.max_seq_len,
        max_rows=model.max_logits,
        max_seqs=model.max_seqs,
        max_parts=model.n_threads * PARTS_PER_THREAD,
        memory=model.memory,
    )
    model.attach_sampler(**arrays.arguments())
    return arrays


def step_writer(model: StepModel, arrays: SampleArrays) -> StepWriter:
    """What fills the arrays of its steps."""
    return StepWriter(
        model.batch, arrays, model.block_size, model.adapters, has_states=model.n_slots > 0
    )


def scheduler(model: StepModel, prefixes: TieredCache) -> Scheduler[ReadRequest]:
    """The queues of its requests, over the pool of the prefix cache's blocks."""
    return Scheduler(
        prefixes.pool,
        block_size=model.block_size,
        max_batch_tokens=model.max_batch_tokens,
        max_seqs=model.max_seqs,
        max_logits=model.max_logits,
        prefixes=prefixes,
    )

"""Three small tasks of lm-eval, over questions in a local file, and how its results are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUESTIONS = [
    {"question": "The capital of France is", "choices": ["Paris", "Rome", "Berlin"], "answer": 0},
    {"question": "The sky is usually", "choices": ["green", "brown", "blue"], "answer": 2},
    {"question": "Two and two is", "choices": ["nine", "four", "a"], "answer": 1},
]
CHOICE_TASK = """
task: choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
"""
TEXT_TASK = """
task: text
output_type: generate_until
doc_to_text: "Question: {{question}}?\\nAnswer:"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""
PERPLEXITY_TASK = """
task: perplexity
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
"""


def write_tasks(folder: Path) -> None:
    """Writes the questions and the tasks."""
    data = folder / "questions.json"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)))
    for task in (CHOICE_TASK, TEXT_TASK, PERPLEXITY_TASK):
        name = task.split()[1]
        source = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        (folder / f"{name}.yaml").write_text(task + source + "test_split: test\n")


def read_samples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What lm-eval has of each question, by task."""
    found = {}
    for name in ("choice", "text", "perplexity"):
        [path] = folder.glob(f"out/*/samples_{name}_*.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[name] = sorted(lines, key=lambda line: int(line["doc_id"]))
    return found

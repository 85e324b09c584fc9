"""Which parser reads a model's answers: chosen from its chat template, or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyroclast.errors import TemplateError
from pyroclast.text.answers.deepseek import DeepSeekParser
from pyroclast.text.answers.gemma import FunctionGemmaParser, Gemma4Parser
from pyroclast.text.answers.harmony import HarmonyParser
from pyroclast.text.answers.llama3 import Llama3Parser
from pyroclast.text.answers.mistral import MistralParser
from pyroclast.text.answers.parser import AnswerParser
from pyroclast.text.answers.qwen_xml import QwenXmlParser
from pyroclast.text.answers.tagged import GraniteParser, PhiParser, TaggedParser


class PlainParser(TaggedParser):
    """Reasoning between <think> tags, and no calls: for templates that know no tools."""

    def __init__(
        self, tools: Sequence[Mapping[str, Any]] = (), *, in_reasoning: bool = False
    ) -> None:
        del tools
        super().__init__((), in_reasoning=in_reasoning)


PARSERS: dict[str, type[AnswerParser]] = {
    "harmony": HarmonyParser,
    "gemma4": Gemma4Parser,
    "functiongemma": FunctionGemmaParser,
    "deepseek": DeepSeekParser,
    "mistral": MistralParser,
    "qwen_xml": QwenXmlParser,
    "hermes": TaggedParser,
    "phi": PhiParser,
    "granite": GraniteParser,
    "llama3": Llama3Parser,
    "plain": PlainParser,
}

# A template that holds every one of these texts belongs to that parser; the first row counts.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", ("<|channel|>", "<|message|>")),
    ("gemma4", ("<|tool_call>",)),
    ("functiongemma", ("<start_function_call>",)),
    ("deepseek", ("tool▁call▁begin",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("qwen_xml", ("<function=", "<parameter=")),
    ("hermes", ("<tool_call>",)),
    ("phi", ("<|/tool_call|>",)),
    ("granite", ("<|tool_call|>",)),
    ("llama3", ("<|python_tag|>",)),
    ("llama3", ("parameters", "<|start_header_id|>")),
)


def parser_name(template: str | None, override: str | None = None) -> str:
    """The name of the parser for a chat template; TemplateError for an override that is unknown."""
    if override is not None:
        if override not in PARSERS:
            raise TemplateError(
                f"unknown answer parser {override!r}; known: {', '.join(sorted(PARSERS))}"
            )
        return override
    for name, signs in _SIGNS:
        if template and all(sign in template for sign in signs):
            return name
    return "plain"


def reasoning_marks(name: str, template: str | None, prompt: str) -> tuple[str, ...] | None:
    """What stands around the reasoning that may come before an answer to this prompt: the mark that
    ends it, where the prompt begins it; else (begin, end) or (begin, end, lead), where lead comes
    before the answer.  None if the model does not reason, or the prompt has ended it."""
    kind = PARSERS[name]
    think: tuple[str, str] | None = getattr(kind, "think", None)
    if think is not None and not (template and think[1].strip() in template):
        think = None  # the parser knows reasoning, this model does not
    marks = kind.marks or think
    if marks is None:
        return None
    # Harmony's prompts end in what stands after the reasoning too; there the lead tells.
    if prompt.rstrip().endswith(marks[-1].strip()):
        return None
    opened = prompt.rstrip().endswith(marks[0].strip())
    return ("".join(marks[1:]),) if opened else tuple(marks)


def parser_for(
    name: str, *, tools: Sequence[Mapping[str, Any]] = (), prompt: str = ""
) -> AnswerParser:
    """A parser for one answer.  prompt: the rendered prompt, whose end may open the reasoning."""
    kind = PARSERS[name]
    think: tuple[str, str] | None = getattr(kind, "think", None)
    opened = think is not None and prompt.rstrip().endswith(think[0].strip())
    parser = kind(tools, in_reasoning=opened)
    if (lead := answer_lead(name)) and prompt.endswith(lead):
        parser.feed(lead)
    return parser


def answer_lead(name: str) -> str:
    """What must stand before the text of an answer, beside what the chat template writes."""
    marks = PARSERS[name].marks or ()
    return marks[2] if len(marks) > 2 else ""

"""A conversation, and chat templates that mark where an answer begins or do not."""

TEMPLATE = (
    "{% for m in messages %}<|bos|>{{ m.role }}\n{{ m.content }}<|eos|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|bos|>assistant\n{% endif %}"
)
UNMARKED = TEMPLATE.partition("{% if")[0]
# Drops what earlier answers say, as templates of reasoning models do.
FORGETFUL = TEMPLATE.replace("m.content }}", "m.content if loop.last else '' }}")
CHAT = {
    "messages": [
        {"role": "user", "content": "in"},
        {"role": "assistant", "content": "an"},
        {"role": "user", "content": "the"},
        {"role": "assistant", "content": "the an"},
    ]
}

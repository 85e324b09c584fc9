"""What a model's answer says, read while it is written: reasoning, content and tool calls.

Each family writes tool calls in its own way.  `choose.parser_for` picks the parser from the chat
template; a parser takes the text with its control tokens spelt out.
"""

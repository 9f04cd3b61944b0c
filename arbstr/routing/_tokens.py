"""How many tokens a prompt is, before anybody has counted: expected, at most, at least."""

from __future__ import annotations

from arbstr.wire import ModelCall

BYTES_PER_TOKEN = 4
"""Of English text, on average."""

MOST_BYTES_PER_TOKEN = 16
"""No text that people send is denser as a whole. Prose and code have 3 to 5, words of scripts with three bytes a letter
up to 8, indentation and rows of dashes more."""

IMAGE_TOKENS, MOST_IMAGE_TOKENS = 1_000, 4_096
"""Of a part that is not text: expected, and at most."""


def expected_prompt_tokens(call: ModelCall) -> int:
    """With what a chat template adds per message; an image as if it were a thousand."""
    return -(-call.messages_text_bytes // BYTES_PER_TOKEN) + 4 * call.messages + IMAGE_TOKENS * call.images


def most_prompt_tokens(call: ModelCall) -> int:
    """A token is at least one byte of text; templates and images are bounded generously."""
    return call.messages_text_bytes + 16 * call.messages + MOST_IMAGE_TOKENS * call.images + 64


def least_prompt_tokens(call: ModelCall) -> int:
    """Of the text alone: what a template or an image costs may be nothing."""
    return call.messages_text_bytes // MOST_BYTES_PER_TOKEN

"""Questions to a model behind any endpoint of OpenAI's kind: settings, one question, many at once."""

from llava_pl.endpoint.ask import ask_all
from llava_pl.endpoint.client import (
    CHARACTERS_PER_TOKEN,
    TOKENS_PER_REPLY,
    Failure,
    Message,
    Reply,
    count_most_tokens,
)
from llava_pl.endpoint.settings import Endpoint, EndpointError, check_range, check_writer

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "TOKENS_PER_REPLY",
    "Endpoint",
    "EndpointError",
    "Failure",
    "Message",
    "Reply",
    "ask_all",
    "check_range",
    "check_writer",
    "count_most_tokens",
]

"""Questions to a model behind any endpoint of OpenAI's kind: settings, one question, many at once."""

from llava_pl.endpoint.ask import ask_all
from llava_pl.endpoint.client import CHARACTERS_PER_TOKEN, Failure, Message, Reply
from llava_pl.endpoint.settings import Endpoint, EndpointError, check_range

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "Endpoint",
    "EndpointError",
    "Failure",
    "Message",
    "Reply",
    "ask_all",
    "check_range",
]

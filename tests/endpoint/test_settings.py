"""Guards settings: a key in what is shown or kept, an option out of range."""

import pytest

from llava_pl.endpoint import Endpoint
from llava_pl.endpoint.settings import hide_key, read_key
from llava_pl.types import InputError

KEY = "sk-SECRETSECRETsecret"


def test_a_url_that_is_shown():
    assert Endpoint("http://me:secret@a.b:9/v1?key=secret", "tiny").shown_url == "http://a.b:9/v1"


def test_no_eight_characters_of_a_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert read_key() == KEY
    assert hide_key(f"Bearer {KEY}, {KEY[:11]}***, ***{KEY[-8:]}") == "Bearer [the key], [the key]***, ***[the key]"
    assert hide_key(f"{KEY[:7]} is short") == f"{KEY[:7]} is short"
    for short in ("none", "x", ""):
        monkeypatch.setenv("OPENAI_API_KEY", short)
        assert hide_key("none of the six") == "none of the six"


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_no_key(key, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match=r"^OPENAI_API_KEY: expected a key, found none; export OPENAI_API_KEY=\.\.\. "):
        read_key()


@pytest.mark.parametrize("key", ["sk-S\u00c9CRET", "two words", "two\nlines"])
def test_what_is_no_key(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match=r"^OPENAI_API_KEY: expected letters") as caught:
        read_key()
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_at_once": 0}, "--num_at_once: expected at least 1 and at most 1,000, found 0"),
        ({"num_at_once": 10**6}, "--num_at_once: expected at least 1 and at most 1,000, found 1000000"),
        ({"max_retries": -1}, "--max_retries: expected at least 0, found -1"),
        ({"temperature": -3.0}, "--temperature: expected at least 0, found -3.0"),
        ({"temperature": float("nan")}, "--temperature: expected at least 0, found nan"),
        ({"max_per_minute": 0}, "--max_per_minute: expected more than 0, found 0"),
        ({"timeout": float("inf")}, "--timeout: expected more than 0, found inf"),
        ({"model": " "}, "--model: expected the name of a model, found ' '"),
        ({"model": "\udcff"}, "--model: expected the name of a model, found "),
        *(({"url": url}, "--endpoint: expected a URL such as") for url in ("http://[x", "localhost:8000", "")),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError) as caught:
        Endpoint(**{"url": "http://x", "model": "tiny", **options})
    assert str(caught.value).startswith(message)

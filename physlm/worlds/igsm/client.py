"""Asking a language model behind an endpoint that speaks the chat-completions protocol.

- One request is a list of messages, one reply is a text. No streaming, no tools, no state between requests.
- What may pass is tried again with growing pauses: no connection, no answer in time, too many requests, a fault of the
  server. What cannot pass is raised at once, with the address, the status and the server's own words.
- The key is read from the environment, sent to the given address only, and never shown: a
  redirection is an error that says where to.

Only the standard library is used. Protocol: `POST {base_url}/chat/completions`, as OpenAI's API, vLLM, llama.cpp,
Ollama and others serve it.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict
from urllib.parse import urlsplit

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_PAUSE = 60.0
_SHOWN = 300  # characters of what a server said


class Message(TypedDict):
    """One message of a conversation."""

    role: str
    content: str


class EndpointError(RuntimeError):
    """The endpoint did not answer, or not as the protocol says; the message has the address and what to try."""


@dataclass(frozen=True)
class Reply:
    """What the model wrote.

    Attributes:
        text: the content of the message.
        finish_reason: "stop", or "length" if it was cut.
        usage: tokens read and written, as the endpoint counts them.
    """

    text: str
    finish_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Lets a redirection come out as an error; followed, it would take the key along."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class ChatClient:
    """A model behind an endpoint.

    Example:
        >>> client = ChatClient(base_url="http://localhost:8000/v1", model="a-model")
        >>> client.complete([{"role": "user", "content": "What is 2 + 2?"}]).text
        '4'

    Attributes:
        base_url: address up to and with the version, as "http://localhost:8000/v1".
        model: name of the model at the endpoint.
        key_variable: environment variable that holds the key; without it none is sent.
        options: further fields of every request, such as `temperature` or `max_tokens`.
        timeout: seconds without a sign of life after which a request counts as lost.
        retries: how often a request is tried again.
        pause: seconds before the first retry; doubled every time, unless the server says how long to wait.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    options: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0})
    timeout: float = 120.0
    retries: int = 5
    pause: float = 1.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"base_url must be an address such as 'http://localhost:8000/v1', got {self.base_url!r}")
        if not self.model:
            raise ValueError("model must be the name of a model at the endpoint, got an empty one")
        if self.timeout <= 0:
            raise ValueError(f"timeout must be > 0 seconds, got {self.timeout}")
        if self.retries < 0:
            raise ValueError(f"retries must be ≥ 0, got {self.retries}")
        if self.pause < 0:
            raise ValueError(f"pause must be ≥ 0 seconds, got {self.pause}")
        reserved = {"model", "messages", "stream", "n"} & set(self.options)
        if reserved:
            raise ValueError(f"options must not set {sorted(reserved)[0]!r}, which the client sets itself")

    @property
    def url(self) -> str:
        """Where requests go."""
        return self.base_url.rstrip("/") + "/chat/completions"

    @property
    def _key(self) -> str:
        return os.environ.get(self.key_variable, "")

    def complete(self, messages: Sequence[Message]) -> Reply:
        """What the model writes after `messages`.

        Raises:
            EndpointError: if the request is refused, or still fails after all retries.
        """
        body = json.dumps({**self.options, "model": self.model, "messages": list(messages), "stream": False}).encode()
        pause = self.pause
        for attempt in range(self.retries + 1):
            try:
                return self._read(self._send(body))
            except _PassingError as error:
                if attempt == self.retries:
                    raise EndpointError(f"{error} (tried {attempt + 1} times)") from error.__cause__
                time.sleep(min(_LONGEST_PAUSE, pause if error.wait is None else error.wait))
                pause *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            try:
                with opener.open(request, timeout=self.timeout) as response:
                    return response.read()
            except urllib.error.HTTPError as error:
                with error:
                    raise self._refusal(error) from None
        except TimeoutError as error:
            raise _PassingError(f"{self.url} did not answer within {self.timeout:g} s") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _PassingError(f"{self.url} did not answer within {self.timeout:g} s") from error
            raise _PassingError(f"{self.url} cannot be reached: {error.reason}") from error
        except (http.client.HTTPException, ConnectionError) as error:
            raise _PassingError(f"{self.url} broke off its answer: {error!r}") from error

    def _refusal(self, error: urllib.error.HTTPError) -> EndpointError:
        """What an HTTP status means, and what to do about it."""
        if 300 <= error.code < 400:
            target = error.headers.get("Location", "an unnamed address")
            return EndpointError(f"{self.url} redirects to {target}: give the final address as base_url")
        said = self._excerpt(error.read())
        text = f"{self.url} answered {error.code} {error.reason}: {said}"
        if error.code in _PASSING:
            return _PassingError(text, _seconds(error.headers.get("Retry-After")))
        hint = {
            401: f"; set {self.key_variable} to a key of this endpoint",
            403: f"; is the key in {self.key_variable} allowed to use {self.model!r}?",
            404: f"; does base_url end with the version, as /v1, and is {self.model!r} served there?",
            422: "; one of the options may be unknown there",
            400: "; one of the options may be unknown there, or the prompt too long for the model",
        }
        return EndpointError(text + hint.get(error.code, ""))

    def _read(self, body: bytes) -> Reply:
        """The reply in a response of the protocol."""
        try:
            answer = json.loads(body)
            choice = answer["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise EndpointError(f"{self.url} answered, but not with a chat completion: {self._excerpt(body)}") from None
        if text is not None and not isinstance(text, str):
            raise EndpointError(f"{self.url} answered, but its message has no text: {self._excerpt(body)}")
        return Reply(text or "", choice.get("finish_reason"), answer.get("usage") or {})

    def _excerpt(self, body: bytes) -> str:
        """The beginning of what a server said, without the key, which some servers repeat."""
        text = " ".join(body.decode("utf-8", "replace").split())
        if self._key:
            text = text.replace(self._key, "[key]")
        return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"


class _PassingError(EndpointError):
    """A fault that another try may not meet; `wait` is for how long the server asks to be left alone, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def _seconds(header: str | None) -> float | None:
    """The header `Retry-After` if it is a number; a date is not worth a parser here."""
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:
        return None

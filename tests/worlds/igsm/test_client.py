"""The client against a server that speaks the protocol over a real connection."""

import socket
import time

import pytest
from chat_server import ChatServer

from physlm.worlds.igsm.client import ChatClient, EndpointError

ASKED = [{"role": "user", "content": "2 + 2?"}]


def client_of(server, **options):
    return ChatClient(**{"base_url": server.base_url, "model": "small", "pause": 0.01, "timeout": 5.0, **options})


def test_a_request_is_as_the_protocol_has_it(monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-key")
    with ChatServer(lambda prompt: f"{prompt} 4") as server:
        reply = client_of(server, key_variable="A_KEY", options={"temperature": 0, "max_tokens": 9}).complete(ASKED)
    (request,) = server.requests
    assert (reply.text, reply.finish_reason, reply.usage["total_tokens"]) == ("2 + 2? 4", "stop", 5)
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer secret-key"
    assert request["headers"]["Content-Type"] == "application/json"
    assert request["body"] == {
        "model": "small",
        "messages": ASKED,
        "stream": False,
        "temperature": 0,
        "max_tokens": 9,
    }


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer(str) as server:
        client_of(server, base_url=server.base_url + "/").complete(ASKED)
    assert "Authorization" not in server.requests[0]["headers"]
    assert server.requests[0]["path"] == "/v1/chat/completions"


@pytest.mark.parametrize("fault", [429, 500, 503, "silence", "hang up"])
def test_what_may_pass_is_tried_again(fault):
    with ChatServer(lambda _: "4", [fault, fault]) as server:
        assert client_of(server, retries=2, timeout=0.3).complete(ASKED).text == "4"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (503, r"answered 503 Service Unavailable: .*out of order.*\(tried 3 times\)"),
        ("silence", r"did not answer within 0\.3 s \(tried 3 times\)"),
        ("hang up", r"broke off its answer|cannot be reached"),
    ],
)
def test_what_does_not_pass_is_raised_in_the_end(fault, message):
    with ChatServer(str, [fault] * 9) as server, pytest.raises(EndpointError, match=message):
        client_of(server, retries=2, timeout=0.3).complete(ASKED)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (400, "answered 400 .*one of the options may be unknown there, or the prompt too long"),
        (401, "answered 401 .*set OPENAI_API_KEY to a key of this endpoint"),
        (403, "is the key in OPENAI_API_KEY allowed to use 'small'"),
        (404, "does base_url end with the version, as /v1, and is 'small' served there"),
        (418, "answered 418 "),
        ((307, {"Location": "http://elsewhere.invalid/v1"}), "redirects to http://elsewhere.invalid/v1"),
        ("nonsense", "not with a chat completion: <html>Welcome</html>"),
        ("other", "not with a chat completion: .*'?list"),
    ],
)
def test_what_cannot_pass_is_raised_at_once_with_the_way_out(fault, message):
    with ChatServer(str, [fault]) as server, pytest.raises(EndpointError, match=message) as caught:
        client_of(server, pause=60.0).complete(ASKED)
    assert server.base_url in str(caught.value)
    assert len(server.requests) == 1


def test_the_key_is_never_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with ChatServer(str, [401]) as server, pytest.raises(EndpointError, match=r"you sent Bearer \[key\]") as caught:
        client_of(server).complete(ASKED)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(client_of(server))


def test_a_server_that_says_how_long_to_wait_is_obeyed():
    with ChatServer(lambda _: "4", [(429, {"Retry-After": "0.4"})]) as server:
        before = time.monotonic()
        client_of(server, pause=0.0).complete(ASKED)
        assert time.monotonic() - before >= 0.4


def test_no_text_is_an_empty_answer():
    with ChatServer(str, ["empty"]) as server:
        assert client_of(server).complete(ASKED).text == ""


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=r"127\.0\.0\.1.*cannot be reached: .*refused.*tried 2 times"):
            ChatClient(base_url=url, model="small", retries=1, pause=0.01).complete(ASKED)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url must be an address such as .*got 'localhost:8000'"),
        ({"base_url": "file:///v1"}, "base_url must be an address"),
        ({"model": ""}, "model must be the name"),
        ({"timeout": 0}, "timeout must be > 0 seconds, got 0"),
        ({"retries": -1}, "retries must be ≥ 0, got -1"),
        ({"pause": -1}, "pause must be ≥ 0 seconds, got -1"),
        ({"options": {"stream": True}}, "options must not set 'stream'"),
    ],
)
def test_bad_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ChatClient(**{"base_url": "http://localhost:8000/v1", "model": "small", **wrong})

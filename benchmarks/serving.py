"""Load of `fcos serve`: several clients, some of whose requests are bad; latency, and the server's memory.

python -m benchmarks.serving --weights models/detector.safetensors --seconds 600
"""

import argparse
import base64
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import psutil  # type: ignore[import-untyped]
import requests

from pipeline.integrations import serving
from pipeline.integrations.servers import LOOPBACK, Server, find_free_port

WARM_UP = 30.0  # seconds before memory is first read
SIZES = ((256, 256), (640, 480), (1280, 960), (1920, 1080))
# A bad request of each kind, and the status that it must get.
BAD = (
    ("application/json", b'{"dataframe_records": [{"image": "', 400),
    ("application/json", b'{"dataframe_records": [{"picture": ""}]}', 400),
    ("application/json", b'{"dataframe_records": [{"image": "%%%"}]}', 400),
    ("image/jpeg", b"no image", 400),
    ("image/jpeg", b"", 400),
    ("text/csv", b"image\n", 415),
    ("image/jpeg", b"\0" * 9_000_000, 413),
)


@dataclass
class Load:
    """What all clients have seen."""

    images: list[bytes]
    bad: float  # share of bad requests
    ended: threading.Event = field(default_factory=threading.Event)
    seconds: list[float] = field(default_factory=list)  # of each good request
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # answers that should have been others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--bad", type=float, default=0.05, help="share of bad requests")
    options = parser.parse_args()
    load = Load(make_images(), options.bad)
    limits = serving.Limits(megabytes=8)
    with serving.serve(
        weights=options.weights, model=None, device="cpu", limits=limits, host=LOOPBACK, port=find_free_port()
    ) as server:
        clients = [threading.Thread(target=run_client, args=(server, load, seed)) for seed in range(options.clients)]
        for client in clients:
            client.start()
        memory = watch_memory(server, options.seconds)
        load.ended.set()
        for client in clients:
            client.join()
        alive = server.process.poll() is None
    report(load, memory, options.seconds, alive)


def make_images() -> list[bytes]:
    """JPEG files of several sizes and qualities."""
    generator, images = np.random.default_rng(0), []
    for width, height in SIZES:
        for quality in (60, 90):
            pixels = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            content = BytesIO()
            PIL.Image.fromarray(pixels).resize((width, height)).save(content, "JPEG", quality=quality)
            images.append(content.getvalue())
    return images


def run_client(server: Server, load: Load, seed: int) -> None:
    """Sends one request after the other: files, base64 and, now and then, something bad."""
    generator = random.Random(seed)
    with requests.Session() as session:
        while not load.ended.is_set():
            if generator.random() < load.bad:
                kind, body, expected = generator.choice(BAD)
            else:
                kind, body, expected = *make_request(generator, load.images), 200
            started = time.monotonic()
            answer = session.post(f"{server.address}invocations", body, headers={"Content-Type": kind}, timeout=120)
            if expected == 200:
                load.seconds.append(time.monotonic() - started)
            load.statuses[answer.status_code] += 1
            if answer.status_code != expected or ("predictions" in answer.json()) != (expected == 200):
                load.wrong.append(f"{answer.status_code} instead of {expected}: {answer.text[:200]}")


def make_request(generator: random.Random, images: list[bytes]) -> tuple[str, bytes]:
    image = generator.choice(images)
    if generator.random() < 0.5:
        return "image/jpeg", image
    record = {"image": base64.b64encode(image).decode()}
    return "application/json", json.dumps({"dataframe_records": [record]}).encode()


def watch_memory(server: Server, seconds: float) -> list[float]:
    """The server's resident memory in MB, ten times: first after the warm-up, last at the end."""
    time.sleep(WARM_UP)
    processes = psutil.Process(server.process.pid).children(recursive=True)
    process = max(processes, key=lambda item: item.memory_info().rss)
    memory = [process.memory_info().rss / 1e6]
    for _ in range(9):
        time.sleep((seconds - WARM_UP) / 9)
        memory.append(process.memory_info().rss / 1e6)
    return memory


def report(load: Load, memory: list[float], seconds: float, alive: bool) -> None:
    p50, p90, p99 = np.percentile(load.seconds, (50, 90, 99)) * 1000
    print(f"statuses: {dict(sorted(load.statuses.items()))}; wrong answers: {len(load.wrong)}")
    print(*load.wrong[:5], sep="\n", end="")
    print(f"{len(load.seconds) / seconds:.1f} images/s; p50 {p50:.0f} ms, p90 {p90:.0f} ms, p99 {p99:.0f} ms")
    print(f"server's memory in MB: {', '.join(f'{value:.0f}' for value in memory)}: {memory[-1] / memory[0] - 1:+.1%}")
    print(f"the server {'runs' if alive else 'has ended'}")


if __name__ == "__main__":
    main()

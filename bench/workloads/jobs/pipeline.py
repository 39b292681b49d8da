"""An input pipeline: images made and augmented on the host by torch's DataLoader, then trained on.

The images are generated, not decoded: an item costs about a millisecond of one core, where a JPEG
of a photograph costs some. What the pipeline adds to a step is what a DataLoader adds to any: its
processes, their shared memory, the pinned copy, the transfer, and the wait where it is too slow.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import random
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from bench.workload import Site, Within
from bench.workloads.jobs.jobs import TrainingJob
from bench.workloads.jobs.seeded import place

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bench.workloads.jobs.jobs import Batch, Forward

MARGIN = 7
"""Images are made larger by one in so many than what is cropped: 256 for 224, as the field does."""
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)
"""Of each channel of ImageNet's photographs, in steps of a byte: as torchvision normalizes them."""
PIXEL_BYTES = 4
"""A normalized channel of a pixel, float32."""
LABEL_BYTES = 8
LoaderWorkers = Annotated[int, Within(0, 256)]
PrefetchFactor = Annotated[int, Within(1, 64)]
PR_SET_PDEATHSIG = 1
"""<linux/prctl.h>"""


class GeneratedImages:
    """A map-style data set: any index is an image and its class, the same for the same seed."""

    def __init__(self, seed: int, image_size: int, classes: int) -> None:
        """image_size: of the crop."""
        self._seed, self._size, self._classes = seed, image_size, classes

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Random bytes, cropped and flipped at random, normalized: float32 [3, S, S], and a class.

        The crop's place, the flip and the class are drawn with the image, from the seed and the
        index alone: whichever process makes it, it is the same.
        """
        import torch

        # Hashed, because torch's generator takes the lower 32 bits of a seed.
        seed = zlib.crc32(b"%d %d" % (self._seed, index))
        draws, pixels = random.Random(seed), torch.Generator().manual_seed(seed)
        side = self._size + -(-self._size // MARGIN)
        image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=pixels)
        places = side - self._size + 1
        top, left, flip, label = map(draws.randrange, (places, places, 2, self._classes))
        crop = image[:, top : top + self._size, left : left + self._size]
        if flip:
            crop = crop.flip(-1)
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
        return crop.float().sub_(mean).div_(deviation), label


class Endless:
    """The order of an epoch that never ends. Images come from their index, so none is shuffled."""

    def __iter__(self) -> Iterator[int]:
        """0, 1, 2, ..."""
        return itertools.count()


def transferred_bytes(batch_size: int, image_size: int) -> int:
    """Of a batch, images and classes, on its way to the device."""
    return batch_size * (3 * image_size**2 * PIXEL_BYTES + LABEL_BYTES)


def data_loader(images: GeneratedImages, batch_size: int, loader: Any, site: Site) -> Any:
    """A DataLoader over them that never ends. loader: parameters with DataLoader's own names.

    Its processes are started as torch does on this system.
    """
    from torch.utils.data import DataLoader

    source: Any = images
    order: Any = Endless()
    processes: dict[str, Any] = {}
    if loader.num_workers:
        processes = {
            "prefetch_factor": loader.prefetch_factor,
            "worker_init_fn": functools.partial(_end_with_launch, os.getpid()),
        }
    return DataLoader(
        source,
        batch_size=batch_size,
        sampler=order,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory and site.device.type != "cpu",
        **processes,
    )


def _end_with_launch(parent: int, _: int) -> None:
    """Has the kernel end this process with the one that started it, however that ends (Linux).

    parent: the process that started it, which may be gone before the kernel is told; a server of
    forks goes with it. Elsewhere torch looks every five seconds whether it is still there.
    """
    import multiprocessing

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if multiprocessing.get_start_method() != "forkserver" and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


class Feed:
    """Batches on the device, as they come; counts how long the host waited for them."""

    def __init__(self, loader: Any, site: Site) -> None:
        """Starts the loader's processes."""
        self._batches = iter(loader)
        self._site = site
        self._done = _event(site.device)
        self.mark: Callable[[], None] | None = None
        """See `bench.workload.Job.on_input`."""
        self.wait_ns = 0
        """Host time spent waiting for batches. Of a device that queues and is not marked, for those
        that found it idle, whenever it came to be."""

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """Waits for a batch, and queues its transfer."""
        start = time.perf_counter_ns()
        images, labels = next(self._batches)
        waited = time.perf_counter_ns() - start
        if self.mark is not None:
            self.mark()
        elif self._done is not None and not self._done.query():
            waited = 0
        self.wait_ns += waited
        there = images.to(self._site.device, non_blocking=True)
        return place(there, self._site), labels.to(self._site.device, non_blocking=True)

    @property
    def facts(self) -> dict[str, str]:
        """What the record says of the loader besides its parameters."""
        import multiprocessing

        alone = not hasattr(self._batches, "_workers")
        # torch's own word: it pins nothing for some devices, and says so on stderr only.
        pinned = getattr(self._batches, "_pin_memory", False)
        return {
            "loader processes": "none" if alone else multiprocessing.get_start_method(),
            "batches": "pinned" if pinned else "pageable",
        }

    def stepped(self) -> None:
        """Marks, on the device, the end of the step just queued, where no timer asks it."""
        if self._done is not None and self.mark is None:
            self._done.record()

    def close(self) -> None:
        """Ends the loader's processes."""
        end = getattr(self._batches, "_shutdown_workers", None)
        if end is not None:  # it has no public name: torch leaves it to the garbage collector
            end()


def _event(device: torch.device) -> Any:
    """An event without timing on the device's current stream; None where steps are synchronous."""
    import torch

    if device.type == "cpu":
        return None
    own = getattr(torch.get_device_module(device.type), "Event", None)
    return torch.Event(device.type) if own is None else own()


class PipelineJob(TrainingJob):
    """A training step whose batch comes from a `Feed`."""

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        feed: Feed,
        optimizer: str,
        learning_rate: float,
        site: Site,
    ) -> None:
        """feed: whose processes end with the job."""
        super().__init__(model, forward, [], optimizer, learning_rate, site, feed.facts)
        self._feed = feed
        self._batches = feed

    @property
    def input_wait_ns(self) -> int:
        """Of all steps so far."""
        return self._feed.wait_ns

    def on_input(self, mark: Callable[[], None] | None) -> None:
        """Of the step's batch, before its transfer."""
        self._feed.mark = mark

    def step(self) -> None:
        """Waits for a batch; queues its transfer and the training step."""
        super().step()
        self._feed.stepped()

    def close(self) -> None:
        """Ends the loader's processes."""
        self._feed.close()

    def _next_batches(self) -> list[Batch]:
        batches = super()._next_batches()
        self._taken = []  # kept, a batch would stay in memory while the next is brought there
        return batches

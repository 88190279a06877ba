"""The cache of resized images gives the same pixels as the files, also after crashes and on a full disk."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from fcos.config import InputSize
from fcos.ops.images import resized
from pipeline.data.annotations import AnnotationSet
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.files import digest
from pipeline.loading.cache import ImageCache
from tests.support.noise_images import SIZE, batches, batches_equal, training_data, write_noise_images


@pytest.fixture
def open_cache(tmp_path: Path) -> Callable[..., ImageCache]:
    def build(split: AnnotationSet, size: InputSize = SIZE) -> ImageCache:
        digests = [digest(tmp_path / "raw" / image.file_name) for image in split.images]
        return ImageCache(tmp_path / "store", tmp_path / "raw", split.images, digests, size)

    return build


@pytest.mark.parametrize("size", [SIZE, InputSize((33, 47), letterbox=True), InputSize((100, 130))])
def test_a_cache_does_not_change_pixels_without_zoom(
    open_cache: Callable[..., ImageCache], tmp_path: Path, size: InputSize
) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 49), (41, 83), (480, 640), (17, 90), (61, 61)])
    data = training_data(tmp_path / "raw", split, scale=(1.0, 1.0))
    data.augmentation = replace(data.augmentation, input_size=size)
    expected = list(batches(data, batch_size=3, canvas=size.canvas)(1))
    for _ in range(2):  # the first pass writes, the second reads
        data.cache = open_cache(split, size)
        for workers in (0, 2):
            assert batches_equal(expected, list(batches(data, batch_size=3, canvas=size.canvas, workers=workers)(1)))


def test_a_cached_image_is_not_decoded_again(open_cache: Callable[..., ImageCache], tmp_path: Path) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 48)])
    path = tmp_path / "raw/1.png"
    cache = open_cache(split)
    expected = resized(read_image(path), *SIZE.resized(64, 48))
    assert torch.equal(cache.read(1, path), expected)
    path.unlink()
    image = cache.read(1, path)
    assert torch.equal(image, expected)
    assert image.stride() == expected.stride()


@pytest.mark.parametrize("lost", ["pixels", "sums"])
def test_an_image_that_a_crash_left_incomplete_is_decoded_again(
    open_cache: Callable[..., ImageCache], tmp_path: Path, lost: str
) -> None:
    """A killed process can leave pixels without a checksum, and a machine failure a checksum without pixels."""
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 48)])
    path = tmp_path / "raw/1.png"
    cache = open_cache(split)
    expected = cache.read(1, path)
    content = bytearray((cache.folder / lost).read_bytes())
    content[-8:] = bytes(8)
    (cache.folder / lost).write_bytes(content)
    reopened = open_cache(split)
    assert torch.equal(reopened.read(1, path), expected)
    path.unlink()
    assert torch.equal(reopened.read(1, path), expected)


def test_processes_killed_while_writing_leave_a_valid_cache(
    open_cache: Callable[..., ImageCache], tmp_path: Path
) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 48), (40, 80)] * 4)
    paths = [tmp_path / "raw" / image.file_name for image in split.images]
    size = InputSize((320, 480))

    def fill() -> None:
        cache = open_cache(split, size)
        while True:
            os.truncate(cache.folder / "sums", 0)
            os.truncate(cache.folder / "sums", len(paths) * 8)
            for row, path in enumerate(paths):
                cache.read(row, path)

    for delay in (0.01, 0.03, 0.05, 0.08):
        writers = [multiprocessing.get_context("fork").Process(target=fill) for _ in range(2)]
        for process in writers:
            process.start()
        time.sleep(delay)
        cache = open_cache(split, size)
        for process in writers:
            process.kill()
            process.join()
        for row, path in enumerate(paths):
            assert torch.equal(cache.read(row, path), resized(read_image(path), *size.resized(*cache.shapes[row])))


def replace_image(path: Path) -> None:
    """Replaces an image by another of the same shape, size in bytes and modification time, as reproducible archives do.

    Bytes after a PNG's end are ignored, so both files can have the same size.
    """
    status, shape = path.stat(), read_image(path).shape
    path.write_bytes(b"")
    PIL.Image.new("RGB", (shape[2], shape[1]), (200, 0, 0)).save(path)
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_an_image_of_the_same_size_and_time_is_read_anew(open_cache: Callable[..., ImageCache], tmp_path: Path) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 48)])
    path = tmp_path / "raw/1.png"
    before = open_cache(split).read(1, path)
    replace_image(path)
    after = open_cache(split).read(1, path)
    assert not torch.equal(before, after)
    assert after.unique().tolist() == [0, 200]


def test_caches_of_changed_files_are_removed_unless_in_use(
    open_cache: Callable[..., ImageCache], tmp_path: Path
) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 48)])
    first, larger = open_cache(split), open_cache(split, InputSize((64, 96)))
    assert first.folder.parent == larger.folder.parent
    replace_image(tmp_path / "raw/0.png")
    second = open_cache(split)
    assert second.folder.parent != first.folder.parent
    assert first.folder.exists()  # in use
    old = first.folder.parent
    del first, larger
    third = open_cache(split)
    assert third.folder == second.folder
    assert not old.exists()
    assert second.folder.exists()


def test_too_little_disk_space_is_a_one_line_error_with_numbers(
    open_cache: Callable[..., ImageCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 48)])
    cache = open_cache(split, InputSize((16_000, 16_000)))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**8))
    with pytest.raises(PipelineError, match=r"needs 0\.6 GB more, but only 0\.1 GB are free: free up space") as caught:
        cache.check_free_space(np.array([1]))
    assert "\n" not in str(caught.value)
    cache.check_free_space(np.array([], dtype=np.int64))
    open_cache(split).check_free_space(np.array([0, 1]))


def test_on_a_full_disk_images_are_not_cached(open_cache: Callable[..., ImageCache], tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    split = write_noise_images(tmp_path / "raw", [(48, 64), (64, 48)])
    path = tmp_path / "raw/1.png"
    cache = open_cache(split)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        image = cache.read(1, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.equal(image, resized(read_image(path), *SIZE.resized(64, 48)))
    assert not any((cache.folder / "sums").read_bytes())


def test_a_size_that_differs_from_the_annotations_is_a_one_line_error(
    open_cache: Callable[..., ImageCache], tmp_path: Path
) -> None:
    split = write_noise_images(tmp_path / "raw", [(48, 64)])
    wrong = replace(split, images=(replace(split.images[0], width=65),))
    with pytest.raises(PipelineError, match=r"0\.png has 64×48 pixels, but its annotations are for 65×48: run"):
        open_cache(wrong).read(0, tmp_path / "raw/0.png")

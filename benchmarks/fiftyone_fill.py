"""Time to fill FiftyOne's dataset, with generated images, boxes and detections of 80 classes.

python -m benchmarks.fiftyone_fill --images 5000 --boxes 100000
"""

import argparse
import os
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image as Pillow

from pipeline import params
from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.files import digest, write_json
from pipeline.integrations import fiftyone, mongo

CLASSES, WIDTH, HEIGHT = 80, 640, 480
OBJECTS = 0.35  # share of the boxes that are ground truth: COCO's validation split has seven objects in an image
PROJECT = Path(__file__).parents[1]

Box = tuple[float, float, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        detections = make_project(options.images, options.boxes)
        with mongo.server():
            measure("empty dataset")
            measure("nothing has changed")
            os.environ["DVC_EXP_NAME"] = "second"
            results.write(detections[::2], Path("predictions/val.json"))
            measure("a second experiment, half of the detections")
            results.write(detections[1::2], Path("predictions/val.json"))
            measure("the second experiment has changed")
        os.chdir(PROJECT)


def make_project(images: int, boxes: int, classes: int = CLASSES) -> list[Detection]:
    """Writes a project into the current folder; returns its detections."""
    generator = random.Random(0)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, name)
    folder = Path("data/raw/digits/images")
    folder.mkdir(parents=True)
    Pillow.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save("image.jpg")
    records = tuple(Image(number, f"images/{number}.jpg", WIDTH, HEIGHT) for number in range(images))
    for image in records:
        shutil.copy("image.jpg", folder.parent / image.file_name)
    objects = [make_object(generator, number, images, classes) for number in range(int(boxes * OBJECTS))]
    detections = [detect(generator, item, classes) for item in objects if generator.random() < 0.7]
    while len(objects) + len(detections) < boxes:
        number, label = generator.randrange(images), generator.randrange(classes) + 1
        detections.append(Detection(number, label, make_box(generator), generator.random() ** 2))
    categories = tuple(Category(number + 1, f"class {number}") for number in range(classes))
    annotations.write(AnnotationSet(categories, records, tuple(objects)), Path("data/unified/val.json"))
    results.write(detections, Path("predictions/val.json"))
    weights = Path("models/detector.safetensors")
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    points = {"weights": digest(weights), "split": "val", "all": {"score": 0.4}, "classes": {}}
    write_json(Path("predictions/operating_point.json"), points)
    return detections


def make_box(generator: random.Random) -> Box:
    width, height = generator.uniform(10, 200), generator.uniform(10, 200)
    return generator.uniform(0, WIDTH - width), generator.uniform(0, HEIGHT - height), width, height


def make_object(generator: random.Random, number: int, images: int, classes: int) -> Annotation:
    box = make_box(generator)
    return Annotation(number + 1, number % images, generator.randrange(classes) + 1, box, box[2] * box[3])


def detect(generator: random.Random, item: Annotation, classes: int) -> Detection:
    """A detection of an object: of another class in a tenth of the cases, and too small."""
    x, y, width, height = item.bbox
    label = item.category_id if generator.random() < 0.9 else generator.randrange(classes) + 1
    box = (x, y, width * generator.uniform(0.7, 1), height * generator.uniform(0.7, 1))
    return Detection(item.image_id, label, box, generator.uniform(0.2, 1))


def measure(name: str) -> None:
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    fiftyone.refresh(fiftyone.dataset_spec(params.load()))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name}: {time.monotonic() - started:.1f} s, {cpu:.1f} s of CPU time")


if __name__ == "__main__":
    main()

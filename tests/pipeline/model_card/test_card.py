"""The model card: its numbers, its front matter, untrusted names, and what it leaves out."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image as Pillow

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.weights import Description, save_detector
from pipeline import recipes
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import report
from pipeline.evaluation.plot_tables import plot_tables
from pipeline.files import digest, write_json
from pipeline.model_card import card, facts, front_matter, markdown
from pipeline.model_card.facts import Facts
from pipeline.model_card.files import find_card

EVIL = "a|b`c <script>x</script>\n| *d* [e](f) \"g\" 'h' $i$"
TINY = replace(PAPER, backbone="tiny", pretrained=False, channels=8, levels=(3,), tower_depth=0, frozen_stages=0)
BOX = (10.0, 10.0, 40.0, 40.0)


def scene(names: list[str]) -> AnnotationSet:
    """An image with an object for each class."""
    categories = tuple(Category(number, name) for number, name in enumerate(names, start=1))
    images = tuple(Image(category.id, f"{category.id}.jpg", 100, 100) for category in categories)
    objects = tuple(Annotation(image.id, image.id, image.id, BOX, 1600.0) for image in images)
    return AnnotationSet(categories, images, objects)


def make(home: Path, names: list[str], conversion: object = None) -> Facts:
    """Facts of a detector that finds every object, except that it takes the first class for the second."""
    truth = scene(names)
    found = [
        Detection(image.id, min(2, len(names)) if image.id == 1 else image.id, BOX, 0.75) for image in truth.images
    ]
    classes = tuple((category.id, category.name) for category in truth.categories)
    description = Description(model=TINY, categories=classes, input_size=InputSize((64, 96)))
    save_detector(build(TINY, len(names)), description, home / "models/detector.safetensors")
    annotations.write(truth, home / "data/unified/val.json")
    if conversion:
        write_json(home / "data/unified/report.json", conversion)
    params = replace(recipes.defaults(), model=replace(TINY, start_from="data/start_from"))
    scores = report.evaluate(truth, found, input_size=description.input_size)
    return facts.collect(
        home, params, description, scores, None, confusion=plot_tables(truth, found, scores)["confusion"]
    )


def body(text: str) -> str:
    return text.split("---\n", 2)[2]


def rows(text: str, title: str) -> list[list[str]]:
    """The cells of the first table of a section, as they are displayed."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(body(text))
    section = re.search(rf"<h2>{title}</h2>(.*?)(<h2>|\Z)", html, re.DOTALL)
    assert section
    found = re.search(r"<table>.*?</table>", section[1], re.DOTALL)
    assert found
    lines = re.findall(r"<tr>(.*?)</tr>", found[0], re.DOTALL)
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", line)] for line in lines]


def test_numbers(tmp_path: Path) -> None:
    """Of four classes with an object each, one is taken for another: its AP is 0, and that of the other is 1/2 or 1."""
    splits = {
        "splits": {"train": {"images": 7, "images_without_objects": 2, "objects": 1234, "classes": {"ant": 1234}}}
    }
    found = make(tmp_path, ["ant", "bee", "cat", "dog"], conversion=splits)
    text = card.render(found)
    expected = found.val["coco"]["AP"]
    assert expected == pytest.approx((0 + 0.5 + 1 + 1) / 4, abs=0.01)
    assert f"On 4 validation images: AP {expected:.3f} (95 % interval " in text
    assert f"| AP, IoU 0.50:0.95 | {expected:.3f} | " in text
    assert rows(text, "Errors")[1][0::2] == ["wrong class", "1"]
    assert "- ant detected as bee: 1 object, 100 % of those of its class" in text
    assert rows(text, "Training data")[1] == ["train", "7", "2", "1,234"]
    classes = rows(text, "Classes")
    assert [line[0] for line in classes] == ["class", "ant", "bee", "cat", "dog"]
    assert [line[1] for line in classes] == ["objects in train", "1,234", "0", "0", "0"]
    assert classes[3][2:] == ["1.000", *classes[3][3:4], "1.000", "0.750", "1.000", "1.000"]
    # fcos summary's numbers for this architecture: see test_summary.
    costs = dict(rows(text, "Cost"))
    assert costs["parameters"] == f"{sum(p.numel() for p in build(TINY, 4).parameters()):,}"
    assert digest(tmp_path / "models/detector.safetensors") in text
    assert "computed in" not in text
    described = replace(found, description=replace(found.description, precision="bf16"))
    assert "seed 0; computed in bf16\n" in card.render(described)
    assert "their shorter side has 64 pixels, or less if the longer side would have more than 96" in text


def test_the_front_matter_is_that_of_hugging_face(tmp_path: Path) -> None:
    found = make(tmp_path, ["cat", EVIL])
    entry = facts.registry.find("bccd")
    named = replace(found, dataset="bccd", source=replace(entry, title='Cells: "red" # and white'))
    data = ModelCard(card.render(named)).data
    assert (data.license, data.pipeline_tag, data.library_name) == ("mit", "object-detection", "fcos-pipeline")
    assert data.tags == ["object-detection", "fcos", "tiny"]
    assert data.weights_sha256 == found.weights_digest
    assert data.model_name == "fcos-bccd-tiny"
    results = [(item.dataset_name, item.dataset_type, item.dataset_split) for item in data.eval_results]
    assert results == [('Cells: "red" # and white', "bccd", "val")] * 2
    assert [item.metric_value for item in data.eval_results] == [found.val["coco"][name] for name in ("AP", "AP50")]
    # The license of the images of COCO has no identifier.
    assert ModelCard(card.render(replace(found, source=facts.registry.find("coco2017")))).data.license is None


def test_untrusted_names_have_no_effect(tmp_path: Path) -> None:
    text = card.render(make(tmp_path, [EVIL, "dog"]))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body(text))
    assert "<script" not in html
    assert '<a href="f"' not in html
    classes = rows(text, "Classes")
    assert [len(line) for line in classes] == [7, 7, 7]
    assert "<em>" not in html


ESCAPED = {
    "1. ant": r"1\. ant",
    "2) bee": r"2\) bee",
    "- cat": r"\- cat",
    "+ dog": r"\+ dog",
    "==": r"\==",
    "t-shirt: 3.5 mm": "t-shirt: 3.5 mm",
    "http://evil.com": r"http\://evil.com",  # GitHub makes links of addresses without brackets
    "www.evil.com": r"www\.evil.com",
    "@user": r"\@user",
}


@pytest.mark.parametrize(("name", "escaped"), ESCAPED.items())
def test_a_name_at_the_beginning_of_a_line_is_shown_as_it_is(name: str, escaped: str) -> None:
    assert markdown.text(name) == escaped
    assert MarkdownIt("commonmark").render(f"before\n{escaped}") == f"<p>before\n{name}</p>\n"


def test_the_front_matter_is_yaml_whatever_it_has(tmp_path: Path) -> None:
    title = "a\x7fb\x85c\x9fd\u2028e\ufefff\ttail 日本 🐜"
    found = make(tmp_path, ["cat"])
    named = replace(found, source=replace(facts.registry.find("bccd"), title=title))
    low = replace(named, val=found.val | {"coco": found.val["coco"] | {"AP": 4e-05}})
    results = yaml.safe_load(front_matter.render(low).strip("-"))["model-index"][0]["results"]
    assert results[0]["dataset"]["name"] == title
    assert results[0]["metrics"][0]["value"] == 4e-05


@pytest.mark.parametrize("count", [1, 20, 80])
def test_one_class_and_many(tmp_path: Path, count: int) -> None:
    text = card.render(make(tmp_path, [f"class {number}" for number in range(count)]))
    first = body(text).split("## Use")[0]
    assert f"It finds objects of {count} class{'es' if count > 1 else ''}" in first
    assert ("listed [below](#classes)" in first) == (count == 80)
    assert len(rows(text, "Classes")) == 1 + count
    assert ("lowest AP" in text) == (count > 3)


def test_what_is_unknown_is_left_out(tmp_path: Path) -> None:
    text = card.render(replace(make(tmp_path, ["cat", "dog"]), dataset="custom", source=None))
    for word in ("license", "None", "null", "nan", "citation", "| test", str(tmp_path)):
        assert word not in text.replace("model.start_from", ""), word


def test_settings_are_those_that_differ(tmp_path: Path) -> None:
    defaults = recipes.defaults()
    for name in ("data/start_from", "data/extend_from"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/start_from/coco.safetensors").touch()
    changed = replace(
        defaults,
        loss="giou",
        model=replace(defaults.model, backbone="resnet18", pretrained=str(tmp_path / "mine.pth")),
        train=replace(defaults.train, lr=0.5),
        machine=replace(defaults.machine, workers=7),
        inspect=replace(defaults.inspect, max_images=3),
        download=replace(defaults.download, path=str(tmp_path)),
    )
    found = {item.name: (item.value, item.default) for item in facts.settings(tmp_path, changed)}
    assert found == {
        "loss": ("giou", defaults.loss),
        "model.backbone": ("resnet18", defaults.model.backbone),
        "model.pretrained": ("mine.pth", defaults.model.pretrained),
        "train.lr": (0.5, defaults.train.lr),
        "model.start_from": ("coco.safetensors", None),
    }
    assert facts.settings(tmp_path / "data", defaults) == ()


def test_the_lines_of_python_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = card.render(make(tmp_path, ["cat", "dog"]))
    monkeypatch.chdir(tmp_path)
    Pillow.fromarray(np.zeros((40, 50, 3), np.uint8)).save("photo.jpg")
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.startswith(("[]", "[[", "tensor"))


@pytest.mark.parametrize(("place", "same"), list(product(("reports", "models"), (True, False))))
def test_a_card_of_other_weights_is_not_taken(tmp_path: Path, place: str, same: bool) -> None:
    weights = tmp_path / "models/detector.safetensors"
    for folder in (weights.parent, tmp_path / place):
        folder.mkdir(exist_ok=True)
    weights.write_bytes(b"weights")
    assert find_card(weights) is None
    path = tmp_path / place / "model_card.md"
    path.write_text(f"weights: {digest(weights)}")
    if not same:
        weights.write_bytes(b"others")
    assert find_card(weights) == (path if same else None)

"""The page that one draws on, in a real browser: the shipped model's, and networks of every kind."""

import base64
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from fastai.learner import Learner
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from sklearn.neighbors import NearestNeighbors
from test_draw import networks
from test_report_page import Page, pixels

from mnist_fastai import Run, Session, load_data, pretrained
from mnist_fastai.dataloader import dataloaders
from mnist_fastai.embedding import Embedding, transform
from mnist_fastai.evaluation import forward
from mnist_fastai.exports import page as exports
from mnist_fastai.exports.detector import Calibrated, Detector
from mnist_fastai.pages.draw import HERE, write_page
from mnist_fastai.reader.form import preprocess
from mnist_fastai.reader.session import answers

MODULES = Path(__file__).parent.parent / "node_modules"  # `npm install --no-save axe-core typescript`
LEAST_SURE = 600  # test images, of which a class could change; benchmarks/draw.py compares all 10,000


def curve(*points) -> list[tuple[float, float]]:
    """A line through points by Catmull-Rom splines."""
    p = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, 4, endpoint=False)[:, None]
    parts = [
        (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3) / 2
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return [tuple(point) for point in np.concatenate([*parts, p[-1:]]).tolist()]


DIGITS = {  # strokes in a square of side 1
    "0": [curve((0.5, 0.15), (0.3, 0.35), (0.3, 0.65), (0.5, 0.85), (0.7, 0.65), (0.7, 0.35), (0.5, 0.15))],
    "1": [[(0.5, 0.15), (0.5, 0.85)]],
    "2": [curve((0.3, 0.3), (0.5, 0.15), (0.68, 0.3), (0.3, 0.82)), [(0.3, 0.82), (0.72, 0.82)]],
    "3": [curve((0.3, 0.25), (0.5, 0.15), (0.66, 0.28), (0.48, 0.46), (0.68, 0.62), (0.52, 0.82), (0.3, 0.75))],
    "5": [curve((0.36, 0.2), (0.33, 0.5), (0.55, 0.4), (0.68, 0.6), (0.5, 0.8), (0.3, 0.8)), [(0.5, 0.2), (0.7, 0.2)]],
    "7": [[(0.28, 0.2), (0.72, 0.2)], curve((0.72, 0.2), (0.55, 0.5), (0.45, 0.85))],
}  # fmt: skip
SCRIBBLE = [curve((0.1, 0.5), (0.9, 0.3), (0.2, 0.7), (0.8, 0.8), (0.3, 0.2), (0.7, 0.1), (0.5, 0.9))]


def moved(strokes: list, x: float, y: float, scale: float) -> list:
    return [[(x + scale * u, y + scale * v) for u, v in stroke] for stroke in strokes]


class DrawPage(Page):
    """Headless chromium, a pen in it, and what the page shows."""

    def box(self) -> dict:
        return self.js("return document.getElementById('pad').getBoundingClientRect().toJSON()")

    def draw(self, strokes: list, **pointer) -> None:
        box = self.box()
        for stroke in strokes:
            at = [{"x": box["x"] + u * box["width"], "y": box["y"] + v * box["height"]} for u, v in stroke]
            kinds = ["mousePressed", *["mouseMoved"] * (len(at) - 1), "mouseReleased"]
            for kind, place in zip(kinds, [*at, at[-1]], strict=True):
                held = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
                self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **place, **held, **pointer})
        self.settle()

    def undo(self) -> None:
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
        self.settle()

    def click_on(self, selector: str) -> None:
        self.js("document.querySelector(arguments[0]).click()", selector)
        self.settle()

    def answer(self) -> str:
        return self.text("#answer")

    def ink(self) -> np.ndarray:
        """Uint8 [392, 392], 255 for full ink."""
        encoded = self.js("return btoa(Array.from(page.pad.ink, v => String.fromCharCode(v)).join(''))")
        return np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(392, 392)

    def image_of(self, canvas: str) -> np.ndarray:
        """Uint8 [h, w, red-green-blue-alpha]."""
        return super().image(f"document.getElementById('{canvas}')")

    def image(self) -> np.ndarray | None:
        """What the network is given, uint8 [28, 28]."""
        values = self.js("return page.image && [...page.image]")
        return values and np.array(values, np.uint8).reshape(28, 28)

    def scores(self, image: np.ndarray, output: int = 0) -> dict:
        return self.js(
            "return page.scores(Uint8Array.from(arguments[0]), arguments[1])", image.ravel().tolist(), output
        )

    def shares(self) -> dict[str, str]:
        rows = self.js(
            "return [...document.querySelectorAll('#bars li')].map(li => [...li.children].map(e => e.textContent))"
        )
        return {name: share for name, _, share in rows}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    page = DrawPage(tmp_path_factory.mktemp("chromium"))
    yield page
    page.driver.quit()


class Shipped(NamedTuple):
    path: Path
    learner: Learner
    logits: np.ndarray  # of the test images
    embedding: Embedding


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Shipped:
    """The shipped model's page with a map of 1,000 images, and what it was made of.

    It has the detector of model.onnx: to fit it anew takes 15 s, and gives the same.
    """
    model = onnx.load(pretrained() / "model.onnx")
    arrays = {i.name: np.array(onnx.numpy_helper.to_array(i)) for i in model.graph.initializer}
    facts = {p.key: p.value for p in model.metadata_props}
    usual, most = (float(arrays[name]) for name in ("select", "select_1"))
    buffers = {n.removeprefix("detector."): a for n, a in arrays.items() if n.startswith("detector.")}
    detector = Detector(**buffers, scale=np.array([usual, most]))
    calibrated = Calibrated(detector, float(facts["temperature"]), float(facts["low_confidence"]), 6000)
    path, calls = tmp_path_factory.mktemp("shipped") / "draw.html", []

    def recorded(function: Callable) -> Callable:
        def record(*args):
            calls.append((args, function(*args)))
            return calls[-1][1]

        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "SAMPLES", (1000, 1000))
        patch.setattr(exports.Reference, "calibrated", calibrated)
        for name in ("forward", "embed"):
            patch.setattr(exports, name, recorded(getattr(exports, name)))
        drawn = exports.draw(Run(pretrained()), path, collect=True)
    assert (drawn.images, drawn.split, drawn.novelty) == (10_000, "test", True)
    ((learner, _), (logits, *_)), (_, embedding) = calls
    return Shipped(path, learner, logits.numpy(), embedding)


@pytest.fixture
def browser(chromium, shipped):
    """The browser with that page, fresh; at the end there must be no error in its console."""
    chromium.open(shipped.path)
    chromium.width(1280)
    yield chromium
    chromium.assert_no_error()


@pytest.fixture(scope="module")
def session():
    return Session()


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_page_gives_the_least_sure_test_images_the_learners_classes(browser, shipped, mnist):
    second, first = np.sort(shipped.logits, axis=1).T[-2:]
    chosen = np.argsort(first - second)[:LEAST_SURE]
    encoded = base64.b64encode(mnist.test.images.numpy()[chosen].tobytes()).decode()
    js = "return page.classify(Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)))"
    assert (np.array(browser.js(js, encoded)) == shipped.logits[chosen].argmax(1)).all()


def test_the_page_has_the_scores_of_predict(browser, mnist, session):
    images = mnist.test.images[:60].numpy()
    images = np.concatenate([images, images[:20, ::-1], 255 - images[:5]])  # digits, and what may be none
    p, novelty = session.scores(images)
    got = [browser.scores(image) for image in images]
    assert np.abs([g["probabilities"] for g in got] - p).max() < 0.02  # by the rounding to 8 bits
    assert np.abs([g["novelty"] for g in got] - novelty)[novelty < 3].max() < 0.15
    assert ([g["novelty"] > 1 for g in got] == (novelty > 1)).all()
    assert 0 < (novelty > 1).sum() < len(images)


def contents(model: torch.nn.Module) -> dict:
    """What a page of a network needs, with a map that has no meaning."""
    layers, rng = exports.fuse(exports.flatten(model)), np.random.default_rng(0)
    d = layers[exports.last_linear(layers)].in_features
    sample = {
        "labels": np.arange(20, dtype=np.uint16) % 10,
        "positions": rng.integers(0, 65536, (20, 2)).astype(np.uint16),
        "mean": np.zeros(d, np.float32),
        "axes": rng.normal(size=(d, 5)).astype(np.float16),
        "features": rng.integers(-128, 128, (20, 5)).astype(np.int8),
        "scale": 0.1,
    }
    none = {"index": [], "images": np.zeros((0, 28, 28), np.uint8), "labels": [], "predictions": []}
    return {
        "classes": list("0123456789"), "layers": [exports.describe(layer, "float16") for layer in layers],
        "mean": 0.1, "std": 0.3, "temperature": 1.0, "lowConfidence": 0.5, "detector": None, "join": [0, 0, 0, 0],
        "sample": sample, "misclassified": none, "collect": False,
    }  # fmt: skip


@pytest.mark.parametrize("name", networks())
def test_networks_of_every_kind_give_pytorchs_logits_and_gradients(chromium, small, tmp_path, name):
    model = networks()[name]
    images = small.test.images[:20]
    write_page(tmp_path / "draw.html", contents(model), images.numpy(), name)
    chromium.open(tmp_path / "draw.html")
    rounded = torch.nn.Sequential(*(exports.rounded(x, "float16") for x in exports.fuse(exports.flatten(model))))
    x = ((images[:3, None].float() / 255 - 0.1) / 0.3).requires_grad_()
    logits = rounded(x)
    logits[:, 7].sum().backward()
    for i in range(3):
        got = chromium.scores(images[i].numpy(), 7)
        np.testing.assert_allclose(got["logits"], logits[i].detach(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got["gradient"], x.grad[i].ravel(), rtol=1e-3, atol=1e-4)
    chromium.draw(DIGITS["1"])
    assert chromium.answer()
    chromium.assert_no_error()


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIGITS)
def test_what_is_drawn_is_read_as_predict_reads_it(browser, session, tmp_path, name):
    rng = np.random.default_rng(int(name))
    for width in (28, (12, 50)[int(name) % 2]):
        scale = rng.uniform(0.4, 1)
        x, y = rng.uniform(0, 1 - scale, 2)
        browser.js("const w = document.getElementById('width'); w.value = arguments[0]; w.oninput()", width)
        browser.draw(moved(DIGITS[name], x, y, scale))
        grey = 255 - browser.ink()
        (digit,) = preprocess(grey, session.novelty).digits
        assert np.abs(browser.image().astype(int) - digit.image).max() <= 2
        Image.fromarray(grey).save(tmp_path / "digit.png")
        (answer,) = answers([("it", tmp_path / "digit.png")], session)
        expected = (
            answer["digit"]
            if not answer.get("note")
            else {"low confidence": "Not sure"}.get(answer["note"], "No digit")
        )
        assert browser.answer() == str(expected)
        if width == 28:
            assert browser.answer() == name
        browser.click_on("#clear")


def test_an_answer_has_its_probability_its_neighbours_and_its_place(browser):
    browser.draw(DIGITS["3"])
    assert browser.answer() == "3"
    assert float(browser.text("#note").split("%")[0]) > 90
    assert list(browser.shares()) == list("0123456789")
    assert float(browser.shares()["3"][:-1]) > 90
    assert browser.text("#nearest").split() == ["3"] * 10
    assert browser.js("return document.querySelector('#bars .best b').textContent") == "3"
    assert (pixels(browser.js("return document.getElementById('seen').toDataURL()")) == browser.image()).all()
    assert browser.js("return page.map.mark !== null")


def test_an_empty_square_and_a_dot_show_nothing(browser):
    def shows_nothing():
        return (browser.answer(), browser.text("#note"), browser.image(), browser.text("#nearest")) == (
            "",
            "",
            None,
            "",
        )

    assert shows_nothing()
    assert browser.text("#hint")
    assert not any(browser.shares().values())
    browser.draw(DIGITS["7"])
    assert not shows_nothing()
    browser.click_on("#clear")
    assert shows_nothing()
    browser.js("const w = document.getElementById('width'); w.value = 4; w.oninput(); page.pad.radius = 2")
    browser.draw([[(0.5, 0.5), (0.5, 0.5)]])
    assert shows_nothing()
    assert not browser.text("#hint")


def test_two_digits_and_no_digit_are_said_as_predict_says_them(browser, session):
    two = moved(DIGITS["3"], 0, 0.25, 0.5) + moved(DIGITS["7"], 0.5, 0.25, 0.5)
    browser.draw(two)
    assert browser.answer() == "Two digits?"
    (answer,) = answers([("it", Image.fromarray(255 - browser.ink()))], session)
    assert "has 2 digits" in answer["error"]
    browser.click_on("#clear")
    browser.draw(SCRIBBLE)
    assert browser.answer() == "No digit"
    (answer,) = answers([("it", Image.fromarray(255 - browser.ink()))], session)
    assert answer["digit"] is None
    browser.click_on("#clear")
    browser.draw(DIGITS["5"])  # its bar lies apart
    assert browser.answer() == "5"
    browser.click_on("#clear")
    browser.draw([*moved(DIGITS["7"], 0, 0.2, 0.6), [(0.7, 0.5), (0.95, 0.5)]])  # a dash is none
    assert browser.answer() == "7"
    (digit,) = preprocess(255 - browser.ink(), session.novelty).digits
    assert np.abs(browser.image().astype(int) - digit.image).max() <= 2


def test_undo_and_clear_by_buttons_and_keys(browser):
    browser.draw(DIGITS["7"][:1])
    one = browser.ink()
    browser.draw(DIGITS["7"][1:])
    both = browser.ink()
    browser.undo()
    assert (browser.ink() == one).all()
    browser.press(Keys.DELETE)
    assert not browser.ink().any()
    browser.click_on("#undo")
    assert (browser.ink() == one).all()
    browser.draw(DIGITS["7"][1:])
    browser.click_on("#clear")
    browser.click_on("#undo")
    assert (browser.ink() == both).all()
    for _ in range(5):
        browser.click_on("#undo")
    assert not browser.ink().any()


def test_a_pen_draws_wider_where_it_is_pressed_and_the_eraser_takes_away(browser):
    line = [[(0.2, 0.5), (0.8, 0.5)]]
    widths = []
    for force in (0.1, 0.5, 0.9):
        browser.draw(line, pointerType="pen", force=force)
        widths.append((browser.ink()[:, 196] > 127).sum())
        browser.click_on("#clear")
    assert all(a < b for a, b in pairwise(widths))
    browser.draw(line)
    assert (browser.ink()[:, 196] > 127).sum() == widths[1] == 28
    browser.click_on("#erase")
    browser.draw([[(0.5, 0.2), (0.5, 0.8)]])
    assert not browser.ink()[:, 196].any()
    assert browser.ink()[196, 100] == 255


def test_a_finger_on_a_phone_draws_and_does_not_scroll(browser):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        browser.settle()
        assert not browser.is_too_wide()
        box = browser.box()
        assert box["bottom"] < 844  # the answer and the square are seen together
        assert browser.js("return document.getElementById('answer').getBoundingClientRect().bottom") < box["top"] + 1
        points = [{"x": box["x"] + u * box["width"], "y": box["y"] + v * box["height"]} for u, v in DIGITS["1"][0]]
        steps = np.linspace(points[0]["y"], points[1]["y"], 12)
        for i, y in enumerate(steps):
            kind = "touchStart" if not i else "touchMove"
            at = [{"x": points[0]["x"], "y": float(y)}]
            browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        browser.settle()
        assert browser.js("return scrollY") == 0
        assert browser.answer() == "1"
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


# --- what is seen of the network --------------------------------------------------------------------------------------


def test_a_drawing_lies_among_its_class_as_often_as_by_transform(browser, shipped, mnist):
    data = json.loads(browser.js("return document.getElementById('data').textContent"))["sample"]
    decode = {k: np.frombuffer(base64.b64decode(data[k]["data"]), data[k]["type"]) for k in ("labels", "positions")}
    labels, positions = decode["labels"], decode["positions"].reshape(-1, 2) / 65535
    n, embedding = 200, shipped.embedding
    few = dataloaders(replace(mnist, valid=mnist.test[:n]), normalize=Run(pretrained()).normalize).valid
    features = forward(shipped.learner, few, "0").features
    got = [browser.scores(image) for image in mnist.test.images[:n].numpy()]

    def lands(points, among) -> int:
        near = NearestNeighbors(n_neighbors=10).fit(among).kneighbors(points, return_distance=False)
        votes = np.stack([(labels[near] == c).sum(1) for c in range(10)], axis=1)
        return int((votes.argmax(1) == mnist.test.labels[:n].numpy()).sum())

    by_transform = lands(transform(embedding, features), embedding.positions)
    by_page = lands([g["place"] for g in got], positions)
    assert by_transform > 0.98 * n
    assert by_page >= by_transform - 2
    distances = np.square(features[:, None] - embedding.features[None]).sum(2)
    nearest = np.argsort(distances, axis=1)[:, :10]
    assert np.mean([len({*g["nearest"]} & {*row.tolist()}) for g, row in zip(got, nearest, strict=True)]) > 8


def test_the_mark_moves_over_the_map_and_jumps_where_motion_is_unwanted(browser):
    places = []
    for motion in ("no-preference", "reduce"):
        browser.media(prefers_reduced_motion=motion)
        browser.draw(DIGITS["1"])
        before = browser.js("return page.map.mark")
        browser.click_on("#wrong button")  # an image of another class, in one step
        places.append((before, browser.js("return page.map.mark"), browser.scores(browser.image())["place"]))
        browser.click_on("#clear")
        assert browser.js("return page.map.mark") is None
    (before, moving, place), (_, jumped, same) = places
    assert jumped == same == place
    assert 0 < np.linalg.norm(np.subtract(moving, place)) < np.linalg.norm(np.subtract(before, place))


def test_a_click_enlarges_a_feature_map_with_its_kernel(browser):
    browser.draw(DIGITS["3"])
    box = browser.js("return document.querySelectorAll('.maps')[1].getBoundingClientRect().toJSON()")
    browser.js("scrollTo(0, arguments[0])", box["y"] - 100)
    box = browser.js("return document.querySelectorAll('.maps')[1].getBoundingClientRect().toJSON()")
    at = {"x": box["x"] + 2.5 * box["width"] / 8, "y": box["y"] + 1.5 * box["height"] / 8}
    for kind in ("mousePressed", "mouseReleased"):
        browser.mouse(kind, **at, button="left", clickCount=1)
    assert browser.text("#lens-name") == "Convolution 2, map 11 of 64"
    assert browser.text("#kernel-size") == "Its kernel: 3×3, for each of 32 maps"
    before = browser.js("return document.getElementById('lens-map').toDataURL()")
    browser.js("document.getElementById('after').focus()")
    browser.press(Keys.ENTER)
    assert browser.text("#lens-name") == "Convolution 2, map 12 of 64"
    assert browser.js("return document.getElementById('lens-map').toDataURL()") != before
    browser.js("document.querySelectorAll('.maps')[3].focus()")
    browser.press(Keys.ENTER)
    assert browser.text("#lens-name") == "Linear layer 4, feature 1 of 100"
    assert browser.text("#kernel-size") == "Its weights: 4×4, for each of 64 maps"


def test_ink_is_tinted_by_what_speaks_for_and_against_the_answer(browser):
    browser.draw(DIGITS["3"])
    shown = browser.image_of("pad")
    ink = shown[:, :, 3] == 255
    assert len(np.unique(shown[ink][:, :3], axis=0)) > 100
    assert not shown[shown[:, :, 3] == 0].any()
    browser.click_on("#saliency")
    shown = browser.image_of("pad")
    assert len(np.unique(shown[ink][:, :3], axis=0)) == 1


def test_random_weights_answer_otherwise_and_the_trained_ones_come_back(browser):
    browser.draw(DIGITS["3"])
    before = browser.shares()
    browser.click_on("[value=random]")
    assert browser.shares() != before
    assert max(float(share[:-1]) for share in browser.shares().values()) < 60
    assert browser.text("#nearest") == ""
    assert browser.text("#nearest-none")
    assert browser.js("return page.map.mark") is None
    browser.click_on("[value=trained]")
    assert browser.shares() == before


def test_a_misclassified_test_image_is_loaded_as_it_is_and_mended(browser, mnist):
    buttons = browser.driver.find_elements("css selector", "#wrong button")
    assert len(buttons) == exports.MISCLASSIFIED
    index = int(browser.js("return document.querySelector('#wrong canvas').ariaLabel").split()[3][:-1])
    label, prediction = buttons[0].text.split(" → ")
    assert label == str(mnist.test.labels[index].item()) != prediction
    buttons[0].send_keys(Keys.ENTER)
    browser.settle()
    image = mnist.test.images[index].numpy()
    assert (browser.image() == image).all()
    assert browser.answer() == prediction
    assert browser.text("#note").endswith(f"Its label is {label}")
    browser.draw([[(0.05, 0.05), (0.15, 0.05)]])
    mended = browser.image()
    assert (mended[4:] == image[4:]).all()  # nothing is cropped or centred
    assert mended[1, 2] == 255
    browser.undo()
    assert (browser.image() == image).all()


# --- a data set of one's own ------------------------------------------------------------------------------------------


def download_to(browser, folder: Path) -> None:
    settings = {"behavior": "allow", "downloadPath": str(folder)}
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", settings)


def downloaded(browser, folder: Path) -> Path:
    browser.click_on("#download")
    path = folder / "my-digits.zip"
    for _ in range(100):
        if path.exists():
            break
        browser.settle()
    return path


def test_labelled_drawings_are_downloaded_as_a_folder_to_train_on(browser, cli, tmp_path):
    download_to(browser, tmp_path)
    assert not browser.driver.find_element("id", "download").is_enabled()
    kept = []
    for name in "3773":
        browser.draw(DIGITS[name])
        kept.append((name, browser.image()))
        if name == "3":
            browser.press(name)
        else:
            browser.click_on(f"#labels button:nth-child({int(name) + 1})")
        assert browser.image() is None
    assert browser.text("#kept") == "4 images"
    labels = browser.js("return [...document.querySelectorAll('#labels button')].map(b => b.textContent)")
    assert labels == ["0", "1", "2", "32", "4", "5", "6", "72", "8", "9"]
    browser.draw(DIGITS["1"])
    browser.press("1")
    browser.click_on("#drop")
    with zipfile.ZipFile(downloaded(browser, tmp_path)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    data = load_data(str(tmp_path / "my-digits"), 0.5)
    assert data.classes == ("3", "7")
    assert data.format in ("mnist", "28x28")  # taken as they are
    both = data.train + data.valid
    found = [
        (data.classes[label], image.tobytes()) for image, label in zip(both.images.numpy(), both.labels, strict=True)
    ]
    assert sorted(found) == sorted((name, image.tobytes()) for name, image in kept)
    settings = ("--arch", "lenet", "--valid-fraction", 0.5, "--num-epochs", 1, "--batch-size", 2)
    code, _, err = cli("train", "--data", tmp_path / "my-digits", *settings)
    assert code == 0, err


def test_a_page_without_collecting_has_no_such_part(chromium, tmp_path):
    write_page(tmp_path / "draw.html", contents(networks()["flat"]), np.zeros((20, 28, 28), np.uint8), "flat")
    chromium.open(tmp_path / "draw.html")
    assert not chromium.driver.find_element("id", "collect").is_displayed()
    assert not chromium.driver.find_element("id", "misclassified").is_displayed()  # there are none


def test_classes_whose_names_no_folder_can_have_stay_apart(chromium, tmp_path):
    classes = ["÷", "×", "a", "A", "×-1", "5", "6", "7", "8", "-"]
    given = contents(networks()["flat"]) | {"classes": classes, "collect": True}
    write_page(tmp_path / "draw.html", given, np.zeros((20, 28, 28), np.uint8), "flat")
    chromium.open(tmp_path / "draw.html")
    download_to(chromium, tmp_path)
    for label in range(len(classes)):
        chromium.draw(DIGITS["1"])
        chromium.click_on(f"#labels button:nth-child({label + 1})")
    with zipfile.ZipFile(downloaded(chromium, tmp_path)) as archive:
        folders = [Path(name).parent.name for name in archive.namelist()]
    assert folders[:4] == ["-", "--1", "a", "A-3"]
    assert len({name.lower() for name in folders}) == len(classes)


def test_names_are_shown_as_they_are_and_many_classes_by_their_probability(chromium, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Linear(16, 30))
    classes = ["</script><b>", "a\u202eb", *(f"letter number {i}" for i in range(28))]
    given = contents(model) | {"classes": classes, "collect": True}
    write_page(tmp_path / "draw.html", given, np.zeros((20, 28, 28), np.uint8), "<i>$facts</i>")
    chromium.open(tmp_path / "draw.html")
    assert chromium.text("#facts") == "<i>$facts</i>"
    assert chromium.text("#labels button") == classes[0]
    chromium.draw(DIGITS["3"])
    shares = [float(share[:-1]) for share in chromium.shares().values()]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    chromium.width(360)
    assert not chromium.is_too_wide()
    chromium.assert_no_error()


# --- looks ------------------------------------------------------------------------------------------------------------


def test_it_fits_a_phone_a_tablet_a_laptop_and_a_projector_light_and_dark(browser):
    browser.draw(DIGITS["3"])
    colors = {}
    for scheme in ("light", "dark"):
        browser.media(prefers_color_scheme=scheme)
        for width in (320, 390, 768, 1280, 1920):
            browser.width(width)
            assert not browser.is_too_wide(), (scheme, width)
        colors[scheme] = browser.js("return getComputedStyle(document.body).backgroundColor"), browser.image_of("map")
    assert colors["light"][0] != colors["dark"][0]
    browser.click_on("#saliency")
    assert browser.image_of("pad")[:, :, :3].max() > 200  # light ink on dark


@pytest.mark.skipif(not (MODULES / "axe-core").exists(), reason="no axe-core (npm install --no-save axe-core)")
def test_axe_finds_no_violation(browser):
    browser.driver.execute_script((MODULES / "axe-core" / "axe.min.js").read_text())
    browser.draw(DIGITS["3"])
    for scheme in ("light", "dark"):
        browser.media(prefers_color_scheme=scheme)
        for width in (390, 1280):
            browser.width(width)
            found = browser.driver.execute_async_script("axe.run().then(arguments[0])")
            assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []
            assert len(found["passes"]) > 20


@pytest.mark.skipif(not (MODULES / ".bin" / "tsc").exists(), reason="no tsc (npm install --no-save typescript)")
def test_the_scripts_have_the_types_that_they_say():
    done = subprocess.run([MODULES / ".bin" / "tsc", "-p", HERE / "jsconfig.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

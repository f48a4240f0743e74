"""The page of an evaluation: what is in the file, and what a real browser does with it."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from itertools import pairwise

import numpy as np
import pytest
from conftest import assert_one_sentence, full_disk
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from test_pages import CLASSES, NASTY, Browser

from mnist_fastai import InputError, RunError, Session
from mnist_fastai.pages.report import BARS, Pictures, write_page

SETS = ("mnist", "mnist-c-fog", "mnist-c-stripe")
MODELS = ("shipped", "poor")
MANY, FEW = 200, 24  # images that the page shows at first


# --- what is on the pages ---------------------------------------------------------------------------------------------


def wilson(right: int, n: int) -> dict:
    if not n:
        return {"low": None, "high": None}
    z, p = 1.959964, right / n
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return {"low": float((middle - half) / (1 + z**2 / n)), "high": float((middle + half) / (1 + z**2 / n))}


def accuracy(right: np.ndarray) -> dict:
    n, correct = len(right), int(right.sum())
    return {"images": n, "correct": correct, "accuracy": correct / n, **wilson(correct, n)}


def ratio(a, b) -> float | None:
    return float(a / b) if b else None


def calibration(p: np.ndarray, labels: np.ndarray) -> dict:
    confidence, right = p.max(1), p.argmax(1) == labels
    place = np.minimum((confidence * 15).astype(int), 14)
    bins = []
    for i in range(15):
        inside = place == i
        known = inside.any()
        bins.append(
            {"low": i / 15, "high": (i + 1) / 15, "images": int(inside.sum())}
            | {"confidence": float(confidence[inside].mean()) if known else None}
            | {"accuracy": float(right[inside].mean()) if known else None}
        )
    gaps = [b["images"] * abs(b["confidence"] - b["accuracy"]) for b in bins if b["images"]]
    return {
        "ece": float(sum(gaps) / len(p)),
        "nll": float(-np.log(np.maximum(p[np.arange(len(p)), labels], 1e-30)).mean()),
        "brier": float(((p - np.eye(p.shape[1])[labels]) ** 2).sum(1).mean()),
        "bins": bins,
    }


def result(model: int, set: int, p: np.ndarray, labels: np.ndarray, classes) -> dict:
    """A model's numbers on a set, as report.json has them."""
    k, predictions, right = len(classes), p.argmax(1), p.argmax(1) == labels
    confusion = np.zeros((k, k), int)
    np.add.at(confusion, (labels, predictions), 1)
    per_class = []
    for c, name in enumerate(classes):
        n, hit, called = confusion[c].sum(), confusion[c, c], confusion[:, c].sum()
        per_class.append(
            {"name": name, "images": int(n), "error_rate": ratio(n - hit, n), **wilson(int(n - hit), int(n))}
            | {"precision": ratio(hit, called), "recall": ratio(hit, n), "f1": ratio(2 * hit, n + called)}
        )
    sharper = np.maximum(p.astype(float), 1e-30) ** (1 / 0.8)
    confidence = -np.sort(-p.max(1))
    ordered = right[np.argsort(-p.max(1), kind="stable")]
    return {
        "model": model, "set": set, **accuracy(right),
        "corrected": None if set else accuracy(right[5:]),
        "confusion": confusion.tolist(),
        "per_class": per_class,
        "calibration": {
            "temperatures": [0.8, 0.8],
            "before": calibration(p, labels),
            "after": calibration(sharper / sharper.sum(1, keepdims=True), labels),
        },
        "coverage": [
            {"coverage": n / len(p), "threshold": float(confidence[n - 1]), "accuracy": float(ordered[:n].mean())}
            for n in sorted({max(1, round(len(p) * i / 100)) for i in range(1, 101)})
        ],
    }  # fmt: skip


def contents(
    images: np.ndarray,
    labels: np.ndarray,
    answers: list[list[np.ndarray]],  # per set, per model, [n, classes]
    train: tuple[np.ndarray, np.ndarray],  # images and labels; the nearest are so by their pixels
    *,
    classes=CLASSES,
    names=MODELS,
    title="Evaluation",
    keep: int | None = None,  # images per set on the page, besides the misclassified
    sets=SETS,
) -> dict:
    """What `write_page` takes."""
    classes, n_models = list(classes), len(answers[0])
    rows = train[0].reshape(len(train[0]), -1).astype(np.float32)
    pictures, results = [], []
    for s, per_model in enumerate(answers):
        results += [result(m, s, p, labels, classes) for m, p in enumerate(per_model)]
        wrong = [p.argmax(1) != labels for p in per_model]
        shown = np.any(wrong, axis=0)
        shown[:keep] = True
        index = np.flatnonzero(shown)
        nearest = []
        for w in wrong:
            found = {}
            for row in np.flatnonzero(w[index])[:100].tolist():
                place = int(((rows - images[index[row]].reshape(-1)) ** 2).sum(1).argmin())
                found[row] = (train[0][place], int(train[1][place]))
            nearest.append(found)
        pictures.append(Pictures(index, images[index], labels[index], [p[index] for p in per_model], nearest))
    report = {
        "classes": classes,
        "models": [{"name": name, "path": f"/somewhere/{name}"} for name in names[:n_models]],
        "sets": [
            {"name": name, "split": "test", "images": len(labels), "labels": "given",
             "note": "remade by this project" if s else ""}
            for s, name in enumerate(sets[: len(answers)])
        ],
        "results": results,
        "groups": [],
        "comparisons": [],
    }  # fmt: skip
    if n_models > 1:
        some = {"difference": -0.1631, "low": -0.17, "high": -0.1562, "p": 1e-9, "p_holm": 0.0421, "verdict": "worse"}
        none = dict.fromkeys(("difference", "low", "high", "p", "p_holm")) | {"verdict": "untested"}
        pair = {"set": 0, "test": "McNemar", "a": names[0], "b": names[1]}
        report["comparisons"] = [pair | some, pair | {"test": "Welch"} | none]
        group = {"set": 0, "name": names[0], "models": [0, 1], "mean": 0.9, "std": 0.0123, "low": 0.81, "high": 0.99}
        report["groups"] = [group, group | {"std": None, "low": None, "high": None}]
    return {"report": report, "pictures": pictures, "title": title}


class Material:
    """Test images with the answers of the shipped model, and of one that takes the class of the nearest mean."""

    def __init__(self, mnist, n: int):
        self.images, self.labels = mnist.test.images[:n].numpy(), mnist.test.labels[:n].numpy()
        self.train = mnist.train.images[:2000].numpy(), mnist.train.labels[:2000].numpy()
        flat = self.train[0].reshape(2000, -1) / 255
        self.means = np.array([flat[self.train[1] == c].mean(0) for c in range(10)])

    @cached_property
    def shipped(self) -> np.ndarray:
        return Session().probabilities(self.images)

    def poor(self, images: np.ndarray) -> np.ndarray:
        x = images.reshape(len(images), -1) / 255
        distances = (x**2).sum(1, keepdims=True) - 2 * x @ self.means.T + (self.means**2).sum(1)
        p = np.exp(0.3 * (distances.min(1, keepdims=True) - distances))
        return (p / p.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def material(mnist) -> Material:
    return Material(mnist, 1200)


def some(material: Material, n: int, **kwargs) -> dict:
    """Contents of a page of two models and the first test images."""
    images, labels = material.images[:n], material.labels[:n]
    return contents(images, labels, [[material.shipped[:n], material.poor(images)]], material.train, **kwargs)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(mnist, tmp_path_factory) -> tuple:
    """A page of all the test images, of which a poor model has thousands wrong, and what is on it. To read only."""
    material = Material(mnist, 10_000)
    path = tmp_path_factory.mktemp("large") / "page.html"
    answers = [[material.poor(material.images)]]
    given = contents(material.images, material.labels, answers, material.train, names=("poor",))
    write_page(path, **given)
    return path, given


def test_ten_thousand_images_fit_in_six_megabytes_and_no_network_is_asked_for_any(large):
    page = large[0].read_text()
    assert len(page.encode()) < 6e6
    assert not re.search(r"https?:(?!//www.w3.org/2000/svg\")|url\(|@import|fetch\(|XMLHttpRequest", page)
    assert all(
        source.startswith(("data:", "#")) for source in re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", page)
    )
    assert "default-src 'none'" in page  # what is left to say, the browser is told to hold to


def test_the_same_input_gives_the_same_page(material, tmp_path):
    for name in "ab":
        write_page(tmp_path / name, **some(material, 50))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_paths_of_the_models_are_not_in_the_page(material, tmp_path):
    write_page(tmp_path / "page.html", **some(material, 50))
    assert "/somewhere" not in (tmp_path / "page.html").read_text()


def test_a_page_that_cannot_be_written_leaves_the_old_one(material, tmp_path):
    path = tmp_path / "page.html"
    write_page(path, **some(material, 20))
    before = path.read_bytes()
    with full_disk(10_000), pytest.raises(RunError) as e:
        write_page(path, **some(material, 50))
    assert_one_sentence(str(e.value))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_image_keeps_the_most_probable_classes_and_its_label(material, tmp_path):
    n, k = 40, 62
    p = np.random.default_rng(0).dirichlet(np.full(k, 0.5), n)
    p[0] = 1 / k  # a tie: the prediction is the first
    p[1] = np.eye(k)[7]
    labels = np.arange(n) + 1
    given = contents(material.images[:n], labels, [[p]], material.train, classes=[f"class {i}" for i in range(k)])
    write_page(tmp_path / "page.html", **given)
    (part,) = data_of((tmp_path / "page.html").read_text())["pictures"]
    for top, row, label in zip(part["models"][0]["top"], p, labels, strict=True):
        classes, thousandths = top[::2], top[1::2]
        assert classes[0] == row.argmax()
        assert thousandths == np.rint(1000 * row[classes]).tolist()
        assert thousandths == sorted(thousandths, reverse=True)
        most = [c for c in np.argsort(-row, kind="stable")[:BARS].tolist() if row[c] >= 0.0005]
        assert [c for c in classes if c in most or c != label] == most
        assert label in classes or row[label] < 0.0005
    assert part["models"][0]["top"][1] == [7, 1000]
    assert part["models"][0]["byConfidence"] == np.argsort(-p.max(1), kind="stable").tolist()


def test_the_mean_of_the_corruptions_leaves_the_other_sets_out(material, tmp_path):
    answers = [[material.shipped[:60]], [material.poor(material.images[:60])], [material.shipped[:60]]]
    given = contents(material.images[:60], material.labels[:60], answers, material.train)
    for r, value in zip(given["report"]["results"], (0.1, 0.5, 0.8), strict=True):
        r["accuracy"] = value
    write_page(tmp_path / "page.html", **given)
    assert data_of((tmp_path / "page.html").read_text())["corruptions"]["means"] == [0.65]


def change_pictures(**changes):
    def change(given: dict) -> None:
        given["pictures"][0] = replace(given["pictures"][0], **changes)

    return change


def change_result(**changes):
    return lambda given: given["report"]["results"][1].update(changes)


def add_nearest(row: int, image: np.ndarray, label: int):
    return lambda given: given["pictures"][0].nearest[1].update({row: (image, label)})


TENTHS = np.full((20, 10), 0.1)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("one per set", lambda given: given["pictures"].pop()),
        ("not one result for each", lambda given: given["report"]["results"].pop()),
        ("not one result for each", lambda given: given["report"]["results"].append(given["report"]["results"][0])),
        ("not one result for each", change_result(model=0)),
        ("11 classes", lambda given: given["report"]["classes"].append("ten")),
        ("10 classes", change_result(confusion=[[0] * 10] * 9)),
        ("10 classes", change_result(per_class=[])),
        ("more than its confusion matrix counts", change_result(confusion=[[0] * 10] * 10)),
        ("finite", change_result(accuracy=float("nan"))),
        ("MNIST's format", change_pictures(images=np.zeros((20, 28, 28)))),
        ("MNIST's format", change_pictures(images=np.zeros((20, 28, 27), np.uint8))),
        ("19 pictures", change_pictures(images=np.zeros((19, 28, 28), np.uint8))),
        ("as many indices and labels", change_pictures(index=np.arange(19))),
        ("as many indices and labels", change_pictures(labels=np.zeros(21, int))),
        ("ascend", change_pictures(index=np.zeros(20, int))),
        ("ascend", change_pictures(index=np.arange(20) - 1)),
        ("none of the 10 classes", change_pictures(labels=np.full(20, 10))),
        ("none of the 10 classes", change_pictures(labels=np.full(20, -1))),
        ("2 models", change_pictures(probabilities=[TENTHS])),
        ("2 models", change_pictures(nearest=[{}])),
        ("probabilities", change_pictures(probabilities=[TENTHS[:, :9], TENTHS])),
        ("probabilities", change_pictures(probabilities=[np.full_like(TENTHS, np.nan), TENTHS])),
        ("probabilities", change_pictures(probabilities=[11 * TENTHS, TENTHS])),
        ("nearest training image of row 20", add_nearest(20, np.zeros((28, 28), np.uint8), 0)),
        ("nearest training image of row 0", add_nearest(0, np.zeros((28, 28), np.uint8), 10)),
        ("nearest training image of row 0", add_nearest(0, np.zeros((28, 27), np.uint8), 0)),
        ("nearest training image of row 0", add_nearest(0, np.zeros((28, 28)), 0)),
    ],
)
def test_pictures_and_a_report_that_do_not_fit_together_are_refused(material, tmp_path, words, change):
    given = some(material, 20)
    change(given)
    with pytest.raises(InputError) as e:
        write_page(tmp_path / "page.html", **given)
    assert words in str(e.value)
    assert_one_sentence(str(e.value))
    assert not list(tmp_path.iterdir())


# --- in the browser ---------------------------------------------------------------------------------------------------


def pixels(url: str) -> np.ndarray:
    """Uint8 [28, 28] of what a canvas gives as a PNG."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))[:, :, 0]


class Page(Browser):
    """Headless chromium, and what the page of an evaluation shows in it."""

    def open(self, path) -> None:
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.media()
        super().open(path)

    def width(self, pixels: int) -> None:
        """Of the window; a real one cannot be as narrow as a phone."""
        size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.settle()

    def media(self, **features: str) -> None:
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})
        self.settle()

    def js(self, script: str, *args):
        return self.driver.execute_script(script, *args)

    def choose(self, what: str, text: str) -> None:
        Select(self.driver.find_element(By.ID, what)).select_by_visible_text(text)
        self.settle()

    def text(self, selector: str) -> str:
        """The words of an element; empty where it is hidden."""
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def table(self, caption: str) -> list[list[str]]:
        """The cells of the table with that caption, row by row, its header first."""
        rows = """const t = [...document.querySelectorAll("table")].find(t => t.caption?.textContent === arguments[0]);
            return [...t.rows].map(r => [...r.cells].map(c => c.textContent))"""
        return self.js(rows, caption)

    def cell(self, label: int, prediction: int) -> WebElement:
        return self.driver.find_element(
            By.CSS_SELECTOR, f".matrix tbody tr:nth-child({label + 1}) td:nth-child({prediction + 2}) button"
        )

    def open_cell(self, label: int, prediction: int) -> None:
        self.cell(label, prediction).send_keys(Keys.ENTER)
        self.settle()

    def is_open(self) -> bool:
        return self.js("return document.querySelector('dialog').open")

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()
        self.settle()

    def images(self, selector: str) -> dict[int, np.ndarray]:
        """The images in the items of a list: index in the split → what its canvas shows, uint8 [28, 28]."""
        canvases = f"document.querySelectorAll(`{selector} li canvas[aria-label^='image ']`)"
        shown = self.js(f"return [...{canvases}].map(c => [+c.ariaLabel.slice(6), c.toDataURL()])")
        assert len({index for index, _ in shown}) == len(shown)
        return {index: pixels(url) for index, url in shown}

    def cards(self, selector: str) -> list[tuple[int, str, str]]:
        """Index, label and prediction of each card in a list."""
        index, names = "+li.querySelector('canvas').ariaLabel.slice(6)", "[...li.querySelectorAll('p b')]"
        card = f"[{index}, ...{names}.map(b => b.textContent)]"
        cards = self.js(f"return [...document.querySelectorAll(arguments[0] + ' li.card')].map(li => {card})", selector)
        return [tuple(card) for card in cards]

    def more(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, f"{selector} .more")

    def is_too_wide(self) -> bool:
        return self.js("return document.documentElement.scrollWidth > document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    page = Page(tmp_path_factory.mktemp("chromium"))
    yield page
    page.driver.quit()


@pytest.fixture(scope="module")
def given(material) -> dict:
    """Two models on three sets; of two of these, the page has only a part of the images."""
    images, labels = material.images, material.labels
    fog, stripe = images // 2 + 20, images.copy()
    stripe[:, :, :7] = 255 - stripe[:, :, :7]
    answers = [[material.shipped, material.poor(images)]]
    answers += [[Session().probabilities(x[:400]), material.poor(x[:400])] for x in (fog, stripe)]
    out = contents(images, labels, answers[:1], material.train)
    for s, (x, p) in enumerate(zip((fog, stripe), answers[1:], strict=True), 1):
        one = contents(x[:400], labels[:400], [p], material.train, keep=30)
        out["pictures"] += one["pictures"]
        out["report"]["results"] += [r | {"set": s, "corrected": None} for r in one["report"]["results"]]
        out["report"]["sets"] += [one["report"]["sets"][0] | {"name": SETS[s], "note": "remade by this project"}]
    return out


@pytest.fixture(scope="module")
def path(given, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(path, **given)
    return path


@pytest.fixture
def browser(chromium, path):
    """The browser with the page of `given`, fresh; at the end there must be no error in its console."""
    chromium.open(path)
    yield chromium
    chromium.assert_no_error()


def open_page(chromium: Page, path, contents: dict) -> None:
    write_page(path, **contents)
    chromium.open(path)


def percent(x: float | None, digits: int = 2) -> str:
    """As JavaScript rounds, a half up."""
    return "–" if x is None else f"{Decimal(100 * x).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)}%"


def interval(part: dict) -> str:
    return "–" if part["low"] is None else f"{percent(abs(part['low']))[:-1]}–{percent(part['high'])}"


def find(given: dict, model: int, set: int) -> dict:
    return next(r for r in given["report"]["results"] if (r["model"], r["set"]) == (model, set))


def test_the_first_tables_have_each_model_and_set_with_its_interval(browser, given):
    header, *rows = browser.table("Accuracy on mnist")
    columns = ["Accuracy", "95% interval", "Misclassified", "Images", "Labels corrected", "95% interval"]
    assert header == ["Model", *columns]
    for m, row in enumerate(rows):
        r = find(given, m, 0)
        corrected = [f"{percent(r['corrected']['accuracy'])} of 1,195", interval(r["corrected"])]
        assert row == [MODELS[m], percent(r["accuracy"]), interval(r), str(1200 - r["correct"]), "1,200", *corrected]
    header, *rows, mean = browser.table("Accuracy on corrupted images")
    assert header == ["Corruption", *MODELS]
    for s, (name, row) in enumerate(zip(("fog", "stripe"), rows, strict=True), 1):
        assert row == [name, *(percent(r["accuracy"]) + interval(r) for r in (find(given, m, s) for m in (0, 1)))]
    means = [np.mean([find(given, m, s)["accuracy"] for s in (1, 2)]) for m in (0, 1)]
    assert mean == ["mean", *map(percent, means)]


def test_groups_and_comparisons_are_listed_and_what_is_not_defined_is_a_dash(browser):
    _, *rows = browser.table("Comparisons")
    assert rows == [
        ["poor", "shipped", "mnist", "McNemar", "−16.31", "−17.00 to −15.62", "< 0.001", "0.042", "worse"],
        ["poor", "shipped", "mnist", "Welch", "–", "–", "–", "–", "untested"],
    ]
    _, *rows = browser.table("Runs of one recipe")
    assert rows == [
        ["shipped", "mnist", "2", "90.00%", "1.23", "81.00–99.00%"],
        ["shipped", "mnist", "2", "90.00%", "–", "–"],
    ]


def test_the_selects_change_every_number(browser, given):
    for m, s in ((1, 2), (0, 2), (0, 0)):
        browser.choose("model", MODELS[m])
        browser.choose("set", SETS[s])
        r = find(given, m, s)
        wrong = r["images"] - r["correct"]
        assert browser.text("#detail-title") == f"{MODELS[m]} on {SETS[s]}"
        right = f"{percent(r['accuracy'])} of {r['images']:,} images correct (95% interval {interval(r)})"
        assert browser.text("#status") == f"{right}, {wrong} misclassified."
        _, *rows = browser.table("Scores per class")
        for row, c in zip(rows, r["per_class"], strict=True):
            scores = [percent(c[key]) for key in ("precision", "recall", "f1")]
            assert row == [c["name"], f"{c['images']:,}", percent(c["error_rate"]), interval(c), *scores]
        before, after = r["calibration"]["before"], r["calibration"]["after"]
        assert browser.table("Calibration errors")[1:] == [
            ["ECE", percent(before["ece"]), percent(after["ece"])],
            ["NLL", f"{before['nll']:.4f}", f"{after['nll']:.4f}"],
            ["Brier", f"{before['brier']:.4f}", f"{after['brier']:.4f}"],
        ]
        rows = browser.js("return [...document.querySelectorAll('.matrix tbody tr')].map("
                          "r => [...r.querySelectorAll('td')].map(c => +c.textContent.replace(',', '')))")  # fmt: skip
        assert rows == r["confusion"]
        assert browser.table("Accuracy at some coverages; the threshold is the least confidence")[1] == [
            "100%", percent(r["coverage"][-1]["threshold"], 1), percent(r["accuracy"])
        ]  # fmt: skip


def test_what_stood_at_the_top_stays_there_when_another_model_is_chosen(browser):
    top = "return document.getElementById('calibration').getBoundingClientRect().top"
    browser.js("document.getElementById('calibration').scrollIntoView({behavior: 'instant'})")
    before, scrolled = browser.js(top), browser.js("return scrollY")
    browser.choose("model", "poor")
    assert browser.js(top) == pytest.approx(before, abs=1)
    assert browser.js("return scrollY") > scrolled + 1000  # below many more errors


def test_a_cell_opens_to_its_images_and_escape_closes_it(browser, given):
    part, r = given["pictures"][0], find(given, 1, 0)
    browser.choose("model", "poor")
    predictions = part.probabilities[1].argmax(1)
    filled = browser.js("return document.querySelectorAll('.matrix button').length")
    assert filled == np.count_nonzero(r["confusion"])
    wrong = np.array(r["confusion"]) * (1 - np.eye(10, dtype=int))
    label, prediction = np.unravel_index(wrong.argmax(), wrong.shape)
    share = percent(wrong.max() / r["per_class"][label]["images"], 1)
    pairs = browser.table("Most frequent confusions, and their share of the label's images")
    assert pairs[1] == [str(label), str(prediction), str(wrong.max()), share]
    for label, prediction in ((4, 9), (7, 7)):
        rows = np.flatnonzero((part.labels == label) & (predictions == prediction))
        assert 3 < len(rows) < MANY
        browser.open_cell(label, prediction)
        assert browser.text("#dialog-title") == f"Label {label}, prediction {prediction}: {len(rows)} images"
        assert browser.text("#gallery .count") == f"{len(rows)} of {len(rows)} shown"
        shown = browser.images("#gallery")
        assert shown.keys() == set(part.index[rows].tolist())
        assert all((shown[index] == part.images[index]).all() for index in shown)
        browser.press(Keys.ESCAPE)
        assert not browser.is_open()
        assert browser.driver.switch_to.active_element == browser.cell(label, prediction)


def test_the_least_confident_of_the_right_ones_come_first(browser, given):
    part = given["pictures"][0]
    p = part.probabilities[0]
    browser.open_cell(3, 3)
    right = np.flatnonzero((part.labels == 3) & (p.argmax(1) == 3))
    np.testing.assert_array_equal(p.max(1)[list(browser.images("#gallery"))], np.sort(p.max(1)[right]))


def test_the_dialog_closes_by_its_button_and_by_a_click_beside_it(browser):
    browser.open_cell(0, 0)
    browser.driver.find_element(By.ID, "close").click()
    assert not browser.is_open()
    browser.open_cell(0, 0)
    browser.mouse("mousePressed", 5, 300, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseReleased", 5, 300, button="left", clickCount=1)
    assert not browser.is_open()


def test_of_a_part_of_the_images_the_count_is_said(browser, given):
    browser.choose("set", "mnist-c-fog")
    part, r = given["pictures"][1], find(given, 0, 1)
    predictions = part.probabilities[0].argmax(1)
    right = np.bincount(part.labels[part.labels == predictions], minlength=10)
    label = int((np.diag(r["confusion"]) - right).argmax())
    rows = np.flatnonzero((part.labels == label) & (predictions == label))
    total = r["confusion"][label][label]
    assert 0 < len(rows) < total
    browser.open_cell(label, label)
    assert browser.text("#gallery .count") == f"{len(rows)} of {total} shown; this page has no more of them"
    shown = browser.images("#gallery")
    assert all((shown[index] == part.images[row]).all() for index, row in zip(part.index[rows], rows, strict=True))
    browser.press(Keys.ESCAPE)
    assert f"the {len(part.index)} of 400 images" in browser.text("#among")


def test_the_misclassified_are_those_of_the_data_in_each_order_and_show_more_brings_the_rest(browser, given):
    part = given["pictures"][0]
    browser.choose("model", "poor")
    p = part.probabilities[1]
    predictions = p.argmax(1)
    wrong = np.flatnonzero(predictions != part.labels)
    n = len(wrong)
    assert MANY < n < 2 * MANY
    orders = {
        "most confident first": np.argsort(-p.max(1)[wrong], kind="stable"),
        "by index": np.arange(n),
        "by label": np.lexsort((wrong, predictions[wrong], part.labels[wrong])),
    }
    for name, order in orders.items():
        browser.choose("by", name)
        assert browser.text("#errors .count") == f"{MANY} of {n} shown"
        expected = [(int(part.index[i]), str(part.labels[i]), str(predictions[i])) for i in wrong[order]]
        if name == "by label":  # within a cell, any order does
            browser.js("arguments[0].click()", browser.more("#errors"))
            assert sorted(browser.cards("#errors")) == sorted(expected)
            assert [card[1:] for card in browser.cards("#errors")] == [e[1:] for e in expected]
            continue
        assert browser.cards("#errors") == expected[:MANY]
        assert browser.more("#errors").text == f"Show {n - MANY} more"
        browser.more("#errors").send_keys(Keys.ENTER)
        browser.settle()
        assert browser.cards("#errors") == expected
        assert browser.text("#errors .count") == f"{n} of {n} shown"
        assert not browser.more("#errors").is_displayed()
        focused = browser.js("return document.activeElement.querySelector('canvas').ariaLabel")
        assert focused == f"image {expected[MANY][0]}"  # the first of the new ones


def test_an_error_shows_its_image_its_probabilities_as_bars_and_the_nearest_training_image(browser, given):
    part = given["pictures"][0]
    browser.choose("model", "poor")
    browser.choose("by", "by index")
    shown = browser.images("#errors")
    assert all((shown[index] == part.images[index]).all() for index in shown)
    row = next(iter(part.nearest[1]))
    image, label = part.nearest[1][row]
    card = browser.driver.find_element(By.CSS_SELECTOR, "#errors li.card")
    canvases = card.find_elements(By.TAG_NAME, "canvas")
    assert canvases[0].get_attribute("aria-label") == f"image {part.index[row]}"
    assert (browser.image("document.querySelectorAll('#errors canvas')[1]")[:, :, 0] == image).all()
    assert card.find_elements(By.TAG_NAME, "figcaption")[1].text == f"nearest: {label}"
    p = part.probabilities[1][row]
    bar = "[...[...d.children].map(e => e.textContent), +d.style.getPropertyValue('--share'), d.className]"
    bars = browser.js(f"return [...arguments[0].querySelectorAll('.bars > div')].map(d => {bar})", card)
    assert bars[0][3] == "prediction"
    assert [bar[3] for bar in bars].count("label") == 1
    for name, value, share, kind in bars:
        c = int(name.removesuffix(" label"))
        assert (kind == "label") == name.endswith(" label") == (c == part.labels[row])
        assert value == (percent(round(float(p[c]), 3), 1) if p[c] >= 0.0005 else "< 0.1%")
        assert share == pytest.approx(p[c], abs=0.0006)


def test_the_least_and_the_most_confident_images_come_in_their_order(browser, given):
    part = given["pictures"][0]
    order = np.argsort(-part.probabilities[0].max(1), kind="stable").tolist()
    assert list(browser.images("#most")) == order[:FEW]
    assert list(browser.images("#least")) == order[::-1][: FEW // 2]
    browser.js("arguments[0].click()", browser.more("#least"))
    assert list(browser.images("#least")) == order[::-1][:FEW]
    words = browser.js("return document.querySelector('#most li').innerText").split("\n")
    p = part.probabilities[0][order[0]]
    assert words == [str(part.labels[order[0]]), percent(round(float(p.max()), 3), 1), f"#{order[0]}"]


def test_the_charts_show_the_numbers(browser, given):
    browser.choose("model", "poor")
    r = find(given, 1, 0)
    x = np.array(browser.js("return [...document.querySelectorAll('#rates circle')].map(c => +c.getAttribute('cx'))"))
    rates = np.array([c["error_rate"] for c in r["per_class"]])
    scale, start = np.polyfit(rates, x, 1)
    np.testing.assert_allclose(x, start + scale * rates, atol=0.01)
    lines = browser.js("return [...document.querySelectorAll('#rates line.blue')].filter(l => l.getAttribute('y1') === "
                       "l.getAttribute('y2')).map(l => [+l.getAttribute('x1'), +l.getAttribute('x2')])")  # fmt: skip
    np.testing.assert_allclose(lines, [[start + scale * c["low"], start + scale * c["high"]] for c in r["per_class"]])

    def line(selector: str) -> np.ndarray:
        points = browser.driver.find_element(By.CSS_SELECTOR, selector).get_attribute("points")
        return np.array([[float(v) for v in point.split(",")] for point in points.split()])

    for color, when, mark in (("orange", "before", "circle"), ("blue", "after", "rect")):
        full = [bin for bin in r["calibration"][when]["bins"] if bin["images"]]
        known = np.array([[bin["confidence"], bin["accuracy"]] for bin in full])
        drawn = line(f"#reliability .chart polyline.{color}")
        assert len(full) == len(browser.driver.find_elements(By.CSS_SELECTOR, f"#reliability .chart {mark}"))
        scale = np.polyfit(known[:, 0], drawn[:, 0], 1)[0]
        assert scale > 100
        for axis in (0, 1):
            fit = np.polyfit(known[:, axis], drawn[:, axis], 1)
            assert fit[0] == pytest.approx(scale * (1 - 2 * axis))  # both to the same scale
            np.testing.assert_allclose(np.polyval(fit, known[:, axis]), drawn[:, axis], atol=0.01)
    known, drawn = np.array([[c["coverage"], c["accuracy"]] for c in r["coverage"]]), line("#curve polyline")
    for axis in (0, 1):
        np.testing.assert_allclose(np.polyval(np.polyfit(known[:, axis], drawn[:, axis], 1), known[:, axis]),
                                   drawn[:, axis], atol=0.01)  # fmt: skip
    labels = browser.js("return [...document.querySelectorAll('svg.chart')].map(s => s.ariaLabel)")
    assert percent(r["calibration"]["before"]["ece"]) in labels[1]
    assert percent(r["accuracy"]) in labels[2]


def test_a_keyboard_reaches_the_cells_and_opens_one(browser):
    reached = []
    for _ in range(40):
        browser.press(Keys.TAB)
        reached.append(
            browser.js("const e = document.activeElement; return e.id || e.closest('table')?.className || e.tagName")
        )
        if reached[-1] == "matrix":
            break
    assert reached[-1] == "matrix", reached
    assert [name for name in reached if name in ("model", "set")] == ["model", "set"]
    outline = browser.js("return getComputedStyle(document.activeElement).outline")
    assert "solid 3px" in outline
    browser.press(Keys.ENTER)
    assert browser.is_open()
    assert browser.text("#dialog-title").startswith("Label 0, prediction 0: ")
    for _ in range(3):  # the focus stays in the dialog, or leaves the page for the browser's own buttons
        assert browser.js("const e = document.activeElement; return e === document.body || !!e.closest('dialog')")
        browser.press(Keys.TAB)
    browser.press(Keys.ESCAPE)
    assert browser.js("return document.activeElement.closest('table').className") == "matrix"


def test_a_screen_reader_finds_headers_names_and_what_changes(browser):
    assert browser.js("return [...document.querySelectorAll('table')].every("
                      "t => [...t.querySelectorAll('th')].every(th => th.scope))")  # fmt: skip
    assert browser.js("return [...document.querySelectorAll('table:not(.matrix)')].every(t => t.caption.textContent)")
    assert browser.js("return document.querySelector('.matrix').closest('[role=region]').ariaLabel").startswith(
        "Confusion"
    )
    assert browser.js(
        "return [...document.querySelectorAll('canvas, svg.chart')].every(c => c.role === 'img' && c.ariaLabel)"
    )
    assert browser.cell(0, 0).accessible_name.startswith("label 0, prediction 0: ")
    assert browser.js("return document.querySelector('#errors .count').ariaLive") == "polite"
    assert browser.js("return document.getElementById('status').role") == "status"
    assert browser.driver.find_element(By.TAG_NAME, "dialog").get_attribute("aria-labelledby") == "dialog-title"
    levels = browser.js(
        "return [...document.querySelectorAll('main h1, main h2, main h3, main h4')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 2
    assert all(b - a <= 1 for a, b in pairwise(levels))


@pytest.mark.parametrize("width", [360, 900, 1600])
def test_the_page_does_not_scroll_sideways(browser, width):
    browser.width(width)
    browser.settle()
    drawn = browser.js("return document.querySelector('#curve svg').getBoundingClientRect().width")
    line = browser.js("return document.querySelector('#curve polyline').getBoundingClientRect().right - "
                      "document.querySelector('#curve svg').getBoundingClientRect().left")  # fmt: skip
    assert drawn - 40 < line <= drawn  # the charts have followed
    for model in MODELS:
        browser.choose("model", model)
        assert not browser.is_too_wide()
    boxes = "[...document.querySelectorAll('.scroll')].filter(b => b.checkVisibility())"
    wide = browser.js(f"return {boxes}.map(b => [b.scrollWidth > b.clientWidth, b.tabIndex])")
    assert all((index == 0) == scrolls for scrolls, index in wide)  # a keyboard scrolls a box that does not fit
    assert width > 360 or any(scrolls for scrolls, _ in wide)
    browser.open_cell(4, 9)
    assert not browser.js("const d = document.querySelector('dialog'); return d.scrollWidth > d.clientWidth")
    box = browser.js("return document.querySelector('dialog').getBoundingClientRect().toJSON()")
    assert 0 <= box["left"] < box["right"] <= width


def luminance(color: str) -> float:
    rgb = np.array([float(v) for v in re.findall(r"[\d.]+", color)[:3]]) / 255
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_both_schemes_and_motion_is_reduced_where_asked_for(browser, scheme):
    browser.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    back = luminance(browser.js(style, "body", "background-color"))
    assert (back > 0.5) == (scheme == "light")
    for selector in ("body", ".why", "th", "a", "#least .wrong", "button"):
        front = luminance(browser.js(style, selector, "color"))
        assert (max(front, back) + 0.05) / (min(front, back) + 0.05) > 4.5, selector
    assert browser.js(style, "html", "scroll-behavior") == "auto"
    browser.media(prefers_color_scheme=scheme)
    assert browser.js(style, "html", "scroll-behavior") == "smooth"


def test_names_and_the_title_are_shown_as_they_are_and_run_nothing(chromium, material, tmp_path):
    names, title = ("</script><i>", "$data & more"), "<b>\"A\" & 'B'</b> $data"
    given = some(material, 200, classes=NASTY, names=names, title=title, sets=("<img src=x onerror=alert(1)>",))
    open_page(chromium, tmp_path / "page.html", given)
    assert chromium.text("h1") == chromium.driver.title == title
    assert chromium.text("#detail-title") == f"{names[0]} on <img src=x onerror=alert(1)>"
    chromium.choose("model", names[1])
    assert [row[0] for row in chromium.table("Scores per class")[1:]] == list(NASTY)
    shown = {name for _, *pair in chromium.cards("#errors") for name in pair}
    assert shown <= set(NASTY)
    assert len(shown) > 5
    chromium.open_cell(4, 9)
    assert chromium.text("#dialog-title").startswith(f"Label {NASTY[4]}, prediction {NASTY[9]}: ")
    chromium.assert_no_error()


def test_what_is_not_printable_in_a_name_is_escaped(chromium, material, tmp_path):
    classes = ("a\nb", "\u202e8", *CLASSES[2:])  # the second turns the direction of what follows
    open_page(chromium, tmp_path / "page.html", some(material, 50, classes=classes))
    assert [row[0] for row in chromium.table("Scores per class")[1:3]] == [r"a\nb", r"\u202e8"]
    chromium.assert_no_error()


def test_one_model_on_one_set_has_nothing_to_choose(chromium, material, tmp_path):
    given = contents(material.images[:50], material.labels[:50], [[material.shipped[:50]]], material.train)
    open_page(chromium, tmp_path / "page.html", given)
    assert not chromium.driver.find_element(By.ID, "choice").is_displayed()
    assert chromium.text("#detail-title") == "shipped on mnist"
    assert chromium.text("#errors .count") == "None."
    chromium.assert_no_error()


def test_one_model_on_several_sets_has_a_row_per_set_and_the_mean_of_the_corruptions(chromium, material, tmp_path):
    n = 60
    answers = [[material.shipped[:n]], [material.poor(material.images[:n])], [material.shipped[:n]]]
    given = contents(material.images[:n], material.labels[:n], answers, material.train)
    open_page(chromium, tmp_path / "page.html", given)
    _, *rows, mean = chromium.table("Accuracy on corrupted images")
    found = [find(given, 0, s) for s in (1, 2)]
    assert [row[:4] for row in rows] == [
        [name, percent(r["accuracy"]), interval(r), str(n - r["correct"])]
        for name, r in zip(("fog", "stripe"), found, strict=True)
    ]
    assert mean == ["mean", percent(np.mean([r["accuracy"] for r in found])), "", "", ""]
    assert len(Select(chromium.driver.find_element(By.ID, "set")).options) == 3
    assert not chromium.driver.find_element(By.ID, "model").is_displayed()
    chromium.assert_no_error()


def test_sets_that_are_no_corruptions_have_a_row_each_and_long_tables_are_folded(chromium, material, tmp_path):
    n = 60
    both = [material.shipped[:n], material.poor(material.images[:n])]
    given = contents(material.images[:n], material.labels[:n], [both, both], material.train, sets=("mnist", "usps"))
    given["report"]["comparisons"] *= 7
    open_page(chromium, tmp_path / "page.html", given)
    header, first, second = chromium.table("Accuracy on the test sets")
    assert header == ["Test set", *MODELS]
    corrected = [f"labels corrected {percent(find(given, m, 0)['corrected']['accuracy'])}" for m in (0, 1)]
    cells = [percent(find(given, m, 0)["accuracy"]) + interval(find(given, m, 0)) for m in (0, 1)]
    assert first == ["mnist", *(cell + more for cell, more in zip(cells, corrected, strict=True))]
    assert second == ["usps", *cells]
    assert chromium.text("#tables details") == "Comparisons: 14 rows"
    assert len(chromium.table("Comparisons")) == 1 + 14
    chromium.assert_no_error()


def test_many_classes_one_of_them_without_images_and_long_names_fit(chromium, tmp_path):
    rng, k, n = np.random.default_rng(0), 62, 600
    classes = [f"letter number {i}" for i in range(k)]
    labels = rng.integers(0, k - 1, n)  # none of the last
    p = rng.dirichlet(np.full(k, 0.05), n)
    images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
    given = contents(images, labels, [[p]], (images, labels), classes=classes, keep=100)
    given["report"]["results"][0]["per_class"][-1]["precision"] = None
    open_page(chromium, tmp_path / "page.html", given)
    chromium.width(360)
    assert not chromium.is_too_wide()
    assert chromium.table("Scores per class")[-1] == [classes[-1], "0", "–", "–", "–", "–", "0.00%"]
    assert "no images" in chromium.text("#rates")
    assert len(chromium.driver.find_elements(By.CSS_SELECTOR, "#rates circle")) == k - 1
    chromium.assert_no_error()


def test_a_set_of_which_the_page_has_no_image_still_has_its_numbers(chromium, material, tmp_path):
    given = some(material, 50)
    part = given["pictures"][0]
    empty = [p[:0] for p in part.probabilities]
    given["pictures"] = [Pictures(part.index[:0], part.images[:0], part.labels[:0], empty, [{}, {}])]
    open_page(chromium, tmp_path / "page.html", given)
    chromium.choose("model", "poor")
    wrong = 50 - find(given, 1, 0)["correct"]
    assert chromium.text("#errors .count") == f"0 of {wrong} shown; this page has no more of them"
    assert "among the 0 of 50 images" in chromium.text("#among")
    chromium.assert_no_error()


def test_thousands_of_errors_are_shown_by_and_by(chromium, large):
    path, given = large
    chromium.open(path)
    r = find(given, 0, 0)
    wrong = 10_000 - r["correct"]
    assert wrong > 1500
    assert chromium.text("#errors .count") == f"{MANY} of {wrong:,} shown"
    assert chromium.js("return document.querySelectorAll('*').length") < 15_000
    chromium.js("arguments[0].click()", chromium.more("#errors"))
    assert chromium.text("#errors .count") == f"{2 * MANY} of {wrong:,} shown"
    chromium.open_cell(0, 0)
    n = r["confusion"][0][0]
    assert chromium.text("#gallery .count") == f"{MANY} of {n} shown"
    part = given["pictures"][0]
    shown = chromium.images("#gallery")
    assert all((shown[index] == part.images[index]).all() for index in shown)
    chromium.js("arguments[0].click()", chromium.more("#gallery"))
    assert chromium.text("#gallery .count") == f"{2 * MANY} of {n} shown"
    chromium.assert_no_error()

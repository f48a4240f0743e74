"""The page of maps: what is in the file, and what a real browser does with it."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from conftest import assert_one_sentence, full_disk
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from mnist_fastai import InputError, RunError
from mnist_fastai.colors import COLORS
from mnist_fastai.pages.maps import write_page

CLASSES = tuple("0123456789")
NASTY = ("<script>alert(1)</script>", 'T-shirt & "top"', "it's", "</script>", "<!--", "$title", "é", "7", "8", "9")
WRONG = 3  # an image that the pages have misclassified


def contents(mnist, n: int, classes=CLASSES, title="Maps") -> dict:
    """What `write_page` takes: test images, maps from their principal components, and predictions that are made up."""
    images, labels = mnist.test.images[:n].numpy(), mnist.test.labels[:n].numpy()
    pixels = images.reshape(n, -1)[:, ::3] / 255  # a third of them is quicker and does as well
    pixels = pixels - pixels.mean(0)
    _, vectors = np.linalg.eigh(pixels.T @ pixels)
    points = pixels @ vectors[:, -6:]
    predictions = labels.copy()
    predictions[WRONG] = (labels[WRONG] + 1) % 10
    return {
        "maps": {"raw": points[:, :2], "untrained": points[:, 2:4], "trained": points[:, 4:]},
        "images": images,
        "labels": labels,
        "predictions": predictions,
        "probabilities": np.linspace(0.3, 1, n, dtype=np.float32),
        "classes": classes,
        "title": title,
    }


@pytest.fixture(scope="module")
def large(mnist, tmp_path_factory) -> tuple:
    """A page of all the test images, to read only, and what is on it."""
    path, given = tmp_path_factory.mktemp("large") / "page.html", contents(mnist, 10_000)
    write_page(path, **given)
    return path, given


def test_ten_thousand_images_fit_in_six_megabytes_and_no_network_is_asked_for_any(large):
    page = large[0].read_text()
    assert len(page.encode()) < 6e6
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", page)
    assert all(source.startswith("data:") for source in re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", page))
    assert "one of 10,000 images" in page
    assert "a ring marks the 1 misclassified" in page
    assert "default-src 'none'" in page  # what is left to say, the browser is told to hold to


def test_the_same_input_gives_the_same_page(mnist, tmp_path):
    for name in "ab":
        write_page(tmp_path / name, **contents(mnist, 50))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_points_at_one_place_lie_in_the_middle(mnist, tmp_path):
    write_page(tmp_path / "page.html", **(contents(mnist, 5) | {"maps": {"raw": np.ones((5, 2))}}))
    assert '"points":[[0.0,0.0],[0.0,0.0]' in (tmp_path / "page.html").read_text()


def test_a_page_that_cannot_be_written_leaves_the_old_one(mnist, tmp_path):
    path = tmp_path / "page.html"
    write_page(path, **contents(mnist, 20))
    before = path.read_bytes()
    with full_disk(10_000), pytest.raises(RunError) as e:
        write_page(path, **contents(mnist, 50))
    assert_one_sentence(str(e.value))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change",
    [
        {"maps": {"raw": np.zeros((19, 2))}},
        {"maps": {"raw": np.zeros((20, 3))}},
        {"maps": {"raw": np.full((20, 2), np.nan)}},
        {"labels": np.zeros(19, int)},
        {"predictions": np.zeros(19, int)},
        {"probabilities": np.zeros(21)},
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(mnist, tmp_path, change):
    with pytest.raises(InputError) as e:
        write_page(tmp_path / "page.html", **(contents(mnist, 20) | change))
    assert_one_sentence(str(e.value))
    assert not list(tmp_path.iterdir())


class Browser:
    """Headless chromium, a mouse in it, and what the maps on the page show."""

    def __init__(self, profile):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (
            "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic", "disable-sync",
            "disable-background-networking", "disable-component-update", "no-first-run", "window-size=1400,900",
            "force-device-scale-factor=1", f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))

    def open(self, path) -> None:
        self.move(1, 1)
        self.driver.get(path.as_uri())
        self.settle()

    def settle(self) -> None:
        """Wait until all that was asked for is on the screen."""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def mouse(self, type: str, x: float, y: float, **kwargs) -> None:
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": type, "x": float(x), "y": float(y), **kwargs})
        self.settle()

    def move(self, x: float, y: float, **kwargs) -> None:
        self.mouse("mouseMoved", x, y, **kwargs)

    def press(self, x: float, y: float, count: int = 1) -> None:
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=count)

    def release(self, x: float, y: float, count: int = 1) -> None:
        self.mouse("mouseReleased", x, y, button="left", clickCount=count)

    def click(self, x: float, y: float) -> None:
        self.press(x, y)
        self.release(x, y)

    def choose(self, label: int) -> None:
        self.driver.find_elements(By.TAG_NAME, "button")[label].click()
        self.settle()

    def boxes(self) -> list[dict]:
        """Left, top, width, height of each map in the window, in pixels."""
        js = "return [...document.querySelectorAll('.map canvas')].map(c => c.getBoundingClientRect().toJSON())"
        return self.driver.execute_script(js)

    def pixels(self, i: int) -> np.ndarray:
        """What map `i` shows, uint8 [height, width, red-green-blue-alpha]."""
        return self.image(f"document.querySelectorAll('.map canvas')[{i}]")

    def marks(self) -> list[tuple[float, float] | None]:
        """Where each map has its mark, as the centre in the window; None where it has none."""
        js = """return [...document.querySelectorAll(".mark")].map(m => {
            const b = m.getBoundingClientRect(); return m.hidden ? null : [b.x + b.width / 2, b.y + b.height / 2] })"""
        return self.driver.execute_script(js)

    def tip(self) -> str:
        """The words beside the pointer; empty where there are none."""
        return self.driver.find_element(By.ID, "tip").text

    def thumbnail(self) -> np.ndarray:
        """The image beside the pointer, uint8 [28, 28], as black is 0."""
        return self.image("document.querySelector('#tip canvas')")[:, :, 0]

    def image(self, canvas: str) -> np.ndarray:
        _, png = self.driver.execute_script(f"return {canvas}.toDataURL()").split(",")
        return np.array(Image.open(io.BytesIO(base64.b64decode(png))))

    def assert_no_error(self) -> None:
        assert self.driver.get_log("browser") == []


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def page(mnist, tmp_path_factory) -> tuple:
    """A page of 300 images, to read only, and what is on it."""
    path, given = tmp_path_factory.mktemp("page") / "page.html", contents(mnist, 300)
    write_page(path, **given)
    return path, given


@pytest.fixture
def browser(chromium, page):
    """The browser with that page, fresh; at the end there must be no error in its console."""
    chromium.open(page[0])
    yield chromium
    chromium.assert_no_error()


def in_window(points: np.ndarray, box: dict) -> np.ndarray:
    """Where a map that was neither panned nor zoomed has its points in the window, both axes to the same scale."""
    low, high = points.min(0), points.max(0)
    unit = (points - (low + high) / 2) / max(high - low) * [1, -1]
    return [box["left"], box["top"]] + box["width"] * (0.5 + 0.96 * unit)


def all_positions(browser: Browser, given: dict) -> list[np.ndarray]:
    return [in_window(points, box) for points, box in zip(given["maps"].values(), browser.boxes(), strict=True)]


def lonely(points: np.ndarray, among=None) -> int:
    """The point that is farthest from its neighbour, of all or of those in `among`."""
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(1)
    return int(nearest.argmax() if among is None else max(among, key=nearest.__getitem__))


@pytest.mark.parametrize("over", [0, 1, 2])
def test_hovering_shows_the_image_and_lights_it_in_every_map(browser, page, over):
    given = page[1]
    positions = all_positions(browser, given)
    image = lonely(positions[over])
    browser.move(*positions[over][image])
    label = CLASSES[given["labels"][image]]
    words = ["label", label, "prediction", label, "probability", f"{100 * given['probabilities'][image]:.1f}%"]
    assert browser.tip().split() == words
    assert (browser.thumbnail() == given["images"][image]).all()
    for mark, at in zip(browser.marks(), positions, strict=True):
        np.testing.assert_allclose(mark, at[image], atol=1)
    browser.move(1, 1)
    assert browser.tip() == ""
    assert browser.marks() == [None] * 3


def test_a_misclassified_image_has_a_ring_and_both_its_classes(browser, page):
    given = page[1]
    at, box = all_positions(browser, given)[0][WRONG], browser.boxes()[0]
    pixels = browser.pixels(0)
    x, y = at - [box["left"], box["top"]]
    around = pixels[int(y) - 9 : int(y) + 10, int(x) - 9 : int(x) + 10]
    black = (pixels[:, :, :3].max(2) < 60) & (pixels[:, :, 3] > 100)
    assert black.sum() > 15
    assert ((around[:, :, :3].max(2) < 60) & (around[:, :, 3] > 100)).sum() == black.sum()  # and no other has one
    browser.move(*at)
    label, prediction = given["labels"][WRONG], given["predictions"][WRONG]
    assert browser.tip().split()[:4] == ["label", CLASSES[label], "prediction", CLASSES[prediction]]


def opacity(browser: Browser, i: int, label: int) -> float:
    """The largest opacity in [0, 1] of a pixel that map `i` has in the colour of a class."""
    pixels = browser.pixels(i).astype(int)
    color = [int(COLORS[label][k : k + 2], 16) for k in (1, 3, 5)]
    return pixels[np.abs(pixels[:, :, :3] - color).max(2) < 12][:, 3].max() / 255


def test_a_click_on_a_class_dims_the_others_in_every_map_and_a_second_brings_them_back(browser):
    before = [browser.pixels(i) for i in range(3)]
    browser.choose(1)
    for i in range(3):
        assert opacity(browser, i, 1) > 0.7
        assert opacity(browser, i, 0) < 0.5
    browser.choose(0)
    assert opacity(browser, 0, 0) > 0.7
    browser.choose(0)
    assert all((browser.pixels(i) == b).all() for i, b in enumerate(before))


def test_a_dimmed_class_does_not_answer_and_a_click_beside_the_dots_brings_it_back(browser, page):
    given = page[1]
    before = browser.pixels(0)
    positions = all_positions(browser, given)
    image = lonely(positions[0], np.flatnonzero(given["labels"] == 1))
    browser.choose(2)
    browser.move(*positions[0][image])
    assert browser.tip() == ""
    box = browser.boxes()[0]
    browser.click(box["left"] + 3, box["top"] + 3)
    assert (browser.pixels(0) == before).all()
    browser.move(*positions[0][image])
    assert browser.tip()


def test_the_wheel_zooms_about_the_pointer_dragging_pans_and_a_double_click_resets_one_map(browser, page):
    given = page[1]
    before, other = browser.pixels(0), browser.pixels(1)
    positions = all_positions(browser, given)[0]
    image = lonely(positions)
    x, y = positions[image]

    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-500)
    assert (browser.pixels(0) != before).any()
    browser.move(x + 1, y)
    assert browser.marks()[0] == pytest.approx((x, y), abs=1)  # what was below the pointer stayed there

    box = browser.boxes()[0]
    middle = (box["left"] + box["width"] / 2, box["top"] + box["height"] / 2)
    browser.press(x, y)
    browser.move(*middle, button="left", buttons=1)
    browser.release(*middle)
    browser.move(middle[0] + 1, middle[1])
    assert browser.marks()[0] == pytest.approx(middle, abs=1)
    assert (browser.pixels(1) == other).all()

    browser.click(*middle)
    browser.press(*middle, count=2)
    browser.release(*middle, count=2)
    assert (browser.pixels(0) == before).all()


def test_maps_stand_side_by_side_and_one_below_the_other_in_a_narrow_window(browser):
    a, b, c = browser.boxes()
    assert a["top"] == b["top"] == c["top"]
    assert a["right"] < b["left"] < b["right"] < c["left"] < 1400
    browser.driver.set_window_size(500, 900)
    browser.settle()
    try:
        a, b, c = browser.boxes()
        assert a["left"] == b["left"] == c["left"]
        assert a["bottom"] < b["top"] < b["bottom"] < c["top"]
        assert browser.pixels(0).shape[1] == round(a["width"])
    finally:
        browser.driver.set_window_size(1400, 900)


def test_names_and_the_title_are_shown_as_they_are_and_run_nothing(chromium, mnist, tmp_path):
    given = contents(mnist, 30, NASTY, "<b>\"A\" & 'B'</b> $data")
    given["maps"] = {"</script><i>": given["maps"]["raw"]}
    write_page(tmp_path / "page.html", **given)
    chromium.open(tmp_path / "page.html")
    assert [b.text for b in chromium.driver.find_elements(By.TAG_NAME, "button")] == list(NASTY)
    assert chromium.driver.find_element(By.TAG_NAME, "h1").text == chromium.driver.title == given["title"]
    assert chromium.driver.find_element(By.TAG_NAME, "figcaption").text == "</script><i>"
    positions = all_positions(chromium, given)[0]
    image = lonely(positions)
    chromium.move(*positions[image])
    assert NASTY[given["labels"][image]] in chromium.tip()
    chromium.assert_no_error()


def test_more_classes_than_colours_use_the_colours_again(chromium, mnist, tmp_path):
    given = contents(mnist, 30, (*CLASSES, "ten", "eleven"))
    write_page(tmp_path / "page.html", **given)
    chromium.open(tmp_path / "page.html")
    spots = chromium.driver.find_elements(By.CSS_SELECTOR, "button i")
    colors = [spot.value_of_css_property("background-color") for spot in spots]
    assert len(set(colors[:10])) == 10
    assert colors[10:] == colors[:2]
    chromium.assert_no_error()


def test_ten_thousand_dots_are_drawn_and_answer(chromium, large):
    path, given = large
    chromium.open(path)
    positions = all_positions(chromium, given)[0]
    rightmost = int(positions[:, 0].argmax())
    chromium.move(*positions[rightmost])
    assert (chromium.thumbnail() == given["images"][rightmost]).all()
    chromium.assert_no_error()

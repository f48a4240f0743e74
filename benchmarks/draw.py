"""The page that one draws on, in headless chromium: its size, its classes of all test images, and its frame time.

    python benchmarks/draw.py --out draw.md   # two minutes on two idle cores; needs chromium, chromedriver and selenium

The page is the shipped model's, by `mnist-fa draw`. The frame time is from a pointer's event until all that the page
shows is drawn, as the page itself measures it (`performance.measure`), over a 3 and a 7 of 74 events each, in a window
of 1280×900; the browser then composes the picture. Events that come while the page is busy make one update.
"""

import argparse
import base64
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from selenium import webdriver

from mnist_fastai import Run, load_data, load_run, pretrained
from mnist_fastai.dataloader import dataloaders
from mnist_fastai.evaluation import forward
from mnist_fastai.exports.page import draw
from mnist_fastai.train import git_commit

TURNS = 5  # drawings of both digits
STEPS = 74  # events of a stroke
SHAPES = {  # x and y at even distances, in a square of side 1
    "3": [(0.3, 0.25), (0.5, 0.15), (0.66, 0.28), (0.48, 0.46), (0.68, 0.62), (0.52, 0.82), (0.3, 0.75)],
    "7": [(0.28, 0.2), (0.5, 0.2), (0.72, 0.2), (0.6, 0.42), (0.5, 0.64), (0.45, 0.85)],
}
CLASSIFY = "return page.classify(Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0)))"
OBSERVE = """window.times = [];
new PerformanceObserver(list => times.push(...list.getEntriesByName("draw").map(entry => entry.duration)))
  .observe({ type: "measure" })"""


def start_browser(profile: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,900"
    for flag in (*flags, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def draw_digit(browser: webdriver.Chrome, shape: list[tuple[float, float]]) -> None:
    box = browser.execute_script("return document.getElementById('pad').getBoundingClientRect().toJSON()")
    corners = np.array(shape)
    at = np.linspace(0, len(corners) - 1, STEPS)
    points = np.stack([np.interp(at, range(len(corners)), corners[:, axis]) for axis in (0, 1)], axis=1)
    for i, (x, y) in enumerate((points * box["width"] + [box["x"], box["y"]]).tolist()):
        kind = "mouseMoved" if i else "mousePressed"
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", event | {"type": "mouseReleased", "buttons": 0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    out = parser.parse_args().out
    run, mnist = Run(pretrained()), load_data()
    learner = load_run(run.path, data=mnist, device="cpu")
    expected = forward(learner, dataloaders(mnist, normalize=run.normalize).valid).logits.argmax(1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        page = draw(run, Path(folder) / "draw.html")
        made = time.perf_counter() - began
        browser = start_browser(folder)
        browser.set_script_timeout(600)
        browser.get(page.path.as_uri())
        images = mnist.test.images.numpy()
        began, answers = time.perf_counter(), []
        for part in np.split(images, 10):
            answers += browser.execute_script(CLASSIFY, base64.b64encode(part.tobytes()).decode())
        forwards = (time.perf_counter() - began) / len(images)
        browser.execute_script(OBSERVE)
        for turn in range(TURNS + 1):
            if turn == 1:  # the first warms up
                browser.execute_script("times.length = 0")
            for name, shape in SHAPES.items():
                draw_digit(browser, shape)
                time.sleep(0.2)
                answer = browser.execute_script("return document.getElementById('answer').textContent")
                assert answer == name, answer
                browser.execute_script("document.getElementById('clear').click()")
        times = np.array(browser.execute_script("return times"))
        version = browser.capabilities["browserVersion"]
        browser.quit()
    same = int((np.array(answers) == expected).sum())
    text = f"""{os.cpu_count()} cores, Chromium {version} without a GPU, commit {git_commit()}.

| the shipped model's page | |
|---|--:|
| bytes | {page.bytes:,} |
| weights | {page.weights} |
| seconds to make it | {made:.0f} |
| test images that get the Learner's class, in the browser | {same:,} of {len(images):,} |
| milliseconds per image, forward alone | {1000 * forwards:.1f} |
| milliseconds from a pointer's event to the drawn update, median of {len(times):,} | {np.median(times):.1f} |
| the same, 95th percentile | {np.quantile(times, 0.95):.1f} |
"""
    print(text)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()

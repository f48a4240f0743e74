"""Whether digits keep their answer on the way from pictures to MNIST's format.

    python benchmarks/handwriting.py --out benchmarks/handwriting.md   # 40 minutes on a core, mostly drawing

Test digits of MNIST are drawn into pictures (`tests/scenes.py`), 500 for each kind, brought back by `preprocess`, and
the shipped model's answer is compared with its answer to the MNIST image itself. A picture in which no digit or several
are found counts as wrong; of the kinds of several digits, one whose rows are not as long as written, or in which any
digit is read differently. Where the result looks like the MNIST image (their correlation, a little blurred and up to a
pixel apart, is 0.8 or more) the picture came into the right form, and what is wrong is the model's.

Then all test images as they are, scikit-learn's `load_digits`, and digits in those of Debian's handwriting fonts that
are installed. The figure beside the table shows what went wrong: the picture, what came of it, and the two answers.
"""

import argparse
import platform
import sys
import time
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import PIL
import scipy
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from sklearn.datasets import load_digits

from mnist_fastai import load_data
from mnist_fastai.reader.form import preprocess
from mnist_fastai.reader.image import read_image
from mnist_fastai.reader.parts import rows
from mnist_fastai.reader.session import Session
from mnist_fastai.train import git_commit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from scenes import MOST, NUMBERS, SCENES

FONTS = {  # Debian's package: the folder of its fonts
    "fonts-breip": "breip", "fonts-dkg-handwriting": "fifthhorseman", "fonts-dancingscript": "dancingscript",
    "fonts-femkeklaver": "femkeklaver", "fonts-kristi": "kristi", "fonts-humor-sans": "humor-sans",
    "fonts-comic-neue": "comic-neue", "fonts-isabella": "isabella", "fonts-ecolier-court": "ecolier-court",
    "fonts-bwht": "bwht", "fonts-kaushanscript": "kaushanscript",
}  # fmt: skip
SIZES = 50, 120, 300  # of the fonts, in pixels
SHOWN = 12  # failures of a kind in the figure
BLANK = np.zeros((28, 28), np.uint8)


@cache
def probabilities():
    """The shipped model: images uint8 [n, 28, 28] → probabilities [n, 10]."""
    return Session().probabilities


def classify(images) -> np.ndarray:
    """The digits that the shipped model sees in images uint8 [n, 28, 28], int [n]."""
    return probabilities()(np.array(images, np.uint8).reshape(-1, 28, 28)).argmax(1)


def digit_of(source) -> tuple[np.ndarray, int]:
    """The first digit in MNIST's format, and how many there are."""
    digits = preprocess(read_image(source), probabilities()).digits
    return (digits[0].image if digits else BLANK), len(digits)


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two images, a little blurred and up to a pixel apart."""
    a, b = (ndimage.gaussian_filter(image.astype(float), 1) for image in (a, b))
    moved = [np.roll(a, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return max(np.corrcoef(m.ravel(), b.ravel())[0, 1] for m in moved) if a.any() else 0.0


class Failures:
    """Pictures, what came of them, and what was answered, as one figure."""

    def __init__(self):
        self.rows = []

    def add(self, kind: str, cases: list[tuple]) -> None:
        """`cases` has the picture's source, the 28×28 image, and a text."""
        if cases:
            self.rows.append((kind, cases[:SHOWN]))

    def save(self, path: Path) -> None:
        width, height, left = 118, 78, 130
        sheet = Image.new("RGB", (left + SHOWN * width, height * len(self.rows)), "#444444")
        draw = ImageDraw.Draw(sheet)
        for y, (kind, cases) in enumerate(self.rows):
            draw.text((4, y * height + 20), kind, "white")
            for x, (source, image, text) in enumerate(cases):
                picture = Image.fromarray(read_image(source))
                picture.thumbnail((56, 56))
                at = left + x * width, y * height
                sheet.paste(picture, at)
                sheet.paste(Image.fromarray(image).resize((56, 56)), (at[0] + 58, at[1]))
                draw.text((at[0], at[1] + 60), text, "white")
        sheet.save(path)


def scenes(images: np.ndarray, labels: np.ndarray, n: int, failures: Failures) -> list[str]:
    lines = [
        "| pictures | n | same answer | right answer | in form | same answer of those in form | none, several found |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    all_same = []
    for kind, scene in SCENES.items():
        rng = np.random.default_rng(zlib.crc32(kind.encode()))
        chosen = rng.choice(len(images), n, replace=False)
        files = [scene(images[i], rng) for i in chosen]
        results, counts = zip(*(digit_of(file) for file in files), strict=True)
        results, counts = np.array(results), np.array(counts)
        direct, answers = classify(images[chosen]), np.where(counts == 1, classify(results), -1)
        same, right = answers == direct, answers == labels[chosen]
        form = (counts == 1) & [alike(a, b) >= 0.8 for a, b in zip(results, images[chosen], strict=True)]
        all_same.append(same)
        lines.append(
            f"| {kind} | {n} | {same.mean():.1%} | {right.mean():.1%} | {form.mean():.1%} | {same[form].mean():.1%} "
            f"| {(counts == 0).sum()}, {(counts > 1).sum()} |"
        )
        print(lines[-1], flush=True)
        failures.add(
            kind,
            [
                (files[i], results[i], f"{direct[i]}, {answers[i]}{' form' if form[i] else ''}")
                for i in np.nonzero(~same)[0]
            ],
        )
    total = np.concatenate(all_same)
    return [*lines, "", f"All kinds together: {total.mean():.2%} of {len(total):,} have the same answer."]


def numbers(images: np.ndarray, labels: np.ndarray, n: int, failures: Failures) -> list[str]:
    lines = ["| numbers | n | same answer | right answer | other rows |", "|---|--:|--:|--:|--:|"]
    for kind, scene in NUMBERS.items():
        rng = np.random.default_rng(zlib.crc32(kind.encode()))
        outcomes, wrong = [], []
        for _ in range(n):
            chosen = rng.choice(len(images), MOST, replace=False)
            file, counts = scene(images[chosen], rng)
            chosen = chosen[: sum(counts)]
            digits = preprocess(read_image(file), probabilities(), multi=True).digits
            direct, answers = classify(images[chosen]), classify([digit.image for digit in digits])
            as_written = [len(row) for row in rows([digit.box for digit in digits])] == counts
            same = as_written and (answers == direct).all()
            outcomes.append((same, as_written and (answers == labels[chosen]).all(), not as_written))
            if not same:
                said, true = ("".join(map(str, a)) for a in (answers, direct))
                wrong.append((file, digits[0].image if digits else BLANK, f"{true[:8]}, {said[:8]}"))
        same, right, other = np.mean(outcomes, 0)
        lines.append(f"| {kind} | {n} | {same:.1%} | {right:.1%} | {round(n * other)} |")
        print(lines[-1], flush=True)
        failures.add(kind, wrong)
    return lines


def unchanged(images: np.ndarray, labels: np.ndarray, failures: Failures) -> list[str]:
    began = time.perf_counter()
    results, counts = zip(*(digit_of(image) for image in images), strict=True)
    seconds = time.perf_counter() - began
    counts, direct, answers = np.array(counts), classify(images), classify(results)
    before, after, alone = ((a == labels).mean() for a in (direct, answers, np.where(counts == 1, answers, -1)))
    failures.add(
        "MNIST itself",
        [
            (images[i], results[i], f"{direct[i]}, {answers[i]}")
            for i in np.nonzero((direct != answers) | (counts > 1))[0]
        ],
    )
    return [
        f"{len(images):,} test images as they are: {before:.2%} right directly, {after:.2%} through the preprocessor, "
        f"{alone:.2%} where several digits found count as wrong ({(counts > 1).sum()} times); "
        f"{1000 * seconds / len(images):.2f} ms an image."
    ]


def other_writers(failures: Failures) -> list[str]:
    digits = load_digits()
    pictures = [
        np.asarray(
            Image.fromarray(np.rint(image * 15.9375).astype(np.uint8)).resize((160, 160), Image.Resampling.BICUBIC)
        )
        for image in digits.images
    ]
    results, counts = zip(*(digit_of(picture) for picture in pictures), strict=True)
    counts, answers = np.array(counts), classify(results)
    right = (answers == digits.target) & (counts == 1)
    wrong = np.nonzero(~right)[0]
    failures.add("load_digits", [(pictures[i], results[i], f"{digits.target[i]}, {answers[i]}") for i in wrong])
    return [
        f"scikit-learn's `load_digits`, 8×8 made 160×160: {right.mean():.2%} of {len(right):,} right; none found in "
        f"{(counts == 0).sum()}, several in {(counts > 1).sum()}."
    ]


def drawn(digit: int, font: Path, size: int) -> np.ndarray:
    """A digit in a font on a page, uint8 [2 size, 2 size]."""
    page = Image.new("L", (2 * size, 2 * size), 255)
    ImageDraw.Draw(page).text((size, size), str(digit), 0, ImageFont.truetype(str(font), size), anchor="mm")
    return np.asarray(page)


def fonts(failures: Failures) -> list[str]:
    lines = [f"| Debian's package | font | right of {10 * len(SIZES)} | wrong |", "|---|---|--:|---|"]
    total = []
    for package, folder in FONTS.items():
        for font in sorted(p for p in Path("/usr/share/fonts").glob(f"*/{folder}/*") if p.suffix in (".ttf", ".otf")):
            pictures = [(d, drawn(d, font, size)) for d in range(10) for size in SIZES]
            results, counts = zip(*(digit_of(picture) for _, picture in pictures), strict=True)
            answers = np.where(np.array(counts) == 1, classify(results), -1)
            right = answers == [d for d, _ in pictures]
            total.append(right)
            wrong = [
                f"{d} as {a if a >= 0 else 'none or several'}"
                for (d, _), a in zip(pictures, answers, strict=True)
                if d != a
            ]
            lines.append(f"| {package} | {font.stem} | {right.sum()} | {', '.join(dict.fromkeys(wrong))} |")
            failures.add(
                font.stem,
                [(pictures[i][1], results[i], f"{pictures[i][0]}, {answers[i]}") for i in np.nonzero(~right)[0]],
            )
    if not total:
        return ["None of Debian's handwriting fonts is installed."]
    total = np.concatenate(total)
    return [*lines, "", f"All fonts together: {total.mean():.1%} of {len(total):,}, at {SIZES} pixels."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=500, help="digits of each kind of picture")
    parser.add_argument("--out", type=Path, help="also write the table to this file, and the figure beside it")
    args = parser.parse_args()
    data = load_data()
    images, labels = data.test.images.numpy(), data.test.labels.numpy()
    failures = Failures()
    lines = [
        f"{platform.machine()}, SciPy {scipy.__version__}, Pillow {PIL.__version__}, commit {git_commit()}.",
        "",
        *scenes(images, labels, args.n, failures),
        "",
        *numbers(images, labels, args.n, failures),
        "",
        *unchanged(images, labels, failures),
        "",
        *other_writers(failures),
        "",
        *fonts(failures),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
        failures.save(args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()

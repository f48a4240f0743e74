"""Whether digits keep their answer on the way from pictures to MNIST's format, and whether other readers do better.

    pip install rapidocr
    python benchmarks/handwriting.py --out benchmarks/handwriting.md

Test digits of MNIST are drawn into pictures (`tests/scenes.py`), 500 for each kind, and read as by `mnist-fa predict`.
The answer is compared with the shipped model's most probable digit for the MNIST image itself, and with the truth. A
picture in which no digit or several are found, and one whose digit is refused as "no digit", count as wrong; of the
kinds of several digits, one whose rows are not as long as written, or in which any digit is read differently. Where the
result looks like the MNIST image (their correlation, a little blurred and up to a pixel apart, is 0.8 or more) the
picture came into the right form, and what is wrong is the model's. One more kind has digits that `mnist_fastai.strokes`
draws, with another seed than the 8,000 of the training images: that figure is biased in our favour.

Two other readers get the same files, in the same run. rapidocr recognises the whole picture as one line of text, made
upright by EXIF, at its defaults. Its answer counts as right only if the text without white space is exactly the digit,
or the number; it is not told to expect digits. The tutorial's way makes the picture grey, inverts it, resizes it to
28×28 and gives that to the shipped model, whose most probable digit counts even where it would be refused. Times are
the median per picture, of the CPU on one thread, from the bytes of the file to the answer.

Then all test images as they are, scikit-learn's `load_digits`, and digits in those of Debian's handwriting fonts that
are installed. The figure beside the table shows what went wrong: the picture, what came of it, and the two answers.
"""

import argparse
import importlib.util
import io
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage
from sklearn.datasets import load_digits

from mnist_fastai import load_data
from mnist_fastai.reader.form import fit_strokes, preprocess
from mnist_fastai.reader.image import read_image
from mnist_fastai.reader.session import Session, answers
from mnist_fastai.strokes import SHARES, draw_ink
from mnist_fastai.train import git_commit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from scenes import MOST, NUMBERS, SCENES, finish, place

FONTS = {  # Debian's package: the folder of its fonts
    "fonts-breip": "breip", "fonts-dkg-handwriting": "fifthhorseman", "fonts-dancingscript": "dancingscript",
    "fonts-femkeklaver": "femkeklaver", "fonts-kristi": "kristi", "fonts-humor-sans": "humor-sans",
    "fonts-comic-neue": "comic-neue", "fonts-isabella": "isabella", "fonts-ecolier-court": "ecolier-court",
    "fonts-bwht": "bwht", "fonts-kaushanscript": "kaushanscript",
}  # fmt: skip
SIZES = 50, 120, 300  # of the fonts, in pixels
SHOWN = 12  # failures of a kind in the figure
BLANK = np.zeros((28, 28), np.uint8)
OTHER_COUNTRIES = "other countries' digits"

session = cache(Session)  # the shipped model


def classify(images) -> np.ndarray:
    """The digits that the shipped model finds most probable in images uint8 [n, 28, 28], int [n]."""
    return session().probabilities(np.array(images, np.uint8).reshape(-1, 28, 28)).argmax(1)


def digit_of(source, multi: bool = False) -> tuple[np.ndarray, int]:
    """The first digit in MNIST's format, and how many there are."""
    digits = preprocess(read_image(source), session().novelty, multi=multi).digits
    return (digits[0].image if digits else BLANK), len(digits)


# --- the readers: a picture → its text, which is empty where there is no answer ---------------------------------------


def ours(source, multi: bool = False) -> str:
    """What `mnist-fa predict` says."""
    answer = next(answers([("", source)], session(), multi=multi))["number" if multi else "digit"]
    return "" if answer is None else str(answer)


@cache
def rapid_ocr() -> Callable:
    from rapidocr import RapidOCR

    one_thread = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    return RapidOCR(params={"Global.log_level": "error"} | one_thread)


def rapidocr(file: bytes) -> str:
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    texts = rapid_ocr()(picture, use_det=False, use_cls=False, use_rec=True).txts
    return "".join("".join(texts or ()).split())


def tutorial(file: bytes) -> str:
    grey = np.asarray(Image.open(io.BytesIO(file)).convert("L").resize((28, 28)))
    return str(classify(255 - grey)[0])


COMPARED = {"ours": ours, "rapidocr": rapidocr, "tutorial's way": tutorial}
INSTALLED = [name for name in COMPARED if name != "rapidocr" or importlib.util.find_spec("rapidocr")]


def timed(readers: dict[str, Callable], files: list[bytes]) -> tuple[dict[str, list[str]], dict[str, float]]:
    """The answers of each reader, and its median time in ms."""
    texts, seconds = {name: [] for name in readers}, {name: [] for name in readers}
    for file in files:
        for name, read in readers.items():
            began = time.process_time()
            texts[name].append(read(file))
            seconds[name].append(time.process_time() - began)
    return texts, {name: 1000 * float(np.median(each)) for name, each in seconds.items()}


class Comparison:
    """The table of all readers."""

    def __init__(self, what: str):
        self.what, self.rows = what, []

    def add(self, kind: str, right: dict[str, np.ndarray], ms: dict[str, float]) -> None:
        """`right` and `ms` lack the readers that cannot read this kind, or are not installed."""
        self.rows.append((kind, right, ms))

    def lines(self) -> list[str]:
        def line(kind: str, right: dict[str, np.ndarray], ms: dict[str, float]) -> str:
            shares = [f"{right[name].mean():.1%}" if name in right else "–" for name in COMPARED]
            times = [f"{ms[name]:.1f}" if name in ms else "–" for name in COMPARED]
            return f"| {kind} | {' | '.join(shares + times)} |"

        names = [name for name in COMPARED if any(name in right for _, right, _ in self.rows)]
        total = {name: np.concatenate([right[name] for _, right, _ in self.rows if name in right]) for name in names}
        shares = [f"{total[name].mean():.2%} of {len(total[name]):,}" if name in total else "–" for name in COMPARED]
        columns = [*COMPARED, *(f"{name}, ms" for name in COMPARED)]
        return [
            f"| right answer: {self.what} | {' | '.join(columns)} |",
            f"|---{'|--:' * 2 * len(COMPARED)}|",
            *(line(*row) for row in self.rows),
            f"| all kinds together | {' | '.join(shares)} |{' |' * len(COMPARED)}",
        ]


# --- the pictures -----------------------------------------------------------------------------------------------------


def draw_digit(kind: str, images: np.ndarray, labels: np.ndarray, n: int) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Pictures of a kind, and the images and labels of the digits in them."""
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    if kind == OTHER_COUNTRIES:
        labels = rng.choice(list(SHARES), n, p=list(SHARES.values()))
        inks = [draw_ink(int(label), rng) for label in labels]
        sizes = [round(max(ink.shape) * rng.uniform(1.3, 2)) for ink in inks]
        files = [finish(place(ink, size, size, rng), rng) for ink, size in zip(inks, sizes, strict=True)]
        return files, np.array([fit_strokes(ink) for ink in inks]), labels
    chosen = rng.choice(len(images), n, replace=False)
    return [SCENES[kind](images[i], rng) for i in chosen], images[chosen], labels[chosen]


def draw_number(kind: str, images: np.ndarray, n: int) -> list[tuple[bytes, np.ndarray, list[int]]]:
    """Pictures of a kind, the indices of the digits in each, and how many of them each row has."""
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    drawn = []
    for _ in range(n):
        chosen = rng.choice(len(images), MOST, replace=False)
        file, counts = NUMBERS[kind](images[chosen], rng)
        drawn.append((file, chosen[: sum(counts)], counts))
    return drawn


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


def scenes(images: np.ndarray, labels: np.ndarray, n: int, failures: Failures) -> tuple[list[str], Comparison]:
    lines = [
        "| ours | n | same answer | right answer | in form | same answer of those in form | none, several, refused |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    comparison, all_same = Comparison("one digit"), []
    for kind in [*SCENES, OTHER_COUNTRIES]:
        files, wanted, truth = draw_digit(kind, images, labels, n)
        texts, ms = timed({name: COMPARED[name] for name in INSTALLED}, files)
        comparison.add(kind, {name: np.array(said) == truth.astype(str) for name, said in texts.items()}, ms)
        results, counts = zip(*(digit_of(file) for file in files), strict=True)
        counts, direct = np.array(counts), classify(wanted)
        said = np.array([int(text or -1) for text in texts["ours"]])
        same, right = said == direct, said == truth
        form = (counts == 1) & [alike(a, b) >= 0.8 for a, b in zip(results, wanted, strict=True)]
        all_same.append(same)
        refused = (counts == 1) & (said < 0)
        lines.append(
            f"| {kind} | {n} | {same.mean():.1%} | {right.mean():.1%} | {form.mean():.1%} | {same[form].mean():.1%} "
            f"| {(counts == 0).sum()}, {(counts > 1).sum()}, {refused.sum()} |"
        )
        print(lines[-1], flush=True)
        failures.add(
            kind,
            [
                (files[i], results[i], f"{direct[i]}, {said[i]}{' form' if form[i] else ''}")
                for i in np.nonzero(~same)[0]
            ],
        )
    total = np.concatenate(all_same)
    return [*lines, "", f"All kinds together: {total.mean():.2%} of {len(total):,} have the same answer."], comparison


def numbers(images: np.ndarray, labels: np.ndarray, n: int, failures: Failures) -> tuple[list[str], Comparison]:
    lines = ["| ours, numbers | n | same answer | right answer | other rows |", "|---|--:|--:|--:|--:|"]
    comparison = Comparison("numbers")
    direct = classify(images)
    for kind in NUMBERS:
        pictures = draw_number(kind, images, n)
        files = [file for file, _, _ in pictures]

        def written(digits: np.ndarray, pictures=pictures) -> np.ndarray:
            """The numbers in the pictures if the images show `digits`, with a line per row."""
            rows = [np.split(digits[chosen], np.cumsum(counts)[:-1]) for _, chosen, counts in pictures]
            return np.array(["\n".join("".join(map(str, row)) for row in each) for each in rows])

        readers = {"ours": partial(ours, multi=True)}
        if "rapidocr" in INSTALLED and kind != "rows of boxes":  # it recognises one line
            readers["rapidocr"] = rapidocr
        texts, ms = timed(readers, files)
        truth, expected, said = written(labels), written(direct), np.array(texts["ours"])
        comparison.add(kind, {name: np.array(text) == truth for name, text in texts.items()}, ms)
        same = said == expected
        other = [[*map(len, a.split())] != [*map(len, b.split())] for a, b in zip(said, truth, strict=True)]
        lines.append(f"| {kind} | {n} | {same.mean():.1%} | {(said == truth).mean():.1%} | {sum(other)} |")
        print(lines[-1], flush=True)
        wrong = np.nonzero(~same)[0][:SHOWN]
        shown = [[text.replace("\n", "")[:8] for text in (expected[i], said[i])] for i in wrong]
        failures.add(
            kind,
            [(files[i], digit_of(files[i], True)[0], ", ".join(pair)) for i, pair in zip(wrong, shown, strict=True)],
        )
    return lines, comparison


def unchanged(images: np.ndarray, labels: np.ndarray, failures: Failures) -> list[str]:
    began = time.process_time()
    results, counts = zip(*(digit_of(image) for image in images), strict=True)
    seconds = time.process_time() - began
    counts, direct, said = np.array(counts), classify(images), classify(results)
    before, after, alone = ((a == labels).mean() for a in (direct, said, np.where(counts == 1, said, -1)))
    failures.add(
        "MNIST itself",
        [(images[i], results[i], f"{direct[i]}, {said[i]}") for i in np.nonzero((direct != said) | (counts > 1))[0]],
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
    counts, said = np.array(counts), np.array([int(ours(picture) or -1) for picture in pictures])
    right = said == digits.target
    refused = (counts == 1) & (said < 0)
    wrong = np.nonzero(~right)[0]
    failures.add("load_digits", [(pictures[i], results[i], f"{digits.target[i]}, {said[i]}") for i in wrong])
    return [
        f"scikit-learn's `load_digits`, 8×8 made 160×160: {right.mean():.2%} of {len(right):,} right; none found in "
        f"{(counts == 0).sum()}, several in {(counts > 1).sum()}; {refused.sum()} refused, of which the most "
        f"probable digit is right in {(classify(results) == digits.target)[refused].sum()}."
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
            said = np.array([int(ours(picture) or -1) for _, picture in pictures])
            right = said == [d for d, _ in pictures]
            total.append(right)
            wrong = [
                f"{d} as {a if a >= 0 else 'no digit or several'}"
                for (d, _), a in zip(pictures, said, strict=True)
                if d != a
            ]
            lines.append(f"| {package} | {font.stem} | {right.sum()} | {', '.join(dict.fromkeys(wrong))} |")
            failures.add(
                font.stem,
                [
                    (page, digit_of(page)[0], f"{pictures[i][0]}, {said[i]}")
                    for i in np.nonzero(~right)[0]
                    for page in [pictures[i][1]]
                ],
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
    one, readers = scenes(images, labels, args.n, failures)
    several, readers_of_numbers = numbers(images, labels, args.n, failures)
    packages = ["scipy", "pillow", "onnxruntime", *(["rapidocr"] if "rapidocr" in INSTALLED else [])]
    lines = [
        f"{platform.machine()}, {os.cpu_count()} CPUs, {', '.join(f'{name} {version(name)}' for name in packages)}, "
        f"commit {git_commit()}.{'' if 'rapidocr' in INSTALLED else ' rapidocr is not installed.'}",
        "",
        *readers.lines(),
        "",
        f"The generator of *{OTHER_COUNTRIES}* also drew 8,000 of the training images, with another seed: the "
        "figures of ours and of the tutorial's way are biased there.",
        "",
        *readers_of_numbers.lines(),
        "",
        *one,
        "",
        *several,
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

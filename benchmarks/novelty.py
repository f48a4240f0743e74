"""Which score tells digits from what is none, and how far the shipped model's probabilities can be trusted.

    python benchmarks/novelty.py --out benchmarks/novelty.md   # 5 minutes on a core

What is no digit is drawn, brought into MNIST's format as any picture, and scored in several ways by the shipped model's
network; of each score, the threshold is the one that 99.5% of its 6,000 held-out digits pass. Letters are of DejaVu and
Liberation; clothes are Fashion-MNIST's test images, of Debian's package dataset-fashion-mnist where it is installed.
The score that is exported, and the number of its components, were chosen on these pictures. No digit of the test images
had a part in that.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.special import log_softmax, logsumexp
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from mnist_fastai import Run, Session, pretrained
from mnist_fastai.calibration import calibration
from mnist_fastai.datasets.idx import read_idx
from mnist_fastai.exports import Reference, detector
from mnist_fastai.models import split
from mnist_fastai.reader.form import fit_strokes, preprocess
from mnist_fastai.reader.image import read_image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from scenes import SCENES, write

LIKE = "OoQDIliJjZzSsbGBgq"  # letters that many people write as a digit
FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
KINDS = "photo", "thin pen", "thick pen", "40 pixels", "box", "cell cut along its lines", "strokes apart"
LONG = 160  # pixels, of a page


def page(paths, width: float) -> np.ndarray:
    """Ink of a round pen along paths, each [n, 2], on white, uint8 [LONG, LONG]."""
    image = Image.new("L", (LONG, LONG), 255)
    pen = ImageDraw.Draw(image)
    for x, y in np.concatenate(paths):
        pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=0)
    return np.asarray(image)


def line(a, b) -> np.ndarray:
    return np.linspace(a, b, 200)


def scribble(rng) -> np.ndarray:
    corners = np.repeat(rng.uniform(20, 140, (int(rng.integers(3, 12)), 2)), 60, 0)
    return page([ndimage.gaussian_filter1d(corners, rng.uniform(5, 40), axis=0, mode="nearest")], rng.uniform(3, 10))


def tick(rng) -> np.ndarray:
    low = rng.uniform((50, 100), (70, 120))
    left, right = low - rng.uniform((15, 15), (35, 45)), low + rng.uniform((30, -95), (70, -60))
    return page([line(left, low), line(low, right)], rng.uniform(3, 10))


def cross(rng) -> np.ndarray:
    turn, long, strokes = rng.uniform(-0.5, 0.5), rng.uniform(30, 60), []
    for side in (np.pi / 4, -np.pi / 4):
        along = long * np.array([np.cos(turn + side), np.sin(turn + side)])
        middle = rng.normal(80, 4, 2)
        strokes.append(line(middle - along * rng.uniform(0.7, 1), middle + along * rng.uniform(0.7, 1)))
    return page(strokes, rng.uniform(3, 10))


def letter(rng, like: bool) -> np.ndarray:
    fonts = sorted(p for kind in ("DejaVu", "Liberation") for p in Path("/usr/share/fonts").rglob(f"{kind}*.ttf"))
    fonts = [p for p in fonts if "Math" not in p.name]
    names = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if (c in LIKE) == like]
    image = Image.new("L", (LONG, LONG), 255)
    font = ImageFont.truetype(str(rng.choice(fonts)), 80)
    ImageDraw.Draw(image).text((80, 80), str(rng.choice(names)), 0, font, anchor="mm")
    return np.asarray(image)


def paper(rng) -> np.ndarray:
    """Blank, with a sensor's noise and a shadow."""
    return np.rint(np.linspace(220, rng.uniform(150, 220), LONG) + rng.normal(0, 5, (LONG, LONG))).astype(np.uint8)


def no_digits(digits: np.ndarray, n: int, rng) -> dict[str, list[np.ndarray | None]]:
    """Images of each kind in MNIST's format, uint8 [28, 28]; None where no ink, or more than one piece, was found."""

    def read(pictures) -> list:
        found = [preprocess(picture).digits for picture in pictures]
        return [each[0].image if len(each) == 1 else None for each in found]

    def several() -> np.ndarray:
        k = int(rng.integers(2, 4))
        return fit_strokes(write(digits[rng.choice(len(digits), k, replace=False)], rng, k, 80, 0.1, -0.1))

    out = {
        "letters": read(letter(rng, like=False) for _ in range(n)),
        "letters like digits": read(letter(rng, like=True) for _ in range(n)),
        "scribbles": read(scribble(rng) for _ in range(n)),
        "ticks": read(tick(rng) for _ in range(n)),
        "crosses": read(cross(rng) for _ in range(n)),
        "several digits in one": [several() for _ in range(n)],
        "noise": list(rng.integers(0, 256, (n, 28, 28), np.uint8)),
        "blank paper": read(paper(rng) for _ in range(n)),
    }
    return out | ({"clothes": list(read_idx(FASHION)[:n])} if FASHION.exists() else {})


def alone(pictures) -> np.ndarray:
    """The digits in MNIST's format, uint8 [n, 28, 28], of the pictures in which one is found."""
    novelty = Session().novelty
    found = [preprocess(picture, novelty).digits for picture in pictures]
    return np.array([digits[0].image for digits in found if len(digits) == 1])


def enlarged(image: np.ndarray) -> np.ndarray:
    pixels = Image.fromarray(np.rint(image * 15.9375).astype(np.uint8))
    return np.asarray(pixels.resize((LONG, LONG), Image.Resampling.BICUBIC))


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


class Scores:
    """The scores that are compared, each fitted to training images: images uint8 [n, 28, 28] → float [n]."""

    def __init__(self, reference: Reference, normalize: tuple[float, float]):
        body, self.head = split(reference.learner.model)
        self.taps, self.normalize = detector.Taps(body).eval(), normalize
        images, labels = detector.with_blurred(*reference.learner.dls.train.tensors)
        features, taps, _ = self.outputs(images[:, 0].numpy())
        held_out, labels = self.outputs(reference.images), labels.numpy()
        means = np.array([features[labels == c].mean(0) for c in range(10)])
        apart = features - means[labels]
        factor = np.linalg.cholesky(np.linalg.pinv(np.cov(apart.T) + 1e-6 * np.eye(apart.shape[1])))
        nearest = NearestNeighbors(n_neighbors=5).fit(unit(features))
        last = self.head.in_features
        self.all = {
            "1 − highest probability": lambda f, t, z: -log_softmax(z, axis=1).max(1),
            "energy (Liu et al. 2020)": lambda f, t, z: -logsumexp(z, axis=1),
            "5th nearest training features (Sun et al. 2022)": lambda f, t, z: nearest.kneighbors(unit(f))[0][:, -1],
            "Mahalanobis, shared covariance (Lee et al. 2018)": lambda f, t, z: (
                np.square((f @ factor)[:, None] - means @ factor).sum(2).min(1)
            ),
            "a covariance per class, features before their activation": self.fitted(
                taps[:, -last:], labels, held_out[1][:, -last:], last, last
            ),
        }
        for k in (64, detector.COMPONENTS, 150, taps.shape[1]):
            name = f"the same with means of maps, {k} components"
            self.all[name] = self.fitted(taps, labels, held_out[1], k, taps.shape[1])

        plain = len(reference.learner.dls.train.tensors[1])
        self.sharp = self.fitted(
            taps[:plain], labels[:plain], held_out[1], detector.COMPONENTS, taps.shape[1]
        )  # without the blurred ones

    def fitted(self, taps, labels, held_out, components: int, last: int):
        usual, detector.COMPONENTS = detector.COMPONENTS, components
        fit = detector.fit_detector(taps, labels, held_out)
        detector.COMPONENTS = usual
        return lambda f, t, z: fit(torch.from_numpy(t[:, -last:])).numpy()

    @torch.no_grad()
    def outputs(self, images: np.ndarray) -> list[np.ndarray]:
        """Features, taps and logits."""
        mean, std = self.normalize
        parts = []
        for part in torch.from_numpy(np.ascontiguousarray(images)).split(500):
            features, taps = self.taps((part[:, None].float() / 255 - mean) / std)
            parts.append((features, taps, self.head(features)))
        return [torch.cat(column).numpy() for column in zip(*parts, strict=True)]


def figure(before: dict, after: dict, shown: dict[str, np.ndarray]) -> Figure:
    out = Figure((11, 3.6), layout="constrained")
    left, middle, right = out.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for ax, name, result in ((left, "as trained", before), (middle, "as exported", after)):
        bins = [b for b in result["bins"] if b["images"]]
        ax.plot([0, 1], [0, 1], color="#bbbbbb", lw=1)
        ax.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", ms=4)
        ax.set(title=f"{name}: ECE {result['ece']:.2%}", xlabel="highest probability", ylabel="accuracy")
    names = list(shown)
    right.boxplot([shown[name].clip(-1, 6) for name in names], orientation="horizontal", whis=(0.5, 99.5), sym="")
    right.set_yticks(range(1, len(names) + 1), names)
    right.axvline(1, color="#cc4444", lw=1)
    right.set(title="novelty: median, quartiles, 99% of each kind", xlabel="above 1: no digit")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=500, help="pictures of each kind")
    parser.add_argument("--out", type=Path, help="also write the table to this file, and the figure beside it")
    args = parser.parse_args()
    run, session, rng = Run(pretrained()), Session(), np.random.default_rng(0)
    reference = Reference(run)
    test = reference.learner.dls.loaders[2].tensors
    images, labels = test[0][:, 0].numpy(), test[1].numpy()
    kinds = no_digits(images, args.n, rng)
    found = {
        kind: np.array([x for x in all_ if x is not None], np.uint8).reshape(-1, 28, 28) for kind, all_ in kinds.items()
    }
    scores = Scores(reference, run.normalize)
    columns = [kind for kind in kinds if len(found[kind])]
    lines = [
        f"AUROC, in percent, and the share that is rejected, of {args.n} pictures a kind; held out: "
        f"{len(reference.images):,} digits, of which 0.5% are rejected.",
        "",
        "| score | " + " | ".join(columns) + " |",
        "|---" + "|--:" * len(columns) + "|",
    ]
    held_out, others = scores.outputs(reference.images), {kind: scores.outputs(found[kind]) for kind in columns}
    for name, score in scores.all.items():
        known, cells = score(*held_out), []
        threshold = np.quantile(known, detector.PASSED)
        for kind in columns:
            new = score(*others[kind])
            auroc = roc_auc_score(np.repeat([0, 1], [len(known), len(new)]), np.concatenate([known, new]))
            cells.append(f"{100 * auroc:.1f}, {(new > threshold).mean():.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)

    lines += ["", "What the shipped `model.onnx` says, and where the reader found no ink, or several pieces:", ""]
    lines += ["| kind | pictures | no digit | of these, none or several found |", "|---|--:|--:|--:|"]
    shown = {"MNIST's test images": session.scores(images)[1]}
    for kind, each in kinds.items():
        new = session.scores(found[kind])[1]
        missing = len(each) - len(new)
        lines.append(f"| {kind} | {len(each)} | {((new > 1).sum() + missing) / len(each):.1%} | {missing} |")
        if len(new):
            shown[kind] = new
    lines += ["", "Digits that are lost:", "", "| digits | images | no digit | fitted without blurred images |"]
    lines.append("|---|--:|--:|--:|")
    digits = {"MNIST's test images": images}
    for kind in KINDS:
        chosen = rng.choice(len(images), args.n, replace=False)
        digits[f"test images, {kind}"] = alone(read_image(SCENES[kind](images[i], rng)) for i in chosen)
    digits["scikit-learn's, 8×8 made 160×160"] = alone(map(enlarged, load_digits().images[: args.n]))
    for kind, each in digits.items():
        lost = (session.scores(each)[1] > 1).mean(), (scores.sharp(*scores.outputs(each)) > 1).mean()
        lines.append(f"| {kind} | {len(each):,} | {lost[0]:.2%} | {lost[1]:.2%} |")
        print(lines[-1], flush=True)

    calibrated = reference.calibrated
    logits, p = (scores.outputs(images)[2].astype(float), session.probabilities(images))
    before, after = calibration(log_softmax(logits, axis=1), labels), calibration(np.log(p.clip(1e-30)), labels)
    lines += [
        "",
        f"Temperature {calibrated.temperature:.3f}, low confidence below {calibrated.low_confidence:.3f}, from "
        f"{calibrated.images:,} held-out images. On the test images, as trained and as exported: expected calibration "
        f"error {before['ece']:.2%}, {after['ece']:.2%}; mean cross-entropy {before['nll']:.4f}, {after['nll']:.4f} "
        f"nats; Brier score {before['brier']:.4f}, {after['brier']:.4f}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)
        figure(before, after, shown).savefig(args.out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()

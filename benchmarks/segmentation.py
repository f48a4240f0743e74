"""Whether pieces of ink are one digit: the weights of `form.JOIN` and `form.SPLIT`.

    python benchmarks/segmentation.py --out benchmarks/segmentation.md   -n 700  # 20 minutes on a core

Pictures of training digits that the shipped model's training held out: of one digit whose pen was lifted, of two side
by side, of two that touch, and of one in pictures of all kinds. A logistic regression tells the first from the second,
and another one the third from the last, by what `form` measures of them. Two that touch are cut where the score is
highest, so that the regression is fitted and the places are chosen in turn. In the table, each half of the pictures is
told by the regression of the other half: by the novelty of the parts and of the whole, or by their probabilities.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from mnist_fastai import Run, Session, load_data, pretrained
from mnist_fastai.reader import form
from mnist_fastai.reader.image import read_image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from scenes import MOST, NUMBERS, SCENES, in_a_row

ROUNDS = 6  # of fitting and choosing places
ONE = "photo", "colour", "thin pen", "40 to 400 pixels", "strokes apart", "lighting"


class Recorder:
    """In place of what `form` decides, what it would decide by."""

    def __init__(self, session: Session):
        self.session, self.seen = session, []
        form._join, form._split = self.join, self.split

    def plausible(self, digits) -> tuple[float, float, list[int]]:
        """Logarithms of the highest probabilities, their sum; the highest novelty, limited; the answers."""
        p, novelty = self.session.scores(np.array([digit.image for digit in digits]))
        return float(np.log(p.max(1)).sum()), float(novelty.max().clip(*form.NOVELTY)), p.argmax(1).tolist()

    def join(self, row, found, labels, printed, bring, novelty, multi) -> None:
        for a, b in pairwise(row):
            left, right = labels == a, labels == b
            h, w = form._extent(left | right)
            gap = form._gap(left, right) / max(h, w)
            if gap <= form.NEAR and w <= form.WIDEST * h:
                one, two = self.plausible([bring(left | right)]), self.plausible([found[a], found[b]])
                self.seen.append(("join", [gap, w / h], one, [(two, 0.0)]))

    def split(self, found, labels, printed, bring, novelty) -> None:
        for k in found:
            whole = labels == k
            h, w = form._extent(whole)
            places = [(self.plausible([bring(whole & ~half), bring(half)]), cut) for half, cut in form._halves(whole)]
            if places:
                self.seen.append(("split", [w / h], self.plausible([found[k]]), places))

    def read(self, file: bytes, kind: str) -> list:
        """The cases of a kind in a picture."""
        self.seen = []
        form.preprocess(read_image(file), self.session.novelty, multi=True)
        return [case for case in self.seen if case[0] == kind]


def features(case, place, by_novelty: bool) -> list[float]:
    _, shape, one, _ = case
    two, cut = place
    less = two[1] - one[1] if by_novelty else two[0] - one[0]
    return [*shape, *([cut] if case[0] == "split" else []), less]


def fit(cases: list, two: np.ndarray, by_novelty: bool) -> LogisticRegression:
    """The regression that tells two digits from one."""
    chosen = [max(case[3], key=lambda place: -place[0][1] - place[1]) for case in cases]
    for _ in range(ROUNDS):
        x = [features(case, place, by_novelty) for case, place in zip(cases, chosen, strict=True)]
        model = LogisticRegression(C=10).fit(x, two)
        chosen = [best(case, model, by_novelty)[0] for case in cases]
    return model


def best(case, model: LogisticRegression, by_novelty: bool) -> tuple[tuple, float]:
    """The place to cut that is most like two digits, and its score."""
    scores = model.decision_function([features(case, place, by_novelty) for place in case[3]])
    return case[3][int(scores.argmax())], float(scores.max())


def outcomes(cases, two, labels, by_novelty: bool) -> list[str]:
    """The shares of one digit taken for one, of two taken for two, and of these read right, each by the other half."""
    right: dict[str, list[bool]] = {"one": [], "two": [], "read": []}
    half = np.arange(len(cases)) % 4 < 2
    for part in (half, ~half):
        model = fit([c for c, h in zip(cases, part, strict=True) if h], two[part], by_novelty)
        for i in np.nonzero(~part)[0]:
            (parts, _), score = best(cases[i], model, by_novelty)
            right["two" if two[i] else "one"].append((score > 0) == two[i])
            if two[i]:
                right["read"].append(score > 0 and parts[2] == labels[i])
    return [f"{np.mean(each):.1%}" for each in right.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1000, help="pictures of each kind")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    recorder, rng = Recorder(Session()), np.random.default_rng(0)
    held_out = load_data(valid_fraction=Run(pretrained()).recipe.valid_fraction).valid
    images, digits = held_out.images.numpy(), held_out.labels.numpy()
    lines = ["| | cases | by | one digit is one | two are two | two are read right |", "|---|--:|---|--:|--:|--:|"]
    weights = []
    for kind in ("join", "split"):
        cases, two, labels = [], [], []
        for i in range(args.n):
            for several in (False, True):
                chosen = rng.choice(len(images), MOST, replace=False)
                if kind == "join":
                    least = rng.uniform(0.03, 0.2)
                    two_apart = in_a_row(images[chosen], rng, least, least + 0.05, 2) if several else None
                    file = two_apart[0] if two_apart else SCENES["strokes apart"](images[chosen[0]], rng)
                elif several:
                    file = NUMBERS["touching"](images[chosen], rng)[0]
                else:
                    file = SCENES[ONE[i % len(ONE)]](images[chosen[0]], rng)
                found = recorder.read(file, kind)
                if len(found) == 1:
                    cases.append(found[0])
                    two.append(several)
                    labels.append(digits[chosen[:2]].tolist())
        for by_novelty in (False, True):
            shares = outcomes(cases, np.array(two), labels, by_novelty)
            by = "novelty" if by_novelty else "probability"
            lines.append(f"| {kind} | {len(cases):,} | {by} | {' | '.join(shares)} |")
            print(lines[-1], flush=True)
        model = fit(cases, np.array(two), by_novelty=True)
        sign = 1 if kind == "split" else -1  # the score of one digit, or of two
        values = ", ".join(f"{sign * value:.2f}" for value in (model.intercept_[0], *model.coef_[0]))
        weights.append(f"`form.{kind.upper()}`, fitted to all of them: {values}.")
    text = "\n".join([*lines, "", *weights]) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()

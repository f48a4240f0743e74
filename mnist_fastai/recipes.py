"""What decides a result, and nothing else. Standard library only."""

import math
from dataclasses import asdict, dataclass, fields, replace

from .errors import InputError

ARCHS = ("lenet", "deep", "deep-bn", "deep-dropout", "deep-relu-after-pooling", "deeper", "alexnet")
INITS = ("torch", "xavier")
OPTS = ("adam", "sgd", "nesterov")
SCHEDULES = ("constant", "one-cycle")
AUGMENTS = ("none", "flip", "rotate-45", "translate-7", "affine")
NORMALIZE = {  # mean and standard deviation that pixels in [0, 1] are normalised with
    "none": None,
    "half": (0.5, 0.5),
    "mnist": (0.1307, 0.3081),  # of the 60,000 training images
}


@dataclass(frozen=True)
class Recipe:
    """All that decides a result. The defaults are the published table's last row.

    Raises InputError for a value that no training could use.
    """

    name: str = ""  # for people; `<arch>-<opt>` unless given
    arch: str = "deep"  # one of ARCHS
    init: str = "torch"  # of the weights: PyTorch's own, or Xavier uniform with biases of zero
    opt: str = "sgd"  # one of OPTS
    learning_rate: float = 0.001  # its highest, where a schedule changes it
    momentum: float = 0.9  # of SGD, Nesterov's or not
    weight_decay: float = 0.0  # as an L2 penalty, of every parameter
    schedule: str = "constant"  # one of SCHEDULES
    batch_size: int = 32  # images
    num_epochs: int = 10  # 0 leaves the random weights as they are
    label_smoothing: float = 0.0
    normalize: str = "half"  # a key of NORMALIZE
    augment: str = "none"  # one of AUGMENTS
    data: str = "mnist"  # "mnist", or the absolute path of a folder
    valid_fraction: float = 0.0  # of the training images, held out and reported on; 0: report on the test images
    seed: int = 0  # of the weights, the order of the images, and whatever else is random

    def __post_init__(self):
        choices_of = {
            "arch": ARCHS, "init": INITS, "opt": OPTS, "schedule": SCHEDULES,
            "normalize": NORMALIZE, "augment": AUGMENTS,
        }  # fmt: skip
        for field, choices in choices_of.items():
            value = getattr(self, field)
            if value not in tuple(choices):
                raise InputError(f"{field} {value!r} is not known; take one of {', '.join(choices)}")
        lr = self.learning_rate
        if not (_is_number(lr) and math.isfinite(lr) and lr > 0):
            raise InputError(f"a learning rate of {lr} trains nothing; give a number above 0, such as 0.001")
        for field, low, high in (("batch_size", 1, None), ("num_epochs", 0, None), ("seed", 0, 2**32 - 1)):
            value = getattr(self, field)
            if type(value) is not int or value < low or (high is not None and value > high):
                limits = f"of {low} or more" if high is None else f"from {low} to {high}"
                raise InputError(f"{field.replace('_', ' ')} {value} is no whole number {limits}")
        for field in ("momentum", "weight_decay", "label_smoothing", "valid_fraction"):
            value = getattr(self, field)
            if not (_is_number(value) and 0 <= value < 1):
                raise InputError(f"a {field.replace('_', ' ')} of {value} is not from 0 to below 1; give 0.1, say")
        if not isinstance(self.data, str):
            raise InputError(f"data {self.data!r} is neither mnist nor the path of a folder")
        if not self.name:
            object.__setattr__(self, "name", f"{self.arch}-{self.opt}")

    def but(self, **changes) -> "Recipe":
        """This recipe with some fields changed; where more than the seed did, it loses the recipe's name."""
        changed = replace(self, **changes)
        return changed if changed == replace(self, seed=changed.seed) else replace(changed, name="")

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Recipe":
        """The recipe that `to_dict` gave. Raises InputError where a field is missing or one too many."""
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            wrong = sorted(known ^ set(values)) if isinstance(values, dict) else ["no object"]
            raise InputError(f"it is no recipe of this version ({', '.join(wrong)})")
        return cls(**values)


def _is_number(x) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


# --- the published table, each row said as the change from the row before it ----------------------------------------

BASELINE = Recipe("baseline", num_epochs=0)
VANILLA = Recipe("vanilla", arch="lenet", opt="adam", batch_size=128, learning_rate=0.0002, normalize="none")
NORMALIZATION = replace(VANILLA, name="normalization", normalize="half")
BATCH_64 = replace(NORMALIZATION, name="batch-64", batch_size=64)
BATCH_32 = replace(BATCH_64, name="batch-32", batch_size=32)
LEARNING_RATE_0005 = replace(BATCH_32, name="0.0005-learning-rate", learning_rate=0.0005)
DEEPER = replace(LEARNING_RATE_0005, name="deeper-architecture", arch="deep")
LEARNING_RATE_001 = replace(DEEPER, name="0.001-learning-rate", opt="sgd", learning_rate=0.001)

PUBLISHED = {  # the accuracy that was published for each, the mean of five runs
    BASELINE: 0.10,
    VANILLA: 0.9725,
    NORMALIZATION: 0.9798,
    BATCH_64: 0.9836,
    BATCH_32: 0.9848,
    LEARNING_RATE_0005: 0.9873,
    DEEPER: 0.9905,
    LEARNING_RATE_001: 0.992,
}

# --- the source contradicts itself on where it starts: learning rate 0.0002 or 0.00002, batch size 128 or 64 ----------

STARTS = (
    replace(VANILLA, name="vanilla-batch-64", batch_size=64),
    replace(VANILLA, name="vanilla-0.00002-batch-64", batch_size=64, learning_rate=0.00002),
)

# --- its last row is in doubt: other readings of it -------------------------------------------------------------------

READINGS = (
    replace(LEARNING_RATE_001, name="last-adam", opt="adam"),
    replace(LEARNING_RATE_001, name="last-0.01", learning_rate=0.01),
    replace(LEARNING_RATE_001, name="last-momentum-0.99", momentum=0.99),
    replace(LEARNING_RATE_001, name="last-one-cycle", schedule="one-cycle"),
    replace(LEARNING_RATE_001, name="last-xavier", init="xavier"),
    replace(LEARNING_RATE_001, name="last-dropout", arch="deep-dropout"),
    replace(LEARNING_RATE_001, name="last-relu-after-pooling", arch="deep-relu-after-pooling"),
)

# --- the ideas that failed, each on top of the last row ---------------------------------------------------------------

FAILED = (
    replace(LEARNING_RATE_001, name="batch-norm", arch="deep-bn"),
    replace(LEARNING_RATE_001, name="horizontal-flip", augment="flip"),
    replace(LEARNING_RATE_001, name="rotation-45", augment="rotate-45"),
    replace(LEARNING_RATE_001, name="translation-7", augment="translate-7"),
    replace(LEARNING_RATE_001, name="batch-8", batch_size=8),
    replace(LEARNING_RATE_001, name="even-deeper", arch="deeper"),
    replace(LEARNING_RATE_001, name="alexnet", arch="alexnet"),
)

# --- beyond the table: the last row's architecture and epochs, tuned on a held-out part of the training images -------

IMPROVED = replace(
    LEARNING_RATE_001,
    name="improved",
    opt="nesterov",
    learning_rate=0.05,
    schedule="one-cycle",
    batch_size=64,
    weight_decay=5e-4,
    label_smoothing=0.05,
    normalize="mnist",
    augment="affine",
)

RECIPES = {recipe.name: recipe for recipe in (*PUBLISHED, *STARTS, *READINGS, *FAILED, IMPROVED)}

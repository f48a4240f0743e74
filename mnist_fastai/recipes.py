"""What decides a result, and nothing else. Standard library only."""

import math
from dataclasses import asdict, dataclass, fields

from .errors import InputError

ARCHS = ("lenet", "deep")
OPTS = ("adam", "sgd")
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
    opt: str = "sgd"  # one of OPTS
    learning_rate: float = 0.001
    batch_size: int = 32  # images
    num_epochs: int = 10  # 0 leaves the random weights as they are
    normalize: str = "half"  # a key of NORMALIZE
    data: str = "mnist"  # "mnist", or the absolute path of a folder
    valid_fraction: float = 0.0  # of the training images, held out and reported on; 0: report on the test images
    seed: int = 0  # of the weights, the order of the images, and whatever else is random

    def __post_init__(self):
        for field, choices in (("arch", ARCHS), ("opt", OPTS), ("normalize", NORMALIZE)):
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
        if not (_is_number(self.valid_fraction) and 0 <= self.valid_fraction < 1):
            raise InputError(
                f"a valid fraction of {self.valid_fraction} is outside 0 to 1; give 0.1 to hold out a tenth"
            )
        if not self.name:
            object.__setattr__(self, "name", f"{self.arch}-{self.opt}")

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

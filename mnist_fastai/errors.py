"""The two ways in which a call ends badly. Each message is one sentence: the thing, what is wrong, the way out."""


class InputError(ValueError):
    """A mistake in the call or in what it was given; the command line exits with 2."""


class MissingData(InputError):
    """The images of a run are not where they were; `--data`, or `data=`, says where they are now."""


class RunError(RuntimeError):
    """The call was right and its work failed; the command line exits with 1."""

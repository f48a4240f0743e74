"""Code of the user's own: from its name to the object, and back."""

import pkgutil

from .errors import InputError


def resolve(field: str, name: str):
    """The object that "package.module:name" names. Raises InputError where it cannot be imported."""
    try:
        return pkgutil.resolve_name(name)
    except Exception as e:  # whatever the module's own code raises
        raise InputError(f"{field} {name!r} cannot be imported ({type(e).__name__}: {e}); check its name") from e


def describe(thing) -> str:
    """ "package.module:name" where that names the thing in any process, and else what it is, for people."""
    name, module = getattr(thing, "__qualname__", None), getattr(thing, "__module__", None)
    if name and module and module != "__main__" and "<" not in name:
        return f"{module}:{name}"
    if isinstance(thing, (list, tuple)):
        return ", ".join(map(describe, thing))
    return name or (str(thing) if isinstance(thing, (str, int, float)) else type(thing).__name__)


def is_importable(description: str) -> bool:
    return ":" in description and "," not in description

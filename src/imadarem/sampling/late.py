"""Records some of whose fields are worked out when somebody first looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch

__all__ = ["Late"]


class Late:
    """Mixed into a dataclass: fields that cost something and that few look at.

    To whoever reads one it is the same record; ``repr`` and ``dataclasses.replace`` read all.
    """

    @classmethod
    def of(cls, late: Mapping[str, Callable[[], Any]], **known: Any) -> Self:
        """A record of the ``known`` fields and the ``late`` ones, which must have no default."""
        record = object.__new__(cls)
        record.__dict__.update(known, _late=late)
        return record

    def __getattr__(self, name: str) -> Any:
        # Asked for only where the record has no such attribute yet.
        late = self.__dict__.get("_late", {})
        if name not in late:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        with torch.no_grad():
            value = late[name]()
        self.__dict__[name] = value
        return value

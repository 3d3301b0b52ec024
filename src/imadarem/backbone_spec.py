"""What it takes to build a backbone again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from imadarem import checks
from imadarem.errors import ConfigError

#: Endings of the names of classes that can be backbones.
KINDS = ("ForMaskedLM", "ForCausalLM", "LMHeadModel")
#: Largest whole number in the settings of a backbone that is read from a folder.
MOST = 1 << 24


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What it takes to build a backbone again; stands in ``config.json`` as ``backbone``.

    Attributes:
        architecture: Name of a class in the package transformers, such as ``BertForMaskedLM``.
        config: Its settings, as transformers writes them.
        pad: Id that fills rows up.
        begin: Ids in front of every row.
        end: Ids behind every row.
        frozen: Whether training leaves the backbone as it is.
        lora: Rank of the LoRA adapters (arXiv:2106.09685) on all linear layers but the last;
            0 for none. With adapters the rest is frozen.
        lora_alpha: Their scale is ``lora_alpha / lora``; None means twice the rank.
        source: Name under which the model was fetched; None for an object or a local folder.
        revision: Of the source, as exactly as it is known.
    """

    architecture: str
    config: Mapping[str, Any]
    pad: int
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    frozen: bool = False
    lora: int = 0
    lora_alpha: float | None = None
    source: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, str) or not self.architecture.endswith(KINDS):
            raise ConfigError(
                f"backbone architecture {self.architecture!r} is no language model of "
                f"transformers: legal are classes whose names end in {', '.join(KINDS)}."
            )
        checks.whole("backbone lora", self.lora, 0)
        numbers = [n for n in self.config.values() if isinstance(n, int)]
        if max(numbers, default=0) > MOST:
            raise ConfigError(
                f"the backbone's settings hold the number {max(numbers)}; legal is at most {MOST}."
            )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        checks.known_keys(settings, cls.__annotations__, "setting of the backbone")
        missing = {"architecture", "config", "pad"} - settings.keys()
        if missing:
            raise ConfigError(f"the backbone has no {sorted(missing)[0]!r}, which has no default.")
        ends = {name: tuple(settings.get(name, ())) for name in ("begin", "end")}
        return cls(**{**settings, **ends})

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        plain = {**vars(self), "config": dict(self.config)}
        return {**plain, "begin": list(self.begin), "end": list(self.end)}

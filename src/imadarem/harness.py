"""lm-evaluation-harness on a model of this library; needs the extra ``eval``.

    python -m imadarem.harness run --model imadarem --model_args pretrained=FOLDER …

registers the model type ``imadarem`` and hands the rest to the harness's own command line. In
Python, ``lm_eval.simple_evaluate(model=HarnessModel(pretrained=…), tasks=…)``.
"""

from __future__ import annotations

from typing import Any

import torch

from imadarem.errors import MissingExtraError
from imadarem.evaluation.continuations import Continuations
from imadarem.loading import open_model

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise MissingExtraError("lm_eval", "eval") from error


@register_model("imadarem")
class HarnessModel(LM):
    """The model type ``imadarem`` of the harness.

    Args:
        pretrained: What :func:`~imadarem.loading.open_model` takes: a folder, a name of the hub or
            of the package, or a folder of a masked language model of transformers.
        batch_size: Rows in one pass.
        device: Of the model; None: cuda where there is one, else cpu. The harness asks for cuda
            wherever nothing was said, so that cuda without one is the CPU.
        max_batch_size: Given by the harness; has no effect.
        max_gen_toks: Tokens that are generated where a task does not say.
        check_greedy: Whether continuations are compared with the greedy ones, at a pass for each
            token; False reports False.
        settings: Of :class:`~imadarem.evaluation.continuations.Continuations`.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 64,
        device: str | None = None,
        max_batch_size: int | None = None,
        max_gen_toks: int = 64,
        check_greedy: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__()
        cuda = torch.cuda.is_available()
        if device is None or (device.startswith("cuda") and not cuda):
            device = "cuda" if cuda else "cpu"
        model = open_model(pretrained).to(device)
        rows = 64 if batch_size == "auto" else int(batch_size)
        self.continuations = Continuations(model=model, batch_size=rows, **settings)
        self.max_gen_toks, self.check_greedy = max_gen_toks, check_greedy

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """See the harness."""
        pairs = [request.args for request in requests]
        greedy = [False] * len(pairs)
        if self.check_greedy and pairs:
            greedy = self.continuations.are_greedy(pairs)
        return list(zip(self.continuations.log_likelihoods(pairs), greedy, strict=True))

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """See the harness."""
        return self.continuations.rolling([request.args[0] for request in requests])

    def generate_until(self, requests: list[Any]) -> list[str]:
        """See the harness."""
        found: list[str] = [""] * len(requests)
        alike: dict[tuple[Any, ...], list[int]] = {}
        for number, request in enumerate(requests):
            how = request.args[1]
            until = how.get("until") or ()
            ends = (until,) if isinstance(until, str) else tuple(until)
            drawn = how.get("temperature", 0.0) if how.get("do_sample") else 0.0
            key = (ends, how.get("max_gen_toks", self.max_gen_toks), float(drawn))
            alike.setdefault(key, []).append(number)
        for (ends, most, temperature), numbers in alike.items():
            contexts = [requests[number].args[0] for number in numbers]
            texts = self.continuations.generate(
                contexts, until=ends, max_tokens=most, temperature=temperature
            )
            for number, text in zip(numbers, texts, strict=True):
                found[number] = text
        return found


def main() -> None:
    """The command line of the harness."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()

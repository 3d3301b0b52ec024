"""``generate``: samples from blank canvases, prompts with their blanks filled, texts continued."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imadarem import checks
from imadarem.errors import ConfigError, DataError, nearest
from imadarem.hf.outputs import ImadaremGenerateOutput
from imadarem.model import ImplicitRefinementModel
from imadarem.sampling.batching import Samples
from imadarem.sampling.loop import Step
from imadarem.sampling.settings import SamplingOptions

#: Options of sampling that ``generate`` hands on; two have names of their own in transformers.
OPTIONS = tuple(sorted(SamplingOptions.__annotations__.keys() - {"steps", "temperature"}))


class CanvasGeneration:
    """The method ``generate`` of a model that has a ``refiner``."""

    refiner: ImplicitRefinementModel
    config: Any
    device: Any

    @classmethod
    def can_generate(cls) -> bool:
        """True: pipelines of transformers ask it."""
        return True

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        num_return_sequences: int = 1,
        max_new_tokens: int | None = None,
        max_refinement_steps: int | None = None,
        max_denoising_steps: int | None = None,
        temperature: float | None = None,
        do_sample: bool | None = None,
        length: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        streamer: Any = None,
        return_dict_in_generate: bool = False,
        **sampling: Any,
    ) -> Tensor | ImadaremGenerateOutput:
        """Samples from blank canvases, prompts with their blanks filled, or texts continued.

        Args:
            input_ids: ``(B, L)`` prompts with the mask id at each blank; None samples freely.
            attention_mask: ``(B, L)``, zero where a prompt is padded; None takes padding at
                the end of a prompt for padding.
            num_return_sequences: Samples, for each prompt where there are prompts.
            max_new_tokens: Blanks to put behind each prompt, as many as the canvas has room for
                at most; without prompts, the canvas length. A model that writes an end of
                sequence may end before; one that does not fills all of them.
            max_refinement_steps: Hard cap on refinement steps; default the config's.
            max_denoising_steps: The same, as transformers' text-diffusion models call it.
            temperature: Default ``sampling_temperature``; 0 takes the most likely token.
            do_sample: False is ``temperature=0``.
            length: Canvas length of free samples; default as in
                :meth:`imadarem.ImplicitRefinementModel.sample`.
            generator: Draws the seed where ``seed`` is None.
            seed: The same seed gives the same rows.
            streamer: Has ``put`` and ``end``, and may have ``put_draft``, which is shown the
                canvas of each step; for one row only. Its prompt is empty: what is given
                stands in the canvas itself.
            return_dict_in_generate: Return counts and reasons beside the ids.
            sampling: ``policy``, ``schedule``, ``top_k``, ``top_p``, ``min_length``, …: see
                :class:`~imadarem.sampling.settings.SamplingOptions`.

        Returns:
            ``(N, L)`` ids on the model's device, padded on the right, without EOS; or an
            :class:`ImadaremGenerateOutput`.

        Raises:
            ConfigError: A setting is unknown or out of range, contradicts another one, or does
                not suit the prompts.
            DataError: A prompt or a length is too long or empty.
        """
        special = self.refiner.special
        options = _known_options(sampling, pad_token_id=special.pad, eos_token_id=special.eos)
        self.refiner.config = self.config.core()
        rows = None if input_ids is None else self._prompts(input_ids, attention_mask)
        count = num_return_sequences * (1 if rows is None else len(rows))
        checks.at_least(1, num_return_sequences=num_return_sequences)
        if streamer is not None and count != 1:
            raise ConfigError(f"a streamer shows one row, and there are {count}.")
        options |= {
            "steps": _one_of(
                max_refinement_steps=max_refinement_steps, max_denoising_steps=max_denoising_steps
            ),
            "temperature": _temperature(temperature, do_sample),
            "seed": seed,
            "generator": generator,
            "on_step": None if streamer is None else _Drafts(streamer),
        }
        if max_new_tokens is not None and self.refiner.config.length_mode == "eos":
            # The number of new tokens is a limit, not a length.
            options.setdefault("forbid_end", False)
        if rows is None:
            longest = None if max_new_tokens is None else self._room(max_new_tokens, taken=0)
            size = _one_of(length=length, max_new_tokens=longest)
            samples = self.refiner.sample(num_return_sequences, length=size, **options)
        elif length is not None:
            raise ConfigError("length is for free samples; a prompt has the length that it has.")
        else:
            if max_new_tokens is not None:
                rows = [self._continued(row, max_new_tokens) for row in rows]
            repeated = [row for row in rows for _ in range(num_return_sequences)]
            samples = self.refiner.infill(repeated, **options)
        if streamer is not None:
            streamer.put(samples.rows[0].ids)
            streamer.end()
        return self._generated(samples, return_dict_in_generate)

    def _continued(self, row: list[int], tokens: int) -> list[int]:
        """A prompt with blanks behind it."""
        special = self.refiner.special
        if row and row[-1] == special.eos:
            raise ConfigError(
                f"max_new_tokens={tokens} behind a prompt that ends with the end of sequence, id "
                f"{special.eos}: nothing follows an end. Encode the prompt with "
                "add_special_tokens=False, which the pipeline text-generation takes too."
            )
        return [*row, *[special.mask] * self._room(tokens, len(row))]

    def _room(self, tokens: int, taken: int) -> int:
        """How many of so many blanks fit behind so many tokens; at least 1."""
        room = self.refiner.config.max_seq_len - taken
        if tokens < 1 or room < 1:
            raise ConfigError(
                f"max_new_tokens={tokens} behind a prompt of {taken} tokens: give at least 1, "
                f"and a prompt shorter than max_seq_len={self.refiner.config.max_seq_len}."
            )
        return min(tokens, room)

    def _prompts(self, input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
        if input_ids.ndim != 2 or input_ids.numel() == 0:
            raise DataError(f"prompts must be (B, L) ids; got {tuple(input_ids.shape)}.")
        if attention_mask is None:
            # Padding before the last real token was put there on purpose.
            real = input_ids != self.refiner.special.pad
            attention_mask = real.flip(1).cumsum(1).flip(1) > 0
        return [
            row[real.bool()].tolist() for row, real in zip(input_ids, attention_mask, strict=True)
        ]

    def _generated(self, samples: Samples, as_dict: bool) -> Tensor | ImadaremGenerateOutput:
        sequences = nn.utils.rnn.pad_sequence(
            [row.ids for row in samples.rows],
            batch_first=True,
            padding_value=self.refiner.special.pad,
        ).to(self.device)
        if not as_dict:
            return sequences
        return ImadaremGenerateOutput(
            sequences=sequences,
            forward_passes=torch.tensor(samples.forward_passes),
            stopping_reasons=samples.stopping_reasons,
        )


class _Drafts:
    """Shows a streamer the canvas of each step; blanks stand in it as the mask id."""

    def __init__(self, streamer: Any) -> None:
        self.streamer = streamer
        # The prompt comes first in transformers, and some streamers skip it.
        streamer.put(torch.empty(0, dtype=torch.long))

    def __call__(self, numbers: Tensor, step: Step) -> None:
        if hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(step.canvas.sequences()[0])


def _known_options(options: dict[str, Any], **ids: int | None) -> dict[str, Any]:
    """The options of sampling; what transformers adds is left out where it changes nothing."""
    inert = {*ids, "use_cache"}
    for name, value in options.items():
        if name not in OPTIONS and name not in inert:
            legal = ("max_new_tokens", "max_refinement_steps", "temperature", "do_sample", *OPTIONS)
            raise ConfigError(
                f"generate() has no setting {name!r}{nearest(name, legal)}. A refiner fills a "
                f"canvas in parallel passes; legal are {', '.join(legal)}, seed and length."
            )
        if name in ids and value not in (None, ids[name]):
            raise ConfigError(
                f"{name}={value} is not the model's own, {ids[name]}, which cannot be changed here."
            )
    return {name: value for name, value in options.items() if name in OPTIONS}


def _one_of(**names: int | None) -> int | None:
    """The one value that is given under several names."""
    given = {name: value for name, value in names.items() if value is not None}
    if len(set(given.values())) > 1:
        shown = " and ".join(f"{name}={value}" for name, value in given.items())
        raise ConfigError(f"{shown} are the same setting with two values. Give one.")
    return next(iter(given.values()), None)


def _temperature(temperature: float | None, do_sample: bool | None) -> float | None:
    if do_sample is not False:
        return temperature
    if temperature:
        raise ConfigError(
            f"do_sample=False takes the most likely token, and temperature={temperature} draws. "
            "Give one of them."
        )
    return 0.0

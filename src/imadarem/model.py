"""The refiner: a network with a tokenizer, a teacher, an objective and a sampler."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TextIO, Unpack

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from imadarem import checks, growth
from imadarem.backbones import opening
from imadarem.canvas import Canvas
from imadarem.checkpoint import distinct_state, load_tensors, with_shared_names
from imadarem.conditions import as_numbers
from imadarem.config import ImplicitRefinementConfig
from imadarem.evaluation.judgement import Judgement, judge_rows, row_verdicts
from imadarem.model_folder import (
    TEACHER_PREFIX,
    WEIGHTS,
    check_finite,
    check_weights,
    converted,
    read_config,
    read_header,
    write_folder,
)
from imadarem.nn import EmaTeacher, RefinementNetwork, RefinementOutput
from imadarem.pretrained import CARD, find_folder
from imadarem.repair import Repair, RepairOptions, RepairSettings, repair_rows
from imadarem.sampling.batching import Run, RunOptions, Samples, refine_run
from imadarem.sampling.settings import SamplingOptions, SamplingSettings, lengths_of
from imadarem.sampling.trajectory import Trajectory
from imadarem.sampling.width import refine_rows
from imadarem.tokenizers import SpecialIds, encode_prompt, load_tokenizer, model_ids
from imadarem.tokenizers.prompts import prompt_rows
from imadarem.training.objective import LossTerms, Objective

#: Rows of a run have numbers below this one.
MOST_ROWS = 10**12


class ImplicitRefinementModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="imadarem",
    tags=["imadarem", "masked-diffusion", "iterative-refinement"],
    license="mit",
):
    """A masked-refinement language model.

    Args:
        config: Architecture, objective and sampling settings. Special ids that it leaves
            open are taken from the tokenizer.
        tokenizer: Any object with ``mask_token_id`` and, better, ``pad_token_id`` and
            ``eos_token_id``: a Hugging Face tokenizer or one of ``imadarem.tokenizers``.
            May be left out if ``config`` names the special ids.
        backbone: Reads the canvas in place of the one that the config describes;
            :meth:`from_masked_lm` makes one of a pretrained model.

    Raises:
        TokenizerError: There is no mask token, or two special ids are the same.
    """

    #: No row's numbers depend on another row of the batch: equal rows need one pass only.
    rows_independent = True

    def __init__(
        self,
        config: ImplicitRefinementConfig,
        tokenizer: Any = None,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        special = model_ids(config, tokenizer)
        config = replace(
            config,
            mask_token_id=special.mask,
            pad_token_id=special.pad,
            eos_token_id=special.eos,
            nothing_token_id=special.nothing,
        )
        self.special: SpecialIds = special
        self.tokenizer: Any = tokenizer
        self.network = RefinementNetwork(config, special.mask, backbone)
        self.teacher: EmaTeacher | None = None

    @property
    def config(self) -> ImplicitRefinementConfig:
        """Settings of the network, of its objective and of sampling."""
        return self.network.config

    @config.setter
    def config(self, config: ImplicitRefinementConfig) -> None:
        backbone: Any = self.network.backbone
        self.network.config = backbone.config = config

    @property
    def memory(self) -> nn.Module | None:
        """The backbone's cross-attention to a memory, where it has one."""
        return getattr(self.network.backbone, "memory", None)

    def forward(self, *args: Any, **kwargs: Any) -> RefinementOutput:
        """One pass; takes what :meth:`imadarem.nn.RefinementNetwork.forward` takes."""
        output: RefinementOutput = self.network(*args, **kwargs)
        return output

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch; weights saved by version 0.1 are converted, tied ones may stand once."""
        weights = with_shared_names(converted(state_dict, self.config.num_heads), self)
        return super().load_state_dict(weights, strict=strict, assign=assign)

    # The EMA teacher, and models with these weights: see :mod:`imadarem.growth`

    init_teacher = growth.init_teacher
    update_teacher = growth.update_teacher
    averaged = growth.averaged
    with_vocabulary = growth.with_vocabulary
    enlarged = growth.enlarged
    with_config = growth.with_config
    with_judge = growth.with_judge

    def student_weights(self) -> dict[str, Tensor]:
        """The state without that of the teacher: what a fresh model of this shape loads."""
        state = self.state_dict()
        return {name: w for name, w in state.items() if not name.startswith("teacher.")}

    def student_parameters(self) -> list[Tensor]:
        """All parameters but the teacher's."""
        return list(self.network.parameters())

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the blocks in the backward pass: less memory, about a third more time."""
        self.config.gradient_checkpointing = True
        if self.config.backbone is not None:
            self.network.backbone.gradient_checkpointing_enable()  # type: ignore[operator]

    # Training

    def loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        on_policy_share: float = 0.5,
        grid: bool = False,
    ) -> LossTerms:
        """Corrupt a batch of data and score the model on it.

        Args:
            input_ids: ``(B, L)`` token ids of the data, without special tokens.
            attention_mask: ``(B, L)``, nonzero where a token is real.
            generator: On the CPU; the same state gives the same loss. Default: a new one
                seeded from torch's global generator.
            on_policy_share: Share of the rows that train the gate; 0 leaves it alone.
            grid: Mask rates from the grid ``1 - t/K`` instead of the continuum.

        Raises:
            DataError: The batch is empty, or longer than ``max_seq_len``.
        """
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        objective = Objective(
            config=self.config, special=self.special, on_policy_share=on_policy_share, grid=grid
        )
        return objective(self, input_ids, attention_mask, generator)

    # Sampling

    def sample(
        self,
        n: int = 1,
        *,
        first: int = 0,
        length: int | Sequence[int] | None = None,
        **options: Unpack[RunOptions],
    ) -> Samples:
        """Draw ``n`` samples from blank canvases.

        Args:
            n: Number of samples.
            first: Number of the first one: ``sample(3, first=5)`` gives the last 3 of
                ``sample(8)`` of the same seed.
            length: Canvas length in tokens, one for all or one each. Default: drawn from the
                training lengths; where the model knows none, an EOS ends each sample.
            options: ``steps``, ``temperature``, ``policy``, ``seed``, ``width``,
                ``return_trajectory``, …: see :class:`~imadarem.sampling.batching.RunOptions`
                and :class:`~imadarem.sampling.settings.SamplingOptions`.

        Raises:
            ConfigError: A setting is out of range, or the policy is unknown.
            DataError: A length is below 1 or above ``max_seq_len``.
        """
        n = checks.integer("n", n, 1, 10**9)
        run = Run.of(self.config, options, length_given=length is not None)
        seeds = run.row_seeds(n, checks.integer("first", first, 0, MOST_ROWS))
        lengths = lengths_of(self.config, n, length, seeds, run.settings)
        return self._run(Canvas.blank(lengths, self.special), seeds, run)

    def infill(
        self,
        masked: str | Sequence[str] | Tensor | Sequence[Sequence[int]],
        *,
        first: int = 0,
        **options: Unpack[RunOptions],
    ) -> Samples:
        """Fill the holes of prompts; a token that is given never changes.

        Args:
            masked: Prompts with one mask for each blank: a text, several texts, or token
                ids. In a text a blank is ``<mask>``, or the tokenizer's own mask, such as
                ``[MASK]``; ``<gap>`` is a hole of 0 to 16 tokens and ``<gap:3-8>`` one of 3 to
                8, for models that know such holes. The built-in tokenizers read their own
                notation, such as ``"C<mask><mask>O"`` for SMILES.
            first: Number of the first prompt, as of :meth:`sample`.
            options: Those of :meth:`sample`.

        Raises:
            ConfigError: A setting is out of range, or the policy is unknown.
            DataError: A prompt has no blank, is too long, or holds ids outside the vocabulary.
        """
        rows = prompt_rows(masked, self.tokenizer, self.special, self.config.vocab_size)
        canvas = Canvas.with_holes(rows, self.special)
        checks.canvas_length(canvas.ids.shape[1], self.config.max_seq_len)
        run = Run.of(self.config, options, length_given=True, filling=True)
        seeds = run.row_seeds(len(rows), checks.integer("first", first, 0, MOST_ROWS))
        return self._run(canvas, seeds, run)

    def judge(
        self,
        rows: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        drafts: bool = False,
        batch_size: int = 256,
    ) -> list[Judgement]:
        """Which tokens of finished rows look wrong, where some are missing, whether a row is right.

        Args:
            rows: Texts, or token ids without special tokens.
            drafts: Whether the model would have written the rows from nothing, and not by filling
                holes of data: the probability that a row is data depends on it.
            batch_size: Rows in one pass; it changes probabilities by rounding alone (1e-6).

        Raises:
            DataError: A row is empty, too long, cannot be read, or holds a special token.
        """
        return judge_rows(self, [rows] if isinstance(rows, str) else rows, batch_size, drafts)

    def repair(
        self,
        rows: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        protected: Sequence[Sequence[int]] | None = None,
        seed: int = 0,
        **options: Unpack[RepairOptions],
    ) -> list[Repair]:
        """Find the errors in rows, predict those again, and leave everything else as it is.

        A flagged token becomes a blank that may stay empty, a gap a few of them; they are filled
        jointly, compared with changes of one token, and the best row is judged again. With a
        checker the row is returned as it was unless a candidate passes: the filled rows first,
        then changes of one token, the likeliest first. A row that looks right, or that the
        checker takes, comes back identical.

        Args:
            rows: Texts, or token ids without special tokens.
            protected: For each row, positions of tokens that never change.
            seed: The same seed gives the same repairs, whatever the batch size.
            options: ``rounds``, ``threshold``, ``checker``, ``budget``, ``flagged_too``,
                ``batch_size``: see :class:`~imadarem.repair.RepairSettings`.

        Raises:
            ConfigError: A setting is out of range, or there is neither a judge nor a checker.
            DataError: A row is empty, too long, cannot be read, or holds a special token; or a
                protected position lies outside its row.
        """
        given, settings = [rows] if isinstance(rows, str) else rows, RepairSettings(**options)
        return repair_rows(self, given, settings, protected=protected, seed=seed)

    def analyze_refinement_trajectory(
        self, masked: Any = None, *, n: int = 1, **settings: Any
    ) -> Trajectory:
        """The records of every step of :meth:`sample`, or of :meth:`infill` where masked."""
        if masked is None:
            samples = self.sample(n, return_trajectory=True, **settings)
        else:
            samples = self.infill(masked, return_trajectory=True, **settings)
        assert samples.trajectory is not None
        return samples.trajectory

    def print_refinement_trajectory(
        self, masked: Any = None, *, file: TextIO | None = None, **settings: Any
    ) -> None:
        """Write :meth:`analyze_refinement_trajectory` as text, to stdout or ``file``."""
        trajectory = self.analyze_refinement_trajectory(masked, **settings)
        (file or sys.stdout).write(trajectory.to_text() + "\n")

    # Saving and loading

    def save_pretrained(
        self, save_directory: str | Path, *, model_card: str | None = None, **kwargs: Any
    ) -> str | None:
        """Save weights (the teacher's too), tokenizer, model card and config in a directory.

        Args:
            save_directory: Made if it does not exist.
            model_card: Text of ``README.md``; an existing card is kept where it is None.
            kwargs: ``max_shard_size``, beyond which weights go into several files, ``5GB``;
                ``push_to_hub`` and ``repo_id`` as in ``huggingface_hub``.

        Raises:
            CheckpointError: The disk is full or the directory cannot be written.
        """
        folder, most = Path(save_directory), kwargs.pop("max_shard_size", "5GB")
        # The hub's client saves once more, into a folder of its own, and hands these back.
        card = model_card or (kwargs.pop("model_card_kwargs", None) or {}).get("text")
        write_folder(folder, distinct_state(self), self.config, self.tokenizer, card, most)
        if kwargs.pop("push_to_hub", False):
            kwargs["model_card_kwargs"] = {"text": (folder / CARD).read_text(encoding="utf-8")}
            return str(self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs))
        return None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, tokenizer: Any = None, **kwargs: Any
    ) -> Self:
        """Load a model from a directory, from the package, or from a repository of the hub.

        Strict: every weight must be there and finite, none may be left over. The folder is
        checked before anything is built from it, so that a damaged or hostile one costs neither
        memory nor time. No pickle is read.

        Args:
            pretrained_model_name_or_path: A directory, ``user/name`` on the hub, or a model of
                the package: ``"smiles"`` (molecules; also named ``"default"``), ``"druglike"``
                (molecules with stereo and charges), ``"selfies"`` or ``"sudoku"``.
            tokenizer: Used instead of the one saved with the model.
            kwargs: ``revision``, ``token``, ``cache_dir``, … for the hub.

        Raises:
            CheckpointError: It is no checkpoint, or it is damaged.
        """
        folder = find_folder(str(pretrained_model_name_or_path), kwargs)
        config, header = cls.check_folder(folder)
        if tokenizer is None and (folder / "tokenizer_config.json").is_file():
            tokenizer = load_tokenizer(folder, config.vocab_size)
        model = cls(config, tokenizer=tokenizer)
        if any(name.startswith(TEACHER_PREFIX) for name in header):
            model.init_teacher()
        model.load_state_dict(load_tensors(folder / WEIGHTS))
        check_finite(folder / WEIGHTS, model.state_dict())
        return model.eval()

    from_masked_lm = classmethod(opening.from_masked_lm)  # type: ignore[var-annotated]

    @staticmethod
    def check_folder(folder: Path) -> tuple[ImplicitRefinementConfig, dict[str, Tensor]]:
        """The config of a model's folder, and its weights without memory, held against each other.

        Raises:
            CheckpointError: They cannot be used, or do not belong together.
        """
        config, header = read_config(folder), read_header(folder / WEIGHTS)
        header = converted(header, config.num_heads)
        # The mask id changes no weight.
        network = partial(RefinementNetwork, mask_token_id=0)
        check_weights(folder / WEIGHTS, header, config, network)
        return config, header

    def sampling_settings(
        self,
        length_given: bool | None = None,
        filling: bool = False,
        **sampling: Unpack[SamplingOptions],
    ) -> SamplingSettings:
        """See :meth:`~imadarem.sampling.settings.SamplingSettings.from_config`."""
        return SamplingSettings.from_config(self.config, length_given, filling, **sampling)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text with blanks; see :func:`imadarem.tokenizers.prompts.encode_prompt`."""
        return encode_prompt(self.tokenizer, self.special, text)

    @torch.no_grad()
    def _run(self, canvas: Canvas, seeds: Tensor, run: Run) -> Samples:
        if run.condition:
            asked = as_numbers(self.config.conditions, run.condition, len(canvas))
            canvas = replace(canvas, condition=torch.tensor(asked))
        shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        if run.once and not shared:
            return refine_run(self, canvas, seeds, run)
        return refine_rows(self, canvas, seeds, run, row_verdicts)

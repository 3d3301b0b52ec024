"""Which canvas edit to make: a bandit that learns from rewards and forgets old ones.

Rewards drift, since the model that earns them is being trained. So every pull of a context
(a task type and a bucket of steps) multiplies the evidence on all of its arms by
``discount`` γ, which leaves a memory of 1 / (1 − γ) pulls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

from imadarem.errors import CheckpointError, ConfigError, nearest

#: What is believed of an arm before its first pull, and again once its pulls are forgotten:
#: the context's mean reward, as certain as after one pull.
PRIOR_PULLS = 1.0
#: What is believed of the noise before the first pull, as certain as after one pull.
PRIOR_NOISE = 0.1

NORMAL = NormalDist()


@dataclass
class Evidence:
    """What one arm has earned in one context.

    Attributes:
        pulls: Rewards seen.
        successes: Rewards above 0 among them.
        total: Their sum.
        weight: Discounted number of rewards, ``N`` below.
        weighted_sum: Discounted sum of the rewards.
        weighted_squares: Discounted sum of their squares.
    """

    pulls: int = 0
    successes: int = 0
    total: float = 0.0
    weight: float = 0.0
    weighted_sum: float = 0.0
    weighted_squares: float = 0.0

    def fade(self, discount: float) -> None:
        self.weight *= discount
        self.weighted_sum *= discount
        self.weighted_squares *= discount

    def add(self, reward: float) -> None:
        self.pulls += 1
        self.successes += reward > 0
        self.total += reward
        self.weight += 1.0
        self.weighted_sum += reward
        self.weighted_squares += reward * reward


@dataclass
class Context:
    """One task type in one bucket of steps.

    Attributes:
        draws: Choices made so far; numbers the random draws.
        arms: Evidence by arm, all arms present.
    """

    arms: dict[str, Evidence]
    draws: int = 0

    @property
    def weight(self) -> float:
        """Discounted number of rewards over all arms."""
        return sum(arm.weight for arm in self.arms.values())

    def noise(self) -> float:
        """Standard deviation of a reward around its arm's mean, pooled over the arms."""
        squares, freedom = PRIOR_NOISE**2, 1.0
        for arm in self.arms.values():
            if arm.weight > 0:
                spread = arm.weighted_squares - arm.weighted_sum**2 / arm.weight
                squares += max(spread, 0.0)
                freedom += max(arm.weight - 1.0, 0.0)
        return math.sqrt(squares / freedom)

    def posterior(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of what is believed of an arm's mean reward."""
        arm, weight = self.arms[name], self.weight
        overall = sum(other.weighted_sum for other in self.arms.values())
        prior = overall / weight if weight > 0 else 0.0
        pulls = PRIOR_PULLS + arm.weight
        mean = (PRIOR_PULLS * prior + arm.weighted_sum) / pulls
        return mean, self.noise() / math.sqrt(pulls)


class DiscountedBandit:
    """Choose among arms per (task type, step bucket) by discounted rewards.

    With γ the discount, ``N`` an arm's discounted pulls, *s* the noise pooled over the arms
    and *c* the exploration, each arm draws from its Gaussian posterior, of mean *m* and width
    ``c·s/√(1 + N)``, and the highest draw wins (discounted Thompson sampling with Gaussian
    priors, arXiv:2305.10718). *m* is an arm's discounted mean reward, shrunk towards that of
    the context as by one pull more: what is forgotten is thought average, not bad.

    ``c = 1`` is the textbook's. The defaults are among what measured best where arms lie
    no further apart than their noise (``docs/benchmarks/bandit.md``).

    A choice depends on the seed and on what its own context has seen: no other task moves
    it. While :attr:`frozen`, the choice is the available arm of the highest posterior mean,
    nothing is learned and no draw is counted, so that inference leaves training as it was.

    Attributes:
        frozen: Whether to choose without learning. A mode, and no part of the state.

    Args:
        arms: Their names; the first wins a tie.
        discount: γ in (0, 1]; 1 forgets nothing.
        exploration: *c*, at least 0; 0 is greedy.
        seed: Whole number that all draws follow from.
        buckets: First step of each bucket, upwards from 1.
    """

    def __init__(
        self,
        arms: Sequence[str],
        *,
        discount: float = 0.99,
        exploration: float = 0.5,
        seed: int = 0,
        buckets: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        self.arms = tuple(arms)
        self.discount = discount
        self.exploration = exploration
        self.seed = seed
        self.buckets = tuple(buckets)
        self.frozen = False
        self._contexts: dict[tuple[str, int], Context] = {}
        self._check_settings()

    def select(self, task_type: str, step: int, available: Iterable[str] | None = None) -> str:
        """The arm to pull: one of ``available``, or of all arms where that is None.

        Args:
            task_type: Such as ``"sudoku"``.
            step: The refinement step to come, from 1.
            available: Arms that can be pulled, in any order.

        Raises:
            ConfigError: No arm is available, one is unknown, or the step is below 1.
        """
        names = self._checked(available, task_type)
        key = (task_type, self._bucket(step))
        if self.frozen:
            context = self._contexts.get(key, self._blank())
            return max(names, key=lambda name: context.posterior(name)[0])
        context = self._contexts.setdefault(key, self._blank())
        draws = self._draws(context, key)
        context.draws += 1
        return max(names, key=draws.__getitem__)

    def update(self, task_type: str, step: int, arm: str, reward: float) -> None:
        """Learn what a pull earned; nothing happens while :attr:`frozen`.

        Args:
            task_type: As given to :meth:`select`.
            step: As given to :meth:`select`.
            arm: The arm that was pulled.
            reward: Gain in token accuracy, from -1 to 1.
        """
        self._check_known([arm])
        bucket = self._bucket(step)
        if not -1.0 <= reward <= 1.0:
            raise ConfigError(
                f"reward={reward} must be a gain in token accuracy, from -1 to 1. Leave out the "
                "update of a step whose accuracy is not known."
            )
        if self.frozen:
            return
        context = self._contexts.setdefault((task_type, bucket), self._blank())
        for evidence in context.arms.values():
            evidence.fade(self.discount)
        context.arms[arm].add(float(reward))

    def report(self) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
        """What was learned, as ``report()[task type][steps][arm]``; plain JSON values.

        ``steps`` reads ``1``, ``2-3``, …, ``8+``. Of each arm:

        - ``pulls``, ``mean_reward`` and ``success_rate`` (share of rewards above 0) over
          the whole training; the last two are None before the first pull;
        - ``discounted_pulls``, ``posterior_mean`` and ``posterior_sd`` of what is
          remembered, by which the next choice is made.
        """
        report: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
        for (task_type, bucket), context in sorted(self._contexts.items()):
            report.setdefault(task_type, {})[self._steps(bucket)] = {
                name: _summary(context, name) for name in self.arms
            }
        return report

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next choices follow from, as plain numbers, strings and lists."""
        return {
            "settings": self._settings(),
            "contexts": [
                {"task_type": task_type, "bucket": bucket, **asdict(context)}
                for (task_type, bucket), context in sorted(self._contexts.items())
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where :meth:`state_dict` was taken."""
        try:
            given = dict(state["settings"])
            contexts = {
                (str(one["task_type"]), int(one["bucket"])): Context(
                    {name: Evidence(**one["arms"][name]) for name in self.arms},
                    int(one["draws"]),
                )
                for one in state["contexts"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"this is not the state of a bandit over {', '.join(self.arms)}: {error!r}."
            ) from None
        for name, value in self._settings().items():
            if given.get(name) != value:
                raise CheckpointError(
                    f"the saved bandit has {name}={given.get(name)!r} and this one {value!r}. "
                    "Build it with the settings of the checkpoint."
                )
        self._contexts = contexts

    def _draws(self, context: Context, key: tuple[str, int]) -> dict[str, float]:
        """A draw from every arm's posterior, unavailable ones included: masks shift no draw."""
        index = {}
        for name in self.arms:
            mean, width = context.posterior(name)
            uniform = _uniform(self.seed, *key, context.draws, name)
            index[name] = mean + self.exploration * width * NORMAL.inv_cdf(uniform)
        return index

    def _blank(self) -> Context:
        return Context({name: Evidence() for name in self.arms})

    def _bucket(self, step: int) -> int:
        """The first step of the bucket that ``step`` lies in."""
        if step < 1:
            raise ConfigError(f"step={step} must be at least 1: steps are counted from 1.")
        return max(first for first in self.buckets if first <= step)

    def _steps(self, bucket: int) -> str:
        later = [first for first in self.buckets if first > bucket]
        if not later:
            return f"{bucket}+"
        return f"{bucket}" if later[0] == bucket + 1 else f"{bucket}-{later[0] - 1}"

    def _checked(self, available: Iterable[str] | None, task_type: str) -> list[str]:
        """The available arms in the order of :attr:`arms`."""
        chosen = set(self.arms if available is None else available)
        self._check_known(chosen)
        if not chosen:
            raise ConfigError(
                f"no arm is available for the task type {task_type!r}. "
                f"At least one of {', '.join(self.arms)} must be."
            )
        return [name for name in self.arms if name in chosen]

    def _check_known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.arms:
                raise ConfigError(
                    f"unknown arm {name!r}{nearest(name, self.arms)}. "
                    f"Legal: {', '.join(self.arms)}."
                )

    def _settings(self) -> dict[str, Any]:
        return {
            "arms": list(self.arms),
            "discount": self.discount,
            "exploration": self.exploration,
            "seed": self.seed,
            "buckets": list(self.buckets),
        }

    def _check_settings(self) -> None:
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ConfigError(
                f"arms={list(self.arms)} must be one or more names, each of them once."
            )
        if not 0.0 < self.discount <= 1.0:
            raise ConfigError(f"discount={self.discount} must lie above 0 and be at most 1.")
        if not (math.isfinite(self.exploration) and self.exploration >= 0):
            raise ConfigError(
                f"exploration={self.exploration} must be a finite number of at least 0."
            )
        starts = list(self.buckets)
        if not starts or starts[0] != 1 or starts != sorted(set(starts)):
            raise ConfigError(
                f"buckets={starts} must be the first steps of the buckets: 1, then upwards."
            )


def _summary(context: Context, name: str) -> dict[str, float | None]:
    arm = context.arms[name]
    mean, width = context.posterior(name)
    return {
        "pulls": arm.pulls,
        "discounted_pulls": arm.weight,
        "mean_reward": arm.total / arm.pulls if arm.pulls else None,
        "success_rate": arm.successes / arm.pulls if arm.pulls else None,
        "posterior_mean": mean,
        "posterior_sd": width,
    }


def _uniform(*what: object) -> float:
    """A number in (0, 1) that is a hash of ``what``: no generator, no state to save."""
    digest = blake2b(repr(what).encode(), digest_size=8).digest()
    # 52 bits and a half: neither 0 nor 1 after rounding, so a quantile is always finite.
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) * 2.0**-52

"""The noise schedule: how much of the picture each timestep leaves, and what the network predicts.

`x_t = sqrt(alphas_cumprod[t]) * x_0 + sqrt(1 - alphas_cumprod[t]) * noise`. Everything that does
not depend on data is float64 numpy; only finished tables become float32. The schedule is read from
the `scheduler_config.json` of a diffusers folder. Any scheduler class may have written it, because
all share these keys. Networks and samplers build on this module, which imports none of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from moa_jax.errors import InputError

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A variance-preserving noise schedule over discrete timesteps.

    Attributes:
        alphas_cumprod: share of the picture's variance that is left at each timestep, in [0, 1].
        prediction_type: what the network predicts, one of PREDICTION_TYPES.
        spacing: how inference timesteps are laid over the schedule, one of SPACINGS; None means
            each sampler's default.
        steps_offset: added to the timesteps of leading spacing.
        set_alpha_to_one: whether sampling ends at the clean picture; if not, at timestep 0's noise.
    """

    alphas_cumprod: Float[np.ndarray, " T"]
    prediction_type: str = "epsilon"
    spacing: str | None = None
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Read a diffusers `scheduler_config.json`.

        Missing keys take the defaults of diffusers' DDIMScheduler, except `clip_sample`: Stable
        Diffusion's latents are never clipped.

        Raises:
            InputError: a value is not supported.
        """
        for key in ("clip_sample", "thresholding", "use_flow_sigmas"):
            if config.get(key):
                raise InputError(
                    f"scheduler_config: {key}={config[key]!r} is not supported; only false is"
                )
        alphas_cumprod = np.cumprod(1.0 - _betas(config))
        if config.get("rescale_betas_zero_snr"):
            alphas_cumprod = _rescale_to_zero_snr(alphas_cumprod)
        return cls(
            alphas_cumprod,
            prediction_type=_choice(config, "prediction_type", PREDICTION_TYPES, "epsilon"),
            spacing=config.get("timestep_spacing")
            and _choice(config, "timestep_spacing", SPACINGS, "leading"),
            steps_offset=_number(config, "steps_offset", 0, 0, len(alphas_cumprod) - 1, int),
            set_alpha_to_one=bool(config.get("set_alpha_to_one", True)),
        )

    @property
    def num_train_timesteps(self) -> int:
        """The number of timesteps of the schedule, T."""
        return len(self.alphas_cumprod)

    @property
    def final_alpha_cumprod(self) -> float:
        """`alphas_cumprod` of the picture that sampling ends with."""
        return 1.0 if self.set_alpha_to_one else float(self.alphas_cumprod[0])

    @property
    def sigmas(self) -> Float[np.ndarray, " T"]:
        """The noise-to-signal ratio at each timestep: sigma of `x_0 + sigma * noise`.

        It is finite at zero signal-to-noise too, because samplers that work in sigmas need a
        number there. The picture's share of the variance then counts as 2^-24, as in diffusers.
        """
        alphas = np.where(self.alphas_cumprod == 0.0, 2.0**-24, self.alphas_cumprod)
        return np.sqrt((1.0 - alphas) / alphas)

    def inference_timesteps(
        self, num_inference_steps: int, spacing: str = "leading", leave_cleanest: bool = False
    ) -> Int[np.ndarray, " n"]:
        """Choose the timesteps to sample at, from the noisiest down, all different.

        Three special cases differ from diffusers on purpose. A single linspace step is at the last
        timestep, not at 0. `steps_offset` is reduced where it would lead past the last timestep.
        `leave_cleanest` does nothing when there are as many steps as the schedule has.

        Source: Common Diffusion Noise Schedules and Sample Steps are Flawed (2305.08891), Table 2.

        Args:
            num_inference_steps: 1 to the schedule's length.
            spacing: one of SPACINGS, used if the schedule has no spacing of its own.
            leave_cleanest: under leading and linspace spacing, lay one point more and leave out
                the cleanest, because the steps of DPM-Solver end before timestep 0.

        Raises:
            InputError: there is less than 1 step, or there are more than the schedule has.
        """
        last, n = self.num_train_timesteps - 1, num_inference_steps
        if not 1 <= n <= last + 1:
            raise InputError(
                f"num_inference_steps={n} must lie between 1 and {last + 1}, the schedule's length"
            )
        spacing, points = self.spacing or spacing, min(n + leave_cleanest, last + 1)
        # Written so that halves are rounded as in diffusers, to give the same pictures.
        if spacing == "linspace":
            timesteps = np.linspace(0, last, points) if points > 1 else np.array([last])
            return timesteps.round().astype(np.int64)[::-1][:n]
        if spacing == "trailing":  # arange may give one too many, at 0
            return np.arange(last + 1, 0, -(last + 1) / n).round().astype(np.int64)[:n] - 1
        timesteps = np.arange(points)[::-1][:n] * ((last + 1) // points)
        return timesteps + min(self.steps_offset, last - int(timesteps[0]))

    def clean_and_noise(
        self, timesteps: Num[np.ndarray, " n"], signals: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "2 n"], Float[np.ndarray, "2 n"]]:
        """Express the clean picture and the noise by the latents and the prediction.

        Args:
            timesteps: the timesteps at which the network is asked.
            signals: share of the picture in the latents there: the schedule's own, or between two
                timesteps the sampler's.

        Returns:
            `(a, b)` and `(c, d)` such that at each timestep `clean = a * latents + b * prediction`
            and `noise = c * latents + d * prediction`.

        Raises:
            InputError: the network predicts noise, and a timestep has nothing but noise.
        """
        sigma = np.sqrt(1.0 - signals**2)
        zero, one = np.zeros_like(signals), np.ones_like(signals)
        # For v = signal * noise - sigma * clean, see `training_target`.
        if self.prediction_type == "v_prediction":
            return np.stack([signals, -sigma]), np.stack([sigma, signals])
        if self.prediction_type == "sample":
            return np.stack([zero, one]), np.stack([1.0 / sigma, -signals / sigma])
        if (self.alphas_cumprod[np.floor(timesteps).astype(np.int64)] == 0.0).any():
            raise InputError(
                "prediction_type='epsilon' cannot start at zero signal-to-noise, where "
                "rescale_betas_zero_snr leads with this sampler's timesteps: "
                "use timestep_spacing='leading' or a v_prediction checkpoint"
            )
        return np.stack([1.0 / signals, -sigma / signals]), np.stack([zero, one])


def add_noise(
    schedule: NoiseSchedule,
    latents: Float[Array, "B H W C"],
    noise: Float[Array, "B H W C"],
    timesteps: Int[Array, " B"],
) -> Float[Array, "B H W C"]:
    """Bring clean latents to the noise level of each timestep, in float32."""
    signal, sigma = _signal_and_sigma(schedule, timesteps)
    return signal * latents + sigma * noise


def training_target(
    schedule: NoiseSchedule,
    latents: Float[Array, "B H W C"],
    noise: Float[Array, "B H W C"],
    timesteps: Int[Array, " B"],
) -> Float[Array, "B H W C"]:
    """Give what the network should predict from `add_noise(schedule, latents, noise, timesteps)`.

    Source: v_prediction is Progressive Distillation (2202.00512), Appendix D.
    """
    if schedule.prediction_type == "epsilon":
        return noise
    if schedule.prediction_type == "sample":
        return latents
    signal, sigma = _signal_and_sigma(schedule, timesteps)
    return signal * noise - sigma * latents


def _signal_and_sigma(
    schedule: NoiseSchedule, timesteps: Int[Array, " B"]
) -> tuple[Float[Array, "B 1 1 1"], Float[Array, "B 1 1 1"]]:
    signal = jnp.asarray(np.sqrt(schedule.alphas_cumprod), jnp.float32)
    sigma = jnp.asarray(np.sqrt(1.0 - schedule.alphas_cumprod), jnp.float32)
    return signal[timesteps][:, None, None, None], sigma[timesteps][:, None, None, None]


def _betas(config: Mapping[str, Any]) -> Float[np.ndarray, " T"]:
    steps = _number(config, "num_train_timesteps", 1000, 1, 1_000_000, int)
    if (trained := config.get("trained_betas")) is not None:
        betas = np.asarray(trained, np.float64)
        if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0.0) & (betas < 1.0)).all():
            raise InputError(
                "scheduler_config: trained_betas must be a list of numbers between 0 and 1"
            )
        return betas
    if "beta_schedule" not in config:
        known = config.get("_class_name", "this file")
        raise InputError(
            f"scheduler_config: {known} has no beta_schedule, so its noise schedule is unknown; "
            f"supported are Stable Diffusion's schedulers with one of {', '.join(BETA_SCHEDULES)}"
        )
    kind = _choice(config, "beta_schedule", BETA_SCHEDULES, "linear")
    if kind == "squaredcos_cap_v2":
        # Source: Improved DDPM (2102.09672), Eq. 17; the cap keeps the last step regular.
        left = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2.0) ** 2
        return np.minimum(1.0 - left[1:] / left[:-1], 0.999)
    start = _number(config, "beta_start", 0.0001, 0.0, 1.0, float)
    end = _number(config, "beta_end", 0.02, start, 1.0, float)
    if kind == "linear":
        return np.linspace(start, end, steps)
    return np.linspace(np.sqrt(start), np.sqrt(end), steps) ** 2  # scaled_linear


def _rescale_to_zero_snr(alphas_cumprod: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Shift and scale the signal so that nothing of it is left at the last timestep.

    Source: Common Diffusion Noise Schedules and Sample Steps are Flawed (2305.08891), Algorithm 1.
    """
    signal = np.sqrt(alphas_cumprod)
    return ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2


def _choice(config: Mapping[str, Any], key: str, supported: tuple[str, ...], default: str) -> str:
    value = config.get(key, default)
    if value not in supported:
        raise InputError(
            f"scheduler_config: {key}={value!r} is not supported; one of {', '.join(supported)} is"
        )
    return value


def _number(
    config: Mapping[str, Any], key: str, default: Any, least: Any, most: Any, kind: type
) -> Any:
    value = config.get(key, default)
    # In Python true and false are numbers.
    if isinstance(value, bool) or not isinstance(value, int | float) or kind(value) != value:
        raise InputError(f"scheduler_config: {key}={value!r} must be of type {kind.__name__}")
    if not least <= value <= most:
        raise InputError(f"scheduler_config: {key}={value!r} must lie between {least} and {most}")
    return kind(value)

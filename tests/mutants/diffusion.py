"""Faults in the noise schedule, the levels of the samplers and their coefficients."""

SCHEDULE, LEVELS = "moa_jax/diffusion/schedule.py", "moa_jax/diffusion/levels.py"
DDIM, DPM = "moa_jax/diffusion/ddim.py", "moa_jax/diffusion/dpm_solver.py"
UNIPC, PLANS = "moa_jax/diffusion/unipc.py", "moa_jax/diffusion/samplers.py"
DDPM = "moa_jax/diffusion/ddpm.py"
D = "tests/diffusion/test_"
ALPHAS = f"{D}schedule.py::test_alphas_agree_with_diffusers"
NOISE = f"{D}schedule.py::test_add_noise_and_velocity_agree_with_diffusers"
TARGET = f"{D}schedule.py::test_the_target_gives_back_the_clean_latents_and_the_noise"
TIMES = f"{D}schedule.py::test_timesteps_agree_with_diffusers"
OFFSET = f"{D}schedule.py::test_the_offset_gives_way_at_the_end_of_the_schedule"
BASE = f"{D}schedule.py::test_base_models_load"
DPM_AGREES, UNIPC_AGREES, DDPM_AGREES = (
    f"{D}parity.py::test_trajectories_agree[{name}-False-epsilon-leading]"
    for name in ("dpm++2m", "unipc", "ddpm")
)
ETA = f"{D}parity.py::test_ddims_noise_agrees"
IMAGE = f"{D}parity.py::test_an_image_to_image_start_agrees"
KARRAS = f"{D}levels.py::test_karras_timesteps_agree"
START = f"{D}levels.py::test_sampling_starts_with_their_noise"
SPACING = f"{D}levels.py::test_each_sampler_has_its_own_spacing_where_the_file_has_none"
STEP = f"{D}ddim.py::test_each_step_leads_to_the_timestep_that_comes_next"
OPTIONS = f"{D}samplers.py::test_options_reach_the_sampler"
READ = f"{D}samplers.py::test_karras_levels_are_read_where_the_class_has_them"

MUTATIONS = [
    (
        "signal and noise are swapped",
        SCHEDULE,
        "signal * latents + sigma * noise",
        "sigma * latents + signal * noise",
        NOISE,
    ),
    (
        "the noise target is negated",
        SCHEDULE,
        "        return noise\n",
        "        return -noise\n",
        TARGET,
    ),
    (
        "the velocity's sign",
        SCHEDULE,
        "signal * noise - sigma * latents",
        "sigma * latents - signal * noise",
        NOISE,
    ),
    (
        "sigma is a variance",
        SCHEDULE,
        "jnp.asarray(np.sqrt(1.0 - schedule.alphas_cumprod)",
        "jnp.asarray((1.0 - schedule.alphas_cumprod)",
        NOISE,
    ),
    (
        "the clean picture of a velocity",
        SCHEDULE,
        "np.stack([signals, -sigma])",
        "np.stack([signals, sigma])",
        TARGET,
    ),
    (
        "the clean picture of a noise",
        SCHEDULE,
        "-sigma / signals]), np",
        "sigma / signals]), np",
        TARGET,
    ),
    (
        "betas are a line, not a line's square",
        SCHEDULE,
        "np.linspace(np.sqrt(start), np.sqrt(end), steps) ** 2",
        "np.linspace(start, end, steps)",
        ALPHAS,
    ),
    (
        "betas are summed",
        SCHEDULE,
        "np.cumprod(1.0 - _betas(config))",
        "1.0 - np.cumsum(_betas(config))",
        ALPHAS,
    ),
    ("the cosine has no offset", SCHEDULE, "/ steps + 0.008)", "/ steps)", ALPHAS),
    (
        "some signal is left at zero SNR",
        SCHEDULE,
        "(signal - signal[-1])",
        "(signal - 0.5 * signal[-1])",
        ALPHAS,
    ),
    (
        "trailing steps end one late",
        SCHEDULE,
        "astype(np.int64)[:n] - 1",
        "astype(np.int64)[:n] - 2",
        TIMES,
    ),
    (
        "leading steps have no offset",
        SCHEDULE,
        "return timesteps + min(self.steps_offset, last - int(timesteps[0]))",
        "return timesteps",
        TIMES,
    ),
    (
        "the offset leads past the end",
        SCHEDULE,
        "min(self.steps_offset, last - int(timesteps[0]))",
        "self.steps_offset",
        OFFSET,
    ),
    (
        "linspace steps are cut off, not rounded",
        SCHEDULE,
        "return timesteps.round().astype(np.int64)[::-1][:n]",
        "return timesteps.astype(np.int64)[::-1][:n]",
        TIMES,
    ),
    ("a file's spacing is not read", SCHEDULE, "self.spacing or spacing", "spacing", TIMES),
    (
        "sampling ends at the clean picture whatever the file says",
        SCHEDULE,
        'bool(config.get("set_alpha_to_one", True))',
        "True",
        BASE,
    ),
    (
        "solvers end at timestep 0",
        LEVELS,
        '"linspace", leave_cleanest=True',
        '"linspace", leave_cleanest=False',
        DPM_AGREES,
    ),
    ("Karras' levels lie under another root", LEVELS, "rho = 7.0", "rho = 5.0", KARRAS),
    (
        "timesteps between sigmas are not of the logarithm",
        LEVELS,
        "np.interp(np.log(sigmas), np.log(schedule.sigmas), steps)",
        "np.interp(sigmas, schedule.sigmas, steps)",
        KARRAS,
    ),
    (
        "Euler begins with the whole deviation",
        LEVELS,
        'first = 1.0 if spacing == "leading" else',
        'first = 1.0 if spacing != "trailing" else',
        START,
    ),
    (
        "Euler's default spacing is leading",
        LEVELS,
        'schedule.spacing or "linspace", np.arange',
        'schedule.spacing or "leading", np.arange',
        SPACING,
    ),
    (
        "leaving out a step keeps its level",
        LEVELS,
        "self.signals[skip:]",
        "self.signals[: len(self.signals) - skip]",
        IMAGE,
    ),
    ("eta counts as it is, not squared", DDIM, "variance = eta**2", "variance = eta", ETA),
    (
        "the noise put back is not taken away",
        DDIM,
        "1.0 - following - variance",
        "1.0 - following",
        ETA,
    ),
    (
        "a step goes to its own level",
        DDIM,
        "levels.signals[1:] * clean",
        "levels.signals[:-1] * clean",
        STEP,
    ),
    ("DDIM ends at the clean picture", DDIM, "schedule.final_alpha_cumprod", "1.0", STEP),
    ("DDPM ends where DDIM does", DDPM, "end=1.0", "end=schedule.final_alpha_cumprod", DDPM_AGREES),
    (
        "the second order is doubled",
        DPM,
        "steps[1:] / (2.0 * steps[:-1])",
        "steps[1:] / steps[:-1]",
        DPM_AGREES,
    ),
    (
        "the ratio of the steps is turned over",
        DPM,
        "steps[1:] / (2.0 * steps[:-1])",
        "steps[:-1] / (2.0 * steps[1:])",
        DPM_AGREES,
    ),
    (
        "the earlier picture is added",
        DPM,
        "first_order + extrapolated, -extrapolated",
        "first_order - extrapolated, extrapolated",
        DPM_AGREES,
    ),
    (
        "the carry is not the clean picture",
        DPM,
        '"clean_latents": from_latents,',
        '"clean_latents": np.ones_like(from_latents),',
        DPM_AGREES,
    ),
    ("B(h) is that of the noise", UNIPC, "np.expm1(-steps)", "np.expm1(steps)", UNIPC_AGREES),
    (
        "the first correction weighs by one",
        UNIPC,
        "np.full(min(1, len(steps)), 0.5)",
        "np.full(min(1, len(steps)), 1.0)",
        UNIPC_AGREES,
    ),
    (
        "the corrector takes the level that it comes from",
        UNIPC,
        "whole = -signals[1:-1] * change",
        "whole = -signals[:-2] * change",
        UNIPC_AGREES,
    ),
    (
        "the second moment is not doubled",
        UNIPC,
        "2.0 * twice / change",
        "twice / change",
        UNIPC_AGREES,
    ),
    (
        "the next step starts from the uncorrected point",
        UNIPC,
        'row["latents"] * corrected',
        'row["latents"] * latents',
        UNIPC_AGREES,
    ),
    (
        "two pictures of the carry are swapped",
        UNIPC,
        "return following, (corrected, clean, previous)",
        "return following, (corrected, previous, clean)",
        UNIPC_AGREES,
    ),
    (
        "the wish for Karras' levels is lost",
        PLANS,
        '"karras": karras or None',
        '"karras": None',
        OPTIONS,
    ),
    (
        "the first steps are not left out",
        PLANS,
        "num_inference_steps, skip=skip, **options",
        "num_inference_steps, skip=0, **options",
        OPTIONS,
    ),
    (
        "a file's Karras levels are not read",
        PLANS,
        'return name, karras and _takes(SAMPLERS[name], "karras")',
        "return name, False",
        READ,
    ),
    (
        "DDIM gets Karras' levels from another class's file",
        PLANS,
        'karras and _takes(SAMPLERS[name], "karras")',
        "karras",
        READ,
    ),
    (
        "the boundary condition is left out",
        "moa_jax/diffusion/lcm.py",
        "following * (predicted * latents + kept)",
        "following * latents",
        "tests/diffusion/test_lcm.py::test_trajectories_agree",
    ),
    (
        "latent consistency steps add no noise",
        "moa_jax/diffusion/lcm.py",
        "np.sqrt(1.0 - following**2),",
        "np.zeros_like(following),",
        "tests/diffusion/test_lcm.py::test_trajectories_agree",
    ),
]

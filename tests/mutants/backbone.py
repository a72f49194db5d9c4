"""Faults in the networks of Stable Diffusion, which the parity tests must see."""

BLOCKS, TRANSFORMER = "moa_jax/backbone/blocks.py", "moa_jax/backbone/transformer.py"
ENCODER, UNET = "moa_jax/backbone/unet_encoder.py", "moa_jax/backbone/unet.py"
VAE, CLIP, ATTENTION = (f"moa_jax/backbone/{name}.py" for name in ("vae", "clip", "attention"))
T = "tests/backbone/test_"
PREDICTION = f"{T}unet.py::test_prediction_is_diffusers"
ENCODE, DECODE = f"{T}vae.py::test_encode_is_diffusers", f"{T}vae.py::test_decode_is_diffusers"
TEXT, VISION = f"{T}clip.py::test_text_is_transformers", f"{T}clip.py::test_vision_is_transformers"
PIXELS = f"{T}clip.py::test_pixels_are_normalised_as_transformers_does"
NEAREST = f"{T}unet.py::test_nearest_resizing_is_pytorchs"
NAMES, CONFIGS, SINGLE, CHECKPOINT = (
    f"moa_jax/backbone/{name}.py"
    for name in ("single_file_names", "single_file_configs", "single_file", "checkpoint")
)
FULL_SIZE = f"{T}single_file_names.py::test_every_full_size_tensor_is_where_diffusers_finds_it"
PUBLISHED = f"{T}single_file_configs.py::test_a_full_size_file_has_the_published_configurations"
SAME = f"{T}checkpoint.py::test_a_file_is_the_same_as_its_folder"
PREDICTS = f"{T}single_file.py::test_what_is_predicted"
KNOWS = f"{T}unet.py::test_each_attention_layer_knows_its_block"

MUTATIONS = [
    (
        "the time is not added",
        BLOCKS,
        "hidden = hidden + shift[:, None, None, :]",
        "hidden = hidden + 0 * shift[:, None, None, :]",
        PREDICTION,
    ),
    (
        "norms have another epsilon",
        BLOCKS,
        "epsilon: float = 1e-5",
        "epsilon: float = 1e-3",
        PREDICTION,
    ),
    (
        "the variance cancels in full precision",
        BLOCKS,
        "jnp.finfo(self.dtype).bits < 32",
        "jnp.finfo(self.dtype).bits <= 32",
        f"{T}norms.py::test_in_full_precision_the_variance_does_not_cancel",
    ),
    (
        "a TPU reads twice for the variance in half precision",
        BLOCKS,
        "jnp.finfo(self.dtype).bits < 32",
        "jnp.finfo(self.dtype).bits < 16",
        f"{T}norms.py::test_a_tpu_reads_for_mean_and_variance_at_once_in_half_precision",
    ),
    (
        "nearest neighbours are rounded up",
        BLOCKS,
        "jnp.arange(length) * hidden.shape[axis] // length",
        "-(-jnp.arange(length) * hidden.shape[axis] // length)",
        NEAREST,
    ),
    (
        "value and gate are swapped",
        TRANSFORMER,
        "value, gate = jnp.split(projected, 2, axis=-1)",
        "gate, value = jnp.split(projected, 2, axis=-1)",
        PREDICTION,
    ),
    ("GELU is approximated", TRANSFORMER, "approximate=False", "approximate=True", PREDICTION),
    (
        "cross-attention comes first",
        TRANSFORMER,
        "enumerate((False, True), start=1)",
        "enumerate((True, False), start=1)",
        KNOWS,
    ),
    (
        "sines come first",
        ENCODER,
        "[jnp.cos(angles), jnp.sin(angles)]",
        "[jnp.sin(angles), jnp.cos(angles)]",
        PREDICTION,
    ),
    (
        "the shift of the frequencies is lost",
        ENCODER,
        "/ (half - freq_shift)",
        "/ half",
        PREDICTION,
    ),
    (
        "every level has the first one's heads",
        ENCODER,
        "heads=config.heads[level]",
        "heads=config.heads[0]",
        KNOWS,
    ),
    ("skips are taken from the front", UNET, "skips.pop()", "skips.pop(0)", PREDICTION),
    (
        "keys and values are swapped",
        ATTENTION,
        "self.attend(query, key, value)",
        "self.attend(query, value, key)",
        PREDICTION,
    ),
    (
        "the encoder pads on all sides",
        VAE,
        "Downsample(width, (0, 1), self",
        "Downsample(width, (1, 1), self",
        ENCODE,
    ),
    (
        "mean and log-variance are swapped",
        VAE,
        "mean, logvar = jnp.split(moments",
        "logvar, mean = jnp.split(moments",
        ENCODE,
    ),
    (
        "the middle's attention is not residual",
        VAE,
        "return hidden + nn.Dense(channels",
        "return nn.Dense(channels",
        DECODE,
    ),
    ("the text sees what follows", CLIP, "causal=True, dtype", "causal=False, dtype", TEXT),
    ("quick GELU is slow", CLIP, "1.702 * hidden", "1.0 * hidden", TEXT),
    ("the feature is the last patch's", CLIP, "(hidden[:, 0])", "(hidden[:, -1])", VISION),
    ("the class comes last", CLIP, "[token, patches]", "[patches, token]", VISION),
    ("pixels are divided by 256", CLIP, "/ 255 - mean", "/ 256 - mean", PIXELS),
    (
        "a single file's decoder is turned around",
        NAMES,
        "{levels - 1 - int(match[1])}",
        "{int(match[1])}",
        FULL_SIZE,
    ),
    (
        "a single file's way down begins at block 0",
        NAMES,
        "int(match[2]) - down",
        "int(match[2])",
        FULL_SIZE,
    ),
    ("OpenCLIP's keys are its queries", NAMES, 'enumerate("qkv")', 'enumerate("kqv")', FULL_SIZE),
    (
        "of three fused tensors the first is read",
        SINGLE,
        "[slice(*piece.rows)]",
        "[: piece.shape[0]]",
        SAME,
    ),
    ("OpenCLIP's last layer is kept", NAMES, "TEXT_LAYERS = 23", "TEXT_LAYERS = 24", FULL_SIZE),
    (
        "heads are as wide in 2.x as OpenCLIP's are many",
        CONFIGS,
        "[width // HEAD_WIDTH for width",
        "[width // 16 for width",
        PUBLISHED,
    ),
    (
        "what a file's header says is not read",
        SINGLE,
        '_MODELSPEC.get(metadata.get("modelspec.prediction_type"), marked)',
        "marked",
        PREDICTS,
    ),
    (
        "nobody hears that a file does not say what it predicts",
        CHECKPOINT,
        "if not file.decided:",
        "if False:",
        PREDICTS,
    ),
    (
        "tensors are read from the beginning of the file",
        "moa_jax/backbone/folder.py",
        '"offset": self._start + begin',
        '"offset": begin',
        f"{T}folder.py::test_tensors_are_read_as_safetensors_reads_them",
    ),
]

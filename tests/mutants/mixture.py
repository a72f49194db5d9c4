"""Faults in the mixture, its routers, and the attention weights that are watched."""

MIXTURE, ATTENTION = "moa_jax/method/mixture.py", "moa_jax/backbone/attention.py"
ROUTER = "moa_jax/method/router.py"
MODEL = "moa_jax/method/model.py"
T, A = "tests/method/test_mixture.py::test_", "tests/backbone/test_attention.py::test_"
MIX, TURN = f"{T}mix_weighs_pixel_by_pixel", f"{T}turning_multiplies"
TURN += "_what_is_added_and_leaves_the_rest_to_the_prior"
ALONE = f"{T}each_expert_alone_gives_its_own_answer"
ROUTERS = f"{T}routers_start_near_the_prior_and_learn"
SHARE, MLP = f"{T}added_experts_share_the_initial_weight", f"{T}the_mlp_router_is_an_mlp"
FIXED = f"{T}fixed_routers_hold_what_their_names_say"
TOLD = f"{T}a_router_is_told_its_block_and_sees_the_layers_input"
DIAL = f"{T}the_dial_of_its_own_block_turns_a_layer_and_what_it_shows"
OBSERVED = f"{T}observed_attention_is_what_the_expert_used"
HANDED = f"{T}every_expert_attends_by_the_function_that_is_handed_in"
COPY = f"{T}experts_copy_the_prior_in_float32"
COLUMNS = f"{A}weights_and_gradients_are_the_softmaxs_columns"
NO_TOKEN = f"{A}no_token_has_no_gradient_however_unlikely_the_others"
LOW = f"{A}logits_of_low_precision_are_summed_in_float32"
READ = "tests/method/test_model.py::test_losses_read_the_layers_that_they_are_meant_to"

MUTATIONS = [
    (
        "every expert has the prior's weight",
        MIXTURE,
        "routing[..., expert, None]",
        "routing[..., 0, None]",
        MIX,
    ),
    (
        "the mixture is float32 in a bfloat16 network",
        MIXTURE,
        "weighted[0]).astype(outputs[0].dtype)",
        "weighted[0])",
        MIX,
    ),
    (
        "the experts' outputs are not made float32",
        MIXTURE,
        "output.astype(jnp.float32)",
        "output",
        MIX,
        "the routing is float32, and so is its product with anything",
    ),
    (
        "the dial goes past everything",
        MIXTURE,
        "jnp.minimum(dial, limit)",
        "dial",
        TURN,
    ),
    (
        "the prior keeps its weight when the dial turns",
        MIXTURE,
        "prior = 1.0 - jnp.sum(added, axis=-1, keepdims=True)",
        "prior = routing[..., :1]",
        TURN,
    ),
    ("the dial turns the prior", MIXTURE, "routing[..., 1:]", "routing[..., :-1]", TURN),
    (
        "the added experts share less than the initial weight",
        ROUTER,
        "personalized_weight / (experts - 1)",
        "personalized_weight / experts",
        SHARE,
    ),
    (
        "the initial weight is the prior's",
        ROUTER,
        "[1 - personalized_weight] + [added] * (experts - 1)",
        "[added] * (experts - 1) + [1 - personalized_weight]",
        SHARE,
    ),
    (
        "routing is a softmax over rows",
        ROUTER,
        "hidden.astype(jnp.float32)), axis=-1)",
        "hidden.astype(jnp.float32)), axis=1)",
        ROUTERS,
    ),
    (
        "the router does not start at its bias",
        ROUTER,
        "kernel_init=nn.initializers.zeros",
        "kernel_init=nn.initializers.lecun_normal()",
        ROUTERS,
    ),
    (
        "the MLP router has no GELU",
        ROUTER,
        "_logits(nn.gelu(hidden, approximate=False))",
        "_logits(hidden)",
        MLP,
    ),
    (
        "a fixed router holds the personalized expert",
        ROUTER,
        "weights: tuple[float, ...] = (1.0, 0.0)",
        "weights: tuple[float, ...] = (0.0, 1.0)",
        FIXED,
    ),
    (
        "a single branch keeps half of the prior",
        ROUTER,
        "weights: tuple[float, ...] = (0.0, 1.0)",
        "weights: tuple[float, ...] = (0.5, 0.5)",
        FIXED,
    ),
    ("router=mlp builds a linear one", ROUTER, '"mlp": MLPRouter', '"mlp": LinearRouter', FIXED),
    (
        "the prior sees the subjects",
        MIXTURE,
        "hidden, attended[PRIOR], watch",
        "hidden, attended[1], watch",
        ALONE,
    ),
    ("experts see the plain text", MIXTURE, "= attended[number],", "= attended[0],", ALONE),
    (
        "the expert's attention is not shown",
        MIXTURE,
        "context.tokens if self.cross else None",
        "None",
        OBSERVED,
    ),
    (
        "an expert chooses its own attention function",
        MIXTURE,
        "                attend=self.attend,\n",
        "",
        HANDED,
    ),
    (
        "the router sees other features",
        MIXTURE,
        "router(hidden, context)",
        "router(2 * hidden, context)",
        TOLD,
    ),
    (
        "every router believes to be in block 0",
        MIXTURE,
        "block=self.block, name=ROUTER",
        "block=0, name=ROUTER",
        TOLD,
    ),
    (
        "one dial for all blocks",
        MIXTURE,
        "context.dial[self.block]",
        "context.dial[0]",
        DIAL,
    ),
    (
        "the routing that is shown is not the dial's",
        MIXTURE,
        "return self.finish(outputs, routing)",
        "return self.finish(outputs, router(hidden, context))",
        DIAL,
    ),
    ("self-attention has no experts", MIXTURE, '("attn1", "attn2")', '("attn2",)', COPY),
    (
        "experts of a half precision base learn in half precision",
        MODEL,
        "dtype=jnp.float32 if floating else None, copy=True",
        "copy=True",
        COPY,
    ),
    (
        "L_router reads the last block",
        MODEL,
        "self.blocks[skip : len(self.blocks) - skip]",
        "self.blocks[skip:]",
        READ,
    ),
    (
        "L_object reads the last stage",
        MODEL,
        "outer = {stages[0], stages[-1]}",
        "outer = {stages[0]}",
        READ,
    ),
    ("no scale on the watched logits", ATTENTION, "query.shape[-1] ** -0.5", "1.0", COLUMNS),
    ("S is a token", ATTENTION, "(tokens < size)", "(tokens <= size)", COLUMNS),
    ("-1 is a token", ATTENTION, "((tokens >= 0) & (tokens < size))", "(tokens < size)", NO_TOKEN),
    (
        "the watched logits are summed in bfloat16",
        ATTENTION,
        ", preferred_element_type=jnp.float32",
        "",
        LOW,
    ),
]

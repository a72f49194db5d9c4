"""Faults in what may be replaced from outside: names, variants, their checks, what is saved."""

VARIANT, MODEL = "moa_jax/method/variant.py", "moa_jax/method/model.py"
TRAINED, WEIGHTS = "moa_jax/method/trained.py", "moa_jax/method/weights.py"
EXTENSION, MIXTURE = "moa_jax/extension.py", "moa_jax/method/mixture.py"
CHECKS, OBJECTIVE = "moa_jax/testing/checks.py", "moa_jax/training/objective.py"
REMEMBER = "moa_jax/backbone/remember.py"
V, E = "tests/method/test_variant.py::test_", "tests/test_extension.py::test_"
SOUND = f"{V}a_sound_variant_passes_all_checks"
EVERYTHING = f"{SOUND}[tests.method.variants:Everything-method3]"
THREE = f"{SOUND}[tests.method.variants:ThreeExperts-method2]"
LORA = f"{SOUND}[examples.lora_expert:Lora(rank=2)-method4]"
PLAIN = f"{SOUND}[moa-method0]"
BROKEN = f"{V}what_breaks_a_promise_is_named"
FILES = f"{E}a_file_names_no_code_that_was_not_imported"

MUTATIONS = [
    (
        "a downloaded file may name any module",
        EXTENSION,
        'if module.partition(".")[0] != "moa_jax" and module not in sys.modules:',
        "if False:",
        FILES,
    ),
    (
        "any module whose name begins with moa_jax is trusted",
        EXTENSION,
        'if module.partition(".")[0] != "moa_jax" and',
        'if not module.startswith("moa_jax") and',
        FILES,
    ),
    (
        "options of a name are not filled in",
        EXTENSION,
        "return partial(found, **name.options) if name.options else found",
        "return found",
        f"{E}a_function_gets_its_options",
    ),
    (
        "a wrong option is found out only when it is called",
        EXTENSION,
        "for option in () if open_ended else name.options:",
        "for option in ():",
        f"{E}a_function_gets_its_options",
    ),
    (
        "experts do not start as the prior",
        VARIANT,
        "if leaf is not None and leaf.shape == added[path].shape",
        "if False",
        PLAIN,
    ),
    (
        "the shape of a copy is not looked at",
        VARIANT,
        "if leaf is not None and leaf.shape == added[path].shape",
        "if leaf is not None",
        PLAIN,
        "MoA's own experts have the prior's shapes; a narrower expert has other names (LoRA)",
    ),
    (
        "a variant that is named anew need not be equal",
        VARIANT,
        "if resolve(name) == variant:",
        "if resolve(name):",
        f"{V}what_cannot_be_named_again_is_refused",
        "a name that holds an option's repr either makes it again or is no literal, and refused",
    ),
    (
        "the feed-forward network's own weights are taken for the prior's",
        TRAINED,
        r'    r"|ff\.(?!(?:net\.0\.proj|net\.2)\.(?:kernel|bias)$))"',
        '    r")"',
        EVERYTHING,
    ),
    (
        "the prior's projections are taken for added ones",
        TRAINED,
        r"attn[12]\.(?!(?:to_q|to_k|to_v|to_out\.0)\.(?:kernel|bias)$)",
        r"attn[12]\.",
        PLAIN,
    ),
    (
        "what a variant fixes learns all the same",
        TRAINED,
        "return is_added(path) and resolve(method.mixture).learns(path)",
        "return is_added(path)",
        EVERYTHING,
    ),
    (
        "what a variant fixes is not expected in the file",
        WEIGHTS,
        "if key in learning | carried or is_added(key)]",
        "if key in learning]",
        EVERYTHING,
    ),
    (
        "the shared arrays do not reach the layers",
        MODEL,
        'shared = params.get("variant")',
        "shared = None",
        EVERYTHING,
    ),
    (
        "what is sown beside the routing is lost",
        MODEL,
        'extra[".".join(path)] = value',
        "pass",
        EVERYTHING,
    ),
    (
        "a prediction of one's own is not asked",
        MODEL,
        "return self.variant.predict(run, context)",
        "return run(context)",
        f"{BROKEN}[variant4-prior_at_start]",
    ),
    (
        "the image features are as wide as ever",
        MODEL,
        'if not self.variant.replaces("look"):',
        "if True:",
        EVERYTHING,
    ),
    (
        "the second expert takes the first one's name",
        MIXTURE,
        "                name=name,\n",
        '                name="personalized",\n',
        THREE,
    ),
    (
        "an expert cannot see the prior's projections",
        MIXTURE,
        "                prior=prior,\n",
        "",
        LORA,
    ),
    (
        "a variant's terms are not added",
        OBJECTIVE,
        "total = sum(further.values(), total)",
        "pass",
        "tests/training/test_objective_terms.py::test_a_term_of_ones_own_is_added_and_logged",
    ),
    (
        "a term may take another one's name",
        OBJECTIVE,
        "if twice := terms.keys() & (taken | further.keys()):",
        "if twice := set():",
        "tests/training/test_objective_terms.py::test_a_second_term_of_a_name_is_refused",
    ),
    (
        "nobody checks that the weights sum to one",
        CHECKS,
        "assert total <= NEARLY,",
        "assert total <= 1,",
        BROKEN,
    ),
    (
        "nobody checks that gradients arrive",
        CHECKS,
        "assert not idle,",
        "assert True,",
        BROKEN,
    ),
    (
        "nobody checks that pictures stay apart",
        CHECKS,
        'assert off <= NEARLY, f"a picture depends on the others',
        'assert True, f"a picture depends on the others',
        BROKEN,
    ),
    (
        "a variant's options do not tell its shapes apart",
        REMEMBER,
        "return [describe(value.__func__), describe(value.__self__)]",
        "return describe(value.__func__)",
        "tests/backbone/test_remember.py::test_methods_of_unequal_variants_are_told_apart",
    ),
    (
        "shapes of code outside the package are kept",
        REMEMBER,
        'if value.__module__.partition(".")[0] not in DIGESTED:',
        "if False:",
        "tests/backbone/test_remember.py::test_nothing_is_kept_of_code_that_is_not_digested",
    ),
    (
        "known latents are guesses of a step before",
        "moa_jax/sampling/compiled.py",
        "path[::iterations][::-1]",
        "path[::-iterations]",
        "tests/applications/test_edit.py::test_the_latents_on_the_way_are_those_between_the_steps",
    ),
]

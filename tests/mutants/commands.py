"""Faults in how the commands find what comes with the package, and in the words they complete."""

CONFIG, FOLDER = "moa_jax/config.py", "moa_jax/backbone/folder.py"
COMPLETION = "moa_jax/commands/completion.py"
NAME = "tests/test_config.py::test_a_config_of_the_package_goes_by_its_name_and_a_file_comes_first"
FOUND = "tests/backbone/test_folder.py::test_what_comes_with_the_package_is_found_from_any_folder"
WORD = "tests/commands/test_completion.py::test_a_word_is_completed_without_jax"
UNASKED = "tests/commands/test_completion.py::test_without_argcomplete_nothing_starts"

MUTATIONS = [
    ("a name comes before a file", CONFIG, " or Path(path).is_file() else", " else", NAME),
    ("a name is taken for a path", CONFIG, "else CONFIGS /", "else Path() /", NAME),
    ("what is here is passed over", FOLDER, " and not path.exists() and", " and", FOUND),
    ("what is not packaged is taken", FOLDER, "and installed.exists():", "and True:", FOUND),
    ("without argcomplete the work starts", COMPLETION, "sys.exit(1)", "return", UNASKED),
    (
        "the mode is not completed",
        COMPLETION,
        "if mode or not words:",
        "if mode:",
        WORD,
    ),
    (
        "numbers are completed by files",
        COMPLETION,
        "() if action.type in (int, float) else files",
        "files",
        WORD,
    ),
]

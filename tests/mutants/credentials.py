"""Faults in what signs pictures."""

CREDENTIALS, SAVE = "moa_jax/sampling/credentials.py", "moa_jax/sampling/save.py"
OPTIONS = "moa_jax/sampling/options.py"
C = "tests/sampling/test_credentials.py::test_"
SAYS = f"{C}a_picture_says_by_what_it_was_made_and_stays_the_same"
PHOTO = f"{C}a_drawing_from_a_photo_says_so_and_nothing_of_the_photo"
EVERY = f"{C}every_file_that_shows_what_was_drawn_is_signed"

MUTATIONS = [
    (
        "a drawing from a photo is a model's alone",
        CREDENTIALS,
        "SOURCES + (COMPOSITE if photo else MODEL)",
        "SOURCES + MODEL",
        PHOTO,
    ),
    (
        "a photo that was given is called a drawing",
        SAVE,
        "if name != PHOTO else []",
        "if name else []",
        PHOTO,
    ),
    (
        "a statement tells the folders of this machine",
        CREDENTIALS,
        "name: Path(path).name for",
        "name: str(path) for",
        SAYS,
    ),
    (
        "a statement holds a small picture",
        CREDENTIALS,
        '"thumbnail": {"enabled": False}',
        '"thumbnail": {"enabled": True}',
        SAYS,
    ),
    (
        "the key of another's record signs",
        OPTIONS,
        '"plugin", *CREDENTIALS, *replaced',
        '"plugin", *replaced',
        SAYS,
    ),
    (
        "moving pictures are not signed",
        SAVE,
        """    yield Path(f"{start}-routing.gif")
""",
        "",
        EVERY,
    ),
]

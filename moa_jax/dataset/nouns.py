"""Find the noun that a phrase is about: "man" in "an old man in a red coat with his dog".

The rules are for English and know no grammar beyond these lists [ours]. The phrase is cut before
the first word that begins an addition (a preposition, a relative pronoun, a comma, a participle
after the noun), and the last word that is left is the noun. A phrase that names several things,
by a plural, a number, "and" or "or", has no single noun: it is refused with the reason.
"""

import re
from dataclasses import dataclass

# A word with the marks that may stand inside it; the "s" of "man's" is none.
WORD = re.compile(
    r"(?<![^\W_])(?<![^\W_]['’])[^\W_]+(?:[-.][^\W_]+|['’](?!(?:s|d|ll|re|ve|m)\b)[^\W_]+)*",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What may be asked for by one name; each noun in the singular.
PEOPLE = _words(
    """
    person man woman boy girl child kid baby toddler infant teenager teen adult lady gentleman guy
    dude human individual someone somebody bride groom mother father mom dad parent
    grandmother grandfather grandma grandpa son daughter brother sister husband wife
    actor actress singer musician dancer artist model player athlete runner swimmer skier surfer
    skateboarder snowboarder cyclist biker rider driver pilot astronaut doctor nurse surgeon chef
    cook waiter waitress teacher student worker farmer soldier officer guard firefighter judge
    lawyer priest nun monk king queen prince princess president politician speaker reporter
    journalist photographer painter writer author scientist engineer businessperson pedestrian
    tourist hiker climber fisherman customer passenger spectator performer guitarist drummer
    pianist violinist wrestler boxer golfer batter pitcher catcher goalkeeper referee umpire coach
    """
)
ANIMALS = _words(
    """
    animal dog puppy cat kitten horse pony cow bull calf sheep lamb goat pig bird parrot duck goose
    chicken rooster owl eagle rabbit hamster mouse squirrel fox wolf bear lion tiger leopard
    elephant giraffe zebra monkey deer donkey camel turtle frog snake lizard fish pet
    """
)
LISTS = {"people": PEOPLE, "animals": ANIMALS}

_DETERMINERS = _words(
    """
    a an the this that his her its their my our your one another each
    he she it they him them himself herself itself themselves
    """
)
_NUMBERS = _words(
    """
    two three four five six seven eight nine ten eleven twelve several many some few both these
    those multiple various
    """
)
_COLLECTIVES = _words(
    "couple group crowd pair family team band bunch dozen number line row trio class audience"
)
_JOINS = _words("and or & plus")
_ADDITIONS = _words(
    """
    of in on at by with without near under over above below behind beside besides between among
    around across along against from to into onto off up down for through during inside outside
    before after toward towards next while as like than via
    who whom whose which that where when is are was were has have had being
    """
)
_PLURALS = _words("people children kids feet teeth mice geese wives wolves calves police")
_NO_PLURALS = _words("specimen omen abdomen ramen amen stamen")
_ADJECTIVES = _words(
    """
    black white red blue green yellow orange purple pink brown gray grey blond blonde gold silver
    beige tan dark light bright young old tall short big small large little thin slim
    """
)
_IRREGULAR = {"people": "person", "children": "child", "kids": "kid", "mice": "mouse"}
_MEN = _words("policeman businessman fireman postman sportsman fisherman milkman cameraman")
# Nouns in the singular whose ending says otherwise.
_SINGULAR_IN_S = _words("dress glass grass bus class princess waitress actress business cross boss")
_NOUNS_IN_ING = _words(
    """
    building painting ceiling ring king wing string swing sling wedding clothing railing awning
    earring drawing siding crossing morning evening thing something
    """
)
# Words of English that other languages seldom have; a caption with none of them is no English.
_ENGLISH = _words(
    """
    the and with of his her their its it this that these there are by from near behind under into
    through wearing standing sitting holding looking smiling playing walking men women people
    children kids
    """
)


@dataclass(frozen=True)
class Noun:
    """The noun of a phrase.

    Attributes:
        text: the noun in lower case.
        start: characters of the caption before it.
        end: characters of the caption up to its end.
    """

    text: str
    start: int
    end: int


def find_noun(caption: str, start: int, end: int) -> Noun | str:
    """Find the noun of a phrase.

    Args:
        start: characters of the caption before the phrase.
        end: characters of the caption up to its end.

    Returns:
        The noun; or, where the phrase names nothing or several things, the reason in words.
    """
    phrase = caption[start:end]
    several = f"{phrase!r} names several"
    words = [(found[0].lower(), found.span()) for found in WORD.finditer(phrase)]
    kept: list[tuple[str, tuple[int, int]]] = []
    for place, (word, span) in enumerate(words):
        following = words[place + 1][0] if place + 1 < len(words) else None
        if word in _NUMBERS or (word in _JOINS and kept and not _joins_adjectives(kept, following)):
            return several
        if kept and _begins_addition(word, following, kept[-1][0], phrase[kept[-1][1][1] :]):
            break
        if word not in _DETERMINERS | _JOINS | _ADDITIONS:
            kept.append((word, span))
    if not kept:
        return f"{phrase!r} has no noun"
    word, (first, last) = kept[-1]
    if is_plural(word) or word in _COLLECTIVES:
        return several
    return Noun(word, start + first, start + last)


def is_plural(word: str) -> bool:
    """Tell whether a noun in lower case is a plural, by its ending and a list of exceptions."""
    if word in _PLURALS or (word.endswith("men") and word not in _NO_PLURALS):
        return True
    known = PEOPLE | ANIMALS | _SINGULAR_IN_S
    return word.endswith("s") and word not in known and not word.endswith(("ss", "us", "is"))


def is_one_of(noun: str, wanted: frozenset[str] | None) -> bool:
    """Tell whether a noun is among those wanted; "policewoman" counts as "woman".

    Args:
        wanted: None means every noun.
    """
    if wanted is None or noun in wanted:
        return True
    last = re.split(r"[-.]", noun)[-1]
    suffixes = ("woman", "person", "girl", "boy")
    ending = next((each for each in suffixes if noun.endswith(each)), None)
    return bool({last, "man" if last in _MEN else ending} & wanted)


def speaks_of(phrase: str, wanted: frozenset[str] | None) -> bool:
    """Tell whether a phrase has a word, singular or plural, that is among the nouns wanted."""
    words = [found[0].lower() for found in WORD.finditer(phrase)]
    singular = [_IRREGULAR.get(word) or re.sub(r"men$", "man", word) for word in words]
    singular += [re.sub(r"ies$", "y", word) for word in words] + [
        w.removesuffix("s") for w in words
    ]
    return any(is_one_of(word, wanted) for word in singular)


def parse_wanted(text: str) -> frozenset[str] | None:
    """Read which nouns are subjects.

    Args:
        text: "all", or names with commas between: "people", "animals", or nouns in the singular.

    Returns:
        The nouns; None for "all".
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if "all" in names:
        return None
    return frozenset().union(*(LISTS.get(name, {name}) for name in names))


def is_english(caption: str) -> bool:
    """Tell whether a caption has a word by which English is known."""
    words = {found[0].lower() for found in WORD.finditer(caption)}
    article = words & {"a", "an"}  # with a noun, as "son" and "pilot" are words elsewhere too
    return bool(words & _ENGLISH or (article and words & (PEOPLE | ANIMALS)))


def _joins_adjectives(kept: list, following: str | None) -> bool:
    """Tell whether "and" joins two adjectives ("a black and white dog"), not two things."""
    return kept[-1][0] in _ADJECTIVES and following in _ADJECTIVES


def _begins_addition(word: str, following: str | None, noun: str, after: str) -> bool:
    """Tell whether a word begins what is said about the noun before it.

    Args:
        following: the word after it; None at the end of the phrase.
        noun: the last word before it that may be the noun.
        after: the phrase from the end of that word.
    """
    known = is_one_of(noun, PEOPLE | ANIMALS) or is_plural(noun)
    if word in _ADDITIONS or word.isdigit() or (known and word == "number"):
        return True
    if known and re.match(r"\s*[,;:(\[]", after):
        return True
    participle = word.endswith(("ing", "ed")) and word not in _NOUNS_IN_ING
    ends = following is None or following in _DETERMINERS | _ADDITIONS | _NUMBERS
    return participle and (known or ends)

"""Faults in the page's parts that need no browser: words, links, pictures, the line, HTML."""

PROMPT, LINK = "moa_jax/page/prompt.py", "moa_jax/page/link.py"
PEOPLE, UPLOADS = "moa_jax/page/people.py", "moa_jax/page/uploads.py"
JOBS, VIEWS, SESSION = "moa_jax/page/jobs.py", "moa_jax/page/views.py", "moa_jax/page/session.py"
WORDS, LINKS = "tests/page/test_prompt.py", "tests/page/test_link.py"
PICTURES, LINE = "tests/page/test_people.py", "tests/page/test_jobs.py"
HTML, VISITOR = "tests/page/test_views.py", "tests/page/test_session.py"

MUTATIONS = [
    (
        "markers come in the order of the clicks",
        PROMPT,
        "bound = sorted(word for word in bindings if word < len(words))",
        "bound = [word for word in bindings if word < len(words)]",
        WORDS,
    ),
    (
        "an edit moves the binding to the word of the same number",
        PROMPT,
        "kept[b + word - a] = bindings[word]",
        "kept[word] = bindings[word]",
        WORDS,
    ),
    (
        "a word typed before another takes its subject",
        PROMPT,
        "(word.endswith(other), Sequence",
        "(False, Sequence",
        WORDS,
    ),
    (
        "a link may name any sampler, and with it code",
        LINK,
        'if values.get("sampler", start.sampler) not in samplers:',
        "if False:",
        LINKS,
    ),
    (
        "a link may name people who are not there",
        LINK,
        "int(text) < people",
        "int(text) >= 0",
        LINKS,
    ),
    (
        "a picture keeps its EXIF",
        PEOPLE,
        'Person(Image.frombytes("RGB", picture.size, picture.tobytes()), blob.name)',
        "Person(picture, blob.name)",
        PICTURES,
    ),
    (
        "a picture of any size is decoded",
        PEOPLE,
        "if width * height > MAX_PIXELS:",
        "if width * height < 0:",
        PICTURES,
    ),
    (
        "an uploaded file stays",
        UPLOADS,
        "path.unlink(missing_ok=True)",
        "pass",
        PICTURES,
    ),
    (
        "a job under way cannot be stopped",
        JOBS,
        "raise Stopped\n",
        "pass\n",
        f"{LINE}::test_a_job_under_way_stops_at_its_next_report",
    ),
    (
        "a prompt's words are markup",
        VIEWS,
        'f"{escape(word.text)}{badge}</button>"',
        'f"{prompt}{badge}</button>"',
        HTML,
    ),
    (
        "a file's name is markup",
        VIEWS,
        'who = f"subject {subject}, {escape(person.name)}"',
        'who = f"subject {subject}, {person.name}"',
        HTML,
    ),
    (
        "whoever is taken away leaves the words bound",
        SESSION,
        "            del self.people[subject - 1]\n            self.bindings = without(",
        "            del self.people[subject - 1]\n            without(",
        VISITOR,
    ),
]

"""Faults in what becomes of references: parsed, drawn, shown, packed, encoded, and kept apart."""

REFERENCES = "moa_jax/data/references.py"
EXAMPLES, LOADER = "moa_jax/data/examples.py", "moa_jax/data/loader.py"
PACK, ENCODED = "moa_jax/data/pack.py", "moa_jax/data/encoded.py"
ENCODING, RESIDENT = "moa_jax/training/encoding.py", "moa_jax/training/resident.py"
R, K = "tests/data/test_references.py::test_", "tests/data/test_references_kept.py::test_"
E, D = "tests/training/test_encoding_references.py::test_", "tests/training/test_resident.py::test_"
EVENLY = f"{R}one_is_drawn_evenly_as_often_as_asked_for"
WHOLE = f"{R}a_picture_of_the_subject_alone_is_shown_whole_and_a_masked_one_cut_out"
MET = f"{R}only_the_reference_to_show_is_read_and_what_was_met_before_decides_nothing"
DIGEST = f"{R}a_changed_reference_tells_in_the_digest_of_its_record_alone"
OLDER = f"{K}a_folder_with_references_has_a_format_that_older_readers_refuse"

MUTATIONS = [
    (
        "a subject without references uses up a draw",
        REFERENCES,
        "if not count or random.random() >= probability:",
        "if random.random() >= probability or not count:",
        f"{D}without_references_examples_are_those_from_before_there_were_any",
    ),
    (
        "the last reference is never drawn",
        REFERENCES,
        "return int(random.integers(count))",
        "return int(random.integers(max(count - 1, 1)))",
        EVENLY,
    ),
    (
        "the crop is shown as often as a reference should be",
        REFERENCES,
        "random.random() >= probability",
        "random.random() < probability",
        EVENLY,
    ),
    (
        "the reference is never shown",
        EXAMPLES,
        "    if subject.references:\n        return subject.references[0].show(random)\n",
        "",
        WHOLE,
    ),
    (
        "all of a masked reference is shown",
        REFERENCES,
        "if self.mask is None:",
        "if self.image:",
        WHOLE,
    ),
    (
        "an empty mask of a reference is no fault",
        REFERENCES,
        '    require_mask_of(mask, image, f"{reference.mask} (the mask of {name})")\n',
        "",
        f"{R}the_check_names_every_file_that_is_missing_damaged_or_empty",
    ),
    (
        "all references are read to show one",
        LOADER,
        "draw_references(records[index], random, config.reference_probability)",
        "records[index]",
        MET,
    ),
    (
        "a change of a reference is not seen",
        "moa_jax/data/fingerprint.py",
        "(place, _stamp(reference.image), _stamp(reference.mask))",
        "(place, None, None)",
        DIGEST,
    ),
    (
        "older readers take a packed folder without its references",
        PACK,
        'index["format"] = FORMAT_2',
        "pass",
        OLDER,
    ),
    (
        "every packed folder has the new format",
        PACK,
        'if "references" in index["shards"][names[number]]:',
        "if True:",
        OLDER,
    ),
    (
        "encoded subjects have the references of those before them",
        ENCODED,
        "            first += count\n        return found",
        "        return found",
        f"{E}the_draw_is_that_of_the_pictures",
    ),
    (
        "an encoded subject is always shown by its crop",
        ENCODED,
        "shown[place] = subject.references[drawn]",
        "pass",
        f"{E}the_draw_is_that_of_the_pictures",
    ),
    (
        "references are encoded before the crops",
        ENCODING,
        "subjects += [image for cropped in chunk for image in cropped.reference_images]",
        "subjects = [i for cropped in chunk for i in cropped.reference_images] + subjects",
        f"{E}features_of_references_are_kept_beside_those_of_the_crops",
    ),
    (
        "on the devices the first reference is always shown",
        RESIDENT,
        "which, count.shape, 0, jnp.maximum(count, 1)",
        "which, count.shape, 0, 1",
        f"{D}references_are_drawn_evenly_and_as_often_as_asked_for",
    ),
    (
        "a person's reference is the picture itself",
        "moa_jax/toyworld/world/scenes.py",
        'other = f"{twin(number):05d}"',
        'other = f"{number:05d}"',
        "tests/toyworld/test_paired.py::test_references_are_the_twins_and_all_else_stays_the_same",
    ),
]

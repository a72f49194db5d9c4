"""Faults in what becomes of a record: dropout, choice, crops, masks, augmentation, the stream."""

EXAMPLES, AUGMENT = "moa_jax/data/examples.py", "moa_jax/data/augment.py"
LOADER, HUB = "moa_jax/data/loader.py", "moa_jax/data/hub_datasets.py"
IMAGES, LEDGER = "moa_jax/data/images.py", "moa_jax/data/ledger.py"
E, A = "tests/data/test_examples.py::test_", "tests/data/test_augment.py::test_"
L = "tests/data/test_loader.py::test_"
RATES, STILL = f"{E}dropout_rates", f"{E}without_augmentation_only_the_noise_is_drawn"
OUTSIDE = f"{E}a_subject_outside_the_crop_counts_as_dropped"
MANY = f"{E}too_many_subjects_are_sampled_evenly"
ABSENT = f"{E}an_absent_subject_is_zeros_and_points_past_the_caption"
SLOTS = f"{E}every_slot_speaks_of_one_subject"
DROPPED = f"{E}what_is_left_of_a_crowd_keeps_its_own_pictures_and_masks"
BOUNDS = f"{E}bounds_hold_the_mask_and_no_more"
FAULTS = f"{E}faults_of_the_instance_map"
CENTRE = f"{A}the_crop_is_the_centre"
CROP = f"{A}masks_pick_exactly_their_subject_after_the_crop"
CUT = f"{A}a_cut_out_holds_the_subject_and_noise_elsewhere"
CHANGES, OFTEN = f"{A}each_change_is_what_its_name_says", f"{A}each_change_comes_as_often"
OFTEN += "_as_in_fastcomposer"
COLOUR = f"{A}colour_changes_reach_half_and_one_and_a_half"
SQUARE = f"{A}a_subject_is_padded_to_a_square_with_its_shape_kept"
RESUME, HOSTS = f"{L}it_resumes_on_the_exact_next_batch", f"{L}the_hosts_of_a_step_read"
HOSTS += "_the_same_batch_whatever_their_number"
EPOCHS = f"{L}each_epoch_shows_every_picture_once_in_its_own_order"
SEED = f"{L}the_seed_moves_the_order"
DRAWS, BAD = f"{L}the_seed_moves_the_augmentation_too", f"{L}a_bad_record_is_skipped_and_named_once"
HALF_BAD = f"{L}every_other_record_may_be_bad"
H = "tests/data/test_hub_datasets.py::test_"
SPLITS, LISTING = f"{H}splits", f"{H}the_listing_tells_when_a_file_was_written_again"
BAD_ROWS = f"{H}bad_rows_are_reported_like_those_of_other_layouts"

MUTATIONS = [
    (
        "conditions are dropped where they should stay",
        EXAMPLES,
        "random.random() < config.condition_dropout",
        "random.random() >= config.condition_dropout",
        RATES,
    ),
    (
        "subjects are dropped where they should stay",
        EXAMPLES,
        ">= config.subject_dropout",
        "< config.subject_dropout",
        RATES,
    ),
    (
        "all subjects are dropped together",
        EXAMPLES,
        "[index for index in kept if random.random() >= config.subject_dropout]",
        "kept if random.random() >= config.subject_dropout else []",
        RATES,
    ),
    (
        "a dropped condition keeps its caption",
        EXAMPLES,
        'caption = ""',
        "caption = record.caption",
        RATES,
    ),
    (
        "a subject outside of the crop is kept",
        EXAMPLES,
        "for index, mask in enumerate(masks) if mask.any()]",
        "for index, mask in enumerate(masks)]",
        OUTSIDE,
    ),
    (
        "of too many subjects the first are chosen",
        EXAMPLES,
        "for place in random.permutation(len(kept))]",
        "for place in range(len(kept))]",
        MANY,
    ),
    (
        "subjects are not in the caption's order",
        EXAMPLES,
        "return sorted(chosen, key=lambda index: record.subjects[index].end)",
        "return chosen",
        SLOTS,
    ),
    (
        "one subject too few is chosen",
        EXAMPLES,
        "list(by_word.values())[:max_subjects]",
        "list(by_word.values())[: max_subjects - 1]",
        MANY,
    ),
    (
        "the pictures are those of the first subjects, not of those kept",
        EXAMPLES,
        "(record.subjects[index] for index in kept)",
        "record.subjects[: len(kept)]",
        DROPPED,
    ),
    (
        "the masks are those of the first subjects, not of those kept",
        EXAMPLES,
        "[masks[i] for i in kept]",
        "masks[: len(kept)]",
        DROPPED,
    ),
    (
        "the words are those of the first subjects, not of those kept",
        EXAMPLES,
        "[record.subjects[index].end for index in kept]",
        "[subject.end for subject in record.subjects[: len(kept)]]",
        DROPPED,
    ),
    (
        "absent subjects point at the first token",
        EXAMPLES,
        "np.int32, len(input_ids), encoded",
        "np.int32, 0, encoded",
        ABSENT,
    ),
    (
        "one subject more than there are is present",
        EXAMPLES,
        "np.arange(max_subjects) < len(kept)",
        "np.arange(max_subjects) <= len(kept)",
        ABSENT,
    ),
    (
        "pictures are flipped without augmentation",
        EXAMPLES,
        "flip = config.augment and random.random() < 0.5",
        "flip = random.random() < 0.5",
        STILL,
    ),
    (
        "pictures are never flipped",
        EXAMPLES,
        "flip = config.augment and random.random() < 0.5",
        "flip = config.augment and random.random() < 0.0",
        STILL,
    ),
    (
        "a mask's last row is outside of its box",
        IMAGES,
        "int(columns[-1]) + 1, int(rows[-1]) + 1",
        "int(columns[-1]) + 1, int(rows[-1])",
        BOUNDS,
    ),
    (
        "a box may begin outside of the picture",
        EXAMPLES,
        "max(left, 0), max(top, 0)",
        "left, max(top, 0)",
        FAULTS,
    ),
    (
        "the segment of another subject",
        EXAMPLES,
        "mask = instances == subject.mask",
        "mask = instances == count",
        FAULTS,
    ),
    (
        "a landscape picture is cropped at its left",
        AUGMENT,
        "left, top = (image.width - wide) // 2,",
        "left, top = 0,",
        CENTRE,
    ),
    (
        "a portrait picture is cropped at its top",
        AUGMENT,
        "(image.height - high) // 2\n    box",
        "0\n    box",
        CENTRE,
    ),
    (
        "masks are not flipped with their picture",
        AUGMENT,
        "[mask[:, ::-1] for mask in cropped]",
        "cropped",
        CROP,
    ),
    (
        "masks are not cropped with their picture",
        AUGMENT,
        "resize(size, NEAREST, box=box)",
        "resize(size, NEAREST)",
        CROP,
    ),
    (
        "the background is kept and the subject replaced",
        AUGMENT,
        "np.where(inside, subject, noise)",
        "np.where(inside, noise, subject)",
        CUT,
    ),
    (
        "the noise is never white",
        AUGMENT,
        "random.integers(0, 256, subject.shape",
        "random.integers(0, 255, subject.shape",
        CUT,
    ),
    (
        "a subject is padded at its right and bottom only",
        AUGMENT,
        "((side - image.width) // 2, (side - image.height) // 2)",
        "(0, 0)",
        SQUARE,
    ),
    (
        "a wide subject is padded by the zoom",
        AUGMENT,
        "min(image.width, image.height)))",
        "image.width))",
        CHANGES,
    ),
    ("rotation to one side only", AUGMENT, "uniform(-30, 30)", "uniform(0, 30)", CHANGES),
    ("half of the blur", AUGMENT, "uniform(0.1, 2.0)", "uniform(0.1, 1.0)", CHANGES),
    ("grey as often as the rest", AUGMENT, "random.random() < 0.1", "random.random() < 0.5", OFTEN),
    ("half of the hue's turn", AUGMENT, "round(turn * 256)", "round(turn * 128)", COLOUR),
    (
        "hosts read each other's rows",
        LOADER,
        "+ self._rows[row]]",
        "+ row]",
        HOSTS,
    ),
    (
        "hosts leave pictures out",
        LOADER,
        "start + batch * self._batch_size",
        "start + batch * self._batch_size * 2",
        HOSTS,
    ),
    (
        "the place counts this host's rows alone",
        LOADER,
        "self._examples += self._batch_size",
        "self._examples += len(self._rows)",
        HOSTS,
    ),
    (
        "what was read ahead is given after resuming",
        LOADER,
        "        self.close()\n        self._examples",
        "        self._examples",
        RESUME,
    ),
    ("every seed has one order", LOADER, ".shuffle(seed)", ".shuffle(0)", SEED),
    ("every epoch has one order", LOADER, ".repeat()", ".repeat(reseed_each_epoch=False)", EPOCHS),
    ("every seed has one augmentation", LOADER, "seed=draws", "seed=0", DRAWS),
    (
        "a bad record is tried again and again",
        LOADER,
        "((first + skipped) % count, square)",
        "(first % count, square)",
        BAD,
    ),
    (
        "one bad record too many is refused",
        LEDGER,
        "bad > self._max * self._records",
        "bad >= self._max * self._records",
        HALF_BAD,
    ),
    (
        "the rows of the last split are all that there are",
        HUB,
        "first += len(part)",
        "first = len(part)",
        SPLITS,
    ),
    (
        "of all splits the first is read only",
        HUB,
        "chosen = {split: chosen[split]}",
        "chosen = dict([*chosen.items()][:1])",
        SPLITS,
    ),
    (
        "the listing does not know the files",
        HUB,
        "return dataset._fingerprint, len(dataset), files",
        "return dataset._fingerprint, len(dataset)",
        LISTING,
    ),
    (
        "a null mask is left out without a word",
        HUB,
        "for count, mask in enumerate(masks, start=1)]",
        "for count, mask in enumerate(filter(None, masks), start=1)]",
        BAD_ROWS,
    ),
]

"""The page's components and where they stand; `app` says what they do.

Everything that is shown is HTML of `views`, with pictures inside it, so Gradio stores no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from moa_jax.page import actions, views
from moa_jax.page.people import example
from moa_jax.page.session import Session
from moa_jax.page.setup import MAX_PROMPT, RANGES, Setup
from moa_jax.page.studio import FRAMES
from moa_jax.page.uploads import make_uploads

STYLE = Path(__file__).with_name("page.css")
HEAD = """
<h1>Put people into pictures</h1>
<p>Drop pictures of people, write a scene, and click the words that they are.</p>
"""
SESSION = 3600  # seconds that a visitor's pictures stay in memory after the page was closed

# Sends the number of the pressed button, and gives it the focus back when the HTML has changed.
PRESS = """
let last = null;
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-at]');
  if (!button) return;
  last = button.dataset.at;
  trigger('pick', {at: Number(last)});
});
watch('value', () => {
  const lost = document.activeElement === document.body || document.activeElement === null;
  const button = last === null ? null : element.querySelector(`[data-at="${last}"]`);
  if (lost && button) button.focus({preventScroll: true});
  last = null;
});
"""
# Completes the link of the picture, puts it into the address bar, and copies it.
ADDRESS = """
watch('value', () => {
  const field = element.querySelector('input');
  if (!field) return;
  field.value = location.origin + location.pathname + field.dataset.query;
  history.replaceState(null, '', field.value);
});
element.addEventListener('click', (event) => {
  if (!event.target.closest('button')) return;
  const field = element.querySelector('input');
  field.select();
  if (navigator.clipboard) navigator.clipboard.writeText(field.value);
  else document.execCommand('copy');  // a page that is served without https
  event.target.textContent = 'Copied';
});
"""
# Shows the frame that the slider stands at.
SLIDE = """
element.addEventListener('input', (event) => {
  element.querySelectorAll('.moa-frames img').forEach((frame, i) => {
    frame.hidden = i !== Number(event.target.value);
  });
});
"""


@dataclass(frozen=True)
class Options:
    """What the page offers.

    Attributes:
        start: what stands in the form at first.
        samplers: to choose from.
        examples: how many people of the toy world; 0 on another base.
        words: what can be written, for a small world that knows few words; "" for any.
    """

    start: Setup
    samplers: Sequence[str]
    examples: int = 0
    words: str = ""


def look() -> dict[str, Any]:
    """Give the arguments of `launch` that say how the page looks: with the system's fonts alone."""
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="zinc",
        radius_size="lg",
        font=system,
        font_mono=["ui-monospace", "monospace"],
    ).set(  # a shade darker than the theme's, for white letters on it
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
    return {"theme": theme, "css": STYLE.read_text(encoding="utf-8")}


def _shown(value: str = "", script: str | None = None, **options: Any) -> Any:
    return gr.HTML(value, js_on_load=script, apply_default_css=False, **options)


def _pressable(value: str = "", **options: Any) -> Any:
    return _shown(value, PRESS, **options)


class Layout:
    """The components by name; to be made inside of a `gr.Blocks`."""

    def __init__(self, options: Options, places: int) -> None:
        """Lay the page out.

        Args:
            places: how many pictures of people there may be.
        """
        self._options, self._places = options, places
        self.session = gr.State(Session(), time_to_live=SESSION)
        _shown(HEAD, elem_classes="moa-head")
        with gr.Row(elem_classes="moa-columns"):
            with gr.Column(scale=5, min_width=320):
                self._lay_out_people()
                self._lay_out_prompt()
                with gr.Row(elem_classes="moa-go"):
                    self.go = gr.Button("Draw", variant="primary", size="lg", scale=3)
                    self.stop = gr.Button("Stop", size="lg", scale=1, interactive=False)
                self._lay_out_settings()
            with gr.Column(scale=6, min_width=320):
                self._lay_out_stage()
                self._lay_out_tabs()

    def _lay_out_people(self) -> None:
        with gr.Group(elem_classes="moa-card"):
            _shown("<h2>1. Who</h2>")
            self.strip = _pressable(views.people_strip([], self._places))
            self.uploads = make_uploads(
                label="Pictures of people",
                file_count="multiple",
                file_types=["image"],
                height=96,
                elem_classes="moa-drop",
                visible=self._places > 0,
            )
            people = [example(number) for number in range(self._options.examples)]
            self.examples = _pressable(
                views.hint("or take somebody who lives here")
                + views.picker(people, None, "People of the toy world"),
                visible=bool(people),
            )

    def _lay_out_prompt(self) -> None:
        with gr.Group(elem_classes="moa-card"):
            _shown("<h2>2. What they do</h2>")
            self.prompt = gr.Textbox(label="Prompt", lines=2, max_lines=5, max_length=MAX_PROMPT)
            self.chips = _pressable(views.chips("", {}, 0))
            if self._options.words:
                with gr.Accordion("Words that this small world knows", open=False):
                    gr.Markdown(self._options.words)

    def _lay_out_settings(self) -> None:
        start = self._options.start
        with gr.Group(elem_classes="moa-card"):
            self.dial = _slider(
                "dial", start, 0.05, "How much of the people (the dial)",
                "0 is plain Stable Diffusion, 1 is as trained, and more insists on them.",
            )  # fmt: skip
            with gr.Accordion("More settings", open=False):
                self.seed = gr.Number(start.seed, label="Seed", precision=0, minimum=0)
                self.fresh = gr.Checkbox(True, label="A new seed for every picture")
                self.steps = _slider("steps", start, 1, "Steps", "More take longer.")
                self.guidance = _slider(
                    "guidance", start, 0.5, "Guidance", "How closely to follow the prompt."
                )
                self.sampler = gr.Dropdown(
                    list(self._options.samplers), value=start.sampler, label="Sampler"
                )
                self.negative = gr.Textbox(
                    start.negative, label="Negative prompt", max_length=MAX_PROMPT
                )

    def _lay_out_stage(self) -> None:
        self.stage = _shown(views.stage(), elem_classes="moa-stage")
        self.history = _pressable(views.history([], 0))
        self.link = _shown(script=ADDRESS)

    def _lay_out_tabs(self) -> None:
        with gr.Tabs():
            with gr.Tab("Who drew what"):
                with gr.Row(visible=False) as self.looking:
                    self.layers = gr.Dropdown([actions.ALL], value=actions.ALL, label="Layers")
                    self.step = gr.Slider(0, 1, 0, step=1, label="Step (0: all of them)")
                self.routing = _shown(views.hint(actions.DRAW_FIRST), elem_classes="moa-stage")
                self.all = gr.Button("Every stage in one figure", size="sm", visible=False)
                self.sheet = _shown(elem_classes="moa-sheet")
            with gr.Tab("Swap"):
                _shown(views.hint("The same noise, with somebody else."))
                self.swapped, self.swap_to = self._lay_out_change()
                self.swap = gr.Button("Swap", variant="primary")
                self.pair = _shown(elem_classes="moa-stage")
            with gr.Tab("Morph"):
                _shown(views.hint("Somebody becomes somebody else."))
                self.morphed, self.morph_to = self._lay_out_change()
                least, most = FRAMES
                self.count = gr.Slider(least, most, 6, step=1, label="Frames")
                self.morph = gr.Button("Morph", variant="primary")
                self.frames = _shown(elem_classes="moa-stage", script=SLIDE)

    def _lay_out_change(self) -> tuple[Any, Any]:
        who = gr.Radio([], label="Who changes", visible=False)
        return who, _pressable()


def _slider(name: str, start: Setup, step: float, label: str, info: str) -> gr.Slider:
    least, most = RANGES[name]
    return gr.Slider(least, most, getattr(start, name), step=step, label=label, info=info)

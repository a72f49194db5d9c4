// The interactive picture of how-it-works.md: which expert draws, by layer and step.
// `routingSheet` (rows' names, and the mean weight at each step) and the sheet of maps are written
// by examples/gallery.py. The two sliders are ordinary inputs, so that arrow keys move them.

const figure = document.getElementById("routing");
const rows = Object.keys(routingSheet);
const steps = routingSheet[rows[0]].length;
const [step, layer] = figure.querySelectorAll("input");

function show() {
  const row = Number(layer.value);
  const column = Number(step.value) - 1;
  const x = (100 * column) / (steps - 1);
  const y = (100 * row) / (rows.length - 1);
  for (const map of figure.querySelectorAll(".map")) {
    map.style.backgroundSize = `${100 * steps}% ${100 * rows.length}%`;
    map.style.backgroundPosition = `${x}% ${y}%`;
  }
  const weight = Math.round(100 * routingSheet[rows[row]][column]);
  const [stepNow, layerNow, told] = figure.querySelectorAll("output");
  stepNow.value = `${column + 1} of ${steps}`;
  layerNow.value = rows[row];
  told.value = `The personalized expert's mean weight here is ${weight} %.`;
  step.setAttribute("aria-valuetext", stepNow.value);
  layer.setAttribute("aria-valuetext", layerNow.value);
}

step.max = steps;
layer.max = rows.length - 1;
step.addEventListener("input", show);
layer.addEventListener("input", show);
figure.hidden = false;
show();

// SPDX-License-Identifier: Apache-2.0
// The page: it shows a case, and reacts to mouse, keys and controls.
"use strict";

const element = (id) => document.getElementById(id);
const picked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const pick = (name, value) => { document.querySelector(`input[name=${name}][value="${value}"]`).checked = true; };
const ratio = () => window.devicePixelRatio || 1;

const view = {
  description: null, // the server's description of the case
  stack: null,
  voxel: [0, 0, 0], // the cursor: a voxel of the result, along the axes nearest to right, front, head
  plane: 2, // the plane that was used last
  centre: [0, 0, 0], // of the picture, mm of the common frame
  zoom: 1,
  wipe: 0.5,
  window: [0, 1],
  firstWindow: [0, 1],
  ruler: null, // { from, to } world points in RAS mm; `to` may be missing
  loading: 0, // counts the requested cases, so that a slow one does not overwrite the next
};
const acquired = new Pane(element("acquired"));
const result = new Pane(element("result"));
const panes = [acquired, result];

// ---- the cursor

const world = () => result.toWorld(view.voxel.map((v, i) => (v + 0.5) / result.counts[i]));

// Thin coordinate of the cursor: a whole number, because the cursor is always at the centre of a voxel of the result.
const thinSlice = () => Math.round(transform(view.stack.world_to_result, world())[view.stack.thick_axis]);

function moveTo(voxel) {
  view.voxel = voxel.map((v, i) => clamp(Math.round(v), 0, result.counts[i] - 1));
  refresh();
}

function step(axis, count) {
  const voxel = [...view.voxel];
  voxel[axis] += count;
  moveTo(voxel);
}

// Go to a thin slice, by its number in the file; the position within the slice does not change.
function goToThin(thin) {
  const axis = view.thickWorldAxis;
  const voxel = [...view.voxel];
  voxel[axis] += view.thickSign * (clamp(thin, 0, view.stack.result_slices - 1) - thinSlice());
  moveTo(voxel);
}

// Go to the centre of the next acquired slice, in the order of the scan.
function stepAcquired(direction) {
  const here = whereInStack(view.stack, thinSlice());
  goToThin(thinSliceOf(view.stack, clamp(here.slice + direction, 0, view.stack.centres.length - 1)));
}

// ---- drawing

let asked = false;
function refresh() {
  if (asked || !result.volume) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    draw();
  });
}

function shownPlanes() {
  const plane = picked("plane");
  return plane === "all" ? [2, 1, 0] : [Number(plane)];
}

// Position of the tiles, and the part of a volume of these lengths that each of them shows.
function arrange(lengths) {
  const beside = shownPlanes().length > 1 ? "rows" : "columns";
  element("panes").className = picked("layout") === "wipe" ? "wipe" : beside;
  panes.forEach((pane) => pane.resize(ratio()));
  const { width, height } = result.canvas;
  view.tiles = tilesOf(width, height, shownPlanes());
  view.scale = millimetresPerPixel(view.tiles, lengths, view.zoom);
  view.box = {};
  for (const tile of view.tiles) {
    const plane = PLANES[tile.plane];
    const half = [tile.width, tile.height].map((n) => (n * view.scale) / 2);
    const middle = [plane.across, plane.up].map((axis) => view.centre[axis]);
    view.box[tile.plane] = { low: middle.map((m, i) => m - half[i]), high: middle.map((m, i) => m + half[i]) };
  }
  return view;
}

// The acquired slices while the result is still loading.
function preview() {
  view.centre = acquired.lengths.map((length) => length / 2);
  acquired.draw(arrange(acquired.lengths), acquired.toWorld([0.5, 0.5, 0.5]));
  document.body.dataset.state = "preview";
}

function draw() {
  if (!result.volume) return;
  const wiping = picked("layout") === "wipe";
  arrange(result.lengths);
  const point = world();
  panes.forEach((pane) => pane.draw(view, point));
  result.canvas.style.clipPath = wiping ? wipeShape() : "";
  panes.forEach((pane) => drawMarks(pane, point, wiping));
  drawStrip(element("track").querySelector("canvas"), view.stack, thinSlice(), view.ends, ratio());
  tell(point);
}

// The part of each tile to the right of the line of the wipe, in CSS pixels.
function wipeShape() {
  const parts = view.tiles.map((tile) => {
    const [x, y, w, h] = [tile.x, tile.y, tile.width, tile.height].map((n) => n / ratio());
    return `M${x + view.wipe * w} ${y}H${x + w}V${y + h}H${x + view.wipe * w}Z`;
  });
  return `path("${parts.join("")}")`;
}

// Device pixels of a point of the common frame, in a tile.
function pixelOf(tile, point) {
  const plane = PLANES[tile.plane];
  const { high } = view.box[tile.plane];
  return [
    tile.x + (high[0] - point[plane.across]) / view.scale,
    tile.y + (high[1] - point[plane.up]) / view.scale,
  ];
}

function drawMarks(pane, point, wiping) {
  const pen = pane.marks.getContext("2d");
  const size = ratio();
  pen.clearRect(0, 0, pane.marks.width, pane.marks.height);
  const cursor = result.toFrame(point);
  for (const tile of view.tiles) {
    pen.save();
    pen.beginPath();
    pen.rect(tile.x, tile.y, tile.width, tile.height);
    pen.clip();
    if (element("lines").checked && PLANES[tile.plane].normal !== view.thickWorldAxis) drawSlabs(pen, tile, size);
    drawCross(pen, tile, cursor, size);
    drawRuler(pen, tile, size);
    if (wiping) drawWipe(pen, tile, size);
    drawLetters(pen, tile, size);
    if (tile.x > 0) {
      pen.fillStyle = "#363d48";
      pen.fillRect(tile.x, tile.y, size, tile.height);
    }
    pen.restore();
  }
  pen.textAlign = "left";
  if (!wiping) text(pen, nameOf(pane), 8 * size, 17 * size, `600 ${12 * size}px system-ui, sans-serif`, "#fff");
  if (!pane.contains(point) && !wiping) {
    pen.textAlign = "center";
    const [x, y] = [pane.marks.width / 2, pane.marks.height / 2];
    text(pen, "The cursor is outside this volume", x, y, `${13 * size}px system-ui, sans-serif`, "#ffb454");
  }
}

function nameOf(pane) {
  if (pane === acquired) return "Acquired";
  return pane.map && element("map").checked ? "Result + map" : "Result";
}

function text(pen, words, x, y, font, colour) {
  pen.font = font;
  pen.lineJoin = "round";
  pen.strokeStyle = "#000c";
  pen.lineWidth = 3 * ratio();
  pen.strokeText(words, x, y);
  pen.fillStyle = colour;
  pen.fillText(words, x, y);
}

// The acquired slices where they cut this plane: a line at each centre, a band where the cursor's slice lies.
function drawSlabs(pen, tile, size) {
  const plane = PLANES[tile.plane];
  const { stack } = view;
  const sideways = plane.across === view.thickWorldAxis;
  const frameAt = (thin) => {
    const point = [0, 0, 0];
    point[view.thickWorldAxis] = view.frameStart + view.thickSign * thin * result.spacing[view.thickWorldAxis];
    return pixelOf(tile, point)[sideways ? 0 : 1];
  };
  const line = (at, width) => (sideways
    ? pen.fillRect(at - width / 2, tile.y, width, tile.height)
    : pen.fillRect(tile.x, at - width / 2, tile.width, width));
  const here = whereInStack(stack, thinSlice());
  const half = slabWidth(stack) / stack.result_spacing_mm / 2;
  const apart = stack.acquired_spacing_mm / view.scale / size;
  if (here.place === "slab") {
    const [one, other] = [-half, half].map((edge) => frameAt(stack.centres[here.slice] + edge));
    pen.fillStyle = "#f2b84b26";
    line((one + other) / 2, Math.abs(one - other));
    pen.fillStyle = "#f2b84bb0";
    line(one, size);
    line(other, size);
  }
  if (apart < 3) return; // closer lines would hide the picture
  pen.fillStyle = `rgb(120 190 255 / ${clamp(0.1 + apart / 40, 0.2, 0.45)})`;
  for (const centre of stack.centres) line(frameAt(centre), size);
}

function drawCross(pen, tile, cursor, size) {
  const [x, y] = pixelOf(tile, cursor).map(Math.round);
  const gap = 7 * size;
  const edge = 22 * size; // the letters at the edges stay free
  const [left, right] = [tile.x + edge, tile.x + tile.width - edge];
  const [top, bottom] = [tile.y + edge, tile.y + tile.height - edge];
  pen.fillStyle = "#ff5a5acc";
  pen.fillRect(left, y, Math.max(0, x - gap - left), size);
  pen.fillRect(x + gap, y, Math.max(0, right - x - gap), size);
  pen.fillRect(x, top, size, Math.max(0, y - gap - top));
  pen.fillRect(x, y + gap, size, Math.max(0, bottom - y - gap));
}

function drawRuler(pen, tile, size) {
  // a bar of a round length
  const length = roundLength(Math.min(tile.width / 3, 160 * size) * view.scale);
  const [right, low, wide] = [tile.x + tile.width - 12 * size, tile.y + tile.height - 12 * size, length / view.scale];
  pen.fillStyle = "#000a";
  pen.fillRect(right - wide - size, low - size, wide + 2 * size, 4 * size);
  pen.fillStyle = "#fff";
  pen.fillRect(right - wide, low, wide, 2 * size);
  pen.textAlign = "right";
  text(pen, `${length} mm`, right, low - 5 * size, `${11 * size}px system-ui, sans-serif`, "#fff");
  if (!view.ruler?.to) return;
  const ends = [view.ruler.from, view.ruler.to].map((end) => result.toFrame(end));
  const normal = PLANES[tile.plane].normal;
  const here = result.toFrame(world())[normal];
  if (ends.some((end) => Math.abs(end[normal] - here) > result.spacing[normal] * 0.51)) return;
  const [[x0, y0], [x1, y1]] = ends.map((end) => pixelOf(tile, end));
  for (const [colour, width] of [["#000a", 4], ["#7fe0b0", 2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width * size;
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    pen.stroke();
  }
  pen.textAlign = "left";
  const [x, y] = [(x0 + x1) / 2 + 8 * size, (y0 + y1) / 2 - 6 * size];
  text(pen, rulerWords(), x, y, `600 ${12 * size}px system-ui, sans-serif`, "#7fe0b0");
}

const rulerLength = () => Math.hypot(...view.ruler.from.map((v, i) => v - view.ruler.to[i]));
const rulerWords = () => `${rulerLength().toFixed(1)} mm`;

function drawLetters(pen, tile, size) {
  const [left, right, up, down] = PLANES[tile.plane].sides;
  const font = `${11 * size}px system-ui, sans-serif`;
  const [x, y] = [tile.x + tile.width / 2, tile.y + tile.height / 2];
  pen.textAlign = "left";
  text(pen, left, tile.x + 6 * size, y, font, "#ffd98a");
  pen.textAlign = "right";
  text(pen, right, tile.x + tile.width - 6 * size, y, font, "#ffd98a");
  pen.textAlign = "center";
  text(pen, up, x, tile.y + 15 * size, font, "#ffd98a");
  text(pen, down, x, tile.y + tile.height - 8 * size, font, "#ffd98a");
  pen.textAlign = "left";
  text(pen, PLANES[tile.plane].name, tile.x + 8 * size, tile.y + tile.height - 9 * size, font, "#a9b2c0");
}

function drawWipe(pen, tile, size) {
  const x = tile.x + view.wipe * tile.width;
  const font = `600 ${12 * size}px system-ui, sans-serif`;
  pen.textAlign = "right";
  text(pen, nameOf(acquired), x - 10 * size, tile.y + 36 * size, font, "#fff");
  pen.textAlign = "left";
  text(pen, nameOf(result), x + 10 * size, tile.y + 36 * size, font, "#fff");
  pen.fillStyle = "#4da3ff";
  pen.fillRect(x - size, tile.y + 22 * size, 2 * size, tile.height - 44 * size);
  pen.beginPath();
  pen.arc(x, tile.y + tile.height * 0.86, 8 * size, 0, 2 * Math.PI);
  pen.fill();
  pen.fillStyle = "#08131f";
  for (const side of [-1, 1]) {
    pen.beginPath();
    pen.moveTo(x + side * 6 * size, tile.y + tile.height * 0.86);
    pen.lineTo(x + side * 2 * size, tile.y + tile.height * 0.86 - 4 * size);
    pen.lineTo(x + side * 2 * size, tile.y + tile.height * 0.86 + 4 * size);
    pen.fill();
  }
}

// ---- words and numbers

const number = (value) => (value === null ? "outside" : Number.isInteger(value) ? String(value) : value.toPrecision(4));

let speaking;
function tell(point) {
  const thin = thinSlice();
  const where = whereInWords(view.stack, thin);
  const sentence = `Thin slice ${thin + 1} of ${view.stack.result_slices}: ${where}`;
  element("place").textContent = placeInWords(point);
  element("value-acquired").textContent = number(acquired.valueAt(point));
  element("value-result").textContent = number(result.valueAt(point));
  element("value-map").textContent = result.map ? number(result.valueAt(point, result.map)) : "not shown";
  element("where").textContent = sentence;
  const bar = element("thin");
  bar.value = thin;
  bar.setAttribute("aria-valuetext", sentence);
  element("measured").hidden = !view.ruler;
  if (view.ruler) {
    element("measured").textContent = view.ruler.to ? `ruler ${rulerWords()}` : "ruler: set its other end";
  }
  PLANES.forEach((plane) => {
    const slider = element(`slice-${plane.normal}`);
    slider.value = view.voxel[plane.normal];
    slider.nextElementSibling.textContent = `${view.voxel[plane.normal] + 1}/${result.counts[plane.normal]}`;
  });
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    const ruler = view.ruler?.to ? `; ruler ${rulerWords()}` : "";
    element("live").textContent = `${placeInWords(point)}; ${sentence}${ruler}`;
  }, 400);
}

// A message over the pictures; while they load, it is at their lower edge. A screen reader says errors at once, but
// does not read out every per cent.
function say(message, loading = false) {
  const box = element("message");
  box.role = loading ? "progressbar" : "alert";
  box.ariaLabel = loading ? message : null;
  box.className = loading ? "loading" : "";
  box.hidden = !message;
  box.textContent = message ?? "";
}

// ---- a case

async function open(id) {
  view.loading += 1;
  const ticket = view.loading;
  document.querySelectorAll("#list button").forEach((button) => {
    button.setAttribute("aria-current", String(button.dataset.id === String(id)));
  });
  document.body.dataset.state = "loading";
  say("Loading …", true);
  const description = await describeCase(id);
  if (ticket !== view.loading) return;
  element("name").textContent = description.name;
  document.title = `${description.name}: acquired and thin slices`;
  panes.forEach((pane) => pane.clear());
  if (description.error) {
    say(description.error);
    document.body.dataset.state = "error";
    return;
  }
  Object.assign(view, { description, id, stack: description.stack, ruler: null, zoom: 1, wipe: 0.5 });
  for (const [pane, role] of [[acquired, "acquired"], [result, "result"]]) {
    const name = role === "acquired" ? "acquired slices" : "result";
    const arriving = unpackedVolume(role, description.volumes?.[role], (part) => {
      if (ticket === view.loading) say(`Loading the ${name}: ${Math.round(100 * part)} %`, true);
    });
    await nextFrame(); // show what is loaded so far before the next, slow step
    const [bytes] = await Promise.all([arriving, pane.attach()]);
    if (ticket !== view.loading) return;
    await pane.load(bytes, (volume) => {
      if (ticket !== view.loading) return null; // another case has been requested meanwhile
      if (pane === acquired) view.firstWindow = [0.005, 0.995].map((fraction) => quantile(volume, fraction));
      return view.firstWindow;
    });
    if (ticket !== view.loading) return;
    if (pane === acquired) preview();
  }
  begin();
  say(null);
  draw();
  document.body.dataset.state = "ready";
}

const nextFrame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

// Prepare the page once both volumes are loaded.
function begin() {
  const { stack, description } = view;
  checkGeometry(acquired, stack.acquired_affine_ras);
  checkGeometry(result, stack.result_affine_ras);
  acquired.placeIn(result);
  // the axis of the picture along which the slices are stacked, and whether it has the direction of the file
  const start = result.toFrame(transform(stack.result_affine_ras, [0, 0, 0]));
  const unit = [0, 1, 2].map((i) => (i === stack.thick_axis ? 1 : 0));
  const along = result.toFrame(transform(stack.result_affine_ras, unit)).map((v, i) => v - start[i]);
  view.thickWorldAxis = [0, 1, 2].reduce((best, i) => (Math.abs(along[i]) > Math.abs(along[best]) ? i : best), 0);
  view.thickSign = Math.sign(along[view.thickWorldAxis]);
  view.frameStart = start[view.thickWorldAxis];
  const direction = stack.result_affine_ras.slice(0, 3).map((row) => row[stack.thick_axis]);
  view.ends = [directionLetter(direction.map((v) => -v)), directionLetter(direction)];
  view.centre = result.lengths.map((length) => length / 2);
  view.voxel = result.counts.map((n) => Math.floor(n / 2));
  view.plane = picked("plane") === "all" ? 2 : Number(picked("plane"));
  setWindow(view.firstWindow);
  panes.forEach((pane) => pane.setSmooth(element("smooth").checked));
  element("thin").max = stack.result_slices - 1;
  element("thin-label").textContent = stack.slice_thickness_mm === null
    ? `Acquired every ${stack.acquired_spacing_mm.toFixed(2)} mm; thickness unknown, slabs drawn as wide as that`
    : `Acquired every ${stack.acquired_spacing_mm.toFixed(2)} mm, ${stack.slice_thickness_mm.toFixed(2)} mm thick`;
  element("sliders").replaceChildren(...[2, 1, 0].map((axis) => sliceSlider(axis)));
  document.querySelectorAll(".of-map").forEach((part) => { part.hidden = !description.map; });
  element("map").checked = false;
  element("map-label").textContent = description.map ?? "";
  element("scale").hidden = true;
  showSentences("verdict", description.verdict && [description.verdict.summary, ...description.verdict.warnings]);
  document.querySelectorAll("#verdict p:not(:first-child)").forEach((p) => p.classList.add("warning"));
  showSentences("reduced", description.reduced?.length ? description.reduced : null);
}

// Two programs have read the same header. If they disagree, nothing on the page can be trusted.
function checkGeometry(pane, affine) {
  const read = pane.volume.hdr.affine;
  const apart = Math.max(...affine.slice(0, 3).flatMap((row, i) => row.map((v, j) => Math.abs(v - read[i][j]))));
  if (!(apart < 0.01)) throw new Error("The header of a volume states two geometries; write the file again with one.");
}

function sliceSlider(axis) {
  const label = document.createElement("label");
  const slider = Object.assign(document.createElement("input"), {
    type: "range", id: `slice-${axis}`, min: 0, max: result.counts[axis] - 1, step: 1,
  });
  slider.addEventListener("input", () => step(axis, Number(slider.value) - view.voxel[axis]));
  label.append(PLANES[axis].name, slider, document.createElement("output"));
  return label;
}

function showSentences(id, sentences) {
  element(id).hidden = !sentences;
  element(id).querySelector("div").replaceChildren(...(sentences ?? []).map((sentence) =>
    Object.assign(document.createElement("p"), { textContent: sentence })));
}

function setWindow([low, high]) {
  view.window = [low, Math.max(high, low + 1e-6)];
  panes.forEach((pane) => pane.setWindow(view.window));
  element("low").value = Number(view.window[0].toPrecision(4));
  element("high").value = Number(view.window[1].toPrecision(4));
  refresh();
}

async function showMap(on) {
  if (on && !result.map) {
    say("Loading the map …", true);
    const { loading } = view;
    const bytes = await unpackedVolume("map", view.description.volumes?.map, () => {});
    if (loading !== view.loading) return;
    await result.loadMap(bytes);
    drawLegend();
    say(null);
  }
  element("scale").hidden = !on;
  result.setMapOpacity(on ? element("opacity").value / 100 : 0);
  refresh();
}

function drawLegend() {
  const canvas = element("legend").querySelector("canvas");
  const pen = canvas.getContext("2d");
  const table = result.niivue.colormap("map");
  for (let x = 0; x < canvas.width; x += 1) {
    const i = 4 * Math.floor((256 * x) / canvas.width);
    pen.fillStyle = `rgb(${table[i]} ${table[i + 1]} ${table[i + 2]} / ${table[i + 3] / 255})`;
    pen.fillRect(x, 0, 1, canvas.height);
  }
  element("legend-top").textContent = `≥ ${result.top.toPrecision(3)}`;
}

// ---- mouse

let drag = null;

function tileAt(event) {
  const canvas = event.currentTarget;
  const box = canvas.getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) * ratio(), (event.clientY - box.top) * ratio()];
  const tile = drag?.tile ?? view.tiles.find((t) => x >= t.x && x < t.x + t.width && y >= t.y && y < t.y + t.height);
  return { tile, x, y };
}

// Point of the common frame under the mouse; across the plane, it is that of the cursor.
function frameAt({ tile, x, y }) {
  const plane = PLANES[tile.plane];
  const { high } = view.box[tile.plane];
  const point = result.toFrame(world());
  point[plane.across] = high[0] - (x - tile.x) * view.scale;
  point[plane.up] = high[1] - (y - tile.y) * view.scale;
  return point;
}

const voxelOfFrame = (point) => point.map((mm, i) => Math.floor(mm / result.spacing[i]));
const worldOfFrame = (point) => result.toWorld(point.map((mm, i) => mm / result.lengths[i]));

function wanted(event, hit) {
  const line = hit.tile.x + view.wipe * hit.tile.width;
  if (picked("layout") === "wipe" && event.button === 0 && Math.abs(hit.x - line) < 9 * ratio()) return "wipe";
  if (event.button === 1 || event.ctrlKey) return "pan";
  if (event.button === 2) return "window";
  return event.shiftKey ? "ruler" : picked("tool");
}

function press(event) {
  if (!result.volume || !view.tiles) return;
  const hit = tileAt(event);
  if (!hit.tile) return;
  event.preventDefault();
  event.currentTarget.focus({ preventScroll: true });
  event.currentTarget.setPointerCapture(event.pointerId);
  view.plane = hit.tile.plane;
  drag = { ...hit, kind: wanted(event, hit), window: view.window, centre: view.centre };
  if (drag.kind === "ruler") view.ruler = { from: worldOfFrame(frameAt(hit)) };
  pull(event);
}

function pull(event) {
  if (!drag) return;
  const hit = tileAt(event);
  const [dx, dy] = [(hit.x - drag.x) / ratio(), (hit.y - drag.y) / ratio()];
  if (drag.kind === "cursor") moveTo(voxelOfFrame(frameAt(hit)));
  if (drag.kind === "wipe") setWipe((hit.x - drag.tile.x) / drag.tile.width);
  if (drag.kind === "ruler") {
    view.ruler.to = worldOfFrame(frameAt(hit));
    refresh();
  }
  if (drag.kind === "window") {
    const span = view.firstWindow[1] - view.firstWindow[0];
    const width = Math.max(drag.window[1] - drag.window[0] + (dx * span) / 300, span / 1000);
    const level = (drag.window[0] + drag.window[1]) / 2 + (dy * span) / 300;
    setWindow([level - width / 2, level + width / 2]);
  }
  if (drag.kind === "pan") {
    const plane = PLANES[drag.tile.plane];
    view.centre = [...drag.centre];
    view.centre[plane.across] += dx * ratio() * view.scale;
    view.centre[plane.up] += dy * ratio() * view.scale;
    refresh();
  }
}

function release() {
  if (drag?.kind === "ruler" && rulerLength() < 0.05) view.ruler = null;
  drag = null;
  refresh();
}

function turn(event) {
  if (!result.volume || !view.tiles) return;
  event.preventDefault();
  const hit = tileAt(event);
  if (!hit.tile) return;
  view.plane = hit.tile.plane;
  if (event.ctrlKey) zoomAt(event.deltaY < 0 ? 1.15 : 1 / 1.15, frameAt(hit), PLANES[hit.tile.plane]);
  else step(PLANES[hit.tile.plane].normal, -Math.sign(event.deltaY));
}

// Zoom so that the point stays where it is on the screen.
function zoomAt(factor, point, plane) {
  const before = view.zoom;
  view.zoom = clamp(view.zoom * factor, 1, 20);
  const shift = 1 - before / view.zoom;
  for (const axis of [plane.across, plane.up]) view.centre[axis] += (point[axis] - view.centre[axis]) * shift;
  refresh();
}

function setWipe(place) {
  view.wipe = clamp(place, 0, 1);
  element("wipe").value = 100 * view.wipe;
  refresh();
}

function resetView() {
  Object.assign(view, { zoom: 1, centre: result.lengths.map((length) => length / 2), ruler: null });
  setWindow(view.firstWindow);
}

// ---- keys

const toggle = (id) => element(id).click();

function choose(name, value) {
  pick(name, value);
  document.querySelector(`input[name=${name}]:checked`).dispatchEvent(new Event("change", { bubbles: true }));
}

function markRuler() {
  if (!view.ruler) view.ruler = { from: world() };
  else if (!view.ruler.to) view.ruler.to = world();
  else view.ruler = null;
  refresh();
}

const KEYS = {
  "[": () => stepAcquired(-1),
  "]": () => stepAcquired(1),
  ",": () => goToThin(thinSlice() - 1),
  ".": () => goToThin(thinSlice() + 1),
  a: () => choose("plane", "2"),
  c: () => choose("plane", "1"),
  s: () => choose("plane", "0"),
  d: () => choose("plane", "all"),
  w: () => choose("layout", picked("layout") === "wipe" ? "beside" : "wipe"),
  m: () => view.description.map && toggle("map"),
  l: () => toggle("lines"),
  i: () => toggle("smooth"),
  r: markRuler,
  "+": () => zoomAt(1.25, result.toFrame(world()), PLANES[view.plane]),
  "=": () => zoomAt(1.25, result.toFrame(world()), PLANES[view.plane]),
  "-": () => zoomAt(0.8, result.toFrame(world()), PLANES[view.plane]),
  0: resetView,
  "?": () => element("help").showModal(),
};
// sideways the screen runs against the axis, upwards with it
const ARROWS = { ArrowLeft: ["across", 1], ArrowRight: ["across", -1], ArrowUp: ["up", 1], ArrowDown: ["up", -1] };

function key(event) {
  if (!result.volume || event.ctrlKey || event.metaKey || event.altKey || element("help").open) return;
  const { target } = event;
  if (target.matches("input[type=number], input[type=search]")) return;
  const act = KEYS[event.key.toLowerCase()];
  if (act) {
    event.preventDefault();
    act();
    return;
  }
  if (!target.matches(".marks, body")) return; // arrows belong to the control that has the focus
  const plane = PLANES[view.plane];
  if (event.shiftKey && picked("layout") === "wipe" && /^Arrow(Left|Right)$/.test(event.key)) {
    event.preventDefault();
    setWipe(view.wipe + (event.key === "ArrowLeft" ? -0.02 : 0.02));
  } else if (ARROWS[event.key]) {
    event.preventDefault();
    const [axis, count] = ARROWS[event.key];
    step(plane[axis], count);
  } else if (event.key === "PageUp" || event.key === "PageDown") {
    event.preventDefault();
    step(plane.normal, event.key === "PageUp" ? 1 : -1);
  }
}

// ---- controls

const LISTED = 500;

function listSeries(series) {
  element("series").hidden = series.length < 2;
  const show = () => {
    const words = element("search").value.toLowerCase();
    const found = series.filter((one) => `${one.name} ${one.summary}`.toLowerCase().includes(words));
    // a long list would slow the page down; the search finds the other series
    const cut = found.length > LISTED ? `; the first ${LISTED} are listed` : "";
    element("found").textContent = `${found.length} of ${series.length} series${cut}`;
    element("list").replaceChildren(...found.slice(0, LISTED).map((one) => {
      const item = document.createElement("li");
      const button = Object.assign(document.createElement("button"), { type: "button", title: one.name });
      const summary = Object.assign(document.createElement("small"), { textContent: one.summary });
      button.append(one.name, summary);
      button.dataset.id = one.id;
      button.setAttribute("aria-current", String(one.id === view.id));
      button.addEventListener("click", () => start(one.id));
      item.append(button);
      return item;
    }));
  };
  element("search").addEventListener("input", show);
  show();
}

function start(id) {
  history.replaceState(null, "", embeddedCase ? location.href : `?series=${encodeURIComponent(view.series[id].name)}`);
  const opening = open(id);
  const ticket = view.loading;
  opening.catch((error) => {
    console.error(error);
    if (ticket !== view.loading) return;
    document.body.dataset.state = "error";
    panes.forEach((pane) => pane.clear());
    say(`This series cannot be shown. ${error.message}`);
  });
}

async function exportCase() {
  const button = element("export");
  button.disabled = true;
  button.textContent = "Exporting …";
  try {
    const answer = await fetch(`case/${view.id}/export.html`);
    if (!answer.ok) throw new Error(await answer.text());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${view.description.export_name}.html`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    window.alert(error.message);
  }
  button.disabled = false;
  button.textContent = "Export";
}

function connect() {
  for (const { marks } of panes) {
    marks.addEventListener("pointerdown", press);
    marks.addEventListener("pointermove", pull);
    marks.addEventListener("pointerup", release);
    marks.addEventListener("pointercancel", release);
    marks.addEventListener("wheel", turn, { passive: false });
    marks.addEventListener("contextmenu", (event) => event.preventDefault());
  }
  document.addEventListener("keydown", key);
  new ResizeObserver(refresh).observe(element("panes"));
  new ResizeObserver(refresh).observe(element("track"));
  document.querySelectorAll("input[name=layout]").forEach((input) => input.addEventListener("change", () => {
    element("wipe-label").hidden = picked("layout") !== "wipe";
    refresh();
  }));
  document.querySelectorAll("input[name=plane]").forEach((input) => input.addEventListener("change", () => {
    if (picked("plane") !== "all") view.plane = Number(picked("plane"));
    refresh();
  }));
  element("smooth").addEventListener("change", () => {
    if (!result.volume) return;
    panes.forEach((pane) => pane.setSmooth(element("smooth").checked));
    refresh();
  });
  element("lines").addEventListener("change", refresh);
  element("wipe").addEventListener("input", () => setWipe(element("wipe").value / 100));
  element("map").addEventListener("change", () => showMap(element("map").checked).catch((error) => say(error.message)));
  element("opacity").addEventListener("input", () => element("map").checked && showMap(true));
  for (const id of ["low", "high"]) {
    element(id).addEventListener("change", () => {
      const limits = [element("low").valueAsNumber, element("high").valueAsNumber];
      setWindow(limits.every(Number.isFinite) ? limits : view.window);
    });
  }
  element("thin").addEventListener("input", () => goToThin(Number(element("thin").value)));
  // a click on the bar goes to the thin slice under the mouse, not to the position of the browser's own thumb
  element("thin").addEventListener("pointerdown", followBar);
  element("thin").addEventListener("pointermove", (event) => event.buttons && followBar(event));
  element("previous").addEventListener("click", () => stepAcquired(-1));
  element("next").addEventListener("click", () => stepAcquired(1));
  element("reset").addEventListener("click", resetView);
  element("help-button").addEventListener("click", () => element("help").showModal());
  element("export").addEventListener("click", exportCase);
}

function followBar(event) {
  if (!result.volume) return;
  event.preventDefault();
  const bar = event.currentTarget;
  bar.focus();
  bar.setPointerCapture(event.pointerId);
  const box = bar.getBoundingClientRect();
  goToThin(Math.floor(((event.clientX - box.left) / box.width) * view.stack.result_slices));
}

async function main() {
  connect();
  const { series, report } = await listOfSeries();
  view.series = series;
  element("report").hidden = !report;
  element("export").hidden = Boolean(embeddedCase);
  const asked = new URLSearchParams(location.search).get("series");
  listSeries(series);
  start((series.find((one) => one.name === asked) ?? series[0]).id);
}

// State of the page, for the console and the tests.
window.viewer = {
  view,
  cursors: () => panes.map((pane) => pane.toWorld(pane.niivue.scene.crosshairPos)),
  goTo: (voxel) => moveTo(voxel),
  pixelOf: (plane) => {
    const tile = view.tiles.find((one) => one.plane === plane);
    return pixelOf(tile, result.toFrame(world())).map((v) => v / ratio());
  },
};

main();

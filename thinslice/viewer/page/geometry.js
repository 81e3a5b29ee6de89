// SPDX-License-Identifier: Apache-2.0
// Geometry: pure functions without page or graphics.
"use strict";

// A plane by its normal, a world axis, with the axes that run sideways and upwards on the screen. The patient's right
// and front are on the left; head and front are up.
const PLANES = [
  { name: "Sagittal", normal: 0, across: 1, up: 2, sides: ["A", "P", "S", "I"] },
  { name: "Coronal", normal: 1, across: 0, up: 2, sides: ["R", "L", "S", "I"] },
  { name: "Axial", normal: 2, across: 0, up: 1, sides: ["R", "L", "A", "P"] },
];

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// 4 x 4 matrix, as nested rows, times a point.
function transform(matrix, point) {
  return matrix.slice(0, 3).map(([a, b, c, shift]) => a * point[0] + b * point[1] + c * point[2] + shift);
}

// "R 12.3 · A 4.0 · S 30.1 mm" of a point in RAS mm.
function placeInWords(world) {
  const letters = [["L", "R"], ["P", "A"], ["I", "S"]];
  return `${world.map((v, i) => `${letters[i][v >= 0 ? 1 : 0]} ${Math.abs(v).toFixed(1)}`).join(" · ")} mm`;
}

// Letter of the direction that is nearest to a world vector.
function directionLetter(vector) {
  const axis = [0, 1, 2].reduce((best, i) => (Math.abs(vector[i]) > Math.abs(vector[best]) ? i : best), 0);
  return [["L", "R"], ["P", "A"], ["I", "S"]][axis][vector[axis] > 0 ? 1 : 0];
}

// Width of an acquired slab: the stated thickness, or else the distance to the next slice.
function slabWidth(stack) {
  return stack.slice_thickness_mm ?? stack.acquired_spacing_mm;
}

// Acquired slice of a thin coordinate: `slice` is the nearest one, `distance` is that from its centre in mm, `beyond`
// that from its slab (0 within), and `place` is "slab", "gap" or "outside".
function whereInStack(stack, thin) {
  let slice = 0;
  stack.centres.forEach((centre, k) => {
    if (Math.abs(thin - centre) < Math.abs(thin - stack.centres[slice]) - 1e-6) slice = k;
  });
  const offset = thin - stack.centres[slice];
  const distance = Math.abs(offset) * stack.result_spacing_mm;
  const beyond = Math.max(0, distance - slabWidth(stack) / 2 - 1e-4);
  if (beyond === 0) return { slice, distance, beyond, place: "slab" };
  const towards = stack.centres.findIndex((centre, k) => Math.abs(k - slice) === 1 && (centre - thin) * offset > 0);
  return { slice, distance, beyond, towards, place: towards < 0 ? "outside" : "gap" };
}

// This position in words; slices are counted from 1.
function whereInWords(stack, thin) {
  const found = whereInStack(stack, thin);
  const of = `acquired slice ${found.slice + 1} of ${stack.centres.length}`;
  const shift = `${found.distance.toFixed(2)} mm from its centre`;
  if (found.place === "slab") return `in ${of}, ${shift}`;
  const beyond = `${found.beyond.toFixed(2)} mm`;
  if (found.place === "outside") return `outside the acquired slices, ${beyond} beyond slice ${found.slice + 1}`;
  const pair = [found.slice, found.towards].sort((a, b) => a - b).map((k) => k + 1);
  return `in the gap between acquired slices ${pair[0]} and ${pair[1]}, ${beyond} outside slice ${found.slice + 1}`;
}

// Thin slice whose centre is nearest to that of an acquired slice; the first of two at the same distance.
function thinSliceOf(stack, k) {
  return clamp(Math.ceil(stack.centres[k] - 0.5 - 1e-6), 0, stack.result_slices - 1);
}

// The tiles of a pane, in whole device pixels.
function tilesOf(width, height, shown) {
  return shown.map((plane, i) => {
    const left = Math.round((i * width) / shown.length);
    return { plane, x: left, y: 0, width: Math.round(((i + 1) * width) / shown.length) - left, height };
  });
}

// Millimetres per device pixel, the same in all tiles, so that a whole volume of these lengths fits at zoom 1.
function millimetresPerPixel(tiles, lengths, zoom) {
  const needed = tiles.map(({ plane, width, height }) =>
    Math.max(lengths[PLANES[plane].across] / width, lengths[PLANES[plane].up] / height));
  return (1.04 * Math.max(...needed)) / zoom;
}

// Length of a scale bar: the largest round number of mm that is not above a limit.
function roundLength(most) {
  return [200, 100, 50, 20, 10, 5, 2, 1, 0.5, 0.2].find((length) => length <= most) ?? 0.1;
}

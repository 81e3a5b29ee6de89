// SPDX-License-Identifier: Apache-2.0
// The scroll bar through the slices, with the slabs that were acquired.
"use strict";

// Draw the bar.
function drawStrip(canvas, stack, thin, ends, ratio) {
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  const [w, h] = [width / ratio, height / ratio];
  const perSlice = w / stack.result_slices;
  const at = (coordinate) => (coordinate + 0.5) * perSlice;
  pen.fillStyle = "#0d0f13";
  pen.fillRect(0, 0, w, h);
  // parts that no acquired slice covers stay hatched
  pen.strokeStyle = "#b0714a";
  pen.lineWidth = 1;
  pen.beginPath();
  for (let x = -h; x < w; x += 5) {
    pen.moveTo(x, 30);
    pen.lineTo(x + 22, 8);
  }
  pen.stroke();
  const half = (slabWidth(stack) / stack.result_spacing_mm / 2) * perSlice;
  const here = whereInStack(stack, thin);
  stack.centres.forEach((centre, k) => {
    const current = here.place === "slab" && here.slice === k;
    pen.fillStyle = current ? "#f2b84b" : k % 2 ? "#3d5166" : "#4b6480";
    pen.fillRect(at(centre) - half, 8, 2 * half, 22);
  });
  pen.fillStyle = "#0d0f13";
  stack.centres.forEach((centre) => pen.fillRect(at(centre) - 0.5, 14, 1, 10));
  // thin slices as ticks, and the numbers of acquired slices if there is room
  pen.fillStyle = "#7c8797";
  if (perSlice >= 4) for (let j = 0; j < stack.result_slices; j += 1) pen.fillRect(at(j) - 0.5, 4, 1, 3);
  pen.font = "10px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.fillStyle = "#a9b2c0";
  const spacing = Math.abs((stack.centres[1] ?? 1) - (stack.centres[0] ?? 0)) * perSlice;
  const every = [1, 2, 5, 10, 20, 50, 100].find((n) => n * spacing >= 26) ?? 200;
  stack.centres.forEach((centre, k) => {
    const x = at(centre);
    if ((k + 1) % every === 0 && x > 16 && x < w - 16) pen.fillText(String(k + 1), x, 40);
  });
  pen.textAlign = "left";
  pen.fillText(ends[0], 2, 40);
  pen.textAlign = "right";
  pen.fillText(ends[1], w - 2, 40);
  // position of the cursor
  pen.fillStyle = "#fff";
  pen.fillRect(at(thin) - 1, 0, 2, 33);
  pen.beginPath();
  pen.moveTo(at(thin) - 5, 0);
  pen.lineTo(at(thin) + 5, 0);
  pen.lineTo(at(thin), 6);
  pen.fill();
}

// SPDX-License-Identifier: Apache-2.0
// Source of the cases: the server of this page, or the page itself if it is an exported file.
"use strict";

const embeddedCase = document.getElementById("case");

// A volume must be a NIfTI file, gzipped or not; returns it unpacked. `progress` is called with the arrived fraction.
async function unpackedVolume(role, address, progress) {
  let stream;
  let packed;
  if (embeddedCase) {
    const text = atob(document.getElementById(`volume-${role}`).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    packed = bytes[0] === 0x1f && bytes[1] === 0x8b;
    stream = new Blob([bytes]).stream();
  } else {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`The server could not give the ${role} volume (${answer.status}).`);
    const total = Number(answer.headers.get("Content-Length"));
    const [head, rest] = await peek(answer.body);
    packed = head[0] === 0x1f && head[1] === 0x8b;
    let arrived = 0;
    stream = rest.pipeThrough(new TransformStream({
      transform(chunk, controller) {
        arrived += chunk.length;
        progress(arrived / total);
        controller.enqueue(chunk);
      },
    }));
  }
  if (packed) stream = stream.pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// The first bytes of a stream, and a stream that still contains them.
async function peek(stream) {
  const reader = stream.getReader();
  const { value } = await reader.read();
  const whole = new ReadableStream({
    start(controller) {
      if (value) controller.enqueue(value);
      else controller.close();
    },
    async pull(controller) {
      const { value: next, done } = await reader.read();
      if (done) controller.close();
      else controller.enqueue(next);
    },
  });
  return [value ?? new Uint8Array(2), whole];
}

async function listOfSeries() {
  if (embeddedCase) {
    const { name } = JSON.parse(embeddedCase.textContent);
    return { series: [{ id: 0, name, summary: "" }], report: false };
  }
  return (await fetch("series.json")).json();
}

async function describeCase(id) {
  if (embeddedCase) return JSON.parse(embeddedCase.textContent);
  return (await fetch(`case/${id}.json`)).json();
}

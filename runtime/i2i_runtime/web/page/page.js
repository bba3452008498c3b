"use strict";
// One JPEG holds source and translated of the same moment, so the two sides of the divider never disagree.
const $ = (id) => document.getElementById(id);
const image = $("image"), pen = image.getContext("2d");
let divider = 0.5, pair = null, asked = 0, watching = new AbortController();

// How many pixels wide one image is on this screen: more would be encoded, sent and thrown away.
const shownWidth = () => Math.round(image.clientWidth * devicePixelRatio);
new ResizeObserver(() => {
  const width = shownWidth();
  if (width > asked || width < asked / 2) watching.abort();
}).observe(image);

function draw() {
  if (!pair) return;
  const width = pair.width / 2, height = pair.height;
  if (image.width !== width || image.height !== height) {
    Object.assign(image, { width, height });
    $("stage").style.setProperty("--shape", width / height);  // no taller than the window
  }
  const edge = Math.round(divider * width);
  pen.drawImage(pair, width, 0, width, height, 0, 0, width, height);
  if (edge > 0) pen.drawImage(pair, 0, 0, edge, height, 0, 0, edge, height);
  const thick = Math.max(2, width / 400);
  pen.fillStyle = "#f0b429";
  pen.fillRect(edge - thick / 2, 0, thick, height);
  pen.beginPath();
  pen.arc(edge, height / 2, thick * 5, 0, 2 * Math.PI);
  pen.fill();
}

function moveDivider(to) {
  divider = Math.min(1, Math.max(0, to));
  image.setAttribute("aria-valuenow", Math.round(100 * divider));
  draw();
}
const fromPointer = (event) => moveDivider((event.clientX - image.getBoundingClientRect().left) / image.clientWidth);
image.addEventListener("pointerdown", (event) => { image.setPointerCapture(event.pointerId); fromPointer(event); });
image.addEventListener("pointermove", (event) => { if (event.buttons) fromPointer(event); });
image.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
  if (step) { event.preventDefault(); moveDivider(divider + step); }
});

function join(a, b) {
  const both = new Uint8Array(a.length + b.length);
  both.set(a); both.set(b, a.length);
  return both;
}

// Yields the JPEGs of a multipart answer; each part states its Content-Length.
async function* jpegs(answer) {
  const reader = answer.body.getReader(), text = new TextDecoder("latin1");
  let held = new Uint8Array(0);
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held = join(held, value);
    for (;;) {
      const head = text.decode(held.subarray(0, 200)), end = head.indexOf("\r\n\r\n");
      const length = /content-length: (\d+)/i.exec(head);
      if (end < 0 || !length || held.length < end + 6 + Number(length[1])) break;
      yield held.slice(end + 4, end + 4 + Number(length[1]));
      held = held.slice(end + 6 + Number(length[1]));
    }
  }
}

async function watch() {
  for (;;) {
    try {
      watching = new AbortController();
      asked = shownWidth();
      const answer = await fetch(`pair.mjpg?width=${asked}`, { signal: watching.signal });
      if (!answer.ok) throw new Error(await answer.text());
      for await (const jpeg of jpegs(answer)) {
        const next = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
        if (pair) pair.close();
        pair = next;
        draw();
      }
      throw new Error("the stream has ended");
    } catch (error) {
      if (watching.signal.aborted) continue;
      notice(`No connection to i2i-stream (${error.message}); trying again.`);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

const ages = [];
function drawCurve() {
  const curve = $("curve"), line = curve.getContext("2d");
  const top = Math.max(50, ...ages) * 1.15;
  $("top").textContent = Math.round(top);
  line.clearRect(0, 0, curve.width, curve.height);
  line.beginPath();
  ages.forEach((age, i) => line.lineTo(i * curve.width / 119, curve.height * (1 - age / top)));
  line.strokeStyle = "#f0b429";
  line.lineWidth = 1.5;
  line.stroke();
}

async function readFigures() {
  try {
    const figures = await (await fetch("figures")).json();
    for (const [name, digits] of [["age_ms", 0], ["fps", 1], ["engine_ms", 1], ["dropped", 0], ["frames", 0]])
      $(name).textContent = figures[name].toFixed(digits);
    notice(figures.no_signal ? `No signal: ${figures.no_signal}` : "");
    ages.push(figures.age_ms);
    if (ages.length > 120) ages.shift();
    drawCurve();
  } catch { /* watch() tells of a lost connection */ }
  setTimeout(readFigures, 500);
}

watch();
readFigures();

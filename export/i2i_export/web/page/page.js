// Takes frames from the camera, a file or the drawn street, has them translated and shows both sides of a divider.
import { drawStreet, HEIGHT as STREET_HEIGHT, WIDTH as STREET_WIDTH } from "./street.js";

const $ = (id) => document.getElementById(id);
const newCanvas = () => Object.assign(document.createElement("canvas"), { width: 2, height: 2 });
const view = $("view"), viewPen = view.getContext("2d");
const work = newCanvas(), workPen = work.getContext("2d", { willReadFrequently: true });
// Source and translated of the same moment, so that the two sides of the divider never disagree.
const shown = newCanvas(), shownPen = shown.getContext("2d");
const translated = newCanvas(), translatedPen = translated.getContext("2d");

const SHORT_SIDES = [144, 180, 240, 288, 360, 432, 540, 720];
const SLOWEST_MS = 1000 / 12, QUICK_MS = 1000 / 25;
const MOST_SLIDERS = 32;

let engines = [], engine = null, worker = null, ready = false, failed = false, style = null;
let source = null, paused = false, stale = true, divider = 0.5;
let automatic = SHORT_SIDES.indexOf(360), timings = [], recorder = null, shownAt = [];

// ---- sources: { width, height, isFresh(), draw(pen, x, y, width, height), close() }

function streetSource() {
  const street = newCanvas(), pen = street.getContext("2d"), begin = performance.now();
  Object.assign(street, { width: STREET_WIDTH, height: STREET_HEIGHT });
  return {
    width: STREET_WIDTH, height: STREET_HEIGHT, isFresh: () => true, close() {},
    draw(to, ...box) { drawStreet(pen, (performance.now() - begin) / 1000); to.drawImage(street, ...box); },
  };
}

function imageSource(bitmap) {
  return {
    width: bitmap.width, height: bitmap.height, isStill: true, isFresh: () => false,
    draw: (to, ...box) => to.drawImage(bitmap, ...box), close: () => bitmap.close(),
  };
}

async function videoSource(fill, release) {
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, loop: true });
  fill(video);
  await new Promise((resolve, reject) => {
    video.onloadeddata = resolve;
    video.onerror = () => reject(new Error(video.error?.message || "its format is unknown here"));
  });
  await video.play();
  let drawnAt = -1;
  return {
    video, get width() { return video.videoWidth; }, get height() { return video.videoHeight; },
    isFresh: () => video.currentTime !== drawnAt,
    draw(to, ...box) { drawnAt = video.currentTime; to.drawImage(video, ...box); },
    close() { video.pause(); release(video); },
  };
}

async function cameraSource(deviceId) {
  if (!navigator.mediaDevices) throw new Error("A browser gives the camera to pages on https or localhost only: open this page there.");
  const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: deviceId ? { ...size, deviceId: { exact: deviceId } } : { ...size, facingMode: "user" } });
  } catch (error) {
    throw new Error({
      NotFoundError: "This device has no camera: connect one, or choose a file or the street.",
      NotAllowedError: "The camera was refused: allow it for this page in the browser's settings, then press Camera again.",
      NotReadableError: "The camera is in use by another program: close that program, then press Camera again.",
    }[error.name] ?? `The camera does not start (${error.message || error.name}): try another camera, or a file.`);
  }
  listCameras(stream.getVideoTracks()[0].getSettings().deviceId);
  stream.getVideoTracks()[0].onended = () => notice("The camera has been disconnected: connect it and press Camera again.", true);
  return videoSource((video) => { video.srcObject = stream; }, () => stream.getTracks().forEach((track) => track.stop()));
}

async function fileSource(file) {
  try {
    if (file.type.startsWith("image/")) return imageSource(await createImageBitmap(file));
    return await videoSource((video) => { video.src = URL.createObjectURL(file); }, (video) => URL.revokeObjectURL(video.src));
  } catch (error) {
    throw new Error(`${file.name} cannot be shown (${error.message}): choose an image or a video that this browser plays.`);
  }
}

async function listCameras(current) {
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
  $("device").replaceChildren(...cameras.map((camera, i) => new Option(camera.label || `camera ${i + 1}`, camera.deviceId, false, camera.deviceId === current)));
  $("cameras").hidden = cameras.length < 2;
}

let asked = 0;
async function useSource(name, open) {
  const number = ++asked;
  try {
    const next = await open();
    if (number !== asked) return next.close();  // another one was chosen meanwhile
    source?.close();
    source = next;
    $("camera").setAttribute("aria-pressed", name === "camera");
    $("street").setAttribute("aria-pressed", name === "street");
    $("file").parentElement.toggleAttribute("data-on", name === "file");
    if (name !== "camera") $("cameras").hidden = true;
    setPaused(false);
    $("pause").disabled = Boolean(source.isStill);
    timings = [];
    stale = true;
    if (ready) notice("");
  } catch (error) {
    if (number === asked) notice(error.message, true);
  }
}

function setPaused(to) {
  paused = to;
  $("pause").setAttribute("aria-pressed", paused);
  if (source?.video && paused) source.video.pause();
  else source?.video?.play();
}

// ---- the engine

let answerFrame = () => {};

function openEngine() {
  worker?.terminate();
  answerFrame(null);  // a worker that is ended never answers
  ready = failed = false;
  $("runs_on").textContent = "–";
  notice(`Loading ${engine.metadata.name} (${(engine.bytes / 1e6).toFixed(1)} MB).`);
  const mine = worker = new Worker(new URL("engine.js", import.meta.url), { type: "module" });
  mine.onerror = (event) => fail(`The engine's worker does not start (${event.message || "script not loaded"}): serve the complete site.`);
  mine.onmessage = ({ data }) => {
    if (mine !== worker) return;
    if (data.kind === "frame") answerFrame(data);
    if (data.kind === "failed") fail(data.sentence);
    if (data.kind === "opened") {
      $("runs_on").textContent = data.backEnd;
      ready = stale = true;
      timings = [];
      notice("");
    }
  };
  mine.postMessage({ kind: "open", engine, backEnd: $("backend").value });
}

function fail(sentence) {
  ready = false;
  failed = true;
  notice(sentence, true);
  answerFrame(null);
}

function translateFrame(width, height) {
  const pixels = workPen.getImageData(0, 0, width, height).data.buffer;
  return new Promise((resolve) => {
    answerFrame = resolve;
    worker.postMessage({ kind: "frame", width, height, pixels, style }, [pixels]);
  });
}

// ---- size

// The size to translate at: the source's shape, never enlarged; for an engine of one size that size, which is filled.
function workSize() {
  const { stride, min_width, max_width, min_height, max_height } = engine.metadata.size;
  if (min_width === max_width && min_height === max_height) return [max_width, max_height];
  const chosen = $("size").value;
  const side = chosen !== "auto" ? Number(chosen) : source.isStill ? SHORT_SIDES.at(-1) : SHORT_SIDES[automatic];
  const whole = (most, length) => Math.min(1, Math.floor(most / stride) * stride / length);
  const scale = Math.min(1, side / Math.min(source.width, source.height), whole(max_width, source.width), whole(max_height, source.height));
  return [Math.max(1, Math.round(source.width * scale)), Math.max(1, Math.round(source.height * scale))];
}

// Follows the speed of this device: smaller below 12 frames a second, larger if that is expected to reach 25.
function followSpeed(ms) {
  timings.push(ms);
  if (timings.length < 7 || source.isStill || recorder || $("size").value !== "auto") return;
  const typical = timings.slice(2).sort((a, b) => a - b)[2];  // the first two at a size pay for its memory
  timings = [];
  const here = SHORT_SIDES[automatic], expected = (index) => typical * (SHORT_SIDES[index] / here) ** 2;
  const room = here < Math.min(source.width, source.height);
  if (typical > SLOWEST_MS) {
    while (automatic > 0 && expected(automatic) > SLOWEST_MS) automatic -= 1;
  } else if (room && automatic < SHORT_SIDES.length - 1 && expected(automatic + 1) < QUICK_MS) automatic += 1;
}

function drawSource(width, height) {
  if (work.width !== width || work.height !== height) Object.assign(work, { width, height });
  const cover = Math.max(width / source.width, height / source.height);
  const w = source.width * cover, h = source.height * cover;
  workPen.setTransform($("mirror").checked ? -1 : 1, 0, 0, 1, $("mirror").checked ? width : 0, 0);
  source.draw(workPen, (width - w) / 2, (height - h) / 2, w, h);
}

// ---- the loop, and what is shown

async function run() {
  for (;;) {
    await new Promise(requestAnimationFrame);
    if (!ready || !source || !source.width || (!stale && (paused || !source.isFresh()))) continue;
    stale = false;
    const [width, height] = workSize(), begin = performance.now();
    drawSource(width, height);
    const answer = await translateFrame(width, height);
    if (!answer) continue;
    followSpeed(performance.now() - begin);
    for (const canvas of [view, shown, translated])
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    $("stage").style.setProperty("--shape", width / height);  // no taller than the window
    shownPen.drawImage(work, 0, 0);
    translatedPen.putImageData(new ImageData(new Uint8ClampedArray(answer.pixels), width, height), 0, 0);
    draw();
    showFigures(answer);
  }
}

function draw() {
  const { width, height } = translated, edge = Math.round(divider * width);
  viewPen.drawImage(translated, 0, 0);
  if (edge > 0) viewPen.drawImage(shown, 0, 0, edge, height, 0, 0, edge, height);
  const thick = 2.5 * width / (view.clientWidth || width);  // the same on every screen, whatever is translated
  viewPen.fillStyle = "#f0b429";
  viewPen.fillRect(edge - thick / 2, 0, thick, height);
  viewPen.beginPath();
  viewPen.arc(edge, height / 2, thick * 5, 0, 2 * Math.PI);
  viewPen.fill();
}

function showFigures({ ms, width, height }) {
  const now = performance.now();
  shownAt = [...shownAt.filter((time) => now - time < 2000), now];
  $("fps").textContent = shownAt.length > 1 ? ((shownAt.length - 1) * 1000 / (now - shownAt[0])).toFixed(1) : "–";
  $("engine_ms").textContent = ms.toFixed(1);
  $("pixels").textContent = `${width}×${height}`;
}

function notice(text, isAlarm = false) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
  $("notice").classList.toggle("alarm", isAlarm);
}

function moveDivider(to) {
  divider = Math.min(1, Math.max(0, to));
  const percent = Math.round(100 * divider);
  view.setAttribute("aria-valuenow", percent);
  view.setAttribute("aria-valuetext", `${percent} % source`);
  draw();
}

// ---- saving

const fileName = (ending) => `${engine.metadata.name}-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.${ending}`;
const savedCanvas = () => ($("both").checked ? view : translated);

function download(blob, ending) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: fileName(ending) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);  // the download may still be reading it
}

function toggleRecording() {
  if (recorder) return recorder.stop();
  const kind = ["video/mp4", "video/webm;codecs=vp9", "video/webm"].find((type) => MediaRecorder.isTypeSupported(type));
  const parts = [];
  recorder = new MediaRecorder(savedCanvas().captureStream(30), { mimeType: kind, videoBitsPerSecond: 8e6 });
  recorder.ondataavailable = ({ data }) => {
    if (data.size) parts.push(data);
    if (recorder) $("record").textContent = `Stop and save (${Math.ceil(new Blob(parts).size / 1000)} kB)`;
  };
  recorder.onerror = ({ error }) => notice(`The recording failed (${error?.message ?? "no reason given"}): try a smaller size.`, true);
  recorder.onstop = () => {
    recorder = null;
    holdWhileRecording(false);
    if (!parts.length) return notice("Nothing was recorded: let at least one new frame appear before you stop.", true);
    download(new Blob(parts, { type: kind }), kind.startsWith("video/mp4") ? "mp4" : "webm");
  };
  recorder.start(1000);
  holdWhileRecording(true);
}

// A recording has one size and one content from beginning to end.
function holdWhileRecording(isOn) {
  $("record").setAttribute("aria-pressed", isOn);
  $("record").textContent = isOn ? "Stop and save" : "Record";
  for (const id of ["size", "both", "engine"]) $(id).disabled = isOn;
}

// ---- style

function showStyle() {
  const spec = engine.metadata.style;
  $("style").hidden = !spec;
  style = spec && [...spec.default];
  if (!spec) return;
  $("preset").replaceChildren(new Option("default", ""), ...Object.keys(spec.presets).map((name) => new Option(name)), new Option("own", "own"));
  $("sliders").replaceChildren(...style.slice(0, MOST_SLIDERS).map((_, i) => {
    const label = Object.assign(document.createElement("label"), { className: "field", textContent: `Style ${i + 1}` });
    const slider = Object.assign(document.createElement("input"), { type: "range", min: -3, max: 3, step: 0.05 });
    slider.oninput = () => { style[i] = Number(slider.value); $("preset").value = "own"; stale = true; };
    label.append(slider);
    return label;
  }));
  setSliders();
}

function setSliders() {
  [...$("sliders").querySelectorAll("input")].forEach((slider, i) => { slider.value = style[i]; });
  stale = true;
}

// ---- start

function chooseEngine() {
  engine = engines[$("engine").selectedIndex];
  automatic = SHORT_SIDES.indexOf(360);
  const [from, to] = engine.metadata.direction.split(" -> ");
  $("left").textContent = from || "source";
  $("right").textContent = to || "translated";
  showStyle();
  openEngine();
}

function listen() {
  const fromPointer = (event) => moveDivider((event.clientX - view.getBoundingClientRect().left) / view.clientWidth);
  view.onpointerdown = (event) => { view.setPointerCapture(event.pointerId); fromPointer(event); };
  view.onpointermove = (event) => { if (event.buttons) fromPointer(event); };
  view.onkeydown = (event) => {
    const step = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, Home: -1, End: 1 }[event.key];
    if (step) { event.preventDefault(); moveDivider(divider + step); }
  };
  $("camera").onclick = () => useSource("camera", () => cameraSource());
  $("device").onchange = () => useSource("camera", () => cameraSource($("device").value));
  $("street").onclick = () => useSource("street", async () => streetSource());
  $("file").onchange = () => {
    const [file] = $("file").files;
    $("file").value = "";  // the same file can be chosen again
    if (file) useSource("file", () => fileSource(file));
  };
  $("pause").onclick = () => setPaused(!paused);
  $("engine").onchange = chooseEngine;
  $("backend").onchange = openEngine;
  for (const id of ["size", "mirror"]) $(id).onchange = () => {
    stale = true;
    timings = [];
    if (failed) openEngine();  // a frame of the size before may have been too large
  };
  $("preset").onchange = () => {
    const { presets, default: usual } = engine.metadata.style, name = $("preset").value;
    if (name !== "own") style = [...(presets[name] ?? usual)];
    setSliders();
  };
  $("still").onclick = () => savedCanvas().toBlob((blob) => download(blob, "png"));
  $("record").onclick = toggleRecording;
  $("record").hidden = typeof MediaRecorder === "undefined";
}

async function begin() {
  $("size").append(...SHORT_SIDES.map((side) => new Option(`${side} lines`, side)));
  listen();
  try {
    engines = await (await fetch("engines/list.json", { cache: "no-cache" })).json();
  } catch (error) {
    return notice(`The list of engines cannot be read (${error.message}): export the site again.`, true);
  }
  $("engine").replaceChildren(...engines.map(({ metadata }) => new Option(metadata.name)));
  useSource("street", async () => streetSource());
  chooseEngine();
  run();
}

begin();

// A worker that opens one engine and translates frames, so that the page never waits for it.
//   in   { kind: "open", engine, backEnd: "auto" | "webgpu" | "wasm" }     engine: an entry of engines/list.json
//        { kind: "frame", width, height, pixels, style }                   pixels: ArrayBuffer, RGBA, 8 bits
//   out  { kind: "opened", backEnd }, { kind: "frame", width, height, pixels, ms }, { kind: "failed", sentence }
const LARGEST_BYTES = 500e6;  // WebAssembly has 4 GB at most, phones much less, and weights are held more than once
const here = (path) => new URL(path, import.meta.url).href;

// A module of one function with a SIMD instruction (i8x16.splat, i8x16.popcnt), as the WebAssembly specification encodes it.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);

let ort, session, metadata;

async function open({ engine, backEnd }) {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD))
    throw new Error("This browser has no WebAssembly SIMD, which every engine needs: update it, or use a newer one.");
  if (engine.bytes > LARGEST_BYTES) throw new Error(tooLarge(engine));
  const answer = await fetch(here(`engines/${encodeURIComponent(engine.file)}`));
  if (!answer.ok) throw new Error(`The engine ${engine.file} cannot be loaded (${answer.status}): export the site again.`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  metadata = engine.metadata;
  const gpu = backEnd !== "wasm" && await findGpu(backEnd === "webgpu");
  if (backEnd === "webgpu" && !gpu) throw new Error("This browser offers no WebGPU here: choose WebAssembly or automatic.");
  try {
    const name = gpu ? "webgpu" : "wasm";
    await start(name, bytes);
    return gpu ? "WebGPU" : `WebAssembly, ${ort.env.wasm.numThreads} thread${ort.env.wasm.numThreads > 1 ? "s" : ""}`;
  } catch (error) {
    if (/memory|bad_alloc|allocation/i.test(`${error?.message ?? error}`)) throw new Error(tooLarge(engine));
    throw new Error(`The engine ${engine.file} does not open here (${firstLine(error)}): choose another engine or another back end.`);
  }
}

async function findGpu(acceptSoftware) {
  try {
    const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
    return Boolean(adapter) && (acceptSoftware || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter));
  } catch {
    return false;
  }
}

async function start(name, bytes) {
  ort = await import(here(`ort/ort.${name}.min.js`));
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = { mjs: here(`ort/ort-${name}.js`), wasm: here(`ort/ort-${name}.wasm`) };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  session = await ort.InferenceSession.create(bytes, { executionProviders: [name], graphOptimizationLevel: "all" });
}

// RGBA [height, width] -> RGB grown at the bottom and right to what the engine takes, by reflection (without repeating
// the edge pixel), again and again for an image that is smaller than what is added.
function padded(pixels, width, height) {
  const { stride, min_height, min_width } = metadata.size;
  const fit = (length, least) => Math.ceil(Math.max(length, least) / stride) * stride;
  const tall = fit(height, min_height), wide = fit(width, min_width);
  const rgb = new Uint8Array(tall * wide * 3);
  const source = (at, length) => {
    if (width === 1 || height === 1) return Math.min(at, length - 1);
    const folded = at % (2 * (length - 1));
    return folded < length ? folded : 2 * (length - 1) - folded;
  };
  const columns = Array.from({ length: wide }, (_, x) => 4 * source(x, width));
  for (let y = 0, to = 0; y < tall; y++) {
    const row = 4 * width * source(y, height);
    for (let x = 0; x < wide; x++, to += 3) {
      const from = row + columns[x];
      rgb[to] = pixels[from]; rgb[to + 1] = pixels[from + 1]; rgb[to + 2] = pixels[from + 2];
    }
  }
  return { rgb, tall, wide };
}

async function translate({ width, height, pixels, style }) {
  const rgba = new Uint8ClampedArray(pixels);
  const { rgb, tall, wide } = padded(rgba, width, height);
  const feeds = { frame: new ort.Tensor("uint8", rgb, [1, tall, wide, 3]) };
  if (metadata.style) feeds.style = new ort.Tensor("float32", Float32Array.from(style ?? metadata.style.default), [1, metadata.style.size]);
  for (const { name, shape, default: value } of metadata.extra_inputs) {
    const count = shape.reduce((product, length) => product * length, 1);
    feeds[name] = new ort.Tensor("float32", Float32Array.from({ length: count }, (_, i) => value[value.length > 1 ? i : 0]), shape);
  }
  const begin = performance.now();
  const { translated } = await session.run(feeds, ["translated"]);
  const ms = performance.now() - begin, out = translated.data;
  for (let y = 0, to = 0; y < height; y++)
    for (let x = 0, from = 3 * wide * y; x < width; x++, from += 3, to += 4) {
      rgba[to] = out[from]; rgba[to + 1] = out[from + 1]; rgba[to + 2] = out[from + 2]; rgba[to + 3] = 255;
    }
  translated.dispose();
  postMessage({ kind: "frame", width, height, pixels, ms }, [pixels]);
}

const firstLine = (error) => `${error?.message ?? error}`.split("\n")[0].slice(0, 200);
const tooLarge = (engine) => `The engine ${engine.file} (${Math.round(engine.bytes / 1e6)} MB) is too large for this browser: choose a smaller engine.`;

onmessage = async ({ data }) => {
  try {
    if (data.kind === "open") postMessage({ kind: "opened", backEnd: await open(data) });
    else await translate(data);
  } catch (error) {
    const sentence = data.kind === "open" ? firstLine(error)
      : `A frame of ${data.width}x${data.height} could not be translated (${firstLine(error)}): choose a smaller size.`;
    postMessage({ kind: "failed", sentence });
  }
};

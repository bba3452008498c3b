// A drawn street that moves: something to translate without a camera or a file.
export const WIDTH = 1280, HEIGHT = 720;
const FACADES = ["#a8907a", "#8c7a70", "#b9a58c", "#7d868c", "#9a7f6a", "#c2b4a0"];
const CARS = [["#a02c2c", 0.9, 0.2], ["#2f5d8a", 0.7, 0.55], ["#d8d8d4", 1.1, 0.8]];

// Draws the moment `seconds` on a canvas of WIDTH x HEIGHT.
export function drawStreet(pen, seconds) {
  const horizon = 0.46 * HEIGHT, middle = WIDTH / 2;
  const sky = pen.createLinearGradient(0, 0, 0, horizon);
  sky.addColorStop(0, "#6fa4d8");
  sky.addColorStop(1, "#dbe7ef");
  pen.fillStyle = sky;
  pen.fillRect(0, 0, WIDTH, horizon);
  pen.fillStyle = "#8d8f90";
  pen.fillRect(0, horizon, WIDTH, HEIGHT - horizon);
  pen.fillStyle = "#4a4c50";
  quad(pen, middle - 12, horizon, middle + 12, horizon, WIDTH * 0.98, HEIGHT, WIDTH * 0.02, HEIGHT);

  // What stands at depth z (1 is near) is drawn at 1/z of its size; far things come first.
  const travelled = seconds * 1.6;
  for (let number = 14; number >= 0; number--) {
    const index = Math.floor(travelled) + number, z = number + 1.3 - (travelled % 1);
    for (const side of [-1, 1]) house(pen, middle, horizon, side, z, index * 2 + (side > 0 ? 1 : 0));
    lamp(pen, middle, horizon, z);
  }
  pen.fillStyle = "#e9e6da";
  for (let number = 12; number >= 0; number--) {
    const z = number + 1.05 - (travelled % 1), near = 1 / z, far = 1 / (z + 0.45);
    const y = (depth) => horizon + (HEIGHT - horizon) * depth;
    quad(pen, middle - 9 * far, y(far), middle + 9 * far, y(far), middle + 9 * near, y(near), middle - 9 * near, y(near));
  }
  for (const [colour, speed, phase] of CARS) car(pen, middle, horizon, colour, 1.4 + 7 * ((phase + 0.07 * speed * seconds) % 1), phase > 0.5 ? -1 : 1);
}

function quad(pen, ...points) {
  pen.beginPath();
  for (let i = 0; i < points.length; i += 2) pen.lineTo(points[i], points[i + 1]);
  pen.fill();
}

function house(pen, middle, horizon, side, z, index) {
  const near = 1 / z, far = 1 / (z + 1), x = (depth) => middle + side * WIDTH * 0.62 * depth;
  const tall = horizon * (1.1 + 0.7 * ((index * 0.618) % 1)), ground = (depth) => horizon + (HEIGHT - horizon) * 0.72 * depth;
  pen.fillStyle = FACADES[index % FACADES.length];
  quad(pen, x(near), ground(near), x(near), horizon - tall * near, x(far), horizon - tall * far, x(far), ground(far));
  pen.fillStyle = "#3c4a57";
  for (let floor = 0; floor < 5; floor++)
    for (let column = 0; column < 4; column++) {
      const a = 1 / (z + 0.12 + column * 0.23), b = 1 / (z + 0.24 + column * 0.23);
      const level = tall * (0.12 + floor * 0.18), high = tall * 0.09;
      quad(pen, x(a), horizon - level * a, x(a), horizon - (level + high) * a, x(b), horizon - (level + high) * b, x(b), horizon - level * b);
    }
}

function lamp(pen, middle, horizon, z) {
  const size = 1 / z;
  for (const side of [-1, 1]) {
    const x = middle + side * WIDTH * 0.5 * size, foot = horizon + (HEIGHT - horizon) * 0.8 * size, head = horizon - 260 * size;
    pen.fillStyle = "#33383d";
    pen.fillRect(x - 4 * size, head, 8 * size, foot - head);
    pen.fillStyle = "#f3e6b8";
    pen.fillRect(x - (side > 0 ? 60 : 0) * size, head, 60 * size, 12 * size);
  }
}

function car(pen, middle, horizon, colour, z, side) {
  const size = 1 / z, x = middle + side * WIDTH * 0.2 * size, y = horizon + (HEIGHT - horizon) * size;
  const part = (tone, left, top, wide, tall) => {
    pen.fillStyle = tone;
    pen.fillRect(x + left * size, y + top * size, wide * size, tall * size);
  };
  part("#15171a", -105, -36, 46, 36);
  part("#15171a", 59, -36, 46, 36);
  part(colour, -115, -110, 230, 86);
  part(colour, -88, -170, 176, 64);
  part("#2a333c", -76, -160, 152, 46);
  part("#c4161c", -108, -92, 34, 18);
  part("#c4161c", 74, -92, 34, 18);
}

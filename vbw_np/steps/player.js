"use strict";
/* The player of a recorded step. It computes nothing: every number comes from the recording, to the bit. The rules by
   which sentences are filled are those of saying.py and values.py; a test holds both against each other. */

const WIDE = 32, NARROW = 9; // columns: with more a picture has the whole width, with fewer it shares it

const DIGITS = { float32: 9, float64: 17 };

// ---- numbers

function laidOut(digits, first) {
  digits = digits.replace(/0+$/, "");
  if (first < -5 || first > 8) return digits[0] + (digits.length > 1 ? "." + digits.slice(1) : "") + "e" + first;
  if (first < 0) return "0." + "0".repeat(-first - 1) + digits;
  const whole = digits.slice(0, first + 1).padEnd(first + 1, "0");
  return whole + (digits.length > first + 1 ? "." + digits.slice(first + 1) : "");
}

function number(x, dtype) {
  if (!(dtype in DIGITS)) return String(x);
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "NaN" : (x < 0 ? "-" : "") + "Inf";
  if (x === 0) return Object.is(x, -0) ? "-0" : "0";
  const magnitude = Math.abs(x);
  let text = "";
  for (let precision = 1; precision <= DIGITS[dtype]; precision++) {
    text = magnitude.toExponential(precision - 1);
    if ((dtype === "float32" ? Math.fround(+text) : +text) === magnitude) break;
  }
  const [digits, power] = text.split("e");
  return (x < 0 ? "-" : "") + laidOut(digits.replace(".", ""), Number(power));
}

// ---- arrays

const SIZES = { float32: 4, float64: 8, int64: 8, uint32: 4, uint8: 1, int8: 1 };
const READ = {
  float32: (v, i) => v.getFloat32(i), float64: (v, i) => v.getFloat64(i), int64: (v, i) => Number(v.getBigInt64(i)),
  uint32: (v, i) => v.getUint32(i), uint8: (v, i) => v.getUint8(i), int8: (v, i) => v.getInt8(i),
};

function decoded(array) {
  const bytes = new Uint8Array(array.hex.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = parseInt(array.hex.substr(2 * i, 2), 16);
  const view = new DataView(bytes.buffer), size = SIZES[array.dtype], read = READ[array.dtype];
  const data = [];
  for (let i = 0; i < bytes.length; i += size) data.push(read(view, i));
  return { data, dtype: array.dtype, shape: array.shape, hex: array.hex };
}

const indexOn = (axis, place) =>
  Math.floor(Object.keys(axis.of).reduce((sum, label) => sum + place[label] * axis.of[label], 0) / axis.per);

/* The flat indices of the entries that belong to a place: one, or several where an axis is listed. */
function indicesAt(value, place) {
  let found = [0];
  value.axes.forEach((axis, number) => {
    const length = value.array.shape[number];
    const here = axis === null ? [...Array(length).keys()] : [indexOn(axis, place)];
    found = found.flatMap(before => here.map(index => before * length + index));
  });
  return found;
}

// ---- sentences

const CHOICE = /\{(\w+)\?((?:[^{}|]|\{[^{}]*\})*)\|((?:[^{}|]|\{[^{}]*\})*)\}/;
const HOLE = /\{(\w+)(?:\*(\w+))?(?::([xb]))?(?:@(\w+))?\}/g;

function entry(event, name, place) {
  const value = event.values[name];
  if (value) return { list: indicesAt(value, place).map(i => value.array.data[i]), dtype: value.array.dtype };
  if (!(name in event.facts)) throw new Error(`${name} is neither a value nor a fact`);
  const fact = event.facts[name];
  return { list: [fact], dtype: Number.isInteger(fact) ? "int64" : "float64" };
}

function styled(x, dtype, style) {
  if (typeof x === "string") return x;
  if (style === "x") return "0x" + x.toString(16).padStart(2 * SIZES[dtype], "0");
  if (style === "b") return x.toString(2).padStart(8 * SIZES[dtype], "0");
  return number(x, dtype);
}

function fill(event, place) {
  let sentence = event.sentence;
  for (let match; (match = CHOICE.exec(sentence)); ) {
    const words = entry(event, match[1], place).list[0] ? match[3] : match[2];
    sentence = sentence.slice(0, match.index) + words + sentence.slice(match.index + match[0].length);
  }
  return sentence.replace(HOLE, (hole, name, other, style, names) => {
    const found = entry(event, name, place);
    if (other) return number(Math.fround(found.list[0] * entry(event, other, place).list[0]), "float32");
    if (names) return event.facts[names][found.list[0]];
    return found.list.map(x => styled(x, found.dtype, style)).join(", ");
  });
}

const titleOf = event => (event.part ? event.part + ": " : "") + event.kind;

// ---- the player

class Player {
  constructor(recorded, root) {
    const arrays = Object.fromEntries(Object.entries(recorded.arrays).map(([name, a]) => [name, decoded(a)]));
    for (const event of recorded.events)
      for (const value of Object.values(event.values)) value.array = arrays[value.array];
    Object.assign(this, { recorded, root, events: recorded.events, place: { ...recorded.place } });
    this.now = 0;
    this.card = "first";
    this.timer = null;
    this.find = name => root.querySelector(`[data-is="${name}"]`);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.draw());
    this.build();
    addEventListener("resize", () => this.draw());
    const asked = /event=(\d+)/.exec(location.hash);
    if (asked) this.now = Math.min(Number(asked[1]), this.events.length - 1);
    this.show();
  }

  get event() { return this.events[this.now]; }

  /* The events that stepping visits: all, or those of one weight's way. */
  get stops() {
    return this.find("only").checked ? this.recorded.ways[this.card] : this.events.map(event => event.order);
  }

  build() {
    const scrub = this.find("scrub");
    scrub.max = this.events.length - 1;
    scrub.addEventListener("input", () => { this.stop(); this.goto(Number(scrub.value)); });
    this.find("back").addEventListener("click", () => { this.stop(); this.move(-1); });
    this.find("next").addEventListener("click", () => { this.stop(); this.move(1); });
    this.find("play").addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    this.find("card").addEventListener("change", event => { this.card = event.target.value; this.show(); });
    this.find("only").addEventListener("change", () => this.show());
    for (const button of this.root.querySelectorAll("[data-phase]"))
      button.addEventListener("click", () => {
        this.stop();
        this.goto(this.events.find(event => event.phase === button.dataset.phase).order);
      });
    for (const label of Object.keys(this.recorded.sizes)) {
      const field = this.find(label);
      field.max = this.recorded.sizes[label] - 1;
      field.addEventListener("change", () => {
        const wanted = Math.trunc(Number(field.value));
        if (Number.isFinite(wanted)) this.place[label] = Math.max(0, Math.min(wanted, this.recorded.sizes[label] - 1));
        this.show();
      });
    }
    this.root.addEventListener("keydown", event => this.key(event));
  }

  key(event) {
    if (event.target.matches("input, select, summary, a") || event.ctrlKey || event.metaKey || event.altKey) return;
    const grid = event.target.closest(".grid");
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (grid && steps) this.moveIn(this.event.values[grid.dataset.value], ...steps);
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      this.stop();
      this.move(event.key === "ArrowLeft" ? -1 : 1);
    } else if (event.key === "Home" || event.key === "End") {
      this.stop();
      this.goto(event.key === "Home" ? 0 : this.events.length - 1);
    } else return;
    event.preventDefault();
  }

  move(by) {
    const stops = this.stops;
    const next = by > 0 ? stops.find(order => order > this.now) : [...stops].reverse().find(order => order < this.now);
    if (next === undefined) return false;
    this.goto(next);
    return true;
  }

  goto(order) { this.now = order; this.show(); }

  play() {
    if (!this.stops.some(order => order > this.now)) this.goto(this.stops[0]);
    this.find("play").textContent = "Pause";
    this.timer = setInterval(() => { if (!this.move(1)) this.stop(); }, 1800);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.find("play").textContent = "Play";
  }

  // -- a place from a cell, and back

  static frame(value) {
    const lengths = value.array.shape.filter((_, n) => value.axes[n] !== null);
    const axes = value.axes.filter(axis => axis !== null);
    if (axes.length === 1) return { rows: 1, columns: lengths[0], axes: [{ of: {}, per: 1 }, axes[0]] };
    return { rows: lengths[0] ?? 1, columns: lengths[1] ?? 1, axes };
  }

  /* How many entries along an axis belong to a token, an input, ...; a rotation fills up with zeros behind them. */
  owned(axis) {
    const [label, stride] = Object.entries(axis.of)[0] ?? [];
    return Object.keys(axis.of).length === 1 ? Math.ceil((this.recorded.sizes[label] * stride) / axis.per) : Infinity;
  }

  moveIn(value, down, right) {
    const { rows, columns, axes } = Player.frame(value);
    const at = axes.map(axis => indexOn(axis, this.place));
    this.choose(value, Math.max(0, Math.min(rows - 1, at[0] + down)), Math.max(0, Math.min(columns - 1, at[1] + right)));
  }

  choose(value, row, column) {
    const { axes } = Player.frame(value);
    [row, column].forEach((index, number) => {
      const labels = Object.keys(axes[number].of);
      if (labels.length !== 1 || indexOn(axes[number], this.place) === index) return;
      const wanted = Math.floor((index * axes[number].per) / axes[number].of[labels[0]]);
      this.place[labels[0]] = Math.min(wanted, this.recorded.sizes[labels[0]] - 1); // the rest only fills up
    });
    this.show();
  }

  // -- showing

  show() {
    const event = this.event;
    this.find("title").textContent = titleOf(event);
    this.find("where").textContent = `${event.phase} \u00b7 ${event.card} \u00b7 event ${event.order} of ${this.events.length - 1}`;
    this.find("sentence").textContent = fill(event, this.place);
    const scrub = this.find("scrub");
    scrub.value = event.order;
    scrub.setAttribute("aria-valuetext", `${event.order}, ${event.phase}, ${event.card}, ${titleOf(event)}`);
    for (const button of this.root.querySelectorAll("[data-phase]"))
      button.setAttribute("aria-pressed", String(button.dataset.phase === event.phase));
    for (const label of Object.keys(this.recorded.sizes)) this.find(label).value = this.place[label];
    const stops = this.stops;
    this.find("back").disabled = !(stops[0] < event.order);
    this.find("next").disabled = !(stops[stops.length - 1] > event.order);
    this.grids();
    this.numbers();
    this.way();
    this.draw();
  }

  grids() {
    const box = this.find("grids"), shown = this.event.shows.filter(name => this.event.values[name].axes.length);
    const focused = document.activeElement && document.activeElement.closest && document.activeElement.closest(".grid");
    const before = focused && focused.dataset.value;
    box.replaceChildren(...shown.map(name => this.grid(name)));
    if (before) {
      const again = [...box.children].find(f => f.querySelector(".grid").dataset.value === before) || box.firstElementChild;
      if (again) again.querySelector(".grid").focus({ preventScroll: true });
    }
  }

  grid(name) {
    const value = this.event.values[name], { rows, columns, axes } = Player.frame(value);
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const holder = document.createElement("div"), canvas = document.createElement("canvas");
    const says = (axis, length) => Object.keys(axis.of).map(label => label + "s").join(" and ")
      + (axis.per > 1 ? `, ${axis.per} to an entry` : "") + (this.owned(axis) < length ? `; from ${this.owned(axis)} on filled up` : "");
    const axisText = [says(axes[0], rows) && `down: ${says(axes[0], rows)}`, says(axes[1], columns) && `across: ${says(axes[1], columns)}`];
    caption.textContent = `${name}, ${rows} x ${columns} (${axisText.filter(Boolean).join("; ")})`;
    holder.className = "grid";
    if (columns > WIDE) figure.className = "wide";
    if (columns < NARROW) figure.className = "narrow";
    holder.dataset.value = name;
    holder.tabIndex = 0;
    holder.setAttribute("role", "group");
    holder.setAttribute("aria-roledescription", "grid of numbers");
    const at = indicesAt(value, this.place)[0];
    holder.setAttribute("aria-label",
      `${name}, ${rows} by ${columns}; arrow keys move. Row ${indexOn(axes[0], this.place)}, column ` +
      `${indexOn(axes[1], this.place)}: ${number(value.array.data[at], value.array.dtype)}`);
    canvas.addEventListener("click", event => {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      holder.focus({ preventScroll: true });
      this.choose(value, Math.max(0, Math.min(rows - 1, row)), Math.max(0, Math.min(columns - 1, column)));
    });
    holder.append(canvas);
    figure.append(caption, holder);
    return figure;
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    const color = name => style.getPropertyValue(name).trim();
    for (const holder of this.root.querySelectorAll(".grid")) {
      const value = this.event.values[holder.dataset.value], { rows, columns, axes } = Player.frame(value);
      const widest = holder.parentElement.clientWidth || 320;
      const least = columns > WIDE ? 2 : 6;
      const cell = Math.max(least, Math.min(26, Math.floor(Math.min(widest, 26 * Math.max(columns, 1)) / columns)));
      const inner = cell - (cell > 4 ? 1 : 0);
      const canvas = holder.firstElementChild, ratio = devicePixelRatio || 1;
      canvas.width = columns * cell * ratio;
      canvas.height = rows * cell * ratio;
      canvas.style.width = `${columns * cell}px`;
      canvas.style.height = `${rows * cell}px`;
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      const data = value.array.data, listed = value.axes[0] === null ? value.array.shape[0] : 1;
      const largest = data.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0) || 1;
      const whole = value.array.dtype === "uint8" && cell >= 20;
      pen.font = `${Math.floor(cell * 0.48)}px "DejaVu Sans Mono", Menlo, Consolas, monospace`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < columns; column++) {
          const x = data[(listed - 1) * rows * columns + row * columns + column];
          pen.globalAlpha = 1;
          pen.fillStyle = color("--cell");
          pen.fillRect(column * cell, row * cell, inner, inner);
          pen.globalAlpha = whole ? 0.85 * Math.abs(x) / largest : Math.abs(x) / largest;
          pen.fillStyle = color(x < 0 ? "--minus" : "--plus");
          pen.fillRect(column * cell, row * cell, inner, inner);
          if (whole) {
            pen.globalAlpha = 1;
            pen.fillStyle = color("--ink");
            pen.fillText(x.toString(16), (column + 0.46) * cell, (row + 0.5) * cell);
          }
        }
      const at = axes.map(axis => indexOn(axis, this.place));
      pen.globalAlpha = 1;
      pen.strokeStyle = color("--here");
      const around = cell < 10 ? 2 : -1; // a frame inside a small cell would hide it
      pen.lineWidth = cell < 10 ? 2 : 3;
      pen.strokeRect(at[1] * cell + 0.5 - around - 1, at[0] * cell + 0.5 - around - 1, cell + 2 * around, cell + 2 * around);
      pen.fillStyle = color("--here");
      if (this.owned(axes[1]) < columns) pen.fillRect(this.owned(axes[1]) * cell - 1, 0, 1, rows * cell);
    }
  }

  numbers() {
    const rows = Object.entries(this.event.values).map(([name, value]) => {
      const indices = indicesAt(value, this.place), { data, dtype, hex } = value.array, size = 2 * SIZES[dtype];
      return [name, indices.map(i => number(data[i], dtype)).join(", "),
        indices.map(i => hex.substr(i * size, size)).join(", "), dtype];
    });
    this.find("values").replaceChildren(...rows.map(cells => {
      const row = document.createElement("tr");
      cells.forEach((text, number) => {
        const cell = document.createElement(number ? "td" : "th");
        if (!number) cell.scope = "row";
        cell.textContent = text;
        row.append(cell);
      });
      return row;
    }));
  }

  way() {
    const list = this.find("way");
    list.replaceChildren(...this.recorded.ways[this.card].map(order => {
      const event = this.events[order], item = document.createElement("li"), button = document.createElement("button");
      const own = event.shows.length ? event.values[event.shows[0]] : null;
      const x = own && indicesAt(own, this.place)[0];
      const strong = document.createElement("b");
      strong.textContent = own ? number(own.array.data[x], own.array.dtype) : "";
      button.append(`${event.phase}, ${event.card}: ${titleOf(event)} `, strong);
      button.type = "button";
      if (order === this.now) button.setAttribute("aria-current", "step");
      button.addEventListener("click", () => { this.stop(); this.goto(order); });
      item.append(button);
      return item;
    }));
  }
}

/* For tests and for curious people: window.player.events, fill(event, place), number(x, dtype). */
if (typeof document !== "undefined") {
  const root = document.getElementById("player");
  root.hidden = false;
  document.getElementById("text").open = false;
  window.player = new Player(JSON.parse(document.getElementById("step").textContent), root);
  Object.assign(window, { fill, number, titleOf });
}

"use strict";
/* The widgets of a page. They compute nothing of the formats: every such number is looked up in a table that Python made. */

function element(name, attributes = {}, ...children) {
  const vector = ["svg", "path", "line", "rect", "circle", "text", "g"].includes(name);
  const made = vector ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  made.append(...children);
  return made;
}

const drawing = (width, height, ...children) =>
  element("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", focusable: "false" }, ...children);
const row = (...children) => element("div", { class: "row" }, ...children);

/** A range with a label that says its value in words. */
function slider(label, least, most, start, words, changed) {
  const input = element("input", { type: "range", min: least, max: most, step: 1, value: start });
  const said = element("output", {});
  const tell = () => { said.textContent = words(+input.value); input.setAttribute("aria-valuetext", said.textContent); };
  input.addEventListener("input", () => { tell(); changed(+input.value); });
  tell();
  const box = element("label", { class: "long" }, label, input, said);
  box.set = value => { input.value = value; input.dispatchEvent(new Event("input")); };
  return box;
}

function choice(label, names, start, changed) {
  const list = element("select", {}, ...names.map(name => element("option", { selected: name === start }, name)));
  list.addEventListener("change", () => changed(list.value));
  return element("label", {}, label, list);
}

const widgets = {};

// ---- the bits of any format

widgets.bits = (root, table) => {
  let name = table.first, code = 0b0101;
  const holder = element("div", { class: "bits" }), value = element("div", { class: "value" });
  const says = element("p", { class: "says", "aria-live": "polite" }), line = element("div");
  const step = by => { const n = 1 << table.formats[name].width; code = (code + by + n) % n; show(); };

  function fields() {
    const f = table.formats[name];
    if (!("exponent" in f)) return [["code", f.width]];
    return [["sign", f.sign], ["exponent", f.exponent], ["mantissa", f.mantissa]].filter(([, width]) => width);
  }

  function show() {
    const f = table.formats[name], digits = code.toString(2).padStart(f.width, "0");
    const focused = root.contains(document.activeElement) && document.activeElement.dataset.bit;
    let at = 0;
    holder.replaceChildren(...fields().map(([what, width]) => {
      const buttons = [...Array(width)].map(() => {
        const place = f.width - 1 - at++;
        return element("button", { type: "button", class: "bit", "data-bit": place, "aria-pressed": String(Boolean(code >> place & 1)),
          "aria-label": `${what}, bit ${place}`, onclick: () => { code ^= 1 << place; show(); } }, digits[f.width - 1 - place]);
      });
      return element("div", { class: "field" }, element("span", {}, ...buttons), element("small", {}, what));
    }));
    if (focused) holder.querySelector(`[data-bit="${focused}"]`)?.focus();
    value.textContent = f.values[code];
    says.textContent = `Code ${code} of ${name.toUpperCase()}, bits ${digits}: ${explained(f, digits)}`;
    line.replaceChildren(numberLine(f));
  }

  function explained(f, digits) {
    const meant = f.values[code];
    if (!("exponent" in f)) return `the list of this format says ${meant}.`;
    const parts = fields().map(([, width]) => { const part = digits.slice(0, width); digits = digits.slice(width); return part; });
    const minus = f.sign && parts.shift() === "1", exponent = parseInt(parts[0], 2), mantissa = parts[1] || "";
    const sign = f.sign ? (minus ? "minus; " : "plus; ") : "";
    if (!/^-?[\d.]/.test(meant)) return `${sign}the exponent is full, and this code means ${meant}.`;
    const small = exponent === 0 && mantissa !== "", power = (small ? 1 : exponent) - f.bias;
    const fraction = mantissa === "" ? "" : ` times ${small ? 0 : 1} and ${parseInt(mantissa, 2)}/${1 << mantissa.length}`;
    return `${sign}exponent ${exponent}${small ? " (the smallest: no hidden one)" : ""}, so 2 to the power ${power}${fraction}: ${meant}.`;
  }

  function numberLine(f) {
    const known = f.values.map(Number).filter(Number.isFinite);
    const most = Math.max(...known.map(Math.abs)), least = Math.min(...known) < 0 ? -1 : 0;
    const wide = known.length > 40, root_ = x => Math.sign(x) * Math.sqrt(Math.abs(x) / most);
    const place = x => 20 + 660 * ((wide ? root_(x) : x / most) - least) / (1 - least);
    const here = Number(f.values[code]), marks = known.map(x => element("line", { class: "tick", x1: place(x), x2: place(x), y1: 34, y2: 46 }));
    const labels = [...new Set([least * most, 0, most])].map(x =>
      element("text", { x: place(x), y: 64, "text-anchor": x === most ? "end" : x < 0 ? "start" : "middle" }, String(Number(x.toPrecision(4)))));
    const dot = Number.isFinite(here) ? [element("circle", { class: "here", cx: place(here), cy: 28, r: 6 })] : [];
    const note = wide ? [element("text", { x: 680, y: 14, "text-anchor": "end" }, "drawn by square root, so that small numbers can be seen")] : [];
    return drawing(700, 70, element("line", { class: "line", x1: 14, x2: 686, y1: 40, y2: 40 }), ...marks, ...labels, ...dot, ...note);
  }

  root.append(
    row(choice("Format", Object.keys(table.formats), name, chosen => { name = chosen; code %= 1 << table.formats[name].width; show(); }),
      element("button", { type: "button", onclick: () => step(-1) }, "Code before"),
      element("button", { type: "button", onclick: () => step(1) }, "Next code")),
    holder, value, line, says);
  show();
};

// ---- the tape, forwards and backwards

widgets.tape = (root, table) => {
  let now = 0, timer = null;
  const last = table.events.length - 1, picture = element("div"), says = element("p", { class: "says", "aria-live": "polite" });
  const where = element("b"), names = Object.keys(table.columns), deepest = Math.max(...Object.values(table.columns));
  const place = {};
  for (let depth = 0; depth <= deepest; depth++) {
    const here = names.filter(name => table.columns[name] === depth);
    here.forEach((name, n) => { place[name] = [62 + depth * 576 / deepest, 110 + (n - (here.length - 1) / 2) * 74]; });
  }
  const reached = () => {
    const values = {}, gradients = {};
    for (const name of names) if (table.columns[name] === 0) values[name] = table.values[name];
    for (const event of table.events.slice(0, now + 1)) {
      if (event.phase === "forward") values[event.card] = table.values[event.card];
      if (event.kind === "start" || event.kind === "leaf") gradients[event.card] = event.gradient;
      for (const send of event.sends) gradients[send.to] = send.total;
    }
    return { values, gradients };
  };

  function show() {
    const event = table.events[now], { values, gradients } = reached();
    where.textContent = `Event ${now + 1} of ${last + 1}, ${event.phase}: ${event.card}`;
    says.textContent = event.says;
    back.disabled = now === 0;
    next.disabled = now === last;
    const active = event.phase === "forward" ? table.links.filter(([, to]) => to === event.card)
      : event.kind === "start" || event.kind === "leaf" ? [] : table.links.filter(([, to]) => to === event.card);
    const amounts = {};
    for (const send of event.sends) (amounts[send.to] ||= []).push(send.amount);
    const lines = table.links.flatMap(link => {
      const [[x0, y0], [x1, y1]] = link.map(name => place[name]), on = active.includes(link);
      const far = table.columns[link[1]] - table.columns[link[0]] > 1, bend = far ? (y0 < 110 ? -62 : 62) : 0;
      const amount = on && amounts[link[0]] ? amounts[link[0]].shift() : null, t = 0.5;
      return [element("path", { class: on ? "lead" : "line", d: `M${x0} ${y0}Q${(x0 + x1) / 2} ${(y0 + y1) / 2 + bend} ${x1} ${y1}` }),
        ...(amount === null ? [] : [element("text", { class: "amount", x: (x0 + x1) / 2, y: (y0 + y1) / 2 + bend * t - 6, "text-anchor": "middle" }, amount)])];
    });
    const boxes = names.flatMap(name => {
      const [x, y] = place[name], here = name === event.card;
      return [element("rect", { class: here ? "node now" : "node", x: x - 56, y: y - 27, width: 112, height: 54, rx: table.columns[name] ? 3 : 14 }),
        element("text", { class: "name", x, y: y - 11, "text-anchor": "middle" }, name),
        element("text", { x, y: y + 5, "text-anchor": "middle" }, name in values ? `value ${values[name]}` : ""),
        element("text", { class: "amount", x, y: y + 20, "text-anchor": "middle" }, name in gradients ? `grad ${gradients[name]}` : "")];
    });
    picture.replaceChildren(drawing(700, 224, ...lines, ...boxes));
  }

  const goto = n => { now = Math.max(0, Math.min(last, n)); show(); };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
  const button = (text, act) => element("button", { type: "button", onclick: act }, text);
  const back = button("Back", () => { stop(); goto(now - 1); }), next = button("Next", () => { stop(); goto(now + 1); });
  const play = button("Play", () => {
    if (timer) return stop();
    if (now === last) now = -1;
    play.textContent = "Pause";
    timer = setInterval(() => { goto(now + 1); if (now === last) stop(); }, 1800);
  });
  root.append(row(element("span", {}, `The tape of ${table.formula}`), back, play, next,
    button("To the walk back", () => { stop(); goto(table.events.findIndex(event => event.phase === "backward")); })), picture, where, says);
  show();
};

// ---- an outlier in a block

widgets.outlier = (root, table) => {
  let position = 18;
  const says = element("p", { class: "says", "aria-live": "polite" }), picture = element("div");
  const x = table.x.map(Number), names = { nvfp4: "NVFP4, blocks of 16", mxfp4: "MXFP4, one block of 32" };
  const numbers = element("tbody");

  function show() {
    const now = table.positions[position], input = x.slice();
    input[table.outlier] = Number(now.size);
    picture.replaceChildren(...Object.keys(names).map(format => panel(format, input, now[format])));
    says.textContent = `The outlier is ${now.size}. ` + Object.entries(names).map(([format, name]) => {
      const zeros = now[format].became.filter((text, n) => Number(text) === 0 && x[n] !== 0 && n !== table.outlier).length;
      return `${name}: scale${now[format].scales.length > 1 ? "s" : ""} ${now[format].scales.join(" and ")}; the outlier became ` +
        `${now[format].became[table.outlier]}, and ${zeros} of the 31 others became zero.`;
    }).join(" ");
    numbers.replaceChildren(...input.map((value, n) => element("tr", {}, element("th", { scope: "row" }, String(n)),
      element("td", {}, n === table.outlier ? now.size : table.x[n]), element("td", {}, now.nvfp4.became[n]), element("td", {}, now.mxfp4.became[n]))));
  }

  function panel(format, input, now) {
    const size = table.blocks[format], high = 4, half = 62, clip = v => Math.max(-high, Math.min(high, v)) * half / high;
    const bars = input.flatMap((value, n) => {
      const left = 6 + n * 21.5 + (n >= 16 ? 6 : 0), became = Number(now.became[n]), top = half + 16;
      const bar = (v, kind, width) => element("rect", { class: kind, x: left + (18 - width) / 2, width, y: top - Math.max(0, clip(v)), height: Math.max(0.6, Math.abs(clip(v))) });
      return [bar(became, n === table.outlier ? "other" : "here", 10), bar(value, "was", 16)];
    });
    const lines = now.scales.map((scale, n) => element("text", { x: 6 + n * size * 22, y: 12 }, `scale ${scale}`));
    return element("div", {}, element("b", {}, names[format]),
      drawing(702, 150, element("line", { class: "line", x1: 0, x2: 702, y1: half + 16, y2: half + 16 }), ...bars, ...lines));
  }

  root.append(
    slider("Outlier", 0, table.positions.length - 1, position, n => table.positions[n].size, n => { position = n; show(); }),
    picture, element("p", {}, "Outlined: as it was. Filled: what it became. Bars end at 4."), says,
    element("details", {}, element("summary", {}, "All 32 numbers"), element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "all 32 numbers" },
      element("table", {}, element("thead", {}, element("tr", {}, ...["", "was", "NVFP4", "MXFP4"].map(t => element("th", { scope: "col" }, t)))), numbers))));
  show();
};

// ---- a staircase and a die

widgets.stairs = (root, table) => {
  const count = table.nearest.length, middle = (count - 1) / 2, at = n => (n - middle) / table.step;
  const value = digit => table.values[parseInt(digit, 16)];
  let n = middle + Math.round(1.2 * table.step), face = 1, rolls = [];
  const says = element("p", { class: "says", "aria-live": "polite" }), picture = element("div");

  function show() {
    const x = at(n), nearest = value(table.nearest[n]), thrown = value(table.faces[n][face - 1]);
    const all = [...table.faces[n]].map(value), ups = all.filter(v => v !== all[all.length - 1]).length;
    const mean = all.reduce((sum, v) => sum + Number(v), 0) / all.length;
    const mine = rolls.length ? ` You rolled ${rolls.length} time${rolls.length > 1 ? "s" : ""}; the mean of what came is ` +
      `${(rolls.reduce((sum, f) => sum + Number(value(table.faces[n][f - 1])), 0) / rolls.length).toPrecision(4)}.` : "";
    says.textContent = `${x} rounds to nearest as ${nearest}. The die shows ${face}: ${thrown}. ` + (ups
      ? `${ups} of 16 faces give ${all[0]}, the others ${all[15]}; their mean is ${Number(mean.toPrecision(6))}.`
      : `All faces give ${all[0]}.`) + mine;
    picture.replaceChildren(drawn(x, Number(nearest), Number(thrown)));
  }

  function drawn(x, nearest, thrown) {
    const end = table.end, sx = v => 40 + (v + end) / (2 * end) * 640, sy = v => 150 - v / end * 140;
    let path = "";
    [...table.nearest].forEach((digit, i) => { const y = sy(Number(value(digit))); path += i ? `H${sx(at(i) - 0.5 / table.step)}V${y}` : `M${sx(at(0))} ${y}`; });
    const ticks = [-6, -4, -2, 0, 2, 4, 6].flatMap(v => [
      element("line", { class: "grid", x1: 40, x2: 680, y1: sy(v), y2: sy(v) }), element("text", { x: 34, y: sy(v) + 4, "text-anchor": "end" }, String(v)),
      element("text", { x: sx(v), y: 308, "text-anchor": "middle" }, String(v))]);
    return drawing(700, 314, ...ticks, element("path", { class: "line", d: path + `H${sx(end)}` }),
      element("path", { class: "lead", d: `M${sx(x)} 292V${sy(nearest)}` }),
      element("circle", { class: "here", cx: sx(x), cy: sy(nearest), r: 5 }),
      element("circle", { class: "other", cx: sx(x), cy: sy(thrown), r: 7, "fill-opacity": 0.35 }));
  }

  const die = slider("Die", 1, 16, face, f => String(f), f => { face = f; show(); });
  const roll = times => {
    for (let i = 0; i < times; i++) rolls.push(1 + Math.floor(Math.random() * 16));
    die.set(rolls[rolls.length - 1]);
  };
  root.append(
    slider("Number", 0, count - 1, n, i => String(at(i)), i => { n = i; rolls = []; show(); }), die,
    row(element("button", { type: "button", onclick: () => roll(1) }, "Roll"), element("button", { type: "button", onclick: () => roll(100) }, "Roll 100 times"),
      element("span", {}, "Blue: rounded to nearest. Orange: by the die.")),
    picture, says);
  show();
};

// ---- which code goes where in a byte

widgets.nibbles = (root, table) => {
  let order = Object.keys(table.orders)[0], codes = table.codes.slice(), held = null;
  const tiles = element("div", { class: "tiles", role: "group", "aria-label": "eight codes in their order" }), bytes = element("div", { class: "tiles" });
  const says = element("p", { class: "says", "aria-live": "polite" });
  const move = (from, to) => {
    if (to < 0 || to >= codes.length || from === to) return;
    codes.splice(to, 0, codes.splice(from, 1)[0]);
    show();
    tiles.children[to].focus();
  };
  const under = event => [...tiles.children].indexOf(document.elementFromPoint(event.clientX, event.clientY)?.closest(".tile"));

  function tile(code, n) {
    const made = element("button", { type: "button", class: "tile", "aria-label": `element ${n}, code ${code}; arrows left and right move it` },
      element("small", {}, `element ${n}`), element("b", {}, code.toString(16)));
    made.addEventListener("keydown", event => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) { event.preventDefault(); move(n, n + by); }
    });
    made.addEventListener("pointerdown", event => { held = n; made.setPointerCapture(event.pointerId); made.classList.add("held"); });
    made.addEventListener("pointerup", event => { made.classList.remove("held"); const to = under(event); if (held !== null && to >= 0) move(held, to); held = null; });
    return made;
  }

  function show() {
    tiles.replaceChildren(...codes.map(tile));
    const packed = table.orders[order].map(([low, high]) => [table.bytes[codes[high] * 16 + codes[low]], low, high]);
    bytes.replaceChildren(...packed.map(([text, low, high], n) => element("div", { class: "tile" },
      element("small", {}, `byte ${n}`), element("b", {}, text), element("small", {}, `high: ${high}, low: ${low}`))));
    says.textContent = `Order ${order}: the bytes are ${packed.map(p => p[0]).join(" ")}. ` +
      packed.map(([, low, high], n) => `Byte ${n} has element ${high} in its high half and element ${low} in its low half`).join("; ") + ".";
  }

  root.append(row(choice("Order", Object.keys(table.orders), order, name => { order = name; show(); }), element("span", {}, "Drag a code to another place, or move it with the arrow keys.")),
    tiles, element("div", { class: "arrow", "aria-hidden": "true" }, "↓"), bytes, says);
  show();
};

// ---- a cache of some size

widgets.cache = (root, table) => {
  const full = table.weights * table.bytes, start = table.positions.findIndex(p => p.capacity === full - 1);
  const says = element("p", { class: "says", "aria-live": "polite" }), picture = element("div");
  const words = n => `${table.positions[n].capacity.toLocaleString("en-US")} bytes`;

  function show(n) {
    const { found, evictions, capacity } = table.positions[n], hits = [...found].filter(c => c === "H").length;
    const room = (capacity + 1) % table.bytes ? `${Number((capacity / table.bytes).toFixed(2))} weights` : `${(capacity + 1) / table.bytes} weights less one byte`;
    says.textContent = `Room for ${words(n)}, ${room}: ${hits} of ${found.length} accesses hit, ${evictions} evictions. In order: ${[...found].join(" ")}.`;
    picture.replaceChildren(drawing(700, 30 + 44 * table.weights, ...[...found].flatMap((what, i) => {
      const x = 96 + i * 50, y = 8 + (i % table.weights) * 44, hit = what === "H";
      return [element("rect", { class: hit ? "here" : "miss", x, y, width: 42, height: 34, rx: 4 }), element("text", { class: hit ? "on" : "name", x: x + 21, y: y + 22, "text-anchor": "middle" }, what)];
    }), ...[...Array(table.weights)].map((_, w) => element("text", { x: 6, y: 30 + w * 44 }, `weight ${w + 1}`)),
    element("text", { x: 96, y: 22 + 44 * table.weights }, "in time, left to right: M a miss, H a hit")));
  }

  root.append(slider("Size of the cache", 0, table.positions.length - 1, start, words, show), picture, says);
  show(start);
};

// ---- a histogram through the formats

widgets.histogram = (root, table) => {
  let kind = Object.keys(table.kinds)[0], format = table.formats[0];
  const says = element("p", { class: "says", "aria-live": "polite" }), picture = element("div"), numbers = element("tbody");

  function show() {
    const { before, ...rest } = table.kinds[kind], { after, sqnr, zeros } = rest[format], most = Math.max(...after, ...before);
    const sx = v => 10 + (v + 4) / 8 * 680, high = v => 150 * Math.sqrt(v / most);
    const bars = before.flatMap((count, n) => {
      const x = sx(table.edges[n]), width = 680 / before.length;
      return [element("rect", { class: "here", x: x + 1, width: width - 2, y: 160 - high(after[n]), height: high(after[n]), "fill-opacity": 0.75 }),
        element("path", { class: "was", d: `M${x} ${160 - high(count)}h${width}` })];
    });
    picture.replaceChildren(drawing(700, 182, element("line", { class: "line", x1: 10, x2: 690, y1: 160, y2: 160 }), ...bars,
      ...[-4, -2, 0, 2, 4].map(v => element("text", { x: sx(v), y: 178, "text-anchor": v < -3 ? "start" : v > 3 ? "end" : "middle" }, String(v)))));
    const used = after.filter(c => c).length;
    says.textContent = `${kind} numbers in ${format}: signal to noise ${sqnr} dB; ${zeros} of 4096 became zero; ${used} of ${after.length} bins are not empty, ` +
      `${before.filter(c => c).length} before. In order: ${table.formats.map(f => `${f} ${rest[f].sqnr} dB`).join(", ")}.`;
    numbers.replaceChildren(...before.map((count, n) => element("tr", {}, element("th", { scope: "row" }, `${table.edges[n]} to ${table.edges[n + 1]}`), element("td", {}, String(count)), element("td", {}, String(after[n])))));
  }

  root.append(row(choice("Numbers", Object.keys(table.kinds), kind, name => { kind = name; show(); }), choice("Format", table.formats, format, name => { format = name; show(); })),
    picture, element("p", {}, "Line: before. Filled: after. Heights by square root, so that rare numbers can be seen."), says,
    element("details", {}, element("summary", {}, "All counts"), element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "all counts" },
      element("table", {}, element("thead", {}, element("tr", {}, ...["bin", "before", "after"].map(t => element("th", { scope: "col" }, t)))), numbers))));
  show();
};

// ---- the roofline

widgets.roofline = (root, table) => {
  let n = 0, peak = table.peaks[1], bandwidth = table.bandwidths[2];
  const says = element("p", { class: "says", "aria-live": "polite" }), picture = element("div"), short = x => String(Number(x.toPrecision(4)));

  function show() {
    const reached = table.reached[`${peak} ${bandwidth}`];
    const sx = v => 50 + (Math.log2(v) + 2) / 13 * 630, sy = v => 190 - (Math.log2(v) + 1) / 11 * 180;
    const ridge = peak / bandwidth, clamp = v => Math.max(0.25, Math.min(2048, v));
    const dots = table.formats.flatMap((format, f) => {
      const x = sx(clamp(table.intensity[format][n])), y = sy(reached[format][n]);
      return [element("circle", { class: f ? "here" : "other", cx: x, cy: y, r: 6, "fill-opacity": f === 2 ? 0.4 : 1 }), element("text", { class: "name", x: x + (f === 1 ? -9 : 9), y: y + (f === 2 ? 20 : -8), "text-anchor": f === 1 ? "end" : "start" }, format)];
    });
    const grid = [0.25, 1, 4, 16, 64, 256, 1024].map(v => element("text", { x: sx(v), y: 208, "text-anchor": "middle" }, String(v)));
    const left = [1, 4, 16, 64, 256].flatMap(v => [element("line", { class: "grid", x1: 50, x2: 690, y1: sy(v), y2: sy(v) }), element("text", { x: 44, y: sy(v) + 4, "text-anchor": "end" }, String(v))]);
    picture.replaceChildren(drawing(700, 228, ...left, ...grid, element("path", { class: "line", d: `M${sx(0.25)} ${sy(0.25 * bandwidth)}L${sx(ridge)} ${sy(peak)}H690` }), ...dots,
      element("text", { x: 370, y: 224, "text-anchor": "middle" }, "operations a byte; upward: 1e9 operations a second")));
    says.textContent = `${table.rows[n]} row${n ? "s" : ""} times ${table.side} by ${table.side}, ${peak}e9 operations and ${bandwidth}e9 bytes a second at most: ` + table.formats.map(format =>
      `${format} does ${short(table.intensity[format][n])} operations a byte and reaches ${short(reached[format][n])}e9, limited by ${table.intensity[format][n] < ridge ? "memory" : "arithmetic"}`).join("; ") + ".";
  }

  root.append(slider("Rows", 0, table.rows.length - 1, n, i => String(table.rows[i]), i => { n = i; show(); }),
    slider("Memory", 0, table.bandwidths.length - 1, 2, i => `${table.bandwidths[i]} GB/s`, i => { bandwidth = table.bandwidths[i]; show(); }),
    slider("Arithmetic", 0, table.peaks.length - 1, 1, i => `${table.peaks[i]} GFLOP/s`, i => { peak = table.peaks[i]; show(); }), picture, says);
  show();
};

for (const root of document.querySelectorAll(".widget")) {
  widgets[root.dataset.widget](root, JSON.parse(document.getElementById(`table-${root.dataset.widget}`).textContent));
  root.hidden = false;
}

/* Widgets that draw curves under a logarithmic axis; they go before the last lines of widgets.js, into the pages that have one. */

// ---- where to clip

/** A logarithmic axis: lines and words at the powers of ten between two of them. */
function decades(least, most, place) {
  return [...Array(most - least + 1)].flatMap((_, n) => [element("line", { class: "grid", x1: 84, x2: 690, y1: place(10 ** (least + n)), y2: place(10 ** (least + n)) }),
    element("text", { x: 78, y: place(10 ** (least + n)) + 4, "text-anchor": "end" }, String(Number((10 ** (least + n)).toPrecision(1))))]);
}

const numbersTable = (label, heads, body) => element("details", {}, element("summary", {}, label),
  element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map(text => element("th", { scope: "col" }, text)))), body)));
const tableRow = (head, ...cells) => element("tr", {}, element("th", { scope: "row" }, head), ...cells.map(text => element("td", {}, text)));

widgets.clip = (root, table) => {
  const says = element("p", { class: "says", "aria-live": "polite" }), picture = element("div"), all = table.positions;
  const names = { int8: "INT8", int4: "INT4" };
  const best = Object.fromEntries(Object.keys(names).map(f => [f, all.reduce((least, p) => Number(p[f].error) < Number(least[f].error) ? p : least)]));
  const sx = share => 84 + share * 600, sy = v => 200 - (Math.log10(Math.max(v, 1e-4)) + 4) / 5 * 190;

  function show(n) {
    const now = all[n], path = of => all.map((p, i) => `${i ? "L" : "M"}${sx(p.share).toFixed(1)} ${sy(of(p)).toFixed(1)}`).join("");
    const curves = Object.keys(names).map((f, k) => element("path", { class: "line", style: `stroke-width: 2; stroke: ${k ? "#d9772b" : "var(--mark)"}`, d: path(p => Number(p[f].error)) }));
    const dots = Object.keys(names).flatMap((f, k) => [element("circle", { class: k ? "other" : "here", cx: sx(now.share), cy: sy(Number(now[f].error)), r: 6 }),
      element("text", { class: "name", x: 690, y: sy(Number(all[all.length - 1][f].error)) - 9, "text-anchor": "end" }, names[f])]);
    picture.replaceChildren(drawing(700, 246, ...decades(-4, 1, sy), ...curves, element("path", { class: "lead", d: path(p => Number(p.int4.cut)) }),
      element("line", { class: "line", x1: sx(now.share), x2: sx(now.share), y1: 10, y2: 200 }), ...dots,
      ...[0.2, 0.4, 0.6, 0.8, 1].map(v => element("text", { x: sx(v), y: 218, "text-anchor": "middle" }, String(v))),
      element("text", { x: 384, y: 241, "text-anchor": "middle" }, "clip, as a share of the largest number")));
    says.textContent = `Clip at ${now.share} of the largest number, at ${now.top}: ${now.beyond} of ${table.count} numbers are beyond it. ` + Object.entries(names).map(([f, name]) =>
      `${name}: mean squared error ${now[f].error}, of which ${now[f].cut} by cutting off; ${now[f].sqnr} dB; least at ${best[f].share}.`).join(" ");
  }

  root.append(slider("Clip", 0, all.length - 1, all.length - 1, n => `${all[n].share} of the largest`, show), picture,
    element("p", {}, "Upward: mean squared error. Dashed: the part of it that is cut off, the same for both; the rest is rounding."), says,
    numbersTable("All clips", ["clip", "beyond it", "INT8", "INT4"], element("tbody", {}, ...all.map(p => tableRow(String(p.share), String(p.beyond), p.int8.error, p.int4.error)))));
  show(all.length - 1);
};

// ---- bits and groups of a cache

widgets.kv = (root, table) => {
  let what = "keys", who = "a token", b = table.bits.indexOf(4), g = table.groups.indexOf(32);
  const says = element("p", { class: "says", "aria-live": "polite" }), picture = element("div"), body = element("tbody");
  const sx = bytes => 84 + (bytes - 3000) / 17500 * 600, sy = v => 200 - (Math.log10(v) + 5) / 5 * 190;
  const thousands = n => n.toLocaleString("en-US");

  function show() {
    const errors = table.errors[`${what}, ${who}`];
    const lines = table.bits.flatMap((bits, i) => [
      element("path", { class: "line", style: i === b ? "stroke-width: 2; stroke: var(--mark)" : null, d: table.groups.map((_, j) => `${j ? "L" : "M"}${sx(table.bytes[i][j]).toFixed(1)} ${sy(Number(errors[i][j])).toFixed(1)}`).join("") }),
      ...table.groups.map((_, j) => element("circle", { class: i === b && j === g ? "other" : "here", cx: sx(table.bytes[i][j]), cy: sy(Number(errors[i][j])), r: i === b && j === g ? 7 : 3.5 })),
      element("text", { class: i === b ? "name" : "", x: sx(table.bytes[i][0]) + 10, y: sy(Number(errors[i][0])) + 4 }, i === b ? `${bits} bits` : String(bits))]);
    picture.replaceChildren(drawing(700, 246, ...decades(-5, 0, sy), ...lines,
      ...[4000, 8000, 12000, 16000].map(v => element("text", { x: sx(v), y: 218, "text-anchor": "middle" }, thousands(v))),
      element("text", { x: 384, y: 241, "text-anchor": "middle" }, "bytes of a token; upward: share that is wrong")));
    says.textContent = `Only the ${what} rounded, to ${table.bits[b]} bits, ${table.groups[g]} numbers of ${who} to a scale: ${errors[b][g]} of the output is wrong. ` +
      `Keys and values kept so take ${table.stored[b][g]} bits a number with the scales, ${thousands(table.bytes[b][g])} bytes a token; in float32 ${thousands(table.float32)}.`;
    body.replaceChildren(...table.bits.map((bits, i) => tableRow(`${bits} bits`, ...errors[i])));
  }

  root.append(row(choice("Rounded", ["keys", "values"], what, name => { what = name; show(); }), choice("A scale for numbers of", ["a token", "a channel"], who, name => { who = name; show(); })),
    slider("Bits", 0, table.bits.length - 1, b, n => `${table.bits[n]} bits`, n => { b = n; show(); }),
    slider("Group", 0, table.groups.length - 1, g, n => `${table.groups[n]} to a scale`, n => { g = n; show(); }),
    picture, says, numbersTable("All errors", ["", ...table.groups.map(n => `${n} to a scale`)], body));
  show();
};


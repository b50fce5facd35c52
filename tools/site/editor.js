/* A text area over its own colored copy: Python's colors while one types, indenting, no library. */
"use strict";

const KEYWORDS = new Set(("and as assert async await break class continue def del elif else except finally for from global if " +
  "import in is lambda nonlocal not or pass raise return try while with yield match case").split(" "));
const CONSTANTS = new Set(["None", "True", "False"]);
const BUILTINS = new Set(("abs all any bool bytes callable dict divmod enumerate filter float frozenset getattr hasattr hex int " +
  "isinstance iter len list map max min next object open print range repr reversed round set sorted str sum super tuple type " +
  "vars zip Exception ValueError TypeError NotImplementedError KeyError IndexError").split(" "));
const TOKEN = new RegExp([
  "(#[^\\n]*)",
  "([rbfuRBFU]{0,2}(?:\"\"\"[^]*?(?:\"\"\"|$)|'''[^]*?(?:'''|$)|\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'?))",
  "([A-Za-z_]\\w*)",
  "(0[xX][0-9a-fA-F_]+|0[bB][01_]+|(?:\\d[\\d_]*\\.?[\\d_]*|\\.\\d+)(?:[eE][+-]?\\d+)?)",
].join("|"), "g");

/** Python source as HTML with Pygments' class names. */
function colored(source) {
  const escape = text => text.replace(/[&<>]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  let html = "", end = 0;
  for (const found of source.matchAll(TOKEN)) {
    const [text, comment, string, word, number] = found;
    html += escape(source.slice(end, found.index));
    end = found.index + text.length;
    const kind = comment ? "c1" : string ? "s2" : number ? "mi" : CONSTANTS.has(word) ? "kc" : KEYWORDS.has(word) ? "k"
      : BUILTINS.has(word) ? "nb" : "";
    html += kind ? `<span class="${kind}">${escape(text)}</span>` : escape(text);
  }
  return html + escape(source.slice(end));
}

/** Make a cell's text area an editor; `changed` hears of every change, `run` of Shift+Enter. */
function makeEditor(area, copy, changed, run) {
  let leaving = false;
  const show = () => { copy.innerHTML = colored(area.value) + "\n"; };
  const insert = text => {
    if (!document.execCommand("insertText", false, text)) area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
    area.dispatchEvent(new Event("input"));
  };
  const lines = () => {
    const from = area.value.lastIndexOf("\n", area.selectionStart - 1) + 1;
    const to = area.value.indexOf("\n", Math.max(area.selectionStart, area.selectionEnd - 1));
    return [from, to < 0 ? area.value.length : to];
  };
  const indent = out => {
    const [from, to] = lines(), before = area.value.slice(from, to);
    if (!out && area.selectionStart === area.selectionEnd) return insert("    ");
    const after = before.split("\n").map(line => (out ? line.replace(/^ {1,4}/, "") : "    " + line)).join("\n");
    if (after === before) return;
    area.setSelectionRange(from, to);
    insert(after);
    area.setSelectionRange(from, from + after.length);
  };
  area.addEventListener("input", () => { show(); changed(area.value); });
  area.addEventListener("blur", () => { leaving = false; });
  area.addEventListener("keydown", event => {
    if (event.key === "Escape") { leaving = true; return; }
    if (event.key === "Enter" && (event.shiftKey || event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
    else if (event.key === "Tab" && !leaving) { event.preventDefault(); indent(event.shiftKey); }
    else if (event.key === "Enter") {
      const line = area.value.slice(area.value.lastIndexOf("\n", area.selectionStart - 1) + 1, area.selectionStart);
      event.preventDefault();
      insert("\n" + line.match(/^ */)[0] + (/:\s*(#.*)?$/.test(line) ? "    " : ""));
    }
    if (event.key !== "Tab" && event.key !== "Shift") leaving = false;
  });
  area.readOnly = false;
  return { show };
}
